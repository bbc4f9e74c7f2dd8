"""A catalog as a file, and into another one: export, import, merge.

An export is JSON lines: a first one that names format and version, one for each set (its manifest and where it is), one for each
label of a person, and a last one with the counts of both, so that a file cut short is noticed.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, StringConstraints
from pydantic_core import to_json
from sqlalchemy import Connection

from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import index
from eigenbank.registry.catalog.catalog import Catalog
from eigenbank.registry.catalog.database import is_catalog, run
from eigenbank.registry.catalog.index import SetEntry
from eigenbank.registry.catalog.sets import OF_REVISION
from eigenbank.registry.files import open_regular, parse_as, parse_json, replacing
from eigenbank.schemas import Label, Manifest
from eigenbank.schemas.common import MAX_MANIFEST_BYTES, Model, ModelId, Text
from eigenbank.schemas.errors import CatalogError, first_problem

FORMAT = 6
"""Version of exports."""
_MOST_HEAD = 10_000
_MOST_LINE = MAX_MANIFEST_BYTES + 100_000
_SQLITE = b"SQLite format 3\x00"

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


def _is_a_persons(label: Label) -> Label:
    if not label.source.startswith(index.PEOPLE):
        message = f"expected a person's label, found one by {label.source}"
        raise ValueError(message)
    return label


class _LabelLine(Model):
    model_id: ModelId
    direction: _Name
    label: Annotated[Label, AfterValidator(_is_a_persons)]


class _EndLine(Model):
    end: Literal[True]
    sets: int
    people_labels: int


Item = _SetLine | _LabelLine | _EndLine


@dataclass
class Counts:
    """How much was moved."""

    sets: int = 0
    directions: int = 0
    composites: int = 0
    people_labels: int = 0

    def __str__(self) -> str:
        composites = f", {self.composites} composites" if self.composites else ""
        return f"{self.sets} sets, {self.directions} directions{composites}, {self.people_labels} labels of people"

    def add_set(self, manifest: Manifest) -> None:
        """Count a set."""
        self.sets += 1
        self.directions += len(manifest.directions)
        self.composites += len(manifest.composites)


@dataclass(frozen=True)
class Difference:
    """What a merge or import found to differ: of which model, what, and in how many cases."""

    model_id: str
    revision: str | None
    what: str
    count: int = 1
    example: str | None = None


def export_file(catalog: Catalog, path: Path, progress: Progress = no_progress) -> Counts:
    """Write the whole catalog to a new file, which appears whole. Raises CatalogError where it exists or cannot be written."""
    if path.exists():
        message = f"{path} exists: nothing was written. Choose another name, or remove it first."
        raise CatalogError(message)
    counts = Counts()
    try:
        with catalog.reading() as source, replacing(path) as work, work.open("w", encoding="utf-8", newline="\n") as file:  # fmt: skip

            def write(document: dict[str, Any]) -> None:
                file.write(to_json(document).decode() + "\n")

            write({"format": "eigenbank-catalog", "version": FORMAT})
            total = run(source, "SELECT count(*) FROM sets").scalar_one()
            for document in _kept(source):
                write(document)
                if "manifest" in document:
                    counts.add_set(document["manifest"])
                    progress("sets", counts.sets, total)
                else:
                    counts.people_labels += 1
            write({"end": True, "sets": counts.sets, "people_labels": counts.people_labels})
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror or error}. Nothing was left behind."
        raise CatalogError(message) from error
    return counts


def _kept(source: Connection) -> Iterator[dict[str, Any]]:
    """Yield everything that a catalog keeps, by the fields of an export's lines."""
    for entry in index.entries(source):
        yield vars(entry)
    people = "SELECT model_id, direction, label FROM people_labels ORDER BY model_id, direction, text, source"
    for model_id, direction, label in run(source, people):
        yield {"model_id": model_id, "direction": direction, "label": index.read_label(label)}


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
    if not begins:
        message = (
            f"{path} is empty, 0 bytes, where a catalog's export was expected. Nothing was imported. Check the path."
        )
        raise CatalogError(message)
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
        try:
            return _take_over(connection, map(_checked, _kept(source)))
        except ValueError as error:
            message = f"the other catalog holds what none can: {first_problem(error)}. Nothing was imported."
            raise CatalogError(message) from error


