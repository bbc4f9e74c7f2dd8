"""The steps of a checkpoint: which ones are still needed, and doing one of them as a worker does.

A worker gets a `StepTask` with everything it needs and returns the new set as bytes. It never writes the catalog.
"""

import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eigenbank.plans.transport import SetFiles, fetch_pipeline, pack, unpack
from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import SetRow
from eigenbank.registry.hub.client import folder_of, parse_location
from eigenbank.registry.sets.folder import MANIFEST
from eigenbank.registry.sets.provenance import build_key, key_of, stamped, steps_of
from eigenbank.schemas.errors import EigenbankError
from eigenbank.schemas.plan import STEPS, PlanEntry, Settings, Step

if TYPE_CHECKING:
    from eigenbank.registry.sets.direction_set import DirectionSet

Log = Callable[[str], None]


@dataclass(frozen=True)
class RunOptions:
    """What to do beyond building: `label` with previews, and `publish` under this user or organisation."""

    label: bool = False
    publish: str | None = None

    def repo(self, entry: PlanEntry) -> str | None:
        """Return the repository to publish a checkpoint's directions in, None without publishing."""
        return None if self.publish is None else f"{self.publish}/{entry.directions_name}"

    def steps(self, settings: Settings) -> tuple[Step, ...]:
        """Return a checkpoint's steps in order. The build is always one of them: the others need its set."""
        asked = {"build": True, "label": self.label, "preview": self.label, "publish": self.publish is not None}
        return tuple(step for step in STEPS if step == "build" or (asked[step] and step in settings.steps))


def step_keys(settings: Settings) -> dict[str, str]:
    """Return a key for each step that changes a set: equal keys give equal sets of one revision."""
    drawn = settings.drawing.model_dump(mode="json", exclude={"device", "offload"}, exclude_defaults=True)
    measured = settings.measurement.model_dump(mode="json")
    return {
        "build": build_key(settings.layers, settings.recipes, settings.top_k),
        "label": key_of([settings.asked_labelers, measured, drawn]),
        "preview": key_of([settings.previews.model_dump(mode="json"), drawn]),
    }


def remaining(entry: PlanEntry, settings: Settings, row: SetRow | None, options: RunOptions) -> tuple[Step, ...]:
    """Return the steps still to do, in order: from the first one without a result for this revision and these settings.

    `row` is the catalog's set of that checkpoint and revision, if there is one.
    """
    steps = options.steps(settings)
    if row is None or not _exists(row):
        return steps
    done, keys = steps_of(row.builder), step_keys(settings)
    for number, step in enumerate(steps):
        if step == "publish":
            there = row.commit is not None and row.repo == options.repo(entry)
        else:
            there = done.get(step) == keys[step]
        if not there:
            return steps[number:]
    return ()


def _exists(row: SetRow) -> bool:
    """Whether a set is where the catalog says. One published at a commit can always be fetched."""
    return parse_location(row.location) is not None or (folder_of(row.location) / MANIFEST).is_file()


@dataclass(frozen=True)
class StepTask:
    """One step of one checkpoint. `files` is the set that the steps before it made, None for a build."""

    step: Step
    entry: PlanEntry
    settings: Settings
    revision: str
    device: str = "cpu"
    files: SetFiles | None = None


@dataclass(frozen=True)
class StepResult:
    """The set a step made. `bytes_read` counts bytes of weights; `messages` are for the user."""

    files: SetFiles
    seconds: float
    bytes_read: int | None = None
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepFailure:
    """Why a step failed, in words; with a traceback where it was a bug rather than an expected error."""

    message: str
    seconds: float = 0.0
    traceback: str | None = None

    @classmethod
    def of(cls, error: BaseException, started: float) -> "StepFailure":
        """Return the failure that an exception means; `started` is when the work began, by `perf_counter`."""
        seconds = time.perf_counter() - started
        if isinstance(error, EigenbankError):
            return cls(str(error), seconds)
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return cls(f"a bug, or a broken installation: {type(error).__name__}: {error}", seconds, trace)


