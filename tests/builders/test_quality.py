"""How a direction behaves as a slider, told from readings whose truth is known."""

import pytest
import torch
from torch import Tensor

from eigenbank.builders.label.quality import CELLS, SCALES, Swept, agreement, qualities, thumbnails
from eigenbank.schemas import Quality

SEEDS = 5
BASE = torch.linspace(-1, 1, SEEDS)[:, None] * torch.tensor([1.0, 2.0, -1.0])
BOTH = torch.tensor([True, True, True])


def swept(response: list[list[float]], other: float = 0.0, cells: tuple[int, ...] = (0,)) -> Swept:
    """One direction; score 0 is moved by `response[0]` at each scale up and by `response[1]` down, score 1 by `other`."""
    up, down = torch.tensor(response)
    change = torch.zeros(2, len(SCALES), 1, SEEDS, 3)
    change[0, ..., 0], change[1, ..., 0] = up[:, None, None], down[:, None, None]
    change[0, ..., 1], change[1, ..., 1] = other, -other
    shown = torch.zeros(SEEDS, 3 * CELLS * CELLS)
    moved = shown.clone()
    moved[:, list(cells)] = 1.0
    return Swept(BASE, BASE + change[0], BASE + change[1], shown, moved[None], -moved[None])


def quality(found: Swept, readable: Tensor = BOTH, scale: float = 1.0) -> Quality:
    stds = torch.tensor([2.0, 1.0, 1.0])
    return qualities(found, stds, readable, source="x:y", scale=scale, seeds=range(SEEDS), steps=3)[0]


def test_a_line_is_linear_to_its_end() -> None:
    found = quality(swept([[0.5, 1.0, 2.0], [-0.5, -1.0, -2.0]], other=0.25))
    assert found.effect == pytest.approx(0.5)
    assert found.selectivity == pytest.approx(0.5 / 0.75, abs=1e-4)
    assert found.consistency == 1
    assert found.linearity == pytest.approx(1)
    assert found.recommended_range == (-2, 2)
    assert found.drift == pytest.approx(0.25 / 2**0.5, abs=1e-4)
    assert (found.source, found.scale, found.seeds, found.steps) == ("x:y", 1.0, tuple(range(SEEDS)), 3)


def test_sizes_are_per_unit_scale_and_ranges_in_units_of_it() -> None:
    found = quality(swept([[0.5, 1.0, 2.0], [-0.5, -1.0, -2.0]]), scale=0.5)
    assert found.effect == pytest.approx(1.0)
    assert found.recommended_range == (-1, 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_range_ends_where_the_response_saturates(sign: int) -> None:
    up, down = [0.5, 1.0, 1.1], [-0.5, -1.0, -2.0]
    response = [up, down] if sign > 0 else [[-one for one in up], [-one for one in down]]
    found = quality(swept(response))
    assert found.recommended_range == (-2, 1)
    assert 0 < found.linearity < 1  # type: ignore[operator]


def test_the_range_ends_where_the_response_is_more_even_than_odd() -> None:
    assert quality(swept([[0.5, 1.0, 3.0], [-0.5, -1.0, 1.0]])).recommended_range == (-1, 1)
    assert quality(swept([[0.5, 1.0, 2.0], [0.4, 0.9, 1.9]])).recommended_range == (0, 0)


def test_a_change_at_one_place_is_local_and_one_everywhere_is_not() -> None:
    line = [[0.5, 1.0, 2.0], [-0.5, -1.0, -2.0]]
    assert quality(swept(line, cells=(7,))).locality == 1
    assert quality(swept(line, cells=tuple(range(CELLS * CELLS)))).locality == pytest.approx(0.1, abs=0.01)


def test_what_cannot_be_read_is_unknown() -> None:
    found = quality(swept([[0.5, 1.0, 2.0], [-0.5, -1.0, -2.0]], cells=()), torch.tensor([False, True, True]))
    assert found.model_dump(exclude={"source", "scale", "seeds", "steps"}) == dict.fromkeys(
        ["effect", "selectivity", "consistency", "linearity", "recommended_range", "locality", "drift"]
    )


def test_thumbnails_are_small_and_keep_where_things_are() -> None:
    image = torch.zeros(2, 3, 40, 24)
    image[0, 1, :20] = 1.0
    found = thumbnails(image).reshape(2, 3, CELLS, CELLS)
    assert found[0, 1, :7].min() == 1
    assert not found[0, 1, 9:].any()
    assert not found[1].any()


def test_neighbours_agree_in_pictures_and_not_in_noise() -> None:
    noise = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    picture = torch.linspace(0, 1, 32).expand(2, 3, 32, 32)
    assert agreement(noise).abs().max() < 0.1
    assert agreement(picture).min() > 0.9
