"""Does a direction belong to this pipeline? The pipeline's own weights are asked, never its name."""

import torch
from torch import Tensor, nn

from eigenbank.registry.digest import weights_digest
from eigenbank.registry.recipes import gram
from eigenbank.schemas import Layer, Recipe
from eigenbank.schemas.errors import MatchError
from eigenbank.schemas.layer import Role

TRANSFER = 0.9
"""Least cos∠(M′v, v) of a direction that still counts as the pipeline's own. A random unit vector reaches the ratio of
the eigenvalues' mean to their root mean square, 0.71 for a square Gaussian matrix and less for a trained one."""


def live_weights(denoiser: nn.Module, layer: Layer) -> dict[Role, Tensor]:
    """The layer's weights as the pipeline holds them, by role. Raises MatchError where layer or width is another."""
    weights: dict[Role, Tensor] = {}
    for role, part in layer.tensors.items():
        try:
            weights[role] = part.take(denoiser.get_parameter(part.tensor).detach())
        except (AttributeError, IndexError):
            message = (
                f"the pipeline's {type(denoiser).__name__} has no {part.tensor} as described: the directions belong to another "
                "architecture, nothing was changed"
            )
            raise MatchError(message) from None
    width = weights["query"].shape[-1]
    if width != layer.width:
        message = (
            f"the directions of {layer.name} are {layer.width} wide, the pipeline's layer is {width} wide: they belong "
            "to another checkpoint, nothing was changed"
        )
        raise MatchError(message)
    return weights


def is_exact(weights: dict[Role, Tensor], layer: Layer) -> bool:
    """Whether the weights are those the directions were computed from, in float32, float16 or bfloat16."""
    for cast, digest in layer.digests.items():
        if weights["query"].dtype == getattr(torch, cast):
            return weights_digest(weights, cast) == digest
    return False


def transfer_score(weights: dict[Role, Tensor], recipe: Recipe, vector: Tensor, layer: Layer) -> float:
    """cos∠(M′v, v) for the recipe's Gram matrix M′ of these weights: 1 for an eigenvector, in [0, 1]."""
    matrix = gram(
        recipe, {role: tensor.flatten(1).double() for role, tensor in weights.items() if tensor.ndim > 1}, layer
    )
    image = matrix @ vector.double().to(matrix.device)
    return float((image @ vector.double().to(matrix.device)) / image.norm().clamp_min(1e-300))
