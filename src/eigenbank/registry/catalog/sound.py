"""Whether what a catalog holds is what the schemas allow. SQLite keeps in a column whatever it is given: a file from elsewhere,
whose tables are a catalog's, may hold anything.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection

from eigenbank.registry.catalog import dump, lines
from eigenbank.registry.catalog.content import CheckpointData
from eigenbank.registry.catalog.stored import WRONG
from eigenbank.schemas.errors import CatalogError, first_problem

T = TypeVar("T")


def check(entry: CheckpointData) -> None:
    """Raise ValidationError where a checkpoint holds what a line of an export may not."""
    lines.entries(whole=False).validate_python(lines.document(entry))


def said(error: Exception) -> str:
    """Return what is wrong, of an error of `stored.WRONG`."""
    return (
        first_problem(error, "the whole") if isinstance(error, ValidationError) else f"a value of a wrong kind: {error}"
    )


def checkpoints(connection: Connection, place: str, outcome: str) -> Iterator[CheckpointData]:
    """Yield everything another catalog holds, each checked. Raises CatalogError; `outcome` is what becomes of it all."""
    entries = dump.checkpoints(connection)

    def checked() -> CheckpointData | None:
        entry = next(entries, None)
        if entry is not None:
            check(entry)
        return entry

    while (entry := read(checked, place, outcome)) is not None:
        yield entry


def read(ask: Callable[[], T], place: str, outcome: str) -> T:
    """Return an answer. Raises CatalogError where the catalog holds what it should not."""
    try:
        return ask()
    except WRONG as error:
        message = (
            f"{place} holds what no catalog does ({said(error)}). {outcome}. `eigenbank catalog verify --catalog {place}` "
            "says of which model; export the catalog that it comes from again."
        )
        raise CatalogError(message) from error
