"""Export, import and merge, on random catalogs and on damaged files."""

import json
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import field_validator

from eigenbank.registry.catalog import Catalog, fts, lines
from eigenbank.registry.catalog.care import stats, vacuum, verify
from eigenbank.registry.catalog.content import CheckpointData
from eigenbank.registry.catalog.dump import checkpoints
from eigenbank.registry.catalog.whole import export_file, import_file, merge, merge_entries
from eigenbank.registry.hub import client
from eigenbank.schemas import Manifest
from eigenbank.schemas.common import Model
from eigenbank.schemas.errors import CatalogError

from .made import label, manifest, measured, quality
from .test_naive import manifests

FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MID = "mid_block.attentions.0/value/1"


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


def content(catalog: Catalog) -> list[CheckpointData]:
    with catalog._database.reading() as connection:
        return list(checkpoints(connection))


def beside(catalog: Catalog, name: str) -> Path:
    return Path(catalog.place).with_name(name)


@pytest.mark.parametrize("name", ["all.jsonl", "all.db"])
@FEW
@given(manifests())
def test_an_export_imported_is_the_same_catalog(name: str, sets: list[Manifest]) -> None:
    with catalogs(2) as (one, other):
        fill(one, sets)
        if sets:
            # A rebuild without this direction, so that a label waits.
            first = sets[0].directions[0]
            one.add_label(f"{sets[0].checkpoint.model_id}#{first.id}", label("grin", source="human:ann"))
            fewer = sets[0].model_copy(update={"directions": sets[0].directions[1:]})
            one.add_set(fewer, location="/later", digest="later")
        file = beside(one, name)
        moved = export_file(one, file)
        assert import_file(other, file) == moved
        assert content(other) == content(one)
        assert verify(other) == []
        again = beside(one, "again.jsonl")
        export_file(other, again)
        if name.endswith(".jsonl"):
            assert again.read_bytes() == file.read_bytes()


@FEW
@given(manifests(), manifests(), st.integers(0, 2))
def test_merging_is_idempotent_and_commutative(here: list[Manifest], there: list[Manifest], days: int) -> None:
    there = [one.model_copy(update={"created": one.created.replace(day=23 + days)}) for one in there]
    with catalogs(4) as (one, other, one_again, other_again):
        for catalog in (one, one_again):
            fill(catalog, here, "a")
        for catalog in (other, other_again):
            fill(catalog, there, "b")
        merge(one, other)
        merge(other_again, one_again)
        assert content(one) == content(other_again)
        assert verify(one) == verify(other_again) == []
        merged = content(one)
        assert [found for found in merge(one, other) if "there: added" in found.what] == []
        assert content(one) == merged
        merge(one, other_again)
        assert content(one) == merged


@FEW
@given(manifests(), manifests())
def test_a_merge_keeps_every_label_of_both_sides(here: list[Manifest], there: list[Manifest]) -> None:
    with catalogs(2) as (one, other):
        fill(one, here, "a")
        fill(other, there, "b")
        wanted = names(content(one)) | names(content(other))
        merge(one, other)
        assert names(content(one)) == wanted


def names(entries: list[CheckpointData]) -> set[tuple[str, str, str, str]]:
    found = set()
    for entry in entries:
        own = dict(entry.strays)
        for record in entry.set.sliders if entry.set else ():
            own[record.name] = own.get(record.name, []) + record.labels
        found |= {(entry.model_id, name, item.text, item.source) for name, labels in own.items() for item in labels}
    return found


def test_a_merge_says_what_differed(catalog: Catalog, tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "other.db", shipped=False) as other:
        catalog.add_set(manifest(labels={MID: [label("smile", 0.5)]}), location="/a", digest="1")
        other.add_set(manifest(labels={MID: [label("smile", 0.7), label("grin", 0.2)]}), location="/a", digest="1")
        other.add_set(manifest("acme/cats"), location="/c", digest="2")
        found = {one.what: (one.model_id, one.count) for one in merge(catalog, other)}
        assert found == {
            "model only there: added": ("acme/cats", 1),
            "labels only there: added": ("acme/faces", 1),
            "labels that differ: the newer is kept": ("acme/faces", 1),
        }
        with pytest.raises(CatalogError, match="is the catalog itself"):
            merge(catalog, catalog)


