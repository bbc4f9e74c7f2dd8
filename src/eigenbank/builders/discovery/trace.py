"""Following tokens and weight rows through a forward pass, to see what every attention is given.

The model has fake weights (see `fake_weights.py`): linear layers and convolutions are not computed, only the shape of
their output is. Every tensor carries tags (see `token_tags.py`). Operations that move entries move the tags; the rest keep
them. At an attention the tags of q, k and v tell which tokens look at which, and which rows of which weights are the
layer's query, key and value, however they are fused, interleaved, grouped or normed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from eigenbank.builders.discovery.token_tags import (
    IMAGE,
    ORIGIN,
    ROW,
    ROWS,
    STREAM,
    TEXT,
    TOKEN,
    NormOrigin,
    attach,
    broadcasts,
    made_by_weights,
    mapped,
    ordered,
    resampled,
    same_norm,
    spread_tokens,
    tag,
    tags_of,
    tensors_in,
    token_ids,
    tokens_vary,
)


@dataclass(frozen=True)
class Operand:
    """One of q, k, v at an attention: which weight rows made it, and the module input they were made from.

    `rows` `(heads, channels)`: the weight row behind each channel of each head, −1 where none is known.
    """

    weight: str
    rows: Tensor
    source: Any


@dataclass(frozen=True)
class TracedAttention:
    """One attention of the pass. `queries` and `keys` `(batch, tokens)`: which token each one is (as `token_ids`), 0 for none.

    `streams` names the streams (IMAGE, TEXT) of which queries and keys were made; `operands` holds q, k and v by stream.
    """

    number: int
    queries: Tensor
    keys: Tensor
    operands: dict[str, dict[int, Operand]]

    def streams(self, which: str) -> int:
        """Return the union of the streams among the queries or keys."""
        found = (self.queries if which == "query" else self.keys) & STREAM
        return (IMAGE if bool((found & IMAGE).any()) else 0) | (TEXT if bool((found & TEXT).any()) else 0)


@dataclass
class OutputProjection:
    """The linear layer that reads an attention's output: its weight, and the columns that do."""

    weight: str
    columns: tuple[int, int]


@dataclass
class Trace:
    """What a pass showed: its attentions, the projection that reads each one's output, by number, and the norm that each
    weight's input came out of.
    """

    attentions: list[TracedAttention] = field(default_factory=list)
    outputs: dict[int, OutputProjection] = field(default_factory=dict)
    norms: dict[str, NormOrigin | None] = field(default_factory=dict)


def _names(*names: str) -> frozenset[str]:
    return frozenset(names)


_MOVES = _names(
    "view", "reshape", "permute", "transpose", "t", "flatten", "unflatten", "unsqueeze", "squeeze", "expand", "expand_as",
    "repeat", "repeat_interleave", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "__getitem__", "narrow",
    "select", "index_select", "gather", "cat", "concat", "concatenate", "stack", "movedim", "moveaxis", "swapaxes",
    "swapdims", "contiguous", "clone", "roll", "flip", "pixel_unshuffle", "pixel_shuffle", "view_as", "reshape_as",
    "take_along_dim", "detach", "hstack", "vstack", "tile", "broadcast_to", "masked_select", "unfold",
)  # fmt: skip
"""Functions that move entries without changing them: the tags go the same way."""
_JOINS = _names("cat", "concat", "concatenate", "stack", "hstack", "vstack")
_WRITES = _names(
    "__setitem__", "copy_", "masked_scatter", "masked_scatter_", "index_put", "index_copy", "index_copy_", "index_add_",
    "scatter", "pad",
)  # fmt: skip
"""Functions that write some entries into others."""
_PLAIN = _names("to", "float", "half", "bfloat16", "double", "type", "type_as", "cpu", "cuda", "dropout", "__get__")
_MODULATES = _names(
    "mul", "add", "__mul__", "__add__", "__rmul__", "__radd__", "addcmul", "mul_", "add_", "__imul__", "__iadd__"
)
_PRODUCTS = _names("matmul", "__matmul__", "__rmatmul__", "bmm", "baddbmm", "einsum")


