"""Say what a file or a folder is that was given in place of a checkpoint, from its first bytes, tensor or file names.

Every `kind_of_` function returns what it is, as in "a LoRA", and what to do about it; None for what could be a checkpoint.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from eigenbank.schemas.errors import SourceError

Kind = tuple[str, str]

_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself", "Fetch it: git lfs pull, in that folder"),
    (b"GGUF", "GGUF, whose quantised weights cannot be decomposed as they are", "Give the checkpoint it was made from"),
    (b"PK\x03\x04", "a zip archive, such as a pickle of PyTorch", "Nothing of it was run; save it as safetensors, or unpack it"),
    (b"PK\x05\x06", "an empty zip archive", "Fetch it again"),
    (b"\x80\x02", "a pickle", "Nothing of it was run; save it as safetensors"),
    (b"\x80\x03", "a pickle", "Nothing of it was run; save it as safetensors"),
    (b"\x80\x04", "a pickle", "Nothing of it was run; save it as safetensors"),
    (b"\x80\x05", "a pickle", "Nothing of it was run; save it as safetensors"),
    (b"\x89HDF", "an HDF5 file, as Keras writes", "Give the checkpoint as safetensors"),
    (b"\x1f\x8b", "a gzip archive", "Unpack it"),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it"),
    (b"Rar!", "a RAR archive", "Unpack it"),
)  # fmt: skip
_LORA = re.compile(
    r"\.lora_(A|B|up|down|embedding|magnitude)|\.lora\.(up|down)\.|^lora_(unet|te|transformer|prior)|\.(hada|lokr|oft)_|\.dora_scale|\.diff_b$"
)
_TENSORS: tuple[tuple[str, re.Pattern[str], str, str], ...] = (
    ("all", _LORA, "a LoRA, an adapter to a checkpoint", "Give the checkpoint; to draw with the LoRA, add `lora=FILE`"),
    ("any", re.compile(r"\.base_layer\."), "weights saved with a LoRA still attached (base_layer), after fuse_lora()",
     "Call pipe.unload_lora_weights() after pipe.fuse_lora(), then save it again"),
    ("any", re.compile(r"\.(absmax|quant_map|nested_absmax)$|quant_state\.bitsandbytes__|\.SCB$"), "quantised by bitsandbytes (NF4, FP4 or int8)",
     "Give the checkpoint it was made from"),
    ("any", re.compile(r"\.(qweight|qzeros|g_idx)$"), "quantised (GPTQ, AWQ or SVDQuant)", "Give the checkpoint it was made from"),
    ("all", re.compile(r"^(image_proj|ip_adapter)\."), "an IP-Adapter", "Give the checkpoint it is for"),
    ("any", re.compile(r"^(control_model|controlnet_(?!cond_embedding)\w+|input_hint_block|zero_convs)\."), "a ControlNet", "Give the checkpoint it is for"),
    ("all", re.compile(r"^(adapter\.)?(body|conv_in|unshuffle)\b"), "a T2I-Adapter", "Give the checkpoint it is for"),
    ("all", re.compile(r"\.motion_modules\."), "a motion module of AnimateDiff", "Give the checkpoint it is for"),
    ("all", re.compile(r"^(emb_params|clip_[gl]|<.*>|string_to_(param|token)\..*)$"), "an embedding (textual inversion)", "Give the checkpoint it is for"),
    ("all", re.compile(r"^(first_stage_model\.|vae\.)?((encoder|decoder)\.(conv_in|conv_out|conv_norm_out|norm_out|mid_block|mid|down_blocks|up_blocks|down|up)\b|(post_)?quant_conv\.|loss\.)"),
     "a VAE alone, without a denoiser", "Give the whole checkpoint"),
    ("all", re.compile(r"^(cond_stage_model\.|conditioner\.|text_encoders\.|\w+\.transformer\.)?(transformer\.)?((text_model|vision_model)\.|text_projection|logit_scale$|visual_projection|shared\.weight|(embeddings|final_layer_norm)\.|encoder\.(block|layers|embed_tokens|final_layer_norm)\.|(language_)?model\.(layers\.\d+\.(self_attn|mlp|\w*layernorm)|embed_tokens|norm)\.|lm_head\.)"),
     "a text encoder alone, without a denoiser", "Give the whole checkpoint"),
)  # fmt: skip
"""Patterns of tensor names, of which `any` one or `all` (but a few) must match."""

_FILES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile(r"\.msgpack$"), "Flax weights", "Fetch the PyTorch weights (safetensors) of the same model"),
    (re.compile(r"^openvino_|\.xml$"), "an OpenVINO model", "Fetch the PyTorch weights (safetensors) of the same model"),
    (re.compile(r"\.onnx(_data)?$|\.pb$"), "an ONNX model", "Fetch the PyTorch weights (safetensors) of the same model"),
    (re.compile(r"\.bin\.index.*\.json$|-of-\d+.*\.bin$"), "a .bin of several shards, which diffusers does not load by itself",
     "Save it as safetensors: from_pretrained(FOLDER, use_safetensors=False).save_pretrained(NEW)"),
    (re.compile(r"^adapter_(model|config)\.|^pytorch_lora_weights\."), "a LoRA, an adapter to a checkpoint",
     "Give the checkpoint; to draw with the LoRA, add `lora=FILE`"),
    (re.compile(r"\.gguf$"), "GGUF, whose quantised weights cannot be decomposed as they are", "Give the checkpoint it was made from"),
    (re.compile(r"\.(mlpackage|mlmodelc)$"), "a Core ML model", "Fetch the PyTorch weights (safetensors) of the same model"),
    (re.compile(r"\.(engine|plan|trt)$"), "a TensorRT engine", "Fetch the PyTorch weights (safetensors) of the same model"),
    (re.compile(r"\.(ckpt|pt|pth)$"), "a pickle", "Nothing of it was run; save it as safetensors"),
)  # fmt: skip

_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")
"""What DataParallel and torch.compile put before the names of what they wrap."""
_PREFIX = re.compile(r"^(model\.)?diffusion_model\.")
"""What original-layout files put before the denoiser's names, some of them before diffusers' own."""


def is_other(where: object, what: Kind) -> SourceError:
    """The error for what is no checkpoint, which says what it is and what to do."""
    return SourceError(f"{where} is {what[0]}", advice=what[1])


def unwrapped(name: str) -> str:
    """A tensor's name without what DataParallel and torch.compile put into it."""
    return _WRAPPERS.sub("", name)


