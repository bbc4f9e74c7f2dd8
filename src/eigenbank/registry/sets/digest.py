"""Digests of a layer's attention weights, the same whichever of the usual dtypes a pipeline was loaded in."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from eigenbank.schemas.layer import CastDType, Role

if TYPE_CHECKING:
    from torch import Tensor

CASTS: tuple[CastDType, ...] = ("float32", "float16", "bfloat16")
ROLES: tuple[Role, ...] = (
    "query", "key", "value", "output", "query-bias", "key-bias", "value-bias", "output-bias",
)  # fmt: skip


def weights_digest(weights: "Mapping[Role, Tensor]", cast: CastDType) -> str:
    """SHA-256 over the attention weights and biases cast to `cast`, in a fixed order, with their roles and shapes."""
    import torch

    digest = hashlib.sha256()
    for role in ROLES:
        if role in weights:
            tensor = weights[role].detach().cpu().to(getattr(torch, cast)).contiguous()
            digest.update(f"{role}{tuple(tensor.shape)}".encode())
            # Hashed where it lies, without a copy.
            digest.update(tensor.view(torch.uint8).flatten().numpy().data)
    return digest.hexdigest()
