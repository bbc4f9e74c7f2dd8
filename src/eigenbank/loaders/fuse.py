"""Fuse a constant edit of a layer's output into the bias of its out projection, where it costs nothing per step."""

import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from eigenbank.diffusers_compat import has_accelerate_hook, hook_registry
from eigenbank.loaders.match import is_quantised
from eigenbank.loaders.target import Target, without_adapters
from eigenbank.schemas import Layer
from eigenbank.schemas.errors import FuseError

_numbers = itertools.count()


@dataclass
class _OriginalBias:
    """What a linear layer's bias was before edits were fused into it, and what each edit adds, by its number.

    It is kept on the layer itself: edits fused into the same layer share it, and can be removed in any order.
    """

    bias: nn.Parameter | None
    values: Tensor | None
    added: dict[int, Tensor] = field(default_factory=dict)


_ORIGINAL = "_eigenbank_fused"


class FusedBias:
    """The out projection of one layer, with a vector fused into its bias. Raises FuseError where it cannot hold one."""

    def __init__(self, target: Target, denoiser: nn.Module, layer: Layer) -> None:
        part = layer.tensors.get("output")
        if part is None or part.columns is not None:
            raise FuseError(layer.name, "it has no out projection of its own")
        module = without_adapters(target.module(denoiser, part.tensor.rpartition(".")[0]))
        weight = target.parameter(denoiser, part.tensor)
        point = target.hook_point(denoiser, layer, "block-output")
        attention = target.module(denoiser, layer.name)
        if not isinstance(module, nn.Linear) or is_quantised(weight):
            why = "its out projection is no plain linear layer (it is quantised, or of another kind)"
            raise FuseError(layer.name, why)
        if module.weight.is_meta or has_accelerate_hook(module) or hook_registry(module) is not None:
            raise FuseError(layer.name, "its weights come and go (offload or layerwise casting)")
        # Attentions that project their text on their own call those modules `add_…` or `to_add_…`.
        text_side = any("add_" in name for name, _ in attention.named_children())
        if point.image != "all" or (layer.kind == "joint" and not text_side):
            raise FuseError(layer.name, "its out projection writes text tokens too")
        self.layer = layer
        self.linear: nn.Linear = module
        # A U-Net's attention block divides what it gives, the residual included.
        self.factor = float(getattr(attention, "rescale_output_factor", 1.0) or 1.0)
        self._number = next(_numbers)

    def attach(self) -> None:
        """Remember the bias as it is. A layer without one gets one, for as long as this lasts."""
        if _ORIGINAL in vars(self.linear):
            return
        bias, weight = self.linear.bias, self.linear.weight
        vars(self.linear)[_ORIGINAL] = _OriginalBias(bias, None if bias is None else bias.detach().clone())
        if bias is None:
            self.linear.bias = nn.Parameter(weight.new_zeros(weight.shape[0]), requires_grad=False)

    def set(self, delta: Tensor) -> None:
        """Write the bias with `delta` `(d,)` float32 added, in place: nothing is recompiled."""
        original: _OriginalBias = vars(self.linear)[_ORIGINAL]
        original.added[self._number] = delta * self.factor
        self._write(original)

    def remove(self) -> None:
        """Take this edit out; with the layer's last one the bias is back, bit for bit. Harmless when it is."""
        original: _OriginalBias | None = vars(self.linear).get(_ORIGINAL)
        if original is None:
            return
        original.added.pop(self._number, None)
        self._write(original)
        if not original.added:
            self.linear.bias = original.bias  # type: ignore[assignment]
            del vars(self.linear)[_ORIGINAL]

    def _write(self, original: _OriginalBias) -> None:
        with torch.no_grad():
            bias = self.linear.bias
            base = torch.zeros_like(bias) if original.values is None else original.values
            # Zero is the old bias bit for bit, whatever its dtype.
            added = [delta.to(bias.device) for delta in original.added.values() if bool(delta.any())]
            bias.copy_((base.to(bias.device).float() + sum(added)).to(bias.dtype) if added else base)
