"""Which layers of a denoiser are self-attention, and which tensors make them up.

The denoiser's class is built from its config on the meta device: the module tree without memory or weights. This release
knows UNet2DModel, whose every attention module is spatial self-attention with its norm inside.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from eigenbank.registry.tensorfile import TensorInfo
from eigenbank.schemas import Layer
from eigenbank.schemas.errors import SourceError, unknown
from eigenbank.schemas.layer import Role

SUPPORTED = ("UNet2DModel",)

_PARTS: dict[str, tuple[Role, tuple[str, ...]]] = {
    "query": ("query", ("to_q", "query")),
    "key": ("key", ("to_k", "key")),
    "value": ("value", ("to_v", "value")),
    "output": ("output", ("to_out.0", "proj_attn")),
    "norm": ("norm", ("group_norm",)),
}
"""Role → the names diffusers gives its module, today's first, then those of old checkpoints."""


def find_layers(config: Mapping[str, Any], headers: Mapping[str, TensorInfo]) -> list[Layer]:
    """The self-attention layers of the denoiser that `config` describes, in the order of its modules.

    `headers` says under which names the checkpoint stores the tensors; their shapes are checked against the class's.
    Raises SourceError when the class is unknown, has no self-attention, or the checkpoint does not fit it.
    """
    import torch
    from diffusers.models.attention_processor import Attention

    model = _on_meta(config)
    layers = []
    for name, module in model.named_modules():
        if not isinstance(module, Attention):
            continue
        tensors = dict(_tensors(name, module, headers))
        layers.append(
            Layer(
                name=name,
                kind="spatial",
                width=int(module.to_q.in_features),
                heads=int(module.heads),
                norm_inside=isinstance(module.group_norm, torch.nn.GroupNorm),
                tensors=tensors,
            )
        )
    if not layers:
        message = (
            f"this {config['_class_name']} has no self-attention: there is nothing to decompose, nothing was built"
        )
        raise SourceError(message)
    return layers


def choose_layers(layers: list[Layer], patterns: list[str]) -> list[Layer]:
    """The layers whose names match any of the globs, in order. Raises UnknownNameError for a glob that matches none."""
    names = [layer.name for layer in layers]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown(kind="layer", name=pattern, known=names)
    return [layer for layer in layers if any(fnmatchcase(layer.name, pattern) for pattern in patterns)]


def _on_meta(config: Mapping[str, Any]) -> Any:
    import diffusers
    import torch

    kind = config.get("_class_name")
    if kind not in SUPPORTED:
        message = (
            f"the checkpoint is a {kind}; this release builds from {', '.join(SUPPORTED)}. Nothing was built"
            if isinstance(kind, str)
            else "config.json names no _class_name: it is no diffusers denoiser. Nothing was built"
        )
        raise SourceError(message)
    try:
        with torch.device("meta"):
            return getattr(diffusers, kind).from_config(dict(config))
    except Exception as error:  # whatever a constructor makes of a hostile config is the config's fault
        message = f"diffusers cannot make a {kind} of this config.json ({error}): nothing was built"
        raise SourceError(message) from error


def _tensors(layer: str, module: Any, headers: Mapping[str, TensorInfo]) -> list[tuple[Role, str]]:
    """The layer's roles and the names its tensors have in the denoiser. Checks that the checkpoint holds them."""
    found: list[tuple[Role, str]] = []
    for role, names in _PARTS.values():
        part = module.get_submodule(names[0]) if names[0] != "group_norm" or module.group_norm is not None else None
        if part is None:
            continue
        for suffix, parameter in part.named_parameters():
            stored = stored_name(f"{layer}.{names[0]}.{suffix}", headers)
            if stored is None:
                message = f"the checkpoint lacks {layer}.{names[0]}.{suffix}, which its config.json asks for: nothing was built"
                raise SourceError(message)
            shape = tuple(headers[stored].shape)
            # Old checkpoints store the projections as 1×1 convolutions.
            if tuple(extent for extent in shape if extent != 1) != tuple(e for e in parameter.shape if e != 1):
                message = (
                    f"{stored} has shape {list(shape)}, its config.json asks for {list(parameter.shape)}: "
                    "nothing was built. The config belongs to another checkpoint, or the file is damaged"
                )
                raise SourceError(message)
            found.append((_role(role, suffix), f"{layer}.{names[0]}.{suffix}"))
    return found


def stored_name(parameter: str, headers: Mapping[str, TensorInfo]) -> str | None:
    """The name under which a checkpoint stores a parameter of today's diffusers, None if it does not."""
    if parameter in headers:
        return parameter
    for _, (today, *former) in _PARTS.values():
        stem, found, suffix = parameter.rpartition(f".{today}.")
        if found:
            return next((name for old in former if (name := f"{stem}.{old}.{suffix}") in headers), None)
    return None


def _role(role: Role, suffix: str) -> Role:
    biases: dict[Role, Role] = {
        "query": "query-bias", "key": "key-bias", "value": "value-bias", "output": "output-bias", "norm": "norm-bias",
    }  # fmt: skip
    return role if suffix == "weight" else biases[role]