def test_the_newer_set_is_kept_and_labels_of_lost_directions_wait(catalog: Catalog, tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "other.db", shipped=False) as other:
        lost = "mid_block.attentions.0/value/2"
        catalog.add_set(manifest(labels={lost: [measured("smile", 0.5)]}), location="/a", digest="1")
        other.add_set(manifest(ranks=2, days=1), location="/b", digest="2")
        found = [one.what for one in merge(catalog, other)]
        assert found[0] == "sets differ: the one of there is kept, which is newer"
        assert [row.location for row in catalog.sets()] == ["/b"]
        (entry,) = content(catalog)
        assert list(entry.strays) == [lost]
        other.add_set(manifest(days=2), location="/c", digest="3")
        merge(catalog, other)
        row = catalog.get_direction(f"acme/faces#{lost}")
        assert row is not None
        assert row.labels == (measured("smile", 0.5),)


def test_a_merge_takes_the_quality_from_whoever_knows_it(catalog: Catalog, tmp_path: Path) -> None:
    """As an export of an eigenbank that kept none, imported: the same set, but for the qualities."""
    known = quality(effect=0.5, recommended_range=(-1.0, 2.0))
    with Catalog.open(tmp_path / "other.db", shipped=False) as other:
        catalog.add_set(manifest(), location="/a", digest="1")
        other.add_set(manifest(qualities={MID: known}), location="/a", digest="1")
        assert [(one.what, one.count) for one in merge(catalog, other)] == [("qualities only there: added", 1)]
        row = catalog.get_direction(f"acme/faces#{MID}")
        assert row is not None
        assert row.quality == known
        assert content(catalog) == content(other)
        assert merge(catalog, other) == merge(other, catalog) == []
        other.add_set(manifest(qualities={MID: quality(effect=9.0)}, days=1), location="/a", digest="2")
        catalog.add_set(manifest(days=2), location="/a", digest="3")
        merge(catalog, other)
        row = catalog.get_direction(f"acme/faces#{MID}")
        assert row is not None
        assert row.quality is None  # another set's directions are others


def test_a_merge_takes_the_composites_from_whoever_knows_them(catalog: Catalog, tmp_path: Path) -> None:
    """As a catalog of an earlier schema has none of them: the same set, but for those."""
    known = quality(effect=0.5)
    smile = {"composite/smile": [label("smile", 0.5)]}
    with Catalog.open(tmp_path / "other.db", shipped=False) as other:
        catalog.add_set(manifest(), location="/a", digest="1")
        whole = manifest(labels=smile, qualities={"composite/smile": known}, composites=("smile", "age"))
        other.add_set(whole, location="/a", digest="1")
        assert [(one.what, one.count) for one in merge(catalog, other)] == [
            ("composites only there: added", 2),
            ("labels only there: added", 1),
        ]
        row = catalog.get_direction("acme/faces#composite/smile")
        assert row is not None
        assert (row.quality, row.label_texts) == (known, ["smile"])
        assert content(catalog) == content(other)
        assert merge(catalog, other) == merge(other, catalog) == []
        assert verify(catalog) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry["composites"].append(entry["composites"][0]), "a composite is listed twice"),
        (
            lambda entry: [entry.pop("set"), entry.pop("layers"), entry.pop("directions")],
            "there are composites, but no",
        ),
        (
            lambda entry: entry["composites"][0].__setitem__(0, "a/b"),
            "composites.0.name: String should match pattern",
        ),
        (lambda entry: entry["composites"][0].append(1), "composites.0: Tuple should have at most 3 items"),
        (lambda entry: entry["composites"][0][1][0].pop(), "composites.0.labels.0.evidence: Field required"),
        (
            lambda entry: put(entry["composites"][0][2], "quality", effect=-1),
            "composites.0.quality.effect: Input should",
        ),
        (lambda entry: entry["protocols"][0].update(scale=0), "protocols.0.scale: Input should be greater than 0"),
        (
            lambda entry: entry["protocols"][0].update(seeds=["x"]),
            "protocols.0.seeds.0: Input should be a valid integer",
        ),
        (lambda entry: entry["protocols"][0].pop("steps"), "protocols.0.steps: Field required"),
        (
            lambda entry: entry["protocols"][0].update(steps=2**63),
            "protocols.0.steps: Input should be less than or equal",
        ),
        (
            lambda entry: entry.update(strays=[{"direction": "x", "labels": []}] * 2),
            "the line: Value error, a direction that labels wait for is listed twice",
        ),
        (lambda entry: entry.pop("protocols"), "names a protocol that the line does not have"),
        (
            lambda entry: entry["set"].update(created=10**18 - 1),
            "set.created: Input should be less than or equal to 2534",
        ),
        (lambda entry: entry["composites"].clear(), "the end says 1 models, 12 directions, 1 composites, 1 labels"),
    ],
)
def test_every_composite_of_an_export_is_validated(
    catalog: Catalog, tmp_path: Path, change: Callable[[Any], object], message: str
) -> None:
    told = {"labels": {"composite/smile": [label("smile", 0.5)]}, "qualities": {"composite/smile": quality(effect=1.0)}}
    catalog.add_set(manifest(**told, composites=("smile",)), location="x", digest="d")
    export_file(catalog, tmp_path / "out.jsonl")
    written = (tmp_path / "out.jsonl").read_text().splitlines()
    entry = json.loads(written[1])
    change(entry)
    written[1] = json.dumps(entry)
    (tmp_path / "bad.jsonl").write_text("\n".join(written) + "\n")
    with (
        Catalog.open(tmp_path / "target.db", shipped=False) as target,
        pytest.raises(CatalogError, match=re.escape(message)),
    ):
        import_file(target, tmp_path / "bad.jsonl")


