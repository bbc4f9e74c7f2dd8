"""The labels and qualities of directions that were read together, and what they stand for.

Most rows of a page are only looked at, and taking each column of each label from the database is half the time of reading
a large one: its labels come packed as one JSON text, and are unpacked when the first of them is asked for.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from sqlalchemy import Connection, func, select

from eigenbank.registry.catalog.content import EvidenceData, LabelData, QualityData, moment
from eigenbank.registry.catalog.models import LabelTable, ProtocolTable, SourceTable, TextTable
from eigenbank.registry.catalog.parts import number
from eigenbank.registry.catalog.sql import Packed, among, between, rows_of
from eigenbank.registry.catalog.stored import LABEL_COLUMNS, Stored
from eigenbank.schemas import Evidence, Label, Quality
from eigenbank.schemas.common import Model

M = TypeVar("M", bound=Model)

_LABELS = select(*LABEL_COLUMNS).where(among(LabelTable.direction_id, "numbers"))
_IN_ROW = select(*LABEL_COLUMNS).where(between(LabelTable.direction_id))
_PACKED = select(Packed(*LABEL_COLUMNS)).where(among(LabelTable.direction_id, "numbers"))
_PACKED_IN_ROW = select(Packed(*LABEL_COLUMNS)).where(between(LabelTable.direction_id))
_SIZES = select(*(select(func.max(table.id)).scalar_subquery() for table in (TextTable, SourceTable, ProtocolTable)))
_MANY, _FEW = 100, 4
"""The labels of so many directions stay packed, where there are up to so many texts, sources or protocols for each: reading
all of those costs less than unpacking what refers to them. Vocabularies are small, sources and protocols few.
"""


class Told:
    """What the labels and qualities of some directions stand for, as objects. They were validated when they were put in."""

    def __init__(self, connection: Connection, rows: Mapping[int, Any]) -> None:
        """Read the labels of directions, given as rows of `read.FACTS` by their number."""
        self._stored = Stored()
        self._packed: str | None = None
        self._rows: Sequence[Any] = ()
        first, last = min(rows), max(rows)
        in_row = last - first == len(rows) - 1
        values: dict[str, Any] = {"first": first, "last": last} if in_row else {"numbers": list(rows)}
        if len(rows) >= _MANY and max(size or 0 for size in rows_of(connection, _SIZES)[0]) <= _FEW * len(rows):
            self._packed = rows_of(connection, _PACKED_IN_ROW if in_row else _PACKED, values)[0][0]
            self._stored.learn_all(connection)
        else:
            self._rows = rows_of(connection, _IN_ROW if in_row else _LABELS, values)
            self._stored.learn(connection, self._rows, [row[7:9] for row in rows.values()])

    @cached_property
    def _labels(self) -> dict[int, list[Any]]:
        found: dict[int, list[Any]] = {}
        for row in self._rows if self._packed is None else json.loads(self._packed):
            found.setdefault(row[0], []).append(row)
        return found

    def raw(self, direction: int) -> Sequence[Any]:
        """Return the labels of a direction as they are stored: rows of LABEL_COLUMNS."""
        return self._labels.get(direction, ())

    def _ordered(self, direction: int) -> list[Any]:
        return sorted(self.raw(direction), key=self._order)

    def _order(self, raw: Any) -> tuple[bool, int, str, str]:
        return raw[4] is None, -(raw[4] or 0), self._stored.texts[raw[1]], self._stored.sources[raw[2]]

    def texts(self, direction: int) -> list[str]:
        """Return the texts of a direction's labels, the most confident first, those without a confidence last."""
        return [self._stored.texts[raw[1]] for raw in self._ordered(direction)]

    def confidence(self, direction: int) -> float | None:
        """Return the highest confidence of a direction's labels; None where none says one."""
        return number(max((raw[4] for raw in self.raw(direction) if raw[4] is not None), default=None))

    def labels(self, direction: int) -> tuple[Label, ...]:
        """Return a direction's labels, in the same order as their texts."""
        return tuple(map(self._label, self._ordered(direction)))

    def _label(self, raw: Any) -> Label:
        found = self._stored.label(raw)
        values: dict[str, Any] = dict(zip(LabelData._fields, found, strict=True))
        values["created"] = moment(found.created)
        if found.evidence is not None:
            values["evidence"] = _made(Evidence, dict(zip(EvidenceData._fields, found.evidence, strict=True)))
        return _made(Label, values)

    def quality(self, raw: Sequence[Any]) -> Quality | None:
        """Return the quality that a stored one stands for."""
        found = self._stored.quality(raw)
        return None if found is None else _made(Quality, dict(zip(QualityData._fields, found, strict=True)))


def _made(model: type[M], values: dict[str, Any]) -> M:
    """Return a model of values that were validated when they were put in. A quarter of the time of `model_construct`,
    which looks for defaults and aliases: every field is given here. Models are frozen, and so share the set of their fields.
    """
    made = model.__new__(model)
    put = object.__setattr__
    put(made, "__dict__", values)
    put(made, "__pydantic_fields_set__", _fields(model))
    put(made, "__pydantic_extra__", None)
    put(made, "__pydantic_private__", None)
    return made


@lru_cache(maxsize=16)
def _fields(model: type[Model]) -> set[str]:
    return set(model.model_fields)
