"""The job of labelling: draw, read, hold against chance, confirm. Labels come out, or none.

Builders judge, loaders draw; they meet here, as in `eigenbank.api`.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eigenbank.builders.label.composites import PARTS, fit, name_for, predicted
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
    unsettled,
)
from eigenbank.builders.label.labeler import Labeler, LabelerEnsemble, LabelerError
from eigenbank.builders.label.quality import SCALES, agreement, qualities, swept, thumbnails
from eigenbank.loaders.calibrate import calibrate
from eigenbank.loaders.measure import Read, Responses, measure_responses, measure_unedited
from eigenbank.loaders.pipelines import denoiser_of
from eigenbank.progress import Progress, no_progress
from eigenbank.registry.sets.direction_set import Composite, Direction, DirectionSet
from eigenbank.schemas import CompositeRecord, Label, Quality, Weighted
from eigenbank.schemas.common import MAX_RANKS

POPULATION = tuple(range(2_000_000, 2_000_064))
"""Seeds of the unedited images whose scores say how much each varies by itself. No other measurement uses them."""
READABLE = 0.1
"""A score that varies less among a checkpoint's own images, in its stated standard deviations, is not read off them."""


Place = tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """How a set is labelled: measured at ± `scale` with so many `steps`; all directions screened on `seeds`; the `most`
    promising for each score, and a composite of at most `parts` directions for it, confirmed on `confirm_seeds` beside `null`
    random ones at the place of each, and where these do not settle it on as many again, and on twice as many, up to
    `confirm_most` in all. The random ones go along, each on its share of the seeds that are added, up to `chance_most`. The
    quality of those that got a label, or of `all_qualities`, is measured on the first `quality_seeds` of them. A checkpoint
    whose own images' neighbouring pixels agree less than `agreement` draws noise, and nothing there has a name.
    """

    scale: float = 1.0
    seeds: tuple[int, ...] = tuple(range(100, 108))
    confirm_seeds: tuple[int, ...] = tuple(range(200, 224))
    confirm_most: int = 48
    chance_most: int = 24
    steps: int = 10
    most: int = 4
    null: int = 4
    parts: int = PARTS
    quality_seeds: int = 6
    all_qualities: bool = False
    agreement: float = 0.3


@dataclass(frozen=True)
class Findings:
    """What was found out: labels and qualities by id, and the composites that earned their label."""

    labels: dict[str, list[Label]]
    qualities: dict[str, Quality]
    composites: list[CompositeRecord]


def label(
    bank: DirectionSet,
    pipe: Any,
    labelers: Sequence[Labeler],
    plan: Plan | None = None,
    *,
    call: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda _message: None,
) -> DirectionSet:
    """The bank with the labels that the labelers' readings justify; earlier labels of theirs are replaced.

    A label is given where one score clearly leads a direction's effect, on seeds it was not found with: with one sign on nearly
    all of them, and several times as much as random directions of equal length move it at the same place on these seeds. A
    score that hardly varies among the unedited images names nothing. For each score a composite of directions is tried
    too, fitted to what was seen of them singly; what does not earn that score's label is dropped. `call` is what
    the pipeline is given beside seeds and steps: a prompt, if it takes one. `cache` is a folder where readings are kept:
    a run cut short goes on from there.

    Qualities are of the first labeler's scores: of all that got a label.

    A labeler that fails is left out, which is said; what it gave before is kept. Raises LabelerError when none is left,
    SteerError for a pipeline that draws nothing.
    """
    plan = plan or Plan()
    bank = calibrate(pipe, bank)
    remaining = list(labelers)
    while True:
        try:
            asked = {labeler.source for labeler in remaining}
            others = [each for each in bank.manifest.composites if not _given_by(each, asked)]
            found = _Study(
                bank.composed(others), pipe, LabelerEnsemble(remaining), plan, dict(call or {}), cache, progress, say
            ).findings()
            break
        except LabelerError as error:
            remaining = [labeler for labeler in remaining if labeler.source != error.source]
            if not remaining or error.source is None:
                message = f"{error}: no label was given"
                raise LabelerError(message, error.source) from error
            say(f"{error}: it gave no label, the other labelers go on")
    bank = bank.composed([*others, *found.composites])
    kept = {each.id: tuple(old for old in each.labels if old.source not in asked) for each in bank.sliders}
    bank = bank.labelled({name: (*labels, *found.labels.get(name, ())) for name, labels in kept.items()})
    return bank.measured(found.qualities)


