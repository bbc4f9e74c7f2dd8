"""How long a typical token is where no norm's weights tell it: measured once, in one short run."""

import contextlib
from collections.abc import Sequence
from typing import Any

from eigenbank.loaders.hooks import ProbeHook, attach, detach, site_of
from eigenbank.loaders.pipelines import denoiser_of, sample
from eigenbank.registry.bank import Bank, Direction
from eigenbank.schemas import Layer, TokenLength
from eigenbank.schemas.errors import SteerError
from eigenbank.schemas.recipe import Site

SEEDS = tuple(range(1_000_000, 1_000_008))
STEPS = 10


def token_lengths(pipe: Any, directions: Sequence[Direction]) -> list[float]:
    """The token length at each direction's site: from its bank, else measured on the pipeline now.

    Raises SteerError when it must be measured and `pipe` is a bare module, which cannot be run.
    """
    wanted = {
        (direction.layer, direction.recipe.site): direction.bank.layers[direction.layer]
        for direction in directions
        if direction.recipe.site not in direction.bank.layers[direction.layer].lengths
    }
    measured = measure(pipe, [(layer, site) for (_, site), layer in wanted.items()]) if wanted else {}
    return [
        (
            direction.bank.layers[direction.layer].lengths.get(direction.recipe.site)
            or measured[direction.layer, direction.recipe.site]
        ).length
        for direction in directions
    ]


def calibrate(pipe: Any, bank: Bank) -> Bank:
    """The bank with the token length of every site its recipes use; those the norm's weights tell are left as they are."""
    sites = {(record.layer, record.recipe.site) for record in bank.manifest.directions}
    missing = sorted((name, site) for name, site in sites if site not in bank.layers[name].lengths)
    if not missing:
        return bank
    measured = measure(pipe, [(bank.layers[name], site) for name, site in missing])
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


def measure(pipe: Any, sites: Sequence[tuple[Layer, Site]]) -> dict[tuple[str, Site], TokenLength]:
    """Token lengths over one run of 8 fixed seeds and 10 steps."""
    denoiser = denoiser_of(pipe)
    if pipe is denoiser:
        names = ", ".join(f"{layer.name} {site}" for layer, site in sites)
        message = f"the token length at {names} is not in the set, and a bare denoiser cannot be run: pass the pipeline"
        raise SteerError(message)
    probes: dict[tuple[str, Site], ProbeHook] = {}
    with contextlib.ExitStack() as stack:
        for layer, site in sites:
            module, at, axis = site_of(denoiser, layer, site)
            probe = ProbeHook(at, axis)
            attach(module, probe, f"eigenbank-probe/{site}")
            stack.callback(detach, module, f"eigenbank-probe/{site}")
            probes[layer.name, site] = probe
        sample(pipe, SEEDS, STEPS)
    return {key: TokenLength(length=probe.length, source="calibration") for key, probe in probes.items()}
