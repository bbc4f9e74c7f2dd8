"""A model in the playground: its pipeline, samplers and direction set, the edit attached to it, and recent images."""

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from eigenbank.builders.label.clip import open_clip
from eigenbank.loaders.drawing import guidance_of, takes_prompt
from eigenbank.loaders.edit import Inversion
from eigenbank.loaders.image_grid import to_image
from eigenbank.loaders.pipelines import UNSCALED, open_pipeline, with_scheduler
from eigenbank.loaders.plugins import target_of
from eigenbank.loaders.sample import sample
from eigenbank.loaders.steer import Steering, steer
from eigenbank.naming import like
from eigenbank.play.request import MAX_SLIDERS, ImageRequest
from eigenbank.registry.load import load
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.registry.sliders import read_sliders
from eigenbank.schemas import Sliders, SliderSetting
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import SteerError, unknown

if TYPE_CHECKING:
    from PIL.Image import Image

    from eigenbank.naming import Likeness

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
RANGE = (-2.0, 2.0)
"""A slider's range where its direction has no recommended one."""
FIRST_SLIDERS = 12
"""How many sliders a model starts with, at most."""
IMAGE_CACHE = 64 * 2**20
"""Bytes of decoded images to keep."""
INVERSION_CACHE = 4
"""How many inverted photos to keep, one for each number of steps."""
OWN_SAMPLER = "as loaded"
"""The name of a pipeline's own sampler where it is none of those below."""

_SCHEDULERS = {
    "DDIM": "DDIMScheduler",
    "DPM-Solver++": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "Euler": "EulerDiscreteScheduler",
    "Euler, ancestral": "EulerAncestralDiscreteScheduler",
    "DDPM": "DDPMScheduler",
}
"""The samplers on offer: the names people use, and diffusers' classes."""


class Superseded(Exception):  # noqa: N818
    """The visitor asked for something else in the meantime: this image is no longer wanted."""


@dataclass(frozen=True)
class SliderRange:
    """A slider's `key` for `steer`, and its range, which includes zero.

    `measured` says whether the range is the one recommended for the direction, or the default.
    """

    key: str
    low: float
    high: float
    measured: bool


@dataclass(frozen=True)
class Photo:
    """An uploaded photo: the image, scaled down, the SHA-256 of its file, and notes on what was changed."""

    digest: str
    image: "Image"
    notes: tuple[str, ...] = ()


