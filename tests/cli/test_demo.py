"""The demo does the whole job; here with few directions, so that it takes seconds."""

import re
from pathlib import Path

import pytest
from PIL import Image

from eigenbank.cli.main import run


def test_the_demo_builds_labels_loads_and_draws(tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo.png"
    assert run(["demo", "--top-k", "1", "--out", str(out)]) == 0
    table, story = capfd.readouterr()
    assert "21 directions of 7 layers" in story
    labels = int(re.search(r"(\d+) labels", story)[1])  # type: ignore[index]
    assert labels == len(table.splitlines()) - 1 >= 1
    with Image.open(out) as image:
        assert image.height > labels * 64
    assert not home.exists()  # the user's own catalog is left alone
