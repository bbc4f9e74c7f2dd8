"""Sliders files on disk: read within bounds, written whole or not at all."""

import os
from pathlib import Path

from eigenbank.registry.files import parse_json, read_bounded, replacing
from eigenbank.schemas import Sliders
from eigenbank.schemas.errors import SteerError, first_problem
from eigenbank.schemas.sliders import MAX_SLIDERS_BYTES

_MOST_VALUES = 50_000
NOTHING = "nothing was read"


def read_sliders(path: str | os.PathLike[str]) -> Sliders:
    """Read and validate a sliders file. Raises SteerError where it is missing, too large, malformed or of a newer format."""
    try:
        text = read_bounded(path, MAX_SLIDERS_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        message = (
            f"{os.fspath(path)!r} cannot be read as a sliders file ({getattr(error, 'strerror', None) or error}): expected "
            "a JSON file, as docs/steering.md shows it; for a label or an id give {'label': scale}"
        )
        raise SteerError(message) from error
    try:
        found = parse_json(text, values=_MOST_VALUES)
    except ValueError as error:
        problem = f"{path} is no sliders file, for it is not JSON ({error})"
        raise SteerError(problem, outcome=NOTHING) from error
    number = found.get("format") if isinstance(found, dict) else None
    if isinstance(number, int) and number > 1:
        problem = f"{path} is of format {number}, this eigenbank reads format 1"
        raise SteerError(problem, outcome=NOTHING, advice="Upgrade eigenbank")
    try:
        return Sliders.model_validate(found)
    except ValueError as error:
        problem = f"{path} is no valid sliders file: {first_problem(error)}"
        raise SteerError(problem, outcome=NOTHING, advice="docs/steering.md shows what one holds") from error


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
