"""`eigenbank play`: where it listens, and what it says when it cannot."""

import socket
import sys

import pytest
from faces import MODEL_ID as FACES
from playing import Served, answers

from eigenbank.cli.main import run


def test_without_gradio_it_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run(["play"]) == 1
    assert "pip install 'eigenbank[play]'" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["play", FACES, "--port", str(port)]) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on loopback")
def test_it_listens_on_this_machine_alone(served: Served) -> None:
    assert not answers("127.0.0.2", served.url)
    assert "the playground is on http://127.0.0.1:" in served.log.read_text(encoding="utf-8")
