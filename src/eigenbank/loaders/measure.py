"""Measure what directions do to a pipeline's images: readings of the edited and of the unedited ones."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eigenbank.digests import digest_of
from eigenbank.loaders.drawing import image_size
from eigenbank.loaders.lengths import measure
from eigenbank.loaders.plugins import target_of
from eigenbank.loaders.sample import sample
from eigenbank.loaders.steer import steer
from eigenbank.registry.sets.direction_set import Composite, Direction, DirectionSet
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import SteerError

Read = Callable[[Tensor], Tensor]
"""Maps images `(n, 3, h, w)` in [0, 1] to `(n, f)` readings."""

BATCH, BATCH_GPU = 64, 1024
"""Most images generated at once, on the CPU and on a GPU."""
VERSION = 1
"""Raised whenever pictures are generated, or readings of them kept, in another way: older readings are then not used."""
WITHOUT_EFFECT = ("safety_checker", "requires_safety_checker")
"""Parts of a pipeline that shape no picture that is measured."""
PIXELS = 1024**2
"""Most pixels generated at once, unless a single image has more."""


@dataclass(frozen=True)
class Responses:
    """Readings of f attributes for K directions on n seeds: `base` `(n, f)`; `plus` and `minus` `(K, n, f)`."""

    base: Tensor
    plus: Tensor
    minus: Tensor
    scale: float
    seeds: tuple[int, ...]
    steps: int


def measure_responses(
    pipe: Any,
    directions: Sequence[Direction | Composite],
    read: Read,
    *,
    scale: float,
    seeds: Sequence[int],
    steps: int,
    batch: int | None = None,
    force: bool = False,
    cache: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    **call: Any,
) -> Responses:
    """Measure every direction at ±`scale` on every seed. Different directions share a batch: scales are per sample.

    `batch` is how many images are generated at once at most; by default as many as have a million pixels, and fewer where a
    GPU's memory runs out. `force` accepts directions that do not match the pipeline's weights, as in `steer`. `cache` is a
    folder that keeps the readings of each image: what was generated before, for these directions or others, is not
    generated again. It must be of this pipeline, `read`, `steps` and `call`. `progress` is called with the images done and
    all of them. Raises SteerError.
    """
    kept = _ReadingCache(cache)
    batch = batch or batch_size(pipe, **call)
    base = _unedited(pipe, read, seeds, steps, batch, kept, **call)
    jobs = [(k, sign, seed) for k in range(len(directions)) for sign in (1.0, -1.0) for seed in seeds]
    names = [_name(each) for each in directions]
    keys = [_key(names[k], sign * scale, seed) for k, sign, seed in jobs]
    missing = [number for number, key in enumerate(keys) if key not in kept]
    done = len(jobs) - len(missing)

    def generate(numbers: Sequence[int]) -> Tensor:
        wanted = [jobs[number] for number in numbers]
        edits = {
            directions[k]: torch.tensor([sign * scale if k == job else 0.0 for job, sign, _ in wanted])
            for k in sorted({k for k, _, _ in wanted})
        }
        with steer(pipe, edits, force=force):
            return sample(pipe, [seed for _, _, seed in wanted], steps, **call)

    for part, images in _generated(missing, batch, generate):
        kept.put([keys[number] for number in part], _checked(read(images), len(part)))
        done += len(part)
        progress(done, len(jobs))
    if not missing:
        progress(len(jobs), len(jobs))
    table = torch.stack([kept[key] for key in keys]).reshape(len(directions), 2, len(seeds), -1)
    return Responses(base, table[:, 0], table[:, 1], scale, tuple(seeds), steps)


def measure_unedited(
    pipe: Any,
    read: Read,
    seeds: Sequence[int],
    steps: int,
    *,
    batch: int | None = None,
    cache: Path | None = None,
    **call: Any,
) -> Tensor:
    """Read the pipeline's own images, `(n, f)`, kept in `cache` as in `measure_responses`.

    Raises SteerError where these are all one colour: a pipeline whose images are blank has nothing to be named.
    """
    return _unedited(pipe, read, seeds, steps, batch or batch_size(pipe, **call), _ReadingCache(cache), **call)


def batch_size(pipe: Any, *, drawing: Drawing | None = None, **call: Any) -> int:
    """Return how many images to generate at once on the pipeline's device: a million pixels together, but one at least."""
    height, width = image_size(pipe, drawing or Drawing(), call) or (128, 128)
    device = getattr(pipe, "device", torch.device("cpu"))
    return max(1, min(BATCH if device.type == "cpu" else BATCH_GPU, PIXELS // (height * width)))


def _unedited(
    pipe: Any, read: Read, seeds: Sequence[int], steps: int, batch: int, kept: "_ReadingCache", **call: Any
) -> Tensor:
    keys = [_key(b"unedited", 0.0, seed) for seed in seeds]
    missing = [number for number, key in enumerate(keys) if key not in kept]
    if missing:

        def generate(numbers: Sequence[int]) -> Tensor:
            return sample(pipe, [seeds[number] for number in numbers], steps, **call)

        images = torch.cat([drawn for _, drawn in _generated(missing, batch, generate)])
        if not bool(images.isfinite().all()) or float(images.flatten(1).std(dim=1).max()) < 1e-3:
            message = (
                f"the pipeline's {len(missing)} unedited images are blank or not finite: no label was given. "
                "Generate one and look at it; a half-precision overflow makes such images"
            )
            raise SteerError(message)
        kept.put([keys[number] for number in missing], _checked(read(images), len(missing)))
    return torch.stack([kept[key] for key in keys])


class _ReadingCache:
    """Readings of single images by their keys, also on disk where there is a folder: a file for each batch."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._known: dict[bytes, Tensor] = {}
        for path in [] if folder is None else sorted(folder.glob("*.safetensors")):
            with contextlib.suppress(
                OSError, SafetensorError, KeyError, ValueError
            ):  # what is damaged is generated again
                found = load_file(path)
                keys = [key.numpy().tobytes() for key in found["keys"]]
                self._known.update(zip(keys, found["readings"], strict=True))

    def __contains__(self, key: bytes) -> bool:
        return key in self._known

    def __getitem__(self, key: bytes) -> Tensor:
        return self._known[key]

    def put(self, keys: Sequence[bytes], readings: Tensor) -> None:
        """Keep a batch of readings, `(n, f)`."""
        self._known.update(zip(keys, readings, strict=True))
        if self.folder is None:
            return
        name = hashlib.blake2b(b"".join(keys), digest_size=16).hexdigest()
        partial = self.folder / f"{name}.{os.getpid()}"
        tensors = {"keys": torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).reshape(len(keys), -1)}
        with contextlib.suppress(OSError):  # a full disk costs the cache, not the work
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({**tensors, "readings": readings.contiguous()}, partial)
            os.replace(partial, self.folder / f"{name}.safetensors")


def _name(slider: Direction | Composite) -> bytes:
    """Digest what is added: the vectors, their weights, where and when."""
    digest = hashlib.blake2b(digest_size=16)
    for part, weight in slider.parts:
        digest.update(f"{part.layer}/{part.recipe.slug} {weight!r} pass ".encode())
        digest.update(part.vector.contiguous().numpy().tobytes())
    return digest.digest()


def _key(name: bytes, scale: float, seed: int) -> bytes:
    return hashlib.blake2b(name + f" {scale!r} {seed}".encode(), digest_size=16).digest()


def _generated(
    items: Sequence[int], batch: int, generate: Callable[[Sequence[int]], Tensor]
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Yield so many of the items at once, with their images; half as many once a GPU's memory does not suffice."""
    done = 0
    while done < len(items):
        part = items[done : done + batch]
        try:
            images = generate(part)
        except torch.OutOfMemoryError as error:
            if len(part) == 1:
                message = (
                    "the GPU's memory does not suffice for a single image: nothing was measured. Open the pipeline in "
                    "float16 or with offload, or use the CPU"
                )
                raise SteerError(message) from error
            batch, images = len(part) // 2, None
        if images is None:
            torch.cuda.empty_cache()  # not while the error is at hand: it holds what did not fit
        else:
            done += len(part)
            yield part, images


def _checked(readings: Tensor, n: int) -> Tensor:
    if readings.ndim != 2 or readings.shape[0] != n or not bool(readings.isfinite().all()):
        message = (
            f"the attribute model gave readings of shape {list(readings.shape)} for {n} images"
            f"{'' if readings.isfinite().all() else ', some of them not finite'}: no label was given"
        )
        raise SteerError(message)
    return readings.float().cpu()


class PipelineMeasurements:
    """Measures on one pipeline, always with as many steps and the same arguments: what labelling needs of it."""

    def __init__(self, pipe: Any, steps: int, **call: Any) -> None:
        self.pipe = pipe
        self.steps = steps
        self.call = call

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all that shapes a picture: what the pipeline is made of, down to the weights, and what it is given."""
        target = target_of(self.pipe)
        owner = target.owner
        config = getattr(owner, "config", None)
        own = [name for name in config if not name.startswith("_")] if isinstance(config, Mapping) else vars(owner)
        parts = {name: getattr(owner, name, None) for name in own}
        for name in WITHOUT_EFFECT:
            parts.pop(name, None)
        if parts.get("image_encoder") is None:  # then it prepares pictures for the safety checker alone
            parts.pop("feature_extractor", None)
        made = [VERSION, diffusers.__version__, type(owner).__qualname__, self.steps]
        return digest_of([made, self.call, {**parts, **target.denoisers}])

    def calibrated(self, directions: DirectionSet) -> DirectionSet:
        """The set, with the token length of every site that it uses, as in `lengths.measure`."""
        return measure(self.pipe, directions, steps=self.steps, **self.call)

    def unedited(self, read: Read, seeds: Sequence[int], *, cache: Path | None = None) -> Tensor:
        """Readings of the pipeline's own images, as in `measure_unedited`."""
        return measure_unedited(self.pipe, read, seeds, self.steps, cache=cache, **self.call)

    def edited(
        self, sliders: Sequence[Direction | Composite], read: Read, *, scale: float, seeds: Sequence[int], **how: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Readings of the unedited images, and with each slider at `scale` and at its negative, as in `measure_responses`."""
        found = measure_responses(
            self.pipe, sliders, read, scale=scale, seeds=seeds, steps=self.steps, **how, **self.call
        )
        return found.base, found.plus, found.minus
