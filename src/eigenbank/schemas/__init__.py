"""The data eigenbank reads and writes, as pydantic models, and the errors. Imports nothing of the package above it."""

from eigenbank.schemas.direction import (
    CompositeRecord,
    DirectionRecord,
    Evidence,
    Label,
    LoraRecord,
    Preview,
    Quality,
    SliderRecord,
    Weighted,
)
from eigenbank.schemas.layer import HookPoint, Layer, Norm, Part, TokenCount, TokenLength
from eigenbank.schemas.manifest import Checkpoint, DisplacementRecord, FileEntry, Manifest
from eigenbank.schemas.recipe import Recipe, Window
from eigenbank.schemas.sliders import Sliders, SliderSetting

__all__ = [
    "Checkpoint",
    "CompositeRecord",
    "DirectionRecord",
    "DisplacementRecord",
    "Evidence",
    "FileEntry",
    "HookPoint",
    "Label",
    "Layer",
    "LoraRecord",
    "Manifest",
    "Norm",
    "Part",
    "Preview",
    "Quality",
    "Recipe",
    "SliderRecord",
    "SliderSetting",
    "Sliders",
    "TokenCount",
    "TokenLength",
    "Weighted",
    "Window",
]
