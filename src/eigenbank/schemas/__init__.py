"""The data eigenbank reads and writes, as pydantic models, and the errors. Imports nothing of the package above it."""

from eigenbank.schemas.direction import (
    CompositeRecord,
    DirectionRecord,
    Evidence,
    Label,
    Preview,
    Quality,
    Weighted,
)
from eigenbank.schemas.layer import Count, Layer, Norm, Part, Place, TokenLength
from eigenbank.schemas.manifest import Checkpoint, FileEntry, Manifest
from eigenbank.schemas.recipe import Recipe, Window
from eigenbank.schemas.sliders import Sliders, SliderSetting

__all__ = [
    "Checkpoint",
    "CompositeRecord",
    "Count",
    "DirectionRecord",
    "Evidence",
    "FileEntry",
    "Label",
    "Layer",
    "Manifest",
    "Norm",
    "Part",
    "Place",
    "Preview",
    "Quality",
    "Recipe",
    "SliderSetting",
    "Sliders",
    "TokenLength",
    "Weighted",
    "Window",
]