def _checked(document: Any) -> Item:
    """Validate what stands in a line of an export. Raises ValueError."""
    named = document if isinstance(document, dict) else {}
    kind = _SetLine if "manifest" in named else _EndLine if "end" in named else _LabelLine
    return kind.model_validate(document)


def _take_over(connection: Connection, items: Iterable[Item]) -> tuple[Counts, list[Difference]]:
    """Put foreign sets and labels into a catalog."""
    counts, found = Counts(), []
    labels: list[tuple[index.Name, Label]] = []
    with index.filling(connection) as indexer:
        for item in items:
            if isinstance(item, _LabelLine):
                labels.append(((item.model_id, item.direction), item.label))
                continue
            assert isinstance(item, _SetLine)
            model_id, revision = item.manifest.checkpoint.model_id, item.manifest.checkpoint.revision
            own = {"model_id": model_id, "revision": revision or ""}
            digest = run(connection, f"SELECT digest FROM sets WHERE {OF_REVISION}", **own).scalar()
            if digest is None:
                indexer.add(SetEntry(**dict(item)), take_over=False)
                found.append(Difference(model_id, revision, "set only there: added"))
            elif digest != item.digest:
                found.append(Difference(model_id, revision, "the sets differ: the one of here is kept"))
            counts.add_set(item.manifest)
    counts.people_labels = len(labels)
    changed: dict[str, list[str]] = {}
    for name, label in index.take_labels(connection, labels):
        indexer.relabel(name)
        changed.setdefault(name[0], []).append(f"{name[1]} {label.text!r}")
    what = "labels of people only there, or newer there: added"
    found += [Difference(model_id, None, what, len(names), names[0]) for model_id, names in changed.items()]
    return counts, found


def _read_lines(path: Path, progress: Progress) -> Iterator[Item]:
    """Yield what an export holds, each line validated.

    Raises CatalogError for what is no export, one cut short, or one of another version.
    """
    sets = labels = number = 0
    end = None
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        while line := file.readline(_MOST_LINE if number else _MOST_HEAD):
            number += 1
            if end is not None:
                raise _wrong(path, number, "there is more after the end")
            if number == 1:
                _check_head(path, line)
                continue
            if not line.endswith(b"\n"):
                raise _wrong(path, number, "the line is cut short, or longer than any can be: export the catalog again")
            try:
                item = _checked(parse_json(line))
            except ValueError as error:
                raise _wrong(path, number, first_problem(error, "the line")) from None
            if isinstance(item, _EndLine):
                end = item
                continue
            sets += isinstance(item, _SetLine)
            labels += isinstance(item, _LabelLine)
            yield item
            progress("kB", file.tell() // 1000, size // 1000)
    if end is None:
        raise _wrong(path, number, "the file ends here, before its last line: it is cut short, export it again")
    if (end.sets, end.people_labels) != (sets, labels):
        expected = f"{end.sets} sets and {end.people_labels} labels of people"
        raise _wrong(path, number, f"the end says {expected}, there were {sets} and {labels}")


def _check_head(path: Path, line: bytes) -> None:
    try:
        head = parse_as(_Head, line)
    except ValueError:
        expected = 'expected a catalog\'s export, which begins with {"format": "eigenbank-catalog", …}'
        raise _wrong(path, 1, f"{expected}, found {line[:40]!r}") from None
    if head.version != FORMAT:
        problem = f"the export is of version {head.version}, this eigenbank reads {FORMAT}: upgrade eigenbank, or export the catalog again"
        raise _wrong(path, 1, problem)


def _wrong(path: Path, number: int, problem: str) -> CatalogError:
    return CatalogError(f"{path}, line {number}: {problem}. Nothing was imported.")
