"""Reading rows: sets, names, and directions with their labels. Every function works in the caller's transaction.

The statements are made once: SQLAlchemy then finds their compiled form without looking at them again.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Connection, bindparam, select, type_coerce

from eigenbank.registry.catalog.models import (
    EPOCH,
    MICROSECOND,
    CheckpointTable,
    DirectionTable,
    LabelTable,
    LayerTable,
    NameTable,
    ProtocolTable,
    RecipeTable,
    SetTable,
    SourceTable,
    SpectrumTable,
    TextTable,
)
from eigenbank.registry.catalog.rows import DirectionName, DirectionRow, SetRow
from eigenbank.registry.catalog.sql import among, between, rows_of
from eigenbank.schemas import Evidence, Label
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

_FACTS = select(
    DirectionTable.id,
    DirectionTable.spectrum_id,
    DirectionTable.rank,
    DirectionTable.eigenvalue,
    DirectionTable.share,
    DirectionTable.gap,
)
_DIRECTIONS = _FACTS.where(among(DirectionTable.id, "numbers"))
_DIRECTIONS_IN_ROW = _FACTS.where(between(DirectionTable.id))

_SPECTRA = (
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
    .join(RecipeTable, RecipeTable.id == SpectrumTable.recipe_id)
    .join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
    .join(NameTable, NameTable.id == LayerTable.name_id)
    .join(SetTable, SetTable.id == LayerTable.set_id)
    .join(CheckpointTable, CheckpointTable.id == SetTable.checkpoint_id)
    .where(among(SpectrumTable.id, "numbers"))
)

LABEL_COLUMNS = (
    LabelTable.direction_id,
    LabelTable.text_id,
    LabelTable.source_id,
    LabelTable.polarity,
    LabelTable.confidence,
    type_coerce(LabelTable.created, BigInteger),
    LabelTable.note,
    LabelTable.protocol_id,
    LabelTable.effect,
    LabelTable.selectivity,
    LabelTable.consistency,
    LabelTable.asymmetry,
    LabelTable.runner_up_id,
    LabelTable.runner_up_effect,
    LabelTable.null_effect,
)
"""A label as it is stored: what `Labels` is fed with."""

_LABELS = select(*LABEL_COLUMNS).where(among(LabelTable.direction_id, "numbers"))
_LABELS_IN_ROW = select(*LABEL_COLUMNS).where(between(LabelTable.direction_id))
_TEXTS = select(TextTable.id, TextTable.text).where(among(TextTable.id, "numbers"))
_SOURCES = select(SourceTable.id, SourceTable.name).where(among(SourceTable.id, "numbers"))
_PROTOCOLS = select(ProtocolTable.id, ProtocolTable.scale, ProtocolTable.steps, ProtocolTable.seeds).where(
    among(ProtocolTable.id, "numbers")
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


def direction_id(connection: Connection, name: DirectionName) -> int | None:
    """Return the number of a direction in the newest set of its model."""
    found: int | None = connection.execute(
        _BY_NAME, {"model_id": name.model_id, "layer": name.layer, "recipe": name.recipe, "rank": name.rank}
    ).scalar()
    return found


def directions(connection: Connection, numbers: Sequence[int]) -> list[DirectionRow]:
    """Return directions with their labels, in the order of the numbers given."""
    if not numbers:
        return []
    rows = {row[0]: row for row in _of(connection, numbers, _DIRECTIONS, _DIRECTIONS_IN_ROW)}
    wanted = list({row[1] for row in rows.values()})
    spectra = {row[0]: row for row in rows_of(connection, _SPECTRA, {"numbers": wanted})}
    raw, source = raw_labels(connection, numbers)
    found = []
    for number in numbers:
        _, spectrum, rank, eigenvalue, share, gap = rows[number]
        _, model_id, revision, layer, kind, width, recipe, location = spectra[spectrum]
        own = raw.get(number, ())
        row = DirectionRow(
            model_id, revision or None, layer, kind, width, recipe, rank, eigenvalue, share, gap, location, own, source
        )
        found.append(row)
    return found


class Labels:
    """Turns stored labels into `Label` objects. The strings they refer to are read beforehand."""

    def __init__(self, connection: Connection, rows: Sequence[Any]) -> None:
        self._texts = _names(connection, _TEXTS, {row[1] for row in rows} | {row[12] for row in rows})
        self._sources = _names(connection, _SOURCES, {row[2] for row in rows})
        protocols = [number for number in {row[7] for row in rows} if number is not None]
        self._protocols: dict[int, tuple[float, int, tuple[int, ...]]] = {}
        if protocols:
            for number, scale, steps, seeds in connection.execute(_PROTOCOLS, {"numbers": protocols}):
                self._protocols[number] = (scale, steps, tuple(json.loads(seeds)))

    def _order(self, raw: Any) -> tuple[bool, float, str, str]:
        return raw[4] is None, -(raw[4] or 0.0), self._texts[raw[1]], self._sources[raw[2]]

    def texts(self, raw: Sequence[Any]) -> list[str]:
        """Return the texts of stored labels, the most confident first, those without a confidence last."""
        return [self._texts[one[1]] for one in sorted(raw, key=self._order)]

    def labels(self, raw: Sequence[Any]) -> tuple[Label, ...]:
        """Return the labels that stored ones stand for, in the same order. They were validated when they were put in."""
        return tuple(map(self._label, sorted(raw, key=self._order)))

    def _label(self, raw: Any) -> Label:
        evidence = None
        if raw[7] is not None:
            scale, steps, seeds = self._protocols[raw[7]]
            evidence = _made(
                Evidence,
                {
                    "effect": raw[8],
                    "selectivity": raw[9],
                    "consistency": raw[10],
                    "asymmetry": raw[11],
                    "runner_up": None if raw[12] is None else self._texts[raw[12]],
                    "runner_up_effect": raw[13],
                    "null": raw[14],
                    "scale": scale,
                    "seeds": seeds,
                    "steps": steps,
                },
            )
        return _made(
            Label,
            {
                "text": self._texts[raw[1]],
                "polarity": raw[3],
                "confidence": raw[4],
                "source": self._sources[raw[2]],
                "evidence": evidence,
                "note": raw[6],
                "created": moment(raw[5]),
            },
        )


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


def moment(microseconds: int) -> datetime:
    """Return the point in time that is so many microseconds after 1970, in UTC."""
    return EPOCH + MICROSECOND * microseconds


def _names(connection: Connection, statement: Any, numbers: Iterable[int | None]) -> dict[int, str]:
    wanted = [number for number in numbers if number is not None]
    return dict(rows_of(connection, statement, {"numbers": wanted})) if wanted else {}


def _of(connection: Connection, numbers: Sequence[int], statement: Any, in_row: Any) -> list[Any]:
    """Return the rows of directions; `in_row` is the statement for those that follow one another, as a set's do."""
    first, last = min(numbers), max(numbers)
    if last - first == len(numbers) - 1:
        return rows_of(connection, in_row, {"first": first, "last": last})
    return rows_of(connection, statement, {"numbers": numbers})


def raw_labels(connection: Connection, numbers: Sequence[int]) -> tuple[dict[int, list[Any]], Labels]:
    """Return the stored labels of directions by their number, and what makes labels of them."""
    rows = _of(connection, numbers, _LABELS, _LABELS_IN_ROW)
    found: dict[int, list[Any]] = {}
    for row in rows:
        number = row[0]
        if number in found:
            found[number].append(row)
        else:
            found[number] = [row]
    return found, Labels(connection, rows)
