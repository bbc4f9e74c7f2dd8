"""The criteria of a label: from measured effects to labels, or to none.

A label is given only where one attribute clearly leads and its sign holds across seeds. Pure: readings in, labels out.
"""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from eigenbank.schemas import Evidence, Label

_OF_ELEVEN = 3.0
"""1 + ten others at a fifth each: with eleven scores a third of all change is asked."""


@dataclass(frozen=True)
class Criteria:
    """What it takes to get a label.

    `effect`: least change in population standard deviations per unit scale; `selectivity`: least share of all change, among more
    than eleven scores correspondingly less (see `least_share`);
    `lead`: how many times the next attribute's change; `consistency`: least share of seeds that agree in sign;
    `asymmetry`: most even response to the odd one, beyond which a slider no longer slides; `confidence`: least share of
    bootstrap resamples in which all that holds of the mean; `null`: how many times the root mean square effect, on the
    same attribute and seeds, of random directions of equal length at the same spot. `doubt`: a confidence further than
    this from 0 and from 1 is worth more seeds; one of `lost` or less at the first look, of `hopeless` or less on the first
    seeds, of `unlikely` or less on more, is not.
    """

    effect: float = 0.2
    selectivity: float = 1 / 3
    lead: float = 1.2
    consistency: float = 0.9
    asymmetry: float = 1.0
    confidence: float = 0.95
    null: float = 2.0
    doubt: float = 0.02
    lost: float = 0.02
    hopeless: float = 0.1
    unlikely: float = 0.5

    def least_share(self, scores: int) -> float:
        """The least share of all change among so many scores: a third where the ten others of eleven move a fifth as much on average,
        and where more others do, what that leaves. Else the same slider would lose its name by more words being asked about.
        """
        return self.selectivity * min(1.0, _OF_ELEVEN / (1 + (scores - 1) / 5))

    def loosened(self) -> "Criteria":
        """Return criteria for a first look on few seeds, that should lose no direction which would pass on many."""
        return replace(
            self,
            effect=0.8 * self.effect,
            selectivity=0.6 * self.selectivity,
            lead=1.0,
            consistency=0.75,
            asymmetry=1.6 * self.asymmetry,
        )


@dataclass(frozen=True)
class Effects:
    """What K directions do to f attributes, over n seeds.

    `odd` and `even` `(K, n, f)`: (f(+α) − f(−α)) / 2α and (f(+α) + f(−α) − 2f(0)) / 2α in population standard deviations.
    """

    odd: Tensor
    even: Tensor

    def rows(self, directions: Sequence[int]) -> "Effects":
        """Return the effects of some of the directions."""
        picked = list(directions)
        return Effects(self.odd[picked], self.even[picked])

    def on(self, seeds: Tensor) -> "Effects":
        """Return the effects on some of the seeds, `(m,)` long; one may be named more than once."""
        return Effects(self.odd[:, seeds], self.even[:, seeds])

    def times(self, factor: float) -> "Effects":
        """Return the same per so many units of scale."""
        return Effects(self.odd * factor, self.even * factor)

    def of(self, readable: Tensor) -> "Effects":
        """Return the same with no effect on the attributes that cannot be read, `readable` being `(f,)` bool."""
        return Effects(self.odd * readable, self.even * readable)

    @cached_property
    def mean(self) -> Tensor:
        """`(K, f)`: the odd part's mean over the seeds."""
        return self.odd.mean(dim=1)

    @cached_property
    def asymmetry(self) -> Tensor:
        """`(K, f)`: size of the even part against the odd one, root mean square over the seeds."""
        size = self.odd.square().mean(dim=1).sqrt().clamp_min(1e-9)
        return self.even.square().mean(dim=1).sqrt() / size

    @property
    def selectivity(self) -> Tensor:
        """`(K, f)`: each attribute's share of the absolute effects."""
        return self.mean.abs() / self.mean.abs().sum(dim=1, keepdim=True).clamp_min(1e-12)

    @property
    def consistency(self) -> Tensor:
        """`(K, f)`: share of the seeds whose sign agrees with the mean's."""
        return (self.odd.sign() == self.mean.sign()[:, None]).float().mean(dim=1)


