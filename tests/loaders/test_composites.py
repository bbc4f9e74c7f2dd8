"""A composite acts as its parts do together, everywhere a direction acts."""

import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from textpipes import biased

import eigenbank as eb
from eigenbank.loaders.lengths import measure
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.sample import sample
from eigenbank.loaders.sweep import generate_preview
from eigenbank.schemas import CompositeRecord, Label, Weighted

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)
WEIGHTS = (0.6, -0.64, 0.48)


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint: Path) -> Any:
    return open_pipeline(tiny_checkpoint)


@pytest.fixture(scope="module")
def bank(pipe: Any, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> eb.DirectionSet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EIGENBANK_HOME", str(tmp_path_factory.mktemp("home")))
        plain = eb.build(str(tiny_checkpoint), recipes=["output-value:output"], top_k=2)
    parts = tuple(Weighted(direction=each.id, weight=one) for each, one in zip(plain, WEIGHTS, strict=False))
    label = Label(text="wide", polarity=-1, source="human:ann", created=NOW)
    return measure(pipe, plain).composed([CompositeRecord(name="wide", parts=parts, labels=(label,))])


def draw(pipe: Any) -> torch.Tensor:
    return sample(pipe, (1, 2), 3)


@pytest.fixture(scope="module")
def expected(pipe: Any, bank: eb.DirectionSet) -> torch.Tensor:
    with eb.steer(pipe, {each: 2.0 * weight for each, weight in zip(bank, WEIGHTS, strict=False)}):
        return draw(pipe)


@pytest.fixture(scope="module")
def fused(pipe: Any, bank: eb.DirectionSet) -> torch.Tensor:
    with biased(pipe, {each: 2.0 * weight for each, weight in zip(bank, WEIGHTS, strict=False)}):
        return draw(pipe)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize(("key", "scale"), [("composite/wide", 2.0), ("wide", -2.0), (None, 2.0)])
def test_it_is_the_sum_of_its_parts(
    key: str | None,
    scale: float,
    fold: bool,
    pipe: Any,
    bank: eb.DirectionSet,
    expected: torch.Tensor,
    fused: torch.Tensor,
) -> None:
    before, expected = draw(pipe), fused if fold else expected
    with eb.steer(pipe, {key or bank.composites[0]: scale}, bank=bank, fuse=fold):
        torch.testing.assert_close(draw(pipe), expected, atol=1e-4, rtol=0)
    assert torch.equal(draw(pipe), before)
    assert (expected - before).abs().max() > 1e-3


def test_one_scale_moves_all_parts(pipe: Any, bank: eb.DirectionSet, expected: torch.Tensor) -> None:
    before = draw(pipe)
    with eb.steer(pipe, {"composite/wide": 0.0}, bank=bank) as handle:
        assert torch.equal(draw(pipe), before)
        handle.set_scale(2.0, "composite/wide")
        torch.testing.assert_close(draw(pipe), expected, atol=1e-4, rtol=0)


def test_sweeps_and_previews_draw_it(pipe: Any, bank: eb.DirectionSet, expected: torch.Tensor, tmp_path: Path) -> None:
    swept = eb.sweep(pipe, "wide", [-2.0], seeds=(1, 2), steps=3, bank=bank)
    torch.testing.assert_close(swept.pixels[:, 0], expected, atol=1e-4, rtol=0)
    how, picture = generate_preview(pipe, bank.composites[0], seeds=(1,), scales=(-1.0, 1.0), steps=2)
    assert how.scales == (1.0, -1.0)
    kept = bank.with_previews({"composite/wide": (how, picture)})
    assert kept["composite/wide"].record.preview == how
    assert kept.previews == {"previews/composite-wide.webp": picture}
    assert kept.save(tmp_path / "with").composed([]).save(tmp_path / "without").previews == {}
    assert not (tmp_path / "without" / "previews").exists()


def test_a_file_holds_all_its_parts(bank: eb.DirectionSet, tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = [
        eb.export(bank, edit, tmp_path / f"{number}.safetensors", checkpoint=tiny_checkpoint)[0]
        for number, edit in enumerate(
            [{"wide": -2.0}, {each: 2.0 * weight for each, weight in zip(bank, WEIGHTS, strict=False)}]
        )
    ]
    first, second = (load_file(path) for path in made)
    assert set(first) == set(second)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name])


@pytest.mark.parametrize("fold", [False, True])
def test_directions_of_two_banks_at_one_layer_add_up(
    fold: bool, pipe: Any, bank: eb.DirectionSet, expected: torch.Tensor, fused: torch.Tensor
) -> None:
    before, expected = draw(pipe), fused if fold else expected
    other = list(bank.composed([]))
    edits = {
        (other[number] if number % 2 else each): 2.0 * weight
        for number, (each, weight) in enumerate(zip(bank, WEIGHTS, strict=False))
    }
    with eb.steer(pipe, edits, fuse=fold):
        torch.testing.assert_close(draw(pipe), expected, atol=1e-4, rtol=0)
    assert torch.equal(draw(pipe), before)