def test_merging_entries_is_pure_and_symmetric(catalog: Catalog) -> None:
    catalog.add_set(manifest(labels={MID: [label("smile", 0.5)]}), location="/a", digest="1")
    (entry,) = content(catalog)
    assert merge_entries(entry, entry) == (entry, [])


def put(values: list[Any], kind: str, **changes: object) -> None:
    """Change some fields of a list of values of an export's line."""
    for name, value in changes.items():
        values[lines.FIELDS[kind].index(name)] = value


def exported(catalog: Catalog) -> Path:
    catalog.add_set(manifest(labels={MID: [measured("smile", 0.9)]}), location="/a", digest="1")
    file = beside(catalog, "all.jsonl")
    export_file(catalog, file)
    return file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "line 2: .*"),
        (lambda text: "\n".join(text.splitlines()[:-1]), "cut short"),
        (lambda text: text + "more\n", "there is more after the end"),
        (lambda text: text.replace('"version": 4', '"version": 9'), "version 9, this eigenbank reads up to 4"),
        (lambda text: text.replace('"version": 4', '"version": 3'), "version 3, older than the first release: export"),
        (
            lambda text: text.replace('"version": 4', '"version": 5, "more": 1'),
            "version 5, this eigenbank reads up to 4",
        ),
        (lambda text: text.replace('"runner_up", ', ""), "line 1: the fields it names are not those of version 4"),
        (lambda text: text.replace('"fields": {', '"fields": {"more": [], '), "line 1: the fields it names are not"),
        (lambda text: text.replace('"fields"', '"field"'), "line 1: the fields it names are not those of version 4"),
        (lambda text: "a shopping list", "line 1: expected a catalog's export"),
        (lambda text: "", "is empty, 0 bytes"),
        (lambda text: text.replace('"value",0,', '"value",-1,'), r"line 2: directions\.0\.rank"),
        (lambda text: re.sub(r'("value",0,[\d.]+),', r"\1,1.5,", text), r"line 2: directions\.0"),
        (lambda text: text.replace('"width":64', '"width":64,"extra":1'), r"line 2: layers\.0\.extra"),
        (lambda text: text.replace('"directions": 12', '"directions": 13'), "the end says"),
        (lambda text: text.replace('"value",1,', '"value",0,'), "a direction is listed twice"),
        (lambda text: text.replace(",0.9,", ",NaN,"), "line 2"),
    ],
)
def test_a_damaged_export_is_refused_whole(catalog: Catalog, tmp_path: Path, change: object, message: str) -> None:
    file = exported(catalog)
    file.write_text(change(file.read_text()))  # type: ignore[operator]
    with Catalog.open(tmp_path / "target.db", shipped=False) as target:
        with pytest.raises(CatalogError, match=message):
            import_file(target, file)
        assert content(target) == []


