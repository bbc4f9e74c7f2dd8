"""A catalog on a PostgreSQL server, for teams."""

from typing import Any

from sqlalchemy import URL, Connection, create_engine
from sqlalchemy.exc import DBAPIError

from eigenbank.registry.catalog.adopt import adopt_composites
from eigenbank.registry.catalog.engine import Database, explain
from eigenbank.registry.catalog.place import SCHEMA_VERSION, check_version
from eigenbank.registry.catalog.schema import create_tables, migrate
from eigenbank.schemas.errors import CatalogError


def open_server(url: URL) -> tuple[Database, bool]:
    """Open the catalog in a PostgreSQL database, made if the database is empty. Returns it and whether it may be written.

    Raises CatalogError where psycopg is not installed or the server cannot be reached, for a database that holds other
    tables, and for a catalog of a newer schema; an older one is brought up to date.
    """
    database = _connect(url)
    try:
        with database.reading() as connection:
            version = _version(connection, database.place)
            writable = _writable(connection)
        if version is not None:
            check_version(database.place, version)
        if version is None or version < SCHEMA_VERSION:
            _bring_up_to_date(database)
    except DBAPIError as error:
        database.close()
        known = explain(error, database.place)
        if known is None:
            raise
        raise known from error
    except BaseException:
        database.close()
        raise
    return database, writable


def look_at(url: URL) -> int | None:
    """The schema of the catalog in a PostgreSQL database, None where the database is empty. Nothing is changed.

    Raises CatalogError as `open_server` does.
    """
    database = _connect(url)
    try:
        with database.reading() as connection:
            version = _version(connection, database.place)
        if version is not None:
            check_version(database.place, version)
        return version
    finally:
        database.close()


def _connect(url: URL) -> Database:
    place = url.render_as_string(hide_password=True)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    try:
        engine = create_engine(url, connect_args={"connect_timeout": 10}, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        message = f"the catalog {place} needs psycopg: pip install 'eigenbank[postgres]'. Nothing was changed."
        raise CatalogError(message) from error
    return Database(engine, place)


def _version(connection: Connection, place: str) -> int | None:
    """Return the catalog's schema; None for an empty database."""
    statement = "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = current_schema()"
    tables = set(connection.exec_driver_sql(statement).scalars())
    if not tables:
        return None
    found: Any = None
    if {"alembic_version", "directions", "spectra", "strays"} <= tables:
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if not (isinstance(found, str) and found.isdecimal()):
        shown = ", ".join(sorted(tables)[:5])
        message = (
            f"{place} holds tables of another program ({shown}{', …' if len(tables) > 5 else ''}): expected an empty "
            "database, or a catalog. Nothing was changed. Make one with createdb and name it in the URL."
        )
        raise CatalogError(message)
    return int(found)


def _writable(connection: Connection) -> bool:
    """Whether this user may change the catalog; a new one is theirs."""
    statement = (
        "SELECT bool_and(has_table_privilege(oid, 'INSERT, UPDATE, DELETE')) FROM pg_catalog.pg_class "
        "WHERE relname = 'directions' AND relnamespace = to_regnamespace(current_schema())::oid"
    )
    standby = connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar()
    return not standby and connection.exec_driver_sql(statement).scalar() is not False


def _bring_up_to_date(database: Database) -> None:
    """Make the tables, or run the migrations that are missing, in one transaction."""
    with database.writing() as connection:
        found = _version(connection, database.place)  # asked again: another program may have been faster
        if found is None:
            create_tables(connection)
        elif found < SCHEMA_VERSION:
            migrate(connection)
            adopt_composites(connection, found)
