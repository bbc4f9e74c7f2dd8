"""A catalog as a file, and into another one: export, import, merge.

An export is JSON lines: a first one that names format and version, one for each set (its manifest and where it is), one for each
label of a person, and a last one with the counts of both, so that a file cut short is noticed.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, StringConstraints, field_validator
from sqlalchemy import Connection

from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import index
from eigenbank.registry.catalog.catalog import Catalog
from eigenbank.registry.catalog.database import is_catalog, run
from eigenbank.registry.catalog.directions import Document
from eigenbank.registry.catalog.index import SetEntry
from eigenbank.registry.files import open_regular, parse_as, replacing
from eigenbank.schemas import Label, Manifest
from eigenbank.schemas.common import MAX_MANIFEST_BYTES, Model, ModelId, Text
from eigenbank.schemas.errors import CatalogError, first_problem

FORMAT = 6
"""Version of exports."""
_MOST_HEAD = 10_000
_MOST_LINE = MAX_MANIFEST_BYTES + 100_000
_SQLITE = b"SQLite format 3\x00"
_PEOPLE = "SELECT model_id, direction, label FROM people_labels ORDER BY model_id, direction, text, source"
M = TypeVar("M", bound=BaseModel)

_Place = Annotated[str, StringConstraints(min_length=1, max_length=4_000, pattern=r"^[^\x00]*$")]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=600, pattern=r"^[^\x00-\x1f\x7f#]+$")]
_Digest = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\w:.-]+$")]


class _Head(BaseModel):
    """The first line; more may stand in it in other versions."""

    format: Literal["eigenbank-catalog"]
    version: int


class _SetLine(Model):
    manifest: Manifest
    location: _Place
    digest: _Digest
    checkpoint_path: _Place | None = None
    repo: Text | None = None
    commit: Text | None = None


class _PersonsLabel(Label):
    @field_validator("source")
    @classmethod
    def _is_a_persons(cls, source: str) -> str:
        if not source.startswith(index.PEOPLE):
            message = f"expected a person's label, found one by {source}"
            raise ValueError(message)
        return source


class _LabelLine(Model):
    model_id: ModelId
    direction: _Name
    label: _PersonsLabel

    def item(self) -> tuple[index.Name, Document]:
        return (self.model_id, self.direction), self.label.model_dump(mode="json")


class _EndLine(Model):
    end: Literal[True]
    sets: int
    people_labels: int


@dataclass(frozen=True)
class Counts:
    """How much was moved."""

    sets: int = 0
    directions: int = 0
    composites: int = 0
    people_labels: int = 0

    def __str__(self) -> str:
        composites = f", {self.composites} composites" if self.composites else ""
        return f"{self.sets} sets, {self.directions} directions{composites}, {self.people_labels} labels of people"


@dataclass(frozen=True)
class Difference:
    """What a merge or import found to differ: of which model, what, and in how many cases."""

    model_id: str
    revision: str | None
    what: str
    count: int = 1
    example: str | None = None


Item = SetEntry | tuple[index.Name, Document]
"""A set, or a person's label of a direction."""


def export_file(catalog: Catalog, path: Path, progress: Progress = no_progress) -> Counts:
    """Write the whole catalog to a new file, which appears whole. Raises CatalogError where it exists or cannot be written."""
    if path.exists():
        message = f"{path} exists: nothing was written. Choose another name, or remove it first."
        raise CatalogError(message)
    try:
        with (
            catalog.reading() as connection,
            replacing(path) as work,
            work.open("w", encoding="utf-8", newline="\n") as file,
        ):
            return _write_lines(connection, file, progress)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror or error}. Nothing was left behind."
        raise CatalogError(message) from error


def _counts(connection: Connection) -> Counts:
    composites = "(SELECT count(*) FROM directions WHERE name_id IS NOT NULL)"
    labels = "(SELECT count(*) FROM people_labels)"
    statement = f"SELECT count(*), coalesce(sum(directions), 0), {composites}, {labels} FROM sets"
    return Counts(*map(int, run(connection, statement).one()))


def _write_lines(connection: Connection, file: Any, progress: Progress) -> Counts:
    counts = _counts(connection)

    def write(document: dict[str, Any]) -> None:
        file.write(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n")

    write({"format": "eigenbank-catalog", "version": FORMAT})
    for done, entry in enumerate(index.entries(connection), 1):
        assert isinstance(entry.manifest, str)
        write(vars(entry) | {"manifest": json.loads(entry.manifest)})
        progress("sets", done, counts.sets)
    for model_id, direction, label in run(connection, _PEOPLE):
        write({"model_id": model_id, "direction": direction, "label": index.read_document(label, "label")})
    write({"end": True, "sets": counts.sets, "people_labels": counts.people_labels})
    return counts


def _held(connection: Connection) -> Iterator[Item]:
    """Yield everything that a foreign catalog keeps, validated. Raises CatalogError."""
    try:
        for entry in index.entries(connection):
            manifest = parse_as(Manifest, str(entry.manifest).encode())
            yield SetEntry(**dict(_SetLine.model_validate(vars(entry) | {"manifest": manifest})))
        for model_id, direction, label in run(connection, _PEOPLE):
            given = parse_as(_PersonsLabel, str(label).encode())
            yield _LabelLine(model_id=model_id, direction=direction, label=given).item()
    except ValueError as error:
        message = f"the other catalog holds what none can: {first_problem(error)}. Nothing was imported."
        raise CatalogError(message) from error


def import_file(catalog: Catalog, path: Path, progress: Progress = no_progress) -> tuple[Counts, list[Difference]]:
    """Put in everything that an export, or another catalog's file, holds: all of it or nothing. Returns what was brought, and what
    differed (see `merge`). Raises CatalogError for what is neither, or damaged.
    """
    try:
        with open_regular(path) as file:
            begins = file.read(len(_SQLITE))
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}. Nothing was imported."
        raise CatalogError(message) from error
    if begins != _SQLITE:
        with catalog.writing() as connection:
            return _take_over(connection, _read_lines(path, progress))
    is_catalog(path, "Nothing was imported. Check the path.")
    with Catalog.open(path, shipped=False) as source:
        return merge(catalog, source)


