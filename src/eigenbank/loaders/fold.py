"""Folding: a constant edit of a layer's output written into the out projection's bias, which costs nothing per step."""

import torch
from torch import Tensor, nn

from eigenbank.loaders.match import is_quantised
from eigenbank.loaders.target import Target
from eigenbank.schemas import Layer
from eigenbank.schemas.errors import SteerError


class Fold:
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
        self._bias: nn.Parameter | None = None
        self._kept: Tensor | None = None
        self._attached = False

    def attach(self) -> None:
        """Remember the bias as it is. A layer without one gets one, for as long as this lasts."""
        self._bias = self.linear.bias
        weight = self.linear.weight
        if self._bias is None:
            self.linear.bias = nn.Parameter(weight.new_zeros(weight.shape[0]), requires_grad=False)
        else:
            self._kept = self._bias.detach().clone()
        self._attached = True

    def set(self, delta: Tensor) -> None:
        """Write the bias with `delta` `(d,)` float32 added, in place: nothing is recompiled."""
        with torch.no_grad():
            bias = self.linear.bias
            base = torch.zeros_like(bias) if self._kept is None else self._kept
            # Zero is the old bias bit for bit, whatever its dtype.
            added = (base.float() + (delta * self.factor).to(bias.device)).to(bias.dtype) if bool(delta.any()) else base
            bias.copy_(added)

    def remove(self) -> None:
        """Put the bias back, bit for bit. Harmless when it is."""
        if not self._attached:
            return
        with torch.no_grad():
            if self._bias is None:
                self.linear.bias = None  # type: ignore[assignment]
            else:
                assert self._kept is not None
                self._bias.copy_(self._kept)
                self.linear.bias = self._bias
        self._bias, self._kept, self._attached = None, None, False


def _refusal(layer: Layer, why: str) -> SteerError:
    return SteerError(f"{layer.name} cannot be folded: {why}. Nothing was changed; steer without fold=True")


def _has_text_side(attention: nn.Module) -> bool:
    """Whether an attention projects its text on its own: such modules are called `add_…` or `to_add_…`."""
    return any("add_" in name for name, _ in attention.named_children())