def test_an_export_never_overwrites_and_leaves_nothing_half_written(catalog: Catalog, tmp_path: Path) -> None:
    file = exported(catalog)
    before = file.read_bytes()
    for name in (file, beside(catalog, "catalog.db")):
        with pytest.raises(CatalogError, match="exists: nothing was written"):
            export_file(catalog, name)
    assert file.read_bytes() == before
    with pytest.raises(CatalogError, match="cannot be written"):
        export_file(catalog, tmp_path / "no" / "folder.jsonl")
    with pytest.raises(CatalogError, match="is not a folder"):
        export_file(catalog, tmp_path / "no" / "folder.db")
    assert sorted(entry.name.partition("-")[0] for entry in tmp_path.iterdir()) == ["all.jsonl"] + ["catalog.db"] * 3


def test_a_line_of_an_export_is_json_that_names_its_format(catalog: Catalog) -> None:
    lines = exported(catalog).read_text().splitlines()
    head = json.loads(lines[0])
    assert (head["format"], head["version"]) == ("eigenbank-catalog", 4)
    directions = [
        dict(zip(head["fields"]["directions"], one, strict=True)) for one in json.loads(lines[1])["directions"]
    ]
    (direction,) = [one for one in directions if f"{one['layer']}/{one['recipe']}/{one['rank']}" == MID]
    own = dict(zip(head["fields"]["labels"], direction["labels"][0], strict=True))
    assert (own["text"], own["confidence"]) == ("smile", 0.9)
    assert json.loads(lines[-1])["labels"] == 1
    assert len(lines) == 3


def test_counts_that_lie_and_sets_that_are_gone_are_found(catalog: Catalog, tmp_path: Path) -> None:
    catalog.add_set(manifest(labels={MID: [label("smile", 0.5)]}), location=str(tmp_path / "gone"), digest="1")
    assert verify(catalog) == []
    (problem,) = verify(catalog, files=True)
    assert (problem.where, "there is no set at" in problem.problem) == ("set of acme/faces", True)
    with catalog._database.writing() as connection:
        connection.exec_driver_sql("UPDATE directions SET labels = 5 WHERE id = 2")
        connection.exec_driver_sql("UPDATE sets SET directions = 5")
        connection.exec_driver_sql("UPDATE spectra SET directions = 5 WHERE id = 1")
    assert [one.where for one in verify(catalog)] == ["directions", "sets", "spectra"]


def test_a_published_set_is_looked_at_where_the_hubs_cache_holds_it(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "cache_root", lambda: tmp_path / "hub")
    published = client.HubLocation("acme/faces-directions", "5d" * 20)
    catalog.add_set(manifest(), location=str(published), digest="1")
    assert verify(catalog, files=True) == []  # it would be fetched
    published.folder.mkdir(parents=True)
    (published.folder / "manifest.json").write_text("{}")
    (problem,) = verify(catalog, files=True)
    assert "is not the one that was entered" in problem.problem


