"""Look at a plan's checkpoints on the Hub before building: is the plan right, which commits, and what would it cost?

Only headers are read, no weights.
"""

import datetime
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from eigenbank.loaders.drawing import check_drawing, own_steps, passes_of, pipeline_class
from eigenbank.plans.files import pinned
from eigenbank.plans.transport import retry
from eigenbank.progress import Progress, no_progress
from eigenbank.registry.hub.client import check_online, hub_api, hub_errors
from eigenbank.schemas import Layer, Recipe
from eigenbank.schemas.errors import DrawingError, EigenbankError, SourceError, UnreachableError
from eigenbank.schemas.plan import Lock, Pin, Plan, PlanEntry, Settings

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

    from eigenbank.builders.checkpoints.source import WeightSource

PARALLEL = 8
TRIES = 6
INDEX = "model_index.json"
TIMED_WIDTH = 1280
"""The widest matrix whose decomposition is timed; for wider ones the time grows with the cube of the width."""
BASE_MEMORY = 400 * 10**6
"""Bytes that torch, diffusers and discovery take before a weight is read, measured by benchmarks/building.py."""
_RENAMED_CLASSES: dict[Any, str] = {
    ("Transformer2DModel", "ada_norm_zero"): "DiTTransformer2DModel",
    ("Transformer2DModel", "ada_norm_single"): "PixArtTransformer2DModel",
}
"""Today's diffusers class for a config.json's former class and norm type."""


@dataclass(frozen=True)
class EntryCheck:
    """What the Hub says about a plan's entry. `revision` is None where no commit was found.

    `problems` lists what differs from the plan or cannot be read, `notes` what is worth knowing; `gone` means that the
    repository or revision does not exist.
    """

    entry: PlanEntry
    revision: str | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    gone: bool = False


def check_entries(entries: Sequence[PlanEntry], plan: Plan, progress: Progress = no_progress) -> list[EntryCheck]:
    """Check every entry of a plan against the Hub. One that fails does not stop the others. Raises OfflineError."""
    check_online("checking a plan", "nothing was checked")
    found = []
    with ThreadPoolExecutor(PARALLEL) as pool:
        for one in pool.map(lambda entry: _check_entry(entry, entry.settings(plan.defaults)), entries):
            found.append(one)
            progress(one.entry.id, len(found), len(entries))
    return found


def _check_entry(entry: PlanEntry, settings: Settings) -> EntryCheck:
    at = f"{entry.source}@{entry.revision}" if entry.revision else entry.source

    def model_info() -> "ModelInfo":
        with hub_errors(f"looking at {at} on the Hub", "It was not checked"):
            return hub_api().model_info(entry.source, revision=entry.revision)

    try:
        info, _ = retry(model_info, TRIES)
    except EigenbankError as error:
        return EntryCheck(entry, problems=(str(error),), gone=not isinstance(error, UnreachableError))
    problems, notes = _compare_repository(entry, info)
    revision = str(info.sha)
    if {"label", "preview"} & set(settings.steps):
        kind = _pipeline_class(entry, revision, [sibling.rfilename for sibling in info.siblings or []])
        try:
            if kind is not None:
                check_drawing(kind, settings.drawing)
        except DrawingError as error:
            problems.append(
                f"{error.problem}: give it in the entry's `drawing`, or leave out its labels and previews (steps)"
            )
    if not any(sibling.rfilename.endswith(".safetensors") for sibling in info.siblings or []):
        notes.append("its weights are pickles (.bin), which a build would download whole: they were not checked")
    else:
        try:
            problems += _compare_denoiser(entry, revision)
        except EigenbankError as error:
            problems.append(str(error))
    return EntryCheck(entry, revision, tuple(problems), tuple(notes))


def _pipeline_class(entry: PlanEntry, revision: str, names: Sequence[str]) -> type | None:
    """Return the class of a repository's pipeline; None where it is none of diffusers', or cannot be read."""
    from eigenbank.builders.checkpoints.hub import small_file

    try:
        return pipeline_class(small_file(entry.source, INDEX, revision)) if INDEX in names else None
    except SourceError:
        return None


