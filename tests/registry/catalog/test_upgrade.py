"""An older catalog is brought up to date when it is opened, and a copy of it is kept. The newer schema here is made up."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.catalog.schema import MIGRATIONS, open_file
from eigenbank.schemas.errors import CatalogError

from .made import manifest

SECOND = """
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    op.add_column("sets", sa.Column("stars", sa.Integer(), nullable=True))
    op.execute("UPDATE sets SET stars = 5")
    {more}
"""


def newer(tmp_path: Path, more: str = "") -> Path:
    """Our migrations, and one more."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "0002_second.py").write_text(SECOND.format(more=more))
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
    database, writable = open_file(old, schema=2, migrations=newer(tmp_path))
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT location, stars FROM sets").all() == [("/a", 5)]
    database.close()
    assert writable
    assert version(old) == (2, "0002", before[2] + 1)
    copy = old.with_name("catalog.db.schema-1")
    assert version(copy) == before
    with Catalog.open(copy, shipped=False) as catalog:
        assert catalog.model_ids() == ["acme/faces"]
    with pytest.raises(CatalogError, match="has schema 2, this eigenbank knows up to 1: a newer eigenbank wrote it"):
        Catalog.open(old)
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def test_a_migration_that_fails_changes_nothing(old: Path, tmp_path: Path) -> None:
    before = version(old)
    with pytest.raises(Exception, match="no such table: nowhere"):
        open_file(old, schema=2, migrations=newer(tmp_path, 'op.execute("UPDATE nowhere SET x = 1")'))
    assert version(old) == before
    with Catalog.open(old, shipped=False) as catalog:
        assert catalog.model_ids() == ["acme/faces"]


def test_a_second_upgrade_finds_it_done(old: Path, tmp_path: Path) -> None:
    folder = newer(tmp_path)
    for _ in range(2):
        open_file(old, schema=2, migrations=folder)[0].close()
    assert version(old)[0] == 2
