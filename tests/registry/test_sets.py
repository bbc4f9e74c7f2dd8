"""A set on disk appears whole or not at all, and is believed only after it was checked."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from making import rewrite_json
from safetensors.torch import load_file, save_file

from eigenbank.builders.build import build
from eigenbank.builders.checkpoints.folder import open_folder
from eigenbank.registry.sets import folder as sets
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas.errors import EigenbankError, SetError, UnknownNameError


@pytest.fixture(scope="module")
def pristine(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "set"
    build(open_folder(tiny_checkpoint), "acme/faces", top_k=3).save(folder)
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy of a good set, to be damaged."""
    return Path(shutil.copytree(pristine, tmp_path / "set"))


def test_a_saved_bank_is_read_back(folder: Path, tiny_checkpoint: Path) -> None:
    made = build(open_folder(tiny_checkpoint), "acme/faces", top_k=3)
    found = DirectionSet.open(folder)
    assert [direction.record for direction in found] == [direction.record for direction in made]
    assert all(torch.equal(direction.vector, made[direction.id].vector) for direction in found)
    assert found.layers == made.layers


def test_the_vectors_file_explains_itself(folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / sets.VECTORS, framework="pt") as file:
        essentials = json.loads(file.metadata()["eigenbank"])
    assert essentials["checkpoint"]["model_id"] == "acme/faces"
    assert essentials["format"] == 1


def test_the_card_names_the_checkpoint(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: eigenbank\nbase_model: acme/faces\n")


@pytest.mark.parametrize("there", ["folder", "file", "link"])
def test_nothing_is_overwritten(there: str, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    if there == "folder":
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    elif there == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SetError, match="exists and is not an empty folder"):
        DirectionSet.open(folder).save(target)
    assert sorted(tmp_path.iterdir()) == before


def test_a_failure_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    bank = DirectionSet.open(folder)
    broken = DirectionSet(bank.manifest, vectors={**bank.vectors, "extra": torch.zeros(2, 2, device="meta")})
    with pytest.raises(Exception, match="meta"):
        broken.save(tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_a_folder_that_cannot_be_written_to_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetError, match="cannot be written to"):
        DirectionSet.open(folder).save(tmp_path / "file" / "set")


def test_a_folder_without_a_manifest_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(SetError, match="no direction set"):
        DirectionSet.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', "[" * 200_000, "\x00\x00"], ids=str.__len__)
def test_a_manifest_that_is_none(text: str, folder: Path) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(SetError, match=r"(?i)nothing was read"):
        DirectionSet.open(folder)


def test_a_manifest_of_a_newer_format_says_to_upgrade(folder: Path) -> None:
    rewrite_json(folder / "manifest.json", format=2)
    with pytest.raises(SetError, match="Upgrade eigenbank"):
        DirectionSet.open(folder)


def test_an_oversized_manifest_is_not_read(folder: Path) -> None:
    os.truncate(folder / "manifest.json", sets.MAX_MANIFEST_BYTES + 1)  # sparse: no bytes are written
    with pytest.raises(SetError, match="nothing was read"):
        DirectionSet.open(folder)


def _change(folder: Path, where: list[str | int], value: object) -> None:
    document = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    place = document
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    (folder / "manifest.json").write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (["surprise"], 1),
        (["checkpoint", "model_id"], "../../etc"),
        (["checkpoint", "model_id"], "a/b/c"),
        (["files"], {"../x": {"sha256": "0" * 64, "size": 1}}),
        (["files"], {"/etc/passwd": {"sha256": "0" * 64, "size": 1}}),
        (["layers", 0, "width"], 10**12),
        (["layers", 0, "width"], -1),
        (["layers", 0, "name"], "a b"),
        (["directions", 0, "layer"], "nowhere"),
        (["directions", 0, "rank"], 10**9),
        (["directions", 0, "rank"], 1),
        (["directions", 0, "eigenvalue"], float("nan")),
        (["directions", 0, "share"], 1.5),
        (["directions", 0, "recipe", "window"], {"start": 0.9, "end": 0.1}),
        (["directions", 0, "labels"], [{"text": "a\x1b[31m", "source": "human:x", "created": "2026-01-01T00:00:00Z"}]),
        (
            ["directions", 0, "labels"],
            [{"text": "\u202esmile", "source": "human:x", "created": "2026-01-01T00:00:00Z"}],
        ),
        (["directions", 0, "labels"], [{"text": "x" * 501, "source": "human:x", "created": "2026-01-01T00:00:00Z"}]),
    ],
)
def test_a_manifest_out_of_bounds_is_refused(where: list[str | int], value: object, folder: Path) -> None:
    _change(folder, where, value)
    with pytest.raises(SetError, match=r"no manifest of format 1|not JSON"):
        DirectionSet.open(folder)


def test_a_set_of_another_width_is_refused(folder: Path) -> None:
    _change(folder, ["layers", 0, "width"], 999)
    with pytest.raises(SetError, match=r"999 wide, directions\.safetensors holds F32"):
        DirectionSet.open(folder)


def test_missing_vectors_are_refused(folder: Path) -> None:
    (folder / sets.VECTORS).unlink()
    with pytest.raises(SetError, match="incomplete"):
        DirectionSet.open(folder)


def test_truncated_vectors_are_refused(folder: Path) -> None:
    (folder / sets.VECTORS).write_bytes((folder / sets.VECTORS).read_bytes()[:-8])
    with pytest.raises(EigenbankError, match="truncated"):
        DirectionSet.open(folder)


def test_one_changed_byte_is_noticed(folder: Path) -> None:
    data = bytearray((folder / sets.VECTORS).read_bytes())
    data[-1] ^= 1
    (folder / sets.VECTORS).write_bytes(data)
    with pytest.raises(SetError, match="changed after it was built"):
        _ = DirectionSet.open(folder).vectors


@pytest.mark.parametrize("value", [float("nan"), 2.0])
def test_vectors_that_are_not_unit_are_refused_though_the_digest_agrees(value: float, folder: Path) -> None:
    import hashlib

    tensors = load_file(folder / sets.VECTORS)
    next(iter(tensors.values()))[0, 0] = value
    save_file(tensors, folder / sets.VECTORS)
    data = (folder / sets.VECTORS).read_bytes()
    _change(folder, ["files", sets.VECTORS], {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)})
    with pytest.raises(SetError, match="not finite unit vectors"):
        _ = DirectionSet.open(folder).vectors


def test_directions_are_found_by_id_full_id_and_label(folder: Path) -> None:
    from datetime import datetime, timezone

    from eigenbank.schemas import Label

    bank = DirectionSet.open(folder)
    direction = next(iter(bank))
    now = datetime.now(timezone.utc)
    labels = (
        Label(text="warm smile", source="human:ann", created=now),
        Label(text="Smile", source="attribute-model:x", confidence=0.5, created=now),
    )
    named = bank.labelled({direction.id: labels[:1], list(bank)[1].id: labels[1:]})
    assert named[direction.id].id == named[direction.full_id].id == named["warm SMILE"].id == direction.id
    assert [found.labels[0].text for found in named.search("smile")] == ["Smile", "warm smile"]
    assert named.search("nose") == []
    assert named.labels == ["warm smile", "Smile"]
    assert direction.full_id in named
    with pytest.raises(UnknownNameError, match="did you mean 'Smile'"):
        named["smlie"]
    assert len(bank.search("smile")) == 0  # the bank it was made from is unchanged
