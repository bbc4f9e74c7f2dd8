"""A direction's preview: drawing one, and reading the set's, checked before it is decoded, as a PNG."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from typing import Any

from eigenbank.registry.bank import Composite, Direction
from eigenbank.registry.card import preview_name
from eigenbank.schemas import Preview
from eigenbank.schemas.errors import SetError

MAX_BYTES = 8 * 2**20
MAX_SIDE = 4096
SCALES = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
CELL = 128
"""Largest side of one picture in a preview; larger ones are reduced to it."""


def draw_preview(
    pipe: Any,
    direction: Direction | Composite,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    scales: Sequence[float] = SCALES,
    steps: int = 20,
    **call: Any,
) -> tuple[Preview, bytes]:
    """Draw a direction at every scale on every seed, in one batch: how it was drawn, and the grid as a WebP picture.

    A row per seed, a column per scale, such that a positive scale is more of the direction's first label, if it has one. Raises as
    `steer` does, and SetError for a grid of more than 4,096 pixels a side.
    """
    from torch import nn

    from eigenbank.loaders.sheet import to_image
    from eigenbank.loaders.sweep import sweep

    sign = direction.labels[0].polarity if direction.labels else 1
    stored = [float(sign * scale) for scale in scales]
    pixels = sweep(pipe, direction, stored, seeds=seeds, steps=steps, **call).pixels
    longest = max(pixels.shape[-2:])
    if longest > CELL:
        flat = nn.functional.interpolate(
            pixels.flatten(0, 1), scale_factor=CELL / longest, mode="bilinear", antialias=True
        )
        pixels = flat.unflatten(0, pixels.shape[:2])
    rows, columns, _, height, width = pixels.shape
    if max(rows * height, columns * width) > MAX_SIDE:
        message = f"a preview of {rows} seeds and {columns} scales is larger than {MAX_SIDE} pixels a side: take fewer"
        raise SetError(message)
    grid = pixels.permute(2, 0, 3, 1, 4).reshape(3, rows * height, columns * width)
    file = io.BytesIO()
    # Small pictures are kept exactly: at 32 pixels a side, what compression loses can be seen.
    to_image(grid).save(file, format="WEBP", lossless=longest <= CELL // 2, quality=88, method=6)
    how = Preview(seeds=tuple(seeds), scales=tuple(stored), steps=steps)
    return how, file.getvalue()


def preview(direction: Direction) -> bytes | None:
    """The set's preview of a direction as PNG bytes; None where it has none. Raises SetError for a damaged one."""
    bank = direction.bank
    name = preview_name(direction.record)
    entry = bank.manifest.files.get(name)
    if bank.folder is None or entry is None:
        return None
    path = bank.folder / name
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}): nothing was written. Pull the set again"
        raise SetError(message) from error
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        message = f"{path} is not the file its manifest lists: nothing was written. Build or pull the set again"
        raise SetError(message)
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
                if max(image.size) > MAX_SIDE:
                    raise ValueError(image.size)
                file = io.BytesIO()
                image.convert("RGB").save(file, format="PNG")
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombWarning) as error:
        message = f"{path} is no WebP picture of at most {MAX_SIDE} pixels a side ({error}): nothing was written"
        raise SetError(message) from error
    return file.getvalue()
