"""Editing a real image: back to the noise it would be drawn from, and forth again with directions added."""

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eigenbank.loaders.invert import POOR, REPEATS, Inversion, poor, rms
from eigenbank.loaders.lookup import edit_name, parse_edits
from eigenbank.loaders.steer import steer
from eigenbank.registry.sets.direction_set import DirectionSet

if TYPE_CHECKING:
    from PIL.Image import Image

    from eigenbank.loaders.lookup import Edits

__all__ = ["POOR", "REPEATS", "STEPS", "Edited", "PoorReconstructionWarning", "edit"]

STEPS = 50


class PoorReconstructionWarning(UserWarning):
    """The unedited round trip does not give the photo back well, so that the edit shows another one."""


@dataclass(frozen=True)
class Edited:
    """A photo, its unedited round trip and its edit, `(3, h, w)` float32 in [0, 1].

    `coded` is what the pipeline's autoencoder alone makes of the photo, None for pixel pipelines. `noise` are the
    latents it was run back to, with a standard deviation of about 1 where all went well. `notes` says what was done to
    the photo beforehand.
    """

    original: Tensor
    reconstruction: Tensor
    edited: Tensor
    coded: Tensor | None
    noise: Tensor = field(repr=False)
    steps: int
    name: str
    notes: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """Root mean square difference of the round trip from the photo, over all pixels and channels."""
        return rms(self.reconstruction - self.original)

    @property
    def coding_error(self) -> float | None:
        """The part of `error` that the autoencoder makes alone; None for pixel pipelines."""
        return None if self.coded is None else rms(self.coded - self.original)

    @property
    def change(self) -> float:
        """Root mean square difference of the edit from the unedited round trip."""
        return rms(self.edited - self.reconstruction)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise; far from 1 the edit may not act as on images drawn from noise."""
        return float(self.noise.float().std())

    @property
    def poor(self) -> str | None:
        """What is wrong with the round trip, in words; None when nothing is."""
        return poor(self.error, self.coding_error)

    @property
    def image(self) -> "Image":
        """The edit."""
        from eigenbank.loaders.image_grid import to_image

        return to_image(self.edited)

    def grid(self) -> "Image":
        """Photo, round trip and edit side by side, named."""
        from eigenbank.loaders.image_grid import image_grid

        row = torch.stack([self.original, self.reconstruction, self.edited])
        note = f"round trip off by {self.error:.3f}"
        return image_grid([row], [self.name], ["photo", "unedited", "edited"], notes=[note])


def edit(
    pipe: Any,
    photo: Any,
    edits: "Edits",
    *,
    bank: DirectionSet | None = None,
    steps: int = STEPS,
    repeats: int = REPEATS,
    size: tuple[int, int] | None = None,
    force: bool = False,
    **call: Any,
) -> Edited:
    """Edit a photo: a path, a Pillow image, or `(3, h, w)` in [0, 1]. `edits`, `bank` and `force` as for `steer`.

    The photo is cropped and scaled to what the pipeline draws (`size`: (height, width), for pipelines with a choice), run
    back to noise by DDIM, for rectified flows by Euler steps, and drawn again without and with the edit, in `steps` steps.
    Going back, every step is guessed as in DDIM inversion and corrected `repeats` times (see `invert.py`). `call` goes to
    the pipeline, both ways: `prompt`, `guidance_scale` (1 if not given: above it inversion is less faithful).

    The pipeline is left as it was. Warns PoorReconstructionWarning when the unedited round trip is off by more than 0.05.
    Raises PhotoError, SteerError for pipelines that cannot be run backwards, and as `steer` does.
    """
    edits = parse_edits(edits)
    trip = Inversion(pipe, photo, steps=steps, repeats=repeats, size=size, **call)
    steering = steer(trip.pipe, edits, bank=bank, force=force)
    plain = trip.reconstruction
    with steering:
        changed = trip.draw()
    found = Edited(
        original=trip.original,
        reconstruction=plain,
        edited=changed,
        coded=trip.coded,
        noise=trip.noise.float().cpu(),
        steps=steps,
        name=edit_name(edits),
        notes=tuple(trip.notes),
    )
    if found.poor:
        warnings.warn(found.poor, PoorReconstructionWarning, stacklevel=2)
    return found
