"""Labelling a direction set: measure what directions do to images, compare with chance, confirm. Labels come out, or none.

Images are generated and read by whatever `Measurements` is handed over (`eigenbank.naming.label` hands over a pipeline's).
"""

import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eigenbank.builders.label.budget import BudgetError, Job, Spending
from eigenbank.builders.label.candidates import Candidates, Confirmation, Nearest, Scores
from eigenbank.builders.label.carry import Carried, carried
from eigenbank.builders.label.composites import in_own_unit, label_in_own_unit, quality_in_own_unit
from eigenbank.builders.label.criteria import strongest
from eigenbank.builders.label.labeler import Labeler, LabelerEnsemble, LabelerError
from eigenbank.builders.label.quality import SCALES, agreement, qualities, swept, thumbnails
from eigenbank.builders.label.random_sliders import RandomSliders
from eigenbank.builders.label.readings import Measurements, Read, Readings
from eigenbank.builders.label.settings import (
    POPULATION,
    LabelSettings,
    compared,
    images_at_most,
    images_of,
    images_of_qualities,
    images_to_confirm,
    images_to_screen,
    rounds_of,
    spot_of,
)
from eigenbank.digests import digest_of
from eigenbank.progress import Progress, no_progress
from eigenbank.registry.sets.direction_set import LEAST_REACH, Direction, DirectionSet, Slider
from eigenbank.registry.sets.displacements import Displacements
from eigenbank.schemas import CompositeRecord, DisplacementRecord, Label, Quality
from eigenbank.schemas.errors import HubError, MatchError, SourceError, SteerError

LOOK = 4
"""On half of the confirmation seeds, if they are at least so many, what is hopeless is told from the rest."""
VERSION = 1
"""Raised whenever what ships reads pictures in another way (statistics, agreement, thumbnails): then they are read anew."""


def _nothing(_images: int) -> None:
    """Take note of nothing."""


@dataclass(frozen=True)
class Found:
    """What was found for a word: the set, with `slider` and its `label` where one earned it, and what comes nearest."""

    directions: DirectionSet
    slider: Slider | None
    label: Label | None
    nearest: tuple[Nearest, ...]


def find(
    directions: DirectionSet,
    measurements: Measurements,
    labeler: Labeler,
    settings: LabelSettings,
    *,
    proposed: CompositeRecord | None = None,
    cache: Path | None = None,
    progress: Progress = no_progress,
    log: Callable[[str], None] = lambda _message: None,
    announce: Callable[[int], None] = _nothing,
) -> Found:
    """The best slider for one word, the labeler's first name, of which `proposed` may be one; see `eigenbank.naming.find`."""
    word = labeler.names[0]
    settings = replace(settings, words=(word,))
    with _work(cache, progress, log, announce, None, proposed) as work:
        labelled, found = _labelled(directions, measurements, [labeler], settings, work)
    given = [(name, each) for name, labels in found.labels.items() for each in labels]
    if not given:
        return Found(directions, None, None, found.nearest)
    name, label = max(given, key=lambda pair: pair[1].worth)
    return Found(labelled, labelled[name], label, found.nearest)


def label(
    directions: DirectionSet,
    measurements: Measurements,
    labelers: Sequence[Labeler],
    settings: LabelSettings,
    *,
    carry: DirectionSet | None = None,
    cache: Path | None = None,
    progress: Progress = no_progress,
    log: Callable[[str], None] = lambda _message: None,
    announce: Callable[[int], None] = _nothing,
) -> DirectionSet:
    """The set with the labels that the labelers' readings justify, and qualities; see `eigenbank.naming.label`."""
    candidates = None
    if carry is not None:
        names = {name for each in labelers for name in each.names}
        candidates = carried(carry, directions, names)
        if candidates.lost:
            log(f"not found again among these directions: {', '.join(candidates.lost)}")
        if not candidates.count:
            message = f"nothing that these labelers know has a name in the set of {carry.model_id} and is found again here: no label was given"
            raise LabelerError(message)
        settings = replace(settings, words=tuple(candidates.ids))  # what else has a name keeps it
    with _work(cache, progress, log, announce, candidates) as work:
        return _labelled(directions, measurements, labelers, settings, work)[0]


