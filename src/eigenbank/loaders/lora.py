"""LoRA files of biases: an edit that is the same in every step, as constants in the layers around a self-attention.

A vector added to every token at a layer's output is a constant in the bias of its out projection. One added after the norm,
to what queries, keys and values read, is a constant in their three biases, or in the bias of the norm where nothing else
reads it. Such a file is exactly the edit; what it cannot hold is refused, never dropped.
"""

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from eigenbank.loaders.fuse import input_projections, output_bias
from eigenbank.loaders.target import Target
from eigenbank.schemas import Layer, Part
from eigenbank.schemas.errors import ExportError, FuseError

if TYPE_CHECKING:
    from eigenbank.loaders.export import ExportTerm

LoraFormat = Literal["diffusers", "comfyui", "lycoris"]
ReadWeight = Callable[[Part], Tensor]
"""Reads a weight of the checkpoint, `(out, in)`."""


def lora_tensors(
    terms: "Sequence[ExportTerm]", denoiser: nn.Module, form: LoraFormat, read: ReadWeight | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a LoRA file, float32, whose strength 1 is the edit as given.

    diffusers: `PREFIX.MODULE.lora_A.weight` `(1, in)` and `.lora_B.weight` `(out, 1)`, zero, and `.lora_B.bias` `(out,)`.
    ComfyUI: `lora_unet_….diff_b` `(out,)`. LyCORIS: the same with a zero `.diff` of the weight's shape, and `.w_norm` and
    `.b_norm` for norms. `denoiser` may be on the meta device; `read` reads its weights where a form needs them, by default from
    the denoiser. Raises ExportError or MatchError.
    """
    kind, target = type(denoiser).__name__, Target(denoiser, {"": denoiser})
    if form == "lycoris" and kind != "UNet2DConditionModel":
        message = (
            f"the format lycoris is for Stable Diffusion 1, 2 and SDXL, and this is a {kind}: nothing was written. The formats "
            "diffusers and comfyui are for more families"
        )
        raise ExportError(message)
    if read is None:

        def read(part: Part) -> Tensor:
            return part.take(target.parameter(denoiser, part.tensor)).float().cpu()

    biases: dict[str, Tensor] = {}
    for term in terms:
        for path, values in _biases(term, target, denoiser, read, norms=form != "diffusers"):
            biases[path] = biases[path] + values if path in biases else values
    modules = {path: target.module(denoiser, path) for path in biases}
    if form == "diffusers":
        prefix = "unet" if kind.startswith("UNet") else "transformer"
        return dict(_for_diffusers(prefix, biases, modules))
    for path, module in modules.items():
        if module.bias is None:
            message = (
                f"{path} has no bias, and {form} loaders add to biases that are there: nothing was written. The format diffusers "
                "gives it one"
            )
            raise ExportError(message)
    named = _named(kind, biases)
    if form == "comfyui":
        return {f"{name}.diff_b": values.float() for name, values in named.items()}
    return dict(
        _for_lycoris(named, {comfyui_name(kind, path)[0]: module for path, module in modules.items()}, denoiser)
    )


def _biases(
    term: "ExportTerm", target: Target, denoiser: nn.Module, read: ReadWeight, *, norms: bool
) -> Iterator[tuple[str, Tensor]]:
    """Give the biases that stand for one direction, float64, by the module's path. Raises ExportError or MatchError."""
    vector, layer = term.vector.double(), term.layer
    try:
        if term.direction.recipe.site == "block-output":
            output = output_bias(target, denoiser, layer)
            yield output.path, output.divisor * vector
            return
        norm = _own_norm(layer, target, denoiser) if norms else None
        if norm is not None:
            yield norm, vector
            return
        for path in input_projections(target, denoiser, layer):
            yield path, read(Part(tensor=f"{path}.weight")).double() @ vector
    except FuseError as error:
        message = f"no bias stands for an edit of {error.what}: {error.why}. Nothing was written. Use steer, or leave its directions out"
        raise ExportError(message) from error


def _own_norm(layer: Layer, target: Target, denoiser: nn.Module) -> str | None:
    """Return the path of a norm whose bias this attention alone reads, as `norm1` of Stable Diffusion's blocks; else None."""
    if layer.norm is None or layer.norm.adaptive or not re.fullmatch(r".+\.norm1", layer.norm.module):
        return None
    block = target.module(denoiser, layer.norm.module.rpartition(".")[0])
    norm = target.module(denoiser, layer.norm.module)
    if type(block).__name__ != "BasicTransformerBlock" or not isinstance(norm, nn.LayerNorm) or norm.bias is None:
        return None
    return layer.norm.module


def _for_diffusers(
    prefix: str, biases: Mapping[str, Tensor], modules: Mapping[str, nn.Module]
) -> Iterator[tuple[str, Tensor]]:
    for path, values in biases.items():
        rows, columns = modules[path].weight.shape  # type: ignore[misc]
        yield f"{prefix}.{path}.lora_A.weight", torch.zeros(1, columns)
        yield f"{prefix}.{path}.lora_B.weight", torch.zeros(rows, 1)
        yield f"{prefix}.{path}.lora_B.bias", values.float()


def _for_lycoris(
    biases: Mapping[str, Tensor], modules: Mapping[str, nn.Module], denoiser: nn.Module
) -> Iterator[tuple[str, Tensor]]:
    for name, values in biases.items():
        zero = torch.zeros(modules[name].weight.shape)  # type: ignore[arg-type]
        form = ("w_norm", "b_norm") if zero.ndim == 1 else ("diff", "diff_b")
        yield f"{name}.{form[0]}", zero
        yield f"{name}.{form[1]}", values.float()
    # By the width of the text that this layer reads, InvokeAI tells which base a file is for.
    text = next((path for path, _ in denoiser.named_modules() if path.endswith("attn2.to_k")), None)
    if text is not None:
        rows, columns = denoiser.get_submodule(text).weight.shape  # type: ignore[misc]
        name = "lora_unet_" + text.replace(".", "_")
        yield f"{name}.lora_down.weight", torch.zeros(1, columns)
        yield f"{name}.lora_up.weight", torch.zeros(rows, 1)
        yield f"{name}.alpha", torch.tensor(1.0)


_FLUX = (
    (r"transformer_blocks\.(\d+)\.attn\.to_out\.0", r"double_blocks.\1.img_attn.proj"),
    (r"transformer_blocks\.(\d+)\.attn\.to_([qkv])", r"double_blocks.\1.img_attn.qkv"),
)
_COMFYUI_PATHS: dict[str, tuple[tuple[str, str], ...]] = {
    "UNet2DConditionModel": ((r"(.+\.(?:attn\d\.to_out\.0|norm\d))", r"\1"),),
    "SD3Transformer2DModel": (
        (r"transformer_blocks\.(\d+)\.(attn2?)\.to_out\.0", r"joint_blocks.\1.x_block.\2.proj"),
        (r"transformer_blocks\.(\d+)\.(attn2?)\.to_([qkv])", r"joint_blocks.\1.x_block.\2.qkv"),
    ),
    "FluxTransformer2DModel": _FLUX,
    "ChromaTransformer2DModel": _FLUX,
    "HunyuanVideoTransformer3DModel": _FLUX,
    "QwenImageTransformer2DModel": ((r"(transformer_blocks\.\d+\.attn\.(?:to_out\.0|to_[qkv]))", r"\1"),),
    "WanTransformer3DModel": (
        (r"blocks\.(\d+)\.attn1\.to_out\.0", r"blocks.\1.self_attn.o"),
        (r"blocks\.(\d+)\.attn1\.to_([qkv])", r"blocks.\1.self_attn.\2"),
    ),
}
"""Denoiser class → the module's path in diffusers, and in the model as ComfyUI holds it; `qkv` is one module there.

ComfyUI's loader (comfy/lora.py) takes, for every weight of the model, the tensor `NAME.diff_b` of a file and adds it, times
the LoRA's strength, to that layer's bias. NAME is `lora_unet_` and the weight's path with dots as underscores: diffusers'
path for U-Nets with text, the path in the original checkpoint for the others.
"""


def comfyui_name(denoiser: str, module: str) -> tuple[str, int | None]:
    """Return ComfyUI's name, without `.diff_b`, of a denoiser class's module, and which third of it the module is, if it is one.

    Raises ExportError where it is not known.
    """
    if denoiser not in _COMFYUI_PATHS:
        message = (
            f"under which names ComfyUI holds a {denoiser} is not known here: nothing was written. "
            f"Known: {', '.join(sorted(_COMFYUI_PATHS))}. The formats npz and json take every direction"
        )
        raise ExportError(message)
    for pattern, theirs in _COMFYUI_PATHS[denoiser]:
        found = re.fullmatch(pattern, module)
        if found is not None:
            third = "qkv".index(found.groups()[-1]) if theirs.endswith(".qkv") else None
            return "lora_unet_" + found.expand(theirs).replace(".", "_"), third
    message = f"under which name ComfyUI holds {module} of a {denoiser} is not known here: nothing was written"
    raise ExportError(message)


def _named(kind: str, biases: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return biases under ComfyUI's names, those of queries, keys and values as one where they are one module there."""
    found: dict[str, Tensor] = {}
    for path, values in biases.items():
        name, third = comfyui_name(kind, path)
        if third is None:
            found[name] = values
            continue
        whole = found.setdefault(name, values.new_zeros(3 * len(values)))
        whole[third * len(values) : (third + 1) * len(values)] = values
    return found


def architecture(denoiser: nn.Module) -> tuple[str, str] | None:
    """Return a model's architecture as `modelspec.architecture` has it, and as A1111's metadata do; None where neither is known."""
    kind, config = type(denoiser).__name__, cast("Mapping[str, Any]", denoiser.config)
    if kind == "UNet2DConditionModel":
        width = config["cross_attention_dim"]
        if not isinstance(width, int) or config["encoder_hid_dim"]:  # Kolors, IF: as wide, and others
            return None
        of_2 = "stable-diffusion-v2-768-v" if config["sample_size"] == 96 else "stable-diffusion-v2-512"
        return {
            768: ("stable-diffusion-v1", "SD1"),
            1024: (of_2, "SD2"),
            2048: ("stable-diffusion-xl-v1-base", "SDXL"),
        }.get(width)
    if kind == "FluxTransformer2DModel":
        return ("flux-1-dev" if config["guidance_embeds"] else "flux-1-schnell", "Other")
    known = {
        "SD3Transformer2DModel": "stable-diffusion-3",
        "ChromaTransformer2DModel": "chroma",
        "QwenImageTransformer2DModel": "qwen-image",
    }
    return (known[kind], "Other") if kind in known else None


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file, the same bytes for the same content: the library writes metadata in any order."""
    from safetensors.torch import save

    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    (size,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = {"__metadata__": dict(metadata), **json.loads(data[8 : 8 + size])}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + size :]
