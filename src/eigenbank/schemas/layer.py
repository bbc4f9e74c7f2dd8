"""A self-attention layer of a checkpoint: its tensors, its norm, and where its tokens can be read and edited."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from eigenbank.schemas.common import MAX_WIDTH, Component, Model, ModulePath, ParameterName, Sha256, Width
from eigenbank.schemas.recipe import Site

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["spatial", "temporal", "joint", "undecided"]
Role = Literal[
    "query", "key", "value", "output", "query-bias", "key-bias", "value-bias", "output-bias", "norm", "norm-bias"
]
CastDType = Literal["float32", "float16", "bfloat16"]
Index = Annotated[int, Field(ge=0, le=64 * MAX_WIDTH)]
Range = tuple[Index, Index]
"""A start, inclusive, and an end, exclusive."""


class TokenLength(Model):
    """The length of a typical token at a site (Euclidean norm): a scale of 1 adds a vector of this length.

    `source` says how it was found: `norm`, from the norm's own weights (unit variance per channel, then γ and β);
    `calibration`, as the root mean square over the tokens of one denoising run.
    """

    length: Annotated[float, Field(gt=0, lt=1e9)]
    source: Literal["norm", "calibration"]


class Part(Model):
    """A parameter of the denoiser that plays a role in a layer, or the part of it that does.

    `rows` are taken range after range, so that rows which a fused projection interleaves come out head by head. None
    means all of them.
    """

    tensor: ParameterName
    rows: tuple[Range, ...] | None = Field(default=None, min_length=1, max_length=4096)
    columns: Range | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "Part":
        for start, end in [*(self.rows or ()), *([self.columns] if self.columns else [])]:
            if start >= end:
                message = f"a range ends before it starts: {start} to {end}"
                raise ValueError(message)
        return self

    def take(self, tensor: "Tensor") -> "Tensor":
        """Cut the part out of the whole parameter; a 1×1 convolution's weight becomes a matrix."""
        import torch

        matrix = tensor.flatten(1) if tensor.ndim > 2 else tensor
        if self.rows is not None:
            pieces = [matrix[start:end] for start, end in self.rows]
            matrix = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return matrix if self.columns is None else matrix[:, self.columns[0] : self.columns[1]]


class Norm(Model):
    """The norm that a layer's projections read through.

    `module` is its path. `position` says whether it is part of the attention module or of the block around it. `adaptive`:
    scale and shift come from the timestep, so that its own weights, if any, do not give a token's length.
    """

    module: ModulePath
    position: Literal["inside", "before"]
    adaptive: bool = False


class TokenCount(Model):
    """Where a pass of the denoiser shows how many image tokens there are: a tensor that holds them and nothing else.

    It is an input or output of `module`, said as in a HookPoint; the product of its extents along `axes` is the number.
    """

    module: ModulePath
    at: Literal["input", "output"]
    argument: ParameterName | None = None
    index: Annotated[int, Field(ge=0, le=64)] = 0
    axes: tuple[Annotated[int, Field(ge=1, le=8)], ...] = Field(min_length=1, max_length=4)


class HookPoint(Model):
    """Where to hook into a running denoiser for the tokens of a site: an input or output of one or several modules.

    An input is the argument `argument`, the one at `index` when it is given by position; an output is the `index`-th of a
    tuple, or the only one. `axis` is that of the channels. The image tokens are `all`, the `first` or the `last` of the
    tokens (`image`); `count` gives their number.
    """

    modules: tuple[ModulePath, ...] = Field(min_length=1, max_length=8)
    at: Literal["input", "output"]
    argument: ParameterName | None = None
    index: Annotated[int, Field(ge=0, le=64)] = 0
    axis: Literal[1, -1] = -1
    image: Literal["all", "first", "last"] = "all"
    count: TokenCount | None = None

    @model_validator(mode="after")
    def _countable(self) -> "HookPoint":
        if self.image != "all" and self.count is None:
            message = f"the image tokens are the {self.image} ones, and `count` is missing"
            raise ValueError(message)
        return self


class Layer(Model):
    """One self-attention layer: its path, its width, and the tensors it is made of.

    In a set of several denoisers, `component` is the one it belongs to, and its name begins with that; all other paths are
    those inside the denoiser.
    `width` is that of the tokens its projections read. `kv_heads` is less than `heads` for grouped queries. `tensors`
    maps a role to the parameter that plays it; without `output` the layer has no out projection of its own, and `value`
    stands in for `output-value`. `norm` is None where the projections read the tokens as they are. `sites` holds the hook
    points that were found; for the other sites the loader follows conventions. `digests` are over the attention weights
    cast to each dtype, so that a pipeline loaded in half precision still matches exactly.
    """

    name: ModulePath
    component: Component = ""
    kind: Kind
    width: Width
    heads: Annotated[int, Field(ge=1, le=4096)]
    kv_heads: Annotated[int, Field(ge=1, le=4096)] | None = None
    norm: Norm | None = None
    tensors: dict[Role, Part]
    sites: dict[Site, HookPoint] = Field(default_factory=dict)
    lengths: dict[Site, TokenLength] = Field(default_factory=dict)
    digests: dict[CastDType, Sha256] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _prefixed(self) -> "Layer":
        if self.component and not self.name.startswith(f"{self.component}."):
            message = f"{self.name} is of the {self.component}, and its name does not begin with it"
            raise ValueError(message)
        return self

    @property
    def path(self) -> str:
        """The path of its module inside the denoiser."""
        return self.name.removeprefix(f"{self.component}.") if self.component else self.name

    def may_be_of(self, component: str) -> bool:
        """Whether it may belong to a denoiser that a pipeline calls so; `""` is one without a pipeline."""
        return not self.component or component in ("", self.component)

    def can_steer(self, site: Site) -> bool:
        """Whether a vector can be added at a site: it is known where the tokens are there, or a convention says it.

        Where any of the layer's sites is known, one that is not was looked for in vain; which tokens of a joint layer are the
        image's, no convention says.
        """
        return site in self.sites or not (self.sites or self.kind == "joint")

    @property
    def norm_inside(self) -> bool:
        """Whether the norm is part of the attention module, as in U-Nets without text."""
        return self.norm is not None and self.norm.position == "inside"

    @property
    def frame(self) -> str:
        """The space of the layer's directions on its input side, in words."""
        if self.norm is None:
            return "as read"
        return f"after {'adaptive ' if self.norm.adaptive else ''}norm{' inside' if self.norm_inside else ''}"
