"""Match directions with a pipeline by its weights, never by its name.

`exact`: the weights are those the direction was computed from, in float32, float16 or bfloat16. `transfer`: they are
others, and the direction is still an eigenvector of theirs, cos∠(M′v, v) telling how well. `structure`: they are
quantised, so that only their shapes can be compared. `foreign`: it is no eigenvector of theirs. `incompatible`: there is
no such layer, or it has another width.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from eigenbank.loaders.target import Target
from eigenbank.registry.plugins import PluginError
from eigenbank.registry.recipes import form, weights_digest
from eigenbank.registry.sets.direction_set import Direction, DirectionSet
from eigenbank.schemas import Layer, Part, Recipe
from eigenbank.schemas.errors import MatchError, UnknownNameError
from eigenbank.schemas.layer import Role

Verdict = Literal["exact", "transfer", "structure", "foreign", "incompatible"]

TRANSFER = 0.9
"""Least cos∠(M′v, v) of a direction that still counts as the pipeline's own. A random unit vector reaches the ratio of
the eigenvalues' mean to their root mean square, 0.71 for a square Gaussian matrix and less for a trained one."""


@dataclass(frozen=True)
class Match:
    """How one direction matches. `score`: cos∠(M′v, v) where it was computed. `reason`: what is wrong, in words."""

    direction: Direction
    verdict: Verdict
    score: float | None = None
    reason: str | None = None

    def __str__(self) -> str:
        return self.verdict if self.score is None or self.verdict == "exact" else f"{self.verdict} {self.score:.3f}"


def live_weights(target: Target, denoiser: nn.Module, layer: Layer) -> dict[Role, Tensor]:
    """Return a layer's weights as the pipeline holds them, by role. Raises MatchError for another layer or width.

    Empty where they are quantised, of the right shape as far as their modules tell.
    """
    weights: dict[Role, Tensor] = {}
    quantised = False
    for role, part in layer.tensors.items():
        whole = target.parameter(denoiser, part.tensor)
        width = _declared_width(target, denoiser, part.tensor) if role in ("query", "key", "value") else None
        if is_quantised(whole) or whole.is_meta:
            _check_width(layer, layer.width if width is None else width)
            quantised = True
            continue
        try:
            weights[role] = part.take(whole)
        except IndexError:
            message = (
                f"{part.tensor} of the pipeline's {type(denoiser).__name__} has shape {list(whole.shape)}, not the one "
                "described: the directions belong to another architecture, nothing was changed"
            )
            raise MatchError(message) from None
        if role == "query":
            _check_width(layer, weights[role].shape[-1])
    return {} if quantised else weights


def is_quantised(weight: Tensor) -> bool:
    """Whether a weight is stored as something other than its values: whole numbers, packed blocks, a tensor of a library's own."""
    own = type(weight) not in (Tensor, nn.Parameter) and not isinstance(weight, nn.Buffer)
    return own or not weight.is_floating_point()


def match_weights(weights: Mapping[Role, Tensor], layer: Layer, directions: Iterable[Direction]) -> list[Match]:
    """Match directions of a layer with these weights of it; without weights all are `structure`."""
    chosen = list(directions)
    if not weights:
        return [
            Match(direction, "structure", reason="the weights are quantised: only their shapes match")
            for direction in chosen
        ]
    if is_exact(weights, layer):
        return [Match(direction, "exact", 1.0) for direction in chosen]
    found = []
    for direction in chosen:
        try:
            score = transfer_score(weights, direction.recipe, direction.vector, layer)
        except (UnknownNameError, PluginError) as error:
            found.append(Match(direction, "structure", reason=f"only shapes were compared: {error}"))
            continue
        verdict: Verdict = "transfer" if score >= TRANSFER else "foreign"
        reason = None if verdict == "transfer" else f"cos∠(M′v, v) = {score:.3f}, at least {TRANSFER} expected"
        found.append(Match(direction, verdict, score, reason))
    return found


def match_stored(
    shape: Callable[[str], tuple[int, ...] | None],
    read: Callable[[list[Part]], list[Tensor] | None],
    layer: Layer,
    directions: Iterable[Direction],
) -> list[Match]:
    """Match directions of a layer with a checkpoint on disk, given the shapes of its tensors and a way to read parts of them.

    `read` returns None where they are quantised.
    """
    chosen = list(directions)
    reason = None
    for role, part in layer.tensors.items():
        stored = shape(part.tensor)
        if stored is None:
            reason = f"the checkpoint has no {part.tensor}: the directions belong to another architecture"
        elif role == "query" and math.prod(stored[1:]) != layer.width:
            reason = f"the directions of {layer.name} are {layer.width} wide, the checkpoint's layer is {math.prod(stored[1:])} wide"
        elif any(end > stored[0] for _, end in part.rows or ()):
            reason = f"{part.tensor} has {stored[0]} rows, fewer than the set describes"
        if reason is not None:
            return [Match(direction, "incompatible", reason=reason) for direction in chosen]
    tensors = read(list(layer.tensors.values()))
    return match_weights({} if tensors is None else dict(zip(layer.tensors, tensors, strict=True)), layer, chosen)


