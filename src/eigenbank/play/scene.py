"""What a picture is of: everything that the page's controls say, checked and bounded."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError

from eigenbank.schemas import Slider, Sliders
from eigenbank.schemas.common import Model, ModelId, Sha256
from eigenbank.schemas.errors import SteerError

MAX_SLIDERS = 24
"""Most sliders on the page."""
MAX_STEPS = 100
"""Most denoising steps of one picture."""
MAX_SEED = 2**32 - 1
"""Largest seed."""
MAX_PROMPT = 1_000
"""Longest prompt, in characters."""
STEPS = 20
"""Steps of the full run, unless chosen otherwise."""
DRAGGING = 8
"""Steps of the pictures drawn while a slider is being dragged, unless chosen otherwise."""


class Scene(Model):
    """A picture to draw: of `model`, from `seed`, or from the photo whose SHA-256 is `photo`, with directions added.

    The sliders' keys are labels or ids of the model's set; `sampler` is one of those `samplers.py` names
    for the model. `prompt` and `guidance` go to pipelines that read prompts.
    """

    model: ModelId
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = STEPS
    sampler: Annotated[str, StringConstraints(max_length=100)] = ""
    prompt: Annotated[str, StringConstraints(max_length=MAX_PROMPT)] = ""
    guidance: Annotated[float, Field(ge=0, le=50)] = 1.0
    sliders: Annotated[tuple[Slider, ...], Field(max_length=MAX_SLIDERS)] = ()
    photo: Sha256 | None = None

    @property
    def moved(self) -> tuple[Slider, ...]:
        """The sliders that are not at zero."""
        return tuple(slider for slider in self.sliders if slider.scale)

    @property
    def edit(self) -> Sliders | None:
        """The edit as `steer` takes it; None where no slider is moved."""
        return Sliders(model=self.model, sliders=self.moved) if self.moved else None

    @property
    def unedited(self) -> "Scene":
        """The same picture without any direction."""
        return self.model_copy(update={"sliders": ()})

    def at(self, steps: int) -> "Scene":
        """The same picture in so many steps, as if sliders at zero were not there: equal for equal pictures."""
        return self.model_copy(update={"steps": steps, "sliders": self.moved})


def scene(**values: Any) -> Scene:
    """A scene of what a page sent. Raises SteerError, in words, for what is out of bounds."""
    try:
        return Scene(**values)
    except ValidationError as error:
        raise _worded(error) from error


def moved(
    sliders: Sequence[Slider], ranges: Sequence[tuple[float, float]], values: Sequence[float | None]
) -> tuple[Slider, ...]:
    """The sliders at the values that a page says; an empty field is zero. Raises SteerError for what is no scale, or beyond
    a slider's range.
    """
    pairs = zip(sliders, values, strict=False)
    try:
        found = tuple(Slider.model_validate({**dict(slider), "scale": value or 0.0}) for slider, value in pairs)
    except ValidationError as error:
        raise _worded(error, "sliders: ") from error
    for slider, (low, high) in zip(found, ranges, strict=False):
        if not low <= slider.scale <= high:
            message = f"sliders: {slider.key} goes from {low:g} to {high:g}, not to {slider.scale:g}. Nothing was drawn"
            raise SteerError(message)
    return found


def _worded(error: ValidationError, where: str = "") -> SteerError:
    first = error.errors(include_url=False, include_input=False)[0]
    return SteerError(f"{where}{first['loc'][0]}: {first['msg']}. Nothing was drawn")
