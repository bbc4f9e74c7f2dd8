"""Reading whole checkpoints out of a catalog as plain values, one at a time: a million directions never lie in memory."""

import json
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, select, type_coerce

from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog.content import (
    CheckpointData,
    CompositeData,
    DirectionData,
    LabelData,
    LayerData,
    SetData,
    SetFacts,
    label_data,
    label_document,
)
from eigenbank.registry.catalog.models import (
    CheckpointTable,
    DirectionTable,
    LabelTable,
    LayerTable,
    NameTable,
    RecipeTable,
    SetTable,
    ShippedTable,
    SpectrumTable,
    StrayTable,
)
from eigenbank.registry.catalog.sql import among, between, chosen, rows_of
from eigenbank.registry.catalog.stored import LABEL_COLUMNS, QUALITY_COLUMNS, Stored
from eigenbank.schemas import Label

_CHECKPOINTS = select(
    CheckpointTable.id,
    CheckpointTable.model_id,
    CheckpointTable.revision,
    CheckpointTable.denoiser,
    CheckpointTable.component,
    CheckpointTable.licence,
    CheckpointTable.path,
).order_by(CheckpointTable.model_id, CheckpointTable.revision)
_SET = select(
    SetTable.id,
    SetTable.location,
    SetTable.digest,
    type_coerce(SetTable.created, BigInteger),
    SetTable.builder,
    SetTable.licence,
    SetTable.repo,
    SetTable.commit,
).where(SetTable.checkpoint_id == bindparam("checkpoint"))
_LAYERS = (
    select(LayerTable.id, NameTable.name, LayerTable.kind, LayerTable.width, LayerTable.heads)
    .outerjoin(NameTable, NameTable.id == LayerTable.name_id)
    .where(LayerTable.set_id == bindparam("set"))
    .order_by(LayerTable.id)
)
_SPECTRA = (
    select(SpectrumTable.id, SpectrumTable.layer_id, RecipeTable.slug)
    .outerjoin(RecipeTable, RecipeTable.id == SpectrumTable.recipe_id)
    .where(among(SpectrumTable.layer_id, "layers"))
)
_DIRECTIONS = (
    select(
        DirectionTable.id,
        DirectionTable.spectrum_id,
        DirectionTable.rank,
        DirectionTable.eigenvalue,
        DirectionTable.share,
        DirectionTable.gap,
        DirectionTable.composite,
        *QUALITY_COLUMNS,
    )
    .where(among(DirectionTable.spectrum_id, "spectra"))
    .order_by(DirectionTable.id)
)
_LABELS = select(*LABEL_COLUMNS).where(among(LabelTable.direction_id, "numbers"))
_LABELS_IN_ROW = select(*LABEL_COLUMNS).where(between(LabelTable.direction_id))
_TEXT_AND_SOURCE = itemgetter(0, 1)
_STRAYS = select(StrayTable.direction, StrayTable.label).where(StrayTable.checkpoint_id == bindparam("checkpoint"))


def checkpoints(connection: Connection, progress: Progress = no_progress) -> Iterator[CheckpointData]:
    """Yield everything a catalog holds, by model id and revision. Labels are sorted by text and source."""
    stored = Stored()
    rows = connection.execute(_CHECKPOINTS).all()
    for done, row in enumerate(rows, 1):
        yield _checkpoint(connection, stored, row[0], row[1:])
        progress("models", done, len(rows))


def shipped(connection: Connection) -> list[str]:
    """Return the digests of the shipped sets that were offered to a catalog, sorted."""
    return sorted(connection.scalars(select(ShippedTable.digest)))


def checkpoint(connection: Connection, model_id: str, revision: str) -> CheckpointData | None:
    """Return what a catalog holds of one checkpoint."""
    statement = _CHECKPOINTS.where(CheckpointTable.model_id == model_id, CheckpointTable.revision == revision)
    row = connection.execute(statement).first()
    return None if row is None else _checkpoint(connection, Stored(), row[0], row[1:])


def _checkpoint(connection: Connection, stored: Stored, number: int, facts: Any) -> CheckpointData:
    row = connection.execute(_SET, {"checkpoint": number}).first()
    found = None
    if row is not None:
        layers: list[Any] = rows_of(connection, _LAYERS, {"set": row[0]})
        named = [LayerData(*layer[1:]) for layer in layers if layer[1] is not None]
        found = SetData(SetFacts(*row[1:]), named, [])
        for record in _read_sliders(connection, stored, row[0]):
            if isinstance(record, CompositeData):
                found.composites.append(record)
            else:
                found.directions.append(record)
    model_id, revision, denoiser, component, licence, path = facts
    strays = read_strays(connection, number)
    return CheckpointData(model_id, revision, denoiser, component, licence, path, found, strays)


def _read_sliders(connection: Connection, stored: Stored, set_id: int) -> Iterator[DirectionData | CompositeData]:
    layers = {row[0]: row[1] for row in connection.execute(_LAYERS, {"set": set_id})}
    spectra = {row[0]: (layers[row[1]], row[2]) for row in connection.execute(_SPECTRA, {"layers": list(layers)})}
    rows = rows_of(connection, _DIRECTIONS, {"spectra": list(spectra)})
    found = rows_of(connection, *chosen([row[0] for row in rows], _LABELS, _LABELS_IN_ROW)) if rows else []
    stored.learn(connection, found, [row[7:] for row in rows])
    labels: dict[int, list[LabelData]] = {}
    for row in found:
        labels.setdefault(row[0], []).append(stored.label(row))
    for number, spectrum, rank, eigenvalue, share, gap, composite, *measured in rows:
        own = sorted(labels.get(number, ()), key=_TEXT_AND_SOURCE)
        quality = stored.quality(measured)
        if composite is not None:
            yield CompositeData(composite, own, quality)
        else:
            yield DirectionData(*spectra[spectrum], rank, eigenvalue, share, gap, own, quality)


def labels_by_name(connection: Connection, set_id: int) -> dict[str, list[LabelData]]:
    """Return the labels of a set by the name of their direction or composite."""
    found = _read_sliders(connection, Stored(), set_id)
    return {record.name: list(record.labels) for record in found if record.labels}


def stray_text(label: LabelData) -> str:
    """Return a label as it is kept while it waits for its direction."""
    return json.dumps(label_document(label), ensure_ascii=False)


def read_strays(connection: Connection, checkpoint_id: int) -> dict[str, list[LabelData]]:
    """Return the labels that wait for their direction, by its name."""
    found: dict[str, list[LabelData]] = {}
    for name, text in connection.execute(_STRAYS, {"checkpoint": checkpoint_id}):
        found.setdefault(name, []).append(label_data(Label.model_validate_json(text)))
    return {name: sorted(labels, key=lambda label: label[:2]) for name, labels in sorted(found.items())}