class Tracer(TorchFunctionMode):
    """Runs every torch function while active, linear layers as stand-ins, and keeps the tags. Use with `no_grad`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.trace = Trace()
        self.weights: dict[int, str] = {id(parameter): name for name, parameter in model.named_parameters()}
        self.fixed = set(self.weights) | {id(buffer) for buffer in model.buffers()}
        self.numbers = {name: number for number, name in enumerate(self.weights.values())}
        self.by_number = list(self.weights.values())
        self.sources: dict[str, Any] = {}
        self.attentions = len(self.by_number)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self._run(func, args, kwargs or {})
        fed = frozenset().union(*(getattr(tensor, "_eb_fed", ()) for tensor in tensors_in((args, kwargs or {}))))
        for tensor in tensors_in(result) if fed else ():
            attach(tensor, "fed", fed | getattr(tensor, "_eb_fed", frozenset()))
        return result

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(func, "__name__", "")
        handler = _HANDLERS.get(name)
        if handler is not None:
            return handler(self, func, args, kwargs)
        try:
            result = func(*args, **kwargs)
        except RuntimeError:
            result = self._despite_widths(name, args)
            if result is None:
                raise
        if name in _MOVES:
            return self._moved(func, args, kwargs, result)
        if name in _WRITES:
            return self._written(name, func, args, kwargs, result)
        for each in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(each, Tensor):
                self._kept(name, args, kwargs, each)
        return result

    def _despite_widths(self, name: str, args: Any) -> Tensor | None:
        """The result of a sum or product with a parameter that does not fit: the other operand. Only widths are off."""
        tensors = [t for t in args if isinstance(t, Tensor)]
        known = [t for t in tensors if id(t) in self.fixed]
        if name not in _MODULATES | {"sub", "__sub__", "where"} or len(known) != 1:
            return None
        return next((t.clone() for t in tensors if t is not known[0] and t.dtype != torch.bool), None)

    # Movement

    def _moved(self, func: Any, args: Any, kwargs: Any, result: Any) -> Any:
        operands = tensors_in((args, kwargs))
        tagged = [tensor for tensor in operands if tags_of(tensor) is not None]
        if not tagged:
            return result
        try:
            tags = _on_tags(func, args, kwargs, blank=func.__name__ in _JOINS)
        except Exception:  # not made for whole numbers: token ids alone are exact as float64
            thin = lambda t: (tags_of(t) & TOKEN).double() if tags_of(t) is not None else t  # noqa: E731
            try:
                tags = mapped(lambda t: t.long(), func(*mapped(thin, args), **mapped(thin, kwargs)))
            except Exception:  # what cannot be followed is left untagged, and shows as undecided
                return result
        norm = same_norm(tagged)
        for made, each in zip(tensors_in(result), tensors_in(tags), strict=False):
            tag(made, each)
            attach(made, "norm", norm)
            if len(tagged) == 1:
                attach(made, "scores", getattr(tagged[0], "_eb_scores", None))
        return result

    def _written(self, name: str, func: Any, args: Any, kwargs: Any, result: Any) -> Any:
        target = args[0]
        value = (
            args[-1]
            if name == "__setitem__"
            else next((t for t in tensors_in(args[1:]) if tags_of(t) is not None), None)
        )
        base = tags_of(target)
        if name == "pad":
            if base is not None:
                with torch.no_grad():
                    constant = (args[2] if len(args) > 2 else kwargs.get("mode", "constant")) == "constant"
                    widths = args[1] if len(args) > 1 else kwargs["pad"]
                    picture = base.ndim > 3 and sum(map(any, zip(widths[::2], widths[1::2], strict=True))) == 2
                    # What a filter over a picture makes at its edge is of the token there.
                    tag(result, F.pad(base, widths) if constant and not picture else resampled(base, result.shape))
            return result
        given = tags_of(value) if isinstance(value, Tensor) else None
        if given is None:
            if isinstance(result, Tensor) and base is not None:
                tag(result, base)
            return result
        base = torch.zeros(target.shape, dtype=torch.int64) if base is None else base.clone()
        with torch.no_grad():
            try:
                if name == "__setitem__":
                    base[args[1]] = given
                    tag(target, base)
                elif name == "copy_":
                    tag(target, given.expand(target.shape))
                else:
                    tag(result, func(base, *mapped(_tags_or_itself, args[1:]), **kwargs))
            except Exception:  # as in `_moved`
                pass
        return result

    def _kept(self, name: str, args: Any, kwargs: Any, result: Tensor) -> None:
        operands = [tensor for tensor in tensors_in((args, kwargs)) if tags_of(tensor) is not None]
        if not operands:
            return
        first = tags_of(operands[0])
        if name in ("embedding", "view_as_real"):
            tag(result, first[..., None].expand(result.shape))
            return
        if name == "view_as_complex":
            tag(result, first[..., 0])
            return
        whole = [t for t in operands if t.shape == result.shape] or [
            t for t in operands if broadcasts(t.shape, result.shape)
        ]
        if not whole:
            if result.ndim == first.ndim:
                tag(result, resampled(first, result.shape))
            elif result.ndim == first.ndim - 1 and first.shape[:-1] == result.shape:
                tag(result, first.amax(-1))
            return
        tags = tags_of(whole[0]).expand(result.shape)
        for other in whole[1:]:
            following = tags_of(other).expand(result.shape)
            # A modulation has a weight's rows but no token: the token's own entry takes precedence.
            tags = torch.where(((tags & STREAM) != 0) | ((tags != 0) & ((following & STREAM) == 0)), tags, following)
        tag(result, tags)
        scores = next((s for t in operands if (s := getattr(t, "_eb_scores", None)) is not None), None)
        if scores is not None and tuple(result.shape[-2:]) == scores.shape:
            attach(result, "scores", scores)
        norm = next((n for t in whole if (n := getattr(t, "_eb_norm", None)) is not None), None)
        if norm is not None and name in _PLAIN:
            attach(result, "norm", norm)
        elif norm is not None and name in _MODULATES:
            attach(result, "norm", NormOrigin(norm.module, True))

    # Weights

    def linear(self, _func: Any, args: Any, kwargs: Any) -> Tensor:
        x, weight = args[0], args[1] if len(args) > 1 else kwargs["weight"]
        out = torch.zeros((*x.shape[:-1], weight.shape[0]), dtype=x.dtype)
        return self._made(x, weight, out, -1)

    def conv(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        x, weight = args[0], args[1] if len(args) > 1 else kwargs["weight"]
        transposed = "transpose" in func.__name__
        # The shape, from the real function on one channel of nothing.
        thin = torch.zeros((x.shape[0], 1, *x.shape[2:]))
        rest = list(args[3:])
        options = {key: value for key, value in kwargs.items() if key not in ("input", "weight", "bias", "groups")}
        if len(rest) > 3:
            rest[3] = 1  # `groups`, the fourth after the bias
        out = func(thin, torch.zeros((1, 1, *weight.shape[2:])), None, *rest, **options)
        groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
        channels = weight.shape[1] * groups if transposed else weight.shape[0]
        made = torch.zeros((out.shape[0], channels, *out.shape[2:]), dtype=x.dtype)
        return self._made(x, weight, made, 1)

    def _made(self, x: Tensor, weight: Tensor, out: Tensor, axis: int) -> Tensor:
        name = self.weights.get(id(weight))
        tags = tags_of(x)
        if name is None:
            if tags is not None:
                tag(out, spread_tokens(tags, out, axis))
            return out
        self.sources[name] = x
        self.trace.norms.setdefault(name, getattr(x, "_eb_norm", None))
        if tags is None:
            tags = torch.zeros(x.shape, dtype=torch.int64)
        self._reads_attention(tags, name, axis)
        rows = torch.arange(1, out.shape[axis] + 1).reshape(
            [-1 if d == axis % out.ndim else 1 for d in range(out.ndim)]
        )
        tag(out, spread_tokens(tags, out, axis) | (rows << ROW) | (self.numbers[name] + 1) << ORIGIN)
        return out

    def _reads_attention(self, tags: Tensor, name: str, axis: int) -> None:
        """Note which columns of the weight read what an attention made of image tokens, if it is the first to."""
        if not tags.numel() or int(tags.amax() >> ORIGIN) <= len(self.by_number):
            return
        origins = torch.where((tags & STREAM) == IMAGE, (tags >> ORIGIN) - 1, -1)
        columns = origins.movedim(axis, -1).flatten(0, -2).amax(0)
        for number in columns[columns >= len(self.by_number)].unique().tolist():
            at = (columns == number).nonzero().flatten()
            self.trace.outputs.setdefault(number, OutputProjection(name, (int(at[0]), int(at[-1]) + 1)))

    # Attention

    def sdpa(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        q, k, v = (args[i] if len(args) > i else kwargs[key] for i, key in enumerate(("query", "key", "value")))
        out = torch.zeros((*q.shape[:-1], v.shape[-1]), dtype=q.dtype)
        if all(tags_of(t) is not None for t in (q, k, v)):
            tag(out, self.attention(*(tags_of(t) for t in (q, k, v))))
        return out

    def product(self, func: Any, args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        operands = tensors_in(args)
        if func.__name__ == "einsum" and len(operands) == 1:
            return self._moved(func, args, kwargs, result)
        if func.__name__ == "baddbmm":
            operands = operands[1:]
        if func.__name__ == "__rmatmul__":
            operands.reverse()
        if len(operands) != 2:
            return result
        left, right = operands
        if func.__name__ == "einsum":
            return self._einsum(args, left, right, result)
        scores, one, two = getattr(left, "_eb_scores", None), tags_of(left), tags_of(right)
        if scores is not None and two is not None:
            tag(result, scores.close(self, two))
        elif one is not None and two is not None and made_by_weights(one, two):
            summed = tokens_vary(one, -1)  # over tokens: linear attention, (v, k) first, q later
            q, k, v = (None, two, one.mT) if summed else (one, two.mT, None)
            attach(result, "scores", AttentionScores(q, k, v, tuple(result.shape[-2:])))
            tokens = torch.zeros((), dtype=torch.int64) if summed else one.amax(-1, keepdim=True) & TOKEN
            tag(result, tokens.expand(result.shape))
        elif one is not None and result.ndim == left.ndim:
            tag(result, (one.amax(-1, keepdim=True) & TOKEN).expand(result.shape))
        return result

    def _einsum(self, args: Any, left: Tensor, right: Tensor, result: Any) -> Any:
        one, two = tags_of(left), tags_of(right)
        if one is None or two is None or not isinstance(args[0], str):
            return result
        terms = args[0].replace(" ", "").split("->")
        first, second = terms[0].split(",")
        summed = (set(first) & set(second)) - set(terms[-1])
        scores = getattr(left, "_eb_scores", None)
        if len(summed) == 1 and len(first) == left.ndim in (3, 4) and scores is not None:
            made = scores.close(self, ordered(two, second, first[:-2] + first[-1] + (set(second) - set(first)).pop()))
            tag(result, ordered(made, first[:-1] + (set(second) - set(first)).pop(), terms[1]))
        elif len(summed) == 1 and len(first) == left.ndim in (3, 4) and made_by_weights(one, two):
            axis = summed.pop()
            batch = [a for a in first if a in second and a != axis]
            rows, columns = (next(a for a in term if a not in batch and a != axis) for term in (first, second))
            if "".join([*batch, rows, columns]) == terms[1]:
                lead = "".join(batch)
                q, k = ordered(one, first, lead + rows + axis), ordered(two, second, lead + columns + axis)
                attach(result, "scores", AttentionScores(q, k, None, tuple(result.shape[-2:])))
                tag(result, torch.zeros(result.shape, dtype=torch.int64))
        return result

    def multi_head(self, func: Any, args: Any, kwargs: Any) -> Any:
        """torch's own multi-head attention, taken apart: its one weight holds q, k and v."""
        query, key, value = args[:3]
        heads, weight, out_weight = args[4], args[5], args[11]
        width = query.shape[-1]
        if weight is None or id(weight) not in self.weights:
            return torch.zeros_like(query), None
        with self:
            parts = []
            for number, source in enumerate((query, key, value)):
                made = F.linear(source, weight)
                parts.append(made[..., number * width : (number + 1) * width].unflatten(-1, (heads, -1)))
            # (tokens, batch, heads, channels) as torch lays it out inside.
            q, k, v = (part.permute(1, 2, 0, 3) for part in parts)
            mixed = F.scaled_dot_product_attention(q, k, v).permute(2, 0, 1, 3).flatten(2)
            return F.linear(mixed, out_weight), None

    def norm(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        x = args[0]
        result = torch.zeros(x.shape, dtype=x.dtype)
        if tags_of(x) is not None:
            tag(result, tags_of(x))
        return result

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Record an attention, given its operands' tags `(batch, [heads,] tokens, channels)`; returns the output's tags, laid out alike."""
        number = self.attentions
        self.attentions += 1
        axis = None
        if q.ndim == 3:
            # Heads may be folded into the batch: then it holds the same tokens over and over, made by other rows.
            again = q.shape[0] > 1 and bool(((q[0] ^ q) & TOKEN == 0).all()) and bool((q[0] != q[-1]).all())
            axis = 0 if again else 1
            q, k, v = (each.unsqueeze(axis) for each in (q, k, v))
        queries, keys = (token_ids(each) for each in (q, k))
        operands = {
            role: {stream: found for stream in (IMAGE, TEXT) if (found := self._operand(each, stream)) is not None}
            for role, each in (("query", q), ("key", k), ("value", v))
        }
        self.trace.attentions.append(TracedAttention(number, queries, keys, operands))
        if (
            not bool((queries & STREAM).any())
            and bool(((keys & STREAM) == TEXT).any())
            and not bool((keys & IMAGE).any())
        ):
            # What learned queries gather from text is text; a pool of image tokens is nowhere in the image.
            queries = torch.full_like(queries, TEXT)
        heads, channels = q.shape[1], v.shape[-1]
        tokens = queries[:, None, :, None].expand(q.shape[0], heads, q.shape[2], channels)
        rows = torch.arange(1, heads * channels + 1).reshape(1, heads, 1, channels)
        made = tokens | (rows << ROW) | ((number + 1) << ORIGIN)
        return made if axis is None else made.squeeze(axis)

    def _operand(self, tags: Tensor, stream: int) -> Operand | None:
        tokens = ((token_ids(tags) & STREAM) == stream).nonzero()
        if not len(tokens):
            return None
        batch, token = tokens[0].tolist()
        codes = tags[batch, :, token, :]
        origins = (codes >> ORIGIN) - 1
        known = origins[origins >= 0]
        if not len(known):
            return None
        weight = int(known.mode().values)
        if weight >= len(self.by_number):
            return None
        rows = torch.where(origins == weight, ((codes >> ROW) & ROWS) - 1, -1)
        name = self.by_number[weight]
        return Operand(name, rows, self.sources.get(name))


def _tags_or_itself(tensor: Tensor) -> Tensor:
    tags: Tensor | None = tags_of(tensor)
    return tensor if tags is None else tags


def _on_tags(func: Any, args: Any, kwargs: Any, *, blank: bool) -> Any:
    """Return the function applied to the tags of its arguments; with `blank`, to zeros for those that have none."""

    def swap(tensor: Tensor) -> Tensor:
        if blank and tags_of(tensor) is None:
            return torch.zeros(tensor.shape, dtype=torch.int64)
        return _tags_or_itself(tensor)

    return func(*mapped(swap, args), **mapped(swap, kwargs))


@dataclass
class AttentionScores:
    """A product of two operands on its way to being an attention: of q and k, or of v and k in linear attention."""

    q: Tensor | None
    k: Tensor
    v: Tensor | None
    shape: tuple[int, ...]

    def close(self, tracer: Tracer, last: Tensor) -> Tensor:
        """Record the attention once its third operand is met; returns the output's tags."""
        if self.q is not None:
            return tracer.attention(self.q, self.k, last)
        assert self.v is not None
        return tracer.attention(last.transpose(-1, -2), self.k, self.v).transpose(-1, -2)


_HANDLERS: dict[str, Callable[[Tracer, Any, Any, Any], Any]] = {
    "linear": Tracer.linear,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), Tracer.conv),
    "scaled_dot_product_attention": Tracer.sdpa,
    "multi_head_attention_forward": Tracer.multi_head,
    **dict.fromkeys(("layer_norm", "group_norm", "rms_norm", "batch_norm"), Tracer.norm),
    **dict.fromkeys(_PRODUCTS, Tracer.product),
}  # fmt: skip
