"""Checkpoints are read from a server by ranges: little of them, in spite of its moods, and never half."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from eigenbank.builders.checkpoints import hub
from eigenbank.builders.checkpoints.hub import GAP, RangeReader, merged
from eigenbank.schemas.errors import SourceError


class Moody(http.server.BaseHTTPRequestHandler):
    """Serves one body by ranges; `server.moods` lists what goes wrong with the coming requests."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body: bytes = self.server.body  # type: ignore[attr-defined]
        mood = self.server.moods.pop(0) if self.server.moods else ""  # type: ignore[attr-defined]
        if mood in ("429", "503", "403"):
            self.send_response(int(mood))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        start, end = int(first), min(int(last) + 1, len(body))
        part = body[start:end]
        self.server.served += len(part)  # type: ignore[attr-defined]
        self.send_response(200 if mood == "whole" else 206)
        self.send_header("Content-Length", str(len(part)))
        shown = start + 1 if mood == "elsewhere" else start
        self.send_header("Content-Range", f"bytes {shown}-{end - 1}/{len(body)}")
        self.send_header("ETag", '"changed"' if mood == "changed" else '"one"')
        self.end_headers()
        if mood == "cut":
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
        else:
            self.wfile.write(part)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.ThreadingHTTPServer]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    made.body = bytes(range(256)) * 4096  # type: ignore[attr-defined]
    made.moods = []  # type: ignore[attr-defined]
    made.served = 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def reader_of(server: http.server.ThreadingHTTPServer) -> RangeReader:
    return RangeReader(f"http://127.0.0.1:{server.server_port}/file", "me/model/file.safetensors")


def test_neighbouring_ranges_are_one_request() -> None:
    assert merged([(100, 200), (0, 100), (200 + GAP, 300 + GAP), (10**6, 10**6 + 1)]) == [
        (0, 300 + GAP),
        (10**6, 10**6 + 1),
    ]


def test_ranges_give_their_bytes_and_are_counted(server: http.server.ThreadingHTTPServer) -> None:
    reader = reader_of(server)
    body: bytes = server.body  # type: ignore[attr-defined]
    spans = [(500_000, 500_300), (3, 10), (10, 40)]
    assert [bytes(each) for each in reader.read(spans)] == [body[start:end] for start, end in spans]
    assert reader.requests == 2
    assert reader.received == server.served == 300 + 37  # type: ignore[attr-defined]


@pytest.mark.parametrize("moods", [["503"], ["429", "503"], ["cut"], ["cut", "cut", "503"]])
def test_a_passing_failure_is_survived(
    moods: list[str], server: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.time, "sleep", lambda _seconds: None)
    server.moods = list(moods)  # type: ignore[attr-defined]
    reader = reader_of(server)
    (data,) = reader.read([(1000, 300_000)])
    assert bytes(data) == server.body[1000:300_000]  # type: ignore[attr-defined]
    # What had come before a cut is kept: nothing is sent twice.
    assert reader.received == 299_000


@pytest.mark.parametrize(
    ("moods", "message"),
    [
        (["503"] * 20, "could not be read in 6 attempts"),
        (["403"], "private or gated"),
        (["whole"], "cannot be read by ranges"),
        (["elsewhere"], "answered a range with"),
    ],
)
def test_a_lasting_failure_is_refused(
    moods: list[str], message: str, server: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.time, "sleep", lambda _seconds: None)
    server.moods = list(moods)  # type: ignore[attr-defined]
    with pytest.raises(SourceError, match=message):
        reader_of(server).read([(0, 1000)])


def test_a_file_that_changes_midway_is_refused(server: http.server.ThreadingHTTPServer) -> None:
    reader = reader_of(server)
    reader.start(100)
    server.moods = ["changed"]  # type: ignore[attr-defined]
    with pytest.raises(SourceError, match="was changed while it was read"):
        reader.read([(5000, 6000)])


def test_a_header_is_read_without_the_weights(
    server: http.server.ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"a": torch.arange(4e5), "b": torch.ones(3, 5)}, tmp_path / "x.safetensors")
    server.body = (tmp_path / "x.safetensors").read_bytes()  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_url", lambda *_args, **_kwargs: f"http://127.0.0.1:{server.server_port}/x"
    )
    file = hub.remote_file("me/model", "x.safetensors", "0" * 40)
    assert file.header["b"].shape == (3, 5)
    assert server.served <= hub.FIRST_LOOK  # type: ignore[attr-defined]
    begin = file.data + file.header["b"].begin
    assert (
        torch.frombuffer(bytearray(file.reader.read([(begin, begin + 60)])[0]), dtype=torch.float32).tolist()
        == [1.0] * 15
    )
