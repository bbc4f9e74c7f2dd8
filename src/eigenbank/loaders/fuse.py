"""Folding: a constant edit of a layer's output written into the out projection's bias, which costs nothing per step."""

import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from eigenbank.loaders.match import is_quantised
from eigenbank.loaders.target import Target
from eigenbank.schemas import Layer
from eigenbank.schemas.errors import FuseError

_numbers = itertools.count()


@dataclass
class _Held:
    """What a linear layer with folds in it was, kept on the layer itself: its own bias, the values of that, what each fold adds.

    Folds of one layer share it, so that they can be removed in any order.
    """

    bias: nn.Parameter | None
    kept: Tensor | None
    added: dict[int, Tensor] = field(default_factory=dict)


_HELD = "_eigenbank_fused"


class FusedBias:
    """The out projection of one layer, with a vector in its bias. Raises SteerError where it cannot hold one."""

    def __init__(self, target: Target, denoiser: nn.Module, layer: Layer) -> None:
        part = layer.tensors.get("output")
        if part is None or part.columns is not None:
            raise _refusal(layer, "it has no out projection of its own")
        module = target.module(denoiser, part.tensor.rpartition(".")[0])
        while isinstance(inner := getattr(module, "base_layer", None), nn.Module):
            module = inner
        weight = target.parameter(denoiser, part.tensor)
        place = target.place(denoiser, layer, "block-output")
        attention = target.module(denoiser, layer.name)
        if not isinstance(module, nn.Linear) or is_quantised(weight):
            raise _refusal(layer, "its out projection is no plain linear layer (it is quantised, or of another kind)")
        if module.weight.is_meta or hasattr(module, "_hf_hook") or "_diffusers_hook" in module.__dict__:
            raise _refusal(layer, "its weights come and go (offload or layerwise casting)")
        if place.image != "all" or (layer.kind == "joint" and not _has_text_side(attention)):
            raise _refusal(layer, "its out projection writes text tokens too")
        self.layer = layer
        self.linear: nn.Linear = module
        # A U-Net's attention block divides what it gives, the residual included.
        self.factor = float(getattr(attention, "rescale_output_factor", 1.0) or 1.0)
        self._number = next(_numbers)

    def attach(self) -> None:
        """Remember the bias as it is. A layer without one gets one, for as long as this lasts."""
        if _HELD in self.linear.__dict__:
            return
        bias, weight = self.linear.bias, self.linear.weight
        self.linear.__dict__[_HELD] = _Held(bias, None if bias is None else bias.detach().clone())
        if bias is None:
            self.linear.bias = nn.Parameter(weight.new_zeros(weight.shape[0]), requires_grad=False)

    def set(self, delta: Tensor) -> None:
        """Write the bias with `delta` `(d,)` float32 added, in place: nothing is recompiled."""
        held: _Held = self.linear.__dict__[_HELD]
        held.added[self._number] = delta * self.factor
        self._write(held)

    def remove(self) -> None:
        """Take this fold out; with the layer's last one the bias is back, bit for bit. Harmless when it is."""
        held: _Held | None = self.linear.__dict__.get(_HELD)
        if held is None:
            return
        held.added.pop(self._number, None)
        self._write(held)
        if not held.added:
            self.linear.bias = held.bias  # type: ignore[assignment]
            del self.linear.__dict__[_HELD]

    def _write(self, held: _Held) -> None:
        with torch.no_grad():
            bias = self.linear.bias
            base = torch.zeros_like(bias) if held.kept is None else held.kept
            # Zero is the old bias bit for bit, whatever its dtype.
            added = [delta.to(bias.device) for delta in held.added.values() if bool(delta.any())]
            bias.copy_((base.to(bias.device).float() + sum(added)).to(bias.dtype) if added else base)


def _refusal(layer: Layer, why: str) -> FuseError:
    return FuseError(layer.name, why)


def _has_text_side(attention: nn.Module) -> bool:
    """Whether an attention projects its text on its own: such modules are called `add_…` or `to_add_…`."""
    return any("add_" in name for name, _ in attention.named_children())
