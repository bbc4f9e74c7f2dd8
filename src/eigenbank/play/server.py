"""Serve the playground's page: on this machine only unless told otherwise, without a share link, fetching nothing.

Gradio answers more than its page asks: it fetches addresses that a request names, takes bodies of any size from any site, and
has routes for other kinds of apps. The middleware here passes on only what the page itself asks for, within bounds, and tells
browsers what the page may do.
"""

import asyncio
import ipaddress
import json
import math
import os
import re
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from eigenbank.loaders.photo import MAX_BYTES
from eigenbank.play import PlayError
from eigenbank.play.playground import Playground
from eigenbank.registry.files import parse_json
from eigenbank.schemas.drawing import Drawing

LOOPBACK = "127.0.0.1"
QUEUE = 64
"""How many requests may wait; more are refused."""
SESSIONS = 64
"""How many tabs' state is kept; the least recently used of more must reload."""
CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        # Gradio's page starts with inline scripts, and compiles templates.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
MAX_REQUEST = 2**20
MAX_VALUES = 10_000
"""Bytes of a request that is not an upload, and the values in it."""
ENVELOPE = 2**16
"""Bytes of an upload besides its file."""
UPLOADS = 8
"""How many uploads may go on at once; more are refused."""
MAX_KEPT = 2**30
MAX_FILES = 1_000
"""Bytes and number of the uploaded and shown files that are kept; the oldest of more are deleted."""
_PAGE = re.compile(r"/(config/?|theme\.css|favicon\.ico|robots\.txt|manifest\.json|(assets|static|svelte)/.*)?")
_API = re.compile(
    r"/gradio_api/(info/?|app_id/?|startup-events|theme\.css|queue/(join|data)|cancel|reset/?|upload|upload_progress"
    r"|heartbeat/[^/]*|file=(?!https?:)[^\0]*)",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def serve(
    models: Mapping[str, Path],
    first: str,
    *,
    drawing: "Drawing | None" = None,
    host: str | None = None,
    port: int | None = None,
    wait: bool = True,
    ready: Callable[[str], None] = print,
) -> Any:
    """Serve the playground; see `launch`. Returns Gradio's Blocks. Raises PlayError where it cannot listen."""
    # Read by Gradio when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # What is uploaded goes into a folder of this call's own, and goes with it.
    kept = tempfile.TemporaryDirectory(prefix="eigenbank-play-", dir=_gradio_folder(), ignore_cleanup_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = kept.name
    from starlette.middleware import Middleware

    from eigenbank.play.page import CSS, SCRIPT, build_page, theme

    blocks = build_page(Playground(models, drawing), first)
    blocks.queue(max_size=QUEUE, api_open=False)
    blocks.eigenbank_files = kept  # lives as long as the page does
    at = host or os.environ.get("GRADIO_SERVER_NAME", LOOPBACK)
    guard = Middleware(PageOnly, names=_names(at), folder=Path(kept.name))
    try:
        blocks.launch(
            server_name=host, server_port=port, share=False, prevent_thread_lock=True, quiet=True,
            show_error=False, max_file_size=MAX_BYTES, state_session_capacity=SESSIONS, enable_monitoring=False,
            ssr_mode=False, pwa=False, mcp_server=False, run_history=False, footer_links=[], theme=theme(), css=CSS,
            js=SCRIPT, app_kwargs={"middleware": [guard], "docs_url": None, "redoc_url": None, "openapi_url": None},
            # Skips Gradio's check that it can reach itself: it goes through proxies, gives up after three seconds, and then
            # advises a share link.
            _frontend=False,
        )  # fmt: skip
    except OSError as error:
        where = f"{at}:{port or 'any of 100 ports'}"
        message = f"the playground cannot listen on {where} ({error}): choose another `port=` or `host=`"
        raise PlayError(message) from error
    ready(str(blocks.local_url))
    if wait:
        blocks.block_thread()
    return blocks


def _gradio_folder() -> str | None:
    """Make the folder that the environment gives Gradio for its files, if it gives one."""
    folder = os.environ.get("GRADIO_TEMP_DIR")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    return folder or None


def _names(host: str) -> frozenset[str]:
    """The names by which a page on this address may be asked for, besides numbers where other machines may ask."""
    own = {"localhost", LOOPBACK, "::1"}
    return frozenset(own if host in own else {*own, host, socket.gethostname().lower(), socket.getfqdn().lower()})


def _is_ours(name: str | None, names: frozenset[str]) -> bool:
    """Whether a host's name in a request is ours. Somebody else's, though it leads here, is that of another site's page.

    A number is no site's: where other machines may ask, any of this one's numbers will do.
    """
    if name in names:
        return True
    try:
        return len(names) > 3 and ipaddress.ip_address(name or "") is not None
    except ValueError:
        return False


def _host(netloc: str) -> str | None:
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None


class Refused(Exception):  # noqa: N818
    """A request that the page never sends, with the status and words to answer it with."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class PageOnly:
    """ASGI middleware: pass on only what the page asks for, and add security headers to every answer.

    `names` are the page's own hosts, `folder` holds what was uploaded.
    """

    def __init__(self, app: Any, names: frozenset[str], folder: Path) -> None:
        self.app = app
        self.names = names
        self.folder = folder
        self.uploading = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":  # the page opens none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", CONTENT_POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        uploads = scope["path"].endswith("/upload")
        try:
            self._check_site(scope)
            receive = await _checked(scope, receive)
            if uploads and self.uploading >= UPLOADS:
                raise Refused(429, f"{UPLOADS} files are being uploaded already: nothing was kept. Try again")
        except Refused as refused:
            body = json.dumps({"detail": refused.detail}).encode()
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            await send_with_headers({"type": "http.response.start", "status": refused.status, "headers": headers})
            await send_with_headers({"type": "http.response.body", "body": body})
            return
        self.uploading += uploads
        try:
            if uploads:
                await asyncio.to_thread(make_room, self.folder)
            await self.app(scope, receive, send_with_headers)
        finally:
            self.uploading -= uploads

    def _check_site(self, scope: Any) -> None:
        """Raise Refused for a request that another site's page makes, be it under a name of its own that leads here."""
        given: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name, []).append(value.decode("latin-1"))
        hosts = [*given.get(b"host", [""]), *(b for a in given.get(b"x-forwarded-host", []) for b in a.split(","))]
        if not all(_is_ours(_host(host.strip()), self.names) for host in hosts):
            raise Refused(403, "this page is known by another name: ask for it by the address that was printed")
        origins = [urlsplit(origin).netloc for origin in given.get(b"origin", [])]
        fetched = given.get(b"sec-fetch-site", ["none"])[0] in ("cross-site", "same-site")
        if any(origin not in hosts for origin in origins) or (
            fetched and given.get(b"sec-fetch-mode", [""])[0] != "navigate"
        ):
            raise Refused(403, "another site's page may not ask")


def make_room(folder: Path) -> None:
    """Delete the oldest files of a folder until the rest is within bounds."""
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):
            if path.is_file():
                found.append((path.stat().st_mtime, path.stat().st_size, path))
    left = 0
    for number, (_, size, path) in enumerate(sorted(found, reverse=True)):
        left += size
        if number >= MAX_FILES or left > MAX_KEPT:
            with suppress(OSError):
                path.unlink()


