"""Photos: opened without trusting them, turned upright, and resized to what a pipeline generates."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eigenbank.registry.files import read_bounded
from eigenbank.schemas.errors import PhotoError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MAX_BYTES = 100 * 2**20
MAX_PIXELS = 100_000_000
MAX_RATIO = 20
ORIENTATION = 0x0112
"""The EXIF tag that says which way up a picture is."""


def open_picture(path: Path) -> "Image":
    """Open a picture and read its pixels. Raises PhotoError for what is none, damaged, or too large to be decoded.

    The size is checked before anything is decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if not path.is_file():
            message = f"{path} is no file: expected a {', '.join(FORMATS)} picture"
            raise PhotoError(message)
        if (size := path.stat().st_size) > MAX_BYTES:
            message = f"{path} is {size:,} bytes, and at most {MAX_BYTES:,} are read: scale it down first"
            raise PhotoError(message)
        data = io.BytesIO(read_bounded(path, MAX_BYTES))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bound is below ours
            with Image.open(data, formats=FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    message = (
                        f"{path} is {opened.width}×{opened.height}, and at most {MAX_PIXELS:,} pixels are decoded: "
                        "scale it down first"
                    )
                    raise PhotoError(message)
                opened.load()
                picture: Image.Image = opened
                return picture
    except (
        OSError,
        ValueError,
        SyntaxError,
        OverflowError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
    ) as error:
        message = f"{path} cannot be read as a picture ({error}): expected an undamaged {', '.join(FORMATS)}"
        raise PhotoError(message) from error


def to_rgb(image: "Image") -> "tuple[Image, list[str]]":
    """Turn an image upright and convert it to RGB, of several frames the first, on white where it is transparent.

    Also returns what was done, in words. Raises PhotoError for unknown ranges.
    """
    from PIL import Image, ImageOps

    notes = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"the first of {frames} frames")
    upright = ImageOps.exif_transpose(image)
    if image.getexif().get(ORIENTATION, 1) not in (0, 1):
        notes.append("turned as its EXIF says")
    known: tuple[Any, Any] = upright.getextrema() if upright.mode == "I" else (0, 0)  # type: ignore[assignment]
    if upright.mode == "F" or known[0] < 0 or known[1] >= 2**16:
        message = f"the picture's values are {upright.mode} of no known range: convert it to 8 or 16 bits a channel"
        raise PhotoError(message)
    if upright.mode.startswith("I"):
        # Sixteen bits a pixel: convert() would clip them to the lowest eight.
        upright = upright.convert("F").point(lambda value: value / 257).convert("L")
        notes.append("16 bits reduced to 8")
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        if layer.getchannel("A").getextrema() != (255, 255):
            notes.append("transparency laid on white")
        paper = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(paper, layer)
    return upright.convert("RGB"), notes


def fit(image: "Image", size: tuple[int, int]) -> "tuple[Tensor, list[str]]":
    """Crop and resize the image's middle to `(height, width)`: `(3, height, width)` in [0, 1], and what was done, in words.

    Raises PhotoError for a picture more than 20 times as long as wide.
    """
    import numpy as np
    from PIL import Image

    if not min(image.size):
        message = f"the picture is {image.width}×{image.height}: it has no pixels"
        raise PhotoError(message)
    if max(image.size) > MAX_RATIO * min(image.size):
        message = (
            f"the picture is {image.width}×{image.height}: a strip like that cannot be cropped to a useful picture"
        )
        raise PhotoError(message)
    height, width = size
    notes = []
    scale = min(image.width / width, image.height / height)
    crop = (max(1, round(width * scale)), max(1, round(height * scale)))
    if crop != image.size:
        left, top = (image.width - crop[0]) // 2, (image.height - crop[1]) // 2
        notes.append(f"cropped from {image.width}×{image.height} to its middle {crop[0]}×{crop[1]}")
        image = image.crop((left, top, left + crop[0], top + crop[1]))
    if image.size != (width, height):
        verb = "scaled" if image.width > width else "enlarged"
        notes.append(f"{verb} from {image.width}×{image.height} to {width}×{height}")
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return pixels, notes


def as_pixels(photo: object, size: tuple[int, int]) -> tuple[Tensor, list[str]]:
    """Read a photo given as a path, a Pillow image, or `(3, h, w)` in [0, 1], at `(height, width)`.

    Returns `(3, height, width)` float32 in [0, 1] and what was done to it. Raises PhotoError.
    """
    from PIL import Image

    if isinstance(photo, (str, Path)):
        photo = open_picture(Path(photo))
    if isinstance(photo, Image.Image):
        try:
            image, notes = to_rgb(photo)
        except (OSError, ValueError, SyntaxError) as error:  # Pillow decodes a file when its pixels are first asked for
            message = f"the Pillow image cannot be read ({error}): expected an undamaged picture"
            raise PhotoError(message) from error
    elif isinstance(photo, Tensor):
        if photo.is_complex() or photo.is_meta or photo.layout is not torch.strided:
            kind = "without values (on the meta device)" if photo.is_meta else f"{photo.layout}, {photo.dtype}"
            message = f"a photo given as a tensor is dense and of real numbers, this one is {kind}"
            raise PhotoError(message)
        if photo.ndim != 3 or photo.shape[0] != 3 or not bool(((photo >= 0) & (photo <= 1)).all()):
            message = (
                f"a photo given as a tensor is (3, height, width) with values in [0, 1], this is {list(photo.shape)}"
            )
            raise PhotoError(message)
        if tuple(photo.shape[1:]) != size:
            message = (
                f"the tensor is {photo.shape[2]}×{photo.shape[1]}, the pipeline generates {size[1]}×{size[0]}: give it that "
                "size, or give a Pillow image, which is cropped and scaled"
            )
            raise PhotoError(message)
        return photo.detach().float().cpu(), []
    else:
        message = f"a photo is a path, a Pillow image or a tensor, not a {type(photo).__name__}"
        raise PhotoError(message)
    pixels, more = fit(image, size)
    return pixels, [*notes, *more]
