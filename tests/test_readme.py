"""What the README shows, runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_examples_run(tmp_path: Path) -> None:
    code = "\n".join(_blocks("python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("*.png")} == {"face.png", "sweep.png", "edited.png"}


def test_the_commands_run(tmp_path: Path) -> None:
    makes, commands = _blocks("sh")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {line.split()[1] for line in makes.splitlines()} <= targets
    for line in commands.splitlines():
        args = shlex.split(line, comments=True)
        assert args[0] == "eigenbank"
        done = subprocess.run(
            [sys.executable, "-m", *args], cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ
        )
        assert done.returncode == 0, (line, done.stderr)
    assert {path.name for path in tmp_path.glob("*.png")} == {"steered.png", "sweep.png"}


def test_the_picture_and_the_links_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
