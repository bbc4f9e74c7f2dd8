"""Labelling as a job: a labeler that fails, a pipeline that draws nothing, a run cut short, and no names out of noise."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import tiny_pipelines
import torch
from loras import lora_of
from safetensors.torch import load_file
from torch import Tensor

from eigenbank.builders.build import build
from eigenbank.builders.checkpoints.folder import open_folder
from eigenbank.builders.label import candidates, criteria, study
from eigenbank.builders.label.budget import Budget, BudgetError, Spending, as_budget
from eigenbank.builders.label.criteria import Criteria, Effects
from eigenbank.builders.label.labeler import LabelerError
from eigenbank.builders.label.readings import Readings
from eigenbank.builders.label.settings import LabelSettings
from eigenbank.builders.label.statistics import StatisticsLabeler
from eigenbank.loaders import measure
from eigenbank.loaders.measure import PipelineMeasurements
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.naming import label
from eigenbank.registry.files import home
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas import Label, TokenLength
from eigenbank.schemas.errors import SteerError

SETTINGS = LabelSettings(
    scale=2.0,
    screening="drawn",
    seeds=(0, 1),
    confirm_seeds=(2, 3, 4),
    confirm_most=6,
    chance_most=3,
    steps=2,
    null=2,
    quality_seeds=0,
    parts=3,
    agreement=-1.0,
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


class Measured(NamedTuple):
    """A call for measurements: whether of random directions, on which seeds, of which sliders."""

    random: bool
    seeds: tuple[int, ...]
    ids: frozenset[str]


@pytest.fixture(scope="module")
def bank(tiny_checkpoint: Path) -> DirectionSet:
    return build(open_folder(tiny_checkpoint), "a/b", recipes=["output-value"], top_k=2)


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint: Path) -> Any:
    """The tiny pipeline. Not to be changed."""
    return open_pipeline(tiny_checkpoint)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Readings shared by the tests that are not about generating images."""
    return tmp_path_factory.mktemp("readings")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Measured]:
    """The calls for measurements made so far."""
    calls: list[Measured] = []
    real = PipelineMeasurements.edited

    def watched(self: PipelineMeasurements, sliders: Any, read: Any, *, seeds: Any, force: bool, **how: Any) -> Any:
        calls.append(Measured(force, tuple(seeds), frozenset(each.id for each in sliders)))
        return real(self, sliders, read, seeds=seeds, force=force, **how)

    monkeypatch.setattr(PipelineMeasurements, "edited", watched)
    return calls


def with_settings(**changes: Any) -> LabelSettings:
    return dataclasses.replace(SETTINGS, **changes)


def texts(bank: DirectionSet) -> dict[str, list[tuple[str, str, int]]]:
    return {each.id: [(one.source, one.text, one.polarity) for one in each.labels] for each in bank}


