"""A catalog as a whole: exported, imported, merged with another."""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert

from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import dump, sound, transfer, write
from eigenbank.registry.catalog.content import (
    CheckpointData,
    CompositeData,
    DirectionData,
    LabelData,
    SetData,
    distinct,
)
from eigenbank.registry.catalog.models import ShippedTable
from eigenbank.registry.catalog.numbering import Numbering
from eigenbank.registry.catalog.place import check
from eigenbank.registry.catalog.stored import understood
from eigenbank.registry.catalog.transfer import Counts
from eigenbank.schemas.errors import CatalogError

if TYPE_CHECKING:
    from eigenbank.registry.catalog.catalog import Catalog


_MAGIC = b"SQLite format 3\x00"


@dataclass(frozen=True)
class Difference:
    """What a merge found to differ: of which model, what, and in how many cases."""

    model_id: str
    revision: str | None
    what: str
    count: int
    example: str | None = None


def export_file(catalog: "Catalog", path: Path, progress: Progress = no_progress) -> Counts:
    """Write the whole catalog to a new file: a catalog of its own where the name ends in .db or .sqlite, else JSON
    lines. The file appears whole. Raises CatalogError where it exists or cannot be written.
    """
    if path.suffix in (".db", ".sqlite", ".sqlite3"):
        return _copy(catalog, path, progress)
    total = Counts()

    def entries(connection: Connection) -> Iterator[CheckpointData]:
        nonlocal total
        for entry in _own(catalog, connection, progress):
            total = total.with_(entry)
            yield entry

    with catalog._database.reading() as connection:
        transfer.write_file(path, transfer.export_lines(entries(connection), dump.shipped(connection)))
    return total


def _own(catalog: "Catalog", connection: Connection, progress: Progress) -> Iterator[CheckpointData]:
    """Yield what the catalog in use holds. It was checked when it was put in: what stands for nothing raises CatalogError."""
    entries = dump.checkpoints(connection, progress)
    while True:
        with understood(), catalog._database.guarded():
            entry = next(entries, None)
        if entry is None:
            return
        yield entry


def _copy(catalog: "Catalog", path: Path, progress: Progress) -> Counts:
    from eigenbank.registry.catalog.catalog import Catalog

    if path.exists():
        message = f"{path} exists: nothing was written. Choose another name, or remove it first."
        raise CatalogError(message)
    if not path.parent.is_dir():
        message = f"{path.parent} is not a folder: nothing was written. Make it, or choose another."
        raise CatalogError(message)
    work = path.with_name(f".{path.name}.partial")
    work.unlink(missing_ok=True)
    try:
        with Catalog.open(work, shipped=False) as copy:
            total = _take_over(copy, catalog, progress)
        try:
            work.rename(path)
        except OSError as error:
            message = f"{path} cannot be written: {error.strerror or error}. Nothing was left behind."
            raise CatalogError(message) from error
    finally:
        for leftover in (work, *(work.with_name(work.name + end) for end in ("-wal", "-shm"))):
            leftover.unlink(missing_ok=True)
    return total


def _take_over(copy: "Catalog", source: "Catalog", progress: Progress) -> Counts:
    total = Counts()
    with source._database.reading() as reading, copy._change(much=True) as writing:
        with write.filling(writing, progress) as numbers:
            for entry in _own(source, reading, progress):
                write.replace(numbers, entry)
                total = total.with_(entry)
        _offered(writing, dump.shipped(reading))
    return total


def import_file(catalog: "Catalog", path: Path, progress: Progress = no_progress) -> Counts:
    """Put everything in that an export or another catalog's file holds, each set in the place of the one of the same model
    and revision, people's labels kept. All of it or nothing. Raises CatalogError for what is neither, or damaged.
    """
    total = Counts()
    reading = closing(_read(path, progress))
    with reading as found, catalog._change(much=True) as connection, write.filling(connection, progress) as numbers:
        for item in found:
            if isinstance(item, list):
                _offered(connection, item)
            else:
                write.add(numbers, item)
                total = total.with_(item)
    return total


