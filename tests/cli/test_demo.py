"""The demo does the whole job; here with few directions, so that it takes seconds."""

import re
from pathlib import Path

import pytest
from PIL import Image

from eigenbank.builders.label.settings import LabelSettings
from eigenbank.cli.demo import run_demo
from eigenbank.cli.main import run


def test_the_demo_builds_labels_loads_and_draws(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo.png"
    few = LabelSettings(
        seeds=(100, 101), confirm_seeds=tuple(range(200, 208)), confirm_most=8, most=2, null=1, parts=0, quality_seeds=0
    )
    run_demo(1, out, few, layers="up_blocks.1.attentions.0")
    table, story = capfd.readouterr()
    assert "3 directions of 1 layers" in story
    labels = int(re.search(r"(\d+) labels", story)[1])  # type: ignore[index]
    assert labels == len(table.splitlines()) - 1 >= 1
    with Image.open(out) as image:
        assert image.height > labels * 64


@pytest.mark.slow
def test_the_command_leaves_the_users_own_catalog_alone(tmp_path: Path, home: Path) -> None:
    assert run(["demo", "--top-k", "1", "--out", str(tmp_path / "demo.png")]) == 0
    assert not home.exists()
