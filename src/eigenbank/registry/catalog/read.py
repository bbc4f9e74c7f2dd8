"""Reading rows: sets, names, and directions with their labels. Every function works in the caller's transaction."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.orm import aliased

from eigenbank.registry.catalog.models import (
    CheckpointTable,
    DirectionTable,
    LabelTable,
    LayerTable,
    ProtocolTable,
    RecipeTable,
    SetTable,
    SourceTable,
    SpectrumTable,
    TextTable,
)
from eigenbank.registry.catalog.rows import DirectionName, DirectionRow, SetRow
from eigenbank.registry.catalog.sql import among
from eigenbank.schemas import Evidence, Label

_RUNNER_UP = aliased(TextTable)

_SETS = select(
    CheckpointTable.model_id,
    CheckpointTable.revision,
    SetTable.location,
    SetTable.digest,
    CheckpointTable.path,
    SetTable.created,
    SetTable.directions,
    SetTable.labels,
    SetTable.repo,
    SetTable.commit,
    CheckpointTable.denoiser,
    CheckpointTable.licence,
    SetTable.builder,
).join(CheckpointTable, CheckpointTable.id == SetTable.checkpoint_id)

_DIRECTIONS = (
    select(
        DirectionTable.id,
        CheckpointTable.model_id,
        CheckpointTable.revision,
        LayerTable.name,
        LayerTable.kind,
        LayerTable.width,
        RecipeTable.slug,
        DirectionTable.rank,
        DirectionTable.eigenvalue,
        DirectionTable.share,
        DirectionTable.gap,
        SetTable.location,
    )
    .join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
    .join(RecipeTable, RecipeTable.id == SpectrumTable.recipe_id)
    .join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
    .join(SetTable, SetTable.id == LayerTable.set_id)
    .join(CheckpointTable, CheckpointTable.id == SetTable.checkpoint_id)
)

_LABELS = (
    select(
        LabelTable.direction_id,
        TextTable.text,
        SourceTable.name,
        LabelTable.polarity,
        LabelTable.confidence,
        LabelTable.created,
        LabelTable.note,
        LabelTable.effect,
        LabelTable.selectivity,
        LabelTable.consistency,
        LabelTable.asymmetry,
        _RUNNER_UP.text.label("runner_up"),
        LabelTable.runner_up_effect,
        ProtocolTable.scale,
        ProtocolTable.steps,
        ProtocolTable.seeds,
    )
    .join(TextTable, TextTable.id == LabelTable.text_id)
    .join(SourceTable, SourceTable.id == LabelTable.source_id)
    .outerjoin(ProtocolTable, ProtocolTable.id == LabelTable.protocol_id)
    .outerjoin(_RUNNER_UP, _RUNNER_UP.id == LabelTable.runner_up_id)
)


def _set(row: Any) -> SetRow:
    model_id, revision, *rest = row
    return SetRow(model_id, revision or None, *rest)


def sets(connection: Connection, *conditions: Any) -> list[SetRow]:
    """Return the sets that meet the conditions, by model id, the newest first within one."""
    statement = _SETS.where(*conditions).order_by(CheckpointTable.model_id, SetTable.created.desc(), SetTable.id.desc())
    return [_set(row) for row in connection.execute(statement)]


def newest(connection: Connection, *conditions: Any) -> SetRow | None:
    """Return the newest of the sets that meet the conditions."""
    statement = _SETS.where(*conditions).order_by(SetTable.created.desc(), SetTable.id.desc()).limit(1)
    row = connection.execute(statement).first()
    return None if row is None else _set(row)


def strings(connection: Connection, statement: Any) -> list[str]:
    """Return the first column of a statement's rows."""
    return [row[0] for row in connection.execute(statement)]


def newest_set_id(model_id: str) -> Any:
    """Select the number of a model's newest set."""
    return (
        select(SetTable.id)
        .join(CheckpointTable, CheckpointTable.id == SetTable.checkpoint_id)
        .where(CheckpointTable.model_id == model_id)
        .order_by(SetTable.created.desc(), SetTable.id.desc())
        .limit(1)
    )


def direction_id(connection: Connection, name: DirectionName) -> int | None:
    """Return the number of a direction in the newest set of its model."""
    return connection.execute(
        select(DirectionTable.id)
        .join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
        .join(RecipeTable, RecipeTable.id == SpectrumTable.recipe_id)
        .join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
        .where(
            LayerTable.set_id == newest_set_id(name.model_id).scalar_subquery(),
            LayerTable.name == name.layer,
            RecipeTable.slug == name.recipe,
            DirectionTable.rank == name.rank,
        )
    ).scalar()


def directions(connection: Connection, numbers: Sequence[int]) -> list[DirectionRow]:
    """Return directions with their labels, in the order of the numbers given."""
    labels = labels_of(connection, numbers)
    found = {}
    for row in connection.execute(_DIRECTIONS.where(among(DirectionTable.id, numbers))):
        number, model_id, revision, layer, kind, width, recipe, rank, eigenvalue, share, gap, location = row
        found[number] = DirectionRow(
            model_id=model_id,
            revision=revision or None,
            layer=layer,
            kind=kind,
            width=width,
            recipe=recipe,
            rank=rank,
            eigenvalue=eigenvalue,
            share=share,
            gap=gap,
            labels=tuple(labels[number]),
            location=location,
        )
    return [found[number] for number in numbers]


def labels_of(connection: Connection, numbers: Iterable[int]) -> dict[int, list[Label]]:
    """Return the labels of directions by their number, the most confident first, those without a confidence last."""
    found: dict[int, list[Label]] = {number: [] for number in numbers}
    for row in connection.execute(_LABELS.where(among(LabelTable.direction_id, found))):
        found[row[0]].append(_label(row))
    for labels in found.values():
        labels.sort(key=lambda label: (label.confidence is None, -(label.confidence or 0), label.text, label.source))
    return found


def _label(row: Any) -> Label:
    evidence = None
    if row.scale is not None:
        evidence = Evidence(
            effect=row.effect,
            selectivity=row.selectivity,
            consistency=row.consistency,
            asymmetry=row.asymmetry,
            runner_up=row.runner_up,
            runner_up_effect=row.runner_up_effect,
            scale=row.scale,
            seeds=tuple(json.loads(row.seeds)),
            steps=row.steps,
        )
    return Label(
        text=row.text,
        polarity=row.polarity,
        confidence=row.confidence,
        source=row.name,
        evidence=evidence,
        note=row.note,
        created=row.created,
    )