def match(target: Target, denoiser: nn.Module, directions: Iterable[Direction]) -> list[Match]:
    """Match directions with a denoiser. Returns them in order; every layer's weights are read once."""
    chosen = list(directions)
    by_layer: dict[tuple[int, str], list[int]] = {}
    for number, direction in enumerate(chosen):
        by_layer.setdefault((id(direction.bank), direction.layer), []).append(number)
    found: dict[int, Match] = {}
    for numbers in by_layer.values():
        members = [chosen[number] for number in numbers]
        layer = members[0].bank.layers[members[0].layer]
        try:
            made = match_weights(live_weights(target, denoiser, layer), layer, members)
        except MatchError as error:
            made = [Match(direction, "incompatible", reason=str(error)) for direction in members]
        found.update(zip(numbers, made, strict=True))
    return [found[number] for number in range(len(chosen))]


def layer_digest(target: Target, bank: DirectionSet) -> str | None:
    """Return the digest of a pipeline's weights in the first layer of a set; None where it has no such layer."""
    layer = next(iter(bank.layers.values()))
    denoiser = denoiser_for(target, bank, layer)
    try:
        weights = {} if denoiser is None else live_weights(target, denoiser, layer)
    except MatchError:
        return None
    casts = [cast for cast in layer.digests if weights and weights["query"].dtype == getattr(torch, cast)]
    return weights_digest(weights, casts[0]) if casts else None


def denoiser_for(target: Target, bank: DirectionSet, layer: Layer) -> nn.Module | None:
    """Return the denoiser that a layer of a set belongs to, by the name it was built under or else by class; None if there is none."""
    built = bank.manifest.checkpoint
    names = sorted(target.denoisers, key=lambda name: name != (layer.component or built.component))
    fit = [target.denoisers[name] for name in names if layer.may_be_of(name)]
    return next((each for each in fit if layer.component or type(each).__name__ == built.denoiser), None)


def closest_set(target: Target, banks: Iterable[DirectionSet]) -> tuple[DirectionSet, Match] | None:
    """Return the set whose directions fit a pipeline's weights best, with the worst match of those tried; None if none fits.

    The first direction of a set's first, middle and last layer is tried. The first set of which all are exact is taken.
    """
    best: tuple[DirectionSet, Match] | None = None
    for bank in banks:
        firsts = list({direction.layer: direction for direction in reversed(list(bank))}.values())
        tried = {id(each): each for each in (firsts[0], firsts[len(firsts) // 2], firsts[-1])} if firsts else {}
        where = [(denoiser_for(target, bank, bank.layers[each.layer]), each) for each in tried.values()]
        made = [match(target, denoiser, [each])[0] for denoiser, each in where if denoiser is not None]
        if not made or len(made) < len(where):
            continue
        worst = min(made, key=lambda each: each.score or 0.0)
        if worst.verdict == "exact":
            return bank, worst
        if worst.verdict == "transfer" and (best is None or (worst.score or 0.0) > (best[1].score or 0.0)):
            best = bank, worst
    return best


def check(found: Match, force: bool) -> None:
    """Raise MatchError for a direction that must not be applied: an incompatible one, or a foreign one without `force`."""
    if found.verdict == "incompatible":
        raise MatchError(found.reason or f"{found.direction.id} does not fit this pipeline")
    if found.verdict == "foreign" and not force:
        message = (
            f"{found.direction.full_id} is no direction of this pipeline's weights ({found.reason}): nothing was changed. "
            "Build directions for this checkpoint, or apply it by force"
        )
        raise MatchError(message)


def is_exact(weights: Mapping[Role, Tensor], layer: Layer) -> bool:
    """Whether the weights are those the directions were computed from, in float32, float16 or bfloat16."""
    for cast, digest in layer.digests.items():
        if weights["query"].dtype == getattr(torch, cast):
            return weights_digest(weights, cast) == digest
    return False


def transfer_score(weights: Mapping[Role, Tensor], recipe: Recipe, vector: Tensor, layer: Layer) -> float:
    """Compute cos∠(M′v, v) for the recipe's Gram matrix M′ of these weights: 1 for an eigenvector, in [0, 1]."""
    wide = {role: tensor.flatten(1).double() for role, tensor in weights.items() if tensor.ndim > 1}
    matrix = form(recipe, wide, layer)
    v = vector.double().to(matrix.device)
    # The Gram matrix itself, a d³ product, is not needed for one vector.
    image = matrix.T @ (matrix @ v) if recipe.side == "input" else matrix @ (matrix.T @ v)
    return float((image @ v) / image.norm().clamp_min(1e-300))


def _check_width(layer: Layer, width: int) -> None:
    if width != layer.width:
        message = (
            f"the directions of {layer.name} are {layer.width} wide, the pipeline's layer is {width} wide: they belong "
            "to another checkpoint, nothing was changed"
        )
        raise MatchError(message)


def _declared_width(target: Target, denoiser: nn.Module, parameter: str) -> int | None:
    """Return the width of the tokens that a parameter's module reads, as the module declares it."""
    module = target.module(denoiser, parameter.rpartition(".")[0])
    found = getattr(module, "in_features", None)
    return found if isinstance(found, int) else None
