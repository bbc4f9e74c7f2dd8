import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from eigenbank.registry.catalog import Catalog, SetEntry
from eigenbank.registry.catalog.care import stats, verify
from eigenbank.registry.local import people_labels
from eigenbank.registry.sets import bundled
from eigenbank.registry.sets.folder import MANIFEST, manifest_digest, manifest_text
from eigenbank.schemas import Manifest
from eigenbank.schemas.errors import CatalogError, ReplaceError, UnknownNameError

from .made import DIGEST, NOW, label, manifest, measured, quality

MID = "mid_block.attentions.0/value/1"


def test_a_set_is_read_back_as_it_was_added(catalog: Catalog) -> None:
    labels = [measured("smile", 0.9), label("grin"), label("smile", None, "human:ann", note="really")]
    added = manifest("acme/faces", {MID: labels}, revision="abc123")
    catalog.add_set(added, location="/sets/faces", digest=DIGEST, checkpoint_path="/models/faces", commit="c0ffee")
    row = catalog.get_set("acme/faces")
    assert row is not None
    assert (row.model_id, row.revision, row.location, row.digest) == ("acme/faces", "abc123", "/sets/faces", DIGEST)
    assert (row.directions, row.labels, row.commit, row.repo, row.created) == (12, 3, "c0ffee", None, NOW)
    assert (row.denoiser, row.licence, row.checkpoint_path) == ("UNet2DModel", "mit", "/models/faces")
    for record in added.directions:
        found = catalog.get_direction(f"acme/faces#{record.id}")
        assert found is not None
        assert found.id == f"acme/faces#{record.id}"
        assert (found.eigenvalue, found.share, found.gap) == (record.eigenvalue, record.share, record.gap)
        assert set(found.labels) == set(record.labels)
    found = catalog.get_direction(f"acme/faces#{MID}")
    assert found is not None
    assert (found.kind, found.width, found.location) == ("spatial", 128, "/sets/faces")
    assert [item.text for item in found.labels] == ["smile", "grin", "smile"]


def test_names_are_listed(catalog: Catalog) -> None:
    catalog.add_set(manifest("acme/faces", {MID: [label("smile", 0.5)]}), location="a", digest="1")
    catalog.add_set(manifest("acme/cats", layers=("mid",), recipes=("qkv",)), location="b", digest="2")
    assert catalog.model_ids() == ["acme/cats", "acme/faces"]
    assert catalog.layer_names("acme/faces") == ["down_blocks.2.attentions.0", "mid_block.attentions.0"]
    assert catalog.recipe_slugs() == ["output-value:output", "qkv", "value"]
    assert catalog.recipe_slugs("acme/cats") == ["qkv"]
    assert catalog.label_texts() == ["smile"]
    assert catalog.label_texts("acme/cats") == []
    assert [row.location for row in catalog.sets()] == ["b", "a"]


def test_a_rebuilt_set_takes_the_place_of_the_old_one(catalog: Catalog) -> None:
    catalog.add_set(manifest(labels={MID: [label("smile", 0.5)]}), location="a", digest="1", checkpoint_path="/m")
    catalog.add_set(manifest(ranks=2, days=1), location="b", digest="2")
    (row,) = catalog.sets()
    assert (row.location, row.digest, row.directions, row.labels, row.checkpoint_path) == ("b", "2", 8, 0, "/m")
    assert len(catalog.search()) == 8
    assert len(catalog.search("smile")) == 0
    assert len(catalog.search("mid")) == 4


def test_a_persons_label_waits_while_its_direction_is_left_out(catalog: Catalog) -> None:
    grin = label("grin", source="human:ann")
    catalog.add_set(manifest(), location="a", digest="1")
    catalog.add_labels([f"acme/faces#{MID}"], grin)
    catalog.add_set(manifest(layers=("up",)), location="a", digest="2")
    catalog.add_set(manifest(layers=("up",), recipes=("qkv",)), location="a", digest="3")
    assert catalog.label_texts() == []
    catalog.add_set(manifest(), location="a", digest="1")
    found = catalog.get_direction(f"acme/faces#{MID}")
    assert found is not None
    assert found.labels == (grin,)


