"""This machine's sets: folders made elsewhere are added, checked; a checkpoint's sets are found by where it lies."""

import json
import re
import shutil
from datetime import datetime, timezone
from pathlib import Path

import pytest
from making import make_checkpoint
from registry.catalog.made import manifest

import eigenbank as eb
from eigenbank.api import find_checkpoint
from eigenbank.registry.catalog import Catalog
from eigenbank.registry.local import add_folders, checkpoint_id, remove_set, sets_of_checkpoint, store
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID
from eigenbank.registry.sets.folder import manifest_digest
from eigenbank.schemas import Label
from eigenbank.schemas.errors import CatalogError, ReplaceError, SetError


@pytest.fixture(scope="module")
def shares(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two shares of one checkpoint, built under names of their own. Not to be changed."""
    place = tmp_path_factory.mktemp("shares")
    for name in ("down_blocks", "mid_block"):
        bank = eb.build(str(tiny_checkpoint), layers=f"{name}.*", top_k=1, model_id=f"acme/tiny-{name}")
        bank.save(place / name)
    return [place / "down_blocks", place / "mid_block"]


def test_shares_are_entered_where_they_lie(shares: list[Path], tiny_checkpoint: Path) -> None:
    with Catalog.open(shipped=False) as catalog:
        entered = add_folders(catalog, shares, checkpoint=tiny_checkpoint)
        assert [(one.folder, one.before) for one in entered] == [(share, None) for share in shares]
        assert [row.location for row in catalog.sets()] == [str(share) for share in shares]
        assert [one.before for one in add_folders(catalog, shares)] == [None, None]
    assert eb.load("acme/tiny-mid_block").folder == shares[1]
    assert find_checkpoint("acme/tiny-mid_block") == ("acme/tiny-mid_block", tiny_checkpoint.resolve())


def damage_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "licence": "<b>mine</b>"}))


def damage_vectors(folder: Path) -> None:
    path = folder / "directions.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_manifest, "holds markup"),
        (damage_vectors, "its manifest says"),
        (lambda folder: (folder / "README.md").unlink(), "README.md is not there; nothing was added"),
        (lambda folder: (folder / "manifest.json").unlink(), "is no direction set"),
        (shutil.rmtree, "is no direction set"),
    ],
)
def test_a_damaged_set_is_refused_and_the_others_with_it(
    damage: object, message: str, shares: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(shares[0], tmp_path / "bad")
    damage(tmp_path / "bad")  # type: ignore[operator]
    with Catalog.open(shipped=False) as catalog:
        with pytest.raises(SetError, match=message):
            add_folders(catalog, [shares[1], tmp_path / "bad"])
        assert catalog.sets() == []


def test_two_sets_of_one_name_are_refused(shares: list[Path], tmp_path: Path) -> None:
    shutil.copytree(shares[0], tmp_path / "copy")
    with Catalog.open(shipped=False) as catalog:
        with pytest.raises(SetError, match=r"are both sets of acme/tiny-down_blocks.*model_id="):
            add_folders(catalog, [*shares, tmp_path / "copy"])
        assert catalog.sets() == []


def test_a_labelled_set_is_replaced_only_when_asked(demo_checkpoint: Path, tmp_path: Path, shares: list[Path]) -> None:
    demo = eb.load(DEMO_MODEL_ID)
    bare = eb.build(str(demo_checkpoint), layers="mid_block.*", top_k=1, model_id=demo.model_id)
    bare.save(tmp_path / "bare")
    with Catalog.open() as catalog:
        with pytest.raises(ReplaceError, match="replace=True"):
            add_folders(catalog, [shares[0], tmp_path / "bare"])
        assert catalog.model_ids() == [demo.model_id]
        (one,) = add_folders(catalog, [tmp_path / "bare"], replace=True)
        assert one.before is not None
        assert one.before.location == "shipped:avatars-64/directions"
        # What ships is a folder like another, and knows its checkpoint.
        catalog.remove_set(demo.model_id, None, digest=catalog.sets()[0].digest)
        add_folders(catalog, [demo_checkpoint / "directions"])
        (row,) = catalog.sets()
        assert (row.location, row.checkpoint_path) == (one.before.location, one.before.checkpoint_path)


def test_the_folder_of_another_set_is_never_deleted(tiny_checkpoint: Path, home: Path) -> None:
    mine = eb.build(str(tiny_checkpoint), layers="mid_block.*", top_k=1, model_id="me/mine")
    folder = store(mine).folder
    assert folder is not None
    assert folder.is_relative_to(home)
    digest = manifest_digest(folder)
    # As a catalog from elsewhere may say: the digest is its own, or that of the set which lies there.
    for other in ("other", digest):
        with Catalog.open() as catalog:
            catalog.add_set(manifest("evil/set"), location=str(folder), digest=other)
            with pytest.raises(CatalogError, match=r"holds another set.*nothing was removed"):
                remove_set(catalog, "evil/set", files=True)
        store(eb.build(str(tiny_checkpoint), layers="mid_block.*", top_k=1, model_id="evil/set"), replace=True)
        assert manifest_digest(folder) == digest
        with Catalog.open() as catalog:
            remove_set(catalog, "evil/set", files=True)
    with Catalog.open() as catalog:
        assert remove_set(catalog, "me/mine", files=True).deleted
    assert not folder.exists()


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("shipped:avatars-64", DEMO_MODEL_ID),
        ("shipped:other", "local/shipped-other"),
        ("/data/my faces", "local/my-faces"),
        (f"/c/models--google--ddpm-celebahq-256/snapshots/{'a1' * 20}", "google/ddpm-celebahq-256"),
        ("/c/models--google--ddpm/snapshots/main", "local/snapshots-main"),
        ("/runs/a/checkpoint-500/unet", "local/a-checkpoint-500"),
        ("/data/faces/transformer", "local/faces"),
        ("/data/juggernaut.v9.safetensors", "local/juggernaut.v9"),
        ("C:\\runs\\b\\final", "local/b-final"),
        ("/", "local/checkpoint"),
    ],
)
def test_the_id_of_a_place(location: str, found: str) -> None:
    assert checkpoint_id(location) == found


def tuned(folder: Path, seed: int) -> Path:
    return make_checkpoint(folder, seed=seed) / "unet"


def test_folders_of_one_name_get_ids_of_their_own_which_stay(tmp_path: Path) -> None:
    folders = [tuned(tmp_path / run / "checkpoint-500", seed) for seed, run in enumerate(("x/run", "y/run"))]
    banks = [store(eb.build(str(folder), layers="mid*", top_k=1), checkpoint=folder) for folder in folders]
    ids = [bank.model_id for bank in banks]
    assert len(set(ids)) == 2
    assert all(re.fullmatch(r"local/run-checkpoint-500-[0-9a-f]{8}", each) for each in ids)
    assert [eb.build(str(folder), layers="mid*", top_k=1).model_id for folder in folders] == ids
    assert [find_checkpoint(str(folder))[0] for folder in folders] == ids
    # The whole pipeline is the same weights as its denoiser.
    assert eb.build(str(folders[0].parent), layers="mid*", top_k=1).model_id == ids[0]


def test_weights_that_change_in_place_get_another_id_unless_one_was_given(tmp_path: Path) -> None:
    folder = tuned(tmp_path / "mine", 0)
    first = store(eb.build(str(folder), layers="mid*", top_k=1), checkpoint=folder)
    tuned(tmp_path / "mine", 1)
    second = store(eb.build(str(folder), layers="mid*", top_k=1), checkpoint=folder)
    assert first.model_id != second.model_id
    named = store(eb.build(str(folder), layers="mid*", top_k=1, model_id="me/mine"), checkpoint=folder)
    tuned(tmp_path / "mine", 2)
    changed = eb.build(str(folder), layers="mid*", top_k=1, model_id="me/mine")
    with Catalog.open() as catalog:
        now = datetime(2026, 1, 1, tzinfo=timezone.utc)
        catalog.add_labels([named[next(iter(named)).id].full_id], Label(text="smile", source="human:ann", created=now))
    with pytest.raises(ReplaceError, match=r"other weights.*model_id="):
        store(changed, checkpoint=folder)
    assert eb.load("me/mine").manifest.layers == named.manifest.layers
    said: list[str] = []
    store(changed, checkpoint=folder, replace=True, log=said.append)
    assert "people's labels of me/mine now name directions of other weights" in said[0]


def test_the_own_id_first_then_the_newest(tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "catalog.db", shipped=False) as catalog:
        for days, name in enumerate(("acme/old", "local/faces", "acme/new", "acme/newest")):
            catalog.add_set(manifest(name, days=days), location=name, digest=name, checkpoint_path="/data/faces")
        catalog.add_set(manifest("acme/other"), location="x", digest="x", checkpoint_path="/data/cats")
        found = [row.model_id for row in sets_of_checkpoint("/data/faces", catalog)]
    assert found == ["local/faces", "acme/newest", "acme/new", "acme/old"]