@dataclass(frozen=True)
class Chance:
    """What random directions of equal length do in the spot of each of K others, on the same seeds or some of them: what is
    easily moved differs more between seeds than between directions.

    `odd`: for each draw of K random directions `(K, n, f)`, as in `Effects`. `seeds`: for each draw which of the seeds of
    those others its n are, `(n,)`; the first n where it is None.
    """

    odd: Sequence[Tensor]
    seeds: Sequence[Tensor] | None = None

    def rows(self, directions: Sequence[int]) -> "Chance":
        """Return the same for some of the directions."""
        return Chance([draw[list(directions)] for draw in self.odd], self.seeds)

    def on(self, seeds: Tensor) -> "Chance":
        """The same on those of some seeds, `(m,)` long, that are its own; one may be named more than once. A draw that was read
        on none of them stays as it is. The result cannot be asked for seeds again.
        """
        at = [torch.arange(draw.shape[1]) for draw in self.odd] if self.seeds is None else self.seeds
        found = []
        for draw, own in zip(self.odd, at, strict=True):
            column = torch.full((1 + int(max(own.max(), seeds.max())),), -1)
            column[own] = torch.arange(len(own))
            chosen = column[seeds]
            chosen = chosen[chosen >= 0]
            found.append(draw[:, chosen] if len(chosen) else draw)
        return Chance(found)

    @cached_property
    def null(self) -> Tensor:
        """`(K, f)`: root mean square over the draws of the mean effects."""
        return torch.stack([draw.mean(dim=1) for draw in self.odd]).square().mean(dim=0).sqrt()


def effects(base: Tensor, plus: Tensor, minus: Tensor, std: Tensor, scale: float) -> Effects:
    """Effects from readings: `base` `(n, f)`, `plus` and `minus` `(K, n, f)`, `std` `(f,)` over the population."""
    return Effects((plus - minus) / (2 * scale * std), ((plus + minus) / 2 - base) / (scale * std))


def leading(found: Effects, criteria: Criteria, chance: Chance | None = None) -> Tensor:
    """`(K,)` long: the attribute that clearly leads each direction's effect, −1 where none does, or not more than by `chance`."""
    strength, order = found.mean.abs().sort(dim=1, descending=True)
    first = order[:, 0]
    rows = torch.arange(len(first))
    scores = int((found.mean.abs().amax(dim=0) > 0).sum())  # those that can be read
    clear = (
        (strength[:, 0] >= criteria.effect)
        & (strength[:, 0] >= criteria.lead * strength[:, 1])
        & (found.selectivity[rows, first] >= criteria.least_share(scores))
        & (found.consistency[rows, first] >= criteria.consistency)
        & (found.asymmetry[rows, first] <= criteria.asymmetry)
    )
    if chance is not None:
        clear &= strength[:, 0] >= criteria.null * chance.null[rows, first]
    return torch.where(clear, first, -1)


def promising(found: Effects, criteria: Criteria, share: float = 0.2, resamples: int = 200, seed: int = 0) -> Tensor:
    """`(K,)` long: the attribute that leads each direction's effect (see `leading`) in the most bootstrap resamples over the seeds,
    −1 where in less than a `share` of them. On few seeds the mean alone says another attribute too often.
    """
    times = torch.zeros_like(found.mean)
    for seeds in _resampled(found.odd.shape[1], resamples, seed):
        lead = leading(found.on(seeds), criteria)
        rows = (lead >= 0).nonzero().flatten()
        times[rows, lead[rows]] += 1
    most, attribute = times.max(dim=1)
    return torch.where(most >= share * resamples, attribute, -1)


