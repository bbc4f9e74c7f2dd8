"""Edit a photo: run it back to the noise it would be generated from, and generate it again with directions added.

A `ReversiblePipeline` works on a copy of the pipeline with a scheduler of its own, so that the user's pipeline is left as
it is; an `Inversion` is a photo in such a pipeline.
"""

import copy
import inspect
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eigenbank.diffusers_compat import execution_device, packed_latents, unpacked_latents
from eigenbank.loaders.drawing import DrawingCost, as_drawing, check_drawing, cost, parameters_of, part_of
from eigenbank.loaders.inverse_schedulers import scheduler_pair
from eigenbank.loaders.lookup import edit_name, parse_edits
from eigenbank.loaders.photo import as_pixels
from eigenbank.loaders.steer import steer
from eigenbank.loaders.target import unwrapped
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import DrawingError, SteerError, explaining

if TYPE_CHECKING:
    from PIL.Image import Image

    from eigenbank.loaders.lookup import Edits

STEPS = 50
PROMPTED = ("UNet2DConditionModel", "SD3Transformer2DModel", "FluxTransformer2DModel")
"""Denoisers whose pipelines take `latents` and return them in the form used here."""
REPEATS = 2
POOR = 0.05
"""A reconstruction off by more than this (root mean square, of a range of 1) is warned about: 26 dB PSNR."""


class ReversiblePipeline:
    """A pipeline that encodes an image, runs it to its noise (`inverse`), and back (`forward`). Latents are `(1, …)`.

    `pipe` is the copy that runs; a steering attached to it acts on the same denoiser. `coder` is its autoencoder, which has
    losses of its own; None for pixel pipelines. `channels` is how many its pictures have, 1 or 3.
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
        self.device = execution_device(pipe)
        self.coder = part_of(pipe, "vqvae", "vae")
        self.channels = getattr((pipe.unet if self.coder is None else self.coder).config, "in_channels", 3)
        if self.channels not in (1, 3):
            message = f"a {type(pipe).__name__} makes {self.channels} channels, no picture: nothing was edited"
            raise SteerError(message)

    def size(self, asked: tuple[int, int] | None) -> tuple[int, int]:
        """Return the (height, width) generated. Raises SteerError for a size the pipeline cannot generate."""
        raise NotImplementedError

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode `(3, h, w)` in [0, 1] into latents."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents into `(3, h, w)` float32 in [0, 1], on the CPU."""
        raise NotImplementedError

    def integrate(self, latents: Tensor, scheduler: Any) -> Tensor:
        """Run the latents of an image back to those of its noise by `inverse`, or of noise to the image by `forward`."""
        raise NotImplementedError


class UnconditionalPipeline(ReversiblePipeline):
    """Pipelines around a UNet2DModel: pixels, or the latents of a VQ or KL autoencoder."""

    def size(self, asked: tuple[int, int] | None) -> tuple[int, int]:
        found = self.pipe.unet.config.sample_size
        height, width = (found, found) if isinstance(found, int) else found
        factor = 2 ** (len(self.coder.config.block_out_channels) - 1) if self.coder is not None else 1
        own = (int(height) * factor, int(width) * factor)
        if asked is not None and asked != own:
            message = (
                f"the pipeline generates {own[1]}×{own[0]} and nothing else, {asked[1]}×{asked[0]} was asked for: "
                "nothing was edited"
            )
            raise SteerError(message)
        return own

    def encode(self, pixels: Tensor) -> Tensor:
        image = (pixels * 2 - 1)[None, : self.channels].to(self.device, self.pipe.unet.dtype)
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

    def integrate(self, latents: Tensor, scheduler: Any) -> Tensor:
        scheduler.set_timesteps(self.steps, device=self.device)
        for step in scheduler.timesteps:
            found = self.pipe.unet(latents, step).sample
            # A model that learned its variance gives it behind the prediction.
            found = found[:, : latents.shape[1]] if found.shape[1] == 2 * latents.shape[1] else found
            latents = scheduler.step(found, step, latents).prev_sample
        return latents


