"""Generate pictures by seed with any pipeline."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eigenbank.loaders.drawing import arguments, as_drawing
from eigenbank.loaders.memory import batch_size, in_batches, split_decoding
from eigenbank.loaders.pictures import NO_SAFETY_CHECKER, Pictures, generate
from eigenbank.progress import log_warning
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import SteerError


def sample(
    pipe: Any, seeds: Sequence[int], steps: int | None = None, *, drawing: Drawing | None = None, **call: Any
) -> Tensor:
    """Generate one image per seed in one batch: `(n, 3, h, w)` float32 in [0, 1], on the CPU.

    Of a video the first, the middle and the last frame are an image together, side by side.

    `call` are `prompt` (or several, which the seeds take in turn), `negative_prompt`, `guidance_scale` and `size`,
    which come before those of `drawing`, and whatever else the pipeline takes. What is not given is the pipeline's own.

    A sample's noise depends on its seed alone, not on its position in the batch; so does its class where the pipeline asks
    for one and `call` names none. Raises SteerError, DrawingError for what the pipeline lacks or cannot take.
    """
    pictures = sample_pictures(pipe, seeds, steps, drawing=drawing, **call)
    if any(pictures.withheld):
        log_warning(
            f"the safety checker blacked out {sum(pictures.withheld)} of {len(seeds)} pictures. {NO_SAFETY_CHECKER}"
        )
    return pictures.sheets


def sample_in_batches(
    pipe: Any,
    seeds: Sequence[int],
    steps: int | None = None,
    *,
    drawing: Drawing | None = None,
    drawn: Callable[[int], None] = lambda _count: None,
    **call: Any,
) -> Tensor:
    """Generate as `sample` does, as many at once as the memory holds. Not for edits with a scale for each sample.

    `drawn` is called with the number of each batch's images.
    """
    whole, made = as_drawing(drawing, call), []

    def generate_part(part: Sequence[int]) -> Tensor:
        return sample(pipe, [seeds[number] for number in part], steps, drawing=whole.part(part), **call)

    batch = batch_size(pipe, drawing=whole, **call)
    for part, images in in_batches(range(len(seeds)), batch, generate_part):
        made.append(images)
        drawn(len(part))
    return torch.cat(made)


def sample_pictures(
    pipe: Any, seeds: Sequence[int], steps: int | None = None, *, drawing: Drawing | None = None, **call: Any
) -> Pictures:
    """Generate as `sample` does, with a video's frames apart, and what a safety checker withheld."""
    if isinstance(pipe, nn.Module):
        message = "generating images needs a pipeline, not a bare denoiser: pass the whole pipeline"
        raise SteerError(message)
    if not seeds or (steps is not None and steps < 1):
        message = f"{len(seeds)} seeds and {steps} steps: expected at least one of each"
        raise SteerError(message)
    drawing = as_drawing(drawing, call, steps=steps)
    call = arguments(pipe, drawing, seeds, call)
    call["generator"] = [torch.Generator().manual_seed(seed) for seed in seeds]
    with split_decoding(pipe):
        return generate(pipe, len(seeds), call)
