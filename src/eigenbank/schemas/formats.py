"""The files eigenbank writes and others may read, by name: each a pydantic model, and so a JSON Schema."""

from typing import Any

from eigenbank.schemas.common import Model
from eigenbank.schemas.manifest import Manifest
from eigenbank.schemas.plan import Lock, Plan
from eigenbank.schemas.sliders import Sliders

FORMATS: dict[str, tuple[type[Model], str]] = {
    "manifest": (Manifest, "A direction set's `manifest.json`: everything about the set but its vectors"),
    "sliders": (Sliders, "A sliders file: an edit, as `--save-sliders` writes it and `--sliders` reads it"),
    "plan": (Plan, "A plan file (TOML): the checkpoints to build and what is done with each"),
    "lock": (Lock, "A plan's lock file (TOML): the commit each checkpoint is built at"),
}
"""Name → model, and what the file is. A format's number is its model's field `format`."""


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a format. Raises KeyError for one that is not in FORMATS."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **FORMATS[name][0].model_json_schema()}
