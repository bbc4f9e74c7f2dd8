"""A step of a checkpoint, as a worker does it: from what it is handed to a new set, or to a failure in words.

A worker writes no catalog. What it needs is in the task, what it made is in the answer: as a folder on the machine they
share, or as bytes. Everything here can be pickled.
"""

import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eigenbank.plans.decide import keys_of
from eigenbank.plans.fetch import fetch_pipeline
from eigenbank.plans.pack import Packed, pack, unpack
from eigenbank.progress import Progress, unwatched
from eigenbank.schemas.errors import EigenbankError
from eigenbank.schemas.plan import Entry, Settings, Step

if TYPE_CHECKING:
    from eigenbank.registry.sets.direction_set import DirectionSet

Made = Path | Packed
"""A set: its folder, or its files."""


@dataclass(frozen=True)
class Task:
    """One step of one checkpoint. `made` is the set the steps before left; `staging` the folder to write the new one
    in, None where it is to come back as bytes.
    """

    step: Step
    entry: Entry
    settings: Settings
    revision: str
    device: str = "cpu"
    made: Made | None = None
    staging: Path | None = None


@dataclass(frozen=True)
class Result:
    """What a step made. `bytes_read` are those of weights that were read; `said` is for the user."""

    made: Made
    seconds: float
    bytes_read: int | None = None
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why a step failed, in words; the traceback where that was no error of ours, but a bug."""

    message: str
    seconds: float = 0.0
    traceback: str | None = None

    @classmethod
    def of(cls, error: BaseException, begun: float) -> "Failure":
        """What an exception means; `begun` is when the work began, by `perf_counter`."""
        seconds = time.perf_counter() - begun
        if isinstance(error, EigenbankError):
            return cls(str(error), seconds)
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return cls(f"a bug, or a broken installation: {type(error).__name__}: {error}", seconds, trace)


Answer = Result | Failure


def perform(task: Task, progress: Progress = unwatched) -> Answer:
    """Do a step. Never raises but for an interrupt: whatever goes wrong is this checkpoint's own failure."""
    begun = time.perf_counter()
    said: list[str] = []
    try:
        with _workplace(task.staging) as place:
            bank, read = _STEPS[task.step](task, place, progress, said.append)
            bank.save(place / "set")
            made: Made = pack(place / "set")
            if task.staging is not None:
                made = task.staging / f"{place.name}-set"
                (place / "set").rename(made)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return Failure.of(error, begun)
    return Result(made, time.perf_counter() - begun, read, tuple(said))


@contextmanager
def _workplace(staging: Path | None) -> Iterator[Path]:
    """A folder of the step's own, removed after; beside the others where there is a staging folder."""
    place = Path(tempfile.mkdtemp(prefix="step-", dir=staging))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


Say = Callable[[str], None]


def _build(task: Task, _place: Path, progress: Progress, _say: Say) -> "tuple[DirectionSet, int | None]":
    from eigenbank.builders.build import build
    from eigenbank.builders.checkpoints.hub import open_hub

    entry, settings = task.entry, task.settings
    source = open_hub(entry.source, revision=task.revision, variant=entry.variant, subfolder=entry.subfolder)
    bank = build(
        source,
        entry.id,
        layers=settings.layers,
        recipes=settings.recipes,
        top_k=settings.top_k,
        device=task.device,
        progress=progress,
    )
    return bank, source.bytes_read


def _label(task: Task, place: Path, progress: Progress, say: Say) -> "tuple[DirectionSet, int | None]":
    from eigenbank.builders.label.labeler import open_labelers
    from eigenbank.builders.label.study import Plan, label
    from eigenbank.registry.paths import readings_folder
    from eigenbank.registry.sets.provenance import stamped

    settings, keys = task.settings, keys_of(task.settings)
    checkpoint = fetch_pipeline(task.entry, task.revision)
    labelers = open_labelers(list(settings.asked_labelers), checkpoint)
    bank = label(
        _bank(task, place),
        _open_pipeline(task, checkpoint),
        labelers,
        Plan(**dict(settings.measurement)),
        call=_call(task),
        # What a worker lost half way has read is there for the next one on the same machine.
        cache=readings_folder(),
        progress=progress,
        say=say,
    )
    # Without a label there is nothing to be drawn: that step is done, too.
    steps = {"label": keys["label"]} | (
        {} if any(each.labels for each in bank.sliders) else {"preview": keys["preview"]}
    )
    builder = stamped(bank.manifest.builder, without=("preview",), **steps)
    return bank.replaced(bank.manifest.model_copy(update={"builder": builder})), None


def _preview(task: Task, place: Path, progress: Progress, _say: Say) -> "tuple[DirectionSet, int | None]":
    from eigenbank.loaders.preview import draw_preview
    from eigenbank.registry.sets.provenance import stamped

    bank, how = _bank(task, place), task.settings.previews
    chosen = [each for each in bank.sliders if each.labels][: how.most]
    drawn = {}
    if chosen:
        pipe = _open_pipeline(task, fetch_pipeline(task.entry, task.revision))
        for number, each in enumerate(chosen):
            drawn[each.id] = draw_preview(
                pipe, each, seeds=how.seeds, scales=how.scales, steps=how.steps, **_call(task)
            )
            progress("previews", number + 1, len(chosen))
    bank = bank.with_previews(drawn)
    builder = stamped(bank.manifest.builder, preview=keys_of(task.settings)["preview"])
    return bank.replaced(bank.manifest.model_copy(update={"builder": builder})), None


_STEPS: "dict[str, Callable[[Task, Path, Progress, Say], tuple[DirectionSet, int | None]]]" = {
    "build": _build,
    "label": _label,
    "preview": _preview,
}


def _bank(task: Task, place: Path) -> "DirectionSet":
    """The set the task is handed, opened."""
    from eigenbank.registry.sets.direction_set import DirectionSet

    assert task.made is not None
    return DirectionSet.open(task.made if isinstance(task.made, Path) else unpack(task.made, place / "before"))


def _call(task: Task) -> dict[str, Any]:
    """What the pipeline is called with, beside seeds and steps."""
    return {} if task.settings.prompt is None else {"prompt": task.settings.prompt}


def _open_pipeline(task: Task, folder: Path) -> Any:
    """The pipeline on the device that was asked for. Raises SourceError."""
    from eigenbank.builders.build import pick_device
    from eigenbank.loaders.pipelines import open_pipeline

    return open_pipeline(folder, pick_device(task.device))
