"""The playground as a Gradio Space: the example's folder, alone, started as a Space starts it."""

import io
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playing import AUDIT, Visitor, answers, controls, free_port

from eigenbank.registry.sets.bundled import DEMO_MODEL_ID

EXAMPLE = Path(__file__).parents[2] / "examples" / "playground_space"


def test_the_space_says_what_it_is() -> None:
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    front = dict(line.split(": ", 1) for line in text.split("---\n")[1].splitlines())
    assert front["sdk"] == "gradio"
    assert re.fullmatch(r"\d+\.\d+\.\d+", front["sdk_version"])
    assert (EXAMPLE / front["app_file"]).is_file()
    constraints = (EXAMPLE.parents[1] / "constraints.txt").read_text(encoding="utf-8")
    assert f"gradio=={front['sdk_version']}" in constraints, "the Space is of the version that is tested"
    assert (EXAMPLE / "requirements.txt").read_text(encoding="utf-8").split() == ["eigenbank[play]"]


@pytest.mark.slow
def test_the_example_runs_as_a_space_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="no playground: Gradio is not installed (pip install 'eigenbank[play]')")
    app = shutil.copytree(EXAMPLE, tmp_path / "app")
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch/sitecustomize.py").write_text(AUDIT, encoding="utf-8")
    (tmp_path / "visitor").mkdir()
    port = free_port()
    # What Hugging Face sets, and nothing of ours: no EIGENBANK_HOME, another HOME, another folder.
    dropped = ("EIGENBANK", "GRADIO", "HF_", "XDG_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)} | {
        "SYSTEM": "spaces", "SPACE_ID": "me/playground", "SPACE_AUTHOR_NAME": "me", "SPACE_REPO_NAME": "playground",
        "SPACE_HOST": "me-playground.hf.space", "SPACE_TITLE": "playground", "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": str(port), "GRADIO_ALLOW_FLAGGING": "never", "GRADIO_NUM_PORTS": "1",
        "HOME": str(tmp_path / "visitor"), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1", "REACHED": str(tmp_path / "reached"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "watch"), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=app, env=environment, stdout=log, stderr=log)
    said = tmp_path / "log"
    try:
        url = f"http://127.0.0.1:{port}/"
        for _ in range(600):
            try:
                httpx.get(url, timeout=60).raise_for_status()
                break
            except httpx.TransportError:
                assert process.poll() is None, said.read_text(encoding="utf-8")
                time.sleep(0.2)
        # As GRADIO_SERVER_NAME asks, it listens on every address. All of 127.0.0.0/8 is on loopback only on Linux.
        assert sys.platform != "linux" or answers("127.0.0.2", url)
        visitor = Visitor(url)
        assert visitor.config["space_id"] == "me/playground"
        assert visitor.open(DEMO_MODEL_ID)["success"]
        pictures = {}
        for scale in (0.0, 1.0):
            answer = visitor.ask(
                "seed", "change", controls(DEMO_MODEL_ID, steps=2, prompt="a person", sliders=[scale, *[0.0] * 23])
            )
            assert answer["success"], said.read_text(encoding="utf-8")
            edited = answer["output"]["data"][2]["value"]
            pictures[scale] = visitor.http.get(edited["url"]).raise_for_status().content
        assert Image.open(io.BytesIO(pictures[0.0])).size == (64, 64)
        assert pictures[0.0] != pictures[1.0]
        visitor.close()
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert not (tmp_path / "reached").exists(), (tmp_path / "reached").read_text(encoding="utf-8")
    assert sorted(path.name for path in app.iterdir() if path.name != "__pycache__") == [
        "README.md",
        "app.py",
        "requirements.txt",
    ]
