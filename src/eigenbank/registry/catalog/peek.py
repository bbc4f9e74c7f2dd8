"""A look at a catalog that changes nothing: it makes none, and brings none up to date."""

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL

from eigenbank.registry.catalog.engine import Database, connect
from eigenbank.registry.catalog.place import SCHEMA_VERSION, check, check_version
from eigenbank.registry.catalog.server import look_at


@dataclass(frozen=True)
class Glance:
    """What was seen: the schema (None: there is no catalog yet), and the counts, if it is of this program's schema."""

    schema: int | None
    models: int | None = None
    directions: int | None = None

    @property
    def older(self) -> bool:
        """Whether opening it would bring it up to date."""
        return self.schema is not None and self.schema < SCHEMA_VERSION


def peek(place: Path | URL) -> Glance:
    """Look at the catalog at a place, as `locate` gives it. Raises CatalogError for what cannot be used as one."""
    if isinstance(place, URL):
        return Glance(look_at(place))
    if not place.exists():
        return Glance(None)
    check(place)
    # Where SQLite cannot put its log beside the file, nobody else can be writing either.
    mode = "ro" if os.access(place.parent, os.W_OK) else "ro&immutable=1"
    database = Database(connect(place, mode), str(place))
    try:
        with database.reading() as connection:
            schema = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
            check_version(str(place), schema)
            if schema < SCHEMA_VERSION:
                return Glance(schema)
            count = "SELECT (SELECT count(*) FROM checkpoints), (SELECT coalesce(sum(directions), 0) FROM sets)"
            models, directions = connection.exec_driver_sql(count).one()
            return Glance(schema, int(models), int(directions))
    finally:
        database.close()