def perform(task: StepTask, progress: Progress = no_progress) -> StepResult | StepFailure:
    """Do a step. Only an interrupt is raised: anything else that goes wrong is this checkpoint's own failure."""
    started = time.perf_counter()
    messages: list[str] = []
    try:
        with tempfile.TemporaryDirectory(prefix="eigenbank-step-", ignore_cleanup_errors=True) as folder:
            made, bytes_read = _STEPS[task.step](task, Path(folder), progress, messages.append)
            made.save(Path(folder) / "set")
            files = pack(Path(folder) / "set")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return StepFailure.of(error, started)
    return StepResult(files, time.perf_counter() - started, bytes_read, tuple(messages))


def _build(task: StepTask, _folder: Path, progress: Progress, _log: Log) -> "tuple[DirectionSet, int | None]":
    from eigenbank.builders.build import build
    from eigenbank.builders.checkpoints.hub import open_hub

    entry, settings = task.entry, task.settings
    source = open_hub(entry.source, revision=task.revision, variant=entry.variant, subfolder=entry.subfolder)
    directions = build(
        source,
        entry.id,
        layers=settings.layers,
        recipes=settings.recipes,
        top_k=settings.top_k,
        device=task.device,
        progress=progress,
    )
    return directions, sum(each.bytes_read for each in source.all)


def _label(task: StepTask, folder: Path, progress: Progress, log: Log) -> "tuple[DirectionSet, int | None]":
    from eigenbank.builders.label.labeler import open_labelers
    from eigenbank.builders.label.settings import LabelSettings
    from eigenbank.naming import label
    from eigenbank.registry.files import readings_folder

    settings, keys = task.settings, step_keys(task.settings)
    checkpoint = _fetch(task)
    labelers = open_labelers(list(settings.asked_labelers), checkpoint)
    labelled = label(
        _open_pipeline(task, checkpoint),
        _open_set(task, folder),
        labelers,
        LabelSettings(**dict(settings.measurement)),
        drawing=settings.drawing,
        # A worker that is lost half way leaves its readings for the next one on the same machine.
        cache=readings_folder(),
        progress=progress,
        log=log,
    )
    # Without a label there is nothing to preview: that step is done, too.
    previewed = {} if any(each.labels for each in labelled.sliders) else {"preview": keys["preview"]}
    return _stamped(labelled, without=("preview",), label=keys["label"], **previewed), None


def _preview(task: StepTask, folder: Path, progress: Progress, log: Log) -> "tuple[DirectionSet, int | None]":
    from eigenbank.naming import preview

    directions, previews = _open_set(task, folder), task.settings.previews
    chosen = [each.id for each in directions.sliders if each.labels][: previews.most]
    if chosen:
        directions = preview(
            _open_pipeline(task, _fetch(task)),
            directions,
            chosen,
            seeds=previews.seeds,
            scales=previews.scales,
            drawing=task.settings.drawing,
            progress=progress,
            log=log,
        )
    return _stamped(directions, preview=step_keys(task.settings)["preview"]), None


_STEPS: "dict[str, Callable[[StepTask, Path, Progress, Log], tuple[DirectionSet, int | None]]]" = {
    "build": _build,
    "label": _label,
    "preview": _preview,
}


def _stamped(directions: "DirectionSet", without: tuple[str, ...] = (), **steps: str) -> "DirectionSet":
    """Return the set with the keys of these steps in its provenance."""
    builder = stamped(directions.manifest.builder, without=without, **steps)
    return directions.replaced(directions.manifest.model_copy(update={"builder": builder}))


def _open_set(task: StepTask, folder: Path) -> "DirectionSet":
    from eigenbank.registry.sets.direction_set import DirectionSet

    assert task.files is not None
    return DirectionSet.open(unpack(task.files, folder / "before"))


def _fetch(task: StepTask) -> Path:
    entry = task.entry
    return fetch_pipeline(entry.source, task.revision, task.settings.drawing.variant or entry.variant)


def _open_pipeline(task: StepTask, folder: Path) -> Any:
    """Open the pipeline on the task's device. Raises SourceError."""
    from eigenbank.loaders.pipelines import open_pipeline

    drawing = task.settings.drawing
    if task.device != "auto":
        drawing = drawing.model_copy(update={"device": task.device})
    return open_pipeline(folder, drawing)
