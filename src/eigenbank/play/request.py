"""What the page asks for: one image, checked and bounded; and the same image as Python, a command line and JSON."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, StringConstraints, ValidationError

from eigenbank.schemas import Sliders, SliderSetting
from eigenbank.schemas.common import Model, ModelId, Sha256
from eigenbank.schemas.errors import SteerError

if TYPE_CHECKING:
    from eigenbank.play.model import LoadedModel

MAX_SLIDERS = 24
"""How many sliders the page has room for."""
MAX_STEPS = 100
"""The most denoising steps of one image."""
MAX_SEED = 2**32 - 1
"""The largest seed."""
MAX_PROMPT = 1_000
"""The longest prompt, in characters."""
MAX_SIDE = 2_048
"""The longest side of an image, in pixels."""
STEPS = 20
"""Default steps of the full run."""
DRAGGING = 8
"""Default steps while a slider is being dragged."""
SLIDERS_FILE = "sliders.json"


class ImageRequest(Model):
    """An image to sample from `model`: from `seed`, or from the photo whose SHA-256 is `photo`, with directions added.

    The sliders' keys are labels or ids of the model's set; `sampler` is the name of one of the model's samplers. Prompts,
    guidance and size go to pipelines that take prompts; a `width` or `height` of 0 is the model's own.
    """

    model: ModelId
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = STEPS
    sampler: Annotated[str, StringConstraints(max_length=100)] = ""
    prompt: Annotated[str, StringConstraints(max_length=MAX_PROMPT)] = ""
    negative_prompt: Annotated[str, StringConstraints(max_length=MAX_PROMPT)] = ""
    guidance: Annotated[float, Field(ge=0, le=50)] = 1.0
    width: Annotated[int, Field(ge=0, le=MAX_SIDE, multiple_of=8)] = 0
    height: Annotated[int, Field(ge=0, le=MAX_SIDE, multiple_of=8)] = 0
    sliders: Annotated[tuple[SliderSetting, ...], Field(max_length=MAX_SLIDERS)] = ()
    photo: Sha256 | None = None

    @property
    def moved(self) -> tuple[SliderSetting, ...]:
        """The sliders that are not at zero."""
        return tuple(slider for slider in self.sliders if slider.scale)

    @property
    def edit(self) -> Sliders | None:
        """The edit for `steer`; None where no slider is moved."""
        return Sliders(model=self.model, sliders=self.moved) if self.moved else None

    @property
    def unedited(self) -> "ImageRequest":
        """The same image without any direction."""
        return self.model_copy(update={"sliders": ()})

    @property
    def cache_key(self) -> "ImageRequest":
        """The request without sliders at zero: equal for equal images."""
        return self.model_copy(update={"sliders": self.moved})


def parse_request(**values: Any) -> ImageRequest:
    """Parse what a page sent. Raises SteerError, in words, for what is out of bounds."""
    try:
        return ImageRequest(**values)
    except ValidationError as error:
        raise _error(error) from error


def parse_sliders(
    sliders: Sequence[SliderSetting], ranges: Sequence[tuple[float, float]], values: Sequence[float | None]
) -> tuple[SliderSetting, ...]:
    """Return the sliders at the values a page sent; an empty field is zero.

    Raises SteerError for a value that is not a number or is outside the slider's range.
    """
    pairs = zip(sliders, values, strict=False)
    try:
        found = tuple(SliderSetting.model_validate({**dict(slider), "scale": value or 0.0}) for slider, value in pairs)
    except ValidationError as error:
        raise _error(error, "sliders: ") from error
    for slider, (low, high) in zip(found, ranges, strict=False):
        if not low <= slider.scale <= high:
            message = (
                f"sliders: {slider.key} goes from {low:g} to {high:g}, not to {slider.scale:g}. Nothing was sampled"
            )
            raise SteerError(message)
    return found


def _error(error: ValidationError, where: str = "") -> SteerError:
    first = error.errors(include_url=False, include_input=False)[0]
    return SteerError(f"{where}{first['loc'][0]}: {first['msg']}. Nothing was sampled")


def as_python(model: "LoadedModel", request: ImageRequest) -> str:
    """Python that samples the edited image of a request, and nothing else."""
    given = model.arguments(request)
    call = [f"{name}={value!r}" for name, value in given.items()]
    opened = f"pipe = eb.open_pipeline({request.model!r})"
    if request.photo is not None:
        edited = ", ".join(["pipe", '"photo.png"', _edit_argument(request), f"steps={request.steps}", *call])
        saved = 'found.image.save("edited.png")' if request.moved else 'found.save("edited.png")'
        drawn = f"found = eb.edit({edited})" if request.moved else "# no slider is moved: nothing to edit"
        return "\n".join(["import eigenbank as eb", "", opened, drawn, *([saved] if request.moved else [])]) + "\n"
    sampler = model.samplers.get(request.sampler)
    made = () if sampler is None else sampler.lines
    imports = ["import torch", *[line for line in made if line.startswith("import ")]]
    lines = [*sorted(imports), "", "import eigenbank as eb", "", opened]
    lines += [line for line in made if not line.startswith("import ")]
    height, width = given.pop("size", (0, 0))
    call = [f"{name}={value!r}" for name, value in given.items()]
    call += [f"height={height}, width={width}"] if height else []
    call += [f"num_inference_steps={request.steps}", f"generator=torch.Generator().manual_seed({request.seed})"]
    drawn = f"image = pipe({', '.join(call)}).images[0]"
    if request.moved:
        lines += [f"with eb.steer(pipe, {_edit_argument(request)}, bank=eb.load({request.model!r})):", f"    {drawn}"]
    else:
        lines += [drawn]
    return "\n".join([*lines, 'image.save("edited.png")']) + "\n"


def as_command(model: "LoadedModel", request: ImageRequest) -> str:
    """Return the command line that samples the same image; a comment where no slider is moved."""
    if not request.moved:
        return "# no slider is moved: nothing to edit\n"
    edit = f"--sliders {SLIDERS_FILE}"
    if _is_plain(request):
        edit = " ".join(f"--set {shlex.quote(f'{each.key}={each.scale!r}')}" for each in request.moved)
    model_id = shlex.quote(request.model)
    given = model.arguments(request)
    height, width = given.pop("size", (0, 0))
    how = "".join(f" --{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in given.items())
    how += f" --size {width}x{height}" if height else ""
    if request.photo is not None:
        return f"eigenbank edit photo.png --model {model_id} {edit}{how} --steps {request.steps} --out edited.png\n"
    sampler = model.samplers.get(request.sampler)
    how += f" --scheduler {sampler.kind}" if sampler is not None and sampler.kind else ""
    return f"eigenbank steer {model_id} {edit}{how} --seeds {request.seed} --steps {request.steps} --out steered.png\n"


def as_json(request: ImageRequest) -> str:
    """Return the sliders of a request as JSON, for `steer`, the command line, and the page again."""
    if not request.sliders:
        return "{}\n"
    return Sliders(model=request.model, sliders=request.sliders).model_dump_json(indent=2, exclude_none=True) + "\n"


def _is_plain(request: ImageRequest) -> bool:
    """Whether names and scales say all of the edit."""
    return all(
        each.window is None and each.branch is None and each.site is None and each.key.strip() == each.key != "-"
        for each in request.moved
    )


def _edit_argument(request: ImageRequest) -> str:
    if not _is_plain(request):
        return repr(SLIDERS_FILE)
    return "{" + ", ".join(f"{each.key!r}: {each.scale!r}" for each in request.moved) + "}"
