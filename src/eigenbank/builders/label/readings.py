"""What labelling asks of a pipeline: readings of its images, of edited and unedited ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from eigenbank.progress import Count
from eigenbank.registry.sets.direction_set import Direction, DirectionSet, Slider

Read = Callable[[Tensor], Tensor]
"""Maps images `(n, 3, h, w)` in [0, 1] to `(n, f)` readings."""


class Measurements(Protocol):
    """Generates images of one pipeline, always in the same way, and reads them. `cache` is a folder that keeps readings."""

    @property
    def steps(self) -> int:
        """Denoising steps of an image."""

    @property
    def fingerprint(self) -> str:
        """Differs for other weights, and for images generated in another way."""

    def calibrated(self, directions: DirectionSet) -> DirectionSet:
        """The set, with the token length of every site that it uses."""

    def check(self, slider: Slider) -> None:
        """Raise EigenbankError where the pipeline cannot be steered by it. Nothing is generated."""

    def unedited(self, read: Read, seeds: Sequence[int], *, cache: Path | None, progress: Count) -> Tensor:
        """Readings `(n, f)` of the pipeline's own images. Raises SteerError where these are blank."""

    def edited(
        self,
        sliders: Sequence[Slider],
        read: Read,
        *,
        scale: float,
        seeds: Sequence[int],
        force: bool,
        cache: Path | None,
        progress: Count,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Readings `(n, f)` of the unedited images, and `(K, n, f)` with each slider at `scale` and at its negative, NaN of
        pictures that the edit broke. `force` takes directions that are none of the pipeline's weights. `progress` is called with
        the images generated and all that are to be, at first with none; what was kept is none of them.
        """

    def predicted_before(
        self, sliders: Sequence[Direction], *, scale: float, seeds: Sequence[int], cache: Path | None
    ) -> list[int]:
        """The numbers of the sliders for which all that `predicted` reads on these seeds is kept."""

    def predicted(
        self,
        sliders: Sequence[Slider],
        read: Read,
        *,
        scale: float,
        seeds: Sequence[int],
        force: bool,
        cache: Path | None,
        progress: Count,
    ) -> tuple[Tensor, Tensor]:
        """Changes of the readings `(K, n, f)` at `scale` and at its negative, in what one step predicts of the image.

        Otherwise as `edited`, each image being a single pass. Raises SteerError where the pipeline's images cannot be predicted.
        """


@dataclass(frozen=True)
class Readings:
    """Readings of f scores for K sliders on n seeds: `base` `(n, f)`; `plus` and `minus` `(K, n, f)`."""

    base: Tensor
    plus: Tensor
    minus: Tensor
    seeds: tuple[int, ...]

    @property
    def broken(self) -> Tensor:
        """`(K,)` bool: whether a slider broke a picture, so that it could not be read."""
        return (self.plus + self.minus).isnan().flatten(1).any(dim=1)

    def rows(self, sliders: Sequence[int]) -> "Readings":
        """The readings for some of the sliders."""
        picked = list(sliders)
        return replace(self, plus=self.plus[picked], minus=self.minus[picked])

    def joined(self, more: "Readings") -> "Readings":
        """The same, with what was read of just these sliders on more seeds."""
        return Readings(
            torch.cat([self.base, more.base]),
            torch.cat([self.plus, more.plus], dim=1),
            torch.cat([self.minus, more.minus], dim=1),
            (*self.seeds, *more.seeds),
        )