@pytest.mark.parametrize("fails", [0, 70])
def test_one_that_fails_is_left_out_and_the_others_go_on(fails: int, bank: DirectionSet, pipe: Any, kept: Path) -> None:
    said: list[str] = []
    found = label(pipe, bank, [Colours(fails), StatisticsLabeler()], SETTINGS, log=said.append)
    assert texts(found) == texts(label(pipe, bank, [StatisticsLabeler()], SETTINGS, cache=kept))
    assert len(said) == 2
    assert "colours:x failed (ValueError: out of ink): it gave no label, the other labelers go on" in said[1]
    with pytest.raises(LabelerError, match=r"out of ink.*no label was given"):
        label(pipe, bank, [Colours(fails)], SETTINGS)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"all_qualities": True, "quality_seeds": 2, "chance_most": 5},
        {"parts": 0, "quality_seeds": 1, "confirm_most": 2},
    ],
)
@pytest.mark.parametrize("doubtful", [True, False])
def test_what_it_takes_at_most_is_said_first_and_progress_is_that_of_the_whole(
    doubtful: bool,
    changes: dict[str, Any],
    bank: DirectionSet,
    pipe: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(candidates, "unsettled", lambda trust, _: torch.full((len(trust),), doubtful, dtype=torch.bool))
    reports: list[tuple[str, int, int]] = []
    said: list[str] = []

    def labelled(cache: Path | None) -> int:
        reports.clear()
        reader = Colours()
        progress = lambda *report: reports.append(report)  # noqa: E731
        label(pipe, bank, [reader], with_settings(**changes), progress=progress, log=said.append, cache=cache)
        return reader.seen

    drawn = labelled(None)
    most = reports[0][2]
    assert said[0] == f"at most {most:,} images × 2 steps × 1 pass, at 8×8, on cpu"
    done = [each[1] for each in reports]
    assert done == sorted(done)
    assert reports[0][1] == 0
    assert done[-1] == drawn == reports[-1][2] <= most
    assert [each[2] for each in reports] == sorted((each[2] for each in reports), reverse=True)
    labelled(tmp_path)
    assert labelled(tmp_path) == 0
    assert {each[1] for each in reports} == {0}, "what was kept took no time"


def test_directions_are_screened_in_predicted_pictures(
    bank: DirectionSet, pipe: Any, measured: list[Measured], tmp_path: Path
) -> None:
    settings = with_settings(screening="predicted", seeds=(0, 1, 20, 21, 22, 23, 24, 25), most=1)
    passes: list[int] = []
    counting = pipe.unet.register_forward_pre_hook(lambda _module, args: passes.append(len(args[0])))
    try:
        reader, reports = Colours(), []
        label(pipe, bank, [reader], settings, progress=lambda *at: reports.append(at), cache=tmp_path)
    finally:
        counting.remove()
    assert all(seed not in (0, 1) for each in measured for seed in each.seeds), "no whole picture is drawn to screen"
    assert [each[0] for each in reports].count("screening") > 0
    assert sum(passes) < settings.steps * reader.seen, "fewer passes than the pictures that were read would have taken"
    again = Colours()
    label(pipe, bank, [again], settings, cache=tmp_path)
    assert again.seen == 0


def test_a_budget_is_kept_and_what_it_leaves_out_is_said(bank: DirectionSet, pipe: Any, tmp_path: Path) -> None:
    def labelled(images: int | None) -> tuple[int, str]:
        reader, said = Colours(), []
        budget = None if images is None else Budget(images=images)
        settings = with_settings(budget=budget, seeds=(0,), most=4, per_word=9)
        totals.clear()
        progress = lambda _what, _done, total: totals.append(total)  # noqa: E731
        label(pipe, bank, [reader], settings, cache=tmp_path, log=said.append, progress=progress)
        return reader.seen, "\n".join(said)

    totals: list[int] = []
    population = len(study.POPULATION)
    with pytest.raises(BudgetError, match="too small: 32 images are drawn before any is edited"):
        labelled(population)
    assert not list(tmp_path.rglob("*.safetensors")), "and none was drawn"
    with pytest.raises(BudgetError, match="too small to screen a single direction"):
        labelled(population + 1)
    seen, said = labelled(60)
    assert 0 < seen <= 60
    assert said.startswith("at most 60 images")
    assert max(totals) == 60
    assert re.search(r"the budget of 60 images is spent: \d+ directions and composites were not examined", said)
    more, said = labelled(None)
    assert more > 0
    assert "budget" not in said
    assert labelled(None)[0] == 0


def test_directions_that_cannot_act_are_screened_last(
    bank: DirectionSet, pipe: Any, measured: list[Measured], tmp_path: Path
) -> None:
    known = PipelineMeasurements(pipe, 2).calibrated(bank)
    weak = known.manifest.layers[0]
    endless = TokenLength(length=1e8, source="calibration")
    changed = weak.model_copy(update={"lengths": {**weak.lengths, "block-input": endless}})
    layers = (changed, *known.manifest.layers[1:])
    known = known.replaced(known.manifest.model_copy(update={"layers": layers}))

    def screened(images: int | None) -> tuple[frozenset[str], str]:
        said: list[str] = []
        measured.clear()
        budget = None if images is None else Budget(images=images)
        label(pipe, known, [Colours()], with_settings(budget=budget, seeds=(0,)), cache=tmp_path, log=said.append)
        return measured[0].ids, "\n".join(said)

    idle = {each.id for each in known if each.layer == weak.name}
    few, said = screened(len(study.POPULATION) + 28)
    assert few
    assert not few & idle
    assert f"{len(idle)} of {len(known)} directions hardly reach the picture" in said
    assert screened(None)[0] == {each.id for each in known}


@pytest.mark.parametrize("images", [90, 120, 150, 200])
def test_no_more_is_drawn_than_the_budget_whatever_is_in_doubt(
    images: int, bank: DirectionSet, pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all is in doubt, and so wants more seeds and chance on these."""
    trust = iter(lambda: 0.97, None)
    monkeypatch.setattr(candidates, "confidence", lambda found, *_, **__: torch.full((len(found.odd),), next(trust)))
    reader = Colours()
    settings = with_settings(budget=Budget(images=images), seeds=(0,), per_word=9, confirm_most=48, chance_most=48)
    label(pipe, bank, [reader], settings, cache=tmp_path, log=lambda _: None)
    assert len(study.POPULATION) < reader.seen <= images


def test_what_is_kept_is_read_from_the_disk_once(
    bank: DirectionSet, pipe: Any, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(pipe, bank, [Colours()], SETTINGS, cache=kept)
    opened: list[Path] = []
    monkeypatch.setattr(measure, "load_file", lambda path: opened.append(path) or load_file(path))
    label(pipe, bank, [Colours()], SETTINGS, cache=kept)
    assert opened
    assert len(opened) == len(set(opened))


@pytest.mark.parametrize(
    ("text", "images", "seconds"),
    [("2000", 2000, None), ("1 image", 1, None), ("90s", None, 90), (" 30m", None, 1800), ("1.5 h", None, 5400)],
)
def test_a_budget_is_images_or_a_time(text: str, images: int | None, seconds: float | None) -> None:
    assert as_budget(text) == Budget(images, seconds)


@pytest.mark.parametrize("text", ["", "0", "0m", "-5", "1.5", "m", "30 minutes of it", "1e9", "９m", "9" * 30])
def test_anything_else_is_no_budget(text: str) -> None:
    with pytest.raises(BudgetError, match="no budget"):
        as_budget(text)


def test_a_time_is_kept_by_the_pace_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    spending = Spending(Budget(seconds=100), started=0)
    monkeypatch.setattr("time.monotonic", lambda: 20.0)
    assert spending.room == float("inf"), "nothing drawn yet: the pace is not known"
    spending.drawn = 40
    assert spending.room == 160
    assert Spending(None).room == float("inf")


def test_where_pictures_cannot_be_predicted_they_are_drawn(
    bank: DirectionSet, pipe: Any, measured: list[Measured], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        message = "its pictures cannot be predicted"
        raise SteerError(message)

    monkeypatch.setattr(PipelineMeasurements, "predicted", refused)
    said: list[str] = []
    label(pipe, bank, [Colours()], with_settings(screening="predicted"), cache=kept, log=said.append)
    assert any("cannot be predicted: whole images are drawn instead" in line for line in said)
    assert measured[0].seeds == SETTINGS.seeds


def test_what_few_seeds_do_not_settle_is_measured_on_more(
    bank: DirectionSet, pipe: Any, kept: Path, measured: list[Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    def seeds(trust: float, most: int, chance: int = 3) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        measured.clear()
        monkeypatch.setattr(candidates, "confidence", lambda found, *_, **__: torch.full((len(found.odd),), trust))
        settings = with_settings(confirm_most=most, chance_most=chance, parts=0, most=1, per_word=9)
        label(pipe, bank, [Colours()], settings, cache=kept)
        # The screening comes first.
        return [each.seeds for each in measured if not each.random][1:], [
            each.seeds for each in measured if each.random
        ]

    # Random directions are measured beside what holds by itself, each of two draws on its share of the seeds.
    assert seeds(1.0, 12) == ([(2, 3, 4)], [(2, 4), (3,)])
    assert seeds(0.05, 12) == ([(2, 3, 4)], []), "hopeless"
    assert seeds(0.4, 12) == ([(2, 3, 4), (5, 6, 7)], []), "not hopeless at first, but unlikely"
    doubtful = [(2, 3, 4), (5, 6, 7), (8, 9, 10, 11, 12, 13)]
    assert seeds(0.9, 12) == (doubtful, [])
    assert seeds(0.96, 12) == (doubtful, [(2, 4), (3,)]), "enough, where there are no more seeds"
    assert seeds(0.96, 12, chance=9) == (doubtful, [(2, 4, 6, 8, 10), (3, 5, 7, 9)])
    assert seeds(0.96, 5)[0] == [(2, 3, 4), (5, 6)]
    assert seeds(0.96, 3)[0] == [(2, 3, 4)]


def test_what_half_of_the_seeds_leave_no_hope_is_drawn_on_no_more(
    bank: DirectionSet, pipe: Any, kept: Path, measured: list[Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = with_settings(confirm_seeds=tuple(range(10, 18)), confirm_most=8, parts=0, most=2, per_word=9)

    def drawn(lost: int) -> list[tuple[int, tuple[int, ...]]]:
        measured.clear()
        trust = lambda found, *_, **__: torch.tensor([0.02] * lost + [0.03] * len(found.odd))[: len(found.odd)]  # noqa: E731
        monkeypatch.setattr(candidates, "confidence", trust)
        label(pipe, bank, [Colours()], settings, cache=kept)
        return [(len(each.ids), each.seeds) for each in measured if not each.random][1:]

    everything = drawn(0)
    count = everything[0][0]
    assert everything == [(count, (10, 11, 12, 13)), (count, (14, 15, 16, 17))]
    assert count > 1
    assert drawn(1) == [(count, (10, 11, 12, 13)), (count - 1, (14, 15, 16, 17))]
    assert drawn(count) == [(count, (10, 11, 12, 13))]


def test_a_label_s_evidence_is_of_all_the_seeds_it_took(
    bank: DirectionSet, pipe: Any, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust = iter([0.9, 1.0, 1.0])
    monkeypatch.setattr(candidates, "confidence", lambda found, *_, **__: torch.full((len(found.odd),), next(trust)))
    seen: list[tuple[int, int]] = []

    def labels_from(found: Effects, *_: Any, seeds: tuple[int, ...], **__: Any) -> list[None]:
        seen.append((found.odd.shape[1], len(seeds)))
        return [None] * len(found.odd)

    monkeypatch.setattr(candidates, "labels_from", labels_from)
    label(pipe, bank, [Colours()], with_settings(parts=0, most=1, per_word=9), cache=kept)
    assert seen == [(6, 6)]


def test_the_same_random_directions_stand_in_whatever_is_confirmed(
    bank: DirectionSet, pipe: Any, kept: Path, measured: list[Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    def random(start: int, step: int) -> frozenset[str]:
        measured.clear()
        monkeypatch.setattr(candidates, "shortlist", lambda found, *_: {0: list(range(start, len(found.odd), step))})
        label(pipe, bank, [Colours()], with_settings(parts=0, per_word=99), cache=kept)
        return frozenset().union(*(each.ids for each in measured if each.random))

    monkeypatch.setattr(candidates, "confidence", lambda found, *_, **__: torch.ones(len(found.odd)))
    every, some = random(0, 1), random(1, 2)
    assert some
    assert some <= every


@pytest.mark.parametrize(("trust", "random"), [(Criteria().hopeless, False), (0.97, True)])
def test_chance_is_not_measured_for_what_cannot_have_a_label(
    trust: float, random: bool, bank: DirectionSet, pipe: Any, kept: Path, measured: list[Measured],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(candidates, "confidence", lambda found, *_, **__: torch.full((len(found.odd),), trust))
    label(pipe, bank, [Colours()], SETTINGS, cache=kept)
    assert any(each.random for each in measured) is random


def test_a_labeler_replaces_its_own_labels_only(bank: DirectionSet, pipe: Any, kept: Path) -> None:
    once = label(pipe, bank, [StatisticsLabeler()], SETTINGS, cache=kept)
    both = label(pipe, once, [Colours()], SETTINGS, cache=kept)
    again = label(pipe, both, [Colours()], SETTINGS, cache=kept)
    assert texts(again) == texts(both)
    assert {name: [one for one in labels if one[0] == "statistics"] for name, labels in texts(both).items()} == texts(
        once
    )


def test_a_run_cut_short_goes_on_from_there(bank: DirectionSet, pipe: Any, tmp_path: Path) -> None:
    whole = Colours()
    expected = texts(label(pipe, bank, [whole], SETTINGS, cache=tmp_path / "whole"))

    class Cut(Colours):
        def read(self, images: Tensor) -> Tensor:
            if self.seen + len(images) > whole.seen // 2:
                raise KeyboardInterrupt
            return super().read(images)

    cut, rest, third = Cut(), Colours(), Colours()
    with pytest.raises(KeyboardInterrupt):
        label(pipe, bank, [cut], SETTINGS, cache=tmp_path / "cut")
    assert texts(label(pipe, bank, [rest], SETTINGS, cache=tmp_path / "cut")) == expected
    assert cut.seen + rest.seen == whole.seen
    assert texts(label(pipe, bank, [third], SETTINGS, cache=tmp_path / "cut")) == expected
    assert third.seen == 0
    # What is damaged is generated again.
    damaged = next((tmp_path / "cut").glob("*/scores/*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-7])
    again = Colours()
    assert texts(label(pipe, bank, [again], SETTINGS, cache=tmp_path / "cut")) == expected
    assert 0 < again.seen <= 64


def test_what_was_read_for_some_settings_or_recipes_serves_others(
    bank: DirectionSet, pipe: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Also where a recipe adds at another site, whose token length is measured first."""
    label(pipe, bank, [Colours()], with_settings(most=1), cache=tmp_path)
    both = build(open_folder(tiny_checkpoint), "a/b", recipes=["output-value", "output-value:output"], top_k=2)
    for directions, settings in ((bank, SETTINGS), (both, with_settings(parts=0))):
        alone, after = Colours(), Colours()
        expected = texts(label(pipe, directions, [alone], settings, cache=tmp_path / "alone" / str(len(directions))))
        assert texts(label(pipe, directions, [after], settings, cache=tmp_path)) == expected
        screened = 2 * len(SETTINGS.seeds) * len(bank)
        assert after.seen <= alone.seen - screened


class Words(Colours):
    """Knows words by an embedding, which is an image's colours."""

    features_width = 3

    def __init__(self, words: dict[str, tuple[float, float, float]]) -> None:
        super().__init__()
        self.source = "words:x"
        self.names = tuple(words)  # type: ignore[assignment]
        self.axes = torch.tensor(list(words.values())).float()

    def features(self, images: Tensor) -> Tensor:
        return super().read(images)

    def scores(self, features: Tensor) -> Tensor:
        return features @ self.axes.T

    def read(self, images: Tensor) -> Tensor:
        return self.scores(self.features(images))


def test_other_words_are_read_off_what_was_kept(bank: DirectionSet, pipe: Any, tmp_path: Path) -> None:
    settings = with_settings(screening="predicted", seeds=(0, 1), parts=0, most=1)
    first = Words({"red": (1, 0, 0), "blue": (0, 0, 1)})
    second, alone = (Words({"warm": (1, 0, -1), "green": (-1, 2, -1)}) for _ in range(2))
    label(pipe, bank, [first], settings, cache=tmp_path)
    found = label(pipe, bank, [second], settings, cache=tmp_path)
    expected = label(pipe, bank, [alone], settings, cache=tmp_path / "alone")
    assert texts(found) == texts(expected)
    assert second.seen <= alone.seen - len(study.POPULATION) - 2 * len(bank) * len(settings.seeds[:1])


def test_a_word_alone_leads_nothing(bank: DirectionSet, pipe: Any) -> None:
    with pytest.raises(LabelerError, match="has one name, 'red': it is given where its score leads others"):
        label(pipe, bank, [Words({"red": (1, 0, 0)})], SETTINGS)


def test_what_is_added_otherwise_is_another_picture(bank: DirectionSet, pipe: Any, tmp_path: Path) -> None:
    first, *_ = bank
    other = next(iter(bank.randomised(3)))

    def generated(which: list[Any], seeds: tuple[int, ...] = (0,), scale: float = 1.0) -> int:
        reader = Colours()
        PipelineMeasurements(pipe, 2).edited(which, reader.read, scale=scale, seeds=seeds, force=True, cache=tmp_path)
        return reader.seen

    assert generated([first]) == 3  # unedited, plus and minus
    assert generated([first]) == 0
    assert generated([other]) == 2
    assert generated([first], scale=0.5) == 2
    assert generated([first], seeds=(0, 1)) == 3


def test_what_was_read_is_not_taken_for_another_measurement(
    bank: DirectionSet, pipe: Any, tiny_checkpoint: Path, kept: Path
) -> None:
    def seen(pipe: Any, settings: LabelSettings) -> int:
        fresh = Colours()
        label(pipe, bank, [fresh], settings, cache=kept)
        return fresh.seen

    seen(pipe, SETTINGS)
    assert seen(pipe, SETTINGS) == 0
    assert seen(pipe, with_settings(scale=1.0)) > 0
    assert seen(pipe, with_settings(steps=3)) > 0
    changed = open_pipeline(tiny_checkpoint)
    with torch.no_grad():
        next(changed.unet.parameters()).add_(0.01)
    assert seen(changed, SETTINGS) > 0
    other = Colours()
    other.digest = "other words"  # type: ignore[attr-defined]
    label(pipe, bank, [other], SETTINGS, cache=kept)
    assert other.seen > 0


def test_a_pipeline_that_draws_nothing_is_said_so(bank: DirectionSet, tiny_checkpoint: Path) -> None:
    black = open_pipeline(tiny_checkpoint)
    black.__class__ = type("Black", (type(black),), {"__call__": _black})
    with pytest.raises(SteerError, match="blank or not finite: no label was given"):
        label(black, bank, [Colours()], SETTINGS)


def _black(self: object, batch_size: int = 1, num_inference_steps: int = 1, **_how: object) -> object:
    import numpy as np

    return type("Output", (), {"images": np.zeros((batch_size, 8, 8, 3), dtype=np.float32)})()


def test_a_score_that_does_not_vary_names_nothing(bank: DirectionSet, pipe: Any) -> None:
    """A stated deviation much larger than what the checkpoint's images show: the score is not read off them."""

    class Stated(Colours):
        stds = torch.tensor([1e3, 1e3, 1e3])

        def read(self, images: Tensor) -> Tensor:
            return super().read(images) * 1e-3 + torch.tensor([1.0, 2.0, 3.0])

    assert not label(pipe, bank, [Stated()], SETTINGS).labels


@pytest.mark.parametrize("every", [False, True])
def test_qualities_are_measured_of_the_confirmed_or_of_all(
    every: bool, bank: DirectionSet, pipe: Any, kept: Path
) -> None:
    settings = with_settings(quality_seeds=2, all_qualities=every)
    found = label(pipe, bank, [Colours(), StatisticsLabeler()], settings, cache=kept)
    known = {each.id: each.quality for each in found if each.quality}
    assert {each.id for each in found if each.labels} <= set(known)
    assert (len(known) == len(bank)) is every
    for quality in known.values():
        assert (quality.source, quality.seeds, quality.steps) == ("colours:x", (2, 3), 2)
        assert quality.locality is not None


def test_what_draws_noise_has_no_names(bank: DirectionSet, pipe: Any, kept: Path) -> None:
    said: list[str] = []
    settings = with_settings(agreement=LabelSettings().agreement)
    found = label(pipe, bank, [Colours(), StatisticsLabeler()], settings, cache=kept, log=said.append)
    assert not any(each.labels or each.quality for each in found.sliders)
    assert len(said) == 2
    assert "the unedited images are noise" in said[1]


def test_prompts_are_spread_over_the_seeds_and_labelers_are_given_by_name(tmp_path: Path) -> None:
    """The picture of a seed, and so its prompt, is the same whatever else is in the batch, and whatever is asked about."""
    pipe = open_pipeline(tiny_pipelines.save("sd", tmp_path / "sd"))
    directions = build(open_folder(tmp_path / "sd" / "unet"), "a/b", recipes=["output-value"], top_k=1)
    call: dict[str, Any] = {"prompts": ["a", "b c"], "guidance_scale": 3.0}
    read = Colours().read
    several = PipelineMeasurements(pipe, 2, **call).edited(list(directions), read, scale=2.0, seeds=[3, 4, 5])
    for seed, prompt in ((3, "b c"), (4, "a"), (5, "b c")):
        alone = PipelineMeasurements(pipe, 2, batch=1, prompts=[prompt], guidance_scale=3.0)
        found = alone.edited(list(directions), read, scale=2.0, seeds=[seed])
        for part, whole in zip(found, several, strict=True):
            torch.testing.assert_close(part[..., 0, :], whole[..., seed - 3, :], atol=1e-3, rtol=0)
    labelled = label(pipe, directions, ["statistics"], SETTINGS, cache=tmp_path / "kept", **call)
    assert texts(label(pipe, directions, None, SETTINGS, cache=tmp_path / "kept", **call)) == texts(labelled)


def test_loras_are_measured_beside_the_directions_and_take_no_name_from_them(
    tmp_path: Path, measured: list[Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    pipe = open_pipeline(tiny_pipelines.save("sd", tmp_path / "sd"))
    plain = build(open_folder(tmp_path / "sd" / "unet"), "a/b", recipes=["output-value"], top_k=1)
    with_lora = plain.import_lora(lora_of(pipe.unet, "unet", tmp_path / "a.safetensors"), "smile")
    monkeypatch.setattr(candidates, "confidence", lambda found, *_, **__: torch.ones(len(found.odd)))
    monkeypatch.setattr(criteria, "leading", lambda found, *_: found.mean.abs().argmax(dim=1))
    settings = with_settings(quality_seeds=2, parts=0, per_word=1)
    without = label(pipe, plain, [Colours()], settings, cache=tmp_path / "kept", prompts=["a"])
    found = label(pipe, with_lora, [Colours()], settings, cache=tmp_path / "kept", prompts=["a"])
    (lora,) = found.loras
    assert texts(found) == texts(without)
    assert [each.source for each in lora.labels] == ["author:a.safetensors", "colours:x"]
    evidence = lora.labels[1].evidence
    assert evidence is not None
    assert evidence.null is not None
    assert evidence.null > 0  # of LoRAs of random weights
    assert lora.quality is not None
    assert any(each.random and "lora/smile" in each.ids for each in measured)
    # One whose file is not to be had, as after a set was pulled, is left out with a word and keeps what is known of it.
    for file in (home() / "loras").iterdir():
        file.unlink()
    logged: list[str] = []
    again = label(pipe, found, [Colours()], settings, cache=tmp_path / "kept", prompts=["a"], log=logged.append)
    assert any("not on this machine" in line and "lora/smile is left out" in line for line in logged)
    assert (texts(again), again.loras[0].labels, again.loras[0].quality) == (texts(found), lora.labels, lora.quality)
    with_lora.import_lora(tmp_path / "a.safetensors", "smile")
    # A word asked for is looked for among the directions.
    measured.clear()
    label(pipe, with_lora, [Colours()], dataclasses.replace(settings, words=("red",)), prompts=["a"])
    assert not any("lora/smile" in each.ids for each in measured)


def test_a_lora_is_confirmed_whatever_has_its_name_and_counts_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    strong = Effects(torch.tensor([[[1.0, 0.0]] * 4] * 2), torch.zeros(2, 4, 2))
    nobody = SimpleNamespace(rows=lambda _rows: None)
    labeler = SimpleNamespace(names=("red", "green"), source="colours:x")
    scores: Any = SimpleNamespace(
        labeler=labeler,
        settings=with_settings(per_word=1),
        effects=lambda found: strong.rows(range(len(found.plus))),
        chance=lambda _confirmation: nobody,
    )
    readings = Readings(torch.zeros(4, 2), torch.zeros(2, 4, 2), torch.zeros(2, 4, 2), (1, 2, 3, 4))
    monkeypatch.setattr(candidates, "confidence", lambda found, *_: torch.ones(len(found.odd)))
    given = Label.model_validate({"text": "red", "source": "colours:x", "created": "2026-01-01T00:00:00Z"})
    monkeypatch.setattr(candidates, "labels_from", lambda found, *_, **__: [given] * len(found.odd))

    one = candidates.Candidates(scores)
    one.compare(["lora/x"])
    one._queues["red"] = ["a"]
    spots: dict[str, Any] = {"lora/x": ("lora/x",)}
    alone = candidates.Confirmation(spots, readings.rows([0]), [("lora/x",)], [])
    assert one.confirmed(alone, last=True) == {"lora/x": given}
    one.open_next()
    assert one.open == {"a"}, "the LoRA took the name from the directions"

    assert one.confirmed(candidates.Confirmation({"a": ("a",)}, readings.rows([0]), [("a",)], []), last=True)
    one.compare(["lora/x"])
    one.open.add("b")
    assert one.sure(["b", "lora/x"], readings, last=True) == {"lora/x"}