def test_a_composite_is_found_by_its_label_and_its_name(catalog: Catalog) -> None:
    found_to = quality(effect=0.8, selectivity=0.6)
    labels = {"composite/hair-length": [measured("hair length", 0.9)], MID: [label("hair length", 0.4)]}
    added = manifest(labels=labels, composites=("beard", "hair-length"), qualities={"composite/hair-length": found_to})
    catalog.add_set(added, location="/a", digest="1")
    name = "acme/faces#composite/hair-length"
    assert [row.id for row in catalog.search("hair length")] == [name, f"acme/faces#{MID}"]
    assert [row.id for row in catalog.search("hair", composites=False)] == [f"acme/faces#{MID}"]
    assert [row.name for row in catalog.search(composites=True)] == ["composite/beard", "composite/hair-length"]
    assert len(catalog.search("composite")) == 0  # no layer's name
    row = catalog.get_direction(name)
    assert row is not None
    assert (row.id, row.composite, row.labels, row.quality) == (
        name,
        "hair-length",
        (measured("hair length", 0.9),),
        found_to,
    )
    assert (
        row.layer is row.kind is row.width is row.recipe is row.rank is row.eigenvalue is row.share is row.gap is None
    )
    (one,) = catalog.sets()
    assert (one.directions, one.labels) == (12, 2)
    assert catalog.layer_names("acme/faces") == ["down_blocks.2.attentions.0", "mid_block.attentions.0"]
    counted = stats(catalog)
    assert {key: counted[key] for key in ("layers", "directions", "composites", "labelled_directions", "labels")} == {
        "layers": 2, "directions": 12, "composites": 2, "labelled_directions": 1, "labels": 2,
    }  # fmt: skip
    assert verify(catalog) == []


def test_a_persons_label_on_a_composite_is_theirs(catalog: Catalog) -> None:
    name, grin = "acme/faces#composite/smile", label("grin", source="human:ann")
    catalog.add_set(manifest(composites=("smile",)), location="a", digest="1")
    catalog.add_labels([name], label("laugh", source="human:ann"))
    assert not catalog.remove_labels([name], "laugh", "human:ann")
    assert catalog.remove_labels([name], "laugh", "human:ann")
    catalog.add_labels([name], grin)
    assert [row.id for row in catalog.search("grin", source="human")] == [name]
    assert [row.labels for row in catalog.sets()] == [1]
    catalog.add_set(manifest(days=1), location="a", digest="2")  # built again, not yet labelled again
    assert (len(catalog.search("grin")), catalog.get_direction(name)) == (0, None)
    catalog.add_set(manifest(composites=("smile",), days=2), location="a", digest="3")
    row = catalog.get_direction(name)
    assert row is not None
    assert row.labels == (grin,)
    with pytest.raises(UnknownNameError, match=r"no composite .* did you mean 'acme/faces#composite/smile'"):
        catalog.add_labels(["acme/faces#composite/smiel"], grin)
    assert verify(catalog) == []


def test_a_bank_has_the_labels_that_people_gave_its_composites(catalog: Catalog) -> None:
    grin = label("grin", source="human:ann")
    one = manifest(composites=("smile",))
    catalog.add_set(one, location="a", digest="1")
    catalog.add_labels(["acme/faces#composite/smile"], grin)
    given = people_labels(one, catalog)
    assert given == {"composite/smile": (grin,)}


def test_revisions_are_kept_apart_and_the_newest_set_is_meant(catalog: Catalog) -> None:
    for index, revision in enumerate(["one", "two", None]):
        days = {"one": 1, "two": 5, None: 0}[revision]
        catalog.add_set(manifest(revision=revision, days=days), location=str(index), digest=str(index))
    newest, oldest = catalog.get_set("acme/faces"), catalog.get_set("acme/faces", "one")
    assert newest is not None
    assert oldest is not None
    assert (newest.revision, oldest.revision) == ("two", "one")
    assert catalog.get_set("acme/faces", "three") is None
    assert catalog.get_set("acme/other") is None
    found = catalog.get_direction(f"acme/faces#{MID}")
    assert found is not None
    assert found.location == "1"


