"""Looking after a catalog: what is in it, and whether it is sound."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import database as db
from eigenbank.registry.catalog import index
from eigenbank.registry.catalog.catalog import Catalog
from eigenbank.registry.catalog.database import Database, run
from eigenbank.registry.catalog.tables import VERSION, Base
from eigenbank.registry.ranking import words
from eigenbank.schemas.errors import CatalogError
from eigenbank.schemas.printable import printable

_COUNTS = {
    "models": "count(DISTINCT model_id) FROM sets",
    "sets": "count(*) FROM sets",
    "layers": "coalesce(sum(layers), 0) FROM sets",
    "directions": "coalesce(sum(directions), 0) FROM sets",
    "composites": "count(*) FROM directions WHERE name_id IS NOT NULL",
    "labelled_directions": "count(*) FROM directions WHERE name_id IS NULL AND labels > 0",
    "labels": "coalesce(sum(labels), 0) FROM sets",
    "label_texts": "count(DISTINCT text_id) FROM labels",
    "label_sources": "count(*) FROM sources",
    "people_labels": "count(*) FROM people_labels",
}


def stats(catalog: Catalog) -> dict[str, Any]:
    """Return what a catalog holds, by count, and how large it is."""
    with catalog.reading() as connection:
        found: dict[str, Any] = {
            "catalog": catalog.place,
            "database": connection.dialect.name,
            "catalog_version": VERSION,
            **{name: int(run(connection, f"SELECT {count}").scalar_one()) for name, count in _COUNTS.items()},
            "waiting_labels": index.waiting(connection),
            "bytes": db.size_of(connection, catalog.place),
        }
    return found | {"bytes_per_direction": found["bytes"] / found["directions"] if found["directions"] else None}


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be: where, and what."""

    where: str
    problem: str


def verify(catalog: Catalog, progress: Progress = no_progress) -> list[Problem]:
    """Check the database, and index everything again in memory, to compare. Returns the problems; nothing is changed."""
    found: list[Problem] = []
    fresh = Database(None, "memory")
    try:
        with catalog.reading() as connection:
            if not db.is_server(connection):
                said = run(connection, "PRAGMA integrity_check").scalars()
                found = [Problem("database", printable(each)) for each in said if each != "ok"]
            with fresh.writing() as target:
                db.create_tables(target)
                index.copy(connection, target, progress)
                found += _differences(connection, target)
    except CatalogError as error:
        found.append(Problem("database", printable(str(error))))
    finally:
        fresh.close()
    return found


_PLACES = (
    "spectra p JOIN sets s ON s.id = p.set_id LEFT JOIN texts n ON n.id = p.name_id JOIN directions d ON d.spectrum_id = p.id "
    "LEFT JOIN texts c ON c.id = d.name_id"
)
_NAME = "s.model_id, s.revision, n.text, p.recipe, d.rank, c.text"


def _columns(table: str, alias: str) -> str:
    """All columns of a table, without the numbers that stand for other rows."""
    names = [each.name for each in Base.metadata.tables[table].columns]
    return ", ".join(
        f'{alias}."{name}"' for name in names if name not in ("id", "manifest", "details") and not name.endswith("_id")
    )


def _differences(found: Connection, expected: Connection) -> Iterator[Problem]:
    derived = {
        "sets": f"SELECT s.model_id, {_columns('sets', 's')} FROM sets s",
        "layers": "SELECT s.model_id, s.revision, l.digest, l.layer FROM layer_digests l LEFT JOIN sets s ON s.id = l.set_id",
        "directions": f"SELECT {_NAME}, {_columns('spectra', 'p')}, {_columns('directions', 'd')} FROM {_PLACES}",
        "details": "SELECT s.model_id, s.revision, p.details FROM spectra p LEFT JOIN sets s ON s.id = p.set_id",
        "labels": (
            f"SELECT {_NAME}, t.text, o.text, l.confidence, l.worth FROM {_PLACES} JOIN labels l ON l.direction_id = d.id "
            "LEFT JOIN texts t ON t.id = l.text_id LEFT JOIN sources o ON o.id = l.source_id"
        ),
        # Rows that belong to nothing are in none of these.
        "rows": "SELECT (SELECT count(*) FROM spectra), (SELECT count(*) FROM directions), (SELECT count(*) FROM labels)",
    }
    differing: set[str] = set()
    for what, statement in derived.items():
        here, there = (Counter(map(tuple, run(each, statement))) for each in (found, expected))
        wrong = (here - there) + (there - here)
        if wrong and not (what == "rows" and differing):
            differing.add(what)
            problem = (
                f"{wrong.total():,} rows are not what the manifests and people's labels say: eigenbank catalog reindex"
            )
            yield Problem(what, problem)
    texts = run(found, "SELECT id, text FROM texts").all()
    holders: dict[str, set[int]] = {}
    for number, text in texts:
        for word in words(text):
            holders.setdefault(word, set()).add(number)
    wrong_words = [
        word for word, numbers in holders.items() if db.texts_with(found, [word], prefix=False).keys() != numbers
    ]
    if wrong_words:
        problem = f"{len(wrong_words):,} words are not in the index as they are, {wrong_words[0]!r} among them: eigenbank catalog reindex"
        yield Problem("words", problem)
