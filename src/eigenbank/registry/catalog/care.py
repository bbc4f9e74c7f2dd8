"""Looking after a catalog: what is in it, whether it is sound, and giving room back."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError

from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import dump, fts, read, sound
from eigenbank.registry.catalog.engine import printable
from eigenbank.registry.catalog.models import (
    Base,
    CheckpointTable,
    DirectionTable,
    LabelTable,
    LayerTable,
    NameTable,
    SetTable,
    SourceTable,
    StrayTable,
    TextTable,
)
from eigenbank.registry.catalog.place import SCHEMA_VERSION
from eigenbank.registry.catalog.sql import rows_of, unindexed
from eigenbank.registry.catalog.stored import WRONG
from eigenbank.schemas.errors import CatalogError

if TYPE_CHECKING:
    from eigenbank.registry.catalog.catalog import Catalog


def stats(catalog: "Catalog") -> dict[str, Any]:
    """What a catalog holds, by count, and how large it is."""
    counted: dict[str, type[Base]] = {
        "models": CheckpointTable,
        "sets": SetTable,
        "layers": LayerTable,
        "directions": DirectionTable,
        "labels": LabelTable,
        "label_texts": TextTable,
        "label_sources": SourceTable,
        "waiting_labels": StrayTable,
    }
    found: dict[str, Any] = {"catalog": catalog.place, "database": catalog._database.dialect}
    found["catalog_schema"] = SCHEMA_VERSION
    with catalog._database.reading() as connection:
        for name, table in counted.items():
            found[name] = connection.execute(select(func.count()).select_from(table)).scalar_one()
        nameless = select(func.count()).where(LayerTable.name_id.is_(None))
        found["layers"] -= connection.execute(nameless).scalar_one()
        composites = select(func.count()).where(DirectionTable.rank.is_(None))
        found["composites"] = connection.execute(composites).scalar_one()
        found["directions"] -= found["composites"]
        found["labelled_directions"] = connection.execute(
            select(func.count()).select_from(DirectionTable).where(DirectionTable.labels > 0)
        ).scalar_one()
        labelled = connection.execute(composites.where(unindexed(DirectionTable.labels) > 0)).scalar_one()
        found["labelled_directions"] -= labelled
        found["bytes"] = _size(catalog, connection)
    found["bytes_per_direction"] = found["bytes"] / found["directions"] if found["directions"] else None
    return found


def _size(catalog: "Catalog", connection: Connection) -> int:
    if catalog._database.dialect == "postgresql":
        statement = (
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c "
            "WHERE c.relkind = 'r' AND c.relnamespace = to_regnamespace(current_schema())::oid"
        )
        return int(connection.exec_driver_sql(statement).scalar_one())
    path = Path(catalog.place)
    return sum(file.stat().st_size for file in (path, path.with_name(path.name + "-wal")) if file.exists())


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be: where, and what."""

    where: str
    problem: str


def verify(catalog: "Catalog", *, files: bool = False, progress: Progress = no_progress) -> list[Problem]:
    """Check the database, that all it holds is what the schemas allow, that counts and the word index agree with what they
    are of, and with `files` that every set is where the catalog says, unchanged; of published ones those that the Hub's cache
    holds. Returns the problems; nothing is changed.
    """
    found: list[Problem] = []
    with catalog._database.reading() as connection:
        steps = (_damaged, _dangling, _miscounted)
        for done, step in enumerate(steps, 1):
            found += step(connection)
            progress("checks of the database", done, len(steps))
        found += _unsound(connection, progress)
        sets = read.sets(connection) if files else []
    for done, kind in enumerate(_WORDS, 1):
        found += _unfindable(catalog, kind)
        progress("word indexes", done, len(_WORDS))
    for done, one in enumerate(sets, 1):
        trouble = _set_problem(one.location, one.digest)
        if trouble:
            found.append(Problem(f"set of {one.model_id}", trouble))
        progress("sets", done, len(sets))
    return found


def _damaged(connection: Connection) -> list[Problem]:
    if connection.dialect.name != "sqlite":
        return []
    rows = connection.exec_driver_sql("PRAGMA integrity_check").scalars()
    return [Problem("database", row) for row in rows if row != "ok"]


def _dangling(connection: Connection) -> list[Problem]:
    return [Problem(f"table {table}", problem) for table, problem in sound.dangling(connection)]


def _miscounted(connection: Connection) -> list[Problem]:
    found: list[Problem] = []
    for where, problem, statement in _DERIVED:
        wrong = connection.exec_driver_sql(statement).scalar_one()
        if wrong:
            found.append(Problem(where, problem.format(wrong)))
    return found


