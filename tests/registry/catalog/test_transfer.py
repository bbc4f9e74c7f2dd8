"""Export, import, merge and verify, on random catalogs and on damaged files."""

import json
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from eigenbank.registry.catalog import Catalog, DirectionRow, SetRow
from eigenbank.registry.catalog.care import stats, verify
from eigenbank.registry.catalog.transfer import export_file, import_file, merge
from eigenbank.schemas import Label, Manifest
from eigenbank.schemas.errors import CatalogError

from .made import NOW, label, manifest, measured
from .test_naive import manifests

FEW = settings(max_examples=10)
MID = "mid_block.attentions.0/value/1"
Content = tuple[list[SetRow], list[DirectionRow], list[dict[str, tuple[Label, ...]]]]


@contextmanager
def catalogs(count: int) -> Iterator[list[Catalog]]:
    with tempfile.TemporaryDirectory() as folder:
        opened = [Catalog.open(Path(folder) / f"{number}.db", shipped=False) for number in range(count)]
        try:
            yield opened
        finally:
            for catalog in opened:
                catalog.close()


def fill(catalog: Catalog, sets: list[Manifest], place: str = "x") -> None:
    for index, one in enumerate(sets):
        catalog.add_set(one, location=f"/{place}{index}", digest=f"{place}{index}", checkpoint_path=f"local:{place}")


MODELS = ("acme/faces", "acme/smile", "hair")


def content(catalog: Catalog) -> Content:
    rows = sorted(catalog.search(limit=10_000), key=lambda row: row.id)
    return catalog.sets(), rows, [catalog.people_labels(model) for model in MODELS]


@FEW
@given(manifests())
def test_an_export_imported_is_the_same_catalog(sets: list[Manifest]) -> None:
    with catalogs(2) as (one, other):
        fill(one, sets)
        if sets:
            # A rebuild without this direction, so that a label waits.
            first = sets[0].directions[0]
            one.add_labels([f"{sets[0].checkpoint.model_id}#{first.id}"], label("grin", source="human:ann"))
            fewer = sets[0].model_copy(update={"directions": sets[0].directions[1:], "composites": ()})
            one.add_set(fewer, location="/later", digest="later")
        file = Path(one.place).with_name("all.jsonl")
        moved = export_file(one, file)
        assert import_file(other, file)[0] == moved
        assert content(other) == content(one)
        assert verify(other) == []
        export_file(other, file.with_name("again.jsonl"))
        assert file.with_name("again.jsonl").read_bytes() == file.read_bytes()


@FEW
@given(manifests(), manifests())
def test_a_merge_keeps_our_sets_and_everybodys_labels_and_is_idempotent(
    here: list[Manifest], there: list[Manifest]
) -> None:
    with catalogs(2) as (one, other):
        fill(one, here, "a")
        fill(other, there, "b")
        ours = {(row.model_id, row.digest) for row in one.sets()}
        people = names(content(one)) | names(content(other))
        merge(one, other)
        assert ours <= {(row.model_id, row.digest) for row in one.sets()}
        assert {row.model_id for row in one.sets()} == {each.checkpoint.model_id for each in (*here, *there)}
        assert names(content(one)) == people
        assert verify(one) == []
        merged = content(one)
        assert [each.what for each in merge(one, other)[1] if "added" in each.what] == []
        assert content(one) == merged


def names(found: Content) -> set[tuple[str, str, str, str]]:
    return {
        (model, name, each.text, each.source)
        for model, people in zip(MODELS, found[2], strict=True)
        for name, labels in people.items()
        for each in labels
    }


def test_a_merge_says_what_differed(catalog: Catalog, tmp_path: Path) -> None:
    ann = {"source": "human:ann", "created": NOW.replace(year=2027)}
    with Catalog.open(tmp_path / "other.db", shipped=False) as other:
        catalog.add_set(manifest(labels={MID: [label("grin", 0.1, "human:ann")]}), location="/a", digest="1")
        other.add_set(manifest(labels={MID: [label("grin", 0.9, **ann), label("x", **ann)]}), location="/b", digest="2")  # type: ignore[arg-type]
        other.add_set(manifest("acme/cats"), location="/c", digest="3")
        found = [(one.model_id, one.what, one.count) for one in merge(catalog, other)[1]]
        assert found == [
            ("acme/faces", "the sets differ: the one of here is kept", 1),
            ("acme/cats", "set only there: added", 1),
            ("acme/faces", "labels of people only there, or newer there: added", 2),
        ]
        assert {row.location for row in catalog.sets()} == {"/a", "/c"}
        row = catalog.get_direction(f"acme/faces#{MID}")
        assert row is not None
        assert [(each.text, each.confidence) for each in row.labels] == [("grin", 0.9), ("x", None)]
        with pytest.raises(CatalogError, match="is the catalog itself"):
            merge(catalog, catalog)