def merge(catalog: Catalog, other: Catalog) -> tuple[Counts, list[Difference]]:
    """Bring everything in that another catalog holds: all of it or nothing. Labels of people are kept from both sides, the newer where
    one person said the same of a direction twice; where both have a set of the same model and revision, this catalog's stays. Merging
    twice changes nothing. Returns what was brought, and what differed.
    """
    if catalog.place == other.place:
        message = f"{other.place} is the catalog itself: nothing was merged. Name another one."
        raise CatalogError(message)
    with other.reading() as source, catalog.writing() as connection:
        return _take_over(connection, _held(source))


def _take_over(connection: Connection, items: Iterator[Item]) -> tuple[Counts, list[Difference]]:
    """Put foreign sets and labels into a catalog."""
    found: list[Difference] = []
    sets = directions = composites = 0
    labels: list[tuple[index.Name, Document]] = []
    with index.filling(connection) as indexer:
        for item in items:
            if isinstance(item, SetEntry):
                assert isinstance(item.manifest, Manifest)
                checkpoint = item.manifest.checkpoint
                own = {"model_id": checkpoint.model_id, "revision": checkpoint.revision or ""}
                statement = "SELECT digest FROM sets WHERE model_id = :model_id AND revision = :revision"
                digest = run(connection, statement, **own).scalar()
                if digest is None:
                    indexer.add(item, take_over=False)
                    found.append(Difference(checkpoint.model_id, checkpoint.revision, "set only there: added"))
                elif digest != item.digest:
                    what = "the sets differ: the one of here is kept"
                    found.append(Difference(checkpoint.model_id, checkpoint.revision, what))
                sets += 1
                directions += len(item.manifest.directions)
                composites += len(item.manifest.composites)
            else:
                labels.append(item)
    changed = index.take_labels(connection, labels)
    for name in dict.fromkeys(name for name, _ in changed):
        indexer.relabel(name)
    for model_id in dict.fromkeys(name[0] for name, _ in changed):
        own_labels = [f"{name[1]} {label['text']!r}" for name, label in changed if name[0] == model_id]
        what = "labels of people only there, or newer there: added"
        found.append(Difference(model_id, None, what, len(own_labels), own_labels[0]))
    return Counts(sets, directions, composites, len(labels)), found


# Reading an export


def _wrong(path: Path, number: int, problem: str) -> CatalogError:
    return CatalogError(f"{path}, line {number}: {problem}. Nothing was imported.")


def _read_lines(path: Path, progress: Progress) -> Iterator[Item]:
    """Yield what an export holds, each line validated.

    Raises CatalogError for what is no export, one cut short, or one of another version.
    """
    sets = labels = number = 0
    end: _EndLine | None = None
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        while line := file.readline(_MOST_LINE if number else _MOST_HEAD):
            number += 1
            if end is not None:
                raise _wrong(path, number, "there is more after the end")
            if number == 1:
                _check_head(path, line)
            elif line.startswith(b'{"manifest"'):
                sets += 1
                yield SetEntry(**dict(_parse(path, number, _SetLine, line)))
            elif line.startswith(b'{"model_id"'):
                labels += 1
                yield _parse(path, number, _LabelLine, line).item()
            else:
                end = _parse(path, number, _EndLine, line)
            progress("kB", file.tell() // 1000, size // 1000)
    if not number:
        message = (
            f"{path} is empty, 0 bytes, where a catalog's export was expected. Nothing was imported. Check the path."
        )
        raise CatalogError(message)
    if end is None:
        raise _wrong(path, number, "the file ends here, before its last line: it is cut short, export it again")
    if (end.sets, end.people_labels) != (sets, labels):
        problem = (
            f"the end says {end.sets} sets and {end.people_labels} labels of people, there were {sets} and {labels}"
        )
        raise _wrong(path, number, problem)


def _check_head(path: Path, line: bytes) -> None:
    try:
        head = parse_as(_Head, line)
    except ValueError:
        expected = 'expected a catalog\'s export, which begins with {"format": "eigenbank-catalog", …}'
        raise _wrong(path, 1, f"{expected}, found {line[:40]!r}") from None
    if head.version != FORMAT:
        problem = f"the export is of version {head.version}, this eigenbank reads {FORMAT}: upgrade eigenbank, or export the catalog again"
        raise _wrong(path, 1, problem)


def _parse(path: Path, number: int, model: type[M], line: bytes) -> M:
    if not line.endswith(b"\n"):
        raise _wrong(path, number, "the line is cut short, or longer than any can be: export the catalog again")
    try:
        return parse_as(model, line)
    except ValueError as error:
        raise _wrong(path, number, first_problem(error, "the line")) from None
