"""A preview is the sweep it says it is, lies in the set, and stays there when labels change."""

import io
import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import eigenbank as eb
from eigenbank.cli.main import run
from eigenbank.loaders import sweep
from eigenbank.loaders.export import preview_png
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.sweep import generate_preview
from eigenbank.registry.load import load
from eigenbank.registry.sets.card import preview_name
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas import Label
from eigenbank.schemas.errors import SetError

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)


@pytest.fixture
def bank(tiny_set: DirectionSet) -> DirectionSet:
    return tiny_set


def pixels(picture: bytes) -> Tensor:
    import numpy as np

    with Image.open(io.BytesIO(picture)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("polarity", [1, -1])
def test_the_grid_is_the_sweep(polarity: int, bank: DirectionSet, tiny_checkpoint: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    first = next(iter(bank))
    label = Label(text="more", polarity=polarity, source="human:ann", created=NOW)
    named = bank.labelled({first.id: (label,)})[first.id]
    how, picture = generate_preview(pipe, named, seeds=(3, 4), scales=(-1, 0, 1), steps=2)
    assert (how.seeds, how.scales, how.steps) == ((3, 4), (-polarity, 0.0, polarity), 2)
    expected = eb.sweep(pipe, first, [-polarity, 0, polarity], seeds=(3, 4), steps=2).pixels
    height, width = expected.shape[-2:]
    grid = pixels(picture)
    assert grid.shape == (3, 2 * height, 3 * width)
    cells = grid.unflatten(1, (2, height)).unflatten(3, (3, width)).permute(1, 3, 0, 2, 4)
    torch.testing.assert_close(cells, expected.clamp(0, 1), atol=1 / 255, rtol=0)


def test_previews_are_files_of_the_set_and_survive_a_label(
    bank: DirectionSet, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    first, second = list(bank)[:2]
    drawn = generate_preview(open_pipeline(tiny_checkpoint), first, seeds=(0,), scales=(-1, 1), steps=1)
    saved = bank.with_previews({first.id: drawn}).save(tmp_path / "one")
    name = preview_name(first.record)
    assert (tmp_path / "one" / name).read_bytes() == drawn[1]
    assert saved.manifest.files[name].size == len(drawn[1])
    assert saved[first.id].record.preview == drawn[0]
    assert saved[second.id].record.preview is None
    label = Label(text="more", source="human:ann", created=NOW)
    again = DirectionSet.open(tmp_path / "one").labelled({first.id: (label,)}).save(tmp_path / "two")
    assert again.previews == {name: drawn[1]}
    assert f"![preview]({name})" in (tmp_path / "two" / "README.md").read_text(encoding="utf-8")
    assert preview_png(again[first.id]) is not None
    (tmp_path / "two" / name).write_bytes(b"changed")
    with pytest.raises(SetError, match="not what the manifest says"):
        DirectionSet.open(tmp_path / "two").save(tmp_path / "three")
    assert not (tmp_path / "three").exists()


def test_a_preview_too_large_is_refused_before_anything_is_drawn(bank: DirectionSet, tiny_checkpoint: Path) -> None:
    pipe, scales, drawn = open_pipeline(tiny_checkpoint), [number / 300 for number in range(600)], []
    with pytest.raises(SetError, match="take fewer"):
        generate_preview(pipe, next(iter(bank)), seeds=(0,), scales=scales, steps=1, drawn=drawn.append)
    assert not drawn


def test_many_images_are_reduced_to_the_room_there_is(
    bank: DirectionSet, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "MAX_PREVIEW_SIDE", 48)
    monkeypatch.setattr(sweep, "LEAST_CELL", 4)
    _, made = generate_preview(
        open_pipeline(tiny_checkpoint), next(iter(bank)), seeds=range(12), scales=[-1.0, 1.0], steps=1
    )
    with Image.open(io.BytesIO(made)) as grid:
        assert grid.size == (8, 48)


def test_the_command_draws_labelled_directions(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build", str(tiny_checkpoint), "--model-id", "acme/tiny", "--top-k", "1"]) == 0
    options = ["--seeds", "0", "--scales=-1,0,1", "--steps", "1"]
    assert run(["preview", "acme/tiny", *options]) == 1
    assert "no direction of acme/tiny is labelled" in capsys.readouterr().err
    assert run(["preview", "acme/tiny", "nothing/such/0", *options]) == 1
    assert not load("acme/tiny").previews
    mid = "mid_block.attentions.0/output-value/0"
    assert run(["preview", "acme/tiny", mid, *options, "--format", "json"]) == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == [f"acme/tiny#{mid}"]
    assert run(["preview", "acme/tiny", "--all", *options]) == 0
    bank = load("acme/tiny")
    assert len(bank.previews) == len(bank)
    assert bank[mid].record.preview.scales == (-1.0, 0.0, 1.0)  # type: ignore[union-attr]


def test_a_preview_brings_the_token_lengths_that_fuse_and_export_need(
    bank: DirectionSet, tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without = bank.replaced(
        bank.manifest.model_copy(
            update={"layers": tuple(each.model_copy(update={"lengths": {}}) for each in bank.manifest.layers)}
        )
    )
    pipe, first = open_pipeline(tiny_checkpoint), next(iter(bank))
    made = eb.preview(pipe, without, [first.id], seeds=[0], scales=[-1, 1], steps=1)
    assert made.layers == eb.measure(pipe, without, steps=1).layers
    assert all(layer.lengths for layer in made.manifest.layers)
    assert "2 images × 1 steps × 1 pass, at 8×8, on cpu, and 2 runs without a picture for token lengths" in caplog.text
    caplog.clear()
    eb.preview(pipe, made, [first.id], seeds=[0], scales=[-1, 1], steps=1)
    assert "without a picture" not in caplog.text
