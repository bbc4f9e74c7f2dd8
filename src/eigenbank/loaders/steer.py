"""Steering: add directions to a pipeline's hidden states while it runs, and leave no trace.

with steer(pipe, {"smile": 1.5, "mid_block.attentions.0/output-value/3": -0.5}):
    images = pipe().images
"""

import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from eigenbank.loaders.calibrate import token_lengths
from eigenbank.loaders.hooks import AddHook, ClockHook, attach, detach, run_progress, site_of
from eigenbank.loaders.load import bank_for
from eigenbank.loaders.match import TRANSFER, is_exact, live_weights, transfer_score
from eigenbank.loaders.pipelines import denoiser_of
from eigenbank.registry.bank import Bank, Direction
from eigenbank.schemas.errors import MatchError, SteerError
from eigenbank.schemas.recipe import Site

Scale = float | Sequence[float] | Tensor
# A mapping's key type is invariant: all three are spelled out, so that a plain dict of words is one of them.
Edits = Mapping[str, Scale] | Mapping[Direction, Scale] | Mapping[str | Direction, Scale]

MAX_SCALE = 1e4
"""Largest scale taken, in token lengths; pictures break at a few."""

_numbers = itertools.count()


@dataclass
class Term:
    """One direction of an edit: where it is added, `vector` for scale 1 in the wanted polarity, and its scale now."""

    key: str
    direction: Direction
    vector: Tensor
    scale: Tensor
    match: str


class Steering:
    """An edit of one pipeline: a context manager, or a handle with `attach`, `set_scale` and `remove`."""

    def __init__(self, denoiser: nn.Module, terms: list[Term], owner: Any = None) -> None:
        self.denoiser = denoiser
        self.terms = terms
        self._owner = owner
        self._factor = 1.0
        self._progress = 0.0
        self._name = f"eigenbank-{next(_numbers)}"
        self._hooks: list[tuple[nn.Module, AddHook, list[Term]]] = []
        self._attached: list[nn.Module] = []

    @property
    def attached(self) -> bool:
        """Whether the edit is acting on the pipeline now."""
        return bool(self._attached)

    def attach(self) -> "Steering":
        """Put the hooks in place. Raises SteerError if they are."""
        if self.attached:
            message = "this edit is attached already: remove() it first, or make another with steer()"
            raise SteerError(message)
        sites: dict[tuple[str, Site], list[Term]] = {}
        for term in self.terms:
            sites.setdefault((term.direction.layer, term.direction.recipe.site), []).append(term)
        try:
            if any(not term.direction.recipe.window.whole for term in self.terms):
                clock = ClockHook(run_progress(self._owner), self._move)
                self._put(self.denoiser, clock)
            guided = "encoder_hidden_states" in inspect.signature(type(self.denoiser).forward).parameters
            for (_, site), terms in sites.items():
                layer = terms[0].direction.bank.layers[terms[0].direction.layer]
                module, at, axis = site_of(self.denoiser, layer, site)
                hook = AddHook(at, axis, tiled=guided)
                self._put(module, hook, site)
                self._hooks.append((module, hook, terms))
            self._refresh()
        except BaseException:
            self.remove()
            raise
        return self

    def set_scale(self, scale: Scale, key: str | None = None) -> None:
        """Set the scale of one direction by its key in the edit, or, without a key, a factor on all of them.

        Raises SteerError for what is no scale, or no part of the edit; then nothing has changed.
        """
        if key is None:
            factor = _as_scale(scale, "all directions")
            if factor.ndim:
                message = "a factor on all directions is one number: name a direction to give each sample its own scale"
                raise SteerError(message)
            self._factor = float(factor)
        else:
            if key not in [term.key for term in self.terms]:
                message = f"{key!r} is not part of this edit, which has {', '.join(term.key for term in self.terms)}"
                raise SteerError(message)
            value = _as_scale(scale, key)
            _check_batches([value, *(term.scale for term in self.terms if term.key != key)])
            for term in self.terms:
                term.scale = value if term.key == key else term.scale
        self._refresh()

    def remove(self) -> None:
        """Take the hooks away; the pipeline is what it was. Harmless when there are none."""
        while self._attached:
            module = self._attached.pop()
            for name in [name for name in module.__dict__["_diffusers_hook"].hooks if name.split("/")[0] == self._name]:
                detach(module, name)
        self._hooks.clear()

    def __enter__(self) -> "Steering":
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _put(self, module: nn.Module, hook: Any, site: str = "clock") -> None:
        attach(module, hook, f"{self._name}/{site}")
        self._attached.append(module)

    def _move(self, progress: float) -> None:
        before = [self._progress in term.direction.recipe.window for term in self.terms]
        self._progress = progress
        if before != [progress in term.direction.recipe.window for term in self.terms]:
            self._refresh()

    def _refresh(self) -> None:
        """Work out what every hook adds, so that a pass of the denoiser costs one addition per site."""
        for _, hook, terms in self._hooks:
            delta: Tensor | None = None
            for term in terms:
                scale = term.scale * self._factor
                if self._progress in term.direction.recipe.window and bool(scale.any()):
                    part = scale[:, None] * term.vector if scale.ndim else scale * term.vector
                    delta = part if delta is None else delta + part
            hook.delta = None if delta is None else delta.to(next(self.denoiser.parameters()))