def _given_by(composite: CompositeRecord, sources: Collection[str]) -> bool:
    """Whether a composite has no other labels than those of the sources."""
    return bool(composite.labels) and all(each.source in sources for each in composite.labels)


class _Study:
    """One run over a bank: what its directions, random ones at their places, and composites of them do to the scores."""

    def __init__(
        self,
        bank: DirectionSet,
        pipe: Any,
        panel: LabelerEnsemble,
        plan: Plan,
        call: dict[str, Any],
        cache: Path | None,
        progress: Progress,
        say: Callable[[str], None],
    ) -> None:
        self.say = say
        self.bank = bank
        self.pipe = pipe
        self.panel = panel
        self.plan = plan
        self.call = call
        self.cache = None if cache is None else cache / _measurement(pipe, panel, plan, call)
        self.progress = progress

    def findings(self) -> Findings:
        """The labels of all labelers of the panel, and the qualities in the eyes of the first."""
        bank, plan = self.bank, self.plan
        directions = list(bank)
        own = None if self.cache is None else self.cache / "agreement"

        def read(images: Tensor) -> Tensor:
            return torch.cat([self.panel.read(images), agreement(images)], dim=1)

        population = measure_unedited(self.pipe, read, POPULATION, plan.steps, cache=own, **self.call)
        agreed = float(population[:, -1].median())
        if agreed < plan.agreement:
            self.say(
                f"the unedited images are noise: neighbouring pixels agree at {agreed:.2f}, in pictures at {plan.agreement:g} "
                "or more. No label was given. Is the checkpoint trained, and are there enough steps?"
            )
            return Findings({}, {}, [])
        screened = self.measure("screening", directions, plan.seeds)
        candidates: list[_Candidates] = []
        taken = {each.name for each in bank.manifest.composites}
        for labeler in self.panel.labelers:
            judge = _Judge(labeler, self.panel.columns[labeler.source], population, plan.scale)
            candidates.append(_Candidates(judge, judge.effects(screened), bank, plan, taken))
        bank = bank.composed([*bank.manifest.composites, *(new for each in candidates for new in each.records)])
        everything = list(bank)
        singles = [everything[k] for k in sorted({k for each in candidates for k in each.singles})]
        composites = [bank[new.id] for each in candidates for new in each.records]
        labels = self.confirm(candidates, bank, [*singles, *composites])
        earned = [new for each in candidates for new in each.records if new.id in labels]
        named = directions if plan.all_qualities else [each for each in singles if each.id in labels]
        measured = [*named, *(bank[new.id] for new in earned)]
        return Findings(labels, self.qualities(candidates[0].judge, measured), earned)

    def confirm(
        self, candidates: "Sequence[_Candidates]", bank: DirectionSet, wanted: "Sequence[Direction | Composite]"
    ) -> dict[str, list[Label]]:
        """The labels that readings on other seeds justify, by id; on more seeds where the first do not settle it.

        Chance is read at the places of what holds on the first of these seeds by itself.
        """
        labels: dict[str, list[Label]] = {}
        seeds = self.plan.confirm_seeds
        if not wanted:
            return labels
        found = self.measure("confirming", wanted, seeds)
        for one in candidates:
            one.keep_hopeful([each.id for each in wanted], found)
        hopeful = [k for k, each in enumerate(wanted) if any(each.id in one.open for one in candidates)]
        wanted = [wanted[k] for k in hopeful]
        if not wanted:
            return labels
        random = _Random(bank, self.plan.null, wanted)
        seen = self.beside_chance(random, wanted, found.rows(hopeful))
        while True:
            seeds = self.more_seeds(seen.found.seeds)
            for each in candidates:
                for name, new in each.confirmed(seen, last=not seeds).items():
                    labels.setdefault(name, []).append(new)
            wanted = [slider for slider in wanted if any(slider.id in each.open for each in candidates)]
            if not wanted:
                return labels
            seen = seen.joined([each.id for each in wanted], self.measure("confirming", wanted, seeds))
            seen = self.beside_more_chance(random, seen, seeds)

    def beside_chance(self, random: "_Random", wanted: "Sequence[Direction | Composite]", found: Responses) -> "_Seen":
        """What was found of sliders, and what random ones in their places do on the same seeds."""
        places = {each.id: _place(each) for each in wanted}
        at = list(dict.fromkeys(places.values()))
        chance = self.measure("chance", [each for draw in random.at(at) for each in draw], found.seeds)
        draws = range(0, len(chance.plus), len(at))
        return _Seen(places, found, at, [chance.rows(range(start, start + len(at))) for start in draws])

    def beside_more_chance(self, random: "_Random", seen: "_Seen", seeds: Sequence[int]) -> "_Seen":
        """The same with what random ones do on more seeds, each draw on its share of them, as far as the plan goes."""
        room = self.plan.chance_most - (len(seen.found.seeds) - len(seeds))
        shares = [seeds[:room][number :: self.plan.null] if room > 0 else () for number in range(self.plan.null)]
        chance = [
            old.joined(self.measure("chance", draw, share), range(len(draw))) if share else old
            for old, draw, share in zip(seen.chance, random.at(seen.at), shares, strict=True)
        ]
        return replace(seen, chance=chance)

    def more_seeds(self, used: Sequence[int]) -> tuple[int, ...]:
        """As many seeds again as were used, that are not used for anything else, as far as the plan goes."""
        first = max(*used, *self.plan.seeds) + 1
        return tuple(range(first, first + min(len(used), self.plan.confirm_most - len(used))))

    def qualities(self, judge: "_Judge", which: Sequence[Direction | Composite]) -> dict[str, Quality]:
        """The quality of each, by id, in the eyes of one labeler."""
        seeds = self.plan.confirm_seeds[: self.plan.quality_seeds]
        if not which or not seeds:
            return {}

        def read(images: Tensor) -> Tensor:
            return torch.cat([self.panel.read(images), thumbnails(images)], dim=1)

        found = {times: self.measure("quality", which, seeds, read, times) for times in SCALES}
        told = qualities(
            swept(
                {times: (each.plus, each.minus) for times, each in found.items()},
                found[1.0].base,
                scores=judge.columns,
                pictures=slice(self.panel.width, None),
            ),
            judge.stds,
            judge.readable,
            source=judge.labeler.source,
            scale=self.plan.scale,
            seeds=seeds,
            steps=self.plan.steps,
        )
        return {direction.id: each for direction, each in zip(which, told, strict=True)}

    def measure(
        self,
        what: str,
        which: Sequence[Direction | Composite],
        on: Sequence[int],
        read: Read | None = None,
        times: float = 1.0,
    ) -> Responses:
        """Readings of some directions on some seeds, at so many times the plan's scale."""
        return measure_responses(
            self.pipe,
            which,
            read or self.panel.read,
            scale=times * self.plan.scale,
            seeds=on,
            steps=self.plan.steps,
            force=what == "chance",
            cache=None if self.cache is None else self.cache / ("scores" if read is None else what),
            progress=lambda done, total: self.progress(what, done, total),
            **self.call,
        )


