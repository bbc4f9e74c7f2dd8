"""Labelling as a job: a labeler that fails, a pipeline that draws nothing, a run cut short, and no names out of noise."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import eigenbank as eb
from eigenbank.builders.label import study as labelling
from eigenbank.builders.label.criteria import Criteria, Effects
from eigenbank.builders.label.labeler import LabelerError
from eigenbank.builders.label.statistics import StatisticsLabeler
from eigenbank.builders.label.study import Plan, label
from eigenbank.loaders.measure import measure_responses
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas.errors import SteerError

PLAN = Plan(
    scale=2.0, seeds=(0, 1), confirm_seeds=(2, 3, 4), steps=2, null=2, agreement=-1.0
)  # the tiny one draws noise


class Colours:
    """Reads the mean of each channel; fails from the image numbered `fails` on."""

    source = "colours:x"
    names = ("red", "green", "blue")
    stds: Tensor | None = None

    def __init__(self, fails: int | None = None) -> None:
        self.fails = fails
        self.seen = 0

    def read(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        if self.fails is not None and self.seen > self.fails:
            message = "out of ink"
            raise ValueError(message)
        return images.mean(dim=(2, 3))


@pytest.fixture
def bank(tiny_checkpoint: Path) -> DirectionSet:
    return eb.build(str(tiny_checkpoint), recipes=["output-value"], top_k=3)


def texts(bank: DirectionSet) -> dict[str, list[tuple[str, str, int]]]:
    return {each.id: [(one.source, one.text, one.polarity) for one in each.labels] for each in bank}


@pytest.mark.parametrize("fails", [0, 100])
def test_one_that_fails_is_left_out_and_the_others_go_on(fails: int, bank: DirectionSet, tiny_checkpoint: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    said: list[str] = []
    found = label(bank, pipe, [Colours(fails), StatisticsLabeler()], PLAN, say=said.append)
    assert texts(found) == texts(label(bank, pipe, [StatisticsLabeler()], PLAN))
    assert len(said) == 1
    assert "colours:x failed (ValueError: out of ink): it gave no label, the other labelers go on" in said[0]
    with pytest.raises(LabelerError, match=r"out of ink.*no label was given"):
        label(bank, pipe, [Colours(fails)], PLAN)


def test_what_few_seeds_do_not_settle_is_measured_on_more(
    bank: DirectionSet, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []
    chance: list[tuple[int, ...]] = []

    def watched(*args: Any, seeds: Sequence[int], force: bool = False, **how: Any) -> Any:
        (chance if force else asked).append(tuple(seeds))
        return measure_responses(*args, seeds=seeds, force=force, **how)

    def drawn(doubtful: bool, most: int, random: int = 3) -> list[tuple[int, ...]]:
        asked.clear()
        chance.clear()
        monkeypatch.setattr(
            labelling, "unsettled", lambda trust, _: torch.full((len(trust),), doubtful, dtype=torch.bool)
        )
        label(
            bank, pipe, [Colours()], dataclasses.replace(PLAN, confirm_most=most, chance_most=random, quality_seeds=0)
        )
        return asked[1:]  # the screening comes first

    monkeypatch.setattr(labelling, "measure_responses", watched)
    pipe = open_pipeline(tiny_checkpoint)
    assert drawn(False, 12) == [(2, 3, 4)]
    assert drawn(True, 12) == [(2, 3, 4), (5, 6, 7), (8, 9, 10, 11, 12, 13)]
    assert chance == [(2, 3, 4)]  # random directions are read on the first seeds alone
    drawn(True, 12, random=9)
    assert chance == [(2, 3, 4), (5, 7), (6,), (8, 10), (9,)]  # or each of two draws on its share of more
    assert drawn(True, 5) == [(2, 3, 4), (5, 6)]
    assert drawn(True, 3) == [(2, 3, 4)]


def test_a_label_s_evidence_is_of_all_the_seeds_it_took(
    bank: DirectionSet, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    looks = iter([True, False])
    monkeypatch.setattr(
        labelling, "unsettled", lambda trust, _: torch.full((len(trust),), next(looks), dtype=torch.bool)
    )
    monkeypatch.setattr(labelling, "labels_from", lambda found, *_, seeds, **__: [given(found, seeds)] * len(found.odd))
    seen: list[tuple[int, int]] = []

    def given(found: Effects, seeds: Sequence[int]) -> None:
        seen.append((found.odd.shape[1], len(seeds)))

    label(bank, pipe, [Colours()], dataclasses.replace(PLAN, quality_seeds=0))
    assert seen == [(3, 3), (6, 6)]


def test_the_same_random_directions_stand_at_a_place_whatever_is_confirmed(
    bank: DirectionSet, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[set[str]] = []

    def watched(pipe: Any, directions: Sequence[Any], *args: Any, force: bool = False, **how: Any) -> Any:
        if force:
            drawn.append({each.id for each in directions})
        return measure_responses(pipe, directions, *args, force=force, **how)

    def confirming(picked: Callable[[int], list[int]]) -> None:
        monkeypatch.setattr(labelling, "shortlist", lambda found, *_: picked(len(found.odd)))
        label(bank, pipe, [Colours()], dataclasses.replace(PLAN, quality_seeds=0, parts=0))

    pipe = open_pipeline(tiny_checkpoint)
    monkeypatch.setattr(labelling, "confidence", lambda found, *_, **__: torch.ones(len(found.odd)))
    monkeypatch.setattr(labelling, "measure_responses", watched)
    confirming(lambda count: list(range(count)))
    confirming(lambda count: list(range(1, count, 2)))
    every, some = drawn
    assert some
    assert some <= every


def test_chance_is_not_drawn_for_what_cannot_have_a_label(
    bank: DirectionSet, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def watched(*args: Any, force: bool = False, **how: Any) -> Any:
        asked.append(force)
        return measure_responses(*args, force=force, **how)

    def forced(trust: float) -> list[bool]:
        asked.clear()
        monkeypatch.setattr(labelling, "confidence", lambda found, *_, **__: torch.full((len(found.odd),), trust))
        label(bank, pipe, [Colours()], dataclasses.replace(PLAN, quality_seeds=0))
        return asked

    pipe = open_pipeline(tiny_checkpoint)
    monkeypatch.setattr(labelling, "measure_responses", watched)
    assert not any(forced(Criteria().doubt))
    assert any(forced(0.5))


def test_a_labeler_replaces_its_own_labels_only(bank: DirectionSet, tiny_checkpoint: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    once = label(bank, pipe, [StatisticsLabeler()], PLAN)
    both = label(once, pipe, [Colours()], PLAN)
    again = label(both, pipe, [Colours()], PLAN)
    assert texts(again) == texts(both)
    kept = {name: [one for one in labels if one[0] == "statistics"] for name, labels in texts(both).items()}
    assert kept == texts(once)


def test_a_run_cut_short_goes_on_from_there(bank: DirectionSet, tiny_checkpoint: Path, tmp_path: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    whole = Colours()
    expected = texts(label(bank, pipe, [whole], PLAN, cache=tmp_path / "whole"))

    class Cut(Colours):
        def read(self, images: Tensor) -> Tensor:
            if self.seen + len(images) > whole.seen // 2:
                raise KeyboardInterrupt
            return super().read(images)

    cut = Cut()
    with pytest.raises(KeyboardInterrupt):
        label(bank, pipe, [cut], PLAN, cache=tmp_path / "cut")
    rest = Colours()
    assert texts(label(bank, pipe, [rest], PLAN, cache=tmp_path / "cut")) == expected
    assert cut.seen + rest.seen == whole.seen
    third = Colours()
    assert texts(label(bank, pipe, [third], PLAN, cache=tmp_path / "cut")) == expected
    assert third.seen == 0


def test_what_was_drawn_for_one_plan_serves_another(bank: DirectionSet, tiny_checkpoint: Path, tmp_path: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    label(bank, pipe, [Colours()], dataclasses.replace(PLAN, most=1), cache=tmp_path)
    alone, after = Colours(), Colours()
    expected = texts(label(bank, pipe, [alone], PLAN, cache=tmp_path / "alone"))
    assert texts(label(bank, pipe, [after], PLAN, cache=tmp_path)) == expected
    assert after.seen < alone.seen


def test_a_recipe_more_costs_what_it_adds(bank: DirectionSet, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Also where it adds at another site, whose token length is measured first."""
    pipe = open_pipeline(tiny_checkpoint)
    plan = dataclasses.replace(PLAN, parts=0, quality_seeds=0)
    label(bank, pipe, [Colours()], plan, cache=tmp_path)
    both = eb.build(str(tiny_checkpoint), recipes=["output-value", "output-value:output"], top_k=3)
    alone, after = Colours(), Colours()
    expected = texts(label(both, pipe, [alone], plan, cache=tmp_path / "alone"))
    assert texts(label(both, pipe, [after], plan, cache=tmp_path)) == expected
    screened = 2 * len(plan.seeds) * len(bank)
    assert after.seen <= alone.seen - screened