def test_vacuum_gives_room_back(catalog: Catalog) -> None:
    for number in range(10):
        catalog.add_set(manifest(f"acme/{number}", ranks=200), location="/a", digest="1")
    for number in range(10):
        catalog.add_set(manifest(f"acme/{number}", ranks=1), location="/a", digest="1")
    before, after = vacuum(catalog)
    assert after < before / 2
    assert verify(catalog) == []
    assert stats(catalog)["directions"] == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confidence": "high"}, "directions.0.labels.0.confidence: Input should be a valid number"),
        ({"confidence": 1.5}, "directions.0.labels.0.confidence: Input should be less than or equal to 1"),
        ({"polarity": 0}, "directions.0.labels.0.polarity: Input should be -1 or 1"),
        ({"text": "two\nlines"}, "directions.0.labels.0.text: String should match pattern"),
        ({"created": None}, "directions.0.labels.0.created: Input should be a valid integer"),
        ({"created": True}, "directions.0.labels.0.created: Input should be a valid integer"),
        ({"created": "1"}, "directions.0.labels.0.created: Input should be a valid integer"),
        ({"evidence": [1]}, "directions.0.labels.0.evidence.selectivity: Field required"),
        ({"evidence": [float("nan")] * 8}, "directions.0.labels.0.evidence.effect: Input should be a finite number"),
        ({"evidence": [0.5] * 8}, "directions.0.labels.0.evidence.runner_up: Input should be a valid string"),
        ({"evidence": [0.5] * 9}, "directions.0.labels.0.evidence: Tuple should have at most 8 items"),
        ({"evidence": {"effect": 1}}, "directions.0.labels.0.evidence: Input should be a valid array"),
    ],
)
def test_every_label_of_an_export_is_validated_as_a_label(
    catalog: Catalog, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    labels = {"mid_block.attentions.0/value/0": [label("smile", 0.5)]}
    catalog.add_set(manifest(labels=labels, layers=("mid_block.attentions.0",)), location="x", digest="d")
    export_file(catalog, tmp_path / "out.jsonl")
    written = (tmp_path / "out.jsonl").read_text().splitlines()
    entry = json.loads(written[1])
    put(entry["directions"][0][6][0], "labels", **change)
    written[1] = json.dumps(entry)
    (tmp_path / "bad.jsonl").write_text("\n".join(written) + "\n")
    with pytest.raises(CatalogError, match=f"line 2: {re.escape(message)}"):
        import_file(catalog, tmp_path / "bad.jsonl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selectivity": 1.5}, "directions.0.quality.selectivity: Input should be less than or equal to 1"),
        ({"effect": -1}, "directions.0.quality.effect: Input should be greater than or equal to 0"),
        ({"drift": float("inf")}, "directions.0.quality.drift: Input should be a finite number"),
        ({"protocol": None}, "directions.0.quality.protocol: Input should be a valid integer"),
        ({"protocol": -1}, "directions.0.quality.protocol: Input should be greater than or equal to 0"),
        ({"protocol": False}, "directions.0.quality.protocol: Input should be a valid integer"),
        ({"protocol": 1}, "a label or quality names a protocol that the line does not have"),
        ({"recommended_range": [0, 101]}, "directions.0.quality.recommended_range.1: Input should be less than or"),
    ],
)
def test_every_quality_of_an_export_is_validated_as_a_quality(
    catalog: Catalog, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    name = "mid_block.attentions.0/value/0"
    one = manifest(qualities={name: quality(effect=1.0)}, layers=("mid_block.attentions.0",))
    catalog.add_set(one, location="x", digest="d")
    export_file(catalog, tmp_path / "out.jsonl")
    written = (tmp_path / "out.jsonl").read_text().splitlines()
    entry = json.loads(written[1])
    put(entry["directions"][0][7], "quality", **change)
    written[1] = json.dumps(entry)
    (tmp_path / "bad.jsonl").write_text("\n".join(written) + "\n")
    with pytest.raises(CatalogError, match=f"line 2: {re.escape(message)}"):
        import_file(catalog, tmp_path / "bad.jsonl")


def test_a_model_that_checks_more_than_its_fields_is_not_taken_for_them() -> None:
    class Checked(Model):
        text: str

        @field_validator("text")
        @classmethod
        def _lower(cls, text: str) -> str:
            return text.lower()

    with pytest.raises(TypeError, match="Checked has validators of its own"):
        lines._row(Checked, ["text"])


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE labels SET effect = 'abc'",
        "UPDATE labels SET effect = NULL",
        "UPDATE labels SET created = 'soon'",
        "UPDATE labels SET note = x'00ff'",
        "UPDATE directions SET eigenvalue = 'inf'",
        "UPDATE directions SET eigenvalue = 9e999",
        "UPDATE directions SET selectivity = 'x'",
        "UPDATE directions SET drift = 1e300",
        "UPDATE directions SET share = 2",
        "UPDATE protocols SET seeds = '[1,'",
        "UPDATE protocols SET scale = 'a'",
        "UPDATE layers SET width = 'wide'",
        "UPDATE sets SET created = 9e18",
        "UPDATE texts SET text = char(27) || text",
        "UPDATE texts SET text = CAST(x'ff' AS TEXT) WHERE id = 1",
        "UPDATE checkpoints SET model_id = '../' || model_id",
        "UPDATE names SET name = name || '/../x'",
        "DELETE FROM sources",
        "INSERT INTO strays VALUES (9, 1, 'x', '{}')",
        "INSERT INTO shipped VALUES (x'00')",
        "UPDATE checkpoints SET licence = x'6d6974'",
        "UPDATE checkpoints SET path = x'2f78'",
        "UPDATE checkpoints SET model_id = x'61'",
        "UPDATE sets SET location = x'2f78'",
        "UPDATE sets SET created = x'31'",
        "UPDATE layers SET heads = x'31'",
        "UPDATE names SET name = x'61' WHERE id = 1",
        "UPDATE sources SET name = x'61'",
        "UPDATE protocols SET steps = x'3130'",
        "UPDATE protocols SET seeds = '\"12\"'",
        "UPDATE protocols SET seeds = '{\"1\": 2}'",
        "UPDATE protocols SET seeds = '[1.0, true]'",
        f"UPDATE protocols SET seeds = '{'[' * 100_000}'",
        "UPDATE labels SET text_id = x'31'",
        "UPDATE labels SET runner_up_id = x'31'",
        "UPDATE texts SET text = CAST(x'6c6f636b6564ff' AS TEXT) WHERE id = 1",
        'INSERT INTO strays VALUES (9, 1, x\'31\', \'{"text": "a", "source": "human:ann", "created": 0}\')',
        "ALTER TABLE sets RENAME COLUMN repo TO xrepo",
    ],
    ids=lambda change: change[:60],
)
def test_a_file_with_what_no_catalog_holds_is_refused(catalog: Catalog, tmp_path: Path, change: str) -> None:
    mid = "mid_block.attentions.0/value/0"
    fill(
        catalog,
        [manifest(labels={mid: [measured("smile", 0.5)]}, qualities={mid: quality(drift=0.5, selectivity=0.5)})],
    )
    file = tmp_path / "theirs.db"
    export_file(catalog, file)
    theirs = sqlite3.connect(file)
    theirs.execute("PRAGMA ignore_check_constraints = ON")
    theirs.execute("PRAGMA foreign_keys = OFF")
    with theirs:
        theirs.execute(change)
    theirs.close()
    before = content(catalog)
    refused = pytest.raises(
        CatalogError, match=r"theirs\.db (holds what no|cannot be used: (it holds a text|its tables))"
    )
    with refused:
        import_file(catalog, file)
    assert content(catalog) == before
    with Catalog.open(file, shipped=False) as other, refused:
        merge(catalog, other)
    assert content(catalog) == before
    assert verify(catalog) == []
    if "RENAME" not in change:
        with Catalog.open(file, shipped=False) as other:
            assert verify(other) != []