def _read(path: Path, progress: Progress) -> Generator[CheckpointData | list[str], None, None]:
    """Yield what a file holds: checkpoints, and last the digests of the shipped sets that the catalog knew."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}. Nothing was imported."
        raise CatalogError(message) from error
    if start != _MAGIC:
        yield from transfer.read_file(path, progress)
        return
    from eigenbank.registry.catalog.catalog import Catalog

    check(path, "Nothing was imported. Check the path")
    with Catalog.open(path, shipped=False) as source, source._database.reading() as connection:
        yield from sound.checkpoints(source._database, connection, "Nothing was imported", progress)
        yield sound.read(partial(sound.shipped, connection), source._database, "Nothing was imported")


def merge(catalog: "Catalog", other: "Catalog", progress: Progress = no_progress) -> list[Difference]:
    """Bring everything in that another catalog holds. Labels of both sides are kept; of two sets of one model and revision
    the newer one stays. Merging twice changes nothing, and which catalog is merged into which makes no difference but
    in numbers. Returns what differed. All of it or nothing.
    """
    if catalog.place == other.place:
        message = f"{other.place} is the catalog itself: nothing was merged. Name another one."
        raise CatalogError(message)
    differences: list[Difference] = []
    with other._database.reading() as reading, catalog._change(much=True) as writing:
        numbers = Numbering(writing)
        for theirs in sound.checkpoints(other._database, reading, "Nothing was merged", progress):
            with understood():
                ours = dump.checkpoint(writing, theirs.model_id, theirs.revision)
                merged, found = (theirs, []) if ours is None else merge_entries(ours, theirs)
            if ours is None:
                write.replace(numbers, theirs)
                differences.append(Difference(theirs.model_id, theirs.revision or None, "model only there: added", 1))
                continue
            differences += found
            if merged != ours:
                write.replace(numbers, merged)
        _offered(writing, sound.read(partial(sound.shipped, reading), other._database, "Nothing was merged"))
    return differences


def merge_entries(ours: CheckpointData, theirs: CheckpointData) -> tuple[CheckpointData, list[Difference]]:
    """Merge what two catalogs hold of one checkpoint. Pure; the result does not depend on which is which."""
    found: list[Difference] = []

    def note(what: str, count: int = 1, example: str | None = None) -> None:
        if count:
            found.append(Difference(ours.model_id, ours.revision or None, what, count, example))

    before = ours
    ours, theirs = _with_what_either_knows(ours, theirs)
    note("qualities only there: added", _qualities(ours) - _qualities(before))
    note("composites only there: added", _composites(ours) - _composites(before))
    winner = max((ours, theirs), key=_standing)
    if ours.set is not None and theirs.set is not None and _bare(ours) != _bare(theirs):
        newer = ", which is newer" if ours.set.facts.created != theirs.set.facts.created else ""
        note(f"sets differ: the one of {'here' if winner is ours else 'there'} is kept{newer}")
    own, other = _labels(ours), _labels(theirs)
    labels: dict[str, list[LabelData]] = {}
    added: list[str] = []
    changed: list[str] = []
    for name in sorted(own.keys() | other.keys()):
        here, there = own.get(name, []), other.get(name, [])
        both = distinct([*here, *there])
        labels[name] = sorted(both, key=lambda label: label[:2])
        known = {label[:2]: label for label in here}
        added += [f"{name} {label.text!r}" for label in there if label[:2] not in known]
        changed += [f"{name} {label.text!r}" for label in there if known.get(label[:2], label) != label]
    note("labels only there: added", len(added), added[0] if added else None)
    note("labels that differ: the newer is kept", len(changed), changed[0] if changed else None)
    note("labels only here: kept", _only_here(own, other))
    merged = winner.set
    if merged is not None:
        directions = [record._replace(labels=labels.pop(record.name, [])) for record in merged.directions]
        composites = [record._replace(labels=labels.pop(record.name, [])) for record in merged.composites]
        merged = SetData(merged.facts, merged.layers, directions, composites)
    note("labels whose direction the kept set lacks: they wait for it", sum(map(len, labels.values())))
    paths = [entry.path for entry in (winner, ours, theirs) if entry.path is not None]
    path = winner.path if winner.path is not None else max(paths, default=None)
    entry = CheckpointData(
        ours.model_id, ours.revision, winner.denoiser, winner.component, winner.licence, path, merged, labels
    )
    return entry, found


def _with_what_either_knows(ours: CheckpointData, theirs: CheckpointData) -> tuple[CheckpointData, CheckpointData]:
    """The same, where the sets are the same, each with the qualities and composites that the other has of it: catalogs of
    earlier schemas kept none.
    """
    if ours.set is None or theirs.set is None or ours.set.facts.digest != theirs.set.facts.digest:
        return ours, theirs
    return _filled(ours, ours.set, theirs.set), _filled(theirs, theirs.set, ours.set)


def _filled(entry: CheckpointData, found: SetData, other: SetData) -> CheckpointData:
    known = {record.name: record.quality for record in other.sliders}
    directions = [record._replace(quality=record.quality or known.get(record.name)) for record in found.directions]
    composites = [record._replace(quality=record.quality or known.get(record.name)) for record in found.composites]
    own = {record.name for record in composites}
    composites += [record._replace(labels=[]) for record in other.composites if record.name not in own]
    return replace(entry, set=replace(found, directions=directions, composites=composites))


def _qualities(entry: CheckpointData) -> int:
    return 0 if entry.set is None else sum(record.quality is not None for record in entry.set.directions)


def _composites(entry: CheckpointData) -> int:
    return 0 if entry.set is None else len(entry.set.composites)


def _only_here(own: dict[str, list[LabelData]], other: dict[str, list[LabelData]]) -> int:
    there = {(name, *label[:2]) for name, labels in other.items() for label in labels}
    return sum((name, *label[:2]) not in there for name, labels in own.items() for label in labels)


def _bare(entry: CheckpointData) -> tuple[object, ...]:
    """A set without its labels, to be compared."""
    if entry.set is None:
        return ()
    records: list[DirectionData | CompositeData] = [record._replace(labels=[]) for record in entry.set.sliders]
    return entry.set.facts.digest, entry.set.layers, records


def _standing(entry: CheckpointData) -> tuple[object, ...]:
    """The newer set wins; where both are as new, their contents decide, so that the order of merging does not."""
    if entry.set is None:
        return (0, 0, "")
    facts = (entry.denoiser, entry.component, entry.licence, entry.path)
    return (1, entry.set.facts.created, repr((entry.set.facts, facts, _bare(entry))))


def _labels(entry: CheckpointData) -> dict[str, list[LabelData]]:
    """The labels by direction, those included that wait for one."""
    found = {name: list(labels) for name, labels in entry.strays.items()}
    for record in entry.set.sliders if entry.set is not None else ():
        if record.labels:
            found.setdefault(record.name, []).extend(record.labels)
    return found


def _offered(connection: Connection, digests: list[str]) -> None:
    known = set(dump.shipped(connection))
    new = [{"digest": digest} for digest in digests if digest not in known]
    if new:
        connection.execute(insert(ShippedTable), new)
