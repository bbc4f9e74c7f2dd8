"""The same catalog on a real PostgreSQL server, started for these tests in a folder of its own."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.catalog.care import stats, verify
from eigenbank.registry.catalog.transfer import export_file, import_file, merge
from eigenbank.schemas.errors import CatalogError

from . import test_files, test_search, test_sets
from .made import label, manifest
from .test_search import HOSTILE, every

MID = "mid_block.attentions.0/value/1"


def program(name: str) -> str | None:
    """A PostgreSQL program: Debian keeps them out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A server without TCP, reached by a socket in its folder. Yields the URL of its databases, without their names."""
    pytest.importorskip("psycopg", reason="the extra is not installed: pip install 'eigenbank[postgres]'")
    initdb, control = program("initdb"), program("pg_ctl")
    if initdb is None or control is None:
        pytest.skip("there is no PostgreSQL server here: apt-get install postgresql")
    # PostgreSQL will not run as root. The folder's name is short: a socket's path has at most 107 letters.
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="eb-pg-", dir="/tmp"))
    try:
        if prefix:
            shutil.chown(folder, "postgres", "postgres")
        user = "postgres"

        def run(*command: object) -> None:
            subprocess.run([*prefix, *map(str, command)], check=True, capture_output=True, cwd="/")

        data = folder / "data"
        run(initdb, "-D", data, "-U", user, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        # Not durable: what is tested is not the server.
        options = f"-c listen_addresses='' -k {folder} -c fsync=off -c max_connections=60"
        run(control, "-D", data, "-o", options, "-l", folder / "log", "-w", "start")
        try:
            yield f"postgresql+psycopg://{user}@/{{}}?host={folder}"
        finally:
            run(control, "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A new, empty database."""
    import psycopg

    plain = server.format("postgres").replace("+psycopg", "")
    name = f"t{abs(hash(request.node.name)):x}"
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")  # type: ignore[arg-type]
        yield server.format(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    with Catalog.open(url, shipped=False) as opened:
        yield opened


@pytest.fixture
def filled(catalog: Catalog) -> Catalog:
    return test_search.fill(catalog)


SAME = [
    test_sets.test_a_set_is_read_back_as_it_was_added,
    test_sets.test_a_composite_is_found_by_its_label_and_its_name,
    test_sets.test_a_persons_label_on_a_composite_is_theirs,
    test_sets.test_a_persons_label_waits_while_its_direction_is_left_out,
    test_sets.test_a_set_is_taken_out_and_peoples_labels_wait,
    test_sets.test_what_is_put_into_the_place_of_a_removed_set_gets_the_labels_that_wait,
    test_sets.test_a_set_spares_one_with_what_it_lacks,
    test_sets.test_a_catalog_indexed_again_is_the_same,
]


@pytest.mark.parametrize("test", SAME, ids=lambda test: test.__name__)
def test_it_is_as_on_sqlite(test: Callable[[Catalog], None], catalog: Catalog) -> None:
    test(catalog)


def test_searches_find_the_same_as_in_sqlite(filled: Catalog, tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "same.db", shipped=False) as opened:
        twin = test_search.fill(opened)
        labels = {"composite/smile": [label("smile", 0.5), label("grin")], "composite/x": [label("long hair", 0.9)]}
        for one in (filled, twin):
            one.add_set(manifest("acme/made", labels, composites=("x", "smile", "y")), location="/m", digest="m")
        texts = [
            None,
            "smile",
            "smil",
            '"long hair"',
            "mid smil",
            "acme",
            "faces down grin",
            "age smile net",
            "Größe",
            "x",
        ]
        sorts = ("match", "confidence", "eigenvalue", "share", "rank", "catalog")
        filters: list[dict[str, object]] = [
            {"model": "acme/*"}, {"source": "human"}, {"min_confidence": 0.5}, {"layer": "mid*"}, {"width": 128}, {"labelled": False},
            {"min_eigenvalue": 5.0, "rank": 0}, {"composites": True}, {"composites": False}, {"layer": "*"},
        ]  # fmt: skip
        searches = [{"text": text, "sort": sort} for text in texts for sort in sorts]
        searches += [
            {"text": text, "sort": "match", **more} for text in (None, "smile", "mid smil") for more in filters
        ]
        for search in searches:
            assert list(every(filled, 3, **search)) == list(every(twin, 3, **search)), search


def test_any_text_anywhere_gives_rows_or_a_clear_error(filled: Catalog) -> None:
    for text in HOSTILE:
        test_search.try_everywhere(filled, text)


def test_an_older_version_is_indexed_again_and_keeps_peoples_labels(url: str) -> None:
    with Catalog.open(url, shipped=False) as catalog:
        catalog.add_set(manifest(composites=("beard",)), location="a", digest="1")
        catalog.add_labels([f"acme/faces#{MID}"], label("grin", source="human:ann"))
        before = catalog.sets(), catalog.search(limit=100).rows
        with catalog.writing() as connection:
            connection.exec_driver_sql("ALTER TABLE spectra DROP COLUMN details CASCADE")
    with pytest.MonkeyPatch.context() as patch:  # as the next version will find it
        test_files.pretend_newer(patch)
        with Catalog.open(url, shipped=False) as catalog:
            assert (catalog.sets(), catalog.search(limit=100).rows) == before
            assert verify(catalog) == []


def test_it_moves_to_sqlite_and_back_unchanged(filled: Catalog, tmp_path: Path) -> None:
    filled.add_labels([f"acme/faces#{MID}"], label("½" * 500, source="human:ann"))
    export_file(filled, tmp_path / "all.jsonl")
    with Catalog.open(tmp_path / "all.db", shipped=False) as copy:
        import_file(copy, tmp_path / "all.jsonl")
        export_file(copy, tmp_path / "again.jsonl")
        assert merge(filled, copy)[1] == []
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "all.jsonl").read_bytes()
    import_file(filled, tmp_path / "all.jsonl")
    assert verify(filled) == []
    filled.reindex()
    assert verify(filled) == []
    assert stats(filled)["directions"] == 15
    assert filled.vacuum()[1] > 0


