"""The demo does the whole job; here with few directions, so that it takes seconds."""

import dataclasses
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from eigenbank.api import build
from eigenbank.cli.demo import WORDS, run_demo, whole
from eigenbank.cli.main import run
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID, data_folder
from eigenbank.registry.sets.direction_set import DirectionSet


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


def test_the_whole_of_what_layers_write_goes_into_a_set_as_it_was_labelled(tmp_path: Path) -> None:
    shipped = data_folder() / "avatars-64" / "directions"
    labelled = DirectionSet.open(shipped)
    few = build(DEMO_MODEL_ID, top_k=2)
    read = labelled.displacements
    assert read is not None
    bank = whole(few.with_displacements(dataclasses.replace(read, mean=read.mean[: len(few)])))
    writes = {each.id for each in bank if each.recipe.slug == "output-value:output"}
    assert len(writes) == sum(layer.width for layer in bank.layers.values())
    bank.save(tmp_path / "set")
    again = DirectionSet.open(tmp_path / "set")
    assert [each.id for each in again][: len(few)] == [each.id for each in few]
    assert again.displacements is not None
    assert not again.displacements.mean[len(few) :].any()


@pytest.mark.slow
def test_the_command_leaves_the_users_own_catalog_alone(tmp_path: Path, home: Path) -> None:
    assert run(["demo", "--out", str(tmp_path / "demo.png")]) == 0
    assert not home.exists()