def exported(catalog: Catalog, folder: Path) -> list[str]:
    told = {MID: [measured("smile", 0.5), label("grin", source="human:ann")]}
    catalog.add_set(manifest(labels=told, composites=("beard",)), location="/x", digest="d")
    export_file(catalog, folder / "out.jsonl")
    return (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()


def change_json(line: int, change: Callable[[Any], object]) -> Callable[[list[str]], object]:
    def changed(lines: list[str]) -> None:
        document = json.loads(lines[line])
        change(document)
        lines[line] = json.dumps(document, separators=(",", ":"))

    return changed


DAMAGED: list[tuple[Callable[[list[str]], object], str]] = [
    (lambda lines: lines.clear(), "is empty, 0 bytes"),
    (lambda lines: lines.pop(), "before its last line: it is cut short"),
    (lambda lines: lines.append("{}"), "there is more after the end"),
    (lambda lines: lines.pop(1), "the end says 1 sets and 1 labels of people, there were 0 and 1"),
    (lambda lines: lines.pop(2), "the end says 1 sets and 1 labels of people, there were 1 and 0"),
    (lambda lines: lines.__setitem__(0, "hello"), "expected a catalog's export"),
    (change_json(0, lambda head: head.update(version=99)), "is of version 99, this eigenbank reads 6"),
    (lambda lines: lines.__setitem__(1, lines[1][:300]), "line 2: the line: Invalid JSON"),
    (lambda lines: lines.insert(1, "[" * 100_000), "line 2"),
    (change_json(1, lambda one: one.update(more=1)), "line 2: more: Extra inputs are not permitted"),
    (change_json(1, lambda one: one["manifest"]["directions"][0].update(share=7)), "manifest.directions.0.share"),
    (change_json(1, lambda one: one["manifest"]["directions"][1]["recipe"].update(matrix="x y")), "manifest.directions.1"),
    (change_json(1, lambda one: one["manifest"]["composites"].append(one["manifest"]["composites"][0])), "listed twice"),
    (change_json(1, lambda one: one.update(location="a\x00b")), "location: String should match pattern"),
    (change_json(2, lambda one: one["label"].update(source="statistics")), "expected a person's label, found one by"),
    (change_json(2, lambda one: one["label"].update(confidence=2)), "line 3: label.confidence: Input should be"),
    (change_json(2, lambda one: one.update(model_id="../x")), "line 3: model_id: String should match pattern"),
    (change_json(3, lambda end: end.update(sets="x")), "line 4: sets: Input should be a valid integer"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_export_is_refused_whole(
    catalog: Catalog, tmp_path: Path, change: Callable[[list[str]], object], message: str
) -> None:
    lines = exported(catalog, tmp_path)
    change(lines)
    bad = tmp_path / "bad.jsonl"
    bad.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with Catalog.open(tmp_path / "target.db", shipped=False) as target:
        with pytest.raises(CatalogError, match=re.escape(message)) as caught:
            import_file(target, bad)
        assert "Nothing was imported" in str(caught.value)
        assert str(bad) in str(caught.value)
        assert target.sets() == []


def test_an_export_never_overwrites_and_leaves_nothing_half_written(catalog: Catalog, tmp_path: Path) -> None:
    exported(catalog, tmp_path)
    for path, message in ((tmp_path / "out.jsonl", "exists"), (tmp_path / "no" / "out.jsonl", "cannot be written")):
        with pytest.raises(CatalogError, match=message):
            export_file(catalog, path)
    with pytest.raises(CatalogError, match="cannot be read"):
        import_file(catalog, tmp_path / "nowhere")
    assert {path.name for path in tmp_path.iterdir()} == {
        "catalog.db",
        "out.jsonl",
    }


def test_another_programs_database_is_not_imported(catalog: Catalog, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as plain:
        plain.execute("CREATE TABLE sets (id)")
    with pytest.raises(CatalogError, match=r"of another program.*Nothing was imported"):
        import_file(catalog, tmp_path / "other.db")


def foreign(tmp_path: Path, statement: str, *values: object) -> Path:
    """A catalog from elsewhere, in which something was changed by hand."""
    path = tmp_path / "foreign.db"
    with Catalog.open(path, shipped=False) as catalog:
        told = {MID: [measured("smile", 0.5), label("grin", source="human:ann")]}
        catalog.add_set(manifest(labels=told), location="/x", digest="d")
    with closing(sqlite3.connect(path)) as plain:
        plain.execute(statement, values)
        plain.commit()
    return path


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("UPDATE sets SET manifest = ?", b"not zlib"),
        ("UPDATE sets SET manifest = substr(manifest, 1, 200) || ?", b""),
        ("UPDATE sets SET manifest = ?", "text"),
        ("UPDATE sets SET manifest = ?", bytes.fromhex("789cabae05000179 00f9".replace(" ", ""))),  # {}
        ("UPDATE people_labels SET label = ?", '{"text": 1}'),
        ("UPDATE people_labels SET label = ?", b"\xff\xfe"),
    ],
)
def test_a_catalog_with_what_none_should_hold_says_so_and_is_not_merged(
    catalog: Catalog, tmp_path: Path, statement: str, value: object
) -> None:
    path = foreign(tmp_path, statement, value)
    with Catalog.open(path, shipped=False) as other:
        with pytest.raises(CatalogError):
            merge(catalog, other)
        assert [one.where for one in verify(other)] == ["database"]
    with pytest.raises(CatalogError):
        import_file(catalog, path)
    assert catalog.sets() == []


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("UPDATE sets SET labels = labels + ?", {"sets"}),
        ("UPDATE directions SET eigenvalue = eigenvalue + ?", {"directions"}),
        ("DELETE FROM directions WHERE rank = ?", {"directions", "labels"}),
        ("UPDATE labels SET worth = worth + ?", {"labels"}),
        ("DELETE FROM labels WHERE ?", {"labels"}),
        ("UPDATE spectra SET width = width + ?", {"directions"}),
        ("INSERT INTO texts_fts (rowid, words) VALUES (1 + ?, 'smile')", {"words"}),
        ("UPDATE texts SET text = 'frown' WHERE text = 'smile' AND ?", {"labels", "words"}),
    ],
)
def test_verifying_finds_what_is_not_as_the_manifests_say(tmp_path: Path, statement: str, where: set[str]) -> None:
    with Catalog.open(foreign(tmp_path, statement, 1), shipped=False) as catalog:
        found = verify(catalog)
        assert {one.where for one in found} - {"database"} == where
        catalog.reindex()
        assert verify(catalog) == []


