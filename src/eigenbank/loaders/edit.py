"""Edit a photo: run it back to the noise it would be generated from, and generate it again with directions added."""

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eigenbank.loaders.drawing import DrawingCost, as_drawing, check_drawing, cost, parameters_of
from eigenbank.loaders.invert import REPEATS, Inversion, check_reversible, poor, rms
from eigenbank.loaders.lookup import edit_name, parse_edits
from eigenbank.loaders.steer import steer
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import DrawingError, explaining

if TYPE_CHECKING:
    from PIL.Image import Image

    from eigenbank.loaders.lookup import Edits

STEPS = 50


class PoorReconstructionWarning(UserWarning):
    """Inversion does not give the photo back well, so that the edit shows another picture."""


@dataclass(frozen=True)
class EditedPhoto:
    """A photo, its unedited reconstruction and its edit, `(3, h, w)` float32 in [0, 1].

    `coded` is the photo after the pipeline's autoencoder alone, None for pixel pipelines. `noise` are the latents it was
    run back to, with a standard deviation of about 1 where all went well. `notes` says what was done to the photo
    beforehand.
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
        """Root mean square difference of the reconstruction from the photo, over all pixels and channels."""
        return rms(self.reconstruction - self.original)

    @property
    def coding_error(self) -> float | None:
        """The part of `error` that the autoencoder makes alone; None for pixel pipelines."""
        return None if self.coded is None else rms(self.coded - self.original)

    @property
    def change(self) -> float:
        """Root mean square difference of the edit from the unedited reconstruction."""
        return rms(self.edited - self.reconstruction)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise; far from 1 the edit may not act as it does on generated images."""
        return float(self.noise.float().std())

    @property
    def poor(self) -> str | None:
        """What is wrong with the reconstruction, in words; None when nothing is."""
        return poor(self.error, self.coding_error)

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
    call |= {name: getattr(drawing, name) for name in names if getattr(drawing, name) is not None}
    if drawing.prompts:
        call["prompt"] = drawing.prompts[0]
    steps = drawing.steps
    assert steps is not None
    inversion = Inversion(pipe, photo, steps=steps, repeats=repeats, size=drawing.size, **call)
    steering = steer(inversion.pipe, edits, bank=bank, force=force)
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
        notes=tuple(inversion.notes),
    )
    if found.poor:
        warnings.warn(found.poor, PoorReconstructionWarning, stacklevel=2)
    return found
