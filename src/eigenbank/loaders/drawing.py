"""What a pipeline takes and needs to generate pictures, and what a `Drawing` is among the arguments of its call."""

import difflib
import inspect
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eigenbank.diffusers_compat import execution_device, guides_at
from eigenbank.progress import Log, log_warning
from eigenbank.registry.files import parse_json, read_bounded
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import DrawingError, first_problem

PICTURES = ("image", "images", "control_image", "video", "control_video", "conditioning_frames", "mask_image")
"""How pipelines call the pictures that they start from."""
_STARTS_FROM_PICTURE = re.compile(
    "Img2Img|I2I|I2V|ImageToVideo|VideoToVideo|ToWorld|Inpaint|Fill|Edit|Control|Adapter|Pix2Pix|Upscale|Depth2Img|Variation"
    "|SuperResolution|Refiner|Layered|CycleDiffusion"
)
"""Names of pipelines whose pictures are optional by their signature, and needed all the same."""


_IMPORTING = threading.Lock()
"""diffusers imports a class when it is first asked for, which fails where several threads ask at once."""


_BY_OTHER_NAMES = ("callback", "callback_steps")
"""Arguments that pipelines take among their `**kwargs`."""


def parameters_of(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a pipeline's call, of the pipeline or its class."""
    return inspect.signature((pipe if isinstance(pipe, type) else type(pipe)).__call__).parameters


def part_of(pipe: Any, *names: str) -> Any:
    """Return the first of these components that a pipeline has, None for none. A compiled one cannot be asked `if part`."""
    return next((part for name in names if (part := getattr(pipe, name, None)) is not None), None)


def takes_prompt(pipe: Any) -> bool:
    """Whether a pipeline, or its class, reads text."""
    return "prompt" in parameters_of(pipe)


def pipeline_class(index: Path) -> type | None:
    """Return the class of a pipeline by its model_index.json alone; None where that names no class of diffusers."""
    try:
        name = parse_json(read_bounded(index, 2**20), values=10_000).get("_class_name")
    except (OSError, ValueError, AttributeError):
        return None
    with _IMPORTING:
        import diffusers

        kind = getattr(diffusers, name, None) if isinstance(name, str) else None
        return kind if isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline) else None


def check_drawing(pipe: Any, drawing: Drawing, given: Sequence[str] = ()) -> None:
    """Raise DrawingError for what a pipeline, or its class, needs and is not given, or is given and cannot take.

    `given` names the further arguments of the call, e.g. `prompt_embeds`.
    """
    kind = pipe if isinstance(pipe, type) else type(pipe)
    name, parameters = kind.__name__, parameters_of(pipe)
    unknown = [each for each in given if each not in {*parameters, *_BY_OTHER_NAMES}]
    if unknown and kind.__module__.startswith("diffusers."):  # many take any, and ignore it
        close = difflib.get_close_matches(unknown[0], parameters, n=1)
        advice = f"Did you mean `{close[0]}=`?" if close else "Leave it out"
        problem = f"a {name} takes no argument `{unknown[0]}=`"
        raise DrawingError(problem, advice=advice)
    needed = [
        each
        for each in PICTURES
        if each in parameters
        and (parameters[each].default is inspect.Parameter.empty or _STARTS_FROM_PICTURE.search(name))
    ]
    if needed and not set(needed) & set(given):
        problem = f"a {name} starts from a picture (its argument {needed[0]}), and eigenbank generates from noise"
        advice = "Open the checkpoint as its text-to-image pipeline, or steer it in Python with `eigenbank.steer`"
        raise DrawingError(problem, advice=advice)
    if not takes_prompt(pipe):
        for option, value in (("prompt", drawing.prompts or None), ("negative prompt", drawing.negative_prompt)):
            if value is not None:
                problem = f"a {name} takes no {option}: it reads no text"
                raise DrawingError(problem, advice=f"Leave the {option} out")
    elif not drawing.prompts and not {"prompt_embeds", "prompt_2"} & set(given):
        problem = f"a {name} needs a prompt"
        raise DrawingError(problem, advice='Say what to generate: `prompt="…"`')
    options: tuple[tuple[object, set[str], str], ...] = (
        (drawing.negative_prompt, {"negative_prompt"}, "takes no negative prompt"),
        (drawing.guidance_scale, {"guidance_scale", "true_cfg_scale"}, "has no guidance scale"),
        (drawing.size, {"width"}, "generates pictures of one size only"),
        (drawing.steps, {"num_inference_steps"}, "takes no number of steps"),
    )
    for asked, names, why in options:
        if asked is not None and not names & set(parameters):
            problem = f"a {name} {why}"
            raise DrawingError(problem, advice="Leave it out")
    guidance = guidance_of(pipe, drawing)
    if drawing.negative_prompt is not None and guidance is not None and guidance <= 1:
        problem = f"a negative prompt acts through guidance, and a guidance scale of {guidance:g} is none"
        raise DrawingError(problem, advice="Give a `guidance_scale=` above 1, or leave the negative prompt out")
    if not isinstance(pipe, type):
        _check_numbers(pipe, drawing)


