"""Measure how long a typical token is at the sites of a set: for what must be a constant, fused and exported edits, and in the
residual stream, to tell which directions act at all (`Direction.reach`).

Steering needs none of this: it measures the tokens of every pass as they come.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from eigenbank.loaders.drawing import arguments, as_drawing, parameters_of
from eigenbank.loaders.hooks import SiteHook, TokenCounter, put_on
from eigenbank.loaders.pictures import any_dtype
from eigenbank.loaders.plugins import target_of
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas import HookPoint, TokenCount, TokenLength
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import MatchError, SteerError
from eigenbank.schemas.recipe import Site

SEEDS = (1_000_000, 1_000_001)
"""Two are enough: the length of a layer's tokens hardly depends on the picture."""


class LengthProbe(SiteHook):
    """Measures the root mean square length of all the image tokens that pass a site, without changing them."""

    def __init__(self, point: HookPoint) -> None:
        super().__init__(point)
        self.counter: TokenCounter | None = None
        self.square = 0.0
        self.seen = 0

    @property
    def length(self) -> float:
        """Root mean square of the Euclidean norm of the tokens seen."""
        return float((self.square / max(1, self.seen)) ** 0.5)

    def resting(self) -> bool:
        """Never: there is always something to measure."""
        return False

    def image_tokens(self) -> int | None:
        """Return how many of the tokens are the image's."""
        return None if self.counter is None else self.counter.tokens

    def image(self, hidden: Tensor) -> Tensor:
        """Measure the tokens."""
        self.square += float(hidden.double().square().sum())
        self.seen += hidden.numel() // hidden.shape[self.point.axis]
        return hidden


@contextlib.contextmanager
def _probed(pipe: Any, bank: DirectionSet) -> Iterator[dict[tuple[str, Site], LengthProbe]]:
    """Inside, probes are on a pipeline, at the layers and sites that the set needs and lacks token lengths for."""
    target, probes = target_of(pipe), dict[tuple[str, Site], LengthProbe]()
    with contextlib.ExitStack() as stack:
        for name, denoiser in target.denoisers.items():
            counters: dict[TokenCount, TokenCounter] = {}
            for layer_name, site in sorted(_lacking(bank)):
                layer = bank.layers[layer_name]
                if (layer_name, site) in probes or not layer.may_be_of(name):
                    continue
                with contextlib.suppress(MatchError):  # another denoiser has that layer, or none has
                    point = target.hook_point(denoiser, layer, site)
                    probe = LengthProbe(point)
                    # Several modules of one site read the same tokens: one is enough.
                    stack.callback(put_on(target.module(denoiser, point.modules[0]), probe))
                    if point.count is not None:
                        probe.counter = counters.get(point.count) or TokenCounter(point.count)
                        if point.count not in counters:
                            stack.callback(put_on(target.module(denoiser, point.count.module), probe.counter))
                        counters[point.count] = probe.counter
                    probes[layer_name, site] = probe
        yield probes


def _lacking(bank: DirectionSet) -> set[tuple[str, Site]]:
    """Layers and sites that a set has no token length for: those its recipes use, and the residual stream, where that can be read."""
    used = {(each.layer, each.recipe.site) for each in bank.manifest.directions}
    streams: set[tuple[str, Site]] = {(name, "block-input") for name, _ in used}
    readable = {(name, site) for name, site in streams if bank.layers[name].can_steer(site)}
    return {(name, site) for name, site in used | readable if site not in bank.layers[name].lengths}


def lacks_lengths(directions: DirectionSet) -> bool:
    """Whether a set lacks the token length of a site that its recipes use, or of the residual stream."""
    return bool(_lacking(directions))


def measure(
    pipe: Any, directions: DirectionSet, *, steps: int | None = None, drawing: Drawing | None = None, **call: Any
) -> DirectionSet:
    """Return the set with the typical token length of every site its recipes use, for `export` and `steer(fuse=True)`, and of the
    residual stream, for `Direction.reach`.

    Runs the pipeline with two seeds, undecoded, for those that the set lacks, and not at all where it has all. `drawing`
    says how to generate; `prompt`, `negative_prompt`, `guidance_scale` and `size` may be given by name, and further arguments
    go to the pipeline. Raises SteerError, and DrawingError for a missing prompt.
    """
    if not lacks_lengths(directions):
        return directions
    if isinstance(pipe, nn.Module):
        message = "token lengths are measured while a pipeline runs: pass the whole pipeline, not a bare denoiser"
        raise SteerError(message)
    drawing = as_drawing(drawing, call, steps=steps)
    if "output_type" in parameters_of(pipe) and getattr(pipe, "vae", None) is not None:
        call["output_type"] = "latent"
    with _probed(pipe, directions) as probes, any_dtype(pipe):
        for seed in SEEDS:
            given = arguments(pipe, drawing.part([seed]), [seed], call)
            pipe(generator=torch.Generator().manual_seed(seed), **given)
    lengths = {layer.name: dict(layer.lengths) for layer in directions.manifest.layers}
    for (name, site), probe in probes.items():
        if probe.length > 0:
            lengths[name][site] = TokenLength(length=probe.length, source="calibration")
    layers = [layer.model_copy(update={"lengths": lengths[layer.name]}) for layer in directions.manifest.layers]
    return directions.replaced(directions.manifest.model_copy(update={"layers": tuple(layers)}))
