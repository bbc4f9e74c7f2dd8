"""What one labeler's readings make worth confirming, and which of it they confirm."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eigenbank.builders.label.carry import Carried
from eigenbank.builders.label.composites import fit, name_for, predicted
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
from eigenbank.builders.label.labeler import Labeler
from eigenbank.builders.label.readings import Readings
from eigenbank.builders.label.settings import LabelSettings, Spot
from eigenbank.schemas import CompositeRecord, Label, Weighted

READABLE = 0.1
"""A score that varies less among a checkpoint's own images, in its stated standard deviations, cannot be read off them."""

PREDICTED = 0.5
"""An effect in a predicted image says this much of one in the finished image at least: 0.55 on average, see `benchmarks/screening.py`."""


@dataclass(frozen=True)
class Confirmation:
    """What was read of sliders to confirm them, and of random ones in their spots, for each draw of these.

    `spots` has each slider's, by its id. `at` lists the spots of a draw; each draw was read on some of the same seeds.
    """

    spots: dict[str, Spot]
    found: Readings
    at: list[Spot]
    chance: list[Readings]


@dataclass(frozen=True)
class Nearest:
    """What screening expects a slider to do to a word, in standard deviations per unit scale: `effect`, of all changes the share
    `selectivity`, and what it moves most beside. A composite that is not of the set yet has `parts`, and no id.
    """

    id: str
    parts: int
    effect: float
    selectivity: float
    also: str
    also_effect: float


class Scores:
    """One labeler's scores among the ensemble's readings: their columns, deviations, and which can be read at all."""

    def __init__(self, labeler: Labeler, columns: slice, population: Tensor, settings: LabelSettings) -> None:
        varied = population[:, columns].std(dim=0)
        self.labeler = labeler
        self.columns = columns
        self.settings = settings
        self.stds = varied.clamp_min(1e-6) if labeler.stds is None else labeler.stds
        self.readable = (varied >= READABLE * self.stds) & (varied > 1e-6)

    def effects(self, found: Readings) -> Effects:
        """What the sliders do to these scores, none where they cannot be read, or a slider broke pictures."""
        base, plus, minus = (each[..., self.columns] for each in (found.base, found.plus, found.minus))
        measured = effects(base, plus, minus, self.stds, self.settings.scale).of(self.readable)
        whole = ~found.broken[:, None, None]
        return Effects(measured.odd.where(whole, 0.0), measured.even.where(whole, 0.0))

    def chance(self, confirmation: Confirmation) -> Chance:
        """What random sliders do in each spot; anything where they break pictures, so that nothing there beats them."""
        number = {seed: position for position, seed in enumerate(confirmation.found.seeds)}
        seeds = [torch.tensor([number[seed] for seed in draw.seeds]) for draw in confirmation.chance]
        odd = [self.effects(draw).odd.where(~draw.broken[:, None, None], torch.inf) for draw in confirmation.chance]
        return Chance(odd, seeds)


