"""The job of labelling: draw, read, hold against chance, confirm. Labels come out, or none.

Builders judge, loaders draw; they meet here, as in `eigenbank.workflows`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eigenbank.builders.label import Criteria, Effects, effects, labels_from, leading, null_effects, shortlist
from eigenbank.builders.labelers.panel import Panel
from eigenbank.builders.labelers.seam import Labeler, LabelerError
from eigenbank.loaders.calibrate import calibrate
from eigenbank.loaders.pipelines import denoiser_of
from eigenbank.loaders.respond import Responses, read_unedited, respond
from eigenbank.registry.bank import Bank, Direction
from eigenbank.schemas import Label

POPULATION = tuple(range(2_000_000, 2_000_064))
"""Seeds of the unedited images whose scores say how much each varies by itself. No other measurement uses them."""
READABLE = 0.1
"""A score that varies less among a checkpoint's own images, in its stated standard deviations, is not read off them."""


@dataclass(frozen=True)
class Plan:
    """How a set is labelled: measured at ± `scale` with so many `steps`; all directions screened on `seeds`, with `null`
    random ones at every place; the `most` promising for each score confirmed on `confirm_seeds`.
    """

    scale: float = 1.0
    seeds: tuple[int, ...] = tuple(range(100, 104))
    confirm_seeds: tuple[int, ...] = tuple(range(200, 212))
    steps: int = 10
    most: int = 4
    null: int = 4


def label(
    bank: Bank,
    pipe: Any,
    labelers: Sequence[Labeler],
    plan: Plan | None = None,
    *,
    call: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
    say: Callable[[str], None] = lambda _message: None,
) -> Bank:
    """The bank with the labels that the labelers' readings justify; earlier labels of theirs are replaced.

    A label is given where one score clearly leads a direction's effect, with one sign on nearly all seeds, several times
    as much as random directions of equal length move it at the same place, and again on seeds it was not found with. A
    score that hardly varies among the unedited images names nothing. `call` is what the pipeline is given beside seeds and
    steps: a prompt, if it takes one. `cache` is a folder where readings are kept: a run
    cut short goes on from there.

    A labeler that fails is left out, which is said; what it gave before is kept. Raises LabelerError when none is left,
    SteerError for a pipeline that draws nothing.
    """
    plan = plan or Plan()
    bank = calibrate(pipe, bank)
    remaining = list(labelers)
    while True:
        try:
            found = _labels(bank, pipe, Panel(remaining), plan, dict(call or {}), cache, progress)
            break
        except LabelerError as error:
            remaining = [labeler for labeler in remaining if labeler.source != error.source]
            if not remaining or error.source is None:
                message = f"{error}: no label was given"
                raise LabelerError(message, error.source) from error
            say(f"{error}: it gave no label, the other labelers go on")
    asked = {labeler.source for labeler in remaining}
    kept = {each.id: tuple(old for old in each.labels if old.source not in asked) for each in bank}
    return bank.labelled({name: (*labels, *found.get(name, ())) for name, labels in kept.items()})


def _labels(
    bank: Bank,
    pipe: Any,
    panel: Panel,
    plan: Plan,
    call: dict[str, Any],
    cache: Path | None,
    progress: Callable[[str, int, int], None],
) -> dict[str, list[Label]]:
    """The labels of all labelers of the panel, by direction id."""
    directions, chance = list(bank), bank.randomised(plan.null)
    if cache is not None:
        cache = cache / _measurement(bank, pipe, panel, plan, call)

    def measure(what: str, which: list[Direction], on: Sequence[int]) -> Responses:
        names = hashlib.sha256(json.dumps([*(each.id for each in which), *on]).encode()).hexdigest()[:16]
        return respond(
            pipe,
            which,
            panel.read,
            scale=plan.scale,
            seeds=on,
            steps=plan.steps,
            force=what == "chance",
            cache=None if cache is None else cache / f"{what}-{names}",
            progress=lambda done, total: progress(what, done, total),
            **call,
        )

    own = None if cache is None else cache / "population"
    population = read_unedited(pipe, panel.read, POPULATION, plan.steps, cache=own, **call)
    screened = measure("screening", directions, plan.seeds)
    random = measure("chance", list(chance), plan.seeds)
    criteria = Criteria()
    judges = [_Judge(labeler, panel.columns[labeler.source], population, plan.scale) for labeler in panel.labelers]
    chosen: list[list[int]] = []
    nulls: list[Tensor] = []
    for judge in judges:
        seen = judge.effects(screened)
        null = null_effects(judge.effects(random), [_place(each) for each in chance], [_place(each) for each in bank])
        chosen.append(shortlist(seen, leading(seen, criteria.loosened(), null), plan.most))
        nulls.append(null)
    order = sorted({k for some in chosen for k in some})
    labels: dict[str, list[Label]] = {}
    if not order:
        return labels
    confirmed = measure("confirming", [directions[k] for k in order], plan.confirm_seeds)
    for judge, some, null in zip(judges, chosen, nulls, strict=True):
        given = labels_from(
            judge.effects(confirmed).rows([order.index(k) for k in some]),
            judge.labeler.names,
            criteria,
            source=judge.labeler.source,
            scale=plan.scale,
            seeds=plan.confirm_seeds,
            steps=plan.steps,
            null=null[some],
        )
        for k, new in zip(some, given, strict=True):
            if new is not None:
                labels.setdefault(directions[k].id, []).append(new)
    return labels


class _Judge:
    """One labeler's view of the panel's readings."""

    def __init__(self, labeler: Labeler, columns: slice, population: Tensor, scale: float) -> None:
        varied = population[:, columns].std(dim=0)
        self.labeler = labeler
        self._columns = columns
        self._scale = scale
        self._stds = varied.clamp_min(1e-6) if labeler.stds is None else labeler.stds
        self._readable = (varied >= READABLE * self._stds) & (varied > 1e-6)

    def effects(self, found: Responses) -> Effects:
        """What the directions do to this labeler's scores, none where they cannot be read."""
        base, plus, minus = (each[..., self._columns] for each in (found.base, found.plus, found.minus))
        return effects(base, plus, minus, self._stds, self._scale).of(self._readable)


def _place(direction: Direction) -> tuple[str, str]:
    return direction.layer, direction.recipe.slug


def _measurement(bank: Bank, pipe: Any, panel: Panel, plan: Plan, call: dict[str, Any]) -> str:
    """A name for a measurement, of the vectors, the denoiser's weights, and how it is done: equal names, equal readings."""
    digest = hashlib.sha256()
    for name, tensor in [*sorted(bank.vectors.items()), *denoiser_of(pipe).state_dict().items()]:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    lengths = {layer.name: {at: found.length for at, found in layer.lengths.items()} for layer in bank.manifest.layers}
    how: list[Any] = [
        bank.model_id,
        lengths,
        [[each.source, each.names] for each in panel.labelers],
        plan.scale,
        plan.steps,
    ]
    if call:
        how.append(call)
    digest.update(json.dumps(how, default=repr).encode())
    return digest.hexdigest()[:32]