@dataclass
class _Work:
    """What a study works with: where readings are kept, whom it tells, the candidates that were carried over, and the composite that
    is proposed for the first labeler's first name, if any.
    """

    cache: Path
    progress: Progress
    log: Callable[[str], None]
    announce: Callable[[int], None]
    carried: Carried | None = None
    proposed: CompositeRecord | None = None


@contextmanager
def _work(cache: Path | None, *how: Any) -> Iterator[_Work]:
    """Work with a folder for readings, for a while where none is given."""
    if cache is not None:
        yield _Work(cache, *how)
        return
    with tempfile.TemporaryDirectory(prefix="eigenbank-") as folder:
        yield _Work(Path(folder), *how)


def _labelled(
    directions: DirectionSet,
    measurements: Measurements,
    labelers: Sequence[Labeler],
    settings: LabelSettings,
    work: _Work,
) -> "tuple[DirectionSet, Findings]":
    spending = Spending(settings.budget)
    if spending.room <= len(POPULATION):
        message = f"a budget of {settings.budget} is too small: {len(POPULATION)} images are drawn before any is edited"
        raise BudgetError(message)
    directions = studied = measurements.calibrated(directions)
    for lora in compared(directions, settings):
        try:
            measurements.check(lora)
        except (MatchError, SourceError, SteerError, HubError) as error:
            work.log(f"{error}: {lora.id} is left out")
            studied = studied.without_lora(lora.id)
    remaining = list(labelers)
    while True:
        sources = {labeler.source for labeler in remaining}

        def replaced(old: Label, sources: Collection[str] = sources) -> bool:
            return old.source in sources and settings.asks_for(old.text)

        others = [
            each for each in directions.manifest.composites if not (each.labels and all(map(replaced, each.labels)))
        ]
        try:
            ensemble = LabelerEnsemble(remaining)
            found = _Study(studied.composed(others), measurements, ensemble, settings, spending, work).findings()
            break
        except LabelerError as error:
            remaining = [labeler for labeler in remaining if labeler.source != error.source]
            if not remaining or error.source is None:
                message = f"{error}: no label was given"
                raise LabelerError(message, error.source) from error
            work.announce = _nothing  # what is left is no new job
            work.log(f"{error}: it gave no label, the other labelers go on")
    directions = directions.composed([*others, *found.composites])
    out = {each.id for each in directions.loras} - {each.id for each in studied.loras}
    kept = {
        each.id: tuple(old for old in each.labels if each.id in out or not replaced(old)) for each in directions.sliders
    }
    labels = {name: (*before, *found.labels.get(name, ())) for name, before in kept.items()}
    directions = directions.labelled(labels).measured(found.qualities)
    if found.displacements is not None and (settings.words is None or directions.manifest.displacements is None):
        directions = directions.with_displacements(found.displacements)
    return directions, found


@dataclass(frozen=True)
class Findings:
    """What a study found: labels and qualities by id, the composites that earned their label, and what comes nearest to the
    words asked for, as far as screening tells.
    """

    labels: dict[str, list[Label]]
    qualities: dict[str, Quality]
    composites: list[CompositeRecord]
    nearest: tuple[Nearest, ...] = ()
    displacements: Displacements | None = None