def _check_numbers(pipe: Any, drawing: Drawing) -> None:
    """Raise DrawingError for sides or steps that a pipeline's parts cannot make; what they round, they would round in silence."""
    processor = getattr(pipe, "image_processor", None) or getattr(pipe, "video_processor", None)
    unit, patch = getattr(getattr(processor, "config", None), "vae_scale_factor", None), getattr(pipe, "patch_size", 1)
    if (
        isinstance(unit, int)
        and isinstance(patch, int)
        and drawing.size
        and any(each % (unit * patch) for each in drawing.size)
    ):
        unit *= patch
        near = "×".join(str(max(1, round(each / unit)) * unit) for each in reversed(drawing.size))
        problem = f"a {type(pipe).__name__} generates pictures whose sides are multiples of {unit}"
        raise DrawingError(problem, advice=f"The nearest size is {near}")
    scheduler = getattr(pipe, "scheduler", None)
    most = getattr(getattr(scheduler, "config", None), "num_train_timesteps", None)
    if isinstance(most, int) and drawing.steps and drawing.steps > most and "FlowMatch" not in type(scheduler).__name__:
        problem = f"{drawing.steps} steps are more than the {most} that the {type(scheduler).__name__} was made for"
        raise DrawingError(problem, advice="Take fewer")


def check_checkpoint(folder: Path, drawing: Drawing) -> None:
    """Check a drawing against a checkpoint's folder before anything is loaded, as `check_drawing` does."""
    kind = pipeline_class(folder / "model_index.json")
    if kind is not None:
        check_drawing(kind, drawing)


def as_drawing(drawing: Drawing | None, call: dict[str, Any], *, steps: int | None = None) -> Drawing:
    """Take `prompt`, `negative_prompt`, `guidance_scale` and `size` out of a call's arguments, into a Drawing of `steps`.

    They come before those of `drawing`. Raises DrawingError for values that are none.
    """
    names = {"prompt": "prompts", "prompts": "prompts"}
    names |= {each: each for each in ("negative_prompt", "guidance_scale", "size")}
    given = {"steps": steps, **{field: call.pop(name) for name, field in names.items() if name in call}}
    given = {field: value for field, value in given.items() if value is not None}
    if not given:
        return drawing or Drawing()
    own = {} if drawing is None else {name: getattr(drawing, name) for name in drawing.model_fields_set}
    try:
        return Drawing.model_validate({**own, **given})
    except ValidationError as error:
        if error.errors()[0]["loc"][0] == "size":
            problem = f"size={given['size']!r}: expected (height, width) in pixels, multiples of 8, as in (512, 768)"
            raise DrawingError(problem) from None
        raise DrawingError(first_problem(error, "the arguments")) from None


def unused_prompts(drawing: Drawing, turns: Iterable[int]) -> str | None:
    """Say that no image takes some of the prompts, of images that take their turns; None where each is taken."""
    count = len(drawing.prompts)
    taken = len({turn % count for turn in turns}) if count else 0
    if taken == count:
        return None
    drawn = "only the first is drawn" if taken == 1 else f"only {taken} of them are drawn"
    return f"{count} prompts, and seeds for {taken} image{'' if taken == 1 else 's'} each: {drawn}. Give more seeds"


def drawn_prompts(drawing: Drawing, images: int, log: Log = log_warning) -> Drawing:
    """Return the drawing without the prompts that none of so many images takes, which is logged."""
    unused = unused_prompts(drawing, range(images))
    if unused is None:
        return drawing
    log(unused)
    return drawing.part(range(images))


