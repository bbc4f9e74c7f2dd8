"""The demo does the whole job; here with few directions, so that it takes seconds."""

import os
import re
from pathlib import Path

import pytest
from PIL import Image

from eigenbank.cli.demo import WORDS, run_demo
from eigenbank.cli.main import run


@pytest.mark.skipif("EIGENBANK_DIST" in os.environ, reason="make dist has run the whole demo from the wheel")
def test_the_demo_builds_finds_loads_and_draws(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo.png"
    few = {"seeds": (100, 101, 102, 103), "steps": 4, "confirm_most": 16, "chance_most": 8, "null": 2}
    run_demo(out, (WORDS[1],), top_k=2, **few)
    table, story = capfd.readouterr()
    assert "28 directions of 7 layers" in story
    assert "1 of 1 words have a slider" in story
    assert re.search(r"on a yellow background +\S+ +[\d.]+", table)
    with Image.open(out) as image:
        assert image.height > 2 * 64  # two prompts, one below the other


@pytest.mark.slow
def test_the_command_leaves_the_users_own_catalog_alone(tmp_path: Path, home: Path) -> None:
    assert run(["demo", "--out", str(tmp_path / "demo.png")]) == 0
    assert not home.exists()
