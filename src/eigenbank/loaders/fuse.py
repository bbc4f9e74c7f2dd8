"""Where a constant edit of a layer is the same as a bias, and fusing it into the bias of the out projection."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from eigenbank.diffusers_compat import has_accelerate_hook, hook_registry
from eigenbank.loaders.match import is_quantised
from eigenbank.loaders.target import Target, without_adapters
from eigenbank.schemas import Layer
from eigenbank.schemas.errors import FuseError, MatchError

_numbers = itertools.count()


@dataclass
class _OriginalBias:
    """What a linear layer's bias is without the edits fused into it, and what each of these adds, by its number.

    It is kept on the layer itself: edits fused into the same layer share it, and can be removed in any order. `written` is the
    bias as it was left; where it is another now, somebody added to it (`fuse_lora`), which is theirs to undo. `made` says
    that the layer had no bias.
    """

    values: Tensor
    written: Tensor
    made: bool
    added: dict[int, Tensor] = field(default_factory=dict)


_ORIGINAL = "_eigenbank_fused"


@dataclass(frozen=True)
class OutputBias:
    """The linear map that ends an attention layer: y = (W·x + b + residual) / divisor.

    `path` is its parameter's module. Adding u to every token of the layer's output is adding `divisor`·u to b.
    """

    path: str
    linear: nn.Linear
    divisor: float


def output_bias(target: Target, denoiser: nn.Module, layer: Layer) -> OutputBias:
    """Return the linear map whose bias is the same as an edit of the layer's output. The denoiser may be on the meta device.

    Raises FuseError where there is none, MatchError where the denoiser has no such layer, or one of another width.
    """
    part = layer.tensors.get("output")
    if part is None or part.columns is not None or part.rows is not None:
        raise FuseError(layer.name, "it has no out projection of its own")
    path = part.tensor.rpartition(".")[0]
    module, attention = without_adapters(target.module(denoiser, path)), target.module(denoiser, layer.path)
    point = target.hook_point(denoiser, layer, "block-output")
    if point.image != "all" or (layer.kind == "joint" and not _has_text_side(attention)):
        others = "text tokens" if layer.kind == "joint" else "tokens that are none of the image's"
        raise FuseError(layer.name, f"its out projection writes {others} too")
    if not isinstance(module, nn.Linear) or is_quantised(module.weight):
        raise FuseError(layer.name, "its out projection is no plain linear layer (it is quantised, or of another kind)")
    if getattr(attention, "norm_out", None) is not None:
        raise FuseError(layer.name, "its out projection is followed by a norm")
    if module.out_features != layer.width:
        message = (
            f"the directions of {layer.name} are {layer.width} wide, {path} writes {module.out_features}: they belong to "
            "another checkpoint, nothing was changed"
        )
        raise MatchError(message)
    # A U-Net's attention block divides what it gives, the residual included.
    return OutputBias(path, module, float(getattr(attention, "rescale_output_factor", 1.0) or 1.0))


def input_projections(target: Target, denoiser: nn.Module, layer: Layer) -> dict[str, nn.Linear]:
    """Return the linear maps to queries, keys and values, by path: adding u to what they read is adding W·u to their biases.

    The denoiser may be on the meta device. Raises FuseError where they read text tokens too, or something else reads the same
    tokens; MatchError where the denoiser has no such layer.
    """
    found: dict[str, nn.Linear] = {}
    attention = target.module(denoiser, layer.path)
    point = target.hook_point(denoiser, layer, "projection-input")
    if point.image != "all" or (layer.kind == "joint" and not _has_text_side(attention)):
        raise FuseError(layer.name, "its projections read text tokens too")
    for role in ("query", "key", "value"):
        part = layer.tensors.get(role)
        if part is None or part.columns is not None or part.rows is not None:
            raise FuseError(layer.name, "its queries, keys and values come from one projection")
        path = part.tensor.rpartition(".")[0]
        module = without_adapters(target.module(denoiser, path))
        if not isinstance(module, nn.Linear) or is_quantised(module.weight):
            raise FuseError(layer.name, f"{path} is no plain linear layer (it is quantised, or of another kind)")
        found[path] = module
    output = layer.tensors.get("output")
    known = {*found, "" if output is None else output.tensor.rpartition(".")[0]}
    others = [
        name
        for name, module in attention.named_modules()
        if isinstance(module, nn.Linear) and f"{layer.path}.{name}" not in known and not _is_text_side(name)
    ]
    # Adapters wrap a projection; what is inside is theirs.
    others = [name for name in others if not any(f"{layer.path}.{name}".startswith(f"{path}.") for path in known)]
    if others or (getattr(attention, "residual_connection", False) and not layer.norm_inside):
        reader = others[0] if others else "the residual connection"
        raise FuseError(layer.name, f"{reader} reads the same tokens as its queries, keys and values")
    return found


def _has_text_side(attention: nn.Module) -> bool:
    """Whether an attention projects its text on its own."""
    return any(_is_text_side(name) for name, _ in attention.named_children())


def _is_text_side(name: str) -> bool:
    """Whether a module's name is that of a text's own projection: `add_…` or `to_add_…`."""
    return "add_" in name


class FusedBias:
    """The out projection of one layer, with a vector fused into its bias; `length` is that of a token there.

    Raises FuseError where it cannot hold one.
    """

    def __init__(self, target: Target, denoiser: nn.Module, layer: Layer, length: float) -> None:
        found = output_bias(target, denoiser, layer)
        module = found.linear
        if module.weight.is_meta or has_accelerate_hook(module) or hook_registry(module) is not None:
            raise FuseError(layer.name, "its weights come and go (offload or layerwise casting)")
        self.linear = module
        self.factor = length * found.divisor
        self._number = next(_numbers)

    def attach(self) -> None:
        """Remember the bias as it is. A layer without one gets one, for as long as this lasts."""
        if _ORIGINAL in vars(self.linear):
            return
        weight, made = self.linear.weight, self.linear.bias is None
        if made:
            self.linear.bias = nn.Parameter(weight.new_zeros(weight.shape[0]), requires_grad=False)
        values = self.linear.bias.detach().clone()
        vars(self.linear)[_ORIGINAL] = _OriginalBias(values, values.clone(), made)

    def set(self, delta: Tensor) -> None:
        """Write the bias with `delta` `(d,)` float32, in token lengths, added in place: nothing is recompiled."""
        self._write(lambda added: added.__setitem__(self._number, delta * self.factor))

    def remove(self) -> None:
        """Take this edit out, and leave what others added meanwhile; without that the bias is back bit for bit."""
        original: _OriginalBias | None = vars(self.linear).get(_ORIGINAL)
        if original is None:
            return
        self._write(lambda added: added.pop(self._number, None))
        if not original.added:
            if original.made and not bool(self.linear.bias.any()):
                self.linear.bias = None  # type: ignore[assignment]
            del vars(self.linear)[_ORIGINAL]

    def _write(self, change: Callable[[dict[int, Tensor]], object]) -> None:
        original: _OriginalBias = vars(self.linear)[_ORIGINAL]
        bias = self.linear.bias
        with torch.no_grad():
            values, written = original.values.to(bias), original.written.to(bias)
            if not torch.equal(bias, written):
                values = (bias.float() - _sum(original.added, bias)).to(bias.dtype)
            change(original.added)
            # Zero is the old bias bit for bit, whatever its dtype.
            total = _sum(original.added, bias)
            bias.copy_((values.float() + total).to(bias.dtype) if bool(total.any()) else values)
            original.values, original.written = values, bias.detach().clone()


def _sum(added: Mapping[int, Tensor], bias: Tensor) -> Tensor:
    """Return what edits add together, float32 on the device of the bias."""
    total = torch.zeros_like(bias, dtype=torch.float32)
    for delta in added.values():
        total = total + delta.to(bias.device)
    return total
