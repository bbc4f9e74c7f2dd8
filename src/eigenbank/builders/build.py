"""Build a direction set: read a checkpoint's attention tensors, form each recipe's matrix, decompose it."""

import ctypes
import datetime
import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING

from eigenbank.builders.discovery.families import choose_layers, find_all_layers
from eigenbank.devices import pick_device
from eigenbank.progress import Progress, no_progress
from eigenbank.registry.recipes import CASTS, ROLES, form, gram_of, matrix_of, weights_digest
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.registry.sets.provenance import build_key, stamped
from eigenbank.schemas import Checkpoint, DirectionRecord, Layer, Manifest, Recipe, TokenLength
from eigenbank.schemas.common import MAX_RANKS
from eigenbank.schemas.errors import SourceError, explaining
from eigenbank.schemas.layer import Role
from eigenbank.schemas.recipe import Site

if TYPE_CHECKING:
    from torch import Tensor

    from eigenbank.builders.checkpoints.source import WeightSource
    from eigenbank.builders.decompose import Spectrum

DEFAULT_RECIPES = ("output-value", "output-value:output")
MAX_LENGTH = 1e9
"""A token longer than this is not believed; a calibration measures its length instead."""


@explaining(outcome="nothing was built")
def build(
    source: "WeightSource",
    model_id: str,
    *,
    layers: Sequence[str] = ("*",),
    recipes: Sequence[str] = DEFAULT_RECIPES,
    top_k: int = 16,
    device: str = "auto",
    progress: Progress = no_progress,
) -> DirectionSet:
    """Compute the directions of a checkpoint from its self-attention weights alone.

    Reads the attention tensors of the layers that match the globs `layers`, one layer at a time. Where a pipeline has
    several denoisers, one set holds the directions of all, with layers named COMPONENT.LAYER. `device` is `auto`
    (CUDA if there is one), `cpu` or `cuda`; the arithmetic is float64. Raises SourceError or UnknownNameError.
    """
    chosen = list({recipe.slug: recipe for recipe in map(Recipe.parse, recipes)}.values())
    if not chosen or not layers or not 1 <= top_k <= MAX_RANKS:
        problem = (
            f"{len(chosen)} recipes, {len(layers)} layer globs and top_k={top_k}: expected at least one of "
            f"each, and top_k from 1 to {MAX_RANKS}"
        )
        raise SourceError(problem)
    for recipe in chosen:
        matrix_of(recipe)
    key = build_key(layers, [recipe.slug for recipe in chosen], top_k)
    discovery, source = find_all_layers(source, values=True)
    usable = _steerable(choose_layers(discovery.layers, layers), chosen)
    found = [layer for layer, _ in usable]
    return_freed_memory()
    where = pick_device(device, ("cuda",))  # mps has no float64
    vectors: dict[str, Tensor] = {}
    records: list[DirectionRecord] = []
    finished: list[Layer] = []
    with ThreadPoolExecutor(1) as reader:
        # While a layer is solved the next one is read and hashed.
        coming = reader.submit(_read_layer, source, found[0])
        for number, layer in enumerate(found):
            progress(layer.name, number, len(found))
            measured, weights = coming.result()
            if number + 1 < len(found):
                coming = reader.submit(_read_layer, source, found[number + 1])
            finished.append(measured)
            spectra: dict[str, Spectrum] = {}
            for matrix, bases in _matrices(layer, weights, usable[number][1], where):
                spectra |= _spectra(matrix, bases, layer, top_k)
            del weights
            vectors.update({f"{layer.name}/{basis}": spectrum.vectors for basis, spectrum in spectra.items()})
            records.extend(_records(layer, usable[number][1], spectra))
    progress("done", len(found), len(found))
    manifest = Manifest(
        checkpoint=Checkpoint(
            model_id=model_id,
            denoiser=source.config["_class_name"],
            component=source.component,
            licence=source.licence,
            revision=source.revision,
        ),
        created=_now(),
        builder=stamped(f"eigenbank {version('eigenbank')}", build=key),
        layers=tuple(finished),
        directions=tuple(records),
    )
    return DirectionSet(manifest, vectors=vectors)


def _steerable(layers: list[Layer], recipes: list[Recipe]) -> list[tuple[Layer, list[Recipe]]]:
    """The layers with those of the recipes whose directions they can be steered by, which warns of the others.

    Raises SourceError where nothing is left.
    """
    usable = [(layer, [recipe for recipe in recipes if layer.can_steer(recipe.site)]) for layer in layers]
    found = [(layer, kept) for layer, kept in usable if kept]
    left_out = [
        f"{layer.name} ({', '.join(recipe.slug for recipe in recipes if recipe not in kept)})"
        for layer, kept in usable
        if len(kept) < len(recipes)
    ]
    if left_out:
        named = ", ".join(left_out[:3]) + (f" and {len(left_out) - 3} more" if len(left_out) > 3 else "")
        message = f"a pass of this denoiser does not show where the image's tokens are for {named}"
        if not found:
            raise SourceError(message, outcome="nothing was built")
        warnings.warn(f"{message}: left out", stacklevel=3)
    return found


