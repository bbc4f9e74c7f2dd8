"""The previews of a set: WebP grids of pictures, believed only after they were checked."""

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from eigenbank.registry.sets.folder import PREVIEWS
from eigenbank.schemas import Manifest
from eigenbank.schemas.errors import SetError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 8 * 2**20
MAX_SIDE = 4096
"""What a preview may be, in bytes and in pixels a side."""


def read_previews(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """The previews of a set by their names in it. Raises SetError where one is not what the manifest says."""
    return {name: read_preview(folder, manifest, name) for name in manifest.files if name.startswith(PREVIEWS)}


def read_preview(folder: Path, manifest: Manifest, name: str) -> bytes:
    """A preview that the manifest lists, as the bytes of the file. Raises SetError where it is not what that says."""
    path = folder / name
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else None
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}). Pull or build the set again"
        raise SetError(message) from error
    if data is None:
        message = f"{path} is {size:,} bytes long, a preview at most {MAX_BYTES:,}. Pull or build the set again"
        raise SetError(message)
    if hashlib.sha256(data).hexdigest() != manifest.files[name].sha256:
        message = f"{path} is not what the manifest says. Pull or build the set again"
        raise SetError(message)
    return data


@contextmanager
def opened_preview(data: bytes, name: str) -> "Iterator[Image]":
    """The picture of a preview, opened with its size bounded. Raises SetError for what is no such WebP picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
                if max(image.size) > MAX_SIDE:
                    message = f"{name} is {image.width}×{image.height} pixels, a preview at most {MAX_SIDE} a side"
                    raise SetError(message)
                yield image
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombWarning) as error:
        message = f"{name} is no WebP picture ({error})"
        raise SetError(message) from error
