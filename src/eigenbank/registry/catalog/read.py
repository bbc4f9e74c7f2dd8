"""Reading rows: sets, names, and directions with their labels. Every function works in the caller's transaction.

The statements are made once: SQLAlchemy then finds their compiled form without looking at them again.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, select

from eigenbank.registry.catalog.content import moment
from eigenbank.registry.catalog.models import (
    CheckpointTable,
    DirectionTable,
    LabelTable,
    LayerTable,
    NameTable,
    RecipeTable,
    SetTable,
    SpectrumTable,
)
from eigenbank.registry.catalog.rows import CompositeName, DirectionName, DirectionRow, SetRow
from eigenbank.registry.catalog.sql import among, between, rows_of
from eigenbank.registry.catalog.stored import LABEL_COLUMNS, QUALITY_COLUMNS, Stored
from eigenbank.schemas import Evidence, Label, Quality
from eigenbank.schemas.common import Model

M = TypeVar("M", bound=Model)

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
    *QUALITY_COLUMNS,
)
_DIRECTIONS = select(*FACTS).where(among(DirectionTable.id, "numbers"))
_DIRECTIONS_IN_ROW = select(*FACTS).where(between(DirectionTable.id))

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

_LABELS = select(*LABEL_COLUMNS).where(among(LabelTable.direction_id, "numbers"))
_LABELS_IN_ROW = select(*LABEL_COLUMNS).where(between(LabelTable.direction_id))


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


def directions(connection: Connection, numbers: Sequence[int]) -> list[DirectionRow]:
    """Return directions with their labels, in the order of the numbers given."""
    if not numbers:
        return []
    rows = {row[0]: row for row in _of(connection, numbers, _DIRECTIONS, _DIRECTIONS_IN_ROW)}
    wanted = list({row[1] for row in rows.values()})
    spectra = {row[0]: row for row in rows_of(connection, SPECTRA, {"numbers": wanted})}
    labels = _of(connection, numbers, _LABELS, _LABELS_IN_ROW)
    stored = Stored()
    stored.learn(connection, labels, [row[7:9] for row in rows.values()])
    told, raw = Told(stored), _by_direction(labels)
    found = []
    for number in numbers:
        facts = rows[number]
        found.append(DirectionRow(spectra[facts[1]], facts, raw.get(number, ()), told))
    return found


class Told:
    """What stored labels and qualities stand for, as objects. They were validated when they were put in."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    def _order(self, raw: Any) -> tuple[bool, int, str, str]:
        return raw[4] is None, -(raw[4] or 0), self._stored.texts[raw[1]], self._stored.sources[raw[2]]

    def texts(self, raw: Sequence[Any]) -> list[str]:
        """Return the texts of stored labels, the most confident first, those without a confidence last."""
        return [self._stored.texts[one[1]] for one in sorted(raw, key=self._order)]

    def labels(self, raw: Sequence[Any]) -> tuple[Label, ...]:
        """Return the labels that stored ones stand for, in the same order."""
        return tuple(map(self._label, sorted(raw, key=self._order)))

    def _label(self, raw: Any) -> Label:
        found = self._stored.label(raw)
        evidence = None if found.evidence is None else _made(Evidence, found.evidence._asdict())
        return _made(Label, found._asdict() | {"created": moment(found.created), "evidence": evidence})

    def quality(self, raw: Sequence[Any]) -> Quality | None:
        """Return the quality that a stored one stands for."""
        found = self._stored.quality(raw)
        return None if found is None else _made(Quality, found._asdict())


def _made(model: type[M], values: dict[str, Any]) -> M:
    """Return a model of values that were validated when they were put in. A quarter of the time of `model_construct`,
    which looks for defaults and aliases: every field is given here.
    """
    made = model.__new__(model)
    put = object.__setattr__
    put(made, "__dict__", values)
    put(made, "__pydantic_fields_set__", set(values))
    put(made, "__pydantic_extra__", None)
    put(made, "__pydantic_private__", None)
    return made


def _of(connection: Connection, numbers: Sequence[int], statement: Any, in_row: Any) -> list[Any]:
    """Return the rows of directions; `in_row` is the statement for those that follow one another, as a set's do."""
    first, last = min(numbers), max(numbers)
    if last - first == len(numbers) - 1:
        return rows_of(connection, in_row, {"first": first, "last": last})
    return rows_of(connection, statement, {"numbers": numbers})


def _by_direction(rows: Sequence[Any]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for row in rows:
        number = row[0]
        if number in found:
            found[number].append(row)
        else:
            found[number] = [row]
    return found