def _read_layer(source: "WeightSource", layer: Layer) -> "tuple[Layer, dict[Role, Tensor]]":
    """Read a layer's weights. Returns the layer with its digests and token length, and the weights."""
    weights = read_weights(source, layer)
    return _measured(layer, weights), weights


def read_weights(source: "WeightSource", layer: Layer) -> "dict[Role, Tensor]":
    """Read a layer's weights by role, as stored, projections as matrices. Raises SourceError for values that are not finite."""
    held = source.of(layer.component) or source
    weights = dict(zip(layer.tensors, held.read(list(layer.tensors.values())), strict=True))
    for role, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            name = layer.tensors[role].tensor
            problem = f"{name} holds values that are not finite: the checkpoint is damaged"
            raise SourceError(problem)
    return weights


def _matrices(
    layer: Layer, weights: "dict[Role, Tensor]", recipes: list[Recipe], device: str
) -> "Iterator[tuple[Tensor, dict[str, Recipe]]]":
    """Form every matrix to decompose, float64, with the recipes for one or both of its sides. Empties `weights` at the first.

    Recipes that differ only in their window share a basis.
    """
    used = {role for recipe in recipes for role in matrix_of(recipe).needs}
    wide = {role: weights[role].to(device).double() for role in ROLES if role in weights and role in used}
    # Frees what was read, so that few matrices are held beside the one being solved.
    weights.clear()
    kinds: dict[tuple[str, int | None], dict[str, Recipe]] = {}
    for recipe in recipes:
        kinds.setdefault((recipe.matrix, recipe.head), {}).setdefault(recipe.basis, recipe)
    for number, bases in enumerate(kinds.values()):
        matrix = form(next(iter(bases.values())), wide, layer)
        if number + 1 == len(kinds):
            wide.clear()
        # No entry of MᵀM or MMᵀ is larger than this.
        if not bool(matrix.square().sum().isfinite()):
            problem = f"the weights of {layer.name} are too large: {next(iter(bases))} overflows float64"
            raise SourceError(problem)
        return_freed_memory()
        yield matrix, bases


def _spectra(matrix: "Tensor", bases: dict[str, Recipe], layer: Layer, top_k: int) -> "dict[str, Spectrum]":
    """Decompose one matrix; both its sides at once where both are wanted and as wide as the layer."""
    from eigenbank.builders.decompose import decompose, decompose_sides

    if len(bases) > 1 and matrix.shape == (layer.width, layer.width):
        one, other = decompose_sides(matrix, top_k)
        return {basis: one if recipe.side == "input" else other for basis, recipe in bases.items()}
    return {basis: decompose(gram_of(recipe, matrix, layer), top_k) for basis, recipe in bases.items()}


def _records(layer: Layer, recipes: list[Recipe], spectra: "dict[str, Spectrum]") -> list[DirectionRecord]:
    return [
        DirectionRecord(
            layer=layer.name,
            recipe=recipe,
            rank=rank,
            eigenvalue=float(value),
            share=min(1.0, float(share)),
            gap=None if gap == float("inf") else float(gap),
        )
        for recipe in recipes
        for found in (spectra[recipe.basis],)
        for rank, (value, share, gap) in enumerate(zip(found.values, found.shares, found.gaps, strict=True))
    ]


def _measured(layer: Layer, weights: "dict[Role, Tensor]") -> Layer:
    """Add a layer's digests, and the length of a token after the norm where the norm's weights tell it."""
    lengths: dict[Site, TokenLength] = {}
    if "norm" in weights:
        # A normalised channel has variance 1 before γ and β: E‖token‖² = Σγ² + Σβ².
        square = weights["norm"].double().square().sum()
        if "norm-bias" in weights:
            square = square + weights["norm-bias"].double().square().sum()
        length = float(square.sqrt())
        if 0 < length < MAX_LENGTH:
            lengths["projection-input"] = TokenLength(length=length, source="norm")
    digests = {cast: weights_digest(weights, cast) for cast in CASTS}
    return layer.model_copy(update={"digests": digests, "lengths": lengths})


def _now() -> datetime.datetime:
    """Return the time for the manifest: now, or `SOURCE_DATE_EPOCH` for reproducible sets."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if not epoch:
        return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    try:
        return datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
    except (ValueError, OverflowError, OSError):
        problem = f"SOURCE_DATE_EPOCH is {epoch!r}: expected seconds since 1970"
        raise SourceError(problem) from None


def return_freed_memory() -> None:
    """Return freed memory to the system, where the allocator can be asked to.

    glibc keeps it otherwise, in pieces too small for the next large matrix.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
