"""The manifest of a direction set: what manifest.json holds."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, FailFast, Field, StringConstraints, model_validator

from eigenbank.schemas.common import (
    MAX_COMPOSITES,
    MAX_DIRECTIONS,
    MAX_LAYERS,
    MAX_SCALE,
    Component,
    Model,
    ModelId,
    Moment,
    Revision,
    Seeds,
    Sha256,
    Steps,
    Text,
)
from eigenbank.schemas.direction import CompositeRecord, DirectionRecord, Label, LoraRecord, SliderRecord
from eigenbank.schemas.layer import Layer

FORMAT: Literal[1] = 1


class Checkpoint(Model):
    """The checkpoint a set was computed from. `revision` is a commit of its repository; None for a local folder."""

    model_id: ModelId
    revision: Revision | None = None
    denoiser: Annotated[str, StringConstraints(pattern=r"^\w{1,100}$")]
    component: Component = ""
    licence: Text | None = None


class FileEntry(Model):
    """A file of the set, by its SHA-256 and size in bytes."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0, le=64 * 2**30)]


class DisplacementRecord(Model):
    """How displacements.safetensors was measured: by which image-text model, at ± which scale, on which seeds."""

    source: Annotated[str, StringConstraints(pattern=r"^[\w-]+(:[^\x00-\x1f\x7f]+)?$", max_length=300)]
    scale: Annotated[float, Field(gt=0, le=MAX_SCALE)]
    seeds: Seeds
    steps: Steps


FileName = Annotated[str, StringConstraints(pattern=r"^(previews/)?[\w][\w.\-]{0,200}$")]


def _first_bad_entry(found: object) -> object:
    """Stop at the first entry with other keys: pydantic would list all keys of all of them, in gigabytes."""
    for name, entry in found.items() if isinstance(found, dict) else ():
        if isinstance(entry, dict) and entry.keys() != {"sha256", "size"}:
            message = f"{str(name)[:200]!r} should have a sha256 and a size, and nothing else"
            raise ValueError(message)
    return found


class Manifest(Model):
    """Everything about a direction set but its vectors, which directions.safetensors holds as LAYER/BASIS."""

    format: Literal[1] = FORMAT
    checkpoint: Checkpoint
    created: Moment
    builder: Text
    licence: Text = "apache-2.0"
    # FailFast: a million bad entries would otherwise make millions of errors, and gigabytes.
    layers: Annotated[tuple[Layer, ...], FailFast()] = Field(max_length=MAX_LAYERS)
    directions: Annotated[tuple[DirectionRecord, ...], FailFast()] = Field(max_length=MAX_DIRECTIONS)
    composites: Annotated[tuple[CompositeRecord, ...], FailFast()] = Field(default=(), max_length=MAX_COMPOSITES)
    loras: Annotated[tuple[LoraRecord, ...], FailFast()] = Field(default=(), max_length=MAX_COMPOSITES)
    displacements: DisplacementRecord | None = None
    files: Annotated[dict[FileName, FileEntry], BeforeValidator(_first_bad_entry)] = Field(
        default={}, max_length=100_000
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        layers = {layer.name for layer in self.layers}
        if len(layers) != len(self.layers):
            message = "a layer is listed twice"
            raise ValueError(message)
        unknown = next((each.id for each in self.directions if each.layer not in layers), None)
        if unknown is not None:
            message = f"direction {unknown} is of a layer that is not listed"
            raise ValueError(message)
        ids = [record.id for record in self.sliders]
        directions = set(ids[: len(self.directions)])
        for composite in self.composites:
            missing = [part.direction for part in composite.parts if part.direction not in directions]
            if missing:
                message = f"{composite.id} is made of {missing[0]}, which is not listed"
                raise ValueError(message)
        if len(set(ids)) < len(ids):
            message = f"{Counter(ids).most_common(1)[0][0]} is listed twice"
            raise ValueError(message)
        return self

    @property
    def sliders(self) -> tuple[SliderRecord, ...]:
        """The records of all that can have a label: the directions, the composites made of them, and LoRAs."""
        return (*self.directions, *self.composites, *self.loras)

    def with_records(self, field: str, values: Mapping[str, object]) -> "Manifest":
        """Return a copy with one field of the given records (by id) replaced."""
        if not values:
            return self
        replaced = {
            kind: tuple(
                record.model_copy(update={field: values[record.id]}) if record.id in values else record
                for record in getattr(self, kind)
            )
            for kind in ("directions", "composites", "loras")
        }
        return self.model_copy(update=replaced)

    def with_files(self, contents: Mapping[str, bytes]) -> "Manifest":
        """Return a copy that lists files of these contents, by their names, beside or in place of others."""
        made = {
            name: FileEntry(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
            for name, content in contents.items()
        }
        return self.model_copy(update={"files": {**self.files, **made}})

    def with_more_labels(self, labels: Mapping[str, tuple[Label, ...]]) -> "Manifest":
        """Return a copy with more labels (by id), added behind those that the records have."""
        have = {record.id: record.labels for record in self.sliders if record.id in labels} if labels else {}
        return self.with_records("labels", {name: (*have[name], *labels[name]) for name in have})