def test_a_protocol_that_only_equals_another_is_checked_too(catalog: Catalog, tmp_path: Path) -> None:
    """True equals 1, and is no seed. Labels are read in order: the sound one of the two comes first."""
    one, other = measured("grin", 0.5), measured("smile", 0.5)
    labels = [
        item.model_copy(update={"evidence": item.evidence.model_copy(update={"seeds": seeds})})
        for item, seeds in ((one, (1, 2)), (other, (1, 3)))
        if item.evidence is not None
    ]
    fill(catalog, [manifest(labels={MID: labels})])
    file = tmp_path / "theirs.db"
    export_file(catalog, file)
    theirs = sqlite3.connect(file)
    with theirs:
        assert theirs.execute("UPDATE protocols SET seeds = '[true,2]' WHERE seeds = '[1,3]'").rowcount == 1
    theirs.close()
    with pytest.raises(
        CatalogError, match=r"holds what no catalog does \(protocols\.\d\.seeds\.0: Input should be a valid int"
    ):
        import_file(catalog, file)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("DELETE FROM texts", r"table labels: a row refers to nothing in texts"),
        ("DELETE FROM directions WHERE labels > 0", r"table labels: a row refers to nothing in directions"),
        ("UPDATE layers SET name_id = name_id + 90", r"table layers: row \d+ refers to nothing in names"),
        ("DELETE FROM sets", r"table layers: row \d+ refers to nothing in sets"),
    ],
)
def test_a_file_with_what_refers_to_nothing_is_refused(
    catalog: Catalog, tmp_path: Path, change: str, problem: str
) -> None:
    """What refers to nothing would be left out without a word."""
    fill(catalog, [manifest(labels={MID: [label("smile", 0.5)]})])
    file = tmp_path / "theirs.db"
    export_file(catalog, file)
    theirs = sqlite3.connect(file)
    theirs.execute("PRAGMA foreign_keys = OFF")
    with theirs:
        theirs.execute(change)
    theirs.close()
    before = content(catalog)
    with pytest.raises(CatalogError, match=rf"theirs\.db holds what no catalog does \({problem}\)\. Nothing was imp"):
        import_file(catalog, file)
    with (
        Catalog.open(file, shipped=False) as other,
        pytest.raises(CatalogError, match=rf"\({problem}\)\. Nothing was merged"),
    ):
        merge(catalog, other)
    assert content(catalog) == before


