"""The previews of a set, each checked against the manifest before a copy of it goes into the site."""

from dataclasses import dataclass
from pathlib import Path

from eigenbank.registry.sets.card import preview_name
from eigenbank.registry.sets.previews import opened_preview, read_preview
from eigenbank.schemas import CompositeRecord, DirectionRecord, Manifest
from eigenbank.schemas.errors import SetError


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
    if record.preview is None or name not in manifest.files:
        return None
    data = read_preview(folder, manifest, name)
    with opened_preview(data, name) as image:
        width, height = image.size
    columns, rows = len(record.preview.scales), len(record.preview.seeds)
    if width % columns or height % rows:
        message = f"{name} is {width}×{height} pixels, no grid of {columns}×{rows} equal cells"
        raise SetError(message)
    return Cell(width // columns, height // rows), data
