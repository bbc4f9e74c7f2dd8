"""A photo's round trip: run back to its noise once, drawn again from there as often as wanted."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from eigenbank.loaders.drawing import as_size, drawing_of
from eigenbank.loaders.photo import as_pixels
from eigenbank.schemas.errors import SteerError

REPEATS = 2
POOR = 0.05
"""A reconstruction off by more than this (root mean square, of a range of 1) is warned about: 26 dB PSNR."""


class RoundTrip:
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
        self._drawing = drawing_of(pipe, steps, repeats, size if size is None else as_size(size), call)
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