def test_a_set_is_found_by_its_checkpoints_folder(catalog: Catalog, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    catalog.add_set(manifest(), location="a", digest="1", checkpoint_path=str(tmp_path / "link"))
    catalog.add_set(manifest("acme/cats"), location="b", digest="2", checkpoint_path="shipped:cats")
    catalog.add_set(manifest("acme/late", days=1), location="c", digest="3", checkpoint_path=str(folder))
    assert [row.location for row in catalog.sets_at(f"{folder}/../model")] == ["c", "a"]
    assert [row.location for row in catalog.sets_at("shipped:cats")] == ["b"]
    assert catalog.sets_at(str(tmp_path)) == []


def test_a_set_without_directions_is_a_set(catalog: Catalog) -> None:
    catalog.add_set(manifest(layers=(), ranks=0), location="a", digest="1")
    (row,) = catalog.sets()
    assert (row.directions, row.labels) == (0, 0)


def test_the_same_label_twice_counts_once(catalog: Catalog) -> None:
    older = label("smile", 0.9, created=NOW.replace(year=2025))
    catalog.add_set(manifest(labels={MID: [label("smile", 0.4), older]}), location="a", digest="1")
    found = catalog.get_direction(f"acme/faces#{MID}")
    assert found is not None
    assert [item.confidence for item in found.labels] == [0.4]


def test_a_label_is_added_replaced_and_removed(catalog: Catalog) -> None:
    name = f"acme/faces#{MID}"
    catalog.add_set(manifest(labels={MID: [label("smile", 0.4)]}), location="a", digest="1")
    catalog.add_labels([name], label("smile", 0.8, "human:ann"))
    catalog.add_labels([name], label("smile", 0.9, "human:ann"))
    assert [row.labels for row in catalog.sets()] == [2]
    assert [row.id for row in catalog.search(sort="confidence", limit=1)] == [name]
    assert catalog.remove_labels([name], "smile", "human:bob")
    assert not catalog.remove_labels([name], "smile", "human:ann")
    assert [row.labels for row in catalog.sets()] == [1]
    assert [row.id for row in catalog.search(min_confidence=0.5)] == []


def test_labelling_what_is_not_there_suggests_what_is(catalog: Catalog) -> None:
    catalog.add_set(manifest(), location="a", digest="1")
    with pytest.raises(UnknownNameError, match="did you mean 'acme/faces'"):
        catalog.add_labels(["acme/face#mid_block.attentions.0/value/1"], label("x", source="human:ann"))
    with pytest.raises(UnknownNameError, match=r"did you mean 'acme/faces#mid_block\.attentions\.0/value/1'"):
        catalog.add_labels(["acme/faces#mid_block.attention.0/value/1"], label("x", source="human:ann"))
    assert catalog.label_texts() == []


@pytest.mark.parametrize(
    "name",
    ["", "#", "a#b", "acme/face", f"acme/faces#{MID}x", "acme/faces#mid_block.attentions.0/value/01", "a#b/c/³",
     "a#b/c/-1", f"a#b/c/{10**40}", "\x00#\udc80/value/1", "acme/faces#a/b/1\n", "acme/faces#composite/", "#composite/x", "acme/faces#composite/x", "composite/x", "'; DROP TABLE sets; --#a/b/1"],
)  # fmt: skip
def test_what_names_no_direction_is_none(catalog: Catalog, name: str) -> None:
    catalog.add_set(manifest(), location="a", digest="1")
    assert catalog.get_direction(name) is None
    assert catalog.get_set(name) is None
    assert catalog.sets_at(name) == []
    assert catalog.layer_names(name) == catalog.label_texts(name) == catalog.recipe_slugs(name) == []


def test_what_comes_with_eigenbank_is_seen_until_it_is_replaced_or_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalog.db"

    def comes(one: Manifest, digest: str) -> None:
        (tmp_path / "set" / "directions").mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / "directions" / "manifest.json").write_text(one.model_dump_json(), encoding="utf-8")
        monkeypatch.setattr(bundled, "data_folder", lambda: tmp_path)
        monkeypatch.setattr(bundled, "_FOLDERS", {"acme/faces": "set"})
        monkeypatch.setattr(bundled, "DIGESTS", (digest,))

    def seen() -> list[tuple[str, str | None]]:
        with Catalog.open(path) as catalog:
            return [(row.location, row.checkpoint_path) for row in catalog.sets()]

    def change(ask: Callable[[Catalog], object]) -> None:
        with Catalog.open(path) as catalog:
            ask(catalog)

    comes(manifest(), "digest-1")
    assert seen() == [("shipped:set/directions", "shipped:set")]
    assert not path.exists()
    change(lambda catalog: catalog.add_set(manifest(days=1), location="mine", digest="own"))
    assert seen() == [("mine", "shipped:set")]
    # A newer one is seen before any change puts it in.
    comes(manifest(days=2), "digest-2")
    before = path.read_bytes()
    assert seen() == [("shipped:set/directions", "shipped:set")]
    assert path.read_bytes() == before
    change(lambda catalog: catalog.remove_set("acme/faces", None, digest="digest-2"))
    assert seen() == []


