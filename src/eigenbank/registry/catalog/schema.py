"""Making a catalog, and bringing an older one up to date."""

import os
import re
import secrets
import sqlite3
from pathlib import Path

from sqlalchemy import Connection

from eigenbank.registry.catalog.disk import check_folder, remove_leftovers
from eigenbank.registry.catalog.engine import Database, connect
from eigenbank.registry.catalog.models import Base
from eigenbank.registry.catalog.place import APPLICATION_ID, SCHEMA_VERSION, check, check_parent, check_version
from eigenbank.schemas.errors import CatalogError

MIGRATIONS = Path(__file__).with_name("migrations")


def revision(version: int) -> str:
    """Return the name of a schema's migration."""
    return f"{version:04d}"


def create_tables(connection: Connection) -> None:
    """Make all tables at once, as the migrations would one by one."""
    Base.metadata.create_all(connection)
    connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{revision(SCHEMA_VERSION)}')")


def create(path: Path, *, folder: bool = False) -> None:
    """Make a new catalog at `path`, whole or not at all; where another process is faster, its catalog stays. With `folder`
    its folder is made, too, if it is not there. Raises CatalogError.
    """
    if not folder:
        check_parent(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_folder(path.parent)
        sweep(path)
        try:
            _fill(temporary, str(path))
            try:
                os.link(temporary, path)
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links
                if not path.exists():
                    temporary.replace(path)
        finally:
            for leftover in _with_logs(temporary):
                leftover.unlink(missing_ok=True)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        message = (
            f"no catalog can be made at {path}: {reason}. Nothing was changed. Name another file with --catalog or "
            "EIGENBANK_CATALOG."
        )
        raise CatalogError(message) from error


def _fill(temporary: Path, place: str) -> None:
    database = Database(connect(temporary, "rwc"), place)
    try:
        with database.writing() as connection:
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
            create_tables(connection)
    finally:
        database.close()
    # The driver alone: SQLAlchemy would wrap the change of journal in a transaction, where SQLite ignores it.
    plain = sqlite3.connect(temporary)
    plain.execute("PRAGMA journal_mode = WAL")
    plain.close()


def _with_logs(path: Path) -> list[Path]:
    return [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))]


def sweep(path: Path) -> None:
    """Remove what killed programs left beside a catalog while they were making it. Those still at it are let alone."""
    remove_leftovers(path.parent, re.escape(f".{path.name}") + r"\.(?P<pid>\d+)-[0-9a-f]{8}\.new(-wal|-shm|-journal)?")


def open_file(
    path: Path, *, folder: bool = False, schema: int = SCHEMA_VERSION, migrations: Path = MIGRATIONS
) -> tuple[Database, bool]:
    """Open the catalog at `path`, made if it is not there, with `folder` in a new folder. Returns it and whether it can be
    written to.

    Raises CatalogError for what is not a catalog, for one of a newer schema, and for a folder where locks do not work; an
    older one is brought up to `schema` by `migrations`, a copy of it kept beside it.
    """
    if not path.exists():
        create(path, folder=folder)
    check(path)
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    mode = "rw" if os.access(path, os.W_OK) else "ro"
    if not writable and not path.with_name(path.name + "-shm").exists() and not os.access(path.parent, os.W_OK):
        # In a folder where SQLite cannot put its log, nobody else can be writing either.
        mode = "ro&immutable=1"
    elif not path.with_name(path.name + "-shm").exists():
        # The first to open it: later ones find the log, and need not ask again.
        check_folder(path.parent)
    database = Database(connect(path, mode), str(path))
    try:
        with database.reading() as connection:
            version = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
            tables = set(connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars())
        check_version(str(path), version, schema)
        if version == SCHEMA_VERSION and (missing := sorted(Base.metadata.tables.keys() - tables)):
            message = (
                f"the catalog {path} lacks the tables {', '.join(missing)}: it is damaged, or another program's. Nothing "
                "was changed. Restore it from a copy, or move it away and add the sets again."
            )
            raise CatalogError(message)
        if version < schema:
            upgrade(database, path, version, schema, migrations)
    except BaseException:
        database.close()
        raise
    return database, writable


def upgrade(database: Database, path: Path, version: int, schema: int, migrations: Path) -> None:
    """Keep a copy of an older catalog, then run the migrations it lacks, in one transaction."""
    copy = path.with_name(f"{path.name}.schema-{version}")
    if not copy.exists():
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new")
        try:
            source, target = sqlite3.connect(path), sqlite3.connect(temporary)
            try:
                source.backup(target)
            finally:
                source.close()
                target.close()
            temporary.replace(copy)
        except (OSError, sqlite3.Error) as error:
            message = (
                f"the catalog {path} is of schema {version} and must be brought to {schema}, but the copy that is kept "
                f"first cannot be made at {copy}: {getattr(error, 'strerror', None) or error}. Nothing was changed."
            )
            raise CatalogError(message) from error
        finally:
            for leftover in _with_logs(temporary):
                leftover.unlink(missing_ok=True)
    from eigenbank.registry.catalog.adopt import adopt_composites

    with database.writing() as connection:
        found = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
        if found == version:  # otherwise another process has just done it
            migrate(connection, migrations)
            adopt_composites(connection, version)
            connection.exec_driver_sql(f"PRAGMA user_version = {schema}")


def migrate(connection: Connection, migrations: Path = MIGRATIONS, target: str = "head") -> None:
    """Run every migration that the database lacks, up to the `target`, within the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, target)
