"""Token tags: which token each entry of a traced tensor belongs to, and which row of which weight made it.

A tensor's tags are an int64 tensor of the same shape, attached to it as an attribute. So are the norm it came out of and,
for a product that will become an attention, its operands.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IMAGE, TEXT = 1, 2
"""The streams a token can be of."""
ROW, ORIGIN = 22, 42
"""A tag's bits, from the lowest: 2 of stream, 8 of frame, 12 of position, 20 of row + 1, the rest the weight's number + 1."""
TOKEN = (1 << ROW) - 1
"""The bits that say which token it is: stream, frame and position."""
STREAM = 3
ROWS = (1 << 20) - 1
_FRAME, _POSITION = 2, 10
MAX_FRAME, MAX_POSITION = 255, 4095


def token_code(stream: int, frame: Tensor, position: Tensor) -> Tensor:
    """Make the tags of input tokens: `stream` is IMAGE or TEXT, `frame` and `position` int64 of the tokens' shape."""
    return stream | frame.clamp_max(MAX_FRAME) << _FRAME | (position + 1).clamp_max(MAX_POSITION) << _POSITION


def frame_and_position(tags: Tensor) -> tuple[Tensor, Tensor]:
    """Return the frame and the position in tags, position + 1 as `token_code` stores it."""
    return tags >> _FRAME & MAX_FRAME, tags >> _POSITION & MAX_POSITION


@dataclass
class NormOrigin:
    """The norm module a tensor came out of, and whether anything was multiplied or added since."""

    module: str
    changed: bool = False


def tags_of(tensor: Any) -> Any:
    """Return a tensor's tags; None where it has none."""
    return getattr(tensor, "_eb_tags", None)


def attach(tensor: Tensor, what: str, value: Any) -> None:
    """Attach something to a tensor: its `tags`, the `norm` it came out of, the `scores` it is."""
    setattr(tensor, f"_eb_{what}", value)


def tag(tensor: Tensor, tags: Tensor) -> Tensor:
    """Return the tensor, with these tags."""
    attach(tensor, "tags", tags)
    return tensor


def tag_norm(value: Any, module: str) -> None:
    """Note of the tensors in a norm module's output that they came out of it."""
    for tensor in tensors_in(value):
        if tags_of(tensor) is not None:
            inner = getattr(tensor, "_eb_norm", None)
            # A norm inside it, and what was done to that one's output since, are this module's own doing.
            own = inner is not None and inner.changed and inner.module.startswith(f"{module}.")
            attach(tensor, "norm", NormOrigin(module, own))


def same_norm(tensors: list[Tensor]) -> NormOrigin | None:
    """Return the norm that some of the tensors came out of."""
    return next((norm for tensor in tensors if (norm := getattr(tensor, "_eb_norm", None)) is not None), None)


def tensors_in(value: Any) -> list[Tensor]:
    """Return all tensors in nested sequences and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for each in value for tensor in tensors_in(each)]
    if isinstance(value, dict):
        return [tensor for each in value.values() for tensor in tensors_in(each)]
    return []


def mapped(change: Callable[[Tensor], Any], value: Any) -> Any:
    """Return the same nested value with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(change, each) for each in value)
    if isinstance(value, dict):
        return {key: mapped(change, each) for key, each in value.items()}
    return value


def broadcasts(shape: Any, into: Any) -> bool:
    """Whether one shape can be spread to another."""
    shape, into = tuple(shape), tuple(into)
    return len(shape) <= len(into) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(into), strict=False))


def resampled(tags: Tensor, shape: Any) -> Tensor:
    """Return the tags at another size: the nearest entry along every axis."""
    for axis, (old, new) in enumerate(zip(tags.shape, shape, strict=True)):
        if old != new:
            if old == 0:
                return torch.zeros(tuple(shape), dtype=torch.int64)
            tags = tags.index_select(axis, (torch.arange(new) * old) // max(1, new))
    return tags


def spread_tokens(tags: Tensor, out: Tensor, axis: int) -> Tensor:
    """Return the tokens of a weight's input, spread over the channels of its output."""
    thin = (tags & TOKEN).amax(axis, keepdim=True)
    shape = list(out.shape)
    shape[axis] = 1
    return resampled(thin, shape).expand(out.shape)


def token_ids(tags: Tensor) -> Tensor:
    """`(batch, heads, tokens, channels)` → `(batch, tokens)`: which token each one is."""
    return (tags & TOKEN).amax((1, 3))


def made_by_weights(*operands: Tensor) -> bool:
    """Whether all of these tags hold rows of weights."""
    return all(tags.ndim >= 3 and bool(((tags >> ORIGIN) > 0).any()) for tags in operands)


def tokens_vary(tags: Tensor, axis: int) -> bool:
    """Whether the tokens differ along an axis."""
    tokens = (tags & TOKEN).movedim(axis, -1).flatten(0, -2)
    return tokens.shape[-1] > 1 and bool((tokens[:, :1] != tokens).any())


def ordered(tensor: Tensor, have: str, want: str) -> Tensor:
    """Return the tensor with its axes in another order, as letters."""
    return tensor.permute([have.index(axis) for axis in want])