def test_a_new_catalog_holds_what_ships(path: Path) -> None:
    with Catalog.open(path) as catalog:
        rows = {row.model_id: row for row in catalog.sets()}
        assert verify(catalog) == []
    for one in bundled.shipped_sets():
        row, folder = rows[one.model_id], bundled.resolve(one.location)
        assert (row.location, row.digest, row.revision) == (one.location, one.digest, None)
        # The digest is written down in `bundled`: a set that was built anew needs its new one there.
        assert manifest_digest(folder) == one.digest
        assert (folder / MANIFEST).read_text() == manifest_text(one.manifest)


def test_a_failed_change_leaves_the_catalog_as_it_was(catalog: Catalog) -> None:
    catalog.add_set(manifest(labels={MID: [label("smile", 0.5)]}), location="a", digest="1")
    # Past validation, to fail in the middle of the transaction.
    bad = manifest(days=1).model_copy(update={"builder": None})
    with pytest.raises(Exception, match="NOT NULL"), warnings.catch_warnings(action="ignore"):  # pydantic's, of None
        catalog.add_sets([SetEntry(manifest("acme/first"), "b", "2"), SetEntry(bad, "c", "3")])
    assert [(row.location, row.labels) for row in catalog.sets()] == [("a", 1)]
    assert len(catalog.search("smile")) == 1


def test_a_set_put_in_twice_at_once_leaves_nothing_of_the_first(catalog: Catalog) -> None:
    first = SetEntry(manifest("acme/faces", {MID: [label("smile", 0.5)]}), "a", "1")
    second = SetEntry(manifest("acme/faces", layers=("mid",)), "b", "2")
    catalog.add_sets([first, second])
    assert verify(catalog) == []
    found = {name: stats(catalog)[name] for name in ("sets", "layers", "labels", "directions")}
    assert found == {"sets": 1, "layers": 1, "labels": 0, "directions": len(second.manifest.directions)}


def test_where_a_set_was_published_is_noted_by_its_digest(catalog: Catalog) -> None:
    catalog.add_set(manifest(), location="/set", digest=DIGEST)
    catalog.set_published(DIGEST, "me/faces", "c" * 40)
    catalog.set_published("0" * 64, "me/other", "d" * 40)
    found = catalog.get_set("acme/faces")
    assert found is not None
    assert (found.repo, found.commit, found.location) == ("me/faces", "c" * 40, "/set")


def test_a_set_is_taken_out_and_peoples_labels_wait(catalog: Catalog) -> None:
    grin = label("grin", source="human:ann")
    added = manifest(labels={MID: [label("smile", 0.5)]}, composites=("beard",))
    catalog.add_set(added, location="a", digest="1")
    catalog.add_set(manifest("acme/cats"), location="b", digest="2")
    catalog.add_labels([f"acme/faces#{MID}"], grin)
    assert catalog.remove_set("acme/faces", None, digest="1") == 1
    assert catalog.remove_set("acme/cats", None, digest="2") == 0
    assert (catalog.sets(), catalog.model_ids(), catalog.label_texts()) == ([], [], [])
    counted = stats(catalog)
    assert [counted[key] for key in ("models", "layers", "directions", "labels", "waiting_labels")] == [0, 0, 0, 0, 1]
    assert verify(catalog) == []
    # Numbers are given out again: nothing of the former models may be found under them.
    catalog.add_set(manifest("zeta/dogs"), location="c", digest="3")
    assert len(catalog.search("cats")) == 0
    assert len(catalog.search("dogs")) == 12
    catalog.add_set(added, location="a", digest="1")
    found = catalog.get_direction(f"acme/faces#{MID}")
    assert found is not None
    assert sorted(item.text for item in found.labels) == ["grin", "smile"]


def test_what_is_put_into_the_place_of_a_removed_set_gets_the_labels_that_wait(catalog: Catalog) -> None:
    catalog.add_set(manifest(layers=("mid_block.attentions.0",)), location="a", digest="1")
    for rank in (0, 2):
        catalog.add_labels([f"acme/faces#{MID[:-1]}{rank}"], label("grin", source="human:ann"))
    ships = manifest(layers=("mid_block.attentions.0",), ranks=2, labels={MID: [label("smile", 0.5)]})
    instead = SetEntry(ships, "shipped:x", "2", "shipped:y")
    assert catalog.remove_set("acme/faces", None, digest="1", instead=instead) == 1
    (row,) = catalog.sets()
    assert (row.location, row.checkpoint_path, row.labels) == ("shipped:x", "shipped:y", 2)
    assert verify(catalog) == []


