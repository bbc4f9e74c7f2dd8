import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.catalog import care as care_module
from eigenbank.registry.catalog import catalog as catalog_module
from eigenbank.registry.catalog import database as database_module
from eigenbank.registry.catalog import tables as tables_module
from eigenbank.registry.catalog.care import verify
from eigenbank.registry.catalog.database import APPLICATION_ID
from eigenbank.registry.catalog.tables import VERSION
from eigenbank.schemas.errors import CatalogError

from .made import label, manifest


def refused(path: Path, match: str) -> str:
    """Open what is no catalog; nothing in its folder may change."""
    before = {entry.name: entry.read_bytes() for entry in path.parent.iterdir() if entry.is_file()}
    with pytest.raises(CatalogError, match=match) as caught:
        Catalog.open(path)
    assert {entry.name: entry.read_bytes() for entry in path.parent.iterdir() if entry.is_file()} == before
    assert str(path) in str(caught.value)
    return str(caught.value)


def made(path: Path) -> None:
    with Catalog.open(path, shipped=False) as catalog:
        catalog.add_set(manifest(), location="a", digest="1")


def test_a_file_that_is_not_sqlite_is_refused(path: Path) -> None:
    path.write_text("a shopping list\n" * 100)
    refused(path, "is not a catalog: expected an SQLite file, found one that begins with b'a shopping list")


def test_an_empty_file_is_no_catalog_yet(path: Path) -> None:
    path.touch()
    with Catalog.open(path, shipped=False) as catalog:
        assert catalog.sets() == []
        assert path.stat().st_size == 0
        catalog.add_set(manifest(), location="a", digest="1")
        assert catalog.model_ids() == ["acme/faces"]


def test_a_folder_is_refused(path: Path) -> None:
    path.mkdir()
    refused(path, "is a folder")


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_another_programs_database_is_refused(path: Path, journal: str) -> None:
    plain = sqlite3.connect(path)
    plain.execute(f"PRAGMA journal_mode = {journal}")
    plain.execute("CREATE TABLE labels (id INTEGER PRIMARY KEY, text TEXT)")
    plain.close()
    refused(path, "is an SQLite database of another program")


def test_a_newer_version_is_refused_and_named(path: Path) -> None:
    made(path)
    plain = sqlite3.connect(path)
    plain.execute("PRAGMA user_version = 99")
    plain.close()
    message = refused(path, f"is of version 99, this eigenbank knows up to {VERSION}")
    assert "Nothing was changed" in message


def test_a_catalog_that_lacks_tables_is_refused(path: Path) -> None:
    made(path)
    plain = sqlite3.connect(path)
    plain.execute("DROP TABLE people_labels")
    plain.close()
    with (
        Catalog.open(path, shipped=False) as catalog,
        pytest.raises(CatalogError, match="its tables are not a catalog's"),
    ):
        catalog.people_labels("acme/faces")


def test_a_file_cut_short_is_refused(path: Path) -> None:
    made(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "it is damaged")


def test_a_damaged_page_is_told_as_damage(path: Path) -> None:
    made(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(CatalogError, match="it is damaged"), Catalog.open(path) as catalog:
        catalog.search("x")


def test_a_folder_that_cannot_be_created_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("EIGENBANK_HOME", str(tmp_path / "file"))
    monkeypatch.delenv("EIGENBANK_CATALOG", raising=False)
    with Catalog.open() as catalog, pytest.raises(CatalogError, match="no catalog can be created at"):
        catalog.reindex()


def test_a_named_catalog_is_created_in_no_new_folder_the_one_at_home_is(tmp_path: Path, home: Path) -> None:
    with pytest.raises(CatalogError, match=r"there is no folder .*nowhere\. Nothing was created"):
        Catalog.open(tmp_path / "nowhere" / "catalog.db")
    assert list(tmp_path.iterdir()) == []
    with Catalog.open() as catalog:
        assert catalog.place == str(home / "catalog.db")


@pytest.mark.parametrize(
    "url", ["", "  ", "mysql://host/x", "sqlite://", "sqlite:///:memory:", "http://x", "://", "a\x00b", "sqlite:///"]
)
def test_a_place_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(CatalogError, match="expected a path"):
        Catalog.open(url)


def test_a_password_is_never_shown() -> None:
    with pytest.raises(CatalogError) as caught:
        Catalog.open("postgresql+psycopg://ann:secret@host/db")
    assert "secret" not in str(caught.value)


def test_the_place_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EIGENBANK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EIGENBANK_CATALOG", raising=False)
    with Catalog.open(shipped=False) as catalog:
        assert catalog.place == str(tmp_path / "home" / "catalog.db")
    monkeypatch.setenv("EIGENBANK_CATALOG", f"sqlite:///{tmp_path}/other #?%.db")
    with pytest.raises(CatalogError, match="expected a path"):
        Catalog.open(shipped=False)
    monkeypatch.setenv("EIGENBANK_CATALOG", f"{tmp_path}/other #?%.db")
    with Catalog.open(shipped=False) as catalog:
        assert catalog.place == f"{tmp_path}/other #?%.db"
        catalog.reindex()
    assert (tmp_path / "other #?%.db").is_file()


def pretend_newer(patch: pytest.MonkeyPatch) -> None:
    """Have this eigenbank know a version more than it does."""
    for module in (catalog_module, database_module, tables_module, care_module):
        patch.setattr(module, "VERSION", VERSION + 1)


def test_an_older_version_is_indexed_again_and_keeps_peoples_labels(path: Path) -> None:
    name = "acme/faces#mid_block.attentions.0/value/0"
    with Catalog.open(path, shipped=False) as catalog:
        catalog.add_set(manifest(composites=("beard",)), location="a", digest="1", checkpoint_path="/m")
        catalog.add_labels([name], label("grin", source="human:ann"))
        before = catalog.sets(), catalog.search(limit=100).rows
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("DROP TABLE labels")
        plain.execute("ALTER TABLE spectra RENAME COLUMN details TO trifles")
        plain.execute("CREATE TABLE derived_by_then (x)")
    with pytest.MonkeyPatch.context() as patch:  # as the next version will find it
        pretend_newer(patch)
        with Catalog.open(path, shipped=False) as catalog:
            assert (catalog.sets(), catalog.search(limit=100).rows) == before
            assert catalog.people_labels("acme/faces") != {}
            assert verify(catalog) == []


def test_a_catalog_says_whose_it_is(path: Path) -> None:
    made(path)
    plain = sqlite3.connect(path)
    assert plain.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert plain.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert plain.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    plain.close()
