"""Shadows: what a traced tensor says of its entries, which token each belongs to and which row of which weight made it.

A shadow is an int64 tensor of the shape of the tensor it belongs to, hung on it as an attribute; so are the norm it came
out of and, for a product on its way to an attention, the operands.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IMAGE, TEXT = 1, 2
_STREAM, _FRAME, _PLACE, ROW = 0, 2, 10, 22
"""A shadow's bits: 2 of stream, 8 of frame, 12 of place, 20 of row + 1, the rest the weight's number + 1."""
ORIGIN = 42
POSITION = (1 << ROW) - 1
ROWS = (1 << 20) - 1
MAX_FRAMES, MAX_PLACES = 255, 4095


def token_code(stream: int, frame: Tensor, place: Tensor) -> Tensor:
    """The shadow of input tokens: `stream` is IMAGE or TEXT, `frame` and `place` int64 of the tokens' shape."""
    return stream | frame.clamp_max(MAX_FRAMES) << _FRAME | (place + 1).clamp_max(MAX_PLACES) << _PLACE


@dataclass
class NormMark:
    """A norm a tensor came out of: the module, and whether anything was multiplied or added since."""

    module: str
    changed: bool = False


def shadow_at(tensor: Any) -> Any:
    """A tensor's shadow, None where it has none."""
    return getattr(tensor, "_eb_shadow", None)


def tag(tensor: Tensor, what: str, value: Any) -> None:
    """Hang something on a tensor: its shadow, the norm it came out of, the product it is."""
    setattr(tensor, f"_eb_{what}", value)


def mark(tensor: Tensor, shadow: Tensor) -> Tensor:
    """The tensor, with the shadow of the tokens it holds."""
    tag(tensor, "shadow", shadow)
    return tensor


def shadow_of(tensor: Tensor) -> Tensor:
    """The shadow of a tensor that was marked."""
    shadow: Tensor = shadow_at(tensor)
    return shadow


def mark_norm(value: Any, module: str) -> None:
    """Say that the tensors in a norm module's output came out of it."""
    for tensor in tensors_in(value):
        if shadow_at(tensor) is not None:
            inner = getattr(tensor, "_eb_norm", None)
            # A norm inside it, and what was done to its output since, are this module's own doing.
            own = inner is not None and inner.changed and inner.module.startswith(f"{module}.")
            tag(tensor, "norm", NormMark(module, own))


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested sequences and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for each in value for tensor in tensors_in(each)]
    if isinstance(value, dict):
        return [tensor for each in value.values() for tensor in tensors_in(each)]
    return []


def mapped(change: Callable[[Tensor], Any], value: Any) -> Any:
    """The same nested value with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(change, each) for each in value)
    if isinstance(value, dict):
        return {key: mapped(change, each) for key, each in value.items()}
    return value


def listed(value: Any) -> list[Tensor]:
    """A function's result as a list of tensors."""
    return [value] if isinstance(value, Tensor) else list(value)


def same_norm(tensors: list[Tensor]) -> NormMark | None:
    """The norm that some of the tensors came out of."""
    marks = {id(mark): mark for tensor in tensors if (mark := getattr(tensor, "_eb_norm", None)) is not None}
    return next(iter(marks.values()), None)


def broadcasts(shape: Any, into: Any) -> bool:
    """Whether one shape can be spread to another."""
    shape, into = tuple(shape), tuple(into)
    return len(shape) <= len(into) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(into), strict=False))


def resampled(shadow: Tensor, shape: Any) -> Tensor:
    """The shadow at another size: the nearest entry along every axis."""
    for axis, (old, new) in enumerate(zip(shadow.shape, shape, strict=True)):
        if old != new:
            if old == 0:
                return torch.zeros(tuple(shape), dtype=torch.int64)
            shadow = shadow.index_select(axis, (torch.arange(new) * old) // max(1, new))
    return shadow


def spread_position(shadow: Tensor, out: Tensor, axis: int) -> Tensor:
    """The positions of a weight's input, spread over the channels of its output."""
    thin = (shadow & POSITION).amax(axis, keepdim=True)
    shape = list(out.shape)
    shape[axis] = 1
    return resampled(thin, shape).expand(out.shape)


def positions(shadow: Tensor) -> Tensor:
    """`(batch, heads, tokens, channels)` → `(batch, tokens)`: which token each one is."""
    return (shadow & POSITION).amax((1, 3))


def made_by_weight(*shadows: Tensor) -> bool:
    """Whether all of them hold rows of weights."""
    return all(shadow.ndim >= 3 and bool(((shadow >> ORIGIN) > 0).any()) for shadow in shadows)


def tokens_vary(shadow: Tensor, axis: int) -> bool:
    """Whether the tokens differ along an axis."""
    places = (shadow & POSITION).movedim(axis, -1).flatten(0, -2)
    return places.shape[-1] > 1 and bool((places[:, :1] != places).any())


def ordered(tensor: Tensor, have: str, want: str) -> Tensor:
    """The tensor with its axes in another order, as letters."""
    return tensor.permute([have.index(axis) for axis in want])
