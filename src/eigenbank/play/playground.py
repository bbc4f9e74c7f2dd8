"""The playground without its page: models, sessions and the pair of pictures a set of sliders makes."""

import hashlib
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eigenbank.loaders.photo import open_picture, to_rgb
from eigenbank.loaders.sheet import to_image
from eigenbank.play.kept import Kept
from eigenbank.play.scene import Scene
from eigenbank.play.studio import Photo, Studio, Superseded
from eigenbank.schemas import Slider
from eigenbank.schemas.errors import PhotoError, unknown

if TYPE_CHECKING:
    from PIL.Image import Image

MODELS = 2
"""Models held in memory at once."""
PHOTO_SIDE = 1024
"""Longest side of a photo kept for a session; larger ones are reduced."""


@dataclass(frozen=True)
class Shown:
    """What a page shows of a scene: the unedited picture and the edited one, in as many `steps` both.

    `photo` is the photo as the model sees it and `error` that of its unedited round trip (root mean square, of a range of
    1), `poor` in words what is wrong with it; None without a photo. `seconds` is how long drawing took, 0 for what was kept.
    """

    unedited: "Image"
    edited: "Image"
    steps: int
    seconds: float
    full: bool
    photo: "Image | None" = None
    error: float | None = None
    poor: str | None = None


class Session:
    """One visitor's tab: what it is having drawn now, and its photo."""

    def __init__(self) -> None:
        self.sliders: tuple[Slider, ...] = ()
        """The sliders on the page, in its order; their scales are what the page says."""
        self.ranges: tuple[tuple[float, float], ...] = ()
        """From where to where each of them goes."""
        self.photo: Photo | None = None
        self._lock = threading.Lock()
        self.now: _Task | None = None

    def begin(self, scene: Scene, *, preview: bool) -> "_Task | None":
        """Make this the picture wanted; whatever was being drawn is not any more. None for a preview of what is being
        drawn in full: it would come too late."""
        with self._lock:
            now = self.now
            if preview and now is not None and not now.preview and not now.done and now.scene == scene:
                return None
            self.now = _Task(scene, preview)
            return self.now


@dataclass(eq=False)
class _Task:
    scene: Scene
    preview: bool
    done: bool = False


class Playground:
    """Everything the page can do. Draws one picture at a time, whoever asks; `models` are ids with their checkpoints."""

    def __init__(self, models: Mapping[str, Path], device: str = "cpu") -> None:
        self.models = dict(models)
        self.device = device
        self._studios: Kept[str, Studio] = Kept(MODELS)
        self._drawing = threading.Lock()

    def studio(self, model: str) -> Studio:
        """A model, loaded if it is not. Raises UnknownNameError with near matches, SetError or SourceError."""
        if model not in self.models:
            raise unknown(kind="model here", name=model[:200], known=self.models)
        found = self._studios.get(model)
        if found is None:
            with self._drawing:
                found = self._studios.get(model)
                if found is None:
                    found = Studio(model, self.models[model], self.device)
                    self._studios.put(model, found)
        return found

    def show(self, session: Session, scene: Scene, *, dragging: int = 0) -> Shown | None:
        """The pictures of a scene; with `dragging`, in that many steps at most, unless the full run is at hand.

        Returns None where something newer was asked for by the same session meanwhile. Raises as `steer` does, and
        PhotoError.
        """
        studio = self.studio(scene.model)
        preview = bool(dragging) and dragging < scene.steps and studio.kept(scene) is None
        task = session.begin(scene, preview=preview)
        if task is None:
            return None
        try:
            with self._drawing:
                return self._draw(studio, session, task, dragging if preview else scene.steps)
        except Superseded:
            return None
        finally:
            task.done = True

    def prepare(self, session: Session, scene: Scene, dragging: int) -> None:
        """Draw what the first move of a slider needs besides its own picture: the unedited one in few steps.

        Given up as soon as the session asks for something. Raises as `show` does.
        """
        studio, now = self.studio(scene.model), session.now
        few = scene.unedited.model_copy(update={"steps": min(dragging, scene.steps)})
        with self._drawing, suppress(Superseded):
            studio.draw(few, session.photo, lambda: session.now is now)

    def read_photo(self, session: Session, path: Path) -> Photo:
        """Take a photo for a session. Raises PhotoError for what is no picture, damaged or too large."""
        image, notes = to_rgb(open_picture(path))
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            message = f"the photo cannot be read ({error.strerror}): nothing was edited. Upload it again"
            raise PhotoError(message) from error
        image.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
        session.photo = Photo(digest, image, tuple(notes))
        return session.photo

    def _draw(self, studio: Studio, session: Session, task: _Task, steps: int) -> Shown:
        scene = task.scene.model_copy(update={"steps": steps})
        photo = session.photo

        def wanted() -> bool:
            return session.now is task

        if not wanted():
            raise Superseded
        started = time.perf_counter()
        at_hand = studio.kept(scene) is not None
        unedited = studio.draw(scene.unedited, photo, wanted)
        edited = studio.draw(scene, photo, wanted) if scene.moved else unedited
        seconds = 0.0 if at_hand else time.perf_counter() - started
        full = steps == task.scene.steps
        if scene.photo is None:
            return Shown(unedited, edited, steps, seconds, full)
        trip = studio.trip(scene, photo)
        return Shown(unedited, edited, steps, seconds, full, to_image(trip.original), trip.error, trip.poor)
