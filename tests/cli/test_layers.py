"""`eigenbank build --dry-run`: what can be built of a checkpoint, before anything of its weights is read."""

import json
from pathlib import Path

import pytest

from eigenbank.cli.main import run


def test_layers_are_listed_with_what_they_cost(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build", "--dry-run", str(tiny_checkpoint), "--format", "json"]) == 0
    rows = {row["layer"]: row for row in json.loads(capsys.readouterr().out)}
    row = rows["mid_block.attentions.0"]
    assert (row["kind"], row["width"], row["heads"], row["frame"]) == ("spatial", 32, 4, "after norm inside")
    # Four projections with their biases, and the norm, in float32.
    assert row["bytes"] == 4 * (4 * 32 * 32 + 4 * 32 + 2 * 32)


def test_bare_names_and_tables(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build", "--dry-run", str(tiny_checkpoint), "-q"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert "mid_block.attentions.0" in names
    assert run(["build", "--dry-run", str(tiny_checkpoint)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == names
