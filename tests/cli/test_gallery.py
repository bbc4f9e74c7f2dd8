"""`eigenbank gallery` from the command line, on the shipped set."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import eigenbank as eb
from eigenbank.cli.main import run
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID


def test_it_writes_a_site_and_says_what_is_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gallery", "--out", str(tmp_path / "site"), "--format", "json"]) == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)
    assert (row["model"], row["outcome"], row["directions"]) == (DEMO_MODEL_ID, "shown", len(eb.load(DEMO_MODEL_ID)))
    assert str(tmp_path / "site") in captured.err
    assert DEMO_MODEL_ID in (tmp_path / "site/data/index.js").read_text(encoding="utf-8")


def test_it_is_written_without_torch(tmp_path: Path) -> None:
    code = (
        f"import sys; from eigenbank.cli.main import run; assert run(['gallery', '--out', {str(tmp_path / 'site')!r}]) == 0; "
        "bad = {'torch', 'diffusers', 'numpy'} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr


def test_a_glob_chooses_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gallery", "--out", str(tmp_path / "site"), "--model", "google/*", "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_serving_until_interrupted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eigenbank", "gallery", "--serve"]
    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background may ignore it
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)
    finally:
        signal.signal(signal.SIGINT, heeded)
    with process:
        try:
            assert process.stderr is not None
            address = next(line.split()[1] for line in process.stderr if line.startswith("serving"))
            with urllib.request.urlopen(address, timeout=10) as answer:
                assert b"eigenbank gallery" in answer.read()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
