"""An older catalog is brought up to date when it is opened, and a copy of it is kept: one of the first schema, and ours
by a newer schema that is made up."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.catalog.care import verify
from eigenbank.registry.catalog.place import SCHEMA_VERSION
from eigenbank.registry.catalog.schema import MIGRATIONS, open_file
from eigenbank.schemas.errors import CatalogError

from .made import manifest

NEWER = SCHEMA_VERSION + 1
NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "{new:04d}"
down_revision = "{old:04d}"


def upgrade():
    op.add_column("sets", sa.Column("stars", sa.Integer(), nullable=True))
    op.execute("UPDATE sets SET stars = 5")
    {more}
"""


def newer(tmp_path: Path, more: str = "") -> Path:
    """Our migrations, and one more."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = NEXT.format(new=NEWER, old=SCHEMA_VERSION, more=more)
    (folder / "versions" / f"{NEWER:04d}_next.py").write_text(text)
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.db"
    with Catalog.open(path, shipped=False) as catalog:
        catalog.add_set(manifest(), location="/a", digest="1")
    return path


def version(path: Path) -> tuple[int, str, int]:
    plain = sqlite3.connect(path)
    number = plain.execute("PRAGMA user_version").fetchone()[0]
    name = plain.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    columns = len(plain.execute("PRAGMA table_info(sets)").fetchall())
    plain.close()
    return number, name, columns


def test_an_older_catalog_is_upgraded_and_a_copy_kept(old: Path, tmp_path: Path) -> None:
    before = version(old)
    database, writable = open_file(old, schema=NEWER, migrations=newer(tmp_path))
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT location, stars FROM sets").all() == [("/a", 5)]
    database.close()
    assert writable
    assert version(old) == (NEWER, f"{NEWER:04d}", before[2] + 1)
    copy = old.with_name(f"catalog.db.schema-{SCHEMA_VERSION}")
    assert version(copy) == before
    with Catalog.open(copy, shipped=False) as catalog:
        assert catalog.model_ids() == ["acme/faces"]
    with pytest.raises(CatalogError, match=f"has schema {NEWER}, this eigenbank knows up to {SCHEMA_VERSION}: a newer"):
        Catalog.open(old)
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def test_a_migration_that_fails_changes_nothing(old: Path, tmp_path: Path) -> None:
    before = version(old)
    with pytest.raises(Exception, match="no such table: nowhere"):
        open_file(old, schema=NEWER, migrations=newer(tmp_path, 'op.execute("UPDATE nowhere SET x = 1")'))
    assert version(old) == before
    with Catalog.open(old, shipped=False) as catalog:
        assert catalog.model_ids() == ["acme/faces"]


def test_a_second_upgrade_finds_it_done(old: Path, tmp_path: Path) -> None:
    folder = newer(tmp_path)
    for _ in range(2):
        open_file(old, schema=NEWER, migrations=folder)[0].close()
    assert version(old)[0] == NEWER


NO_NULLS = "ALTER TABLE labels DROP COLUMN null_effect"
LACKS = {
    1: f"DROP INDEX ix_directions_rank_eigenvalue; DROP INDEX ix_directions_rank_share; {NO_NULLS}",
    2: f"DROP INDEX ix_directions_rank; {NO_NULLS}",
    3: NO_NULLS,
}


def of_schema(path: Path, number: int) -> None:
    """Turn a catalog of today into the one that an eigenbank of an earlier schema would have made."""
    plain = sqlite3.connect(path)
    plain.executescript(
        f"{LACKS[number]}; UPDATE alembic_version SET version_num = '{number:04d}'; PRAGMA user_version = {number}"
    )
    plain.close()


def structure(path: Path) -> set[tuple[str, str]]:
    plain = sqlite3.connect(path)
    found = {(name, " ".join(str(sql).split())) for name, sql in plain.execute("SELECT name, sql FROM sqlite_master")}
    plain.close()
    return found


@pytest.mark.parametrize("number", LACKS)
def test_a_catalog_of_an_earlier_schema_is_brought_to_todays(old: Path, number: int) -> None:
    with Catalog.open(old, shipped=False) as catalog:
        before = [row.id for row in catalog.search()]
    today = structure(old)
    of_schema(old, number)
    assert structure(old) != today
    with Catalog.open(old, shipped=False) as catalog:
        assert [row.id for row in catalog.search()] == before
        assert verify(catalog) == []
    assert structure(old) == today
    assert version(old)[:2] == (SCHEMA_VERSION, f"{SCHEMA_VERSION:04d}")
    assert version(old.with_name(f"catalog.db.schema-{number}"))[:2] == (number, f"{number:04d}")
