"""What is steered: a pipeline or a bare denoiser, as the rest of the loaders sees it.

A plugin for pipelines of another kind makes a `Target` of its own, overriding what differs there (see `plugins.py`).
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eigenbank.schemas import HookPoint, Layer
from eigenbank.schemas.errors import MatchError
from eigenbank.schemas.recipe import Site

COMPONENTS = ("unet", "transformer", "transformer_2", "prior", "decoder", "denoiser", "model")
"""The names pipelines give their denoisers, first come first. `prior` and `decoder` count only as denoisers of tokens."""
TIMES = ("timestep", "timesteps", "timestep_ratio", "t", "sigma", "noise_labels")
"""How denoisers call the argument that says how noisy their input is."""


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside what torch.compile or DataParallel put around it."""
    while True:
        inner = module.__dict__.get("_modules", {}).get("_orig_mod")
        if inner is None and isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        if inner is None:
            return module
        module = inner


def is_denoiser(module: Any) -> bool:
    """Whether a module takes noisy tokens and a time, and is no helper of another denoiser."""
    if not isinstance(module, nn.Module):
        return False
    name = type(unwrapped(module)).__name__
    takes_time = bool(set(TIMES) & set(inspect.signature(type(unwrapped(module)).forward).parameters))
    return takes_time and not any(word in name for word in ("ControlNet", "Adapter", "Autoencoder", "Multiplier"))


class Target:
    """A pipeline (`owner`) and its denoisers by name, those that work in turn or after one another included.

    This class knows diffusers' pipelines and any denoiser whose layers are named as diffusers names them.
    """

    def __init__(self, owner: Any, denoisers: Mapping[str, nn.Module]) -> None:
        self.owner = owner
        self.wrappers = dict(denoisers)
        self.denoisers = {name: unwrapped(module) for name, module in denoisers.items()}

    @property
    def kind(self) -> str:
        """What it is, in words: its class's name."""
        return type(self.owner).__name__

    def module(self, denoiser: nn.Module, path: str) -> nn.Module:
        """The denoiser's module that diffusers calls `path`. Raises MatchError where there is none."""
        try:
            return denoiser.get_submodule(path)
        except AttributeError:
            message = (
                f"the pipeline's {type(denoiser).__name__} has no layer {path}: the directions belong to another "
                "architecture, nothing was changed"
            )
            raise MatchError(message) from None

    def parameter(self, denoiser: nn.Module, name: str) -> Tensor:
        """The parameter that diffusers calls `name`, as the checkpoint has it: without adapters, whether on a device or not.

        Raises MatchError where there is none.
        """
        path, _, own = name.rpartition(".")
        try:
            module: nn.Module | None = self.module(denoiser, path) if path else denoiser
        except MatchError:
            module = None
        # An adapter (LoRA) takes the place of a linear layer, and keeps that as its base layer.
        while isinstance(inner := getattr(module, "base_layer", None), nn.Module):
            module = inner
        found = getattr(module, own, None)
        if not isinstance(found, Tensor):
            message = (
                f"the pipeline's {type(denoiser).__name__} has no {name} as described: the directions belong to another "
                "architecture, nothing was changed"
            )
            raise MatchError(message)
        if found.is_meta:
            # Sequential offload keeps the weights elsewhere while the module rests.
            kept = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
            if kept is not None:
                found = kept[own]
        return found.detach()

    def place(self, denoiser: nn.Module, layer: Layer, site: Site) -> HookPoint:
        """Where the tokens of a site are. Raises MatchError where the denoiser has no such layer, or nobody knows."""
        place = layer.sites.get(site) or self.convention(layer, site)
        for path in place.modules:
            self.module(denoiser, path)
        return place

    def convention(self, layer: Layer, site: Site) -> HookPoint:
        """Where the tokens of a site are by diffusers' habits, for sets that do not say. Raises MatchError."""
        if layer.kind == "joint":
            message = (
                f"the set does not say which tokens of {layer.name}'s {site} are the image's and which the text's: nothing "
                "was changed. Build the set again"
            )
            raise MatchError(message)
        inside = layer.norm is not None and layer.norm_inside
        if site == "block-output":
            return HookPoint(modules=(layer.name,), at="output", axis=1 if inside else -1)
        if site == "projection-input" and layer.norm is not None and inside:
            # The norm inside a U-Net's attention module sees (batch, channels, tokens).
            return HookPoint(modules=(layer.norm.module,), at="output", axis=1)
        # The residual stream enters the block around the attention, which is the attention module where the norm is inside.
        module = layer.name if inside or site == "projection-input" else layer.name.rpartition(".")[0]
        return HookPoint(modules=(module,), at="input", argument="hidden_states", axis=1 if inside else -1)

    def guided(self) -> bool | None:
        """Whether the run now going on uses classifier-free guidance; None where the pipeline does not say."""
        try:
            found = getattr(self.owner, "do_classifier_free_guidance", None)
        except AttributeError:  # a property that reads what only a run sets
            return None
        return None if found is None else bool(found)

    def calls_in_turn(self) -> bool:
        """Whether the pipeline calls its denoiser more than once a step, for each half of guidance, told from its code."""
        try:
            code = inspect.getsource(type(self.owner).__call__)
        except (TypeError, OSError, AttributeError):
            return False
        return any(code.count(f"self.{name}(") > 1 for name in self.wrappers if name)


def denoiser_components(owner: Any) -> dict[str, nn.Module]:
    """The denoisers of a pipeline by name: those of the usual names first, then whatever else takes noise and a time."""
    try:
        parts = getattr(owner, "components", None)
    except ValueError:  # diffusers' property, of a pipeline that somebody took a part from
        parts = None
    others = list(parts) if isinstance(parts, Mapping) else []
    names = dict.fromkeys([*COMPONENTS, *others])
    found: dict[str, nn.Module] = {}
    for name in names:
        module = getattr(owner, name, None)
        if isinstance(module, nn.Module) and (name in ("unet", "transformer") or is_denoiser(module)):
            found.setdefault(name, module)
    return found


def arguments_of(denoiser: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a denoiser was called with, by name."""
    names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def computing(denoiser: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device and dtype a denoiser computes in, as far as its parameters tell."""
    for parameter in denoiser.parameters():
        if parameter.is_floating_point() and not parameter.is_meta and parameter.element_size() > 1:
            return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float32