class PromptedPipeline(ReversiblePipeline):
    """Latent pipelines that read prompts, run through their own call: `call` goes to it, both ways the same."""

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

    def size(self, asked: tuple[int, int] | None) -> tuple[int, int]:
        factor = int(self.pipe.vae_scale_factor)
        if asked is None:
            found = getattr(self.pipe, "default_sample_size", None) or self.pipe.unet.config.sample_size
            height, width = (found, found) if isinstance(found, int) else found
            return int(height) * factor, int(width) * factor
        # Transformers see latents in patches of two.
        unit = factor * (1 if hasattr(self.pipe, "unet") else 2)
        if any(side < unit or side % unit for side in asked):
            message = (
                f"{asked[1]}×{asked[0]} was asked for, and the pipeline generates sides that are multiples of {unit}: "
                "nothing was edited"
            )
            raise SteerError(message)
        return asked

    def encode(self, pixels: Tensor) -> Tensor:
        vae = self.pipe.vae
        image = (pixels * 2 - 1)[None, : self.channels].to(self.device, vae.dtype)
        latents = vae.encode(image).latent_dist.mode()
        latents = (latents - (getattr(vae.config, "shift_factor", None) or 0.0)) * vae.config.scaling_factor
        denoiser = part_of(self.pipe, "unet", "transformer")
        return packed_latents(self.pipe, latents).to(denoiser.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        latents = unpacked_latents(self.pipe, latents, self.call["height"], self.call["width"])
        latents = latents / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0.0)
        return _pixels(vae.decode(latents.to(vae.dtype)).sample)

    def integrate(self, latents: Tensor, scheduler: Any) -> Tensor:
        self.pipe.scheduler = scheduler
        try:
            found: Tensor = self.pipe(**self.call, latents=latents, output_type="latent", return_dict=False)[0]
        finally:
            self.pipe.scheduler = self.forward
        return found


def _kind(pipe: Any, name: str) -> str:
    """The class of a pipeline's component, also of a compiled one."""
    part = getattr(pipe, name, None)
    return type(unwrapped(part) if isinstance(part, torch.nn.Module) else part).__name__


def check_reversible(pipe: Any) -> None:
    """Raise SteerError, naming the pipeline, for what cannot be run backwards."""
    kinds = {_kind(pipe, name) for name in ("unet", "transformer")}
    if "UNet2DModel" in kinds or (kinds & set(PROMPTED) and hasattr(pipe, "scheduler")):
        return
    if isinstance(pipe, torch.nn.Module):
        message = "editing a photo needs a pipeline, not a bare denoiser: pass the whole pipeline"
        raise SteerError(message)
    message = (
        f"photos cannot be edited with a {type(pipe).__name__}: inversion is not implemented for it. "
        f"Pipelines around a UNet2DModel or {', '.join(PROMPTED)} can. Nothing was edited"
    )
    raise SteerError(message)


def reversible(
    pipe: Any, steps: int, repeats: int, size: tuple[int, int] | None, call: dict[str, Any]
) -> ReversiblePipeline:
    """Prepare a pipeline for running backwards. Raises SteerError, naming it, for pipelines that cannot."""
    check_reversible(pipe)
    if _kind(pipe, "unet") != "UNet2DModel":
        return PromptedPipeline(pipe, steps, repeats, size, dict(call))
    if call:
        message = f"a {type(pipe).__name__} has no prompts and does not take {', '.join(sorted(call))}"
        raise SteerError(message)
    return UnconditionalPipeline(pipe, steps, repeats)


def _pixels(image: Tensor) -> Tensor:
    return (image[0].float().cpu() / 2 + 0.5).clamp(0, 1).expand(3, -1, -1)


