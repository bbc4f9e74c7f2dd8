"""Generate pictures by seed with any pipeline."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eigenbank.loaders.pipelines import denoiser_of
from eigenbank.schemas.errors import SteerError


def sample(pipe: Any, seeds: Sequence[int], steps: int | None = None, **call: Any) -> Tensor:
    """Generate one image per seed in one batch: `(n, 3, h, w)` float32 in [0, 1], on the CPU.

    A sample's noise depends on its seed alone, not on its position in the batch; so does its class where the pipeline asks
    for one and `call`, which goes to the pipeline, names none. Raises SteerError.
    """
    if isinstance(pipe, nn.Module):
        message = "generating images needs a pipeline, not a bare denoiser: pass the whole pipeline"
        raise SteerError(message)
    parameters = inspect.signature(pipe.__call__).parameters
    if steps is not None:
        call["num_inference_steps"] = steps
    if "class_labels" in parameters and "batch_size" not in parameters:
        denoiser: Any = denoiser_of(pipe)
        classes = denoiser.config.num_embeds_ada_norm
        call.setdefault("class_labels", [seed % classes for seed in seeds])
        if classes == 1:  # nothing to be guided away from
            call.setdefault("guidance_scale", 1.0)
    else:
        call.setdefault("batch_size" if "batch_size" in parameters else "num_images_per_prompt", len(seeds))
    if not seeds or (steps is not None and steps < 1):
        message = f"{len(seeds)} seeds and {steps} steps: expected at least one of each"
        raise SteerError(message)
    if getattr(pipe, "dtype", None) is torch.bfloat16:
        # Pipelines hand images out through NumPy, which has no bfloat16.
        message = "diffusers cannot return images of a bfloat16 pixel pipeline: load it in float16 or float32"
        raise SteerError(message)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    images = pipe(generator=generators, output_type="np", **call).images
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous()
