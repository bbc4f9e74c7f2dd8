"""What is steered: a pipeline or a bare denoiser, as the rest of the loaders sees it.

A plugin for pipelines of another kind makes a `Target` of its own, overriding what differs there (see `plugins.py`).
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eigenbank.diffusers_compat import calls_in_turn, compiled_from, offloaded_weight
from eigenbank.schemas import HookPoint, Layer
from eigenbank.schemas.errors import MatchError
from eigenbank.schemas.recipe import Site

COMPONENTS = ("unet", "transformer", "transformer_2", "prior", "decoder", "denoiser", "model")
"""The names pipelines give their denoisers, in order of preference. `prior` and `decoder` count only as denoisers of tokens."""
TIMES = ("timestep", "timesteps", "timestep_ratio", "t", "sigma", "noise_labels")
"""How denoisers call the argument that says how noisy their input is."""


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside the wrappers of torch.compile and DataParallel."""
    while True:
        inner = compiled_from(module)
        if inner is None and isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        if inner is None:
            return module
        module = inner


def without_adapters(module: nn.Module | None) -> nn.Module | None:
    """Return the layer inside the adapters (LoRA) that took its place: each keeps it as its `base_layer`."""
    while isinstance(inner := getattr(module, "base_layer", None), nn.Module):
        module = inner
    return module


def is_denoiser(module: Any) -> bool:
    """Whether a module takes noisy tokens and a time, and is no helper of another denoiser."""
    if not isinstance(module, nn.Module):
        return False
    name = type(unwrapped(module)).__name__
    takes_time = bool(set(TIMES) & set(inspect.signature(type(unwrapped(module)).forward).parameters))
    return takes_time and not any(word in name for word in ("ControlNet", "Adapter", "Autoencoder", "Multiplier"))


class Target:
    """A pipeline (`owner`) and its denoisers by name, including those that take turns or follow one another.

    This class handles diffusers' pipelines and any denoiser whose layers are named as diffusers names them.
    """

    def __init__(self, owner: Any, denoisers: Mapping[str, nn.Module]) -> None:
        self.owner = owner
        self.wrappers = dict(denoisers)
        self.denoisers = {name: unwrapped(module) for name, module in denoisers.items()}

    @property
    def kind(self) -> str:
        """The name of its class."""
        return type(self.owner).__name__

    def module(self, denoiser: nn.Module, path: str) -> nn.Module:
        """Return the denoiser's module that diffusers calls `path`. Raises MatchError where there is none."""
        try:
            return denoiser.get_submodule(path)
        except AttributeError:
            message = (
                f"the pipeline's {type(denoiser).__name__} has no layer {path}: the directions belong to another "
                "architecture, nothing was changed"
            )
            raise MatchError(message) from None

    def parameter(self, denoiser: nn.Module, name: str) -> Tensor:
        """Return the parameter that diffusers calls `name`, as the checkpoint has it: without adapters, offloaded or not.

        Raises MatchError where there is none.
        """
        path, _, own = name.rpartition(".")
        try:
            module = self.module(denoiser, path) if path else denoiser
        except MatchError:
            module = None
        module = without_adapters(module)
        found = getattr(module, own, None)
        if module is None or not isinstance(found, Tensor):
            message = (
                f"the pipeline's {type(denoiser).__name__} has no {name} as described: the directions belong to another "
                "architecture, nothing was changed"
            )
            raise MatchError(message)
        if found.is_meta:
            kept = offloaded_weight(module, own)
            found = found if kept is None else kept
        return found.detach()

    def hook_point(self, denoiser: nn.Module, layer: Layer, site: Site) -> HookPoint:
        """Return where the tokens of a site are. Raises MatchError where the denoiser lacks the layer, or it is unknown."""
        point = layer.sites.get(site) or self.convention(layer, site)
        for path in point.modules:
            self.module(denoiser, path)
        return point

    def convention(self, layer: Layer, site: Site) -> HookPoint:
        """Return where diffusers usually has the tokens of a site, for sets that do not say. Raises MatchError."""
        if not layer.can_steer(site):
            message = (
                f"the set does not say where the image's tokens are at {layer.name}'s {site}: nothing was changed. Use another "
                f"site ({', '.join(sorted(layer.sites)) or 'none of this layer is known'})"
            )
            raise MatchError(message)
        inside = layer.norm is not None and layer.norm_inside
        if site == "block-output":
            return HookPoint(modules=(layer.path,), at="output", axis=1 if inside else -1)
        if site == "projection-input" and layer.norm is not None and inside:
            # The norm inside a U-Net's attention module sees (batch, channels, tokens).
            return HookPoint(modules=(layer.norm.module,), at="output", axis=1)
        # The residual stream enters the block around the attention, which is the attention module where the norm is inside.
        module = layer.path if inside or site == "projection-input" else layer.path.rpartition(".")[0]
        return HookPoint(modules=(module,), at="input", argument="hidden_states", axis=1 if inside else -1)

    def guided(self) -> bool | None:
        """Whether the run now going on uses classifier-free guidance; None where the pipeline does not say."""
        try:
            found = getattr(self.owner, "do_classifier_free_guidance", None)
        except AttributeError:  # a property that reads what only a run sets
            return None
        return None if found is None else bool(found)

    def calls_in_turn(self) -> bool:
        """Whether the pipeline calls its denoiser more than once a step, for each branch of guidance."""
        return calls_in_turn(self.owner, self.wrappers)


def denoiser_components(owner: Any) -> dict[str, nn.Module]:
    """Return the denoisers of a pipeline by name: those of the usual names first, then whatever else takes noise and a time."""
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
    """Return the arguments of a denoiser's call by name."""
    names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def device_and_dtype(denoiser: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and dtype a denoiser computes in, as far as its parameters tell."""
    for parameter in denoiser.parameters():
        if parameter.is_floating_point() and not parameter.is_meta and parameter.element_size() > 1:
            return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float32