@dataclass(frozen=True)
class _Seen:
    """What was read of sliders, and on some of the same seeds of random ones in their places, for each draw of these.

    `places`: each slider's, by its id. `at`: the places of a draw.
    """

    places: dict[str, Place]
    found: Responses
    at: list[Place]
    chance: list[Responses]

    def joined(self, names: Sequence[str], more: Responses) -> "_Seen":
        """Of those that were read on more seeds, with what was read then."""
        own = list(self.places)
        found = self.found.joined(more, [own.index(name) for name in names])
        places = {name: self.places[name] for name in names}
        at = list(dict.fromkeys(places.values()))
        rows = [self.at.index(place) for place in at]
        return _Seen(places, found, at, [draw.rows(rows) for draw in self.chance])


class _Random:
    """Random sliders in the places of others, in several draws: vectors of equal length where a direction's is added, the same
    for all of that place, and a composite's weights on such vectors.
    """

    def __init__(self, bank: DirectionSet, draws: int, wanted: "Sequence[Direction | Composite]") -> None:
        self._draws = [
            bank.randomised(MAX_RANKS, seed=number).composed(bank.manifest.composites) for number in range(draws)
        ]
        asked = {_place(each) for each in wanted}
        # By the first that stands there: the same random vectors, whatever else is asked about.
        self._twins = {_place(each): each.id for each in reversed(list(bank.sliders)) if _place(each) in asked}

    def at(self, places: Sequence[Place]) -> "list[list[Direction | Composite]]":
        """For each draw those that stand at the places."""
        return [[drawn[self._twins[place]] for place in places] for drawn in self._draws]