def test_what_is_added_otherwise_is_another_picture(bank: DirectionSet, tiny_checkpoint: Path, tmp_path: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    first, *_ = bank
    longer = bank.manifest.layers[0].model_copy(
        update={"lengths": {at: found.model_copy(update={"length": 2 * found.length}) for at, found in
                            bank.layers[first.layer].lengths.items()}}
    )  # fmt: skip
    assert longer.name == first.layer
    assert longer.lengths
    stretched = bank.replaced(bank.manifest.model_copy(update={"layers": (longer, *bank.manifest.layers[1:])}))
    others = [next(iter(bank.randomised(3))), next(iter(stretched))]

    def drawn(which: list[Any], seeds: tuple[int, ...] = (0,), scale: float = 1.0) -> int:
        reader = Colours()
        measure_responses(pipe, which, reader.read, scale=scale, seeds=seeds, steps=2, force=True, cache=tmp_path)
        return reader.seen

    assert drawn([first]) == 3  # unedited, plus and minus
    assert drawn([first]) == 0
    assert [drawn([other]) for other in others] == [2, 2]
    assert drawn([first], scale=0.5) == 2
    assert drawn([first], seeds=(0, 1)) == 3


def test_a_damaged_reading_is_drawn_again(bank: DirectionSet, tiny_checkpoint: Path, tmp_path: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    expected = texts(label(bank, pipe, [Colours()], PLAN, cache=tmp_path))
    damaged = next(tmp_path.glob("*/scores/*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-7])
    again = Colours()
    assert texts(label(bank, pipe, [again], PLAN, cache=tmp_path)) == expected
    assert 0 < again.seen <= 64


def test_what_was_read_is_not_taken_for_another_measurement(
    bank: DirectionSet, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    label(bank, pipe, [Colours()], PLAN, cache=tmp_path)
    for changed in (Plan(**{**PLAN.__dict__, "scale": 1.0}), Plan(**{**PLAN.__dict__, "steps": 3})):
        fresh = Colours()
        label(bank, pipe, [fresh], changed, cache=tmp_path)
        assert fresh.seen
    with torch.no_grad():
        next(pipe.unet.parameters()).add_(0.01)
    fresh = Colours()
    label(bank, pipe, [fresh], PLAN, cache=tmp_path)
    assert fresh.seen


def test_a_pipeline_that_draws_nothing_is_said_so(bank: DirectionSet, tiny_checkpoint: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    black = type("Black", (type(pipe),), {"__call__": _black})
    pipe.__class__ = black
    with pytest.raises(SteerError, match="blank or not finite: no label was given"):
        label(bank, pipe, [Colours()], PLAN)


def _black(self: object, batch_size: int = 1, **_how: object) -> object:
    import numpy as np

    return type("Output", (), {"images": np.zeros((batch_size, 8, 8, 3), dtype=np.float32)})()


def test_a_score_that_does_not_vary_names_nothing(bank: DirectionSet, tiny_checkpoint: Path) -> None:
    """A stated deviation much larger than what the checkpoint's images show: the score is not read off them."""

    class Stated(Colours):
        stds = torch.tensor([1e3, 1e3, 1e3])

        def read(self, images: Tensor) -> Tensor:
            return super().read(images) * 1e-3 + torch.tensor([1.0, 2.0, 3.0])

    assert not label(bank, open_pipeline(tiny_checkpoint), [Stated()], PLAN).labels


@pytest.mark.parametrize("every", [False, True])
def test_qualities_are_measured_of_the_confirmed_or_of_all(
    every: bool, bank: DirectionSet, tiny_checkpoint: Path
) -> None:
    plan = dataclasses.replace(PLAN, quality_seeds=2, all_qualities=every)
    found = label(bank, open_pipeline(tiny_checkpoint), [Colours(), StatisticsLabeler()], plan)
    known = {each.id: each.quality for each in found if each.quality}
    assert {each.id for each in found if each.labels} <= set(known)
    assert (len(known) == len(bank)) is every
    for quality in known.values():
        assert (quality.source, quality.seeds, quality.steps) == ("colours:x", (2, 3), 2)
        assert quality.locality is not None


def test_what_draws_noise_has_no_names(bank: DirectionSet, tiny_checkpoint: Path) -> None:
    said: list[str] = []
    plan = dataclasses.replace(PLAN, agreement=Plan().agreement)
    found = label(bank, open_pipeline(tiny_checkpoint), [Colours(), StatisticsLabeler()], plan, say=said.append)
    assert not any(each.labels or each.quality for each in found.sliders)
    assert len(said) == 1
    assert "the unedited images are noise" in said[0]
