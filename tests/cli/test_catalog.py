"""`eigenbank catalog add`: what is printed, and that a set can come back after it was removed."""

import json
from pathlib import Path

import pytest

from eigenbank.cli.main import run
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID as DEMO


def test_what_was_added_is_printed_and_can_be_drawn(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = ["build", str(tiny_checkpoint), "--model-id", "acme/mid", "--layers", "mid_block.*", "--top-k", "1"]
    assert run([*build, "--out", str(tmp_path / "mid")]) == 0
    assert run(["models", "rm", "acme/mid"]) == 0
    assert (
        f"its folder is left, {tmp_path / 'mid'}; eigenbank catalog add {tmp_path / 'mid'}" in capsys.readouterr().err
    )
    add = ["catalog", "add", str(tmp_path / "mid"), "--checkpoint", str(tiny_checkpoint), "--format", "json"]
    assert run(add) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["schema"], row["model"], row["directions"], row["labels"]) == ("eigenbank/entered/1", "acme/mid", 2, 0)
    name = "acme/mid#mid_block.attentions.0/output-value/0"
    assert run(["sweep", name, "--steps", "1", "--seeds", "0", "--out", str(tmp_path / "out.png")]) == 0
    assert run([*build, "--top-k", "2"]) == 0
    capsys.readouterr()
    assert run(add) == 0
    assert "took the place of the set of acme/mid at " in capsys.readouterr().err


def test_the_set_that_ships_is_added_again_as_removal_says(
    demo_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "rm", DEMO]) == 0
    command = (
        capsys.readouterr().err.rpartition("it ships with eigenbank; eigenbank ")[2].partition(" enters it again")[0]
    )
    assert run(command.split()) == 0
    capsys.readouterr()
    assert run(["models", "show", DEMO, "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["location"], row["checkpoint"]) == ("shipped:cartoon-faces-32/directions", "shipped:cartoon-faces-32")


def test_a_wrong_call_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["catalog", "add"]) == 2
    assert run(["catalog", "add", str(tmp_path / "none")]) == 1
    assert "is no direction set" in capsys.readouterr().err