def test_a_file_whose_labels_would_be_left_out_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    """Where its tables name no others, SQLite cannot tell what refers to nothing."""
    fill(catalog, [manifest(labels={MID: [label("smile", 0.5)]})])
    file = tmp_path / "theirs.db"
    export_file(catalog, file)
    theirs = sqlite3.connect(file)
    theirs.executescript(
        "CREATE TABLE other AS SELECT * FROM labels; DROP TABLE labels; ALTER TABLE other RENAME TO labels;"
        "UPDATE labels SET direction_id = 9999;"
    )
    theirs.close()
    before = content(catalog)
    with pytest.raises(CatalogError, match=r"holds what no catalog does \(1 labels that belong to nothing\)"):
        import_file(catalog, file)
    assert content(catalog) == before


@pytest.mark.parametrize("table", ["texts_fts_data", "texts_fts_idx", "texts_fts_config"])
def test_verifying_goes_on_after_a_word_index_that_cannot_be_read(catalog: Catalog, table: str) -> None:
    fill(catalog, [manifest(labels={MID: [label(f"smile{number}", 0.5) for number in range(900)]})])
    with catalog._database.writing() as connection:
        connection.exec_driver_sql(f"DELETE FROM {table}")
        connection.exec_driver_sql("UPDATE sets SET labels = labels + 1")
    with Catalog.open(catalog.place, shipped=False) as again:
        found = {one.where for one in verify(again)}
    assert found == {"sets", "words of texts"}


@pytest.mark.parametrize("kind", ["texts", "names", "models"])
@pytest.mark.parametrize("done", ["forgotten", "added", "other"])
def test_verifying_finds_a_word_index_that_lies(catalog: Catalog, kind: str, done: str) -> None:
    fill(catalog, [manifest(labels={MID: [label("Größe smile", 0.5)]})])
    assert verify(catalog) == []
    source = {"texts": "text FROM texts", "names": "name FROM names", "models": "model_id FROM checkpoints"}[kind]
    with catalog._database.writing() as connection:
        number, text = connection.exec_driver_sql(f"SELECT id, {source}").first() or (0, "")
        if done != "added":
            fts.remove(connection, kind, number, text)  # type: ignore[arg-type]
        if done != "forgotten":
            fts.add(connection, kind, [(number + 50 if done == "added" else number, "lie")])  # type: ignore[arg-type]
    (problem,) = verify(catalog)
    assert (problem.where, problem.problem.split()[0]) == (f"words of {kind}", "1")


