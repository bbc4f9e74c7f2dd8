"""Composites: found where directions can be added up to one thing, and worth no more than was measured."""

import datetime

import pytest
import torch
from torch import Tensor

from eigenbank.builders.label.composites import (
    NORM,
    fit,
    in_own_unit,
    label_in_own_unit,
    name_for,
    predicted,
    quality_in_own_unit,
)
from eigenbank.builders.label.criteria import Criteria, Effects, leading
from eigenbank.schemas import CompositeRecord, Evidence, Label, Quality, Weighted

SEEDS = 6


def measured(mean: list[list[float]], noise: float = 0.0) -> Effects:
    """Effects `(K, f)` seen on six seeds, with so much scatter between them."""
    truth = torch.tensor(mean)
    scatter = torch.randn(len(truth), SEEDS, truth.shape[1], generator=torch.Generator().manual_seed(0))
    odd = truth[:, None] + noise * (scatter - scatter.mean(dim=1, keepdim=True))
    return Effects(odd, torch.zeros_like(odd))


MIXED = measured([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.5, 1.0]])


def test_two_mixed_directions_make_two_pure_ones() -> None:
    assert (leading(MIXED, Criteria()) == -1).sum() >= 2
    weights = fit(MIXED)
    pure = predicted(MIXED, weights)
    assert leading(pure, Criteria()).tolist() == [0, 1, 2]
    assert float(pure.selectivity.diagonal().min()) > 0.8
    torch.testing.assert_close(weights.norm(dim=1), torch.full((3,), NORM))


def test_what_is_known_badly_gets_little_weight() -> None:
    steady, wild = measured([[1.0, 0.0], [0.0, 1.0]]), measured([[1.0, 0.0], [0.0, 1.0]], noise=5.0)
    both = Effects(torch.cat([steady.odd, wild.odd]), torch.cat([steady.even, wild.even]))
    weights = fit(both)
    assert weights[0, 0] > 10 * weights[0, 2] > 0


def test_only_the_most_useful_parts_are_kept() -> None:
    weights = fit(MIXED, parts=2)
    assert ((weights != 0).sum(dim=1) == 2).all()
    torch.testing.assert_close(weights.norm(dim=1), torch.full((3,), NORM))
    assert weights[0, 2] == 0


def test_a_score_that_nothing_moves_has_no_composite() -> None:
    assert not fit(measured([[1.0, 0.0], [0.5, 0.0]]))[1].any()


def test_many_directions_and_one_seed_are_fitted_too() -> None:
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(3000, 4, generator=generator)
    found = Effects(mean[:, None], torch.zeros_like(mean[:, None]))
    direct = torch.linalg.solve(mean[:200] @ mean[:200].T + 0.1 * torch.eye(200), mean[:200])
    expected: Tensor = NORM * (direct / direct.norm(dim=0)).T
    torch.testing.assert_close(fit(found.rows(range(200)), parts=200), expected, atol=1e-4, rtol=1e-3)
    assert ((fit(found) != 0).sum(dim=1) == 32).all()


@pytest.mark.parametrize(
    ("text", "taken", "name"),
    [("Hair length", (), "hair-length"), ("smile", ("smile", "smile-2"), "smile-3"), ("笑顔", (), "composite")],
)
def test_names(text: str, taken: tuple[str, ...], name: str) -> None:
    assert name_for(text, taken) == name


def test_a_composites_scale_of_one_is_the_scale_it_was_measured_at() -> None:
    record = CompositeRecord(
        name="smile", parts=(Weighted(direction="a/b/0", weight=0.4), Weighted(direction="a/b/1", weight=-0.3))
    )
    evidence = Evidence(
        effect=2.0, runner_up="beard", runner_up_effect=-1.0, null=0.5, selectivity=0.4, consistency=1.0, scale=0.25, seeds=(1,), steps=2
    )  # fmt: skip
    label = Label(
        text="smile",
        source="statistics",
        polarity=1,
        confidence=1.0,
        evidence=evidence,
        created=datetime.datetime.now(datetime.timezone.utc),
    )
    quality = Quality(
        source="statistics",
        effect=2.0,
        drift=1.0,
        linearity=0.9,
        recommended_range=(-0.25, 0.5),
        scale=0.25,
        seeds=(1,),
        steps=2,
    )
    assert [part.weight for part in in_own_unit(record, 0.25).parts] == [0.1, -0.075]
    found = label_in_own_unit(label, 0.25).evidence
    assert found is not None
    assert (found.effect, found.runner_up_effect, found.null, found.selectivity, found.scale) == (
        0.5,
        -0.25,
        0.125,
        0.4,
        1.0,
    )
    scaled = quality_in_own_unit(quality, 0.25)
    assert (scaled.effect, scaled.drift, scaled.linearity, scaled.recommended_range, scaled.scale) == (
        0.5,
        0.25,
        0.9,
        (-1.0, 2.0),
        1.0,
    )
    # What one unit does is the same in both units.
    assert found.effect * 1.0 == label.evidence.effect * 0.25  # type: ignore[union-attr]
