"""Sliders files: written whole, read within bounds, refused with a message that says what is wrong."""

import json
from pathlib import Path

import pytest

from eigenbank.registry.sliders import read_sliders, write_sliders
from eigenbank.schemas import Sliders, SliderSetting
from eigenbank.schemas.errors import SteerError

SLIDERS = Sliders(model="acme/faces", sliders=(SliderSetting(key="skin tone", scale=1.5),))


def test_a_file_is_plain_json_and_read_back(tmp_path: Path) -> None:
    write_sliders(tmp_path / "look.json", SLIDERS)
    assert json.loads((tmp_path / "look.json").read_text()) == {
        "format": 1,
        "model": "acme/faces",
        "sliders": [{"key": "skin tone", "scale": 1.5}],
    }
    assert read_sliders(str(tmp_path / "look.json")) == SLIDERS
    assert [path.name for path in tmp_path.iterdir()] == ["look.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no sliders file, for it is not JSON"),
        (b"[" * 100_000, "is no sliders file, for it is not JSON"),
        (b"[]", "the document"),
        (b'{"format": 7}', "is of format 7, this eigenbank reads format 1"),
        (b'{"format": 1}', "sliders: Field required"),
        (b'{"sliders": [{"key": "smile", "scale": "much"}]}', r"sliders\.0\.scale"),
        (b'{"sliders": [{"key": "smile", "scale": 1, "prompt": "x"}]}', r"sliders\.0\.prompt"),
        (b" " * (2**20 + 1), "it is 1,048,577 bytes long, at most 1,048,576 are read"),
    ],
)
def test_a_broken_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "look.json").write_bytes(content)
    with pytest.raises(SteerError, match=message):
        read_sliders(tmp_path / "look.json")


@pytest.mark.parametrize("name", ["smile", "a\0b", "x" * 5000, "."])
def test_what_is_no_file_is_said_to_be_none(name: str) -> None:
    with pytest.raises(SteerError, match=r"cannot be read as a sliders file .*give \{'label': scale\}"):
        read_sliders(name)


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="the sliders were not saved"):
        write_sliders(tmp_path / "no" / "look.json", SLIDERS)
