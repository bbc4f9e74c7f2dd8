"""The out projection of a layer: what a constant added at the layer's output is to its bias."""

from dataclasses import dataclass

from torch import nn

from eigenbank.schemas import Layer
from eigenbank.schemas.errors import ExportError, MatchError


@dataclass(frozen=True)
class OutProjection:
    """The linear map that ends an attention layer: y = (W·x + b + residual) / divisor.

    `module` is its path in the denoiser; `biased` whether it has a bias b. Adding u to every token of the layer's output
    is adding `divisor`·u to b.
    """

    module: str
    in_features: int
    out_features: int
    biased: bool
    divisor: float


def out_projection(denoiser: nn.Module, layer: Layer) -> OutProjection:
    """The out projection of a layer, asked of a denoiser, which may be on the meta device.

    Raises ExportError where the layer has none whose bias is the layer's output, MatchError where the denoiser has no
    such layer.
    """
    part = layer.tensors.get("output")
    if part is None:
        message = (
            f"{layer.name} has no out projection of its own: nothing that a file could add a bias to writes its output. "
            "Use steer, or leave its directions out"
        )
        raise ExportError(message)
    name = part.tensor.removesuffix(".weight")
    if (
        part.rows is not None
        or part.columns is not None
        or name == part.tensor
        or not name.startswith(f"{layer.name}.")
    ):
        message = (
            f"the out projection of {layer.name} is a part of {part.tensor}: a bias of its own cannot be given to it. "
            "Use steer, or leave its directions out"
        )
        raise ExportError(message)
    try:
        attention, module = denoiser.get_submodule(layer.name), denoiser.get_submodule(name)
    except AttributeError:
        message = (
            f"the checkpoint's {type(denoiser).__name__} has no {name}: the directions belong to another architecture, "
            "nothing was written"
        )
        raise MatchError(message) from None
    if layer.kind == "joint" and not any("add" in child for child, _ in attention.named_children()):
        message = (
            f"the out projection of {layer.name} writes the text tokens too, and a bias would move them with the image's: "
            "nothing was written. Use steer"
        )
        raise ExportError(message)
    module = getattr(module, "base_layer", module)  # inside a LoRA that is loaded
    if not isinstance(module, nn.Linear) or getattr(attention, "norm_out", None) is not None:
        found = "is followed by a norm" if isinstance(module, nn.Linear) else f"is a {type(module).__name__}"
        message = f"the out projection of {layer.name} {found}: no bias of it is the layer's output. Use steer"
        raise ExportError(message)
    if module.out_features != layer.width:
        message = (
            f"the directions of {layer.name} are {layer.width} wide, {name} writes {module.out_features}: they belong to "
            "another checkpoint, nothing was written"
        )
        raise MatchError(message)
    divisor = float(getattr(attention, "rescale_output_factor", 1.0))
    return OutProjection(name, module.in_features, module.out_features, module.bias is not None, divisor)
