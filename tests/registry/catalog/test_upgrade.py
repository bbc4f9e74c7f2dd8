"""An older catalog is brought up to date when it is opened, and a copy of it is kept: one of the first schema, and ours
by a newer schema that is made up."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.catalog.care import verify
from eigenbank.registry.catalog.engine import Database, connect
from eigenbank.registry.catalog.place import APPLICATION_ID, SCHEMA_VERSION
from eigenbank.registry.catalog.schema import MIGRATIONS, migrate, open_file
from eigenbank.registry.sets.bundled import shipped_sets
from eigenbank.schemas.errors import CatalogError

from .made import label, manifest, measured
from .test_whole import content

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


MEASURED = ("confidence", "effect", "selectivity", "consistency", "asymmetry", "runner_up_effect", "null_effect")
INTERNAL = ("alembic_version", "texts_fts", "names_fts", "models_fts")


def of_schema(path: Path, number: int) -> None:
    """Turn a catalog of today into the one that an eigenbank of an earlier schema would have made."""
    older = path.with_name("older.db")
    database = Database(connect(older, "rwc"), "older")
    with database.writing() as connection:
        migrate(connection, target=f"{number:04d}")
    database.close()
    plain = sqlite3.connect(older, isolation_level=None)
    plain.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}")
    plain.execute("PRAGMA journal_mode = WAL")
    plain.execute("ATTACH ? AS today", (str(path),))
    for (table,) in plain.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        if table in INTERNAL:
            continue
        names = [row[1] for row in plain.execute(f"PRAGMA main.table_info({table})")]
        # Before schema 5 measured numbers were floats.
        old = [f"{name} / 10000.0" if name in MEASURED and number < 5 else f'"{name}"' for name in names]
        plain.execute(f"DELETE FROM main.{table}")
        columns = ", ".join(f'"{name}"' for name in names)
        plain.execute(f"INSERT INTO main.{table} ({columns}) SELECT {', '.join(old)} FROM today.{table}")
    plain.close()
    for leftover in path.parent.glob(f"{path.name}*"):
        leftover.unlink()
    older.rename(path)


def structure(path: Path) -> set[tuple[str, str]]:
    plain = sqlite3.connect(path)
    # The order of checks and keys within a table does not matter.
    found = {
        (name, " ".join(sorted(str(sql).replace(",", " ").split())))
        for name, sql in plain.execute("SELECT name, sql FROM sqlite_master WHERE tbl_name <> 'alembic_version'")
    }
    plain.close()
    return found


@pytest.mark.parametrize("number", [3, 6])
def test_sets_of_an_earlier_schema_get_their_composites(tmp_path: Path, number: int) -> None:
    """Those that are where the catalog says, unchanged."""
    location, checkpoint, shipped, digest = shipped_sets()[0]
    bare = shipped.model_copy(update={"composites": ()})
    changed = bare.model_copy(update={"checkpoint": shipped.checkpoint.model_copy(update={"model_id": "acme/changed"})})
    path = tmp_path / "catalog.db"
    with Catalog.open(path, shipped=False) as catalog:
        catalog.add_set(bare, location=location, digest=digest, checkpoint_path=checkpoint)
        catalog.add_set(changed, location=location, digest="another's")
        catalog.add_set(manifest(), location="/nowhere", digest="1")
        catalog.add_set(manifest("acme/hub"), location=f"hub:me/it@{'c' * 40}", digest="1")
        unnamed = next(record for record in shipped.directions if not record.labels)
        catalog.add_label(f"{shipped.checkpoint.model_id}#{unnamed.id}", label("mine", source="human:ann"))
        before = content(catalog)
    of_schema(path, number)
    with Catalog.open(path, shipped=False) as catalog:
        found = [row.id for row in catalog.search(composites=True)]
        assert found == [f"{shipped.checkpoint.model_id}#{record.id}" for record in shipped.composites]
        assert verify(catalog) == []
        after = content(catalog)
        for entry in after:
            assert entry.set is not None
            entry.set.composites = []
        if number > 4:  # before, there were no qualities and nulls
            assert after == before
        assert [row.label_texts for row in catalog.search("mine")] == [["mine"]]


@pytest.mark.parametrize("number", range(1, SCHEMA_VERSION))
def test_a_catalog_of_an_earlier_schema_is_brought_to_todays(tmp_path: Path, number: int) -> None:
    path = tmp_path / "catalog.db"
    null = {"null": None} if number < 4 else {}
    smile = measured("smile", 0.9)
    assert smile.evidence is not None
    smile = smile.model_copy(update={"evidence": smile.evidence.model_copy(update=null)})
    with Catalog.open(path, shipped=False) as catalog:
        labels = {"mid_block.attentions.0/value/1": [smile, label("grin", None, "human:ann", note="by eye")]}
        catalog.add_set(manifest(labels=labels), location="/a", digest="1")
        before = content(catalog)
    today = structure(path)
    of_schema(path, number)
    assert structure(path) != today
    with Catalog.open(path, shipped=False) as catalog:
        assert content(catalog) == before
        assert [row.label_texts for row in catalog.search("smi", rank=1)] == [["smile", "grin"]]
        assert len(catalog.search("smi", min_confidence=0.9)) == 1
        assert verify(catalog) == []
    assert structure(path) == today
    assert version(path)[:2] == (SCHEMA_VERSION, f"{SCHEMA_VERSION:04d}")
    assert version(path.with_name(f"catalog.db.schema-{number}"))[:2] == (number, f"{number:04d}")
