"""A sweep: one edit at many scales on many seeds, drawn as one batch, looked at as one sheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eigenbank.loaders.asked import name_of
from eigenbank.loaders.pipelines import sample
from eigenbank.loaders.steer import steer
from eigenbank.registry.sets.direction_set import Composite, Direction, DirectionSet
from eigenbank.registry.sliders import read_sliders
from eigenbank.schemas import Sliders
from eigenbank.schemas.errors import SteerError

if TYPE_CHECKING:
    from PIL.Image import Image

SCALES = (-2.0, -1.0, 0.0, 1.0, 2.0)


@dataclass(frozen=True)
class Sweep:
    """The pictures of a sweep: `pixels` is `(seeds, scales, 3, h, w)` in [0, 1]."""

    name: str
    pixels: Tensor
    scales: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def images(self) -> "list[Image]":
        """The pictures, seed by seed, in the order of the scales."""
        from eigenbank.loaders.sheet import to_image

        return [to_image(pixels) for pixels in self.pixels.flatten(0, 1)]

    def sheet(self) -> "Image":
        """A contact sheet: a row per seed, a column per scale, both named."""
        from eigenbank.loaders.sheet import contact_sheet

        columns = [f"{scale:+g}" if scale else "0" for scale in self.scales]
        return contact_sheet(list(self.pixels), [f"seed {seed}" for seed in self.seeds], columns, title=self.name)


def sweep(
    pipe: Any,
    direction: str | Direction | Composite | Sliders | Path,
    scales: Sequence[float] = SCALES,
    *,
    seeds: Sequence[int] = (0,),
    bank: DirectionSet | None = None,
    steps: int | None = None,
    force: bool = False,
    **call: Any,
) -> Sweep:
    """Draw `direction` (a label, an id or a Direction) at every scale for every seed, all in one batch.

    Of sliders, or the path of a sliders file, all act at once, and the scales are factors on theirs.
    `steps` and `call` go to the pipeline. Raises as `steer` does.
    """
    scales, seeds = tuple(scales), tuple(seeds)
    if not scales or not seeds:
        message = f"a sweep over {len(scales)} scales and {len(seeds)} seeds draws nothing: give at least one of each"
        raise SteerError(message)
    per_sample = torch.tensor(scales, dtype=torch.float32).repeat(len(seeds))
    if isinstance(direction, (Sliders, Path)):
        sliders = read_sliders(direction) if isinstance(direction, Path) else direction
        steering = steer(pipe, sliders, bank=bank, force=force)
        for slider in sliders.sliders:
            steering.set_scale(per_sample * slider.scale, slider.key)
        name = name_of(sliders)
    else:
        steering = steer(pipe, {direction: per_sample}, bank=bank, force=force)
        name = direction.id if isinstance(direction, Direction | Composite) else direction
    with steering:
        pixels = sample(pipe, [seed for seed in seeds for _ in scales], steps, **call)
    return Sweep(name, pixels.unflatten(0, (len(seeds), len(scales))), scales, seeds)