class _Candidates:
    """What one labeler's readings on the screening seeds make worth a second look, on others.

    `singles` are directions by number, `records` composites, whose names join those `taken`; `open` are the ids of those
    that are neither labelled nor settled to have no label.
    """

    def __init__(self, judge: "_Judge", seen: Effects, bank: DirectionSet, plan: Plan, taken: set[str]) -> None:
        loose = Criteria().loosened()
        self.judge = judge
        self.singles = shortlist(seen, promising(seen, loose), plan.most)
        self.records: list[CompositeRecord] = []
        ids = [each.id for each in bank]
        self.open = {ids[k] for k in self.singles}
        self._wanted: dict[str, str] = {}
        if plan.parts < 2:
            return
        weights = fit(seen, plan.parts)
        leads = leading(predicted(seen, weights), loose)
        for score, text in enumerate(judge.labeler.names):
            used = weights[score].nonzero().flatten().tolist()
            if leads[score] != score or len(used) < 2:
                continue
            name = name_for(text, taken)
            taken.add(name)
            parts = tuple(Weighted(direction=ids[k], weight=float(weights[score, k])) for k in used)
            self.records.append(CompositeRecord(name=name, parts=parts))
            self._wanted[self.records[-1].id] = text
        self.open |= self._wanted.keys()

    def keep_hopeful(self, names: Sequence[str], found: Responses) -> None:
        """What cannot get a label by what was `found` of it, chance aside, is not open any more. `names`: of the rows found."""
        trust = confidence(self.judge.effects(found), Criteria())
        self.open -= {name for name, share in zip(names, trust.tolist(), strict=True) if share <= Criteria().doubt}

    def confirmed(self, seen: _Seen, *, last: bool) -> dict[str, Label]:
        """The labels that readings on other seeds justify, by id; a composite's only where it is the one it was made for.

        What they settle is not open any more, and nothing is after the `last`.
        """
        ids = [name for name in seen.places if name in self.open]
        if not ids:
            return {}
        rows = [number for number, name in enumerate(seen.places) if name in self.open]
        found = self.judge.effects(seen.found).rows(rows)
        chance = self.judge.chance(seen).rows([seen.at.index(seen.places[name]) for name in ids])
        trust = confidence(found, Criteria(), chance)
        given = labels_from(
            found,
            self.judge.labeler.names,
            Criteria(),
            source=self.judge.labeler.source,
            scale=seen.found.scale,
            seeds=seen.found.seeds,
            steps=seen.found.steps,
            chance=chance,
            trust=trust,
        )
        doubtful = unsettled(trust, Criteria())
        self.open = set() if last else {name for name, doubt in zip(ids, doubtful, strict=True) if doubt}
        return {
            name: new
            for name, new in zip(ids, given, strict=True)
            if new is not None and name not in self.open and new.text == self._wanted.get(name, new.text)
        }


class _Judge:
    """One labeler's view of the panel's readings."""

    def __init__(self, labeler: Labeler, columns: slice, population: Tensor, scale: float) -> None:
        varied = population[:, columns].std(dim=0)
        self.labeler = labeler
        self.columns = columns
        self._scale = scale
        self.stds = varied.clamp_min(1e-6) if labeler.stds is None else labeler.stds
        self.readable = (varied >= READABLE * self.stds) & (varied > 1e-6)

    def effects(self, found: Responses) -> Effects:
        """What the directions do to this labeler's scores, none where they cannot be read."""
        base, plus, minus = (each[..., self.columns] for each in (found.base, found.plus, found.minus))
        return effects(base, plus, minus, self.stds, self._scale).of(self.readable)

    def chance(self, seen: _Seen) -> Chance:
        """What random directions do at each place, likewise."""
        number = {seed: position for position, seed in enumerate(seen.found.seeds)}
        seeds = [torch.tensor([number[seed] for seed in draw.seeds]) for draw in seen.chance]
        return Chance([self.effects(draw).odd for draw in seen.chance], seeds)


def _place(slider: Direction | Composite) -> Place:
    """Where random directions stand for a slider: those at a direction's place are the same for all there."""
    return (slider.layer, slider.recipe.slug) if isinstance(slider, Direction) else (slider.id,)


def _measurement(pipe: Any, panel: LabelerEnsemble, plan: Plan, call: dict[str, Any]) -> str:
    """A name for measurements of the same pictures, read alike: of the denoiser's weights, and how it is done."""
    digest = hashlib.sha256()
    for name, tensor in sorted(denoiser_of(pipe).state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    how: list[Any] = [[[each.source, each.names] for each in panel.labelers], plan.steps]
    if call:
        how.append(call)
    digest.update(json.dumps(how, default=repr, sort_keys=True).encode())
    return digest.hexdigest()[:32]