def test_what_takes_long_tells_how_far_it_is(catalog: Catalog, tmp_path: Path) -> None:
    fill(catalog, [manifest(f"acme/{number}", labels={MID: [label("smile")]}) for number in range(3)])
    told: dict[str, list[int]] = {}

    def progress(what: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        told.setdefault(what, []).append(done)

    def heard(work: Callable[[], object]) -> dict[str, list[int]]:
        told.clear()
        work()
        return dict(told)

    lines, copy = tmp_path / "all.jsonl", tmp_path / "all.db"
    models = {"models": [1, 2, 3]}
    assert heard(lambda: export_file(catalog, lines, progress)) == models
    assert heard(lambda: export_file(catalog, copy, progress)).keys() == {"models", "indexes"}
    with Catalog.open(tmp_path / "new.db", shipped=False) as new:
        found = heard(lambda: import_file(new, lines, progress))
        assert found.keys() == {"kB", "indexes"}
        assert len(found["kB"]) == 3
        assert heard(lambda: import_file(new, copy, progress)) == models
        assert heard(lambda: merge(new, catalog, progress)) == models
        assert heard(lambda: verify(new, progress=progress)).keys() == {
            "checks of the database",
            "models",
            "word indexes",
        }


def test_verifying_finds_what_the_schemas_do_not_allow(catalog: Catalog) -> None:
    fill(catalog, [manifest("acme/one"), manifest("acme/two")])
    with catalog._database.writing() as connection:
        connection.exec_driver_sql("UPDATE layers SET width = 'wide' WHERE set_id = (SELECT max(id) FROM sets)")
    assert [(problem.where, problem.problem.partition(":")[0]) for problem in verify(catalog)] == [
        ("model acme/two", "layers.0.width")
    ]


@pytest.mark.parametrize(
    ("change", "ask"),
    [
        ("UPDATE labels SET effect = 'abc'", lambda catalog: [row.labels for row in catalog.search("smile")]),
        ("UPDATE labels SET created = 'soon'", lambda catalog: [row.labels for row in catalog.search()]),
        ("UPDATE directions SET drift = 'x'", lambda catalog: [row.quality for row in catalog.search()]),
        ("UPDATE protocols SET seeds = '[1,'", lambda catalog: catalog.search("smile")),
        ("UPDATE labels SET effect = 'abc'", lambda catalog: export_file(catalog, beside(catalog, "all.jsonl"))),
        ("UPDATE labels SET effect = 'abc'", lambda catalog: export_file(catalog, beside(catalog, "all.db"))),
        ("UPDATE labels SET confidence = 'abc'", lambda catalog: catalog.search("smile")),
        ("UPDATE directions SET share = x'00' WHERE id < 4", lambda catalog: catalog.search(sort="share", limit=1)),
        ("DELETE FROM spectra WHERE id = 1", lambda catalog: catalog.search()),
        ("UPDATE labels SET effect = 'abc'", lambda catalog: catalog.remove_set("acme/faces", None, digest="x0")),
        ("UPDATE labels SET effect = 'abc'", lambda catalog: catalog.losses("acme/faces", None)),
        ("UPDATE sets SET created = 9e18", lambda catalog: catalog.sets()),
        ("UPDATE sets SET created = 9e18", lambda catalog: catalog.get_set("acme/faces")),
        ("UPDATE texts SET text = CAST(x'ff' AS TEXT) WHERE text = 'smile'", lambda catalog: catalog.label_texts()),
    ],
)
def test_a_catalog_with_what_none_should_hold_says_so(
    catalog: Catalog, change: str, ask: Callable[[Catalog], object]
) -> None:
    mid = "mid_block.attentions.0/value/0"
    fill(catalog, [manifest(labels={mid: [measured("smile", 0.5)]}, qualities={mid: quality(drift=0.5)})])
    ours = sqlite3.connect(catalog.place)
    ours.execute("PRAGMA ignore_check_constraints = ON")
    ours.execute("PRAGMA foreign_keys = OFF")
    with ours:
        ours.execute(change)
    ours.close()
    with pytest.raises(CatalogError, match=r"holds (what none should|a text that is none)"):
        ask(catalog)
    assert list(Path(catalog.place).parent.glob("*all.*")) == []