def test_a_set_spares_one_with_what_it_lacks(catalog: Catalog) -> None:
    full = manifest(labels={MID: [label("smile", 0.5), label("ann's", source="human:ann")]}, composites=("beard",))
    catalog.add_set(full, location="a", digest="1")
    for new in (manifest(), manifest(labels={MID: [label("smile", 0.5)]}), manifest(composites=("beard",))):
        with pytest.raises(ReplaceError, match=r"acme/faces, at a, has 1 (label by labelers|composite)"):
            catalog.add_set(new, location="b", digest="2", overwrite=False)
    assert str(catalog.overwritten("acme/faces", None)) == "1 label by labelers and 1 composite"
    assert not catalog.overwritten("acme/cats", None)
    more = manifest(labels={MID: [label("smile", 0.9), label("laugh")]}, composites=("beard", "hat"))
    catalog.add_set(more, location="b", digest="2", overwrite=False)
    catalog.add_set(manifest(revision="r2"), location="c", digest="3", overwrite=False)
    catalog.add_set(manifest(), location="d", digest="4")
    assert sorted(row.location for row in catalog.sets()) == ["c", "d"]


def test_a_set_is_kept_whole_and_found_by_its_layers_weights(catalog: Catalog) -> None:
    plain = manifest(labels={MID: [measured("smile", 0.5), label("grin", None, "human:ann")]}, composites=("beard",))
    layers = tuple(
        layer.model_copy(update={"digests": {"float32": f"{number}" * 64, "float16": "f" * 64}})
        for number, layer in enumerate(plain.layers)
    )
    one = plain.model_copy(update={"layers": layers})
    catalog.add_set(one, location="/a", digest="a")
    catalog.add_set(manifest("acme/cats"), location="/b", digest="b")
    assert catalog.manifest("acme/faces") == one
    assert [row.model_id for row in catalog.sets_with_layer("1" * 64)] == ["acme/faces"]
    assert [row.model_id for row in catalog.sets_with_layer("f" * 64)] == ["acme/faces"]
    assert catalog.sets_with_layer("2" * 64) == []


def test_what_people_say_in_a_manifest_is_taken_over_once(catalog: Catalog) -> None:
    said = manifest(labels={MID: [label("grin", source="human:ann"), label("smile", 0.5)]})
    catalog.add_set(said, location="a", digest="1")
    assert catalog.people_labels("acme/faces") == {MID: (label("grin", source="human:ann"),)}
    assert not catalog.remove_labels([f"acme/faces#{MID}"], "grin", "human:ann")
    catalog.reindex()
    assert catalog.people_labels("acme/faces") == {}
    row = catalog.get_direction(f"acme/faces#{MID}")
    assert row is not None
    assert row.label_texts == ["smile"]
    with pytest.raises(CatalogError, match="only labels by human:NAME"):
        catalog.add_labels([f"acme/faces#{MID}"], label("x", source="statistics"))


def test_a_persons_label_is_of_the_direction_in_every_revision(catalog: Catalog) -> None:
    for days, revision in enumerate(("one", "two")):
        catalog.add_set(manifest(revision=revision, days=days), location=revision, digest=revision)
    catalog.add_labels([f"acme/faces#{MID}"], label("grin", source="human:ann"))
    assert [row.location for row in catalog.search("grin")] == ["one", "two"]
    assert [row.labels for row in catalog.sets()] == [1, 1]
    assert verify(catalog) == []


def test_a_catalog_indexed_again_is_the_same(catalog: Catalog) -> None:
    catalog.add_set(manifest(labels={MID: [measured("smile", 0.5)]}, composites=("beard",)), location="a", digest="1")
    catalog.add_set(manifest("acme/cats"), location="b", digest="2", repo="me/cats", commit="c")
    catalog.add_labels([f"acme/faces#{MID}"], label("grin", source="human:ann"))
    before = catalog.sets(), catalog.search(limit=100).rows
    catalog.reindex()
    assert (catalog.sets(), catalog.search(limit=100).rows) == before
    assert verify(catalog) == []


def test_a_question_writes_nothing(path: Path) -> None:
    with Catalog.open(path) as catalog:
        catalog.search("smile")
        catalog.label_counts()
    assert list(path.parent.iterdir()) == []
    with Catalog.open(path, shipped=False) as early:
        assert early.sets() == []
        with Catalog.open(path) as catalog:
            catalog.add_set(manifest(), location="a", digest="1")
        assert "acme/faces" in early.model_ids()  # there now
    time.sleep(0.1)
    state = path.read_bytes(), path.stat().st_mtime_ns, path.parent.stat().st_mtime_ns
    with Catalog.open(path) as catalog:
        assert len(catalog.search("mid")) > 0
        assert verify(catalog) == []
        catalog.people_labels("acme/faces")
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.parent.stat().st_mtime_ns) == state