def arguments(pipe: Any, drawing: Drawing, seeds: Sequence[int], call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a pipeline's call for one image per seed, without generators. Raises DrawingError."""
    check_drawing(pipe, drawing, [name for name, value in call.items() if value is not None])
    parameters = parameters_of(pipe)
    found = dict(call)
    if drawing.steps is not None:
        found["num_inference_steps"] = drawing.steps
    if drawing.size is not None:
        found["height"], found["width"] = drawing.size
    if drawing.prompts:
        found["prompt"] = list(drawing.part(range(len(seeds))).prompts)
    if drawing.negative_prompt is not None:
        found["negative_prompt"] = [drawing.negative_prompt] * len(seeds)
    if drawing.guidance_scale is not None:
        name = _guidance_name(pipe, drawing)
        found[name] = drawing.guidance_scale
        if name == "true_cfg_scale" and drawing.guidance_scale > 1:
            # Without a negative prompt these pipelines leave guidance out; a blank one is what their authors advise.
            found.setdefault("negative_prompt", [" "] * len(seeds))
    if "class_labels" in parameters:
        config = _denoiser(pipe).config
        classes = config.get("num_embeds_ada_norm") or config.get("num_class_embeds")
        if classes:
            found.setdefault("class_labels", [seed % classes for seed in seeds])
        if classes == 1 and "guidance_scale" in parameters:  # nothing to be guided away from
            found.setdefault("guidance_scale", 1.0)
    if "batch_size" in parameters:
        found.setdefault("batch_size", len(seeds))
    elif not drawing.prompts:
        for name in {"num_images_per_prompt", "num_videos_per_prompt"} & set(parameters):
            found.setdefault(name, len(seeds))
    return found


def _denoiser(pipe: Any) -> Any:
    from eigenbank.loaders.pipelines import denoiser_of

    return denoiser_of(pipe)


def _guidance_name(pipe: Any, drawing: Drawing) -> str:
    """Return the argument that is the guidance scale: of two, `guidance_scale` is the one that was distilled into FLUX."""
    parameters = parameters_of(pipe)
    if "true_cfg_scale" not in parameters:
        return "guidance_scale"
    distilled = "guidance_scale" in parameters and parameters["guidance_scale"].default is not None
    return "guidance_scale" if distilled and drawing.negative_prompt is None else "true_cfg_scale"


def guidance_of(pipe: Any, drawing: Drawing) -> float | None:
    """Return the scale of classifier-free guidance, the drawing's or the pipeline's own; None where that is unknown."""
    if drawing.guidance_scale is not None:
        return drawing.guidance_scale
    default = parameters_of(pipe).get(_guidance_name(pipe, drawing))
    return float(default.default) if default is not None and isinstance(default.default, (int, float)) else None


def unguided(pipe: Any, drawing: Drawing, call: Mapping[str, Any] = {}) -> bool:
    """Whether it is known before a run that it has no classifier-free guidance: by the pipeline, or by what it is given."""
    if not type(pipe).__module__.startswith("diffusers.pipelines."):
        return False
    if not any(map(re.compile("guidance|cfg").search, parameters_of(pipe))):
        return True
    if any(re.search("guidance|cfg|negative", name) and value is not None for name, value in call.items()):
        return False
    if "true_cfg_scale" in parameters_of(pipe):
        return passes_of(pipe, drawing) == 1
    scale = guidance_of(pipe, drawing)
    if scale is None or scale > 1:
        return False
    return not guides_at(pipe, scale)


def own_steps(pipe: Any) -> int | None:
    """Return how many steps a pipeline takes if it is told nothing; None where it does not say."""
    found = parameters_of(pipe).get("num_inference_steps")
    return found.default if found is not None and isinstance(found.default, int) else None


def image_size(pipe: Any, drawing: Drawing, call: Mapping[str, Any] = {}) -> tuple[int, int] | None:
    """Return the (height, width) that a pipeline generates, None where it does not say before it runs."""
    if drawing.size is not None:
        return drawing.size
    parameters = parameters_of(pipe)
    found: list[int] = []
    for axis, name in enumerate(("height", "width")):
        default = parameters[name].default if name in parameters else None
        side = call.get(name) or (default if isinstance(default, int) else None) or _own_side(pipe, axis)
        if side is None:
            return None
        found.append(int(side))
    return found[0], found[1]


def _own_side(pipe: Any, axis: int) -> int | None:
    config = getattr(_denoiser(pipe), "config", None)
    side = getattr(pipe, "default_sample_size", None) or getattr(config, "sample_size", None)
    side = side[axis - 2] if isinstance(side, (list, tuple)) else side
    if not isinstance(side, int):
        return None
    factor = getattr(pipe, "vae_scale_factor", None)
    if factor is None:
        coder = part_of(pipe, "vqvae", "vae")
        factor = 1 if coder is None else 2 ** (len(coder.config.block_out_channels) - 1)
    return int(side * factor)


@dataclass(frozen=True)
class DrawingCost:
    """What generating takes: `images`, `steps` each, `passes` of the denoiser a step, at `size` on `device`.

    `unit` is what is counted: runs without a picture of their own take as long.
    """

    images: int
    steps: int | None
    passes: int
    size: tuple[int, int] | None
    device: str
    unit: str = "image"

    def __str__(self) -> str:
        counted = f"{self.images:,} {self.unit}{'' if self.images == 1 else 's'}"
        many = f"{counted} × {self.steps or '?'} steps × {self.passes} pass"
        at = f", at {self.size[1]}×{self.size[0]}" if self.size else ""
        return f"{many}{'' if self.passes == 1 else 'es'}{at}, on {self.device}"


def passes_of(pipe: Any, drawing: Drawing) -> int:
    """Return how often a step runs the denoiser, for the branches of guidance: 2 with classifier-free guidance, else 1."""
    parameters = parameters_of(pipe)
    guided = (guidance_of(pipe, drawing) or 0) > 1
    if "true_cfg_scale" in parameters:
        acts = _guidance_name(pipe, drawing) == "true_cfg_scale"
        return 2 if guided and acts and (drawing.negative_prompt is not None or drawing.guidance_scale) else 1
    return 2 if guided and ("negative_prompt" in parameters or "class_labels" in parameters) else 1


def cost(pipe: Any, images: int, drawing: Drawing, call: Mapping[str, Any] = {}) -> DrawingCost:
    """Say what generating so many images takes."""
    steps = drawing.steps or call.get("num_inference_steps") or own_steps(pipe)
    device = str(execution_device(pipe))
    return DrawingCost(images, steps, passes_of(pipe, drawing), image_size(pipe, drawing, call), device)
