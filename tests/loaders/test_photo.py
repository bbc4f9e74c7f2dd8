"""Photos of every kind become what a pipeline draws; what is no photo is refused before it is decoded."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eigenbank.loaders.photo import MAX_PIXELS, as_pixels
from eigenbank.schemas.errors import PhotoError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def halves(size: tuple[int, int] = (64, 32), mode: str = "RGB") -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff"])
def test_every_format_is_cropped_to_its_middle_and_scaled(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    halves().save(path, **{"webp": {"lossless": True}, "jpg": {"quality": 95}}.get(suffix, {}))
    pixels, notes = as_pixels(path, (16, 16))
    assert notes == ["cropped from 64×32 to its middle 32×32", "scaled from 32×32 to 16×16"]
    assert pixels.shape == (3, 16, 16)
    torch.testing.assert_close(pixels[:, 8, 2], torch.tensor([1.0, 0.0, 0.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(pixels[:, 8, 13], torch.tensor([0.0, 0.0, 1.0]), atol=0.05, rtol=0)


def test_a_picture_of_the_right_size_is_taken_as_it_is(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels, notes = as_pixels(tmp_path / "a.png", (16, 24))
    assert notes == []
    assert np.array_equal((pixels * 255).round().byte().permute(1, 2, 0).numpy(), values)
    again, _ = as_pixels(pixels, (16, 24))
    assert torch.equal(again, pixels)


def test_exif_turns_the_picture_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: what was left is up
    halves((32, 32)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    pixels, notes = as_pixels(tmp_path / "a.jpg", (32, 32))
    assert notes == ["turned as its EXIF says"]
    assert pixels[0, 3, 16] > 0.9
    assert pixels[2, 28, 16] > 0.9


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_laid_on_white(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (8, 0, 16, 16))
    if mode == "P":
        image = Image.new("P", (16, 16), 0)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.paste(1, (8, 0, 16, 16))
        image.save(tmp_path / "a.png", transparency=0)
    else:
        image.convert(mode).save(tmp_path / "a.png")
    pixels, notes = as_pixels(tmp_path / "a.png", (16, 16))
    assert notes == ["transparency laid on white"]
    assert torch.equal(pixels[:, 4, 2], torch.ones(3))
    assert torch.equal(pixels[:, 4, 12], torch.zeros(3))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels, notes = as_pixels(tmp_path / "a.png", (16, 16))
    assert notes == ["16 bits reduced to 8"]
    np.testing.assert_allclose(pixels[0].numpy(), values / 65535, atol=0.005)


@pytest.mark.parametrize("values", [np.ones((16, 16), np.float32), np.full((16, 16), 70_000, np.int32)])
def test_values_of_no_known_range_are_refused(values: "np.ndarray[tuple[int, int], np.dtype[np.generic]]") -> None:
    with pytest.raises(PhotoError, match="of no known range: convert it to 8 or 16 bits"):
        as_pixels(Image.fromarray(values), (16, 16))


def _png(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def _cut(suffix: str) -> bytes:
    file = io.BytesIO()
    halves((256, 256)).save(file, format=suffix)
    return file.getvalue()[: len(file.getvalue()) // 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bomb.png", _png(60_000, 60_000), "exceeds limit"),
        ("large.png", _png(12_000, 10_000), "at most 100,000,000 pixels are decoded"),
        ("text.png", b"not a picture", "cannot be read as a picture"),
        ("empty.png", b"", "cannot be read as a picture"),
        ("cut.png", _cut("PNG"), "cannot be read as a picture"),
        ("cut.jpg", _cut("JPEG"), "cannot be read as a picture"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "cannot be read as a picture"),
        ("strip.png", _png(5000, 3), "cannot be read as a picture"),
    ],
)
def test_hostile_files_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PhotoError, match=message):
        as_pixels(tmp_path / name, (16, 16))


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        ("/no/such/photo.png", "is no file"),
        ("/dev/zero", "is no file"),
        (Image.new("RGB", (500, 3)), "a strip like that"),
        (Image.new("RGB", (0, 0)), "no pixels"),
        (torch.zeros(3, 8, 8), "the pipeline generates 16×16"),
        (torch.full((3, 16, 16), 2.0), r"values in \[0, 1\]"),
        (torch.full((3, 16, 16), torch.nan), r"values in \[0, 1\]"),
        (torch.zeros(3, 16, 16, dtype=torch.complex64), "of real numbers, this one is torch.strided, torch.complex64"),
        (torch.zeros(3, 16, 16, device="meta"), "on the meta device"),
        (torch.zeros(3, 16, 16).to_sparse(), "dense and of real numbers"),
        (torch.zeros(16, 16), r"\(3, height, width\)"),
        (7, "not a int"),
    ],
)
def test_what_is_no_photo_is_refused(photo: Any, message: str) -> None:
    with pytest.raises(PhotoError, match=message):
        as_pixels(photo, (16, 16))


def test_a_pillow_image_whose_file_is_truncated_is_refused() -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, format="PNG")
    with pytest.raises(PhotoError, match="truncated"):
        as_pixels(Image.open(io.BytesIO(file.getvalue()[:500])), (16, 16))


def test_the_bound_lets_cameras_through() -> None:
    assert MAX_PIXELS >= 50_000_000