ENDLESS = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT id FROM n"


@pytest.mark.parametrize(
    "statements",
    [
        f"DROP TABLE bundled; CREATE VIEW bundled AS {ENDLESS.replace('SELECT id FROM', 'SELECT id AS digest FROM')}",
        f"CREATE TRIGGER t AFTER UPDATE ON sets BEGIN SELECT max(id) FROM ({ENDLESS}); END",
        "DROP TABLE bundled; CREATE TABLE bundled (one, digest AS(hex(zeroblob(100000000))))",
        "PRAGMA user_version = 0",
    ],
)
def test_a_database_that_brings_statements_of_its_own_is_not_opened(
    catalog: Catalog, tmp_path: Path, statements: str
) -> None:
    path = foreign(tmp_path, "SELECT ?", 1)
    with closing(sqlite3.connect(path)) as plain:
        plain.executescript(statements)
    before = path.read_bytes()
    for ask in (lambda: import_file(catalog, path), lambda: Catalog.open(path)):
        with pytest.raises(CatalogError, match=r"which no catalog has|it is damaged"):
            ask()
    assert (path.read_bytes(), catalog.sets()) == (before, [])


def test_what_is_no_file_is_not_waited_for(catalog: Catalog, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for ask in (lambda path: import_file(catalog, path), Catalog.open):
        for path in (tmp_path / "pipe", Path("/dev/zero")):
            with pytest.raises(CatalogError, match=r"not a file|no regular file"):
                ask(path)


def test_vacuum_gives_room_back(catalog: Catalog) -> None:
    catalog.add_set(manifest(ranks=400), location="x", digest="d")
    catalog.remove_set("acme/faces", None, digest="d")
    before, after = catalog.vacuum()
    assert after < before
    assert (stats(catalog)["directions"], verify(catalog)) == (0, [])


def test_what_takes_long_tells_how_far_it_is(catalog: Catalog, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    def progress(what: str, done: int, total: int) -> None:
        seen.append((what, done, total))

    exported(catalog, tmp_path)
    export_file(catalog, tmp_path / "more.jsonl", progress)
    import_file(catalog, tmp_path / "more.jsonl", progress)
    verify(catalog, progress=progress)
    catalog.reindex(progress)
    assert ("sets", 1, 1) in seen
    assert {what for what, _, _ in seen} == {"sets", "kB"}
