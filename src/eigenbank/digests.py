"""Digests of what shapes a result: tensors, networks, settings. Equal digests mean equal content, down to the last bit."""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eigenbank.diffusers_compat import compiled_from, offloaded_weight

if TYPE_CHECKING:
    from torch import Tensor, nn


def digest_of(value: Any) -> str:
    """Hash plain data, tensors, pictures, networks and whatever has a config, nested as it comes; 64 hexadecimal digits.

    What cannot be described hashes to something else every time, so that nothing is ever taken for the same by mistake.
    """
    return hashlib.sha256(json.dumps(_described(value), sort_keys=True).encode()).hexdigest()


def tensor_digest(tensor: "Tensor") -> str:
    """Hash a tensor's dtype, shape and values, on whatever device; a subclass (quantised weights) by the tensors it holds."""
    import torch

    if hasattr(tensor, "__tensor_flatten__"):
        names, context = tensor.__tensor_flatten__()
        return digest_of([type(tensor).__name__, str(context), [getattr(tensor, name) for name in names]])
    plain = tensor.detach().as_subclass(torch.Tensor).cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _described(value: Any) -> Any:
    """Turn a value into JSON that says all of it."""
    import torch
    from torch import nn

    found: Any = [type(value).__module__, type(value).__qualname__]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (torch.dtype, torch.device, Enum, Path)):
        return [*found, str(value)]
    if isinstance(value, Mapping):
        return {str(key): _described(each) for key, each in value.items()}
    if isinstance(value, (Sequence, set, frozenset)):
        return [_described(each) for each in (value if isinstance(value, Sequence) else sorted(value, key=repr))]
    if isinstance(value, torch.Tensor):
        return tensor_digest(value)
    if isinstance(value, nn.Module):
        return [*found, _network(value)]
    if hasattr(value, "tobytes"):  # a NumPy array, a picture of Pillow
        shape = getattr(value, "shape", None) or getattr(value, "size", None)
        kind = str(getattr(value, "dtype", None) or getattr(value, "mode", None))
        return [*found, kind, str(shape), hashlib.sha256(value.tobytes()).hexdigest()]
    if hasattr(value, "get_vocab"):  # a tokenizer; its other settings change with every call
        return [*found, getattr(value, "model_max_length", None), dict(value.get_vocab())]
    config = value.to_dict() if hasattr(value, "to_dict") else getattr(value, "config", None)
    if isinstance(config, Mapping):
        # A scheduler's betas and shift may be replaced after it was made.
        changed = [getattr(value, name, None) for name in ("betas", "alphas_cumprod", "shift")]
        return [*found, _described(_lasting(config)), _described(changed)]
    return uuid.uuid4().hex


def _lasting(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without what says where it came from, or is computed anew."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _network(module: "nn.Module") -> list[Any]:
    """All values of a network, and all that is plain among its modules' attributes: a LoRA's weight, FreeU's factors."""
    module = compiled_from(module) or module
    config: Any = getattr(module, "config", None)
    config = config.to_dict() if hasattr(config, "to_dict") else config
    values = module.state_dict()
    for name, value in values.items():
        if getattr(value, "is_meta", False):  # accelerate keeps it elsewhere
            path, _, own = name.rpartition(".")
            values[name] = _kept(module.get_submodule(path), own)
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter to others
        digests = dict(zip(values, pool.map(digest_of, values.values()), strict=True))
    settings = {name: _settings(each) for name, each in module.named_modules()}
    return [_described(_lasting(config or {})), digests, settings]


def _kept(module: "nn.Module", name: str) -> Any:
    """Return a weight that accelerate keeps elsewhere; where it cannot be had, something that is like nothing else."""
    found = offloaded_weight(module, name)
    return object() if found is None else found


def _settings(module: "nn.Module") -> dict[str, Any]:
    """Return the plain attributes of one module, the class of its attention processor, and which adapters act."""
    own = {name: value for name, value in vars(module).items() if not name.startswith("_") and _is_plain(value)}
    for name in ("training", "gradient_checkpointing", "use_slicing"):
        own.pop(name, None)
    for name in ("active_adapters", "disable_adapters"):
        if hasattr(module, name) and not callable(getattr(module, name)):
            own[name] = getattr(module, name)
    processor = getattr(module, "processor", None)
    return {**own, **({} if processor is None else {"processor": type(processor).__qualname__})}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, (bool, int, float, str))
