"""A label is given where one attribute clearly leads and its sign holds, and nowhere else."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eigenbank.builders.label.criteria import (
    Chance,
    Criteria,
    Effects,
    confidence,
    effects,
    labels_from,
    leading,
    promising,
    shortlist,
    strongest,
)
from eigenbank.builders.label.settings import FEWEST, LabelSettings, rounds_of

NAMES = ("smile", "age", "hue")
STD = torch.tensor([1.0, 2.0, 0.5])


def _readings(
    effect: list[list[float]], n: int = 12, noise: float = 0.02, even: float = 0.0, seed: int = 0
) -> list[torch.Tensor]:
    """Readings of directions whose effects per unit scale, in standard deviations, are `effect` (K, 3)."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(n, 3, generator=generator) * STD
    step = torch.tensor(effect)[:, None] * STD
    up, down = (noise * torch.randn(len(effect), n, 3, generator=generator) for _ in range(2))
    return [base, base + step + up + even * step, base - step + down + even * step]


def _labels(effect: list[list[float]], **how: float) -> list[object]:
    found = effects(*_readings(effect, **how), STD, 1.0)  # type: ignore[arg-type]
    return list(labels_from(found, NAMES, Criteria(), source="attribute-model:x", scale=1.0, seeds=range(12), steps=5))


def test_effects_are_in_population_deviations_per_unit_scale() -> None:
    base, plus, minus = _readings([[0.5, -0.25, 0.0]], noise=0.0)
    found = effects(base, plus, minus, STD, 1.0)
    torch.testing.assert_close(found.mean, torch.tensor([[0.5, -0.25, 0.0]]))
    torch.testing.assert_close(found.selectivity, torch.tensor([[2 / 3, 1 / 3, 0.0]]))
    assert found.consistency[0, 0] == 1
    halved = effects(base, plus, minus, STD, 2.0)
    torch.testing.assert_close(halved.mean, found.mean / 2)


def test_the_even_part_shows_as_asymmetry() -> None:
    found = effects(*_readings([[1.0, 0.0, 0.0]], noise=0.0, even=0.5), STD, 1.0)
    torch.testing.assert_close(found.asymmetry[0, 0], torch.tensor(0.5))


def test_a_clear_leader_becomes_the_label_with_its_polarity() -> None:
    up, down = _labels([[0.8, 0.1, 0.1], [0.1, -0.9, 0.2]])
    assert (up.text, up.polarity) == ("smile", 1)
    assert (down.text, down.polarity) == ("age", -1)
    assert down.evidence.effect > 0
    assert down.evidence.runner_up == "hue"
    assert down.evidence.runner_up_effect < 0  # more age comes with less hue
    assert up.confidence == 1


def test_no_label_for_a_mixed_a_weak_or_an_unsteady_direction() -> None:
    assert _labels([[0.8, 0.7, 0.0], [0.1, 0.0, 0.0]]) == [None, None]
    assert _labels([[0.4, 0.0, 0.0]], noise=2.0) == [None]


def test_confidence_is_the_share_of_resamples_in_which_every_criterion_holds() -> None:
    def trust(criteria: Criteria, null: float = 0.0, **how: float) -> float:
        found = effects(*_readings([[0.8, 0.1, 0.1]], noise=0.1, **how), STD, 1.0)
        return float(confidence(found, criteria, Chance(torch.full((1, 1, 12, 3), null)))[0])

    assert trust(Criteria()) == 1
    assert 0.05 < trust(Criteria(effect=0.8)) < 0.95
    assert 0.05 < trust(Criteria(selectivity=0.8)) < 0.95
    assert 0.05 < trust(Criteria(lead=7.0)) < 0.95
    assert 0.05 < trust(Criteria(asymmetry=1.0), even=1.0) < 0.95
    assert 0.05 < trust(Criteria(), null=0.4) < 0.95


