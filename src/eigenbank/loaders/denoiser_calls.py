"""Watch the calls of a denoiser: how far the run is, how large the batch, which branch of guidance it is."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.hooks import ModelHook
from diffusers.hooks.hooks import StateManager
from torch import Tensor, nn

from eigenbank.diffusers_compat import (
    compiled_call,
    current_cache_context,
    hears_cache_contexts,
    set_compiled_call,
)
from eigenbank.loaders.hooks import NotCopyable, attach, detach
from eigenbank.loaders.target import TIMES, Target, arguments_of
from eigenbank.schemas.errors import MatchError, SteerError
from eigenbank.schemas.layer import TokenCount

SingleBranch = Literal["cond", "uncond"]


@dataclass(frozen=True)
class DenoiserCall:
    """One call of a denoiser. `batch` rows; `done` the fraction of the run behind; `branch` if the call is one branch of guidance.

    `latent` is the spatial shape of its input, where that is a picture or a video: (h, w) or (frames, h, w).
    """

    arguments: Mapping[str, Any]
    batch: int
    done: float
    branch: SingleBranch | None
    latent: tuple[int, ...]

    def count(self, count: TokenCount) -> int:
        """Return the number of image tokens, as `count` says to work it out. Raises MatchError where it cannot be."""
        value = self.arguments.get(count.argument)
        listed = isinstance(value, (list, tuple))
        shape = tuple(getattr(value[0] if listed and value else value, "shape", ()))
        axes = [axis - listed for axis in count.axes]
        if not shape or max(axes) >= len(shape):
            message = (
                f"the denoiser was called with {count.argument} of shape {list(shape)}, where the set expects an axis "
                f"{max(axes)}: its image tokens cannot be told from text. Nothing was changed"
            )
            raise MatchError(message)
        whole = math.prod(int(shape[axis]) for axis in axes) * count.tokens
        if whole % count.positions:
            message = f"{count.argument} of shape {list(shape)} does not divide into tokens as the set says: nothing was changed"
            raise MatchError(message)
        return whole // count.positions

    def ragged(self) -> bool:
        """Whether the texts of the batch have different lengths, by the mask that came with them."""
        for name, value in self.arguments.items():
            if "mask" in name and isinstance(value, Tensor) and value.ndim == 2 and value.shape[0] > 1:
                lengths = value.bool().sum(1)
                if bool((lengths != lengths[0]).any()):
                    return True
        return False


class _NoState:
    """What the StateManager of our hook holds: nothing."""

    def reset(self) -> None:
        """Do nothing: there is nothing to forget."""


@hears_cache_contexts
class DenoiserCallHook(NotCopyable, ModelHook):  # type: ignore[misc]
    """Calls `listener` before each call of a denoiser, with its arguments and the `cache_context` it runs in."""

    def __init__(self, listener: Callable[[Mapping[str, Any], str | None, Any], None]) -> None:
        super().__init__()
        self.listener = listener
        self.context = StateManager(_NoState)
        self.outside = False

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Tell the listener, unless it is told outside of what is compiled."""
        if not self.outside:
            self.tell(module, args, kwargs)
        return args, kwargs

    def reset_state(self, module: nn.Module) -> None:
        """Forget the context."""
        self.context.reset()

    def tell(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Tell the listener of a call."""
        context = current_cache_context(self.context)
        name = context if isinstance(context, str) else getattr(context, "name", None)
        self.listener(arguments_of(module, args, kwargs), name, context)


class DenoiserCallWatcher(NotCopyable):
    """Calls `listener` with a DenoiserCall before each call of a denoiser; outside of what torch.compile made, if it did."""

    def __init__(self, target: Target, name: str, hook_name: str, listener: Callable[[DenoiserCall], None]) -> None:
        self.target = target
        self.denoiser = target.denoisers[name]
        self.wrapper = target.wrappers[name]
        self.hook_name = hook_name
        self.listener = listener
        self.hook = DenoiserCallHook(self._called)
        self._progress = run_progress(target.owner, self.denoiser)
        self._config = getattr(self.denoiser, "config", None)
        self._undo: list[Callable[[], None]] = []

    def attach(self) -> None:
        """Start watching."""
        attach(self.denoiser, self.hook, self.hook_name)
        self._undo.append(lambda: detach(self.denoiser, self.hook_name))
        compiled = compiled_call(self.denoiser)
        if self.wrapper is not self.denoiser:
            self.hook.outside = True
            listening = self.wrapper.register_forward_pre_hook(self._before, with_kwargs=True)
            self._undo.append(listening.remove)
        elif compiled is not None:
            self.hook.outside = True

            def call_and_tell(*args: Any, **kwargs: Any) -> Any:
                self.hook.tell(self.denoiser, args, kwargs)
                return compiled(*args, **kwargs)

            set_compiled_call(self.denoiser, call_and_tell)
            self._undo.append(lambda: set_compiled_call(self.denoiser, compiled))

    def remove(self) -> None:
        """Stop watching. Harmless when it was not."""
        while self._undo:
            self._undo.pop()()

    def _before(self, _wrapper: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.hook.tell(self.denoiser, args, kwargs)

    def _called(self, arguments: Mapping[str, Any], context: str | None, details: Any) -> None:
        noisy: Any = next(iter(arguments.values()), None)
        listed = isinstance(noisy, (list, tuple))
        shape = tuple(noisy[0].shape) if listed else tuple(getattr(noisy, "shape", (1,)))
        batch = len(noisy) if listed else shape[0]
        space = shape[1:] if listed else shape[2:]
        if len(shape) == 5 and not listed and shape[2] == getattr(self._config, "in_channels", None):
            space = (shape[1], *shape[3:])  # frames before channels; where both are as many it makes no difference
        done = self._done(arguments, details)
        self.listener(DenoiserCall(arguments, batch, done, branch_of(context), space if len(space) in (2, 3) else ()))

    def _done(self, arguments: Mapping[str, Any], details: Any) -> float:
        step, steps = getattr(details, "step_index", None), getattr(details, "num_inference_steps", None)
        if step is not None and steps:
            return float(min(step / steps, 1 - 1e-9))
        time = next((arguments[name] for name in TIMES if arguments.get(name) is not None), None)
        return self._progress(time)


def branch_of(context: str | None) -> SingleBranch | None:
    """Return the branch of guidance that a `cache_context` names; None where it names none, or both."""
    if context is None or {"cond", "uncond"} <= set(context.split("_")):
        return None
    return "uncond" if "uncond" in context or "neg" in context else "cond"


_THREE_WAYS = ("image_guidance_scale", "enabled_editing_prompts", "pag_scale")
"""Attributes of pipelines that guide in more than two branches, in orders of their own."""


def takes_text(denoiser: nn.Module) -> bool:
    """Whether a denoiser takes a prompt or class, so that pipelines stack the branches of guidance into one batch."""
    names = inspect.signature(type(denoiser).forward).parameters
    if any(
        name.startswith(("encoder_hidden_states", "cap_feats", "context", "clip_", "proj_embedding")) for name in names
    ):
        return True
    return "class_labels" in names and "UNet2DModel" not in type(denoiser).__name__


def branch_rows(target: Target, call: DenoiserCall, only: SingleBranch) -> Tensor:
    """Return 1 for each row of the batch that belongs to the branch `only`, 0 for the others: `(batch,)` float32.

    Pipelines of diffusers stack the unconditional rows before the conditional ones, or call the denoiser for each in
    turn under a `cache_context`. Raises SteerError where nothing says which is which.
    """
    if call.branch is not None:
        return torch.full((call.batch,), float(call.branch == only))
    guided = target.guided()
    stacked = guided and not target.calls_in_turn() and not any(hasattr(target.owner, name) for name in _THREE_WAYS)
    if not isinstance(target.owner, nn.Module) and guided is not False and not stacked:
        message = (
            f"a {target.kind} does not say which of its calls are conditional: branch={only!r} cannot be carried out, "
            "use branch='both'"
        )
        raise SteerError(message)
    if guided is False:
        if only == "uncond":
            message = "this run has no unconditional branch (no guidance): the edit would do nothing"
            raise SteerError(message)
        return torch.ones(call.batch)
    if call.batch % 2:
        message = (
            f"a batch of {call.batch} rows does not divide into two branches of guidance: branch={only!r} cannot be "
            "carried out, use branch='both'"
        )
        raise SteerError(message)
    return torch.tensor([float(branch == only) for branch in ("uncond", "cond")]).repeat_interleave(call.batch // 2)


def run_progress(owner: Any, denoiser: nn.Module | None = None) -> Callable[[Any], float]:
    """Return a function from the time a denoiser is called with to the fraction of the run that lies behind.

    With the scheduler that the pipeline `owner` has at that moment: its own count of steps where it keeps one, else the
    place of the nearest of its timesteps. Without one: one minus the timestep over the number of timesteps trained on
    (1000 where that is not known), or one minus a time that is itself a fraction.
    """
    table: dict[float, float] = {}
    known: list[Any] = [None]

    def progress(time: Any) -> float:
        scheduler = getattr(owner, "scheduler", None)
        timesteps = getattr(scheduler, "timesteps", None)
        index = getattr(scheduler, "step_index", None)
        if timesteps is not None and isinstance(index, int):
            return min(index / len(timesteps), 1 - 1e-9)
        if time is None:
            message = "the denoiser was called without a time: how far the run is cannot be told. Use scales that do not change"
            raise SteerError(message)
        value = float(time.flatten().max()) if isinstance(time, Tensor) else float(time)
        if timesteps is None:
            train_steps = getattr(getattr(owner, "config", None), "num_train_timesteps", None) or 1000
            fraction = (
                isinstance(time, Tensor)
                and time.is_floating_point()
                and value <= 1
                and "UNet" not in type(denoiser).__name__
            )
            return min(max(1 - value if fraction else 1 - (value + 1) / train_steps, 0.0), 1 - 1e-9)
        if timesteps is not known[0]:
            known[0] = timesteps
            table.clear()
            for place, step in enumerate(timesteps.tolist()):
                table.setdefault(float(step), place / len(timesteps))
        if value not in table:
            table[value] = table[_nearest(value, table)]
        return table[value]

    return progress


def _nearest(value: float, table: Mapping[float, float]) -> float:
    """Return the timestep that a time means: itself, or the fraction, or the rest of one, that some denoisers are given."""
    meant = (value, value * 1000, 1000 - value * 1000) if value <= 1 else (value,)
    return min(table, key=lambda step: min(abs(step - each) for each in meant))
