"""Whether what a catalog holds is what the schemas allow. SQLite keeps in a column whatever it is given: a file from elsewhere,
whose tables are a catalog's, may hold anything.
"""

import shlex
from collections.abc import Callable, Iterator
from typing import Annotated, TypeVar

from pydantic import StringConstraints, TypeAdapter, ValidationError
from sqlalchemy import Connection, func, select

from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import dump, lines
from eigenbank.registry.catalog.content import CheckpointData
from eigenbank.registry.catalog.engine import Database, printable
from eigenbank.registry.catalog.models import DirectionTable, LabelTable
from eigenbank.registry.catalog.stored import WRONG
from eigenbank.registry.catalog.transfer import Counts
from eigenbank.schemas.errors import CatalogError, first_problem

T = TypeVar("T")
_SHIPPED: TypeAdapter[list[str]] = TypeAdapter(
    list[Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\w:.-]+$")]]
)


def check(entry: CheckpointData) -> None:
    """Raise ValidationError where a checkpoint holds what a line of an export may not, kind by kind: no text for a number."""
    lines.line().model_validate(lines.document(entry), strict=True)


def shipped(connection: Connection) -> list[str]:
    """Return the digests of the shipped sets that were offered to a catalog. Raises ValidationError for what is none."""
    return _SHIPPED.validate_python(dump.shipped(connection), strict=True)


def said(error: Exception) -> str:
    """Return what is wrong, of an error of `stored.WRONG`."""
    return (
        first_problem(error, "the whole", lines.named)
        if isinstance(error, ValidationError)
        else f"a value of a wrong kind: {error}"
    )


def dangling(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield what refers to nothing, table and problem. SQLite alone can hold such rows."""
    if connection.dialect.name == "sqlite":
        for table, row, other, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
            yield table, f"{'a row' if row is None else f'row {row}'} refers to nothing in {other}"


def checkpoints(
    database: Database, connection: Connection, outcome: str, progress: Progress = no_progress
) -> Iterator[CheckpointData]:
    """Yield everything another catalog holds, each checked. Raises CatalogError; `outcome` is what becomes of it all."""
    # What refers to nothing would be left out without a word.
    lost = read(lambda: next(dangling(connection), None), database, outcome)
    if lost is not None:
        raise _refused(database, outcome, f"table {lost[0]}: {lost[1]}")
    entries = dump.checkpoints(connection, progress)

    def checked() -> CheckpointData | None:
        entry = next(entries, None)
        if entry is not None:
            check(entry)
        return entry

    total = Counts()
    while (entry := read(checked, database, outcome)) is not None:
        total = total.with_(entry)
        yield entry
    for table, reached in ((DirectionTable, total.directions + total.composites), (LabelTable, total.labels)):
        there = connection.execute(select(func.count()).select_from(table)).scalar_one()
        if there != reached:
            raise _refused(database, outcome, f"{there - reached:,} {table.__tablename__} that belong to nothing")


def read(ask: Callable[[], T], database: Database, outcome: str) -> T:
    """Return an answer of another catalog. Raises CatalogError, which names that one, where it holds what it should not."""
    try:
        with database.guarded():
            return ask()
    except WRONG as error:
        raise _refused(database, outcome, printable(said(error))) from error


def _refused(database: Database, outcome: str, problem: str) -> CatalogError:
    message = (
        f"{database.place} holds what no catalog does ({problem}). {outcome}. `eigenbank catalog verify --catalog "
        f"{shlex.quote(database.place)}` says what is wrong; export the catalog that it comes from again."
    )
    return CatalogError(message)
