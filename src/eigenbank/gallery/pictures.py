"""The previews of a set, each checked against the manifest before a copy of it goes into the site."""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

from eigenbank.registry.card import preview_name
from eigenbank.schemas import CompositeRecord, DirectionRecord, Manifest
from eigenbank.schemas.errors import SetError

MAX_BYTES = 8 * 2**20
MAX_SIDE = 4096
"""What previews may be, as where they are drawn."""


@dataclass(frozen=True)
class Cell:
    """The size of one picture of a preview's grid, in pixels."""

    width: int
    height: int


def read_picture(
    folder: Path, manifest: Manifest, record: DirectionRecord | CompositeRecord
) -> tuple[Cell, bytes] | None:
    """The preview of a direction or composite, and the size of its cells; None where the set has none.

    Raises SetError for one that is missing, altered, no WebP picture, or no grid of equal cells as its record says.
    """
    name = preview_name(record)
    entry = manifest.files.get(name)
    if record.preview is None or entry is None:
        return None
    path = folder / name
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
    except OSError as error:
        message = f"{name} cannot be read ({error.strerror})"
        raise SetError(message) from error
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        message = f"{name} is not the file its manifest lists"
        raise SetError(message)
    width, height = _size(data, name)
    columns, rows = len(record.preview.scales), len(record.preview.seeds)
    if width % columns or height % rows:
        message = f"{name} is {width}×{height} pixels, no grid of {columns}×{rows} equal cells"
        raise SetError(message)
    return Cell(width // columns, height // rows), data


def _size(data: bytes, name: str) -> tuple[int, int]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
                size: tuple[int, int] = image.size
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombWarning) as error:
        message = f"{name} is no WebP picture"
        raise SetError(message) from error
    if max(size) > MAX_SIDE:
        message = f"{name} is {size[0]}×{size[1]} pixels, more than {MAX_SIDE} a side"
        raise SetError(message)
    return size