def test_verifying_finds_a_word_index_that_lies(filled: Catalog) -> None:
    with filled.writing() as connection:
        connection.exec_driver_sql("UPDATE texts_fts SET words = 'lie:1'::tsvector WHERE rowid = 1")
    assert [one.where for one in verify(filled)] == ["words"]


def test_a_value_it_cannot_hold_is_an_error_in_words(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match="cannot hold a value that was to be put in"):
        catalog.add_set(manifest(), location="x", digest="x" * 300)
    assert catalog.model_ids() == []


def test_two_programs_write_in_turn(url: str, catalog: Catalog) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def write(number: int) -> None:
        with Catalog.open(url, shipped=False) as own:
            own.add_set(manifest(f"writer/{number}"), location="x", digest="x")
            assert len(own.search("mid", limit=5)) == 5

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(16)))
    assert len(catalog.model_ids()) == 16
    assert verify(catalog) == []


def test_another_programs_database_is_refused(url: str) -> None:
    import psycopg

    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE TABLE labels (id int)")
        with pytest.raises(CatalogError, match=r"holds tables of another program \(labels\)"):
            Catalog.open(url)
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (1,)


def test_a_newer_version_is_refused_and_named(url: str, catalog: Catalog) -> None:
    catalog.reindex()
    with catalog.writing() as connection:
        connection.exec_driver_sql("UPDATE catalog_version SET version = 99")
    with pytest.raises(CatalogError, match="is of version 99, this eigenbank knows up to"):
        Catalog.open(url)


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(CatalogError, match=r"no connection to the server\. Nothing was changed") as caught:
        Catalog.open(f"postgresql+psycopg://ann:secret@/x?host={tmp_path}")
    assert "secret" not in str(caught.value)


def test_a_database_that_is_not_there_is_told(server: str) -> None:
    with pytest.raises(CatalogError, match='database "nowhere" does not exist'):
        Catalog.open(server.format("nowhere"))
