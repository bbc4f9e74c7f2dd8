"""What nobody's page would send, as raw HTTP: it gets a clear word, reads nothing, reaches nothing, and the server lives on."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faces import MODEL_ID as FACES
from playing import Served, Visitor, controls

from eigenbank.loaders.photo import MAX_BYTES
from eigenbank.play import server
from eigenbank.play.request import MAX_SLIDERS

LONG = "x" * 100_000
DEEP = "[" * 100_000
FILE = {"meta": {"_type": "gradio.FileData"}, "orig_name": "x.png"}


@pytest.fixture(scope="module")
def tab(served: Served) -> Iterator[Visitor]:
    """A tab that has opened the demo."""
    found = Visitor(served.url)
    assert found.open(FACES)["success"]
    yield found
    found.close()


@pytest.fixture
def visitor(tab: Visitor, served: Served) -> Iterator[Visitor]:
    """The tab. After the test the server still samples for it, and has reached nothing outside."""
    yield tab
    sampled = tab.ask("seed", "change", controls(FACES))
    assert sampled["success"]
    assert "1 step" in json.dumps(sampled["output"]["data"])
    assert served.process.poll() is None
    assert served.outside == ""


def sliders(first: Any) -> list[Any]:
    return [first, *[0.0] * (MAX_SLIDERS - 1)]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"seed": 1e300}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": [0]}, "seed"),
        ({"seed": {"a": "b"}}, "seed"),
        ({"seed": True}, None),
        ({"steps": 10**9}, "steps"),
        ({"steps": "many"}, "steps"),
        ({"steps": None}, "steps"),
        ({"dragging": -5}, "steps"),
        ({"model": ["a"]}, "model"),
        ({"model": "nobody/nothing"}, "no model here"),
        ({"model": "../../etc/passwd"}, "model"),
        ({"model": LONG}, "model"),
        ({"sampler": "teleport"}, "no sampler of"),
        ({"sampler": 7}, "sampler"),
        ({"sampler": LONG}, "sampler"),
        ({"sampler": "<b>x</b>"}, "&lt;b&gt;x&lt;/b&gt;"),
        ({"prompt": LONG}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"guidance": "<b>"}, "guidance"),
        ({"sliders": sliders(1e308)}, "sliders"),
        ({"sliders": sliders(50)}, "goes from"),
        ({"sliders": sliders("much")}, "sliders"),
        ({"sliders": sliders({"path": "/etc/passwd"})}, "sliders"),
        ({"session": {"sliders": LONG}}, None),
    ],
)
def test_values_that_no_control_gives_get_a_word(visitor: Visitor, changes: dict[str, Any], word: str | None) -> None:
    for name, what in (("seed", "change"), ("slider-0", "input")):
        if what == "change" and "dragging" in changes:
            continue
        found = visitor.ask(name, what, controls(FACES, **changes))
        assert found["success"], found
        said = found["output"]["data"][3]
        if word is None:
            assert "note problem" not in said
        else:
            assert 'class="note problem" role="alert"' in said
            assert word in said
            assert "<b>" not in said
            assert len(said) < 2_000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have_are_refused(visitor: Visitor, value: float) -> None:
    for changes in ({"seed": value}, {"guidance": value}, {"sliders": sliders(value)}):
        found = visitor.post(controls(FACES, **changes), visitor.event("seed", "change"))
        assert (found.status_code, found.json()) == (
            400,
            {"detail": "the request is not JSON, or holds too much: nothing was done"},
        )


@pytest.mark.parametrize("count", [0, 3, 31, 500])
def test_a_wrong_count_of_values_draws_nothing_and_harms_nothing(visitor: Visitor, count: int) -> None:
    data = [*controls(FACES), *[0.0] * 500][:count]
    found = visitor.ask("seed", "change", data)
    if count < 32:
        assert not found["success"]
    assert "Traceback" not in json.dumps(found)


@pytest.mark.parametrize(
    "name", ["beardd", LONG, "<b>x</b>", 7, None, ["a"], {"path": "/etc/passwd"}, "a\0b", "../../x"]
)
def test_directions_that_are_not_there_get_near_matches_or_a_word(visitor: Visitor, name: Any) -> None:
    found = visitor.ask("add", "click", [None, FACES, name, *[0.0] * MAX_SLIDERS])
    assert found["success"], found
    said = found["output"]["data"][-1]
    assert 'role="alert"' in said
    assert "<b>" not in said
    assert len(said) < 3_000
    if name == "beardd":
        assert "did you mean &#x27;beard&#x27;" in said


@pytest.mark.parametrize("model", [None, 3, ["x"], {"a": 1}, "no/such", LONG])
def test_models_that_are_not_here_get_a_word(visitor: Visitor, model: Any) -> None:
    found = visitor.open(model)
    assert found["success"], found
    assert "no model here" in found["output"]["data"][-1]


def test_files_outside_are_neither_read_nor_fetched(visitor: Visitor, served: Served, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"format": 1, "sliders": [{"key": "beard", "scale": 1}], "word": "wjt42"}', encoding="utf-8")
    gradio = served.log.parent / "gradio"
    before = sorted(gradio.rglob("*"))
    for path in (
        str(secret), "/etc/passwd", "/proc/self/environ", f"{gradio}/../../etc/passwd", "../../../../etc/passwd", "", "\0", LONG,
        "file:///etc/passwd", "http://127.0.0.1:1/x", "https://example.com/x.png", " HTTP://example.com/x.png",
    ):  # fmt: skip
        for name, data in (("load", [None, FACES]), ("upload", [None])):
            for payload in ({**FILE, "path": path}, {"path": path}, [{**FILE, "path": path}], path):
                found = visitor.ask(name, "upload", [*data, payload])
                assert not found["success"], (name, payload)
                for word in ("wjt42", "root:", "PATH="):
                    assert word not in json.dumps(found)
    assert sorted(gradio.rglob("*")) == before


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/passwd", "gradio_api/file=../../../../etc/passwd", "gradio_api/file=%2e%2e/%2e%2e/etc/passwd",
        "gradio_api/file=/proc/self/environ", "gradio_api/file=http://127.0.0.1:1/", "gradio_api/file=https://example.com/",
        "gradio_api/file=HTTPS://example.com/", "gradio_api/proxy=https://example.com/", "gradio_api/file/etc/passwd", "static/../../x",
        "assets/%2e%2e/%2e%2e/app.py", "gradio_api/dev/reload", "gradio_api/vibe-code", "gradio_api/deep_link", "monitoring", "docs",
        "openapi.json", "gradio_api/custom_component/a/server/b/c", "gradio_api/stream/a/b/1/playlist.m3u8", "pwa_icon", "x" * 10_000,
    ],
)  # fmt: skip
def test_paths_that_the_page_does_not_ask_for_give_nothing(visitor: Visitor, path: str) -> None:
    found = visitor.http.get(path)
    assert found.status_code in (400, 403, 404, 405), found.text[:200]
    assert "root:" not in found.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422), (b"{", 400), (b"null", 422), (b"[]", 422), (b"\xff\xfe", 400), (DEEP.encode(), 400), (b'{"data": 1}', 422),
        (b'{"data": [], "fn_index": 99999, "session_hash": "x"}', 422), (b'{"data": [], "fn_index": -1, "session_hash": "x"}', 422),
        (b'{"data": [], "fn_index": true, "session_hash": "x"}', 422), (b'{"data": [], "fn_index": 0}', 422),
        (b'{"data": [], "fn_index": 0, "session_hash": ["x"]}', 422), (b'{"data": {}, "fn_index": 0, "session_hash": "x"}', 422),
        (b'{"data": [], "fn_index": "x", "session_hash": "x"}', 422), (b'{"data": [], "session_hash": "x"}', 422),
        (b'{"data": [], "fn_index": 1e400, "session_hash": "x"}', 400), (b" " * 2**20 + b"{}", 413),
        (b'{"data": [' + b"[]," * 300_000 + b'1], "fn_index": 0, "session_hash": "x"}', 400),
        (b'{"data": [], "data": [], "fn_index": 0, "session_hash": "x"}', 400),
    ],
)  # fmt: skip
def test_bodies_that_are_no_request_are_refused(visitor: Visitor, body: bytes, status: int) -> None:
    found = visitor.http.post("gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
    assert found.status_code == status, found.text[:300]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:7860"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "192.168.1.2"},
        {"Host": "[::1"},
        {"Host": ""},
        {"X-Forwarded-Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:1"},
        {"Origin": "null"},
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_another_sites_page_gets_nothing(visitor: Visitor, headers: dict[str, str]) -> None:
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "", {}),
        ("GET", "config", {}),
        ("GET", "gradio_api/queue/data?session_hash=x", {}),
        ("POST", "gradio_api/upload", {"files": {"files": ("x.png", b"x")}}),
        ("POST", "gradio_api/queue/join", {"json": {"data": [], "fn_index": 0, "session_hash": "x"}}),
        ("POST", "gradio_api/cancel", {"json": {"session_hash": "x", "fn_index": 0, "event_id": "x"}}),
    ]
    for method, path, more in asked:
        found = visitor.http.request(method, path, headers=headers, **more)
        assert found.status_code in (400, 403), (method, path, found.text[:200])
        assert "access-control-allow-origin" not in found.headers or found.headers["access-control-allow-origin"] != "*"


def test_the_page_itself_and_a_link_to_it_are_answered(visitor: Visitor, served: Served) -> None:
    port = served.url.rstrip("/").rpartition(":")[2]
    for headers in (
        {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        {"Sec-Fetch-Site": "none"},
    ):
        assert visitor.http.get("config", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("POST", "gradio_api/cancel", {"json": {"session_hash": 1, "fn_index": [], "event_id": {}}}),
        ("POST", "gradio_api/cancel", {"json": []}),
        ("POST", "gradio_api/reset", {"json": {"event_id": 7}}),
        ("POST", "gradio_api/upload", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}),
        ("GET", "gradio_api/queue/data", {}),
        ("GET", "gradio_api/queue/join", {}),
        ("GET", "gradio_api/file=", {}),
        ("PUT", "gradio_api/upload", {"content": b"x"}),
        ("GET", "%00", {}),
    ],
)
def test_what_the_page_would_not_send_is_a_mistake_of_the_sender(
    visitor: Visitor, method: str, path: str, more: dict[str, Any]
) -> None:
    found = visitor.http.request(method, path, **more)
    assert 400 <= found.status_code < 500, found.text[:300]


def test_a_websocket_is_refused(visitor: Visitor, served: Served) -> None:
    host, port = served.url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(
            b"GET /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: eDEyMzQ1Njc4OTAxMjM0NQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        status = raw.recv(4096).split()[1]
    assert 400 <= int(status) < 500


def test_old_uploads_make_room_for_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_KEPT", 250)
    monkeypatch.setattr(server, "MAX_FILES", 3)
    kept = tmp_path / "kept"
    for number, size in enumerate([100, 100, 100, 100, 10, 10]):
        (kept / f"{number}").mkdir(parents=True)
        (kept / f"{number}" / "x.png").write_bytes(bytes(size))
        os.utime(kept / f"{number}" / "x.png", (number, number))
    server.make_room(kept)
    assert sorted(path.parent.name for path in kept.rglob("*.png")) == ["3", "4", "5"]
    (kept / "3" / "x.png").write_bytes(bytes(300))
    os.utime(kept / "3" / "x.png", (3, 3))
    server.make_room(kept)
    assert sorted(path.parent.name for path in kept.rglob("*.png")) == ["4", "5"]


def test_a_file_of_more_than_the_bound_is_refused_before_it_is_sent(visitor: Visitor, served: Served) -> None:
    host, port = served.url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            + f"Content-Length: {MAX_BYTES + 2**20}\r\n\r\n".encode()
        )
        answer = raw.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 413")
    assert "a file may have at most 100 MiB: nothing was kept" in answer


@pytest.mark.parametrize(
    "head", [b"Transfer-Encoding: chunked\r\n", b"Content-Length: -1\r\n", b"Content-Length: x\r\n", b""]
)
def test_a_body_of_no_stated_length_is_refused(visitor: Visitor, served: Served, head: bytes) -> None:
    host, port = served.url.removeprefix("http://").rstrip("/").split(":")
    for path in (b"upload", b"queue/join"):
        with socket.create_connection((host, int(port)), timeout=30) as raw:
            raw.sendall(
                b"POST /gradio_api/" + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + head + b"\r\n"
            )
            answer = raw.makefile("rb").read()
        assert answer.split()[1] in (b"400", b"411"), answer[:300]


@pytest.mark.slow
def test_a_file_of_a_hundred_mebibytes_and_one_byte_is_refused_and_not_kept(visitor: Visitor, served: Served) -> None:
    found = visitor.upload(("big.png", bytes(MAX_BYTES + 1)))
    assert found.status_code == 413
    assert f"maximum allowed size of {MAX_BYTES} bytes" in found.text
    left = [
        path for path in (served.log.parent / "gradio").rglob("*") if path.is_file() and path.stat().st_size > 2**20
    ]
    assert left == []
