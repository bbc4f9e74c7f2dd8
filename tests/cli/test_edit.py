"""`eigenbank edit`: the edit as a PNG, what was measured on stdout, what was done to the photo on stderr."""

import json
from pathlib import Path

import pytest
import torch
from faces.render import render, sample_factors
from PIL import Image

from eigenbank.cli.main import run
from eigenbank.loaders.image_grid import to_image

DEMO = "eigenbank/cartoon-faces-32"
pytestmark = pytest.mark.usefixtures("with_faces")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A face of the demo's world in the middle of a wider picture."""
    face = to_image((render(sample_factors(1, torch.Generator().manual_seed(77)), 96)[0] + 1) / 2)
    wide = Image.new("RGB", (160, 96), (90, 90, 90))
    wide.paste(face, (32, 0))
    wide.save(tmp_path / "photo.jpg", quality=95)
    return tmp_path / "photo.jpg"


def test_a_photo_is_edited_and_its_round_trip_reported(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, compare = tmp_path / "out.png", tmp_path / "compare.png"
    call = ["edit", str(photo), "--model", DEMO, "--set", "skin tone=1", "--out", str(out), "--compare", str(compare)]
    assert run([*call, "--steps", "8", "--format", "json"]) == 0
    printed = capsys.readouterr()
    (row,) = json.loads(printed.out)
    assert 0 < row["round_trip_error"] < 0.05 < row["change"]
    assert row["autoencoder_error"] is None
    assert row["poor"] is False
    assert "photo.jpg: cropped from 160×96 to its middle 96×96" in printed.err
    assert "photo.jpg: scaled from 96×96 to 32×32" in printed.err
    with Image.open(out) as edited, Image.open(compare) as sheet:
        assert (edited.format, edited.size) == ("PNG", (32, 32))
        assert sheet.width > 3 * 96


def test_a_poor_round_trip_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    to_image(noise).save(tmp_path / "noise.png")
    call = [
        "edit",
        str(tmp_path / "noise.png"),
        "--model",
        DEMO,
        "--set",
        "skin tone=1",
        "--out",
        str(tmp_path / "o.png"),
    ]
    assert run([*call, "--steps", "2"]) == 0
    assert "warning: the unedited reconstruction is off by" in capsys.readouterr().err


def test_the_photo_is_never_overwritten(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = photo.with_suffix(".png")
    with Image.open(photo) as image:
        image.save(own)
    before = own.read_bytes()
    assert run(["edit", str(own), "--model", DEMO, "--set", "skin tone=1", "--out", str(own)]) == 1
    assert "would be overwritten by the edit: nothing was drawn" in capsys.readouterr().err
    assert own.read_bytes() == before
