"""The matrices a recipe can name: from a layer's weights to the matrix whose eigenvectors are taken.

Weights come as a mapping from role (`query`, `key`, `value`, `output`, with `-bias`) to float64 matrices `(out, in)`, in
the convention of torch.nn.Linear: the layer computes x ↦ Wx. Rows of q, k and v, and columns of the out projection, are
ordered by head.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eigenbank.registry.plugins import PluginError, load_plugins
from eigenbank.schemas import Layer, Recipe
from eigenbank.schemas.errors import UnknownNameError, unknown
from eigenbank.schemas.layer import Role
from eigenbank.schemas.recipe import Side

if TYPE_CHECKING:
    from torch import Tensor

import hashlib
from typing import TYPE_CHECKING

from eigenbank.schemas.layer import CastDType

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Matrix:
    """A matrix that a recipe can name: its name, the weights it needs, how it is formed, and its usable sides.

    A package adds one by an entry point in the group `eigenbank.recipes`, under the matrix's name. `form` gets the weights
    with keys and values repeated for grouped queries. `sides` leaves out the sides whose vectors live in a space where
    nothing can be added (the output of W_V lies between the projections).
    """

    name: str
    needs: tuple[Role, ...]
    form: "Callable[[Mapping[Role, Tensor]], Tensor]"
    sides: tuple[Side, ...]
    summary: str


def _stack(weights: "Mapping[Role, Tensor]") -> "Tensor":
    import torch

    return torch.cat([weights["query"], weights["key"], weights["value"]])


def _output_value(weights: "Mapping[Role, Tensor]") -> "Tensor":
    # Without an out projection of its own, what the layer writes is what W_V makes.
    return weights["output"] @ weights["value"] if "output" in weights else weights["value"]


VALUE = Matrix("value", ("value",), lambda w: w["value"], ("input",), "W_V: what is carried from token to token")
OUTPUT_VALUE = Matrix(
    "output-value",
    ("value", "output"),
    _output_value,
    ("input", "output"),
    "W_O·W_V: what the layer makes of what it reads",
)
QUERY_KEY = Matrix(
    "query-key",
    ("query", "key"),
    lambda w: w["query"].T @ w["key"],
    ("input", "output"),
    "W_QᵀW_K: which tokens attend to which",
)
QKV = Matrix("qkv", ("query", "key", "value"), _stack, ("input",), "W_Q, W_K and W_V stacked: all the layer reads")

MATRICES = {matrix.name: matrix for matrix in (VALUE, OUTPUT_VALUE, QUERY_KEY, QKV)}
"""Those that ship."""


def matrix_of(recipe: Recipe) -> Matrix:
    """Return the matrix of a recipe. Raises UnknownNameError for an unknown matrix or a side it does not have."""
    matrix = MATRICES.get(recipe.matrix) or _plugged(recipe.matrix)
    if recipe.side not in matrix.sides:
        choices = [matrix.name if side == "input" else f"{matrix.name}:{side}" for side in matrix.sides]
        raise unknown(kind="recipe", name=recipe.slug, known=choices)
    return matrix


def _plugged(name: str) -> Matrix:
    """Return a matrix that another package offers. Raises UnknownNameError; PluginError where two offer it."""
    plugins = {found.name: found for found in load_plugins("recipes")}
    if name not in plugins:
        raise unknown(kind="recipe", name=name, known=[*MATRICES, *plugins], hint="Its package may not be installed.")
    found = plugins[name]
    if found.problem is not None:
        problem = f"recipe {name!r} of {found.owner} cannot be used: {found.problem}"
        raise PluginError(problem, advice=f"Update {found.owner}")
    matrix: Matrix = found.object
    return matrix


def gram(recipe: Recipe, weights: "Mapping[Role, Tensor]", layer: Layer) -> "Tensor":
    """Compute the symmetric matrix `(d, d)` float64 that a recipe decomposes: MᵀM on the input side, MMᵀ on the output.

    Raises UnknownNameError for a head the layer does not have, or a side that is not as wide as the layer.
    """
    return gram_of(recipe, form(recipe, weights, layer), layer)


def form(recipe: Recipe, weights: "Mapping[Role, Tensor]", layer: Layer) -> "Tensor":
    """Compute the matrix M of a recipe, the same for both its sides.

    Raises UnknownNameError for a head that the layer does not have; PluginError where another package's recipe fails.
    """
    matrix = matrix_of(recipe)
    given = weights_by_head(recipe, weights, layer)
    if matrix.name in MATRICES:
        return matrix.form(given)
    return _formed(matrix, given, layer)


def _formed(matrix: Matrix, weights: "Mapping[Role, Tensor]", layer: Layer) -> "Tensor":
    """Compute another package's matrix, and check that it is a matrix of finite numbers."""
    import torch

    problem = None
    try:
        made = matrix.form(weights)
    except Exception as error:  # another package's code may fail in any way
        problem = f"{type(error).__name__}: {error}"
    else:
        if not isinstance(made, torch.Tensor) or made.ndim != 2 or not made.is_floating_point():
            problem = (
                f"it gave {list(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__}, no matrix"
            )
        elif not bool(made.isfinite().all()):
            problem = "it gave numbers that are not finite"
        else:
            return made.double()
    message = f"recipe {matrix.name!r} failed on {layer.name} ({problem})"
    raise PluginError(message, advice="Tell the package that offers it")


