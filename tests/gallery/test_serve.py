"""Serving a gallery to this machine, and to nobody else."""

import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from eigenbank.gallery.site import make_server


@pytest.fixture(scope="module")
def port(gallery_folder: Path) -> Iterator[int]:
    """The port of a server of the gallery."""
    with make_server(gallery_folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def ask(port: int, path: str, host: str | None = None) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.headers)
    connection.close()
    return found


def test_the_page_and_its_files_are_served(port: int, gallery_folder: Path) -> None:
    status, body, headers = ask(port, "/")
    assert (status, body) == (200, (gallery_folder / "index.html").read_bytes())
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert ask(port, "/assets/style.css", f"localhost:{port}")[2]["Content-type"] == "text/css"


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [("/", "evil.example", 403), ("/", "127.0.0.1.evil.example", 403), ("/", "", 403), ("/data/", None, 404),
     ("/%00", None, 400), ("/", "[::1", 400), ("/" + "x" * 10_000, None, 404), ("/%ff", None, 404),
     ("/../catalog.db", None, 404), ("/%2e%2e/catalog.db", None, 404), ("/no", None, 404)],
)  # fmt: skip
def test_other_names_folders_and_files_outside_are_refused(port: int, path: str, host: str | None, status: int) -> None:
    assert ask(port, path, " " if host == "" else host)[0] == status


def test_a_browser_that_hangs_up_leaves_no_traceback(
    gallery_folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(2**25))
    with make_server(tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        for request in (b"GET /large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /large", b""):
            with socket.create_connection(("127.0.0.1", server.server_port)) as raw:
                raw.sendall(request)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
        assert ask(server.server_port, "/%00")[0] == 400
        server.shutdown()
        thread.join()
    assert capfd.readouterr().err == ""


@pytest.mark.browser
def test_the_served_page_works_in_a_browser(visit, port: int) -> None:  # type: ignore[no-untyped-def]
    page = visit(f"http://127.0.0.1:{port}/", "#q=warm+smile")
    page.get_by_role("heading", name="warm smile").wait_for()
