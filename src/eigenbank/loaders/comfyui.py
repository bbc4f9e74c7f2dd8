"""What ComfyUI calls a layer: the names its LoRA loader looks for.

Its loader (comfy/lora.py) takes, for every weight of the model, the tensor `NAME.diff_b` of a file and adds it, times
the LoRA's strength, to that layer's bias. NAME is `lora_unet_` and the weight's path with dots as underscores: diffusers'
path for U-Nets with text, the path in the original checkpoint for the others.
"""

import re

from eigenbank.schemas.errors import ExportError

_PATHS: dict[str, tuple[str, str]] = {
    "UNet2DConditionModel": (r"(.+\.attn\d\.to_out\.0)", r"\1"),
    "SD3Transformer2DModel": (r"transformer_blocks\.(\d+)\.(attn2?)\.to_out\.0", r"joint_blocks.\1.x_block.\2.proj"),
    "FluxTransformer2DModel": (r"transformer_blocks\.(\d+)\.attn\.to_out\.0", r"double_blocks.\1.img_attn.proj"),
    "WanTransformer3DModel": (r"blocks\.(\d+)\.attn1\.to_out\.0", r"blocks.\1.self_attn.o"),
}
"""Denoiser class → the module's path in diffusers, and in the model as ComfyUI holds it."""


def comfyui_name(denoiser: str, module: str) -> str:
    """The name, without `.diff_b`, of a denoiser class's module. Raises ExportError where it is not known."""
    if denoiser not in _PATHS:
        message = (
            f"under which names ComfyUI holds a {denoiser} is not known here: nothing was written. "
            f"Known: {', '.join(sorted(_PATHS))}. --format npz or json takes every direction"
        )
        raise ExportError(message)
    pattern, theirs = _PATHS[denoiser]
    found = re.fullmatch(pattern, module)
    if found is None:
        message = f"under which name ComfyUI holds {module} of a {denoiser} is not known here: nothing was written"
        raise ExportError(message)
    return "lora_unet_" + found.expand(theirs).replace(".", "_")
