"""One model at work: its pipeline, its directions, the edit attached to it, and the pictures drawn lately."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from eigenbank.loaders.load import load
from eigenbank.loaders.pipelines import open_pipeline, sample
from eigenbank.loaders.plugins import target_of
from eigenbank.loaders.roundtrip import RoundTrip
from eigenbank.loaders.sheet import to_image
from eigenbank.loaders.steer import Steering, steer
from eigenbank.play.kept import Kept
from eigenbank.play.samplers import samplers_of
from eigenbank.play.scene import MAX_SLIDERS, Scene
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.registry.sliders import read_sliders
from eigenbank.schemas import Slider, Sliders
from eigenbank.schemas.errors import SteerError, unknown

if TYPE_CHECKING:
    from PIL.Image import Image

RANGE = (-2.0, 2.0)
"""The range of a slider whose direction has no recommended one: that of previews and sweeps."""
FIRST = 12
"""Most sliders a model begins with."""
PICTURES = 64 * 2**20
"""Bytes that the pictures kept may take, decoded."""
TRIPS = 4
"""Photos kept with their noise, each count of steps for itself."""


class Superseded(Exception):  # noqa: N818
    """Something else was asked for meanwhile: this picture is not wanted any more."""


@dataclass(frozen=True)
class Knob:
    """What a slider looks like: `key` as `steer` takes it, and its range, which holds zero.

    `measured` says whether the range is the one recommended for the direction, or the default.
    """

    key: str
    low: float
    high: float
    measured: bool


@dataclass(frozen=True)
class Photo:
    """A photo somebody gave: its picture, scaled down, the SHA-256 of its file, and what was done to it, in words."""

    digest: str
    image: "Image"
    notes: tuple[str, ...] = ()


class Studio:
    """A model with its pipeline. Not for several threads at once, but for `kept`."""

    def __init__(self, model_id: str, folder: Path, device: str = "cpu") -> None:
        """Load the set and the pipeline. Raises UnknownNameError, SetError or SourceError."""
        self.model_id = model_id
        self.bank: DirectionSet = load(model_id)
        self.pipe = open_pipeline(folder, device)
        self.samplers = {each.name: each for each in samplers_of(self.pipe)}
        self._pipes: dict[str, Any] = {}
        self._attached: tuple[Any, tuple[Slider, ...], Steering] | None = None
        self._pictures: Kept[Scene, Image] = Kept(PICTURES, lambda image: 3 * image.width * image.height)
        self._trips: Kept[tuple[str, int, str, float], RoundTrip] = Kept(TRIPS)

    @property
    def prompted(self) -> bool:
        """Whether the pipeline reads prompts."""
        return "prompt" in inspect.signature(self.pipe.__call__).parameters

    @property
    def guidance(self) -> float:
        """How strongly a prompt guides unless chosen otherwise: the pipeline's own default, 1 where it has none."""
        found = inspect.signature(self.pipe.__call__).parameters.get("guidance_scale")
        return float(found.default) if found is not None and isinstance(found.default, (int, float)) else 1.0

    @property
    def names(self) -> list[str]:
        """What a slider can be had for: the labels, the most trusted first, then the ids of all directions."""
        return [*self.bank.labels, *(each.id for each in self.bank)]

    def first(self) -> list[Slider]:
        """The sliders to begin with, at zero: the model's labels, the most trusted first."""
        return [Slider(key=label, scale=0.0) for label in self.bank.labels[:FIRST]]

    def read(self, path: Path) -> list[Slider]:
        """The sliders of a file. Raises SteerError where it is none, or of another model, UnknownNameError."""
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
            self.knob(slider.key)
        return list(found.sliders)

    def knob(self, key: str) -> Knob:
        """The slider of a label or an id. Raises UnknownNameError with what is near, of both."""
        key = key.strip()
        if key not in self.bank:
            raise unknown(kind=f"label or direction of {self.model_id}:", name=key[:200], known=self.names)
        direction, polarity = self.bank.find(key)
        found = None if direction.quality is None else direction.quality.recommended_range
        low, high = RANGE if found is None else sorted(polarity * end for end in found)
        measured = found is not None and low < high
        low, high = (min(low, 0.0), max(high, 0.0)) if measured else RANGE
        return Knob(key.removeprefix(f"{self.model_id}#"), low, high, measured)

    def kept(self, scene: Scene) -> "Image | None":
        """The picture of a scene, if it was drawn lately."""
        return self._pictures.get(scene.at(scene.steps))

    def draw(self, scene: Scene, photo: Photo | None, wanted: Callable[[], bool]) -> "Image":
        """The picture of a scene, kept or drawn now; the same scene gives the same picture.

        Raises Superseded as soon as `wanted` says no, and as `steer` does.
        """
        image = self.kept(scene)
        if image is None:
            with self._watched(wanted):
                if scene.photo is None:
                    pipe = self._pipe(scene.sampler)
                    with self._edited(pipe, scene.edit):
                        pixels = sample(pipe, [scene.seed], scene.steps, **self.call(scene))[0]
                else:
                    trip = self.trip(scene, photo)
                    with self._edited(trip.pipe, scene.edit):
                        pixels = trip.draw()
            image = to_image(pixels)
            self._pictures.put(scene.at(scene.steps), image)
        return image

    def trip(self, scene: Scene, photo: Photo | None) -> RoundTrip:
        """The photo of a scene, run back to its noise in as many steps as the scene has. Raises PhotoError, SteerError."""
        if photo is None or photo.digest != scene.photo:
            message = "the photo is not here any more: nothing was drawn. Upload it again"
            raise SteerError(message)
        key = (photo.digest, scene.steps, scene.prompt, scene.guidance)
        found = self._trips.get(key)
        if found is None:
            found = RoundTrip(self.pipe, photo.image, steps=scene.steps, **self.call(scene))
            with self._edited(found.pipe, None):
                _ = found.reconstruction
            self._trips.put(key, found)
        return found

    def call(self, scene: Scene) -> dict[str, Any]:
        """What goes to the pipeline besides seed and steps: prompt and guidance, where it takes them."""
        if not self.prompted:
            return {}
        guided = "guidance_scale" in inspect.signature(self.pipe.__call__).parameters
        return {"prompt": scene.prompt, **({"guidance_scale": scene.guidance} if guided else {})}

    def _pipe(self, sampler: str) -> Any:
        name = sampler or next(iter(self.samplers))
        if name not in self.samplers:
            raise unknown(kind=f"sampler of {self.model_id}:", name=name, known=self.samplers)
        if name not in self._pipes:
            self._pipes[name] = self.samplers[name].open(self.pipe)
        return self._pipes[name]

    @contextmanager
    def _edited(self, pipe: Any, edit: Sliders | None) -> Iterator[None]:
        """Have exactly this edit act on `pipe`. What is attached stays so, at other scales, while its directions do.

        An unedited picture drawn in between costs a factor of zero, under which the hooks add exactly nothing.
        """
        wanted = () if edit is None else tuple(slider.model_copy(update={"scale": 1.0}) for slider in edit.sliders)
        if self._attached is not None and (self._attached[0] is not pipe or (wanted and self._attached[1] != wanted)):
            self._attached[2].remove()
            self._attached = None
        if edit is None:
            if self._attached is not None:
                self._attached[2].set_scale(0.0)
        elif self._attached is None:
            self._attached = (pipe, wanted, steer(pipe, edit, bank=self.bank).attach())
        else:
            self._attached[2].set_scale(1.0)
            for slider in edit.sliders:
                self._attached[2].set_scale(slider.scale, slider.key)
        yield

    @contextmanager
    def _watched(self, wanted: Callable[[], bool]) -> Iterator[None]:
        """Look before every pass of a denoiser whether the picture is still wanted."""

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