def test_a_confidence_that_is_just_reached_is_enough() -> None:
    shares = set()
    for seed in range(14):
        found = effects(*_readings([[0.5, 0.3, 0.1]], noise=0.5, seed=seed), STD, 1.0)
        if leading(found, Criteria())[0] < 0:
            continue
        count = round(float(confidence(found, Criteria())[0]) * 400)
        (given,) = labels_from(
            found, NAMES, Criteria(confidence=count / 400), source="x", scale=1.0, seeds=range(12), steps=5
        )
        assert given is not None
        shares.add(count)
    assert len(shares) > 3


def test_a_direction_that_does_the_same_at_either_sign_gets_no_label() -> None:
    assert _labels([[0.8, 0.1, 0.1]], even=1.5) == [None]


def test_only_the_most_promising_directions_of_each_attribute_are_looked_at_again() -> None:
    found = effects(
        *_readings([[0.8, 0.4, 0.1], [0.8, 0.0, 0.1], [0.1, 0.1, 0.9], [0.8, 0.1, 0.1], [0.5, 0.5, 0.5]]), STD, 1.0
    )
    first = leading(found, Criteria())
    assert first.tolist() == [0, 0, 2, 0, -1]
    assert shortlist(found, first, 2) == {0: [1, 3], 2: [2]}
    assert shortlist(found, first, 9) == {0: [1, 3, 0], 2: [2]}


def test_each_score_has_its_turn_among_the_strongest() -> None:
    # The first score is moved most by all: the second one's best comes in all the same.
    mean = torch.tensor([[9.0, 0.1], [8.0, 0.2], [7.0, -0.5], [6.0, 0.0]])
    assert strongest(mean, 1) == [0]
    assert strongest(mean, 2) == [0, 2]
    assert strongest(mean, 3) == [0, 1, 2]
    assert strongest(mean, 9) == [0, 1, 2, 3]


@given(directions=st.integers(1, 5000), scores=st.integers(1, 30), count=st.integers(1, 20))
def test_screening_looks_at_fewer_directions_on_more_seeds(directions: int, scores: int, count: int) -> None:
    settings = LabelSettings(seeds=tuple(range(count)))
    rounds = rounds_of(directions, scores, settings)
    assert [seed for _, seeds in rounds for seed in seeds] == list(range(count)), "each seed once"
    counts = [each for each, _ in rounds]
    assert counts[0] == directions
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] >= min(directions, max(FEWEST, settings.most * scores))
    assert rounds_of(directions, scores, replace(settings, screening="drawn")) == [(directions, settings.seeds)]


def test_of_many_directions_most_leave_early_and_few_are_all_looked_at_on_all_seeds() -> None:
    settings = LabelSettings()
    assert [(count, len(seeds)) for count, seeds in rounds_of(2240, 20, settings)] == [
        (2240, 1),
        (747, 1),
        (560, 2),
        (FEWEST, 4),
    ]
    assert {count for count, _ in rounds_of(336, 11, settings)} == {336}


def test_a_first_look_loses_nothing_that_would_pass() -> None:
    generator = torch.Generator().manual_seed(3)
    effect = torch.randn(200, 3, generator=generator).tolist()
    found = effects(*_readings(effect), STD, 1.0)
    strict, loose = leading(found, Criteria()), leading(found, Criteria().loosened())
    assert bool((loose[strict >= 0] == strict[strict >= 0]).all())
    assert (loose >= 0).sum() > (strict >= 0).sum() > 0


def test_a_first_look_keeps_what_other_seeds_might_name() -> None:
    generator = torch.Generator().manual_seed(0)
    # The first attribute leads, on three of these eight seeds with the other sign.
    odd = torch.tensor([[0.8, 0.1]]).expand(8, 2).clone()
    odd[:3, 0] = -0.2
    odd = torch.stack([odd, 0.01 * torch.randn(8, 2, generator=generator)])
    found = Effects(odd, torch.zeros_like(odd))
    loose = Criteria().loosened()
    assert leading(found, loose).tolist() == [-1, -1]
    assert promising(found, loose).tolist() == [0, -1]
    assert promising(found, loose, share=0.9).tolist() == [-1, -1]


