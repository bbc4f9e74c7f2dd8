"""Sliders files on disk: read within bounds, written whole or not at all."""

import os
from pathlib import Path

from eigenbank.registry.files import parse_json, read_bounded, replacing
from eigenbank.schemas import Sliders
from eigenbank.schemas.errors import SteerError, first_problem
from eigenbank.schemas.sliders import MAX_SLIDERS_BYTES

_MOST_VALUES = 50_000


def read_sliders(path: str | os.PathLike[str]) -> Sliders:
    """Read and validate a sliders file. Raises SteerError where it is missing, too large, malformed or of a newer format."""
    try:
        text = read_bounded(path, MAX_SLIDERS_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        message = (
            f"{os.fspath(path)!r} cannot be read as a sliders file ({getattr(error, 'strerror', None) or error}): expected "
            "a JSON file as steer --save-sliders writes it; for a label or an id give {'label': scale}"
        )
        raise SteerError(message) from error
    try:
        found = parse_json(text, values=_MOST_VALUES)
    except ValueError as error:
        message = f"{path} is no sliders file, for it is not JSON ({error}): nothing was read"
        raise SteerError(message) from error
    number = found.get("format") if isinstance(found, dict) else None
    if isinstance(number, int) and number > 1:
        message = f"{path} is of format {number}, this eigenbank reads format 1: nothing was read. Upgrade eigenbank"
        raise SteerError(message)
    try:
        return Sliders.model_validate(found)
    except ValueError as error:
        message = f"{path} is no valid sliders file: {first_problem(error)}. Nothing was read; docs/steering.md shows what one holds"
        raise SteerError(message) from error


def write_sliders(path: str | os.PathLike[str], sliders: Sliders) -> None:
    """Write a sliders file, which appears whole or not at all. Raises SteerError where it cannot be written."""
    text = sliders.model_dump_json(indent=2, exclude_none=True) + "\n"
    try:
        with replacing(Path(path)) as work:
            work.write_text(text, encoding="utf-8")
    except OSError as error:
        message = (
            f"{path} cannot be written ({error.strerror or error}): the sliders were not saved. Choose another name"
        )
        raise SteerError(message) from error
