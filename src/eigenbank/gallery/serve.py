"""Serve a site from this machine, to this machine only."""

import functools
import http.server
import io
import webbrowser
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from eigenbank.schemas.errors import GalleryError

HOST = "127.0.0.1"
NAMES = frozenset({HOST, "localhost"})


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the files of one folder. A page of somebody else's that asks under another name is refused."""

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if name not in NAMES:
            self.send_error(HTTPStatus.FORBIDDEN, "This page is for this machine")
            return None
        return super().send_head()

    def list_directory(self, path: object) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of every file."""


def make_server(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server of a site's files, on loopback. Raises GalleryError where the port is taken."""
    try:
        return http.server.ThreadingHTTPServer((HOST, port), functools.partial(_Handler, directory=str(folder)))
    except OSError as error:
        message = f"port {port} of {HOST} cannot be used ({error.strerror}): nothing is served. Choose another --port"
        raise GalleryError(message) from error


def serve(folder: Path, *, port: int, browser: bool, log: Callable[[str], None]) -> None:
    """Serve a site until interrupted, and open a browser on it if wanted. Raises GalleryError."""
    with make_server(folder, port) as server:
        address = f"http://{HOST}:{server.server_port}/"
        log(f"serving {address} until Ctrl-C")
        if browser:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            log("no longer served")
