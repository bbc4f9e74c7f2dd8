"""The matrices a recipe can name: from a layer's weights to the matrix whose eigenvectors are taken.

Weights come as a mapping from role (`query`, `key`, `value`, `output`, with `-bias`) to float64 matrices `(out, in)`, in
the convention of torch.nn.Linear: the layer computes x ↦ Wx.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eigenbank.schemas import Recipe
from eigenbank.schemas.errors import unknown
from eigenbank.schemas.layer import Role
from eigenbank.schemas.recipe import Side

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Matrix:
    """An entry of the recipe registry: its name, which weights it needs, how it is formed, which sides are the layer's.

    `sides` leaves out the sides whose vectors live in a space where nothing can be added (the output of W_V lies between
    the projections).
    """

    name: str
    needs: tuple[Role, ...]
    form: "Callable[[Mapping[Role, Tensor]], Tensor]"
    sides: tuple[Side, ...]
    summary: str


def _stack(weights: "Mapping[Role, Tensor]") -> "Tensor":
    import torch

    return torch.cat([weights["query"], weights["key"], weights["value"]])


MATRICES = {
    matrix.name: matrix
    for matrix in (
        Matrix("value", ("value",), lambda w: w["value"], ("input",), "W_V: what is carried from token to token"),
        Matrix(
            "output-value",
            ("value", "output"),
            lambda w: w["output"] @ w["value"],
            ("input", "output"),
            "W_O·W_V: what the layer makes of what it reads",
        ),
        Matrix(
            "query-key",
            ("query", "key"),
            lambda w: w["query"].T @ w["key"],
            ("input", "output"),
            "W_QᵀW_K: which tokens attend to which",
        ),
        Matrix("qkv", ("query", "key", "value"), _stack, ("input",), "W_Q, W_K and W_V stacked: all the layer reads"),
    )
}


def matrix_of(recipe: Recipe) -> Matrix:
    """The registry's entry for a recipe. Raises UnknownNameError for an unknown matrix or a side it does not have."""
    if recipe.matrix not in MATRICES:
        raise unknown(kind="recipe", name=recipe.matrix, known=MATRICES)
    matrix = MATRICES[recipe.matrix]
    if recipe.side not in matrix.sides or recipe.head is not None:
        choices = [matrix.name if side == "input" else f"{matrix.name}:{side}" for side in matrix.sides]
        raise unknown(kind="recipe", name=recipe.slug, known=choices)
    return matrix


def gram(recipe: Recipe, weights: "Mapping[Role, Tensor]") -> "Tensor":
    """The symmetric matrix `(d, d)` float64 a recipe decomposes: MᵀM for its input side, MMᵀ for its output side."""
    form = matrix_of(recipe).form
    matrix = form(weights)
    return matrix.T @ matrix if recipe.side == "input" else matrix @ matrix.T
