"""Hooks on the modules of a live denoiser: what edits add to the tokens of a site, and how long those tokens are.

They are hooks of torch, which whatever else wraps or replaces a module's `forward` (diffusers' hooks, accelerate's
offload, caches) leaves alone. Removing the last one restores the module to what it was, down to its attributes.
"""

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from eigenbank.loaders.mask import Mask
from eigenbank.schemas import HookPoint, TokenCount
from eigenbank.schemas.errors import MatchError, SteerError


class NotCopyable:
    """Refuses to be copied or pickled: a copied hook would have the copy go on with what belongs to the original."""

    def __reduce_ex__(self, _protocol: Any) -> Any:
        """Refuse what copy.deepcopy and pickle ask for. Raises SteerError."""
        message = (
            "a steered denoiser cannot be copied or pickled: the copy would go on using the original's layers. Nothing was "
            "copied; remove() the edit first, and steer the copy anew"
        )
        raise SteerError(message)


class Addition(NotCopyable):
    """What one edit adds to the image tokens of a site.

    `delta` `(r, d)` float32 counts token lengths: one row for all samples, or one for each row of the denoiser's batch. It is
    written in place: changing a scale never recompiles what torch.compile made. `mask` weighs the tokens. While `idle`,
    nothing is added at all. `counter` knows the number of image tokens where they are not all of them; `samples` is that of
    the rows of the denoiser's batch, set before each call, and None where nothing says it.
    """

    def __init__(self, point: HookPoint, width: int) -> None:
        self.point = point
        self.delta = torch.zeros((1, width))
        self.mask: Mask | None = None
        self.idle = True
        self.counter: TokenCounter | None = None
        self.samples: int | None = None

    def set(self, delta: Tensor) -> None:
        """Set what is added from now on, `(r, d)` float32."""
        self.idle = not bool(delta.any())
        if self.delta.shape == delta.shape and not self.delta.is_inference():
            self.delta.copy_(delta)
        else:
            self.delta = delta.to(self.delta.device, copy=True)

    def of(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return what is added to these tokens, whose lengths are `(rows,)`. Raises MatchError where they do not fit."""
        axis, rows, width = self.point.axis, *self.delta.shape
        if hidden.shape[axis] != width:
            message = (
                f"the tokens at {', '.join(self.point.modules)} are {hidden.shape[axis]} wide, the direction is {width} "
                "wide: it belongs to another checkpoint. Nothing was changed"
            )
            raise MatchError(message)
        if hidden.shape[0] % rows:
            message = (
                f"the edit has a scale for each of {rows} samples, and {', '.join(self.point.modules)} works on a batch "
                f"of {hidden.shape[0]}: a cache or another trick splits the batch. Use one scale and branch='both'"
            )
            raise MatchError(message)
        if self.delta.device != hidden.device:
            self.delta = self.delta.to(hidden.device)
        delta = self.delta
        if rows > 1 and hidden.shape[0] != rows:
            # Video models fold frames, or positions, into the batch: sample by sample.
            delta = delta.repeat_interleave(hidden.shape[0] // rows, 0)
        shape = [1] * hidden.ndim
        shape[0], shape[axis] = hidden.shape[0], width
        added = (lengths[:, None] * delta).reshape(shape).to(hidden.dtype)
        return added if self.mask is None else added * self.mask.weights(hidden, axis)


def token_lengths(hidden: Tensor, axis: int, samples: int | None) -> Tensor:
    """Compute the root mean square length of each sample's tokens, `(rows,)` in float32, a row of `hidden` each.

    `axis` is that of the channels. Rows that belong to one of the `samples`, as frames that are folded into the batch do,
    have one length together. Where a token is not finite the length is 0: there is nothing to measure by.
    """
    rows = hidden.shape[0]
    norms = torch.linalg.vector_norm(
        hidden, dim=tuple(range(1, hidden.ndim)), dtype=torch.promote_types(hidden.dtype, torch.float32)
    )
    lengths = norms * (hidden.shape[axis] / max(1, hidden[0].numel())) ** 0.5
    folded = 1
    if samples is not None and rows % samples == 0:
        folded = rows // samples
    elif samples is None and hidden.ndim == 2:
        folded = rows  # the tokens of one sequence, without a batch
    if folded > 1:
        lengths = lengths.unflatten(0, (-1, folded)).square().mean(1).sqrt().repeat_interleave(folded)
    finite: Tensor = lengths.nan_to_num(0.0, 0.0, 0.0)
    return finite


class TokenCounter(NotCopyable):
    """Notes, in every pass, how many image tokens there are, where the denoiser has them without any text."""

    def __init__(self, count: TokenCount) -> None:
        self.count = count
        self.tokens: int | None = None

    def before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count the tokens among the arguments, if they are there."""
        name, index = self.count.argument, self.count.index
        if self.count.at == "input" and (name in kwargs or index < len(args)):
            self._note(kwargs[name] if name in kwargs else args[index])

    def after(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        """Count the tokens in the output, if they are there."""
        if self.count.at == "output":
            self._note(output[self.count.index] if isinstance(output, tuple) else output)

    def _note(self, tokens: Tensor) -> None:
        found = 1
        for axis in self.count.axes:  # torch.compile follows no generator
            found *= tokens.shape[axis]
        self.tokens = found


class SiteHook(NotCopyable):
    """The hook on one module that all edits of a site share: each adds to the tokens as they come, so edits add up."""

    def __init__(self, point: HookPoint) -> None:
        self.point = point
        self.additions: dict[str, Addition] = {}

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Handle the tokens among the arguments, if the site is an input."""
        if self.point.at != "input" or self.resting():
            return None
        name, index = self.point.argument, self.point.index
        if name in kwargs:
            return args, {**kwargs, name: self.handle(kwargs[name])}
        if index < len(args):
            return (*args[:index], self.handle(args[index]), *args[index + 1 :]), kwargs
        message = f"{type(module).__name__} was called without {name}: the set describes another version of it"
        raise MatchError(message)

    def after(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        """Handle the tokens in the output, if the site is one."""
        if self.point.at != "output" or self.resting():
            return None
        if not isinstance(output, tuple):
            return self.handle(output)
        index = self.point.index
        return (*output[:index], self.handle(output[index]), *output[index + 1 :])

    def resting(self) -> bool:
        """Whether there is nothing to do, but not while compiling: what is compiled must do for every scale."""
        return not torch.compiler.is_compiling() and all(each.idle for each in self.additions.values())

    def handle(self, hidden: Tensor) -> Tensor:
        """Return the tokens, those of the image as `image` returns them; text tokens stay as they are."""
        if self.point.image == "all":
            return self.image(hidden)
        axis = 1 if self.point.axis == -1 else hidden.ndim - 1
        total, count = hidden.shape[axis], self.image_tokens() or 0
        if not 0 < count <= total:
            message = (
                f"{', '.join(self.point.modules)} got {total} tokens, and this pass shows {count or 'no'} image tokens: the "
                "set describes another way to call the denoiser. Nothing was changed"
            )
            raise MatchError(message)
        if self.point.image == "first":
            return torch.cat(
                [self.image(hidden.narrow(axis, 0, count)), hidden.narrow(axis, count, total - count)], axis
            )
        return torch.cat(
            [hidden.narrow(axis, 0, total - count), self.image(hidden.narrow(axis, total - count, count))], axis
        )

    def image_tokens(self) -> int | None:
        """Return how many of the tokens are the image's, where they are not all."""
        counter = next(iter(self.additions.values())).counter
        return None if counter is None else counter.tokens

    def image(self, hidden: Tensor) -> Tensor:
        """Return the image tokens with what the edits add, in lengths of these tokens as they are before any of them."""
        active = [each for each in self.additions.values() if torch.compiler.is_compiling() or not each.idle]
        lengths = token_lengths(hidden, self.point.axis, active[0].samples)
        added = active[0].of(hidden, lengths)
        for each in active[1:]:
            added = added + each.of(hidden, lengths)
        return hidden + added


_hooks: "weakref.WeakKeyDictionary[nn.Module, dict[HookPoint, tuple[SiteHook, Callable[[], None]]]]" = (
    weakref.WeakKeyDictionary()
)
"""The site hooks that edits share, and how to take each away."""
_marks: "weakref.WeakKeyDictionary[nn.Module, _Mark]" = weakref.WeakKeyDictionary()


def attach(module: nn.Module, addition: Addition, name: str) -> None:
    """Have a module's tokens edited by an addition, under a name of the edit's own."""
    hooks = _hooks.setdefault(module, {})
    if addition.point not in hooks:
        hook = SiteHook(addition.point)
        hooks[addition.point] = (hook, put_on(module, hook))
    hooks[addition.point][0].additions[name] = addition


def detach(module: nn.Module, addition: Addition, name: str) -> None:
    """Take an addition away again; with the last one of its site, the hook."""
    hooks = _hooks.get(module, {})
    if addition.point not in hooks:
        return
    hook, undo = hooks[addition.point]
    hook.additions.pop(name, None)
    if not hook.additions:
        undo()
        del hooks[addition.point]


def put_on(module: nn.Module, hook: SiteHook | TokenCounter) -> Callable[[], None]:
    """Put a hook on a module. Returns a function that takes it away and leaves the module as it was."""
    # What torch.compile made of a module notices another hook only where there was one of that kind before: hence both.
    handles = [
        module.register_forward_pre_hook(hook.before, with_kwargs=True),
        module.register_forward_hook(hook.after, prepend=True),  # what listens to the module hears the edit
    ]
    marked = _marks.get(module) or _Mark(module)
    _marks[module] = marked
    marked.hooks += 1

    def undo() -> None:
        for handle in handles:
            handle.remove()
        marked.hooks -= 1
        if not marked.hooks:
            _marks.pop(module, None)
            marked.restore(module)

    return undo


class _Mark:
    """A module's `forward` replaced by one that does the same, for as long as there are hooks of ours.

    What torch.compile made of a module without hooks does not notice the first that comes later; another `forward` it does.
    """

    def __init__(self, module: nn.Module) -> None:
        self.hooks = 0
        self.own = vars(module).get("forward")
        self.ours = types.MethodType(type(module).forward, module) if self.own is None else functools.partial(self.own)
        vars(module)["forward"] = self.ours

    def restore(self, module: nn.Module) -> None:
        """Put the old one back, unless somebody wrapped ours since and goes on calling it, which does no harm."""
        if vars(module).get("forward") is not self.ours:
            return
        if self.own is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = self.own