class LoadedModel:
    """A model's direction set and pipeline, and the images sampled lately. For one thread at a time, except `cached`."""

    def __init__(self, model_id: str, folder: Path, drawing: Drawing | None = None) -> None:
        """Load the set and the pipeline, as `drawing` says. Raises UnknownNameError, SetError or SourceError."""
        self.model_id = model_id
        self.folder = folder
        self._reader: Any = None
        self.directions: DirectionSet = load(model_id)
        self.drawing = drawing or Drawing()
        self.pipe = open_pipeline(folder, self.drawing)
        self.samplers = {each.name: each for each in samplers_of(self.pipe)}
        self._pipes: dict[str, Any] = {}
        self._attached: tuple[Any, tuple[SliderSetting, ...], Steering] | None = None
        self._images: LruCache[ImageRequest, Image] = LruCache(
            IMAGE_CACHE, lambda image: 3 * image.width * image.height
        )
        self._inversions: LruCache[tuple[Any, ...], Inversion] = LruCache(INVERSION_CACHE)

    @property
    def takes_prompt(self) -> bool:
        """Whether the pipeline takes prompts."""
        return takes_prompt(self.pipe)

    @property
    def guidance(self) -> float:
        """The guidance scale to start with: what the playground was started with, else the pipeline's own; 1 without."""
        return (guidance_of(self.pipe, self.drawing) if self.takes_prompt else None) or 1.0

    @property
    def names(self) -> list[str]:
        """What a slider can be added for: the labels, most trusted first, then the ids of all directions."""
        return [*self.directions.labels, *(each.id for each in self.directions)]

    def first_sliders(self) -> list[SliderSetting]:
        """Return the sliders to start with, at zero: the model's most trusted labels."""
        return [SliderSetting(key=label, scale=0.0) for label in self.directions.labels[:FIRST_SLIDERS]]

    def read_sliders(self, path: Path) -> list[SliderSetting]:
        """Read a sliders file. Raises SteerError where it is invalid or of another model, and UnknownNameError."""
        found = read_sliders(path)
        if found.model not in (None, self.model_id):
            message = f"the sliders are of {found.model}, the page shows {self.model_id}: nothing was changed. Choose that model first"
            raise SteerError(message)
        if len(found.sliders) > MAX_SLIDERS:
            message = (
                f"the file has {len(found.sliders)} sliders, the page has room for {MAX_SLIDERS}: nothing was changed"
            )
            raise SteerError(message)
        for slider in found.sliders:
            self.slider_range(slider.key)
        return list(found.sliders)

    def slider_range(self, key: str) -> SliderRange:
        """Return the key and range of the slider for a label or an id. Raises UnknownNameError with near matches."""
        key = key.strip()
        if key not in self.directions:
            raise unknown(kind=f"label or direction of {self.model_id}:", name=key, known=self.names)
        direction, polarity = self.directions.find(key)
        found = None if direction.quality is None else direction.quality.recommended_range
        low, high = RANGE if found is None else sorted(polarity * end for end in found)
        measured = found is not None and low < high
        low, high = (min(low, 0.0), max(high, 0.0)) if measured else RANGE
        return SliderRange(key.removeprefix(f"{self.model_id}#"), low, high, measured)

    def nearest(self, text: str) -> "Likeness | None":
        """Return the direction that moves pictures most towards words that nothing is called, by what the checkpoint's own image-text
        model saw when the set was labelled; None without that. Raises SourceError for words that it cannot tell apart.
        """
        own = self.folder / "clip"
        if self.directions.manifest.displacements is None or not (own / "config.json").is_file():
            return None
        if self._reader is None:
            self._reader = open_clip(None, own)
        found = like(text, model=self.model_id, labeler=self._reader, limit=1, log=lambda _message: None)
        return found[0] if found else None

    def cached(self, request: ImageRequest) -> "Image | None":
        """Return the image of a request, if it was sampled lately."""
        return self._images.get(request.cache_key)

    def sample(self, request: ImageRequest, photo: Photo | None, wanted: Callable[[], bool]) -> "Image":
        """Return the image of a request, cached or sampled now; the same request gives the same image.

        Raises Superseded as soon as `wanted` returns False, and as `steer` does.
        """
        image = self.cached(request)
        if image is None:
            with self._interruptible(wanted):
                if request.photo is None:
                    pipe = self._pipe(request.sampler)
                    with self._edited(pipe, request.edit):
                        pixels = sample(pipe, [request.seed], request.steps, **self.arguments(request))[0]
                else:
                    inversion = self.invert(request, photo)
                    with self._edited(inversion.pipe, request.edit):
                        pixels = inversion.generate()
            image = to_image(pixels)
            self._images.put(request.cache_key, image)
        return image

    def invert(self, request: ImageRequest, photo: Photo | None) -> Inversion:
        """Invert a request's photo to noise in the request's steps. Raises PhotoError or SteerError."""
        if photo is None or photo.digest != request.photo:
            message = "the server no longer has the photo: nothing was sampled. Upload it again"
            raise SteerError(message)
        arguments = self.arguments(request)
        key = (photo.digest, request.steps, *arguments.values())
        found = self._inversions.get(key)
        if found is None:
            found = Inversion(self.pipe, photo.image, steps=request.steps, **arguments)
            with self._edited(found.pipe, None):
                _ = found.reconstruction
            self._inversions.put(key, found)
        return found

    def arguments(self, request: ImageRequest) -> dict[str, Any]:
        """Return the arguments of `sample` besides seed and steps: prompts, guidance and size, where the pipeline takes them."""
        if not self.takes_prompt:
            return {}
        found: dict[str, Any] = {"prompt": request.prompt}
        if request.negative_prompt:
            found["negative_prompt"] = request.negative_prompt
        if guidance_of(self.pipe, self.drawing) is not None:
            found["guidance_scale"] = request.guidance
        if request.width and request.height:
            found["size"] = (request.height, request.width)
        elif self.drawing.size is not None:
            found["size"] = self.drawing.size
        return found

    def _pipe(self, sampler: str) -> Any:
        name = sampler or next(iter(self.samplers))
        if name not in self.samplers:
            raise unknown(kind=f"sampler of {self.model_id}:", name=name, known=self.samplers)
        if name not in self._pipes:
            self._pipes[name] = self.samplers[name].open(self.pipe)
        return self._pipes[name]

    @contextmanager
    def _edited(self, pipe: Any, edit: Sliders | None) -> Iterator[None]:
        """Apply exactly this edit to `pipe`. While the directions stay the same, their hooks stay attached and only scales change.

        An unedited image in between sets the scale to zero, at which the hooks change nothing.
        """
        wanted = () if edit is None else tuple(slider.model_copy(update={"scale": 1.0}) for slider in edit.sliders)
        if self._attached is not None and (self._attached[0] is not pipe or (wanted and self._attached[1] != wanted)):
            self._attached[2].remove()
            self._attached = None
        if edit is None:
            if self._attached is not None:
                self._attached[2].set_scale(0.0)
        elif self._attached is None:
            self._attached = (pipe, wanted, steer(pipe, edit, bank=self.directions).attach())
        else:
            self._attached[2].set_scale(1.0)
            for slider in edit.sliders:
                self._attached[2].set_scale(slider.scale, slider.key)
        try:
            yield
        except BaseException:
            if self._attached is not None:
                self._attached[2].forget_run()
            raise

    @contextmanager
    def _interruptible(self, wanted: Callable[[], bool]) -> Iterator[None]:
        """Before every denoiser call, check whether the image is still wanted."""

        def look(_module: Any, _inputs: Any) -> None:
            if not wanted():
                raise Superseded

        hooks = [each.register_forward_pre_hook(look) for each in target_of(self.pipe).denoisers.values()]
        try:
            with torch.no_grad():
                yield
        finally:
            for hook in hooks:
                hook.remove()


