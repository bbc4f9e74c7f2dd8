"""Inversion: run a photo back to the noise it would be generated from, and generate it again from there."""

import copy
import inspect
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from eigenbank.loaders.inverse_schedulers import scheduler_pair
from eigenbank.loaders.photo import as_pixels
from eigenbank.schemas.errors import SteerError

PROMPTED = ("UNet2DConditionModel", "SD3Transformer2DModel", "FluxTransformer2DModel")
"""Denoisers whose pipelines take `latents` and give them back in the form used here."""


class Drawing:
    """One image: `encode` it, run it `backwards` to its noise, and draw `forwards` from there. Latents are `(1, …)`.

    `pipe` is the copy that draws; a steering attached to it acts on the same denoiser.
    """

    def __init__(self, pipe: Any, steps: int, repeats: int) -> None:
        self.pipe = copy.copy(pipe)
        self.steps = steps
        self.forward, self.inverse = scheduler_pair(pipe.scheduler, repeats)
        trained = self.forward.config.num_train_timesteps
        if "beta_schedule" in self.forward.config and steps > trained:
            message = f"{steps} steps are more than the {trained} the model was trained with: nothing was edited"
            raise SteerError(message)
        self.pipe.scheduler = self.forward
        self.pipe.set_progress_bar_config(disable=True)
        self.device = getattr(pipe, "_execution_device", pipe.device)

    @property
    def latent(self) -> bool:
        """Whether the image goes through an autoencoder, which has losses of its own."""
        raise NotImplementedError

    def size(self, asked: tuple[int, int] | None) -> tuple[int, int]:
        """The (height, width) drawn. Raises SteerError for a size the pipeline cannot draw."""
        raise NotImplementedError

    def encode(self, pixels: Tensor) -> Tensor:
        """`(3, h, w)` in [0, 1] → latents."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Latents → `(3, h, w)` float32 in [0, 1], on the CPU."""
        raise NotImplementedError

    def backwards(self, latents: Tensor) -> Tensor:
        """Latents of an image → latents of the noise it is drawn from."""
        raise NotImplementedError

    def forwards(self, noise: Tensor) -> Tensor:
        """Latents of noise → latents of the image."""
        raise NotImplementedError


class Unconditional(Drawing):
    """Pipelines around a UNet2DModel: pixels, or the latents of a VQ or KL autoencoder."""

    def __init__(self, pipe: Any, steps: int, repeats: int) -> None:
        super().__init__(pipe, steps, repeats)
        self.coder = getattr(pipe, "vqvae", None) or getattr(pipe, "vae", None)

    @property
    def latent(self) -> bool:
        return self.coder is not None

    def size(self, asked: tuple[int, int] | None) -> tuple[int, int]:
        found = self.pipe.unet.config.sample_size
        height, width = (found, found) if isinstance(found, int) else found
        factor = 2 ** (len(self.coder.config.block_out_channels) - 1) if self.coder is not None else 1
        own = (int(height) * factor, int(width) * factor)
        if asked is not None and asked != own:
            message = f"the pipeline draws {own[1]}×{own[0]} and nothing else, {asked[1]}×{asked[0]} was asked for"
            raise SteerError(message)
        return own

    def encode(self, pixels: Tensor) -> Tensor:
        image = (pixels * 2 - 1)[None].to(self.device, self.pipe.unet.dtype)
        if self.coder is None:
            return image
        found = self.coder.encode(image)
        latents = found.latents if hasattr(found, "latents") else found.latent_dist.mode()
        return latents * self.coder.config.scaling_factor  # type: ignore[no-any-return]

    def decode(self, latents: Tensor) -> Tensor:
        image = latents
        if self.coder is not None:
            image = self.coder.decode(latents / self.coder.config.scaling_factor).sample
        return _pixels(image)

    def backwards(self, latents: Tensor) -> Tensor:
        return self._run(latents, self.inverse)

    def forwards(self, noise: Tensor) -> Tensor:
        return self._run(noise, self.forward)

    def _run(self, latents: Tensor, scheduler: Any) -> Tensor:
        scheduler.set_timesteps(self.steps, device=self.device)
        for step in scheduler.timesteps:
            found = self.pipe.unet(latents, step).sample
            # A model that learned its variance gives it behind the prediction.
            found = found[:, : latents.shape[1]] if found.shape[1] == 2 * latents.shape[1] else found
            latents = scheduler.step(found, step, latents).prev_sample
        return latents