class Candidates:
    """What one labeler's readings on the screening seeds (`screen`), or another set's labels (`carry`), make worth confirming.

    `composites` are new ones, whose names join those `taken`; `open` are the ids of what is being confirmed, and neither
    labelled nor settled to have no label.
    """

    def __init__(self, scores: "Scores") -> None:
        self.scores = scores
        self.composites: list[CompositeRecord] = []
        self.open: set[str] = set()
        self._wanted: dict[str, str] = {}
        self._expected: dict[str, tuple[int, Effects]] = {}
        self._named: Counter[str] = Counter()
        self._in_windows_alone: dict[str, bool] = {}
        self._extra: set[str] = set()
        self._queues: dict[str, list[str]] = {text: [] for text in scores.labeler.names}
        self._windowed: set[str] = set()
        self._without_window: dict[str, str] = {}

    def compare(self, loras: Collection[str]) -> None:
        """Open LoRAs, whose names take nothing from the directions: each is confirmed, whatever it leads."""
        self.open |= set(loras)
        self._extra |= set(loras)

    def carry(self, carried: Carried) -> None:
        """Take the labels of another set for a start, as far as they are names of this labeler."""
        wanted = {text: ids for text, ids in carried.ids.items() if text in self._queues}
        self._queues |= wanted
        self._wanted |= {name: text for text, ids in wanted.items() for name in ids}
        used = {name for ids in wanted.values() for name in ids}
        self.composites += [each for each in carried.composites if each.id in used]

    def screen(self, screened: Effects, ids: Sequence[str], taken: set[str], windowed: Collection[str] = ()) -> None:
        """Take what moves a score on the screening seeds: of the directions `ids`, those `windowed` act in a part of the run."""
        loose, settings = Criteria().loosened(), self.scores.settings
        if settings.screening == "predicted":
            loose = replace(loose, effect=PREDICTED * loose.effect)
        self._ids, self._screened = list(ids), screened
        names = self.scores.labeler.names
        self._windowed = set(windowed)
        steady = [row for row, name in enumerate(ids) if name not in self._windowed]
        for text, record, expected in self._composites(screened, ids, loose, taken):
            self._expected[text] = (len(record.parts), expected)
            self._queues[text].append(record.id)
            if any(part.direction in self._windowed for part in record.parts):
                self._windowed.add(record.id)
        if self._windowed and steady:
            for text, record, _ in self._composites(screened.rows(steady), [ids[row] for row in steady], loose, taken):
                self._without_window[text] = record.id
        for score, rows in shortlist(screened, promising(screened, loose), settings.most).items():
            if settings.asks_for(names[score]):
                self._queues[names[score]] += [ids[row] for row in rows]
                if settings.words is not None:  # what turns out to be something else was not asked for
                    self._wanted |= {ids[row]: names[score] for row in rows}

    def propose(self, text: str, record: CompositeRecord, taken: set[str]) -> None:
        """Take a composite that is proposed for a name. It comes after the one that is fitted to the screening, if there is one: that
        fits into a file for other programs, which holds nothing that acts on one branch of guidance.
        """
        if text in self._queues:
            self.composites.append(record.model_copy(update={"name": name_for(text, taken)}))
            self._wanted[self.composites[-1].id] = text
            self._queues[text].insert(int(text in self._expected), self.composites[-1].id)

    def _composites(
        self, screened: Effects, ids: Sequence[str], loose: Criteria, taken: set[str]
    ) -> Iterator[tuple[str, CompositeRecord, Effects]]:
        """Composites fitted to the scores that these directions should move: the score, the composite, what it should do."""
        names, settings = self.scores.labeler.names, self.scores.settings
        if settings.parts < 2:
            return
        weights = fit(screened, settings.parts)
        whole = predicted(screened, weights)
        leads = leading(whole, loose)
        for score, text in enumerate(names):
            used = weights[score].nonzero().flatten().tolist()
            if leads[score] != score or len(used) < 2 or not settings.asks_for(text):
                continue
            name = name_for(text, taken)
            taken.add(name)
            parts = tuple(Weighted(direction=ids[k], weight=float(weights[score, k])) for k in used)
            self.composites.append(CompositeRecord(name=name, parts=parts))
            self._wanted[self.composites[-1].id] = text
            yield text, self.composites[-1], whole.rows([score]).times(settings.scale)

    def nearest_to(self, word: str, count: int = 3) -> list[Nearest]:
        """What should move a word most by itself: the composite for it, if one is expected to earn the name, and single directions."""
        found, names = [], self.scores.labeler.names
        score = names.index(word)
        if word in self._expected:
            parts, effects = self._expected[word]
            found.append(_nearest("", parts, effects, 0, score, names))
        mean = self._screened.mean[:, score].abs()
        worth = self._screened.selectivity[:, score] * mean.clamp(max=Criteria().effect)
        for row in worth.argsort(descending=True)[:count].tolist():
            if float(mean[row]) > 0:
                found.append(_nearest(self._ids[row], 1, self._screened, row, score, names))
        return found

    @property
    def waiting(self) -> int:
        """How many are still to be confirmed at most."""
        return sum(len(queue) for queue in self._queues.values()) + len(self._without_window)

    def open_next(self) -> None:
        """Open the most promising candidates of each score that has too few sliders yet; once it has some, none of which acts in all
        steps, the composite that does: only that fits into a file for other programs.
        """
        for text, queue in self._queues.items():
            count = max(0, self.scores.settings.per_word - self._named[text])
            self.open |= set(queue[:count])
            self._queues[text] = queue[count:] if count else []
            if not self._queues[text] and not count and text in self._without_window:
                last = self._without_window.pop(text)
                if self._in_windows_alone[text]:
                    self.open.add(last)
                    self._extra.add(last)

    def look(self, names: Sequence[str], found: Readings) -> None:
        """Close the open ones that what was `found` of them on a few seeds leaves no hope to earn their name."""
        texts = list(self.scores.labeler.names)
        of = torch.tensor([texts.index(self._wanted[name]) if name in self._wanted else -1 for name in names])
        trust = confidence(self.scores.effects(found), Criteria(), of=of).tolist()
        lost = {name for name, share in zip(names, trust, strict=True) if share <= Criteria().lost}
        self.open -= lost

    def sure(self, names: Sequence[str], found: Readings, *, last: bool) -> set[str]:
        """Which of the open ones hold by what was `found` of them, chance aside: after the `last` seeds all that are left.

        Those that hardly will are closed. `names` are those of the rows found.
        """
        effects, names_of = self.scores.effects(found), self.scores.labeler.names
        trust = dict(zip(names, confidence(effects, Criteria()).tolist(), strict=True))
        leads = dict(zip(names, (names_of[score] for score in effects.mean.abs().argmax(dim=1)), strict=True))
        first = len(found.seeds) <= len(self.scores.settings.confirm_seeds)
        hopeless = Criteria().hopeless if first else Criteria().unlikely
        self.open -= {
            name
            for name, share in trust.items()
            if share <= hopeless
            or leads[name] != self._wanted.get(name, leads[name])
            or (self._named[leads[name]] >= self.scores.settings.per_word and name not in self._extra)
        }
        least = Criteria().confidence if last else 1 - Criteria().doubt
        holding = {name for name in self.open & trust.keys() if trust[name] >= least}
        if last:
            self.open &= holding
        return holding

    def confirmed(self, confirmation: Confirmation, *, last: bool) -> dict[str, Label]:
        """The labels that readings on other seeds justify, by id; a composite's only where it is the one it was made for.

        What they settle is closed, and after the `last` everything.
        """
        ids = [name for name in confirmation.spots if name in self.open]
        if not ids:
            return {}
        rows = [number for number, name in enumerate(confirmation.spots) if name in self.open]
        found = self.scores.effects(confirmation.found).rows(rows)
        at = [confirmation.at.index(confirmation.spots[name]) for name in ids]
        chance = self.scores.chance(confirmation).rows(at)
        trust = confidence(found, Criteria(), chance)
        given = labels_from(
            found,
            self.scores.labeler.names,
            Criteria(),
            source=self.scores.labeler.source,
            scale=self.scores.settings.scale,
            seeds=confirmation.found.seeds,
            steps=self.scores.settings.steps,
            chance=chance,
            trust=trust,
        )
        doubtful = unsettled(trust, Criteria())
        self.open -= {name for name, doubt in zip(ids, doubtful.tolist(), strict=True) if last or not doubt}
        labels = {
            name: new
            for name, new in zip(ids, given, strict=True)
            if new is not None and name not in self.open and new.text == self._wanted.get(name, new.text)
        }
        labels_of_directions = {name: new for name, new in labels.items() if not name.startswith("lora/")}
        self._named.update(new.text for new in labels_of_directions.values())
        for name, new in labels_of_directions.items():
            self._in_windows_alone[new.text] = self._in_windows_alone.get(new.text, True) and name in self._windowed
        return labels


def _nearest(name: str, parts: int, found: Effects, row: int, score: int, names: Sequence[str]) -> Nearest:
    mean = found.mean[row]
    second = int(mean.abs().scatter(0, torch.tensor([score]), -1.0).argmax())
    sign = 1 if float(mean[score]) > 0 else -1
    return Nearest(
        id=name,
        parts=parts,
        effect=float(mean[score]),
        selectivity=float(found.selectivity[row, score]),
        also=names[second],
        also_effect=sign * float(mean[second]),
    )