class Inversion:
    """A photo and the noise it is generated from, by a copy of the pipeline with a scheduler of its own.

    `original` is `(3, h, w)` float32 in [0, 1]; `notes` says what was done to the photo beforehand. What is attached to
    `pipe` while `generate` runs acts on it.
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
        """Prepare the inversion; nothing runs yet. Arguments as for `edit`. Raises PhotoError and SteerError."""
        if not (isinstance(steps, int) and isinstance(repeats, int)) or steps < 1 or repeats < 0:
            message = f"{steps!r} steps and {repeats!r} repeats: expected whole numbers, at least 1 step and 0 repeats"
            raise SteerError(message)
        self._reversible = reversible(pipe, steps, repeats, size, call)
        self.pipe = self._reversible.pipe
        self.steps = steps
        self.original, self.notes = as_pixels(photo, self._reversible.size(size))
        if self._reversible.channels == 1:
            self.original = self.original.mean(dim=0, keepdim=True).expand(3, -1, -1)
            self.notes.append("made grey, as the pipeline's pictures are")

    @cached_property
    @torch.no_grad()
    def latents(self) -> Tensor:
        """The photo's latents before any noise."""
        return self._reversible.encode(self.original)

    @cached_property
    @torch.no_grad()
    def noise(self) -> Tensor:
        """The latents it was run back to. Nothing may be attached while this is first read."""
        return self._reversible.integrate(self.latents, self._reversible.inverse)

    @cached_property
    @torch.no_grad()
    def coded(self) -> Tensor | None:
        """The photo after the autoencoder alone; None for pixel pipelines."""
        return self._reversible.decode(self.latents) if self._reversible.coder is not None else None

    @cached_property
    def reconstruction(self) -> Tensor:
        """The photo generated again, `(3, h, w)`. Nothing may be attached while this is first read."""
        return self.generate()

    @torch.no_grad()
    def generate(self) -> Tensor:
        """Generate from the noise, `(3, h, w)` float32 in [0, 1]. Raises SteerError where numbers left their range."""
        image = self._reversible.decode(self._reversible.integrate(self.noise, self._reversible.forward))
        if not bool(image.isfinite().all()) or not bool(self.noise.isfinite().all()):
            message = (
                "running the photo back to noise left the numbers' range: nothing was edited. Try more steps, "
                "guidance_scale=1, or float32 (some autoencoders overflow in float16)"
            )
            raise SteerError(message)
        return image

    @property
    def error(self) -> float:
        """Root mean square difference of the reconstruction from the photo, over all pixels and channels."""
        return rms(self.reconstruction - self.original)

    @property
    def coding_error(self) -> float | None:
        """The part of `error` that the autoencoder makes alone; None for pixel pipelines."""
        return None if self.coded is None else rms(self.coded - self.original)

    @property
    def poor(self) -> str | None:
        """What is wrong with the reconstruction, in words; None when nothing is."""
        if self.error <= POOR:
            return None
        by = "" if self.coding_error is None else f", {self.coding_error:.3f} of it by the autoencoder alone"
        return (
            f"the unedited reconstruction is off by {self.error:.3f} (root mean square, of a range of 1{by}): more than "
            f"{POOR:g}, so the edit shows another picture than the photo. More steps or repeats may help"
        )


def rms(difference: Tensor) -> float:
    """Root mean square of all values."""
    return float(difference.double().square().mean().sqrt())


class PoorReconstructionWarning(UserWarning):
    """Inversion does not give the photo back well, so that the edit shows another picture."""


