"""What an edit asks for, one direction after another: a mapping of names to scales, or a sliders file."""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from eigenbank.loaders.load import bank_for, bank_of, find
from eigenbank.loaders.schedule import Scale
from eigenbank.loaders.target import Target
from eigenbank.registry.sets.direction_set import Composite, Direction, DirectionSet
from eigenbank.registry.sliders import read_sliders
from eigenbank.schemas import Sliders, Window
from eigenbank.schemas.errors import SteerError
from eigenbank.schemas.recipe import Site
from eigenbank.schemas.sliders import Guidance

# A mapping's key type is invariant: all are spelled out, so that a plain dict of words is one of them.
Scales = (
    Mapping[str, Scale]
    | Mapping[Direction, Scale]
    | Mapping[Composite, Scale]
    | Mapping[Direction | Composite, Scale]
    | Mapping[str | Direction, Scale]
    | Mapping[str | Direction | Composite, Scale]
)
Edits = Scales | Sliders | str | os.PathLike[str]
"""Directions with their scales, sliders, or the path of a sliders file."""

Look = Callable[[str], tuple[Direction | Composite, int]]
"""Finds a name: what has it, and the sign that makes it more of what was asked for."""


class OtherModelWarning(UserWarning):
    """Sliders made for one model are looked up among the directions of another, where a name may mean something else."""


@dataclass(frozen=True)
class Asked:
    """One direction of an edit. `weight` is its part of what was asked for, negative where the label is against the vector.
    None: not said here.
    """

    key: str
    direction: Direction
    weight: float
    scale: Scale
    window: Window | None = None
    guidance: Guidance | None = None
    site: Site | None = None


def opened(edits: Edits) -> Scales | Sliders:
    """The edit, read where it is the path of a sliders file. Raises SteerError for what is no edit."""
    if isinstance(edits, (str, os.PathLike)):
        return read_sliders(edits)
    if not isinstance(edits, (Mapping, Sliders)):
        message = (
            f"an edit is a mapping of directions to scales, as in steer(pipe, {{'label': 1.5}}), sliders, or a sliders file; "
            f"a {type(edits).__name__} is none of them"
        )
        raise SteerError(message)
    if isinstance(edits, Mapping) and not edits:
        message = "an edit needs at least one direction: steer(pipe, {'label': scale})"
        raise SteerError(message)
    return edits


def asked(target: Target, edits: Scales | Sliders, bank: DirectionSet | None) -> list[Asked]:
    """The directions of an edit. Words and ids are looked up in `bank`, else in the catalog's set for the model the
    sliders name, else in that which `bank_for` finds for the pipeline. Raises UnknownNameError or SteerError.
    """
    if isinstance(edits, Sliders):
        return _of_sliders(target, edits, bank)
    found: list[Asked] = []
    look: Look | None = None
    for key, scale in edits.items():
        if isinstance(key, Direction | Composite):
            found.extend(Asked(key.id, part, weight, scale) for part, weight in key.parts)
            continue
        if not isinstance(key, str):
            message = f"an edit's keys are labels, ids or directions, {key!r} is none of them"
            raise SteerError(message)
        if look is None:
            # What the catalog has, `find` can compare with what else it has.
            look = bank.find if bank is not None else partial(find, bank_for(target))
        named, polarity = look(key)
        found.extend(Asked(key, part, polarity * weight, scale) for part, weight in named.parts)
    return found


def _of_sliders(target: Target, sliders: Sliders, bank: DirectionSet | None) -> list[Asked]:
    look: Look
    if bank is None:
        look = partial(find, bank_for(target) if sliders.model is None else bank_of(sliders.model))
    else:
        look = bank.find
    if bank is not None and sliders.model not in (None, bank.model_id):
        text = (
            f"these sliders were made for {sliders.model}, and are looked up among the directions of {bank.model_id}: the "
            "same name may do something else there"
        )
        warnings.warn(text, OtherModelWarning, stacklevel=4)
    found: list[Asked] = []
    for slider in sliders.sliders:
        named, polarity = look(slider.key)
        found.extend(
            Asked(slider.key, part, polarity * weight, slider.scale, slider.window, slider.guidance, slider.site)
            for part, weight in named.parts
        )
    return found


def name_of(edits: Scales | Sliders) -> str:
    """An edit in words: its directions, with their scales where those are one number."""
    pairs: list[tuple[Any, Any]] = (
        [(slider.key, slider.scale) for slider in edits.sliders] if isinstance(edits, Sliders) else list(edits.items())
    )
    return ", ".join(
        f"{getattr(key, 'id', key)} {scale:+g}" if isinstance(scale, int | float) else str(getattr(key, "id", key))
        for key, scale in pairs
    )


def check_guidance(guidance: object) -> None:
    """Raise SteerError for what is no half of guidance."""
    if guidance not in get_args(Guidance):
        message = f"guidance={guidance!r}: expected 'both', 'conditional' or 'unconditional'"
        raise SteerError(message)