def test_a_label_must_beat_random_directions_at_its_place() -> None:
    found = effects(*_readings([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1]]), STD, 1.0)
    null = torch.tensor([[0.3, 9.0, 9.0], [0.5, 0.0, 0.0]])  # what random ones do to other scores does not matter
    chance = Chance(null[None, :, None].expand(1, 2, 12, 3))
    assert leading(found, Criteria(), chance).tolist() == [0, -1]
    how = {"source": "attribute-model:x", "scale": 1.0, "seeds": range(12), "steps": 5}
    first, second = labels_from(found, NAMES, Criteria(), chance=chance, **how)  # type: ignore[arg-type]
    assert first is not None
    assert first.evidence is not None
    assert first.evidence.null == round(float(null[0, 0]), 4)
    assert second is None


def test_the_null_is_the_root_mean_square_over_draws_of_the_mean_over_seeds() -> None:
    odd = torch.tensor([[[0.1, 0.5], [2.0, 2.0]], [[-0.4, -0.4], [0.0, 0.0]]])[
        ..., None
    ]  # 2 draws at 2 places, 2 seeds
    chance = Chance(odd)
    torch.testing.assert_close(chance.null, torch.tensor([[0.125**0.5], [2.0**0.5]]))
    torch.testing.assert_close(chance.rows([1]).null, chance.null[1:])
    torch.testing.assert_close(chance.on(torch.tensor([0, 0])).null[0], torch.tensor([0.085**0.5]))


def test_draws_of_chance_can_have_seeds_of_their_own() -> None:
    odd = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5.0, 7.0])
    chance = Chance([draw[None, :, None] for draw in odd], [torch.tensor([0, 1, 3]), torch.tensor([0, 2])])
    assert float(chance.null) == pytest.approx((0.5 * (4 + 36)) ** 0.5)
    assert float(chance.on(torch.tensor([3, 3, 2, 1])).null) == pytest.approx((0.5 * ((8 / 3) ** 2 + 49)) ** 0.5)
    unread = chance.on(torch.tensor([1, 3]))  # by the second
    assert float(unread.null) == pytest.approx((0.5 * (2.5**2 + 36)) ** 0.5)


def test_what_moves_on_the_same_seeds_by_chance_too_is_trusted() -> None:
    """Of a score that only some seeds show, a direction moves three times what random ones do wherever that is something."""
    shown = torch.tensor([1.0] * 4 + [0.2] * 8)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    base = torch.zeros(12, 3)
    step = 0.9 * shown * STD
    found = effects(base, (base + step)[None], (base - step)[None], STD, 1.0)
    criteria = Criteria(effect=0.05)
    assert confidence(found, criteria, Chance(0.3 * shown[None, None])) == 1
    apart = 0.3 * shown.roll(4, dims=0)  # as measured on other seeds
    assert confidence(found, criteria, Chance(apart[None, None])) < 0.95


def test_what_cannot_be_read_has_no_effect() -> None:
    found = effects(*_readings([[0.8, 0.5, 0.1]]), STD, 1.0).of(torch.tensor([False, True, True]))
    assert found.mean[0, 0] == 0
    assert leading(found, Criteria()).tolist() == [1]


@pytest.mark.parametrize("scores", [2, 11, 21, 61])
def test_a_slider_keeps_its_name_however_many_words_are_asked_about(scores: int) -> None:
    """Others that move a fifth as much on average are just allowed; fewer than eleven may not move more than a third leaves."""
    others = torch.full((scores - 1,), 0.2 if scores >= 11 else 0.9)
    effect = torch.cat([torch.ones(1), others])
    for factor, passes in ((0.99, True), (1.02, scores < 11)):
        mean = torch.cat([effect[:1], effect[1:] * factor])
        found = Effects(mean.expand(1, 6, -1).clone(), torch.zeros(1, 6, scores))
        lead = leading(found, replace(Criteria(), lead=1.0))
        assert (lead.tolist() == [0]) == passes
    assert Criteria().least_share(11) == pytest.approx(1 / 3)
    # What cannot be read does not count.
    padded = torch.cat([effect * torch.tensor([1.0, *[0.99] * (scores - 1)]), torch.zeros(40)])
    found = Effects(padded.expand(1, 6, -1).clone(), torch.zeros(1, 6, scores + 40))
    assert leading(found, replace(Criteria(), lead=1.0)).tolist() == [0]