_WORDS: dict[fts.Kind, Any] = {
    "texts": select(TextTable.id, TextTable.text),
    "names": select(NameTable.id, NameTable.name),
    "models": select(CheckpointTable.id, CheckpointTable.model_id),
}


def _unfindable(catalog: "Catalog", kind: fts.Kind) -> list[Problem]:
    """What a search would not find by its words, or by others. In a transaction of its own: an index that cannot be read ends
    it, on every database.
    """
    try:
        with catalog._database.reading() as connection:
            wrong = fts.wrong(connection, kind, rows_of(connection, _WORDS[kind]))
    except (*WRONG, DBAPIError, sqlite3.Error, CatalogError) as error:
        return [Problem(f"words of {kind}", printable(getattr(error, "orig", error)))]
    return (
        [
            Problem(
                f"words of {kind}",
                f"{wrong} are not in the word index as they are: searches by their words miss them, or find them by others",
            )
        ]
        if wrong
        else []
    )


def _unsound(connection: Connection, progress: Progress) -> list[Problem]:
    """What of each checkpoint the schemas do not allow: the first of it."""
    found: list[Problem] = []
    keys = connection.execute(select(CheckpointTable.model_id, CheckpointTable.revision)).all()
    for done, (model_id, revision) in enumerate(keys, 1):
        try:
            entry = dump.checkpoint(connection, model_id, revision)
            if entry is not None:
                sound.check(entry)
        except WRONG as error:
            found.append(Problem(f"model {printable(model_id)}", printable(sound.said(error))))
        except (DBAPIError, sqlite3.Error) as error:
            found.append(Problem(f"model {printable(model_id)}", printable(getattr(error, "orig", error))))
        progress("models", done, len(keys))
    try:
        sound.shipped(connection)
    except WRONG as error:
        found.append(Problem("shipped", printable(sound.said(error))))
    return found


_DERIVED = (
    (
        "labels",
        "{} whose rank is not their direction's",
        "SELECT count(*) FROM labels l JOIN directions d ON d.id = l.direction_id "
        "WHERE coalesce(l.rank, -1) <> coalesce(d.rank, -1)",
    ),
    (
        "directions",
        "{} whose count of labels, or whose confidence, is not that of their labels",
        "SELECT count(*) FROM (SELECT d.id FROM directions d LEFT JOIN labels l ON l.direction_id = d.id "
        "GROUP BY d.id, d.labels, d.confidence HAVING d.labels <> count(l.direction_id) "
        "OR coalesce(d.confidence, -1) <> coalesce(max(l.confidence), -1)) AS wrong",
    ),
    (
        "sets",
        "{} whose count of directions or labels is not theirs",
        "SELECT count(*) FROM (SELECT s.id FROM sets s LEFT JOIN layers y ON y.set_id = s.id "
        "LEFT JOIN spectra p ON p.layer_id = y.id LEFT JOIN directions d ON d.spectrum_id = p.id "
        "GROUP BY s.id, s.directions, s.labels HAVING s.directions <> count(d.rank) "
        "OR s.labels <> coalesce(sum(d.labels), 0)) AS wrong",
    ),
    (
        "spectra",
        "{} whose count of directions is not theirs",
        "SELECT count(*) FROM (SELECT p.id FROM spectra p LEFT JOIN directions d ON d.spectrum_id = p.id "
        "GROUP BY p.id, p.directions HAVING p.directions <> count(d.id)) AS wrong",
    ),
)


def _set_problem(location: str, digest: str) -> str | None:
    from eigenbank.registry.hub.client import folder_of, parse_location
    from eigenbank.registry.sets.folder import MANIFEST, manifest_digest

    folder = folder_of(location)
    if not (folder / MANIFEST).is_file():
        if parse_location(location) is not None:
            return None  # not in the client's cache now: it is fetched when it is used
        return f"there is no set at {location}: build or pull it again"
    if manifest_digest(folder) != digest:
        return f"the manifest at {location} is not the one that was entered: build or pull the set again"
    return None


def vacuum(catalog: "Catalog") -> tuple[int, int]:
    """Give unused room back to the disk and bring the planner's statistics up to date. Returns bytes before and after."""
    with catalog._change():
        pass  # whether it may be written to
    engine = catalog._database.engine
    with catalog._database.reading() as connection:
        before = _size(catalog, connection)
    with catalog._database.guarded(), engine.connect() as plain:
        if catalog._database.dialect == "postgresql":
            plain.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM ANALYZE")
        else:
            driver: Any = plain.connection.driver_connection
            driver.execute("VACUUM")
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with catalog._database.reading() as connection:
        return before, _size(catalog, connection)
