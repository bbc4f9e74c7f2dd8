"""Sweeps: one edit at many scales on many seeds, shown as one grid. Previews are made so too."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eigenbank.loaders.drawing import as_drawing, drawn_prompts, own_steps
from eigenbank.loaders.lookup import edit_name
from eigenbank.loaders.memory import batch_size, in_batches
from eigenbank.loaders.sample import sample
from eigenbank.loaders.steer import steer
from eigenbank.registry.sets.direction_set import DirectionSet, Slider
from eigenbank.registry.sets.folder import MAX_PREVIEW_SIDE
from eigenbank.registry.sliders import read_sliders
from eigenbank.schemas import Preview, Sliders
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import SetError, SteerError

if TYPE_CHECKING:
    from PIL.Image import Image

SCALES = (-2.0, -1.0, 0.0, 1.0, 2.0)
PREVIEW_SCALES = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
PREVIEW_CELL = 128
"""Largest side of one image in a preview; larger ones are reduced to it, or to what so many images leave room for."""
LEAST_CELL = 16


@dataclass(frozen=True)
class Sweep:
    """The images of a sweep: `pixels` is `(seeds, scales, 3, h, w)` in [0, 1]."""

    name: str
    pixels: Tensor
    scales: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def images(self) -> "list[Image]":
        """The images, seed by seed, in the order of the scales."""
        from eigenbank.loaders.image_grid import to_image

        return [to_image(pixels) for pixels in self.pixels.flatten(0, 1)]

    def grid(self) -> "Image":
        """Draw all images as one grid: a row per seed, a column per scale, both named."""
        from eigenbank.loaders.image_grid import image_grid

        columns = [f"{scale:+g}" if scale else "0" for scale in self.scales]
        return image_grid(list(self.pixels), [f"seed {seed}" for seed in self.seeds], columns, title=self.name)


def sweep(
    pipe: Any,
    direction: str | Slider | Sliders | Path,
    scales: Sequence[float] = SCALES,
    *,
    seeds: Sequence[int] = (0,),
    bank: DirectionSet | None = None,
    steps: int | None = None,
    force: bool = False,
    drawing: Drawing | None = None,
    drawn: Callable[[int], None] = lambda _count: None,
    **call: Any,
) -> Sweep:
    """Generate images with `direction` (a label, an id, a Direction, Composite or Lora) at every scale for every seed.

    Of sliders, or the path of a sliders file, all act at once, and the scales multiply theirs. `call` is `prompt` (of
    several, the seeds take one each in turn), `negative_prompt`, `guidance_scale`, `size` and whatever else the
    pipeline takes. `drawn` is called with the number of each batch's images. Raises as `steer` does, and DrawingError for what the pipeline lacks, or cannot take.
    """
    scales, seeds = tuple(scales), tuple(seeds)
    if not scales or not seeds:
        message = f"a sweep over {len(scales)} scales and {len(seeds)} seeds has no image: give at least one of each"
        raise SteerError(message)
    if isinstance(direction, Path):
        direction = read_sliders(direction)
    whole = drawn_prompts(as_drawing(drawing, call), len(seeds))

    steering = steer(pipe, direction if isinstance(direction, Sliders) else {direction: 1.0}, bank=bank, force=force)
    steering.check_guided(whole, call)
    if isinstance(direction, Sliders):
        own = {each.key: each.scale for each in direction.sliders}
    else:
        own = {direction if isinstance(direction, str) else direction.id: 1.0}
    jobs = [(number, column) for number in range(len(seeds)) for column in range(len(scales))]
    # A LoRA has one scale for all samples of a batch.
    groups = [[job for job in jobs if job[1] == column] for column in range(len(scales))] if steering.loras else [jobs]

    def generate(part: Sequence[tuple[int, int]]) -> Tensor:
        numbers = [number for number, _ in part]
        per_sample = torch.tensor([scales[column] for _, column in part])
        for key, scale in own.items():
            steering.set_scale(scale * (float(per_sample[0]) if steering.loras else per_sample), key)
        with steering:
            return sample(pipe, [seeds[number] for number in numbers], steps, drawing=whole.part(numbers), **call)

    made: dict[tuple[int, int], Tensor] = {}
    for group in groups:
        for part, images in in_batches(group, batch_size(pipe, drawing=whole, **call), generate):
            made |= zip(part, images, strict=True)
            drawn(len(part))
    pixels = torch.stack([made[job] for job in jobs]).unflatten(0, (len(seeds), len(scales)))
    named = edit_name(direction) if isinstance(direction, Sliders) else getattr(direction, "id", direction)
    return Sweep(str(named), pixels, scales, seeds)


def generate_preview(
    pipe: Any,
    direction: Slider,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    scales: Sequence[float] = PREVIEW_SCALES,
    steps: int | None = None,
    drawing: Drawing | None = None,
    drawn: Callable[[int], None] = lambda _count: None,
    **call: Any,
) -> tuple[Preview, bytes]:
    """Generate a direction's preview. Returns how it was made, and the grid as a WebP image.

    A row per seed, a column per scale, such that a positive scale is more of the direction's first label, if it has one.
    `drawn` and `call` as for `sweep`. Raises as `sweep` does, and SetError for more images than a grid of 4,096 pixels a side has room for.
    """
    from eigenbank.loaders.image_grid import to_image

    rows, columns = len(seeds), len(scales)
    room = MAX_PREVIEW_SIDE // max(rows, columns, 1)
    if room < LEAST_CELL:
        message = f"a preview of {rows} seeds and {columns} scales is larger than {MAX_PREVIEW_SIDE} pixels a side: take fewer"
        raise SetError(message)
    sign = direction.labels[0].polarity if direction.labels else 1
    stored = [float(sign * scale) for scale in scales]
    drawing = as_drawing(drawing, call, steps=steps)
    pixels = sweep(pipe, direction, stored, seeds=seeds, drawing=drawing, drawn=drawn, **call).pixels
    longest = max(pixels.shape[-2:])
    # A video's frames lie side by side.
    cell = min(room, PREVIEW_CELL * (2 if pixels.shape[-1] > 2 * pixels.shape[-2] else 1))
    if longest > cell:
        flat = nn.functional.interpolate(
            pixels.flatten(0, 1), scale_factor=cell / longest, mode="bilinear", antialias=True
        )
        pixels = flat.unflatten(0, pixels.shape[:2])
    height, width = pixels.shape[-2:]
    grid = pixels.permute(2, 0, 3, 1, 4).reshape(3, rows * height, columns * width)
    file = io.BytesIO()
    # Small pictures are kept exactly: at 32 pixels a side, what compression loses can be seen.
    to_image(grid).save(file, format="WEBP", lossless=longest <= PREVIEW_CELL // 2, quality=88, method=6)
    how = Preview(seeds=tuple(seeds), scales=tuple(stored), steps=drawing.steps or own_steps(pipe) or 1)
    return how, file.getvalue()
