"""A sliders file: an edit as a small JSON document, written by the playground and the command line, read by `steer`."""

from collections import Counter
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from eigenbank.schemas.common import MAX_SCALE, Model, ModelId
from eigenbank.schemas.printable import PRINTABLE
from eigenbank.schemas.recipe import SITES, Branch, Site, Window

MAX_SLIDERS = 1_000
"""Most sliders of one file."""
MAX_SLIDERS_BYTES = 2**20
"""Largest sliders file read."""


def _in_full(site: object) -> object:
    return SITES.get(site, site) if isinstance(site, str) else site


class SliderSetting(Model):
    """One direction and how far it is pushed. `key` is a label or a direction's id, `scale` counts token lengths.

    What is None is as the direction's recipe has it: the `window` of the run and the `site`; `branch` None is both, or what a composite is made for.
    A site may be given by its short name (`input`, `projection`, `output`), and is written in full.
    """

    key: Annotated[str, StringConstraints(min_length=1, max_length=1_000, pattern=PRINTABLE)]
    scale: Annotated[float, Field(ge=-MAX_SCALE, le=MAX_SCALE)]
    window: Window | None = None
    branch: Branch | None = None
    site: Annotated[Site | None, BeforeValidator(_in_full)] = None


class Sliders(Model):
    """An edit: directions and their scales. `model` is the checkpoint whose labels and ids the keys are, None if unknown.

    `Sliders.model_json_schema()` is the file's JSON Schema, `registry.sliders` reads and writes it.
    """

    format: Literal[1] = 1
    model: ModelId | None = None
    sliders: tuple[SliderSetting, ...] = Field(min_length=1, max_length=MAX_SLIDERS)

    @model_validator(mode="after")
    def _each_once(self) -> "Sliders":
        key, times = Counter(slider.key for slider in self.sliders).most_common(1)[0]
        if times > 1:
            message = f"the slider {key!r} is listed twice"
            raise ValueError(message)
        return self
