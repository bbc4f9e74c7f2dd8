"""From a checkpoint's weights to a bank: read the attention tensors, form each recipe's matrix, decompose."""

import datetime
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING

from eigenbank.builders.layers import choose_layers, find_layers
from eigenbank.registry.bank import Bank
from eigenbank.registry.digest import CASTS, ROLES, weights_digest
from eigenbank.registry.recipes import gram, matrix_of
from eigenbank.schemas import Checkpoint, DirectionRecord, Layer, Manifest, Recipe, TokenLength
from eigenbank.schemas.common import MAX_RANKS
from eigenbank.schemas.errors import SourceError
from eigenbank.schemas.layer import Role
from eigenbank.schemas.recipe import Site

if TYPE_CHECKING:
    from torch import Tensor

    from eigenbank.builders.store import Source

DEFAULT_RECIPES = ("output-value", "output-value:output")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many layers are done, and of how many."""


def build(
    source: "Source",
    model_id: str,
    *,
    layers: Sequence[str] = ("*",),
    recipes: Sequence[str] = DEFAULT_RECIPES,
    top_k: int = 16,
    device: str = "auto",
    progress: Progress = lambda _what, _done, _total: None,
) -> Bank:
    """Compute the directions of a checkpoint from its self-attention weights alone.

    Reads the attention tensors of the layers that match the globs `layers`, one layer at a time. `device` is `auto`
    (CUDA if there is one), `cpu` or `cuda`; the arithmetic is float64. Raises SourceError or UnknownNameError.
    """
    chosen = list({recipe.slug: recipe for recipe in map(Recipe.parse, recipes)}.values())
    if not chosen or not layers or not 1 <= top_k <= MAX_RANKS:
        message = (
            f"{len(chosen)} recipes, {len(layers)} layer globs and top_k={top_k}: expected at least one of each, and "
            f"top_k from 1 to {MAX_RANKS}. Nothing was built"
        )
        raise SourceError(message)
    for recipe in chosen:
        matrix_of(recipe)
    found = choose_layers(find_layers(source).layers, list(layers))
    where = pick_device(device)
    vectors: dict[str, Tensor] = {}
    records: list[DirectionRecord] = []
    finished: list[Layer] = []
    with ThreadPoolExecutor(1) as reader:
        # While a layer is solved the next one is read and hashed.
        coming = reader.submit(_fetch, source, found[0])
        for number, layer in enumerate(found):
            progress(layer.name, number, len(found))
            measured, weights = coming.result()
            if number + 1 < len(found):
                coming = reader.submit(_fetch, source, found[number + 1])
            finished.append(measured)
            bases, made = _directions(layer, weights, chosen, top_k, where)
            vectors.update(bases)
            records.extend(made)
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
        builder=f"eigenbank {version('eigenbank')}",
        layers=tuple(finished),
        directions=tuple(records),
    )
    return Bank(manifest, vectors=vectors)


def _fetch(source: "Source", layer: Layer) -> "tuple[Layer, dict[Role, Tensor]]":
    """A layer with what its weights tell of it, and the weights."""
    weights = read_weights(source, layer)
    return _measured(layer, weights), weights


def read_weights(source: "Source", layer: Layer) -> "dict[Role, Tensor]":
    """A layer's weights by role, as stored, projections as matrices. Raises SourceError for values that are not finite."""
    weights = dict(zip(layer.tensors, source.read(list(layer.tensors.values())), strict=True))
    for role, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            name = layer.tensors[role].tensor
            message = f"{name} holds values that are not finite: the checkpoint is damaged, nothing was built"
            raise SourceError(message)
    return weights


def pick_device(device: str) -> str:
    """`auto` made definite. Raises SourceError when CUDA is asked for and there is none."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("auto", "cpu", "cuda"):
        message = f"no device {device!r}: expected auto, cpu or cuda. Nothing was built"
        raise SourceError(message)
    if device == "cuda" and not torch.cuda.is_available():
        message = "there is no CUDA device: nothing was built. Use --device auto or cpu"
        raise SourceError(message)
    return device


def _directions(
    layer: Layer, weights: "dict[Role, Tensor]", recipes: list[Recipe], top_k: int, device: str
) -> "tuple[dict[str, Tensor], list[DirectionRecord]]":
    """The vectors and records of one layer. Recipes that differ only in their window are decomposed once."""
    from eigenbank.builders.decompose import decompose

    used = {role for recipe in recipes for role in matrix_of(recipe).needs}
    wide = {role: weights[role].to(device).double() for role in ROLES if role in weights and role in used}
    spectra = {}
    for recipe in recipes:
        if recipe.basis not in spectra:
            matrix = gram(recipe, wide, layer)
            spectra[recipe.basis] = decompose(matrix, min(top_k, matrix.shape[0]))
    records = [
        DirectionRecord(
            layer=layer.name,
            recipe=recipe,
            rank=rank,
            eigenvalue=float(value),
            share=min(1.0, float(share)),
            gap=None if gap == float("inf") else float(gap),
        )
        for recipe in recipes
        for rank, (value, share, gap) in enumerate(
            zip(spectra[recipe.basis].values, spectra[recipe.basis].shares, spectra[recipe.basis].gaps, strict=True)
        )
    ]
    return {f"{layer.name}/{basis}": spectrum.vectors for basis, spectrum in spectra.items()}, records


def _measured(layer: Layer, weights: "dict[Role, Tensor]") -> Layer:
    """The layer with its digests, and with the length of a token after the norm where the norm's weights tell it."""
    lengths: dict[Site, TokenLength] = {}
    if "norm" in weights:
        # A normalised channel has variance 1 before γ and β: E‖token‖² = Σγ² + Σβ².
        square = weights["norm"].double().square().sum()
        if "norm-bias" in weights:
            square = square + weights["norm-bias"].double().square().sum()
        if float(square) > 0:
            lengths["projection-input"] = TokenLength(length=float(square.sqrt()), source="norm")
    digests = {cast: weights_digest(weights, cast) for cast in CASTS}
    return layer.model_copy(update={"digests": digests, "lengths": lengths})


def _now() -> datetime.datetime:
    """The time a set is made; `SOURCE_DATE_EPOCH` makes it reproducible."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if not epoch:
        return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    try:
        return datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
    except (ValueError, OverflowError, OSError):
        message = f"SOURCE_DATE_EPOCH is {epoch!r}: expected seconds since 1970. Nothing was built"
        raise SourceError(message) from None
