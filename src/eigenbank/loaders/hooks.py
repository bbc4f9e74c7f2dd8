"""Hooks on a live denoiser: one adds a vector at a site, one tells how far the denoising run has come.

They go through diffusers' own hook registry under names of ours, so they stack with its hooks and with those of others.
Removing the last one restores the module to what it was, down to its attributes.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import Tensor, nn

from eigenbank.schemas import Layer
from eigenbank.schemas.errors import MatchError
from eigenbank.schemas.recipe import Site


class AddHook(ModelHook):  # type: ignore[misc]
    """Adds `delta` to every token at the module's input or output; does nothing while `delta` is None.

    `delta` is `(d,)`, the same for all samples, or `(b, d)` with a row per sample; with `tiled` it is repeated where a
    pipeline stacks several passes into one batch (classifier-free guidance).
    """

    def __init__(self, at: str, channel_axis: int, *, tiled: bool) -> None:
        super().__init__()
        self.at = at
        self.channel_axis = channel_axis
        self.tiled = tiled
        self.delta: Tensor | None = None

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.delta is not None and self.at == "input":
            if args:
                args = (self._added(args[0]), *args[1:])
            else:
                kwargs = {**kwargs, "hidden_states": self._added(kwargs["hidden_states"])}
        return args, kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        if self.delta is None or self.at != "output":
            return output
        return (self._added(output[0]), *output[1:]) if isinstance(output, tuple) else self._added(output)

    def _added(self, hidden: Tensor) -> Tensor:
        assert self.delta is not None
        delta = self.delta.to(hidden)
        if delta.ndim == 2:
            if hidden.shape[0] % delta.shape[0] or (hidden.shape[0] != delta.shape[0] and not self.tiled):
                message = (
                    f"the edit has {delta.shape[0]} scales, one per sample, and the batch is {hidden.shape[0]}: "
                    "give as many scales as the pipeline makes images"
                )
                raise MatchError(message)
            delta = delta.repeat(hidden.shape[0] // delta.shape[0], 1)
        shape = [1] * hidden.ndim
        shape[0] = delta.shape[0] if delta.ndim == 2 else 1
        shape[self.channel_axis] = delta.shape[-1]
        return hidden + delta.reshape(shape)


class ProbeHook(ModelHook):  # type: ignore[misc]
    """Measures the root mean square length of the tokens at a site, without changing them."""

    def __init__(self, at: str, channel_axis: int) -> None:
        super().__init__()
        self.at = at
        self.channel_axis = channel_axis
        self.square = 0.0
        self.tokens = 0

    @property
    def length(self) -> float:
        """Root mean square of the Euclidean norm of the tokens seen."""
        return float((self.square / max(1, self.tokens)) ** 0.5)

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.at == "input":
            self._measure(args[0] if args else kwargs["hidden_states"])
        return args, kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        if self.at == "output":
            self._measure(output[0] if isinstance(output, tuple) else output)
        return output

    def _measure(self, hidden: Tensor) -> None:
        self.square += float(hidden.double().square().sum())
        self.tokens += hidden.numel() // hidden.shape[self.channel_axis]


class ClockHook(ModelHook):  # type: ignore[misc]
    """Tells `listener` the progress of the denoising run, in [0, 1), before each pass of the denoiser."""

    def __init__(self, progress_of: Callable[[Any], float], listener: Callable[[float], None]) -> None:
        super().__init__()
        self.progress_of = progress_of
        self.listener = listener

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self.listener(self.progress_of(kwargs["timestep"] if "timestep" in kwargs else args[1]))
        return args, kwargs


def site_of(denoiser: nn.Module, layer: Layer, site: Site) -> tuple[nn.Module, str, int]:
    """Where a site lies on a live denoiser: the module, `input` or `output` of it, and the axis of the channels.

    Raises MatchError when the denoiser has no such layer.
    """
    try:
        attention = denoiser.get_submodule(layer.name)
        if site == "projection-input" and layer.norm is not None and layer.norm_inside:
            # The norm inside a U-Net's attention module sees (batch, channels, tokens).
            return denoiser.get_submodule(layer.norm.module), "output", 1
    except AttributeError:
        message = (
            f"the pipeline's {type(denoiser).__name__} has no layer {layer.name}: the directions belong to another "
            "architecture, nothing was changed"
        )
        raise MatchError(message) from None
    return attention, "input" if site != "block-output" else "output", 1 if layer.norm_inside else -1


def attach(module: nn.Module, hook: ModelHook, name: str) -> None:
    """Register a hook under a name of ours, remembering whether the module had a registry before."""
    fresh = "_diffusers_hook" not in module.__dict__
    registry = HookRegistry.check_if_exists_or_initialize(module)
    if fresh:
        registry.eigenbank_made = True
    registry.register_hook(hook, name)


def detach(module: nn.Module, name: str) -> None:
    """Remove the hook of that name; with the last one, whatever the registry left on the module."""
    registry = module.__dict__.get("_diffusers_hook")
    if registry is None:
        return
    registry.remove_hook(name, recurse=False)
    if not registry.hooks and getattr(registry, "eigenbank_made", False):
        del module.__dict__["_diffusers_hook"]
        forward = module.__dict__.get("forward")
        # The registry puts the original method back as an attribute of the instance, which copies would share.
        if getattr(forward, "__func__", None) is type(module).forward:
            del module.__dict__["forward"]


def run_progress(owner: Any) -> Callable[[Any], float]:
    """How to tell, from the timestep a denoiser is called with, the fraction of the run that lies behind.

    With the scheduler that the pipeline `owner` has at that moment: the place of the nearest of its timesteps. Without
    one: one minus the timestep over the number of timesteps trained on (1000 where that is not known).
    """
    table: dict[float, float] = {}
    known: list[Any] = [None]

    def progress(timestep: Any) -> float:
        value = float(timestep.flatten()[0]) if isinstance(timestep, torch.Tensor) else float(timestep)
        timesteps = getattr(getattr(owner, "scheduler", None), "timesteps", None)
        if timesteps is None:
            train_steps = getattr(getattr(owner, "config", None), "num_train_timesteps", None) or 1000
            return min(max(1 - (value + 1) / train_steps, 0.0), 1 - 1e-9)
        if timesteps is not known[0]:
            known[0] = timesteps
            table.clear()
            for index, step in enumerate(timesteps.tolist()):
                table.setdefault(float(step), index / len(timesteps))
        if value not in table:
            table[value] = table[min(table, key=lambda step: abs(step - value))]
        return table[value]

    return progress