def gram_of(recipe: Recipe, matrix: "Tensor", layer: Layer) -> "Tensor":
    """Compute `gram` from a matrix that is formed already."""
    width = matrix.shape[1 if recipe.side == "input" else 0]
    if width != layer.width:
        problem = f"{recipe.slug} of {layer.name} would be {width} wide, the layer is {layer.width} wide"
        advice = "Take the input side, or leave the layer out with `layers=`"
        raise UnknownNameError(problem, advice=advice)
    return matrix.T @ matrix if recipe.side == "input" else matrix @ matrix.T


def weights_by_head(recipe: Recipe, weights: "Mapping[Role, Tensor]", layer: Layer) -> "dict[Role, Tensor]":
    """Return the weights of a recipe's matrix: keys and values once per query head, or one head's if it names one."""
    if recipe.head is not None and recipe.head >= layer.heads:
        known = [f"{recipe.matrix}.h{head}" for head in range(layer.heads)]
        raise unknown(kind=f"recipe for {layer.name}, which has {layer.heads} heads:", name=recipe.slug, known=known)
    used = matrix_of(recipe).needs
    found: dict[Role, Tensor] = {}
    for role in used:
        if role not in weights:
            continue
        weight = weights[role]
        groups = layer.heads // layer.kv_heads if layer.kv_heads and role in ("key", "value") else 1
        if recipe.matrix == "qkv" and recipe.head is None:
            groups = 1  # stacked: a key head that serves several queries is read once
        if groups > 1:
            weight = weight.unflatten(0, (layer.kv_heads, -1)).repeat_interleave(groups, dim=0).flatten(0, 1)
        if recipe.head is not None:
            axis = 1 if role == "output" else 0
            size = weight.shape[axis] // layer.heads
            weight = weight.narrow(axis, recipe.head * size, size)
        found[role] = weight
    return found


CASTS: tuple[CastDType, ...] = ("float32", "float16", "bfloat16")
ROLES: tuple[Role, ...] = (
    "query", "key", "value", "output", "query-bias", "key-bias", "value-bias", "output-bias",
)  # fmt: skip


def weights_digest(weights: "Mapping[Role, Tensor]", cast: CastDType) -> str:
    """Hash the attention weights and biases cast to `cast`, so that a layer is recognised in any of the usual dtypes.

    SHA-256, in a fixed order, with roles and shapes.
    """
    import torch

    digest = hashlib.sha256()
    for role in ROLES:
        if role in weights:
            tensor = weights[role].detach().cpu().to(getattr(torch, cast)).contiguous()
            digest.update(f"{role}{tuple(tensor.shape)}".encode())
            # Hashed where it lies, without a copy.
            digest.update(tensor.view(torch.uint8).flatten().numpy().data)
    return digest.hexdigest()
