"""Generate pictures by seed with any pipeline."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eigenbank.loaders.drawing import arguments, as_drawing
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import SteerError


def sample(
    pipe: Any, seeds: Sequence[int], steps: int | None = None, *, drawing: Drawing | None = None, **call: Any
) -> Tensor:
    """Generate one image per seed in one batch: `(n, 3, h, w)` float32 in [0, 1], on the CPU.

    `call` are `prompt` (or several, which consecutive seeds take in turn), `negative_prompt`, `guidance_scale` and `size`,
    which come before those of `drawing`, and whatever else the pipeline takes. What is not given is the pipeline's own.

    A sample's noise depends on its seed alone, not on its position in the batch; so does its prompt, and its class where the
    pipeline asks for one and `call` names none. Raises SteerError, DrawingError for what the pipeline lacks or cannot take.
    """
    if isinstance(pipe, nn.Module):
        message = "generating images needs a pipeline, not a bare denoiser: pass the whole pipeline"
        raise SteerError(message)
    if not seeds or (steps is not None and steps < 1):
        message = f"{len(seeds)} seeds and {steps} steps: expected at least one of each"
        raise SteerError(message)
    drawing = as_drawing(drawing, call, steps=steps)
    call = arguments(pipe, drawing, seeds, call)
    if getattr(pipe, "dtype", None) is torch.bfloat16 and not hasattr(pipe, "vae"):
        # Pixel pipelines hand images out through NumPy, which has no bfloat16.
        message = "diffusers cannot return images of a bfloat16 pixel pipeline: load it in float16 or float32"
        raise SteerError(message)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    images = pipe(generator=generators, output_type="np", **call).images
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous()
