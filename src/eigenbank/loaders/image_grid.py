"""Image grids: images in rows and columns, both named, drawn with Pillow."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_INK = (32, 33, 36)
_PALE = (110, 113, 120)
_PAPER = (255, 255, 255)
_BAR = (11, 110, 79)
_TRACK = (226, 229, 233)


def to_image(pixels: Tensor) -> Image.Image:
    """Convert `(3, h, w)` in [0, 1] into an RGB image of Pillow."""
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def image_grid(
    rows: Sequence[Tensor],
    row_names: Sequence[str],
    column_names: Sequence[str],
    *,
    title: str = "",
    notes: Sequence[str] = (),
    effects: Sequence[float | None] = (),
    group: int = 0,
    group_names: Sequence[str] = (),
    cell: int = 96,
) -> Image.Image:
    """Draw rows of images `(columns, 3, h, w)` in [0, 1] with their names at the left and the columns' above.

    `notes` are smaller second lines under the row names, `effects` bars below them, drawn against the longest; None where
    an effect is unknown. A gap is left after every `group` columns (0: none), and `group_names` stand above them. Small images are enlarged to about `cell` pixels by a whole factor, without smoothing.
    """
    height, width = rows[0].shape[-2:]
    factor = max(1, cell // max(height, width))
    high, wide = height * factor, width * factor
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    left = 16 + int(
        max([font.getlength(name) for name in row_names] + [small.getlength(note) for note in notes], default=0)
    )
    columns = rows[0].shape[0]
    gap = 10
    offsets = [left + column * (wide + 2) + (column // group * gap if group else 0) for column in range(columns)]
    heading = 18 if any(group_names) else 0
    top = (26 if title else 0) + heading + 24
    grid = Image.new("RGB", (offsets[-1] + wide + 8, top + len(rows) * (high + 6) + 4), _PAPER)
    draw = ImageDraw.Draw(grid)
    if title:
        draw.text((8, 6), title, _INK, font)
    for offset, name in zip(offsets[:: group or columns], group_names, strict=False):
        draw.text(
            (offset, top - 24 - heading / 2),
            _cut(name, (group or columns) * (wide + 2), small),
            _INK,
            small,
            anchor="lm",
        )
    for offset, name in zip(offsets, column_names, strict=True):
        draw.text((offset + wide / 2, top - 12), name, _PALE, small, anchor="mm")
    for number, (row, name) in enumerate(zip(rows, row_names, strict=True)):
        y = top + number * (high + 6)
        note = notes[number] if notes else ""
        effect = effects[number] if effects else None
        middle = y + high / 2 - (7 if effect is not None else 0)
        draw.text((8, middle - (9 if note else 0)), name, _INK, font, anchor="lm")
        if note:
            draw.text((8, middle + 10), note, _PALE, small, anchor="lm")
        if effect is not None:
            longest = max(abs(each) for each in effects if each is not None) or 1.0
            bar, length = (8, middle + 22), left - 60
            draw.rectangle((*bar, bar[0] + length, bar[1] + 5), _TRACK)
            draw.rectangle((*bar, bar[0] + length * abs(effect) / longest, bar[1] + 5), _BAR)
            draw.text((bar[0] + length + 6, bar[1] + 2), f"{abs(effect):.2f}", _PALE, small, anchor="lm")
        for offset, pixels in zip(offsets, row, strict=True):
            grid.paste(to_image(pixels).resize((wide, high), Image.Resampling.NEAREST), (offset, y))
    return grid


def stack(grids: Sequence[Image.Image]) -> Image.Image:
    """Draw grids one below the other, on white."""
    if len(grids) == 1:
        return grids[0]
    whole = Image.new("RGB", (max(each.width for each in grids), sum(each.height for each in grids)), _PAPER)
    top = 0
    for each in grids:
        whole.paste(each, (0, top))
        top += each.height
    return whole


def _cut(text: str, room: float, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    """The text, or as much of it as there is room for."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"
