"""Reading rows: sets, names, and directions with their labels. Every function works in the caller's transaction.

The statements are made once: SQLAlchemy then finds their compiled form without looking at them again.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select

from eigenbank.registry.catalog.models import (
    CheckpointTable,
    DirectionTable,
    LayerTable,
    NameTable,
    RecipeTable,
    SetTable,
    SpectrumTable,
)
from eigenbank.registry.catalog.rows import CompositeName, DirectionName, DirectionRow, SetRow
from eigenbank.registry.catalog.sql import among, between, chosen, rows_of
from eigenbank.registry.catalog.stored import QUALITY_COLUMNS, understood
from eigenbank.registry.catalog.told import packed, told

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

FACTS = (
    DirectionTable.id,
    DirectionTable.spectrum_id,
    DirectionTable.rank,
    DirectionTable.eigenvalue,
    DirectionTable.share,
    DirectionTable.gap,
    DirectionTable.composite,
)
_BARE, _WITH_QUALITY = (
    (select(*columns).where(among(DirectionTable.id, "numbers")), select(*columns).where(between(DirectionTable.id)))
    for columns in (FACTS, (*FACTS, DirectionTable.id, *QUALITY_COLUMNS))
)

SPECTRA = (
    select(
        SpectrumTable.id,
        CheckpointTable.model_id,
        CheckpointTable.revision,
        NameTable.name,
        LayerTable.kind,
        LayerTable.width,
        RecipeTable.slug,
        SetTable.location,
    )
    .outerjoin(RecipeTable, RecipeTable.id == SpectrumTable.recipe_id)
    .join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
    .outerjoin(NameTable, NameTable.id == LayerTable.name_id)
    .join(SetTable, SetTable.id == LayerTable.set_id)
    .join(CheckpointTable, CheckpointTable.id == SetTable.checkpoint_id)
    .where(among(SpectrumTable.id, "numbers"))
)


def _set(row: Any) -> SetRow:
    model_id, revision, *rest = row
    return SetRow(model_id, revision or None, *rest)


@understood()
def sets(connection: Connection, *conditions: Any) -> list[SetRow]:
    """Return the sets that meet the conditions, by model id, the newest first within one."""
    statement = _SETS.where(*conditions).order_by(CheckpointTable.model_id, SetTable.created.desc(), SetTable.id.desc())
    return [_set(row) for row in connection.execute(statement)]


@understood()
def newest_first(connection: Connection, *conditions: Any, limit: int | None = None) -> list[SetRow]:
    """Return the sets that meet the conditions, the newest first."""
    statement = _SETS.where(*conditions).order_by(SetTable.created.desc(), SetTable.id.desc()).limit(limit)
    return [_set(row) for row in connection.execute(statement)]


@understood()
def newest(connection: Connection, *conditions: Any) -> SetRow | None:
    """Return the newest of the sets that meet the conditions."""
    return next(iter(newest_first(connection, *conditions, limit=1)), None)


def strings(connection: Connection, statement: Any) -> list[str]:
    """Return the first column of a statement's rows."""
    return [row[0] for row in connection.execute(statement)]


def _newest_set_id(model_id: Any) -> Any:
    return (
        select(SetTable.id)
        .join(CheckpointTable, CheckpointTable.id == SetTable.checkpoint_id)
        .where(CheckpointTable.model_id == model_id)
        .order_by(SetTable.created.desc(), SetTable.id.desc())
        .limit(1)
    )


def newest_set_id(model_id: str) -> Any:
    """Select the number of a model's newest set."""
    return _newest_set_id(model_id)


_BY_NAME = (
    select(DirectionTable.id)
    .join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
    .join(RecipeTable, RecipeTable.id == SpectrumTable.recipe_id)
    .join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
    .join(NameTable, NameTable.id == LayerTable.name_id)
    .where(
        LayerTable.set_id == _newest_set_id(bindparam("model_id")).scalar_subquery(),
        NameTable.name == bindparam("layer"),
        RecipeTable.slug == bindparam("recipe"),
        DirectionTable.rank == bindparam("rank"),
    )
)


_COMPOSITES = (
    select(DirectionTable.id, DirectionTable.composite)
    .join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
    .join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
    .where(
        LayerTable.set_id == _newest_set_id(bindparam("model_id")).scalar_subquery(),
        LayerTable.name_id.is_(None),
    )
)
_BY_COMPOSITE = _COMPOSITES.where(DirectionTable.composite == bindparam("composite"))


def composite_names(connection: Connection, model_id: str) -> list[str]:
    """Return the names of the composites in the newest set of a model."""
    return [row[1] for row in rows_of(connection, _COMPOSITES, {"model_id": model_id})]


def direction_id(connection: Connection, name: DirectionName | CompositeName) -> int | None:
    """Return the number of a direction or composite in the newest set of its model."""
    found: int | None
    if isinstance(name, CompositeName):
        values = {"model_id": name.model_id, "composite": name.composite}
        found = connection.execute(_BY_COMPOSITE, values).scalar()
        return found
    found = connection.execute(
        _BY_NAME, {"model_id": name.model_id, "layer": name.layer, "recipe": name.recipe, "rank": name.rank}
    ).scalar()
    return found


@understood()
def directions(connection: Connection, numbers: Sequence[int]) -> list[DirectionRow]:
    """Return directions with their labels, in the order of the numbers given."""
    if not numbers:
        return []
    known = packed(connection, numbers)
    rows = rows_of(connection, *chosen(numbers, *(_WITH_QUALITY if known is None else _BARE)))
    if known is None:
        known = told(connection, [row[len(FACTS) :] for row in rows])
    wanted = list({row[1] for row in rows})
    spectra = {row[0]: row for row in rows_of(connection, SPECTRA, {"numbers": wanted})}
    made = {row[0]: DirectionRow(spectra[row[1]], row, known) for row in rows}
    return [made[number] for number in numbers]
