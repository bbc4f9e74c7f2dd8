"""A set travels as bytes and is believed only if it arrives whole."""

from pathlib import Path

import pytest

from eigenbank.plans.transport import pack, unpack
from eigenbank.registry.sets.bundled import data_folder
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.registry.sets.folder import MANIFEST, VECTORS
from eigenbank.schemas.errors import SetError

SHIPPED = data_folder() / "cartoon-faces-32" / "directions"


def test_a_set_arrives_as_it_was(tmp_path: Path) -> None:
    packed = pack(SHIPPED)
    folder = unpack(packed, tmp_path / "set")
    assert {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    } == packed
    assert len(DirectionSet.open(folder).vectors) == len(DirectionSet.open(SHIPPED).vectors)


def test_a_damaged_one_leaves_nothing(tmp_path: Path) -> None:
    packed = pack(SHIPPED)
    changed = {**packed, VECTORS: packed[VECTORS][:-1] + bytes([packed[VECTORS][-1] ^ 1])}
    lacking = {name: data for name, data in packed.items() if name != VECTORS}
    hostile = {**packed, MANIFEST: packed[MANIFEST].replace(b'"directions.safetensors":', b'"../outside":', 1)}
    for wrong, words in ((changed, "not what its manifest says"), (lacking, "lacks"), (hostile, "no manifest")):
        with pytest.raises(SetError, match=words):
            unpack(wrong, tmp_path / "set")
        assert not list(tmp_path.iterdir())