def _compare_repository(entry: PlanEntry, info: "ModelInfo") -> tuple[list[str], list[str]]:
    """Problems and notes about the repository's name, gate and licence."""
    problems, notes = [], []
    if info.id != entry.source:
        problems.append(f"the repository {entry.source} was renamed to {info.id}: write repo = {info.id!r}")
    gated = bool(info.gated)
    if entry.gated is not None and gated != entry.gated:
        problems.append(f"the plan says gated = {str(entry.gated).lower()}, the Hub {str(gated).lower()}")
    card: Any = info.card_data
    stated = [str(value) for value in (getattr(card, "license", None), getattr(card, "license_name", None)) if value]
    if entry.licence is not None and entry.licence not in stated:
        problems.append(f"the plan says licence = {entry.licence!r}, its card {' / '.join(stated) or 'none'}")
    if entry.licence is None and stated:
        notes.append(f"its card says licence {' / '.join(stated)}")
    return problems, notes


def _compare_denoiser(entry: PlanEntry, revision: str) -> list[str]:
    """Problems with the checkpoint's files. Raises SourceError where they cannot be read."""
    from eigenbank.builders.checkpoints.hub import open_hub

    source: WeightSource = open_hub(entry.source, revision=revision, variant=entry.variant, subfolder=entry.subfolder)
    found = source.config.get("_class_name")
    found = _RENAMED_CLASSES.get((found, source.config.get("norm_type")), found)
    if entry.denoiser is not None and found != entry.denoiser:
        return [f"the plan says denoiser = {entry.denoiser!r}, its config.json {found!r}"]
    return []


def update_lock(checks: Sequence[EntryCheck], before: Lock | None) -> Lock:
    """Update the lock after a check: pin what was found, drop what is gone, keep the rest of `before`."""
    pins = dict(before.checkpoints) if before is not None else {}
    for one in checks:
        if one.revision is not None:
            pins[one.entry.id] = Pin(repo=one.entry.source, revision=one.revision, asked=one.entry.revision)
        elif one.gone:
            pins.pop(one.entry.id, None)
    return Lock(checked=datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0), checkpoints=pins)


@dataclass(frozen=True)
class Estimate:
    """What a checkpoint costs: `read` of `total` bytes of weights, seconds to read and solve, memory in bytes.

    Labelling generates at most `images`, `screening` of them for all directions; None where only opening the labelers would
    tell. At most `previews` are for previews. `passes` of the denoiser are what all take at most, None where that is unknown.
    """

    entry: PlanEntry
    layers: int
    widths: tuple[int, ...]
    read: int
    total: int
    read_seconds: float
    solve_seconds: float
    memory: int
    screening: int = 0
    images: int | None = 0
    previews: int = 0
    passes: int | None = None