async def _checked(scope: Any, receive: Any) -> Any:
    """Check a request. Returns what the app reads its body with. Raises Refused."""
    path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
    if not (_PAGE.fullmatch(path) or _API.fullmatch(path)):
        raise Refused(404, "not found")
    if scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return receive
    given = dict(scope["headers"]).get(b"content-length", b"")
    if not given.isdigit():
        raise Refused(411, "the request has no Content-Length")
    if path.endswith("/upload"):
        if int(given) > MAX_BYTES + ENVELOPE:
            raise Refused(
                413, f"a file may have at most {MAX_BYTES // 2**20} MiB: nothing was kept. Upload a smaller one"
            )
        return receive
    if int(given) > MAX_REQUEST:
        raise Refused(413, f"a request may have at most {MAX_REQUEST // 2**20} MiB: nothing was done")
    body = await _read(receive)
    try:
        content = parse_json(body, values=MAX_VALUES) if body else None
    except ValueError as error:
        raise Refused(400, "the request is not JSON, or holds too much: nothing was done") from error
    _check_values(content)
    if path.endswith("/queue/join") and isinstance(content, dict):
        _check_event(content, scope)

    async def receive_again() -> Any:
        nonlocal body
        if body is None:
            return await receive()
        message = {"type": "http.request", "body": body, "more_body": False}
        body = None
        return message

    return receive_again


def _check_event(content: dict[str, Any], scope: Any) -> None:
    """Raise Refused for an event that the page does not have."""
    event, session = content.get("fn_index"), content.get("session_hash")
    events = scope["app"].get_blocks().fns
    if type(event) is not int or event not in events:
        raise Refused(422, "the page has no such event: nothing was done")
    if not isinstance(session, str) or not 0 < len(session) <= 100 or not isinstance(content.get("data"), list):
        raise Refused(422, "an event has a session and its data: nothing was done")


async def _read(receive: Any) -> bytes | None:
    """Read the whole body; the server holds it to its Content-Length."""
    parts = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the request was interrupted")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _check_values(content: Any) -> None:
    """Raise Refused for a number without bounds, and for a file by a web address, which Gradio would fetch."""
    left = [content]
    while left:
        each = left.pop()
        if isinstance(each, float) and not math.isfinite(each):
            raise Refused(400, "the request holds a number that is too large: nothing was done")
        if isinstance(each, dict):
            left += each.values()
            path = each.get("path")
            if isinstance(path, str) and _ADDRESS.match(path):
                raise Refused(400, "upload files here; addresses are not fetched: nothing was done")
        elif isinstance(each, list):
            left += each
