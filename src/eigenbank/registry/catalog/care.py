"""Looking after a catalog: what is in it, whether it is sound, and giving room back."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, func, select

from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import dialects, index, questions
from eigenbank.registry.catalog.catalog import Catalog
from eigenbank.registry.catalog.database import Database, Untouched, check_file, check_version, locate, name_of
from eigenbank.registry.catalog.dialects import connect_file, printable, texts_with
from eigenbank.registry.catalog.tables import (
    VERSION,
    DirectionTable,
    LabelTable,
    LayerTable,
    PeopleLabelTable,
    SetTable,
    SourceTable,
    SpectrumTable,
    TextTable,
)
from eigenbank.registry.ranking import words
from eigenbank.schemas.errors import CatalogError


def stats(catalog: Catalog) -> dict[str, Any]:
    """Return what a catalog holds, by count, and how large it is."""
    return catalog.ask(_stats, catalog.place)


def _stats(connection: Connection, place: str) -> dict[str, Any]:
    def count(table: Any, *conditions: Any) -> int:
        return int(connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one())

    composite = DirectionTable.name_id.is_not(None)
    found: dict[str, Any] = {
        "catalog": place,
        "database": connection.dialect.name,
        "catalog_version": VERSION,
        "models": len(questions.model_ids(connection)),
        "sets": count(SetTable),
        "layers": count(LayerTable),
        "directions": count(DirectionTable, ~composite),
        "composites": count(DirectionTable, composite),
        "labelled_directions": count(DirectionTable, ~composite, DirectionTable.labels > 0),
        "labels": count(LabelTable),
        "label_texts": len(questions.label_texts(connection, None)),
        "label_sources": count(SourceTable),
        "people_labels": count(PeopleLabelTable),
        "waiting_labels": index.waiting(connection),
        "bytes": dialects.size_of(connection, place),
    }
    found["bytes_per_direction"] = found["bytes"] / found["directions"] if found["directions"] else None
    return found


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be: where, and what."""

    where: str
    problem: str


def verify(catalog: Catalog, progress: Progress = no_progress) -> list[Problem]:
    """Check the database, and index everything again in memory, to compare. Returns the problems; nothing is changed."""
    found = list(
        catalog.ask(lambda connection: [Problem("database", printable(each)) for each in dialects.damage(connection)])
    )
    try:
        found += catalog.ask(_compare, progress)
    except CatalogError as error:
        found.append(Problem("database", printable(error)))
    return found


def _compare(connection: Connection, progress: Progress) -> list[Problem]:
    """Compare what is derived from the manifests with what would be derived anew."""
    fresh = Database(connect_file(None), "memory")
    try:
        fresh.write(dialects.create_tables, VERSION)
        fresh.write(lambda target: index.copy(connection, target, progress))
        return fresh.read(lambda expected: list(_differences(connection, expected)))
    finally:
        fresh.close()


def _differences(found: Connection, expected: Connection) -> Iterator[Problem]:
    for what, statement in _DERIVED.items():
        here, there = (Counter(map(tuple, each.execute(statement))) for each in (found, expected))
        wrong = (here - there) + (there - here)
        if wrong:
            problem = (
                f"{wrong.total():,} rows are not what the manifests and people's labels say: eigenbank catalog reindex"
            )
            yield Problem(what, problem)
    texts = found.execute(select(TextTable.id, TextTable.text)).all()
    holders: dict[str, set[int]] = {}
    for number, text in texts:
        for word in words(text):
            holders.setdefault(word, set()).add(number)
    known = {number for number, _ in texts}
    wrong_words = [
        word for word, numbers in holders.items() if texts_with(found, [word], prefix=False) & known != numbers
    ]
    if wrong_words:
        problem = f"{len(wrong_words):,} words are not in the index as they are, {wrong_words[0]!r} among them: eigenbank catalog reindex"
        yield Problem("words", problem)


def _columns(*tables: Any) -> list[Any]:
    """All columns of tables, without the numbers that stand for other rows."""
    found = []
    for table in tables:
        columns: Table = table.__table__
        found += [
            each for each in columns.columns if each.name not in ("id", "manifest") and not each.name.endswith("_id")
        ]
    return found


_NAME = select(TextTable.text).where(TextTable.id == LayerTable.name_id).scalar_subquery()
_COMPOSITE = select(TextTable.text).where(TextTable.id == DirectionTable.name_id).scalar_subquery()
_TEXT = select(TextTable.text).where(TextTable.id == LabelTable.text_id).scalar_subquery()
_SOURCE = select(SourceTable.name).where(SourceTable.id == LabelTable.source_id).scalar_subquery()


def _whole(*more: Any) -> Any:
    statement = select(
        SetTable.model_id, SetTable.revision, _NAME, SpectrumTable.recipe, DirectionTable.rank, _COMPOSITE, *more
    )
    statement = statement.join(SpectrumTable, SpectrumTable.set_id == SetTable.id)
    statement = statement.outerjoin(LayerTable, LayerTable.id == SpectrumTable.layer_id)
    return statement.join(DirectionTable, DirectionTable.spectrum_id == SpectrumTable.id)


_DERIVED = {
    "sets": select(SetTable.model_id, *_columns(SetTable)),
    "layers": select(SetTable.model_id, SetTable.revision, _NAME, *_columns(LayerTable)).join(
        LayerTable, LayerTable.set_id == SetTable.id
    ),
    "directions": _whole(SpectrumTable.directions, *_columns(DirectionTable)),
    "labels": _whole(_TEXT, _SOURCE, LabelTable.confidence, LabelTable.worth).join(
        LabelTable, LabelTable.direction_id == DirectionTable.id
    ),
}
"""What is derived, by table, told by names instead of numbers."""


def vacuum(catalog: Catalog) -> tuple[int, int]:
    """Give unused room back to the disk and bring the database's statistics up to date. Returns bytes before and after."""
    before = catalog.ask(dialects.size_of, catalog.place)
    catalog.tidy()
    return before, catalog.ask(dialects.size_of, catalog.place)


@dataclass(frozen=True)
class Glance:
    """What a look at a catalog saw: its version (None: there is none yet) and its counts (None: it is not of today's version)."""

    place: str
    version: int | None
    models: int | None = None
    directions: int | None = None


def glance(url: str | os.PathLike[str] | None = None) -> Glance:
    """Look at the catalog in use, or another, as it is: nothing is created, copied or brought up to date. Raises CatalogError."""
    place = locate(url)
    name = name_of(place)
    if isinstance(place, os.PathLike):
        if not place.exists():
            return Glance(name, None)
        check_file(place)
        database: Database = Untouched(place)
    else:
        database = Database(dialects.connect_server(place, name), name)
    try:
        version = database.read(dialects.version_of, name)
        if version is None:
            return Glance(name, None)
        check_version(name, version)
        if version != VERSION:
            return Glance(name, version)
        statement = select(func.count(), func.coalesce(func.sum(SetTable.directions), 0)).select_from(SetTable)
        models, directions = database.read(lambda connection: connection.execute(statement).one())
        return Glance(name, version, int(models), int(directions))
    finally:
        database.close()