def plain_name(name: str) -> str:
    """A tensor's name without the prefix of original-layout files."""
    return _PREFIX.sub("", name)


def kind_of_bytes(start: bytes) -> Kind | None:
    """Say what a file is by its first bytes, 64 or more where it has them; None for what may be safetensors."""
    if not start:
        return "an empty file", "Fetch it again"
    for magic, what, advice in _STARTS:
        if start.startswith(magic):
            return what, advice
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<script")):
        return (
            "a web page, such as a site answers with in place of a file",
            "Fetch the file again, logged in where the site asks for it",
        )
    if text.startswith((b"{", b"[", b"invalid", b"access ", b"entry not", b"unauthorized", b"not found")):
        return "text, such as a server answers with in place of a file", "Look into it, and fetch the file again"
    return None


def kind_of_tensors(names: Iterable[str]) -> Kind | None:
    """Say what a file is whose tensors have these names; None for what may be a denoiser."""
    names = list(names)
    for how, pattern, what, advice in _TENSORS:
        matched = sum(bool(pattern.search(name)) for name in names)
        if names and (matched > 0 if how == "any" else matched >= 0.9 * len(names)):
            return what, advice
    return None


def kind_of_folder(names: Iterable[str]) -> Kind | None:
    """Say what a folder holds, by its files' names, in which no weights were found that diffusers would load."""
    names = sorted(names)
    for pattern, what, advice in _FILES:
        found = next((name for name in names if pattern.search(name)), None)
        if found is not None:
            return f"{what} ({found})", advice
    files = [name for name in names if name.endswith(".safetensors")]
    if files:
        return f"{files[0]}, a single file", "Give that file itself"
    return None


def kind_of_config(config: Mapping[str, Any]) -> Kind | None:
    """Say what a config.json describes, where that is no denoiser but another part of a pipeline."""
    name = config.get("_class_name")
    if name is None and isinstance(config.get("architectures"), list):
        kind = str(next(iter(config["architectures"]), "a model"))[:100]
        return f"{kind} of transformers, such as a text encoder, without a denoiser", "Give the whole checkpoint"
    if name is None and "peft_type" in config:
        return "a LoRA, an adapter to a checkpoint", "Give the checkpoint; to draw with the LoRA, add `lora=FILE`"
    if isinstance(name, str) and re.match(r"Autoencoder|Asymmetric|ConsistencyDecoder|VQModel", name):
        return f"an {name}, a VAE alone, without a denoiser", "Give the whole checkpoint"
    return None
