"""Measuring many directions in shared batches gives what measuring each alone gives."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import eigenbank as eb
from eigenbank.loaders.lengths import measure
from eigenbank.loaders.measure import batch_size, measure_responses
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.sample import sample
from eigenbank.schemas.errors import SteerError


def _colour(images: Tensor) -> Tensor:
    return images.mean(dim=(2, 3))


def test_shared_batches_do_not_mix_directions(tiny_checkpoint: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    bank = eb.build(str(tiny_checkpoint), recipes=["output-value", "value@0.5-1"], top_k=2)
    directions = list(bank)[:5]
    found = measure_responses(pipe, directions, _colour, scale=0.8, seeds=(1, 2, 3), steps=3, batch=7)
    torch.testing.assert_close(found.base, _colour(sample(pipe, (1, 2, 3), 3)), atol=1e-5, rtol=0)
    for number, direction in enumerate(directions):
        for sign, table in ((1, found.plus), (-1, found.minus)):
            with eb.steer(pipe, {direction: 0.8 * sign}):
                alone = _colour(sample(pipe, (1, 2, 3), 3))
            torch.testing.assert_close(table[number], alone, atol=1e-4, rtol=0)


def test_half_as_many_are_drawn_where_memory_runs_out(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    directions = list(eb.build(str(tiny_checkpoint), recipes=["output-value"], top_k=2))
    whole = measure_responses(pipe, directions, _colour, scale=0.8, seeds=(1, 2, 3), steps=2)
    asked = []

    def limited(pipe: Any, seeds: Sequence[int], steps: int, **call: Any) -> Tensor:
        asked.append(len(seeds))
        if len(seeds) > most:
            raise torch.OutOfMemoryError
        return sample(pipe, seeds, steps, **call)

    monkeypatch.setattr("eigenbank.loaders.measure.sample", limited)
    most = 2
    found = measure_responses(pipe, directions, _colour, scale=0.8, seeds=(1, 2, 3), steps=2, batch=9)
    assert asked[:4] == [3, 1, 1, 1]
    assert asked[4:7] == [9, 4, 2]
    torch.testing.assert_close(found.plus, whole.plus, atol=1e-4, rtol=0)
    most = 0
    with pytest.raises(SteerError, match="single image"):
        measure_responses(pipe, directions, _colour, scale=0.8, seeds=(1, 2, 3), steps=2)


def test_as_many_are_drawn_at_once_as_have_a_million_pixels(tiny_checkpoint: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    assert batch_size(pipe) == 64
    assert batch_size(pipe, height=512, width=512) == 4
    assert batch_size(pipe, height=2048, width=2048) == 1


@pytest.mark.parametrize(
    "bad", [lambda x: x.mean(), lambda x: x.mean(dim=(2, 3))[1:], lambda x: x.mean(dim=(2, 3)) * torch.nan]
)
def test_readings_of_another_shape_or_not_finite_are_refused(bad: object, tiny_checkpoint: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    with pytest.raises(SteerError, match="no label was given"):
        measure_responses(pipe, [], bad, scale=1.0, seeds=(1, 2), steps=2)  # type: ignore[arg-type]


def test_calibration_fills_in_what_no_norm_tells(tiny_checkpoint: Path) -> None:
    bank = eb.build(str(tiny_checkpoint), recipes=["output-value:output"], top_k=1)
    pipe = open_pipeline(tiny_checkpoint)
    calibrated = measure(pipe, bank)
    for name, layer in calibrated.layers.items():
        assert layer.lengths["block-output"].source == "calibration"
        assert layer.lengths["projection-input"] == bank.layers[name].lengths["projection-input"]
    assert measure(pipe, calibrated) is calibrated
    again = measure(pipe, bank)
    assert again.layers == calibrated.layers
