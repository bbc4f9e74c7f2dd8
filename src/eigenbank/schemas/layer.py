"""A self-attention layer of a checkpoint, as the builder found it."""

from typing import Annotated, Literal

from pydantic import Field

from eigenbank.schemas.common import Model, ModulePath, ParameterName, Sha256, Width
from eigenbank.schemas.recipe import Site

Kind = Literal["spatial", "temporal", "joint", "undecided"]
Role = Literal[
    "query", "key", "value", "output", "query-bias", "key-bias", "value-bias", "output-bias", "norm", "norm-bias"
]
CastDType = Literal["float32", "float16", "bfloat16"]


class TokenLength(Model):
    """How long a typical token is at a site (Euclidean norm), so that a scale of 1 means the same everywhere.

    `source` says how it is known: `norm`, from the norm's own weights (unit variance per channel, then γ and β);
    `calibration`, root mean square over the tokens of one denoising run.
    """

    length: Annotated[float, Field(gt=0, lt=1e9)]
    source: Literal["norm", "calibration"]


class Layer(Model):
    """One self-attention layer: where it is, how wide, which tensors make it up.

    `tensors` maps a role to the parameter's name in the denoiser. `norm_inside` says whether the norm is part of the
    attention module (U-Nets without text) or of the block around it. `digests` are over the attention weights cast to
    each dtype, so that a pipeline loaded in half precision still matches exactly.
    """

    name: ModulePath
    kind: Kind
    width: Width
    heads: Annotated[int, Field(ge=1, le=4096)]
    norm_inside: bool
    tensors: dict[Role, ParameterName]
    lengths: dict[Site, TokenLength] = Field(default_factory=dict)
    digests: dict[CastDType, Sha256] = Field(default_factory=dict)
