"""Hooks on a live denoiser: one adds a vector to the tokens at a site, one measures them.

They go through diffusers' own hook registry under names of ours, so they stack with its hooks and with those of others.
Removing the last one restores the module to what it was, down to its attributes.
"""

from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import Tensor, nn

from eigenbank.diffusers_compat import drop_hook_registry, hook_registry
from eigenbank.loaders.mask import Mask
from eigenbank.schemas import HookPoint
from eigenbank.schemas.errors import MatchError, SteerError


class NotCopyable:
    """Refuses to be copied or pickled: diffusers' hooks would have a copy call the modules of the original."""

    def __reduce_ex__(self, _protocol: Any) -> Any:
        """Refuse what copy.deepcopy and pickle ask for. Raises SteerError."""
        message = (
            "a steered denoiser cannot be copied or pickled: the copy would go on using the original's layers. Nothing was "
            "copied; remove() the edit first, and steer the copy anew"
        )
        raise SteerError(message)


class SiteHook(NotCopyable, ModelHook):  # type: ignore[misc]
    """A hook on the tokens of a site. `tokens` is the number of image tokens where they are not all, set before each call."""

    def __init__(self, point: HookPoint) -> None:
        super().__init__()
        self.point = point
        self.tokens = 0

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Handle the tokens among the arguments, if the site is an input."""
        if self.point.at == "input" and not self.resting():
            name, index = self.point.argument, self.point.index
            if name in kwargs:
                kwargs = {**kwargs, name: self.handle(kwargs[name])}
            elif index < len(args):
                args = (*args[:index], self.handle(args[index]), *args[index + 1 :])
            else:
                message = f"{type(module).__name__} was called without {name}: the set describes another version of it"
                raise MatchError(message)
        return args, kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """Handle the tokens in the output, if the site is one."""
        if self.point.at != "output" or self.resting():
            return output
        if not isinstance(output, tuple):
            return self.handle(output)
        index = self.point.index
        return (*output[:index], self.handle(output[index]), *output[index + 1 :])

    def resting(self) -> bool:
        """Whether there is nothing to do in this call."""
        return False

    def handle(self, hidden: Tensor) -> Tensor:
        """Return the tokens, those of the image as `image` returns them; text tokens stay as they are."""
        if self.point.image == "all":
            return self.image(hidden)
        axis = 1 if self.point.axis == -1 else hidden.ndim - 1
        total, count = hidden.shape[axis], self.tokens
        if not 0 < count <= total:
            message = (
                f"{', '.join(self.point.modules)} got {total} tokens, where the set expects {count} of the image and "
                "the text's besides: it describes another way to call the denoiser. Nothing was changed"
            )
            raise MatchError(message)
        if self.point.image == "first":
            return torch.cat(
                [self.image(hidden.narrow(axis, 0, count)), hidden.narrow(axis, count, total - count)], axis
            )
        return torch.cat(
            [hidden.narrow(axis, 0, total - count), self.image(hidden.narrow(axis, total - count, count))], axis
        )

    def image(self, hidden: Tensor) -> Tensor:
        """Look at or change the image tokens."""
        raise NotImplementedError


class AddHook(SiteHook):
    """Adds `delta` `(r, d)` to every image token: one row for all samples, or one for each row of the denoiser's batch.

    Scales live in `delta`, a tensor that is written in place: changing one never recompiles what torch.compile made.
    `mask` weighs the tokens. While `idle`, nothing is done at all.
    """

    def __init__(self, point: HookPoint, width: int) -> None:
        super().__init__(point)
        self.delta = torch.zeros((1, width))
        self.mask: Mask | None = None
        self.idle = True

    def set(self, delta: Tensor) -> None:
        """Set what is added from now on, `(r, d)` float32."""
        self.idle = not bool(delta.any())
        if self.delta.shape == delta.shape and not self.delta.is_inference():
            self.delta.copy_(delta)
        else:
            self.delta = delta.to(self.delta.device, self.delta.dtype, copy=True)

    def resting(self) -> bool:
        """Idle hooks rest, but not while compiling: what is compiled must do for every scale, so `idle` is not even read."""
        return not torch.compiler.is_compiling() and self.idle

    def image(self, hidden: Tensor) -> Tensor:
        """Return the tokens with `delta` added. Raises MatchError where widths or batches do not fit."""
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
        if self.delta.dtype != hidden.dtype or self.delta.device != hidden.device:
            self.delta = self.delta.to(hidden.device, hidden.dtype)
        delta = self.delta
        if rows > 1 and hidden.shape[0] != rows:
            # Video models fold frames, or positions, into the batch: sample by sample.
            delta = delta.repeat_interleave(hidden.shape[0] // rows, 0)
        shape = [1] * hidden.ndim
        shape[0], shape[axis] = delta.shape[0], width
        delta = delta.reshape(shape)
        if self.mask is not None:
            delta = delta * self.mask.weights(hidden, axis)
        return hidden + delta


class ProbeHook(SiteHook):
    """Measures the root mean square length of the image tokens at a site, without changing them."""

    def __init__(self, point: HookPoint) -> None:
        super().__init__(point)
        self.square = 0.0
        self.seen = 0

    @property
    def length(self) -> float:
        """Root mean square of the Euclidean norm of the tokens seen."""
        return float((self.square / max(1, self.seen)) ** 0.5)

    def image(self, hidden: Tensor) -> Tensor:
        """Measure the tokens."""
        self.square += float(hidden.double().square().sum())
        self.seen += hidden.numel() // hidden.shape[self.point.axis]
        return hidden


def attach(module: nn.Module, hook: ModelHook, name: str) -> None:
    """Register a hook under a name of ours, remembering whether the module had a registry before."""
    fresh = hook_registry(module) is None
    registry = HookRegistry.check_if_exists_or_initialize(module)
    if fresh:
        registry.eigenbank_made = True
    registry.register_hook(hook, name)


def detach(module: nn.Module, name: str) -> None:
    """Remove the hook of that name; with the last one, the registry that `attach` left on the module."""
    registry = hook_registry(module)
    if registry is None:
        return
    registry.remove_hook(name, recurse=False)
    if not registry.hooks and getattr(registry, "eigenbank_made", False):
        drop_hook_registry(module)