class Prompted(Drawing):
    """Latent pipelines that read prompts, driven through their own call: `call` goes to it, for both ways the same."""

    def __init__(self, pipe: Any, steps: int, repeats: int, size: tuple[int, int] | None, call: dict[str, Any]) -> None:
        super().__init__(pipe, steps, repeats)
        parameters = inspect.signature(pipe.__call__).parameters
        if not {"latents", "output_type", "height", "width"} <= set(parameters) or not hasattr(pipe, "vae"):
            message = f"a {type(pipe).__name__} does not take latents for an image of its own: nothing was edited"
            raise SteerError(message)
        if call.get("prompt") is None and call.get("prompt_embeds") is None:
            call = {**call, "prompt": ""}
        height, width = self.size(size)
        self.call = {"guidance_scale": 1.0, **call, "height": height, "width": width, "num_inference_steps": steps}

    @property
    def latent(self) -> bool:
        return True

    def size(self, asked: tuple[int, int] | None) -> tuple[int, int]:
        factor = int(self.pipe.vae_scale_factor)
        if asked is None:
            found = getattr(self.pipe, "default_sample_size", None) or self.pipe.unet.config.sample_size
            height, width = (found, found) if isinstance(found, int) else found
            return int(height) * factor, int(width) * factor
        # Transformers see latents in patches of two.
        unit = factor * (1 if hasattr(self.pipe, "unet") else 2)
        if any(side < unit or side % unit for side in asked):
            message = f"{asked[1]}×{asked[0]} was asked for, and the pipeline draws sides that are multiples of {unit}"
            raise SteerError(message)
        return asked

    def encode(self, pixels: Tensor) -> Tensor:
        vae = self.pipe.vae
        latents = vae.encode((pixels * 2 - 1)[None].to(self.device, vae.dtype)).latent_dist.mode()
        latents = (latents - (getattr(vae.config, "shift_factor", None) or 0.0)) * vae.config.scaling_factor
        if hasattr(self.pipe, "_pack_latents"):
            latents = self.pipe._pack_latents(latents, *latents.shape)
        return latents.to((getattr(self.pipe, "unet", None) or self.pipe.transformer).dtype)  # type: ignore[no-any-return]

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        if hasattr(self.pipe, "_unpack_latents"):
            height, width = self.call["height"], self.call["width"]
            latents = self.pipe._unpack_latents(latents, height, width, self.pipe.vae_scale_factor)
        latents = latents / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0.0)
        return _pixels(vae.decode(latents.to(vae.dtype)).sample)

    def backwards(self, latents: Tensor) -> Tensor:
        return self._run(latents, self.inverse)

    def forwards(self, noise: Tensor) -> Tensor:
        return self._run(noise, self.forward)

    def _run(self, latents: Tensor, scheduler: Any) -> Tensor:
        self.pipe.scheduler = scheduler
        try:
            found: Tensor = self.pipe(**self.call, latents=latents, output_type="latent", return_dict=False)[0]
        finally:
            self.pipe.scheduler = self.forward
        return found


def reversible(
    pipe: Any, steps: int, repeats: int, size: tuple[int, int] | None, call: dict[str, Any]
) -> "Unconditional | Prompted":
    """How to draw with this pipeline. Raises SteerError, naming it, for pipelines that are not known here."""
    for name in ("unet", "transformer"):
        denoiser = getattr(pipe, name, None)
        kind = type(denoiser).__name__
        if kind == "UNet2DModel":
            if call:
                message = f"a {type(pipe).__name__} draws without prompts: {', '.join(sorted(call))} mean nothing to it"
                raise SteerError(message)
            return Unconditional(pipe, steps, repeats)
        if kind in PROMPTED and hasattr(pipe, "scheduler"):
            return Prompted(pipe, steps, repeats, size, dict(call))
    if isinstance(pipe, torch.nn.Module):
        message = "editing a photo needs a pipeline, not a bare denoiser: pass the whole pipeline"
        raise SteerError(message)
    message = (
        f"photos cannot be edited with a {type(pipe).__name__}: its way back to noise is not written. "
        f"Pipelines around a UNet2DModel or {', '.join(PROMPTED)} can. Nothing was edited"
    )
    raise SteerError(message)