@dataclass(frozen=True)
class Sampler:
    """A scheduler for a pipeline; `kind` is None for the one it is loaded with, `bare` for unconditional pipelines."""

    name: str
    kind: str | None = None
    bare: bool = False

    @property
    def lines(self) -> tuple[str, ...]:
        """Python that gives a variable `pipe` this sampler."""
        if self.kind is None:
            return ()
        made = f"diffusers.{self.kind}.from_config(pipe.scheduler.config)"
        if self.bare:
            return ("import diffusers", f"pipe = diffusers.DDPMPipeline(unet=pipe.unet, scheduler={made})")
        return ("import diffusers", f"pipe.scheduler = {made}")

    def open(self, pipe: Any) -> Any:
        """Open a pipeline with this sampler on the same weights; the given one is unchanged."""
        if self.kind is None:
            return pipe
        made = with_scheduler(copy.copy(pipe), self.kind)
        made.set_progress_bar_config(disable=True)
        return made


def samplers_of(pipe: Any) -> list[Sampler]:
    """Return the samplers a pipeline can use, its own first."""
    scheduler = getattr(pipe, "scheduler", None)
    own = type(scheduler).__name__
    named = next((name for name, kind in _SCHEDULERS.items() if kind == own), OWN_SAMPLER)
    compatible = {kind.__name__ for kind in getattr(scheduler, "compatibles", ())}
    # Unconditional pipelines of diffusers are written for one scheduler; the plainest takes three.
    bare = type(pipe).__name__ in ("DDIMPipeline", "DDPMPipeline")
    others = [
        Sampler(name, kind, bare)
        for name, kind in _SCHEDULERS.items()
        if name != named and kind in compatible and (not bare or kind in UNSCALED)
    ]
    return [Sampler(named), *others]


class LruCache(Generic[K, V]):
    """A dictionary that drops the least recently used values once they take more than `room`, as `size` counts.

    The newest stays, however large. Safe between threads.
    """

    def __init__(self, room: int, size: Callable[[V], int] = lambda _value: 1) -> None:
        self.room = room
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return the value, which becomes the newest; None where there is none."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: K, value: V) -> None:
        """Add a value; others may be dropped."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > 1 and sum(map(self._size, self._values.values())) > self.room:
                self._values.popitem(last=False)

    def __len__(self) -> int:
        return len(self._values)