class _Study:
    """One run over a set: what its directions, random ones in their spots, and composites of them do to the scores."""

    def __init__(
        self,
        directions: DirectionSet,
        measurements: Measurements,
        ensemble: LabelerEnsemble,
        settings: LabelSettings,
        spending: Spending,
        work: _Work,
    ) -> None:
        self.carried = work.carried
        self.proposed = work.proposed
        self.directions = directions
        self.measurements = measurements
        self.ensemble = ensemble
        self.settings = settings
        self.log = work.log
        self.unexamined = 0
        self.embedding = ensemble.embedding
        self.moved: dict[str, list[Tensor]] = {}
        # Of the same images, read alike.
        self.cache = work.cache / digest_of([measurements.fingerprint, VERSION, ensemble.read_as])[:32]
        self.known = self.screened_before()
        self.announce = work.announce
        most = self.images_at_most(screened=bool(self.known))
        if work.carried is not None:
            count = work.carried.count
            most = len(POPULATION) + images_to_confirm(settings, count, count, count)
        self.job = Job(work.progress, most, spending)
        work.announce(spending.within(most))

    def images_at_most(self, *, screened: bool = False) -> int:
        """How many images this takes at most."""
        more = int(self.proposed is not None)
        return images_at_most(self.directions, self.ensemble.labelers, self.settings, screened=screened, more=more)

    def findings(self) -> Findings:
        """The labels of all labelers, and the qualities by the scores of the first. If nothing is to be confirmed, what comes nearest."""
        settings = self.settings

        def read(images: Tensor) -> Tensor:
            return torch.cat([self.ensemble.features(images), agreement(images)], dim=1)

        cache = self.cache / "agreement"
        count = self.job.part("unedited images", len(POPULATION))
        population = self.measurements.unedited(read, POPULATION, cache=cache, progress=count)
        agreed = float(population[:, -1].median())
        unedited = population[:, self.embedding] if self.embedding is not None else None
        population = self.scored(population)
        if agreed < settings.agreement:
            self.log(
                f"the unedited images are noise: neighbouring pixels agree at {agreed:.2f}, in pictures at "
                f"{settings.agreement:g} or more. No label was given. Is the checkpoint trained, and are there enough steps?"
            )
            return Findings({}, {}, [])
        if self.proposed is not None and settings.confirm and not self.known:
            found = self.confirmed([self.candidate_proposed(population)])
            if found.labels or self.unexamined:
                return found
            self.log(f"{self.proposed.id} does not earn the name: the directions are screened")
            self.proposed, self.job.left = None, self.images_at_most()
        candidates = self.candidates(population)
        asked = () if self.carried is not None else settings.words or ()
        nearest = tuple(found for each in candidates for word in asked for found in each.nearest_to(word))
        displacements = None if unedited is None or not self.moved else self.displacements(unedited)
        if not settings.confirm:
            return Findings({}, {}, [], nearest, displacements)
        return replace(self.confirmed(candidates), nearest=nearest, displacements=displacements)

    def candidate_proposed(self, population: Tensor) -> Candidates:
        """The composite that is proposed for a word, which is confirmed by itself where nothing was screened yet."""
        assert self.proposed is not None
        assert self.settings.words
        candidates = Candidates(self.scores(population)[0])
        candidates.propose(
            self.settings.words[0], self.proposed, {each.name for each in self.directions.manifest.composites}
        )
        return candidates

    def confirmed(self, candidates: Sequence[Candidates]) -> Findings:
        """The labels that candidates earn on fresh seeds, and their qualities."""
        directions, settings = self.directions, self.settings
        new = [record for each in candidates for record in each.composites]
        directions = directions.composed([*directions.manifest.composites, *new])
        everything = list(directions)
        labels: dict[str, list[Label]] = {}
        while True:
            for each in candidates:
                each.open_next()
            wanted = [slider for slider in directions.sliders if any(slider.id in each.open for each in candidates)]
            if not wanted:
                break
            wanted = self.affordable(wanted, candidates)
            if not wanted:
                break
            waiting = len(wanted) + sum(each.waiting for each in candidates)
            self.job.left = images_to_confirm(settings, waiting, waiting, len(everything) + len(new))
            for name, given in self.confirm(candidates, directions, wanted).items():
                labels.setdefault(name, []).extend(given)
        earned = [record for record in new if record.id in labels]
        named = everything if settings.all_qualities else [each for each in everything if each.id in labels]
        measured = [*named, *(directions[record.id] for record in earned), *compared(directions, settings)]
        if self.job.spending.room < images_of_qualities(settings, len(measured)):
            self.log(f"the budget of {settings.budget} leaves no room for the qualities of what got a name")
            measured = []
        if self.unexamined:
            self.log(
                f"the budget of {settings.budget} is spent: {self.unexamined:,} directions and composites were not examined. "
                "Ask again with more: what was drawn is kept"
            )
        self.job.left = images_of_qualities(settings, len(measured))
        measured_qualities = self.qualities(candidates[0].scores, measured)
        self.job.part("labels", 0)(0, 0)
        scale = settings.scale if self.carried is None else 1.0  # what was carried over has a unit already
        for record in earned:
            labels[record.id] = [label_in_own_unit(each, scale) for each in labels[record.id]]
            if record.id in measured_qualities:
                measured_qualities[record.id] = quality_in_own_unit(measured_qualities[record.id], scale)
        return Findings(labels, measured_qualities, [in_own_unit(each, scale) for each in earned])

    def candidates(self, population: Tensor) -> list[Candidates]:
        """What is worth confirming for each labeler: what screening shows, or what another set calls so."""
        found = [Candidates(each) for each in self.scores(population)]
        if self.carried is not None:
            for each in found:
                each.carry(self.carried)
            return found
        left, screened = self.screened(population)
        broken = int(screened.broken.sum())
        if broken:
            self.log(
                f"{broken} of {len(screened.plus)} directions break pictures at ±{self.settings.scale:g}, which come out as one "
                "colour or not finite: these get no name"
            )
        ids = [each.id for each in left]
        windowed = {each.id for each in left if not each.recipe.window.whole}
        taken = {each.name for each in self.directions.manifest.composites}
        for each in found:
            each.screen(each.scores.effects(screened), ids, taken, windowed)
            each.compare([lora.id for lora in compared(self.directions, self.settings)])
        if self.proposed is not None and self.settings.words:
            found[0].propose(self.settings.words[0], self.proposed, taken)
        return found

    def affordable(self, wanted: "list[Slider]", candidates: "Sequence[Candidates]") -> "list[Slider]":
        """Those of the sliders to confirm that there is room for, beside random ones; the others are closed."""
        seeds = len(self.settings.confirm_seeds)
        room = (self.job.spending.room - seeds) / (4 * seeds)
        if room < len(wanted):
            left = wanted[: max(0, int(room))]
            self.unexamined += len(wanted) - len(left) + sum(each.waiting for each in candidates)
            for each in candidates:
                each.open &= {slider.id for slider in left}
            return left
        return wanted

    def scores(self, population: Tensor) -> "list[Scores]":
        """The scores of each labeler."""
        columns = self.ensemble.columns
        return [Scores(each, columns[each.source], population, self.settings) for each in self.ensemble.labelers]

    def screened(self, population: Tensor) -> "tuple[list[Direction], Readings]":
        """The directions that screening leaves, and what was read of them."""
        if self.settings.screening == "predicted":
            try:
                return self.screened_by_prediction(population)
            except SteerError as error:
                self.log(f"{error}: whole images are drawn instead")
                self.settings = replace(self.settings, screening="drawn")
                self.job.left = self.images_at_most() - len(POPULATION)
                self.announce(self.job.spending.within(self.job.left))
        left = self.within_budget()
        return left, self.measure("screening", left, self.settings.seeds)

    def screened_before(self) -> list[Direction]:
        """The directions of which all screening readings are kept, where a word is asked for."""
        settings, everything = self.settings, list(self.directions)
        if settings.words is None or self.carried is not None or settings.screening == "drawn":
            return []
        where = self.cache / "scores"
        before = self.measurements.predicted_before(everything, scale=settings.scale, seeds=settings.seeds, cache=where)
        return [everything[row] for row in before]

    def within_budget(self) -> list[Direction]:
        """The directions that half of the budget is enough to screen: of every layer the first. Those that cannot act come last."""
        everything = sorted(self.directions, key=lambda each: not each.acts)
        idle = sum(not each.acts for each in everything)
        if idle:
            self.log(
                f"{idle:,} of {len(everything):,} directions hardly reach the picture: what a scale of 1 adds is less than {LEAST_REACH:g} of "
                "what it is added to. They are screened last"
            )
        room, count = self.job.spending.room / 2, len(everything)
        while count and images_to_screen(count, self.ensemble.width, self.settings) > room:
            count = count * 9 // 10
        if not count:
            message = f"a budget of {self.settings.budget} is too small to screen a single direction: {self.job.done} images are drawn"
            raise BudgetError(message)
        self.unexamined = len(everything) - count
        first = sorted(range(len(everything)), key=lambda at: (not everything[at].acts, everything[at].rank))[:count]
        return [everything[number] for number in sorted(first)]

    def screened_by_prediction(self, population: Tensor) -> "tuple[list[Direction], Readings]":
        """The same in predicted images, on more seeds for fewer directions; or, for a new word, in those that were read before."""
        if self.known:
            self.log(
                f"screened on what is kept of {len(self.known):,} of {len(self.directions):,} directions: nothing is drawn for it"
            )
            return self.known, self.predict(self.known, self.settings.seeds)
        left, found = self.within_budget(), None
        for count, seeds in rounds_of(len(left), self.ensemble.width, self.settings):
            if found is not None:
                rows = strongest(torch.cat([each.effects(found).mean for each in self.scores(population)], 1), count)
                left, found = [left[row] for row in rows], found.rows(rows)
            more = self.predict(left, seeds)
            found = more if found is None else found.joined(more)
        assert found is not None
        return left, found

    def confirm(
        self, candidates: "Sequence[Candidates]", directions: DirectionSet, wanted: "Sequence[Slider]"
    ) -> dict[str, list[Label]]:
        """The labels that readings on other seeds justify, by id; on more seeds where the first do not settle it.

        What is hopeless by itself goes at once; chance is measured only beside what holds by itself.
        """
        labels: dict[str, list[Label]] = {}
        random = RandomSliders(directions, self.settings.null, wanted)
        seeds = self.settings.confirm_seeds
        few = seeds[: len(seeds) // 2]
        if len(few) >= LOOK:
            found = self.measure("confirming", wanted, few)
            for each in candidates:
                each.look([slider.id for slider in wanted], found)
            rows = [row for row, slider in enumerate(wanted) if any(slider.id in each.open for each in candidates)]
            wanted = [wanted[row] for row in rows]
            if not wanted:
                return labels
            found = found.rows(rows).joined(self.measure("confirming", wanted, seeds[len(few) :]))
        else:
            found = self.measure("confirming", wanted, seeds)
        while True:
            more = self.more_seeds(found.seeds)
            # Beside chance, which may be measured on all of them.
            dear = images_of(len(wanted), len(more)) + images_of(len(wanted), len(found.seeds) + len(more))
            if self.job.spending.room < dear:
                more = ()
            ids = [slider.id for slider in wanted]
            sure = set().union(*(each.sure(ids, found, last=not more) for each in candidates))
            rows = [row for row, name in enumerate(ids) if name in sure]
            if rows:
                confirmation = self.beside_chance(random, [wanted[row] for row in rows], found.rows(rows))
                for each in candidates:
                    for name, new in each.confirmed(confirmation, last=not more).items():
                        labels.setdefault(name, []).append(new)
            rows = [row for row, name in enumerate(ids) if any(name in each.open for each in candidates)]
            if not rows:
                return labels
            wanted = [wanted[row] for row in rows]
            found = found.rows(rows).joined(self.measure("confirming", wanted, more))

    def beside_chance(self, random: "RandomSliders", wanted: "Sequence[Slider]", found: Readings) -> "Confirmation":
        """What was read of sliders, and what random ones in their spots do on some of the same seeds, a share for each draw."""
        spots = {each.id: spot_of(each) for each in wanted}
        at, draws = list(dict.fromkeys(spots.values())), self.settings.null
        seeds = found.seeds[: max(self.settings.chance_most, len(self.settings.confirm_seeds))]
        shares = [seeds[number::draws] or seeds[:1] for number in range(draws)]
        chance = [self.measure("chance", draw, share) for draw, share in zip(random.at(at), shares, strict=True)]
        return Confirmation(spots, found, at, chance)

    def more_seeds(self, used: Sequence[int]) -> tuple[int, ...]:
        """As many seeds again as were used, that are not used for anything else, as far as the settings go."""
        first = max(*used, *self.settings.seeds) + 1
        return tuple(range(first, first + min(len(used), self.settings.confirm_most - len(used))))

    def qualities(self, scores: "Scores", sliders: Sequence[Slider]) -> dict[str, Quality]:
        """The quality of each slider, by id, by one labeler's scores."""
        seeds = self.settings.confirm_seeds[: self.settings.quality_seeds]
        if not sliders or not seeds:
            return {}

        def read(images: Tensor) -> Tensor:
            return torch.cat([self.ensemble.features(images), thumbnails(images)], dim=1)

        found = {times: self.measure("quality", sliders, seeds, read, times) for times in SCALES}
        made = qualities(
            swept(
                {times: (each.plus, each.minus) for times, each in found.items()},
                found[1.0].base,
                scores=scores.columns,
                pictures=slice(self.ensemble.width, None),
            ),
            scores.stds,
            scores.readable,
            source=scores.labeler.source,
            scale=self.settings.scale,
            seeds=seeds,
            steps=self.settings.steps,
        )
        return {slider.id: each for slider, each in zip(sliders, made, strict=True)}

    def measure(
        self,
        what: str,
        sliders: Sequence[Slider],
        seeds: Sequence[int],
        read: Read | None = None,
        times: float = 1.0,
    ) -> Readings:
        """Readings of some sliders on some seeds, at so many times the settings' scale."""
        base, plus, minus = self.measurements.edited(
            sliders,
            read or self.ensemble.features,
            scale=times * self.settings.scale,
            seeds=seeds,
            force=what == "chance",
            cache=self.cache / ("scores" if read is None else what),
            progress=self.job.part(what, images_of(len(sliders), len(seeds))),
        )
        if what == "screening":
            self.note(sliders, plus, minus)
        return Readings(self.scored(base), self.scored(plus), self.scored(minus), tuple(seeds))

    def note(self, sliders: Sequence[Slider], plus: Tensor, minus: Tensor) -> None:
        """Note how far sliders move the embedding that is kept of pictures, `(K, n, f)` at the scale and at its negative."""
        if self.embedding is None:
            return
        odd = (plus - minus)[..., self.embedding].nan_to_num() / (2 * self.settings.scale)
        for slider, moved in zip(sliders, odd, strict=True):
            self.moved.setdefault(slider.id, []).extend(moved)

    def displacements(self, unedited: Tensor) -> Displacements:
        """The mean of what was noted of each direction, zero where it is nothing."""
        settings, zero = self.settings, torch.zeros(unedited.shape[1])
        mean = torch.stack(
            [torch.stack(self.moved[each.id]).mean(0) if each.id in self.moved else zero for each in self.directions]
        )
        source = next(each.source for each in self.ensemble.labelers if hasattr(each, "features"))
        record = DisplacementRecord(source=source, scale=settings.scale, seeds=settings.seeds, steps=settings.steps)
        return Displacements(record, mean, unedited)

    def scored(self, readings: Tensor) -> Tensor:
        """Readings of which the first are features, with the scores in their place."""
        width = self.ensemble.features_width
        return torch.cat([self.ensemble.scores(readings[..., :width]), readings[..., width:]], dim=-1)

    def predict(self, sliders: Sequence[Slider], seeds: Sequence[int]) -> Readings:
        """Readings of some sliders in predicted images, less those of the unedited ones."""
        steps, images = self.settings.steps, images_of(len(sliders), len(seeds))
        count = self.job.part("screening", math.ceil(images / steps) + len(seeds))
        plus, minus = self.measurements.predicted(
            sliders,
            self.ensemble.features,
            scale=self.settings.scale,
            seeds=seeds,
            force=False,
            cache=self.cache / "scores",
            progress=lambda done, total: count(done // steps, math.ceil(total / steps)),
        )
        self.note(sliders, plus, minus)
        plus, minus = self.scored(plus), self.scored(minus)
        return Readings(torch.zeros_like(plus[0]), plus, minus, tuple(seeds))