def strongest(mean: Tensor, count: int) -> list[int]:
    """The numbers of `count` directions that move the scores most, in order: by their best rank among the `(K, f)` effects.

    Each score has its turn, so that one that everything moves does not take all places.
    """
    ranks = mean.abs().argsort(dim=0, descending=True).argsort(dim=0).amin(dim=1)
    return sorted(ranks.argsort(stable=True)[:count].tolist())


def shortlist(found: Effects, first: Tensor, most: int) -> dict[int, list[int]]:
    """The directions worth a second look: of those that `first` gives an attribute, the `most` promising of each, best first.

    Promising is selective and odd: a direction that does the same at either sign of its scale is no slider.
    """
    promise = found.selectivity / (1 + found.asymmetry)
    chosen = {}
    for attribute in sorted(set(first.tolist()) - {-1}):
        rows = (first == attribute).nonzero().flatten()
        order = promise[rows, attribute].argsort(descending=True)
        chosen[attribute] = rows[order[:most]].tolist()
    return chosen


def confidence(
    found: Effects,
    criteria: Criteria,
    chance: Chance | None = None,
    resamples: int = 400,
    seed: int = 0,
    of: Tensor | None = None,
) -> Tensor:
    """`(K,)`: share of bootstrap resamples over seeds in which all the criteria (see `leading`) hold of the attribute that
    each direction moves most, with the same sign; or of the attribute `of` `(K,)`, −1 for the one that it moves most.
    """
    attribute = found.mean.abs().argmax(dim=1)
    if of is not None:
        attribute = torch.where(of < 0, attribute, of)
    rows = torch.arange(len(attribute))
    kept = torch.zeros(len(attribute), dtype=torch.float64)  # in 32 bits 380 of 400 are less than 0.95
    sign = found.mean[rows, attribute].sign()
    for seeds in _resampled(found.odd.shape[1], resamples, seed):
        again = found.on(seeds)
        lead = leading(again, criteria, None if chance is None else chance.on(seeds))
        kept += (lead == attribute) & (again.mean[rows, attribute].sign() == sign)
    return kept / resamples


def _resampled(n: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """Bootstrap resamples: n of n seeds `(n,)`, with replacement, so many times."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(resamples):
        yield torch.randint(n, (n,), generator=generator)


def unsettled(trust: Tensor, criteria: Criteria) -> Tensor:
    """`(K,)` bool: whether more seeds could tell if there is a label, where the `confidence` is `trust`."""
    return (trust > criteria.doubt) & (trust < 1 - criteria.doubt)


def labels_from(
    found: Effects,
    names: Sequence[str],
    criteria: Criteria,
    *,
    source: str,
    scale: float,
    seeds: Sequence[int],
    steps: int,
    chance: Chance | None = None,
    trust: Tensor | None = None,
) -> list[Label | None]:
    """A label for each direction, None where no attribute leads clearly, it does not beat `chance` (as in `leading`),
    or the bootstrap does not trust it. `trust` is the `confidence`, if it is known already.
    """
    first = leading(found, criteria, chance)
    trust = confidence(found, criteria, chance) if trust is None else trust
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    labels: list[Label | None] = []
    for k, j in enumerate(first.tolist()):
        if j < 0 or float(trust[k]) < criteria.confidence:
            labels.append(None)
            continue
        second = int(found.mean[k].abs().scatter(0, torch.tensor([j]), -1.0).argmax())
        effect = float(found.mean[k, j])
        labels.append(
            Label(
                text=names[j],
                polarity=1 if effect > 0 else -1,
                confidence=round(float(trust[k]), 4),
                source=source,
                evidence=Evidence(
                    effect=abs(effect),
                    selectivity=float(found.selectivity[k, j]),
                    consistency=float(found.consistency[k, j]),
                    asymmetry=float(found.asymmetry[k, j]),
                    runner_up=names[second],
                    runner_up_effect=float(found.mean[k, second]) * (1 if effect > 0 else -1),
                    null=None if chance is None else float(chance.null[k, j]),
                    scale=scale,
                    seeds=tuple(seeds),
                    steps=steps,
                ),
                created=now,
            )
        )
    return labels
