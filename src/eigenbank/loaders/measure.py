"""Measure what directions do to a pipeline's images: readings of the edited and of the unedited ones."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
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
from eigenbank.loaders.drawing import as_drawing
from eigenbank.loaders.lengths import measure
from eigenbank.loaders.memory import batch_size, in_batches
from eigenbank.loaders.pictures import NO_SAFETY_CHECKER, Pictures
from eigenbank.loaders.plugins import target_of
from eigenbank.loaders.predicted import PredictedPictures
from eigenbank.loaders.sample import sample_pictures
from eigenbank.loaders.steer import steer
from eigenbank.progress import Count, no_count
from eigenbank.registry.sets.direction_set import Direction, DirectionSet, Lora, Slider
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import SteerError

Read = Callable[[Tensor], Tensor]
"""Maps images `(n, 3, h, w)` in [0, 1] to `(n, f)` readings."""

LOOK = 0.3
"""How far into the run pictures are predicted: the best of those tried, see `benchmarks/screening.py`."""
VERSION = 2
"""Raised whenever pictures are generated, or readings of them kept, in another way: older readings are then not used."""
WITHOUT_EFFECT = ("safety_checker", "requires_safety_checker")
"""Parts of a pipeline that shape no picture that is measured."""


class PipelineMeasurements:
    """Measures on one pipeline, always with as many steps and the same arguments: what labelling needs of it.

    `drawing` and `call` say how to generate, as for `sample`. `batch` is how many images are generated at once at most, by
    default as many as the memory holds.

    A picture that a safety checker blacked out is never measured: it raises SteerError. A reading is NaN where an edit broke
    the picture, so that it is one colour or not finite. A video's reading is the mean over its first, middle and last frame.
    """

    def __init__(
        self, pipe: Any, steps: int, *, drawing: Drawing | None = None, batch: int | None = None, **call: Any
    ) -> None:
        self.pipe = pipe
        self.steps = steps
        self.drawing = as_drawing(drawing, call)
        self.batch = batch
        self.call = call
        self._caches: dict[Path, _ReadingCache] = {}

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all that shapes a picture: what the pipeline is made of, down to the weights, and what it is given."""
        target = target_of(self.pipe)
        owner = target.owner
        config = getattr(owner, "config", None)
        settings = {name: config[name] for name in config if name[:1] != "_"} if isinstance(config, Mapping) else {}
        parts = {name: vars(owner).get(name, settings.get(name)) for name in settings or vars(owner)}
        for name in WITHOUT_EFFECT:
            parts.pop(name, None)
        if parts.get("image_encoder") is None:  # then it prepares pictures for the safety checker alone
            parts.pop("feature_extractor", None)
        made = [VERSION, diffusers.__version__, type(owner).__qualname__, self.steps]
        # The rest of a drawing says how to open the pipeline: that is in its parts.
        said = self.drawing.model_dump(include={"prompts", "negative_prompt", "guidance_scale", "size"})
        return digest_of([made, said, self.call, {**parts, **target.denoisers}])

    def calibrated(self, directions: DirectionSet) -> DirectionSet:
        """The set, with the token length of every site that it uses, as in `lengths.measure`."""
        return measure(self.pipe, directions, steps=self.steps, drawing=self.drawing, **self.call)

    def check(self, slider: Slider) -> None:
        """Attach a slider and remove it. Raises what `steer` raises, of a LoRA also for its file."""
        with steer(self.pipe, {slider: 1.0}):
            pass

    def unedited(
        self, read: Read, seeds: Sequence[int], *, cache: Path | None = None, progress: Count = no_count
    ) -> Tensor:
        """Readings `(n, f)` of the pipeline's own images, kept in the folder `cache`, if any. `progress` as for `edited`.

        Raises SteerError where these are blank: a pipeline whose images are has nothing to be named.
        """
        kept = self._kept(cache)
        missing = kept.lacks(_keys_unedited(seeds))
        progress(0, len(missing))
        return self._unedited(read, seeds, kept, lambda done: progress(done, len(missing)))

    def edited(
        self,
        sliders: Sequence[Slider],
        read: Read,
        *,
        scale: float,
        seeds: Sequence[int],
        force: bool = False,
        cache: Path | None = None,
        progress: Count = no_count,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Readings `(n, f)` of the unedited images, and `(K, n, f)` with each slider at `scale` and at its negative.

        Different sliders share a batch: scales are per sample. `force` takes sliders that are none of the pipeline's
        weights, as in `steer`. `cache` is a folder that keeps the readings of each image: what was generated before, for
        these sliders or others, is not generated again. It must be of this `fingerprint` and `read`. `progress` is called
        with the images generated and all that are to be, at first with none; what was kept is none of them. Raises SteerError.
        """
        kept = self._kept(cache)
        edits = _Edits(sliders, scale, seeds)
        own = len(kept.lacks(_keys_unedited(seeds)))
        total = own + len(kept.lacks(edits.keys))
        progress(0, total)
        base = self._unedited(read, seeds, kept, lambda done: progress(done, total))
        found = self._edited(edits, read, self._pictures, kept, force, lambda done: progress(own + done, total))
        return base, *found

    def predicted_before(
        self, sliders: Sequence[Direction], *, scale: float, seeds: Sequence[int], cache: Path | None
    ) -> list[int]:
        """The numbers of the sliders for which all that `predicted` reads on these seeds is kept in the folder `cache`."""
        kept, found = self._kept(cache), []
        for number, slider in enumerate(sliders):
            edits = _Edits([slider], scale, seeds, _tag(step_to_look_at(slider, self.steps)))
            if not kept.lacks([*_keys_unedited(seeds, edits.tag), *edits.keys]):
                found.append(number)
        return found

    def predicted(
        self,
        sliders: Sequence[Slider],
        read: Read,
        *,
        scale: float,
        seeds: Sequence[int],
        force: bool = False,
        cache: Path | None = None,
        progress: Count = no_count,
    ) -> tuple[Tensor, Tensor]:
        """Changes of readings `(K, n, f)` with each slider at `scale` and at its negative, in pictures of one denoiser pass.

        They are what one step of the unedited run predicts, see `loaders.predicted`: of the steps in a slider's window the one
        nearest to `LOOK`. Arguments, NaN and errors as for `edited`; SteerError also where pictures cannot be predicted.
        """
        denoisers = target_of(self.pipe).denoisers
        if len(denoisers) > 1:
            message = f"this pipeline has {len(denoisers)} denoisers, and a single pass shows one of them at work"
            raise SteerError(message)
        kept, done = self._kept(cache), 0
        steps = [step_to_look_at(each, self.steps) for each in sliders]
        groups = {
            at: _Edits([each for each, step in zip(sliders, steps, strict=True) if step == at], scale, seeds, _tag(at))
            for at in sorted(set(steps))
        }
        total = sum(len(kept.lacks([*_keys_unedited(seeds, each.tag), *each.keys])) for each in groups.values())
        progress(0, total)

        def drawn_after(before: int) -> Callable[[int], None]:
            return lambda done: progress(before + done, total)

        plus, minus = [], []
        for at, edits in groups.items():
            view = PredictedPictures(self.pipe, self.steps, at, self.drawing, self.call)
            own = kept.lacks(_keys_unedited(seeds, edits.tag))
            missing = len(own) + len(kept.lacks(edits.keys))
            for _ in in_batches(view.lacks(seeds) if missing else [], self._batch() if missing else 1, view.follow):
                pass  # they are kept in the view
            base = self._unedited(read, seeds, kept, drawn_after(done), view.draw, edits.tag)
            up, down = self._edited(edits, read, view.draw, kept, force, drawn_after(done + len(own)))
            plus.append(up - base)
            minus.append(down - base)
            done += missing
        order = torch.tensor([k for at in groups for k, step in enumerate(steps) if step == at]).argsort()
        return torch.cat(plus)[order], torch.cat(minus)[order]

    def _edited(
        self,
        edits: "_Edits",
        read: Read,
        draw: Callable[[Sequence[int]], Pictures],
        kept: "_ReadingCache",
        force: bool,
        drawn: Callable[[int], None],
    ) -> tuple[Tensor, Tensor]:
        """Readings `(K, n, f)` with each slider at its scale and at its negative, NaN where it broke the picture."""
        missing, done = kept.lacks(edits.keys), 0

        def read_part(numbers: Sequence[int]) -> Tensor:
            wanted = [edits.jobs[number] for number in numbers]
            scales: dict[Slider, Tensor] = {
                edits.sliders[k]: torch.tensor([sign * edits.scale if k == job else 0.0 for job, sign, _ in wanted])
                for k in sorted({k for k, _, _ in wanted})
            }
            if any(isinstance(each, Lora) for each in scales):  # alone in its batch, at one scale
                scales = {each: scale[0] for each, scale in scales.items()}
            with steer(self.pipe, scales, force=force):
                pictures = _shown(draw([seed for _, _, seed in wanted]))
            good = pictures.finite & ~pictures.flat
            found = torch.full((len(wanted), kept.width), torch.nan)
            if bool(good.any()):
                found[good] = _readings(pictures.frames[good], read)
            return found

        for group in edits.batched_alike(missing):
            for part, readings in in_batches(group, self._batch(), read_part):
                kept.put([edits.keys[number] for number in part], readings)
                done += len(part)
                drawn(done)
        found = [kept[key] for key in edits.keys]
        table = torch.stack(found) if found else torch.empty(0, kept.width)
        plus, minus = table.reshape(len(edits.sliders), 2, len(edits.seeds), kept.width).unbind(1)
        return plus, minus

    def _unedited(
        self,
        read: Read,
        seeds: Sequence[int],
        kept: "_ReadingCache",
        drawn: Callable[[int], None],
        draw: Callable[[Sequence[int]], Pictures] | None = None,
        tag: str = "",
    ) -> Tensor:
        keys = _keys_unedited(seeds, tag)
        missing, done = kept.lacks(keys), 0

        def read_part(numbers: Sequence[int]) -> Tensor:
            pictures = _shown((draw or self._pictures)([seeds[number] for number in numbers]))
            if not bool(pictures.finite.all()) or bool(pictures.flat.all()):
                message = (
                    "the pipeline's unedited images are blank or not finite: no label was given. Generate one and look at it. "
                    "A half-precision overflow makes such images: SDXL's own VAE needs bfloat16 or float32, or its fp16 fix"
                )
                raise SteerError(message)
            return _readings(pictures.frames, read)

        for part, readings in in_batches(missing, self._batch() if missing else 1, read_part):
            kept.put([keys[number] for number in part], readings)
            done += len(part)
            drawn(done)
        return torch.stack([kept[key] for key in keys])

    def _kept(self, folder: Path | None) -> "_ReadingCache":
        """What is kept in a folder; its files are read once."""
        if folder is None:
            return _ReadingCache(None)
        if folder not in self._caches:
            self._caches[folder] = _ReadingCache(folder)
        return self._caches[folder]

    def _batch(self) -> int:
        return self.batch or batch_size(self.pipe, drawing=self.drawing, **self.call)

    def _pictures(self, seeds: Sequence[int]) -> Pictures:
        # A picture's prompt depends on its seed alone, as its reading is kept by that.
        return sample_pictures(self.pipe, seeds, self.steps, drawing=self.drawing.part(seeds), **self.call)


def _shown(pictures: Pictures) -> Pictures:
    """The pictures, unless a safety checker blacked some of them out: then raise SteerError."""
    if any(pictures.withheld):
        problem = f"the safety checker blacked out {sum(pictures.withheld)} of {len(pictures.withheld)} pictures, which show no effect"
        raise SteerError(problem, outcome="they were not measured", advice=NO_SAFETY_CHECKER)
    return pictures


def _readings(frames: Tensor, read: Read) -> Tensor:
    """Read pictures `(n, f, 3, h, w)`: the mean over a picture's frames. Raises SteerError for readings of another form."""
    n, count = frames.shape[:2]
    found = read(frames.flatten(0, 1))
    if found.ndim != 2 or found.shape[0] != n * count or not bool(found.isfinite().all()):
        message = (
            f"the attribute model gave readings of shape {list(found.shape)} for {n * count} images"
            f"{'' if found.isfinite().all() else ', some of them not finite'}: no label was given"
        )
        raise SteerError(message)
    mean: Tensor = found.float().cpu().unflatten(0, (n, count)).mean(dim=1)
    return mean


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

    def lacks(self, keys: Sequence[bytes]) -> list[int]:
        """The positions of the keys it has no reading for."""
        return [number for number, key in enumerate(keys) if key not in self._known]

    def __getitem__(self, key: bytes) -> Tensor:
        return self._known[key]

    @property
    def width(self) -> int:
        """How many readings there are of a picture; 0 before the first."""
        return len(next(iter(self._known.values()), ()))

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


def step_to_look_at(slider: Slider, steps: int) -> int:
    """Return the step whose predicted picture shows best what a slider does: in its window, nearest to `LOOK` of the run."""
    windows = [part.recipe.window for part, _ in slider.parts]
    shown = [sum(number / steps in window for window in windows) for number in range(steps)]
    return min(range(steps), key=lambda number: (-shown[number], abs(number / steps - LOOK)))


@dataclass(frozen=True)
class _Edits:
    """Pictures to draw with each slider at `scale` and at its negative, on each seed; `tag` says how else they are drawn."""

    sliders: Sequence[Slider]
    scale: float
    seeds: Sequence[int]
    tag: str = ""

    @cached_property
    def jobs(self) -> list[tuple[int, float, int]]:
        return [(k, sign, seed) for k in range(len(self.sliders)) for sign in (1.0, -1.0) for seed in self.seeds]

    def batched_alike(self, numbers: Sequence[int]) -> list[list[int]]:
        """Part the jobs of these numbers by what may share a batch: all directions and composites, of each LoRA a scale."""
        groups: dict[tuple[int, float] | None, list[int]] = {}
        for number in numbers:
            k, sign, _ = self.jobs[number]
            groups.setdefault((k, sign) if isinstance(self.sliders[k], Lora) else None, []).append(number)
        return list(groups.values())

    @cached_property
    def keys(self) -> list[bytes]:
        names = [_name(each) for each in self.sliders]
        return [_key(names[k], sign * self.scale, seed, self.tag) for k, sign, seed in self.jobs]


def _name(slider: Slider) -> bytes:
    """Digest what is added: the vectors, their weights, where and when; of a LoRA its file."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(slider, Lora):
        digest.update(f"lora {slider.record.sha256} {slider.random}".encode())
    if slider.branch != "both":
        digest.update(slider.branch.encode())
    for part, weight in slider.parts:
        digest.update(f"{part.layer}/{part.recipe.slug} {weight!r} pass ".encode())
        digest.update(part.vector.contiguous().numpy().tobytes())
    return digest.digest()


def _key(name: bytes, scale: float, seed: int, tag: str = "") -> bytes:
    return hashlib.blake2b(name + f" {scale!r} {seed}{tag}".encode(), digest_size=16).digest()


def _tag(at: int) -> str:
    """What tells readings of pictures predicted at a step from others."""
    return f" at {at}"


def _keys_unedited(seeds: Sequence[int], tag: str = "") -> list[bytes]:
    return [_key(b"unedited", 0.0, seed, tag) for seed in seeds]