def steer(pipe: Any, edits: Edits, *, bank: Bank | None = None, force: bool = False) -> Steering:
    """Prepare an edit of `pipe`, a diffusers pipeline or a bare denoiser; attach it with `with` or `.attach()`.

    `edits` maps labels, direction ids or Direction objects to scales: 1 adds a vector as long as a typical token of the
    layer. A sequence of scales gives every sample of the batch its own. Words and ids are looked up in `bank`, else in
    the catalog's set for the checkpoint the pipeline was loaded from.

    Raises UnknownNameError, MatchError (the directions do not belong to these weights; `force` overrides all but
    another width or architecture) or SteerError. A deep copy made of the pipeline while it is steered keeps the edit.
    """
    if not isinstance(edits, Mapping) or not edits:
        message = "an edit needs at least one direction: steer(pipe, {'label': scale})"
        raise SteerError(message)
    denoiser = denoiser_of(pipe)
    chosen: list[tuple[str, Direction, int, Scale]] = []
    for key, scale in edits.items():
        if isinstance(key, Direction):
            chosen.append((key.id, key, 1, scale))
            continue
        if not isinstance(key, str):
            message = f"an edit's keys are labels, ids or directions, {key!r} is none of them"
            raise SteerError(message)
        bank = bank_for(pipe) if bank is None else bank
        direction, polarity = bank.find(key)
        chosen.append((key, direction, polarity, scale))
    lengths = token_lengths(pipe, [direction for _, direction, _, _ in chosen])
    terms = []
    for (key, direction, polarity, scale), length in zip(chosen, lengths, strict=True):
        vector = direction.vector * (polarity * length)
        terms.append(Term(key, direction, vector, _as_scale(scale, key), check_match(denoiser, direction, force)))
    _check_batches([term.scale for term in terms])
    return Steering(denoiser, terms, owner=pipe)


def check_match(denoiser: nn.Module, direction: Direction, force: bool = False) -> str:
    """How the direction matches: `exact`, `transfer 0.98`, or, with `force`, `foreign 0.41`. Raises MatchError."""
    layer = direction.bank.layers[direction.layer]
    weights = live_weights(denoiser, layer)
    if is_exact(weights, layer):
        return "exact"
    score = transfer_score(weights, direction.recipe, direction.vector, layer)
    if score >= TRANSFER:
        return f"transfer {score:.3f}"
    if force:
        return f"foreign {score:.3f}"
    message = (
        f"{direction.full_id} is no direction of this pipeline's weights (cos∠(M′v, v) = {score:.3f}, at least {TRANSFER} "
        "expected): nothing was changed. Build directions for this checkpoint, or pass force=True"
    )
    raise MatchError(message)


def _as_scale(scale: Scale, key: str) -> Tensor:
    try:
        value = torch.as_tensor(scale, dtype=torch.float32).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        value = torch.tensor(float("nan"))
    if value.ndim > 1 or value.numel() == 0 or not bool((value.abs() <= MAX_SCALE).all()):
        message = f"the scale of {key!r} is {scale!r}: expected a number of at most ±{MAX_SCALE:g}, or one per sample of the batch"
        raise SteerError(message)
    return value


def _check_batches(scales: Sequence[Tensor]) -> None:
    batches = {len(scale) for scale in scales if scale.ndim}
    if len(batches) > 1:
        message = f"the edit gives scales for batches of {sorted(batches)} samples at once: give each direction as many"
        raise SteerError(message)
