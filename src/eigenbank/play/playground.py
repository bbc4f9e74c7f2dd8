"""The playground without its page: models, visitors' sessions, and the pair of images a request gives."""

import hashlib
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eigenbank.loaders.image_grid import to_image
from eigenbank.loaders.photo import open_picture, to_rgb
from eigenbank.play.model import LoadedModel, LruCache, Photo, Superseded
from eigenbank.play.request import ImageRequest
from eigenbank.schemas import SliderSetting
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import PhotoError, unknown

if TYPE_CHECKING:
    from PIL.Image import Image

MODELS = 2
"""How many models to hold in memory."""
PHOTO_SIDE = 1024
"""The longest side of a session's photo; larger ones are scaled down."""


@dataclass(frozen=True)
class ImagePair:
    """The unedited and the edited image of a request, both in `steps` steps; `full` if those are all it asked for.

    With a photo, `photo` is the photo as the model sees it, `error` the root mean square error of its reconstruction (of a
    range of 1), and `warning` says in words if that is large. `seconds` is the time sampling took, 0 for a cached image.
    """

    unedited: "Image"
    edited: "Image"
    steps: int
    seconds: float
    full: bool
    photo: "Image | None" = None
    error: float | None = None
    warning: str | None = None


class Session:
    """One visitor's tab: its sliders, its photo, and the image it is waiting for."""

    def __init__(self) -> None:
        self.sliders: tuple[SliderSetting, ...] = ()
        """The sliders on the page, in order; the page holds their scales."""
        self.ranges: tuple[tuple[float, float], ...] = ()
        """The range of each."""
        self.photo: Photo | None = None
        self._lock = threading.Lock()
        self.current: _Sampling | None = None

    def begin(self, request: ImageRequest, *, preview: bool) -> "_Sampling | None":
        """Make this the image that the visitor waits for, instead of any other.

        Returns None for a preview of an image that is being sampled in full: it would come too late.
        """
        with self._lock:
            current = self.current
            if (
                preview
                and current is not None
                and not current.preview
                and not current.done
                and current.request == request
            ):
                return None
            self.current = _Sampling(request, preview)
            return self.current


@dataclass(eq=False)
class _Sampling:
    request: ImageRequest
    preview: bool
    done: bool = False


class Playground:
    """Everything the page can do, one image at a time for all visitors. `models` maps ids to checkpoint folders."""

    def __init__(self, models: Mapping[str, Path], drawing: Drawing | None = None) -> None:
        self.models = dict(models)
        self.drawing = drawing
        self._loaded: LruCache[str, LoadedModel] = LruCache(MODELS)
        self._sampling = threading.Lock()

    def model(self, model_id: str) -> LoadedModel:
        """Return a model, loaded at first use. Raises UnknownNameError with near matches, SetError or SourceError."""
        if model_id not in self.models:
            raise unknown(kind="model here", name=model_id, known=self.models)
        found = self._loaded.get(model_id)
        if found is None:
            with self._sampling:
                found = self._loaded.get(model_id)
                if found is None:
                    found = LoadedModel(model_id, self.models[model_id], self.drawing)
                    self._loaded.put(model_id, found)
        return found

    def sample(self, session: Session, request: ImageRequest, *, dragging: int = 0) -> ImagePair | None:
        """Return the images of a request; with `dragging`, in that many steps at most, unless the full run is cached.

        Returns None where the same session asked for something newer in the meantime. Raises as `steer` does, and
        PhotoError.
        """
        model = self.model(request.model)
        preview = bool(dragging) and dragging < request.steps and model.cached(request) is None
        task = session.begin(request, preview=preview)
        if task is None:
            return None
        try:
            with self._sampling:
                return self._sample(model, session, task, dragging if preview else request.steps)
        except Superseded:
            return None
        finally:
            task.done = True

    def prepare(self, session: Session, request: ImageRequest, dragging: int) -> None:
        """Sample ahead what the first move of a slider will need: the unedited image in few steps.

        Stops as soon as the session asks for something. Raises as `sample` does.
        """
        model, current = self.model(request.model), session.current
        preview = request.unedited.model_copy(update={"steps": min(dragging, request.steps)})
        with self._sampling, suppress(Superseded):
            model.sample(preview, session.photo, lambda: session.current is current)

    def read_photo(self, session: Session, path: Path) -> Photo:
        """Read a session's photo. Raises PhotoError for a file that is not an image, damaged or too large."""
        image, notes = to_rgb(open_picture(path))
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            message = f"the photo cannot be read ({error.strerror}): nothing was edited. Upload it again"
            raise PhotoError(message) from error
        image.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
        session.photo = Photo(digest, image, tuple(notes))
        return session.photo

    def _sample(self, model: LoadedModel, session: Session, task: _Sampling, steps: int) -> ImagePair:
        request = task.request.model_copy(update={"steps": steps})
        photo = session.photo

        def wanted() -> bool:
            return session.current is task

        if not wanted():
            raise Superseded
        started = time.perf_counter()
        cached = model.cached(request) is not None
        unedited = model.sample(request.unedited, photo, wanted)
        edited = model.sample(request, photo, wanted) if request.moved else unedited
        seconds = 0.0 if cached else time.perf_counter() - started
        full = steps == task.request.steps
        if request.photo is None:
            return ImagePair(unedited, edited, steps, seconds, full)
        found = model.invert(request, photo)
        return ImagePair(unedited, edited, steps, seconds, full, to_image(found.original), found.error, found.poor)
