"""Calibrate token lengths: measure how long a typical token is at the sites where no norm's weights tell it."""

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

from eigenbank.loaders.denoiser_calls import DenoiserCall, DenoiserCallWatcher
from eigenbank.loaders.hooks import ProbeHook, attach, detach
from eigenbank.loaders.plugins import target_of
from eigenbank.loaders.sample import sample
from eigenbank.registry.sets.direction_set import Direction, DirectionSet
from eigenbank.schemas import Layer, TokenLength
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import EigenbankError, SteerError
from eigenbank.schemas.recipe import Site

SEEDS = tuple(range(1_000_000, 1_000_008))
STEPS = 10


def token_lengths(pipe: Any, directions: Sequence[tuple[Direction, Site]]) -> list[float]:
    """Return the token length at each direction's site: from its set, else measured on the pipeline now.

    Raises SteerError when it must be measured and `pipe` is a bare module, which cannot be run.
    """
    layers = [direction.bank.layers[direction.layer] for direction, _ in directions]
    wanted = {
        (layer.name, site): layer
        for layer, (_, site) in zip(layers, directions, strict=True)
        if site not in layer.lengths
    }
    measured = measure_token_lengths(pipe, [(layer, site) for (_, site), layer in wanted.items()]) if wanted else {}
    return [
        (layer.lengths.get(site) or measured[layer.name, site]).length
        for layer, (_, site) in zip(layers, directions, strict=True)
    ]


def calibrate(pipe: Any, bank: DirectionSet) -> DirectionSet:
    """Return the set with the token length of every site its recipes use, measuring those it lacks."""
    sites = {(record.layer, record.recipe.site) for record in bank.manifest.directions}
    missing = sorted((name, site) for name, site in sites if site not in bank.layers[name].lengths)
    if not missing:
        return bank
    measured = measure_token_lengths(pipe, [(bank.layers[name], site) for name, site in missing])
    layers = tuple(
        layer.model_copy(
            update={
                "lengths": {
                    **layer.lengths,
                    **{site: found for (name, site), found in measured.items() if name == layer.name},
                }
            }
        )
        for layer in bank.manifest.layers
    )
    return bank.replaced(bank.manifest.model_copy(update={"layers": layers}))


def measure_token_lengths(pipe: Any, sites: Sequence[tuple[Layer, Site]]) -> dict[tuple[str, Site], TokenLength]:
    """Measure token lengths in one run of 8 fixed seeds and 10 steps. Raises SteerError where the pipeline cannot run."""
    target = target_of(pipe)
    if isinstance(target.owner, nn.Module):
        names = ", ".join(f"{layer.name} {site}" for layer, site in sites)
        message = f"the token length at {names} is not in the set, and a bare denoiser cannot be run: pass the pipeline"
        raise SteerError(message)
    probes: dict[tuple[str, Site], ProbeHook] = {}
    name, denoiser = next(iter(target.denoisers.items()))
    with contextlib.ExitStack() as stack:
        for layer, site in sites:
            point = target.hook_point(denoiser, layer, site)
            # Several modules of one site read the same tokens: one is enough.
            module, probe = target.module(denoiser, point.modules[0]), ProbeHook(point)
            hook_name = f"eigenbank-probe/{site}/{layer.name}"
            attach(module, probe, hook_name)
            stack.callback(detach, module, hook_name)
            probes[layer.name, site] = probe

        def count(call: DenoiserCall) -> None:
            for probe in probes.values():
                if probe.point.count is not None:
                    probe.tokens = call.count(probe.point.count)

        if any(probe.point.count is not None for probe in probes.values()):
            watch = DenoiserCallWatcher(target, name, "eigenbank-probe/call", count)
            stack.callback(watch.remove)
            watch.attach()
        _run(target.owner, sites)
    return {key: TokenLength(length=probe.length, source="calibration") for key, probe in probes.items()}


def _run(owner: Any, sites: Sequence[tuple[Layer, Site]]) -> None:
    """Run a pipeline shortly, with an empty prompt where it takes one. Raises SteerError where that fails."""
    asks = "prompt" in inspect.signature(owner.__call__).parameters
    try:
        sample(owner, SEEDS, STEPS, drawing=Drawing(prompts=("",) if asks else ()))
    except EigenbankError:
        raise
    except Exception as error:  # whatever a pipeline raises that misses an argument or a component
        names = ", ".join(f"{layer.name} {site}" for layer, site in sites)
        message = (
            f"the token length at {names} is not in the set, and a {type(owner).__name__} cannot be run to measure it ({error}): "
            "nothing was changed. Use a recipe or site whose length the set has, or a set that was calibrated"
        )
        raise SteerError(message) from error
