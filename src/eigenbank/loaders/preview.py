"""A direction's preview: drawing one, and reading the set's, checked before it is decoded, as a PNG."""

import io
from collections.abc import Sequence
from typing import Any

from eigenbank.registry.sets.card import preview_name
from eigenbank.registry.sets.direction_set import Composite, Direction
from eigenbank.registry.sets.previews import MAX_SIDE, opened_preview, read_preview
from eigenbank.schemas import Preview
from eigenbank.schemas.errors import SetError

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
    bank, name = direction.bank, preview_name(direction.record)
    if bank.folder is None or name not in bank.manifest.files:
        return None
    file = io.BytesIO()
    with opened_preview(read_preview(bank.folder, bank.manifest, name), name) as image:
        image.convert("RGB").save(file, format="PNG")
    return file.getvalue()
