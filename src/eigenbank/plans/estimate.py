"""What a build of a plan would cost, from the headers of its checkpoints alone: bytes, seconds, memory."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from eigenbank.plans.file import pinned
from eigenbank.progress import Progress, unwatched
from eigenbank.schemas import Layer, Recipe
from eigenbank.schemas.errors import EigenbankError
from eigenbank.schemas.plan import Entry, Lock, Plan, Settings

if TYPE_CHECKING:
    from eigenbank.builders.checkpoints.source import WeightSource

PARALLEL = 8
TIMED = 1280
"""Widest matrix that is solved to see how long it takes; wider ones are reckoned by the cube of their width."""
BASE = 400 * 10**6
"""Bytes that torch, diffusers and discovery take before a weight is read, as benchmarks/building.py found."""


@dataclass(frozen=True)
class Estimate:
    """What a checkpoint costs. `read` of `total` bytes of weights; `seconds` to read and to solve; `memory` in bytes."""

    entry: Entry
    layers: int
    widths: tuple[int, ...]
    read: int
    total: int
    read_seconds: float
    solve_seconds: float
    memory: int


def estimate(
    entries: Sequence[Entry],
    plan: Plan,
    lock: Lock | None,
    *,
    bytes_per_second: float,
    progress: Progress = unwatched,
) -> Iterator[tuple[Entry, "Estimate | str"]]:
    """What each entry costs, or why that cannot be told, in words. No weight is read."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        opened = pool.map(lambda entry: _opened(entry, lock), entries)
        # One at a time from here: following a denoiser's forward is the processor's work.
        for number, (entry, source) in enumerate(zip(entries, opened, strict=True)):
            found = source if isinstance(source, str) else _estimated(entry, source, plan, bytes_per_second)
            progress(entry.id, number + 1, len(entries))
            yield entry, found


def _opened(entry: Entry, lock: Lock | None) -> "WeightSource | str":
    from eigenbank.builders.checkpoints.hub import open_hub, resolve

    try:
        revision, names = resolve(entry.source, pinned(entry, lock) or entry.revision)
        if not any(name.endswith(".safetensors") for name in names):
            return (
                f"the weights of {entry.source} are pickles (.bin), which cannot be looked into without fetching them"
            )
        return open_hub(entry.source, revision=revision, variant=entry.variant, subfolder=entry.subfolder)
    except EigenbankError as error:
        return str(error)


def _estimated(entry: Entry, source: "WeightSource", plan: Plan, bytes_per_second: float) -> "Estimate | str":
    from eigenbank.builders.discovery.families import choose_layers, find_layers

    settings = entry.settings(plan.defaults)
    try:
        chosen = choose_layers(find_layers(source).layers, list(settings.layers))
    except EigenbankError as error:
        return str(error)
    read = source.size(part for layer in chosen for part in layer.tensors.values())
    return Estimate(
        entry,
        layers=len(chosen),
        widths=tuple(sorted({layer.width for layer in chosen})),
        read=read,
        total=source.total,
        read_seconds=read / bytes_per_second,
        solve_seconds=sum(matrices(settings) * solving(layer.width, settings.top_k) for layer in chosen),
        memory=BASE + 4 * max(_held(source, layer) for layer in chosen),
    )


def matrices(settings: Settings) -> int:
    """How many decompositions a layer takes: both sides of a matrix are one, and windows share theirs."""
    recipes = [Recipe.parse(text) for text in settings.recipes]
    return len({(recipe.matrix, recipe.head) for recipe in recipes})


@cache
def solving(width: int, top_k: int) -> float:
    """Seconds that a decomposition of both sides takes here, timed on a random matrix of that width."""
    import torch

    from eigenbank.builders.decompose import decompose_sides

    timed = min(width, TIMED)
    matrix = torch.randn(timed, timed, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    begun = time.perf_counter()
    decompose_sides(matrix, top_k)
    return (time.perf_counter() - begun) * (width / timed) ** 3


def _held(source: "WeightSource", layer: Layer) -> int:
    """Bytes of a layer's attention in float64."""
    held = 0
    for role, part in layer.tensors.items():
        if "norm" not in role:
            shape = source.shape(part.tensor) or ()
            count = 8
            for extent in shape:
                count *= extent
            held += count
    return held