def as_size(size: object) -> tuple[int, int]:
    """(height, width) in pixels. Raises SteerError for what is none."""
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        message = f"size={size!r}: expected (height, width) in pixels, as in size=(512, 512). Nothing was edited"
        raise SteerError(message)
    return sides[0], sides[1]


def _pixels(image: Tensor) -> Tensor:
    return (image[0].float().cpu() / 2 + 0.5).clamp(0, 1)


REPEATS = 2
POOR = 0.05
"""A reconstruction off by more than this (root mean square, of a range of 1) is warned about: 26 dB PSNR."""


class Inversion:
    """A photo and the noise it is drawn from, by a copy of the pipeline with a scheduler of its own.

    `original` is `(3, h, w)` float32 in [0, 1]; `notes` says what was done to the photo beforehand. What is attached to
    `pipe` while `draw` runs acts on it.
    """

    def __init__(
        self,
        pipe: Any,
        photo: Any,
        *,
        steps: int,
        repeats: int = REPEATS,
        size: tuple[int, int] | None = None,
        **call: Any,
    ) -> None:
        """Prepare it; nothing runs yet. Arguments as for `edit`. Raises PhotoError and SteerError."""
        if not (isinstance(steps, int) and isinstance(repeats, int)) or steps < 1 or repeats < 0:
            message = f"{steps!r} steps and {repeats!r} repeats: expected whole numbers, at least 1 step and 0 repeats"
            raise SteerError(message)
        self._drawing = reversible(pipe, steps, repeats, size if size is None else as_size(size), call)
        self.pipe = self._drawing.pipe
        self.steps = steps
        self.original, self.notes = as_pixels(photo, self._drawing.size(size))

    @cached_property
    @torch.no_grad()
    def latents(self) -> Tensor:
        """What the pipeline makes of the photo before any noise."""
        return self._drawing.encode(self.original)

    @cached_property
    @torch.no_grad()
    def noise(self) -> Tensor:
        """The latents it was run back to. Nothing may be attached while it is first asked for."""
        return self._drawing.backwards(self.latents)

    @cached_property
    def coded(self) -> Tensor | None:
        """What the autoencoder alone makes of the photo; None for pixel pipelines."""
        return self._decoded(self.latents) if self._drawing.latent else None

    @cached_property
    def reconstruction(self) -> Tensor:
        """The photo drawn again, `(3, h, w)`. Nothing may be attached while it is first asked for."""
        return self.draw()

    @torch.no_grad()
    def draw(self) -> Tensor:
        """Draw from the noise, `(3, h, w)` float32 in [0, 1]. Raises SteerError where the numbers left their range."""
        image = self._decoded(self._drawing.forwards(self.noise))
        if not bool(image.isfinite().all()) or not bool(self.noise.isfinite().all()):
            message = (
                "running the photo back to noise left the numbers' range: nothing was edited. Try more steps, "
                "guidance_scale=1, or float32 (some autoencoders overflow in float16)"
            )
            raise SteerError(message)
        return image

    @torch.no_grad()
    def _decoded(self, latents: Tensor) -> Tensor:
        return self._drawing.decode(latents)

    @property
    def error(self) -> float:
        """Root mean square difference of the round trip from the photo, over all pixels and channels."""
        return rms(self.reconstruction - self.original)

    @property
    def poor(self) -> str | None:
        """What is wrong with the round trip, in words; None when nothing is."""
        return poor(self.error, None if self.coded is None else rms(self.coded - self.original))


def poor(error: float, coding_error: float | None) -> str | None:
    """What is to be said of a round trip that is off by `error`, `coding_error` of it by the autoencoder alone."""
    if error <= POOR:
        return None
    by = f", {coding_error:.3f} of it by the autoencoder alone" if coding_error is not None else ""
    return (
        f"the unedited round trip is off by {error:.3f} (root mean square, of a range of 1{by}): more than "
        f"{POOR:g}, so the edit shows another picture than the photo. More steps or repeats may help"
    )


def rms(difference: Tensor) -> float:
    """Root mean square of all values."""
    return float(difference.double().square().mean().sqrt())