def estimate_entries(
    entries: Sequence[PlanEntry],
    plan: Plan,
    lock: Lock | None,
    *,
    bytes_per_second: float,
    progress: Progress = no_progress,
) -> Iterator[tuple[PlanEntry, "Estimate | str"]]:
    """Estimate what building each entry costs; yields it, or why it is unknown, in words."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        opened = pool.map(lambda entry: _open(entry, lock), entries)
        # One at a time from here: tracing a denoiser is work for the processor.
        for number, (entry, source) in enumerate(zip(entries, opened, strict=True)):
            found = source if isinstance(source, str) else _estimate(entry, source, plan, bytes_per_second)
            progress(entry.id, number + 1, len(entries))
            yield entry, found


def _open(entry: PlanEntry, lock: Lock | None) -> "WeightSource | str":
    from eigenbank.builders.checkpoints.hub import open_hub, resolve

    try:
        revision, names = resolve(entry.source, pinned(entry, lock) or entry.revision)
        if not any(name.endswith(".safetensors") for name in names):
            return f"the weights of {entry.source} are pickles (.bin): only downloading them whole would tell"
        return open_hub(entry.source, revision=revision, variant=entry.variant, subfolder=entry.subfolder)
    except EigenbankError as error:
        return str(error)


def _estimate(entry: PlanEntry, source: "WeightSource", plan: Plan, bytes_per_second: float) -> "Estimate | str":
    from eigenbank.builders.discovery.families import choose_layers, find_all_layers

    settings = entry.settings(plan.defaults)
    try:
        found, source = find_all_layers(source)
        chosen = choose_layers(found.layers, list(settings.layers))
    except EigenbankError as error:
        return str(error)
    read = sum(source.layer_size(layer) for layer in chosen)
    directions = sum(min(settings.top_k, layer.width) for layer in chosen) * len(settings.recipes)
    looks = settings.previews
    grid = len(looks.seeds) * len(looks.scales)
    kind = _pipeline_class(entry, source.revision or "", [INDEX] if source.component else [])
    screening, images = _images_to_label(settings, directions, len(chosen)) if "label" in settings.steps else (0, 0)
    previews = min(looks.most, directions) * grid if "preview" in settings.steps else 0
    return Estimate(
        entry,
        layers=len(chosen),
        widths=tuple(sorted({layer.width for layer in chosen})),
        read=read,
        total=source.total,
        read_seconds=read / bytes_per_second,
        solve_seconds=sum(_decompositions(settings) * _solve_seconds(layer.width, settings.top_k) for layer in chosen),
        memory=BASE_MEMORY + 4 * max(_attention_bytes(source, layer) for layer in chosen),
        screening=screening,
        images=images,
        previews=previews,
        passes=None if kind is None or images is None else _passes(kind, settings, images, previews),
    )


def _images_to_label(settings: Settings, directions: int, layers: int) -> tuple[int, int | None]:
    """Images to screen directions, and at most to label them: None where only opening the labelers would tell."""
    from eigenbank.builders.label.clip import asked_vocabulary
    from eigenbank.builders.label.settings import LabelSettings, images_for, images_to_screen
    from eigenbank.builders.label.statistics import NAMES

    scores = 0
    how = LabelSettings(**dict(settings.measurement))
    screening = images_to_screen(directions, scores, how)
    for labeler in settings.asked_labelers:
        name, _, argument = labeler.partition(":")
        if name == "statistics":
            scores += len(NAMES)
        elif name == "clip":
            try:
                scores += len(asked_vocabulary(argument).concepts)
            except EigenbankError:  # a run says what is wrong
                return screening, None
        else:
            return screening, None
    screening = images_to_screen(directions, scores, how)
    windows = len({"@" in recipe for recipe in settings.recipes}) == 2
    return screening, images_for(directions, layers * len(settings.recipes), scores, how, windows=windows)


def _passes(kind: type, settings: Settings, images: int, previews: int) -> int | None:
    """Passes of the denoiser for so many images and previews; None where the pipeline does not say how many steps it takes."""
    from eigenbank.builders.label.settings import LabelSettings

    steps = settings.drawing.steps or own_steps(kind)
    if steps is None:
        return None
    short = settings.drawing.steps or min(LabelSettings.steps, steps)  # as `eigenbank label` does
    return (images * short + previews * steps) * passes_of(kind, settings.drawing)


def _decompositions(settings: Settings) -> int:
    """Return how many decompositions a layer takes: both sides of a matrix are one, and windows share theirs."""
    recipes = [Recipe.parse(text) for text in settings.recipes]
    return len({(recipe.matrix, recipe.head) for recipe in recipes})


@cache
def _solve_seconds(width: int, top_k: int) -> float:
    """Seconds that a decomposition of both sides takes here, timed on a random matrix of that width."""
    import torch

    from eigenbank.builders.decompose import decompose_sides

    timed = min(width, TIMED_WIDTH)
    matrix = torch.randn(timed, timed, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    started = time.perf_counter()
    decompose_sides(matrix, top_k)
    return (time.perf_counter() - started) * (width / timed) ** 3


def _attention_bytes(source: "WeightSource", layer: Layer) -> int:
    """Bytes of a layer's attention matrices in float64."""
    shapes = [source.shape(part.tensor) or () for role, part in layer.tensors.items() if "norm" not in role]
    return sum(8 * math.prod(shape) for shape in shapes)