@dataclass(frozen=True)
class EditedPhoto:
    """A photo, its unedited reconstruction and its edit, `(3, h, w)` float32 in [0, 1].

    `coded` is the photo after the pipeline's autoencoder alone, None for pixel pipelines. `noise` are the latents it was
    run back to, with a standard deviation of about 1 where all went well. `error`, `coding_error` and `poor` are those of
    its Inversion; `notes` says what was done to the photo beforehand.
    """

    original: Tensor
    reconstruction: Tensor
    edited: Tensor
    coded: Tensor | None
    noise: Tensor = field(repr=False)
    steps: int
    name: str
    error: float
    coding_error: float | None
    poor: str | None
    notes: tuple[str, ...] = ()

    @property
    def change(self) -> float:
        """Root mean square difference of the edit from the unedited reconstruction."""
        return rms(self.edited - self.reconstruction)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise; far from 1 the edit may not act as it does on generated images."""
        return float(self.noise.float().std())

    @property
    def image(self) -> "Image":
        """The edit."""
        from eigenbank.loaders.image_grid import to_image

        return to_image(self.edited)

    def grid(self) -> "Image":
        """Draw photo, unedited reconstruction and edit side by side, named."""
        from eigenbank.loaders.image_grid import image_grid

        row = torch.stack([self.original, self.reconstruction, self.edited])
        note = f"reconstruction off by {self.error:.3f}"
        return image_grid([row], [self.name], ["photo", "unedited", "edited"], notes=[note])


def _for_editing(pipe: Any, drawing: Drawing) -> Drawing:
    """The drawing with what `edit` does if it is told nothing."""
    own: dict[str, Any] = {"steps": drawing.steps or STEPS}
    if "guidance_scale" in parameters_of(pipe) and drawing.guidance_scale is None:
        own["guidance_scale"] = 1.0
    return drawing.model_copy(update=own)


def edit_cost(pipe: Any, drawing: Drawing, repeats: int = REPEATS) -> DrawingCost:
    """Say what `edit` takes: inverting the photo is one run and `repeats` more, generating it without and with the edit two."""
    return replace(cost(pipe, repeats + 3, _for_editing(pipe, drawing)), unit="run")


def edit(
    pipe: Any,
    photo: Any,
    edits: "Edits",
    *,
    bank: DirectionSet | None = None,
    steps: int | None = None,
    repeats: int = REPEATS,
    force: bool = False,
    drawing: Drawing | None = None,
    **call: Any,
) -> EditedPhoto:
    """Edit a photo: a path, a Pillow image, or `(3, h, w)` in [0, 1]. `edits`, `bank` and `force` as for `steer`.

    The photo is cropped and scaled to what the pipeline generates (`size`: (height, width), for pipelines with a choice),
    run back to noise by DDIM, for rectified flows by Euler steps, and generated again without and with the edit, in
    `steps` steps (50 if not given). Going back, every step is guessed as in DDIM inversion and corrected `repeats` times
    (see `inverse_schedulers.py`). `call` goes to the pipeline, both ways: `prompt`, `guidance_scale` (1 if not given: above
    it inversion is less faithful), `negative_prompt`.

    The pipeline is left as it was. Warns PoorReconstructionWarning when the reconstruction is off by more than 0.05.
    Raises PhotoError, SteerError for pipelines that cannot be run backwards, and as `steer` does.
    """
    edits = parse_edits(edits)
    check_reversible(pipe)
    drawing = _for_editing(pipe, as_drawing(drawing, call, steps=steps))
    if len(drawing.prompts) > 1:
        message = f"a photo has one prompt, {len(drawing.prompts)} were given"
        raise DrawingError(message, outcome="nothing was edited")
    with explaining(outcome="nothing was edited"):
        check_drawing(pipe, drawing, list(call))
    names = ("negative_prompt", "guidance_scale")
    asked = dict(call)
    call |= {name: getattr(drawing, name) for name in names if getattr(drawing, name) is not None}
    if drawing.prompts:
        call["prompt"] = drawing.prompts[0]
    steps = drawing.steps
    assert steps is not None
    inversion = Inversion(pipe, photo, steps=steps, repeats=repeats, size=drawing.size, **call)
    steering = steer(inversion.pipe, edits, bank=bank, force=force)
    steering.check_guided(drawing, asked)
    plain = inversion.reconstruction
    with steering:
        changed = inversion.generate()
    found = EditedPhoto(
        original=inversion.original,
        reconstruction=plain,
        edited=changed,
        coded=inversion.coded,
        noise=inversion.noise.float().cpu(),
        steps=steps,
        name=edit_name(edits),
        error=inversion.error,
        coding_error=inversion.coding_error,
        poor=inversion.poor,
        notes=tuple(inversion.notes),
    )
    if found.poor:
        warnings.warn(found.poor, PoorReconstructionWarning, stacklevel=2)
    return found
