"""The labels and qualities of directions that were read together, and what they stand for. What stands for nothing raises
CatalogError.

Most rows of a page are only looked at, and taking each column of each label from the database is half the time of reading
a large one: they come packed as JSON texts, and are unpacked when the first of them is asked for.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from pydantic_core import from_json
from sqlalchemy import Connection, func, select

from eigenbank.registry.catalog.content import EvidenceData, LabelData, QualityData, moment
from eigenbank.registry.catalog.models import DirectionTable, LabelTable, ProtocolTable, SourceTable, TextTable
from eigenbank.registry.catalog.parts import number
from eigenbank.registry.catalog.sql import Packed, among, between, chosen, rows_of
from eigenbank.registry.catalog.stored import LABEL_COLUMNS, PROTOCOLS, QUALITY_COLUMNS, Stored, understood
from eigenbank.schemas import Evidence, Label, Quality
from eigenbank.schemas.common import Model

M = TypeVar("M", bound=Model)

_LABELS = select(*LABEL_COLUMNS).where(among(LabelTable.direction_id, "numbers"))
_LABELS_IN_ROW = select(*LABEL_COLUMNS).where(between(LabelTable.direction_id))
_SIZES = select(*(select(func.max(table.id)).scalar_subquery() for table in (TextTable, SourceTable, ProtocolTable)))
_MANY, _FEW = 100, 4
"""What is told of so many directions stays packed, where there are up to so many texts, sources or protocols for each: reading
all of those costs less than unpacking what refers to them. Vocabularies are small, sources and protocols few.
"""


def _packed(of_labels: Any, of_directions: Any) -> Any:
    """Select the labels that meet a condition, the qualities, all texts and all sources: each as one JSON text. Protocols are
    not among them: JSON would round their scales. All of a table are those above 0: in order, and so by the key's index.
    """
    parts = (
        select(Packed(*LABEL_COLUMNS)).where(of_labels),
        select(Packed(DirectionTable.id, *QUALITY_COLUMNS)).where(of_directions, DirectionTable.source_id.is_not(None)),
        select(Packed(TextTable.id, TextTable.text)).where(TextTable.id > 0),
        select(Packed(SourceTable.id, SourceTable.name)).where(SourceTable.id > 0),
    )
    return select(*(part.scalar_subquery() for part in parts))


_ALL_PROTOCOLS = PROTOCOLS.where(ProtocolTable.id > 0)
_PACKED = _packed(among(LabelTable.direction_id, "numbers"), among(DirectionTable.id, "numbers"))
_PACKED_IN_ROW = _packed(between(LabelTable.direction_id), between(DirectionTable.id))


class _Raw:
    """Labels, rows of LABEL_COLUMNS, and qualities, rows of QUALITY_COLUMNS behind their direction's number, each by direction."""

    def __init__(self, stored: Stored, labels: Iterable[Sequence[Any]], qualities: Iterable[Sequence[Any]]) -> None:
        self.stored = stored
        self.labels: dict[int, list[Sequence[Any]]] = {}
        for row in labels:
            self.labels.setdefault(row[0], []).append(row)
        self.qualities = {row[0]: row[1:] for row in qualities}


class Told:
    """What the labels and qualities of some directions stand for, as objects. They were validated when they were put in."""

    def __init__(self, unpack: Callable[[], _Raw]) -> None:
        self._unpack = unpack

    @cached_property
    def _raw(self) -> _Raw:
        return self._unpack()

    @understood()
    def raw(self, direction: int) -> tuple[Any, ...]:
        """Return a direction's labels and its quality as they are stored."""
        quality = self._raw.qualities.get(direction)
        labels = map(tuple, self._raw.labels.get(direction, ()))
        return (*labels, None if quality is None or quality[0] is None else tuple(quality))

    def _ordered(self, direction: int) -> list[Any]:
        return sorted(self._raw.labels.get(direction, ()), key=self._order)

    def _order(self, raw: Any) -> tuple[bool, int, str, str]:
        stored = self._raw.stored
        return raw[4] is None, -(raw[4] or 0), stored.texts[raw[1]], stored.sources[raw[2]]

    @understood()
    def texts(self, direction: int) -> list[str]:
        """Return the texts of a direction's labels, the most confident first, those without a confidence last."""
        return [self._raw.stored.texts[raw[1]] for raw in self._ordered(direction)]

    @understood()
    def confidence(self, direction: int) -> float | None:
        """Return the highest confidence of a direction's labels; None where none says one."""
        labels = self._raw.labels.get(direction, ())
        return number(max((raw[4] for raw in labels if raw[4] is not None), default=None))

    @understood()
    def labels(self, direction: int) -> tuple[Label, ...]:
        """Return a direction's labels, in the same order as their texts."""
        return tuple(map(self._label, self._ordered(direction)))

    def _label(self, raw: Any) -> Label:
        found = self._raw.stored.label(raw)
        values: dict[str, Any] = dict(zip(LabelData._fields, found, strict=True))
        values["created"] = moment(found.created)
        if found.evidence is not None:
            values["evidence"] = _made(Evidence, dict(zip(EvidenceData._fields, found.evidence, strict=True)))
        return _made(Label, values)

    @understood()
    def quality(self, direction: int) -> Quality | None:
        """Return a direction's quality; None where it is not known."""
        raw = self._raw.qualities.get(direction)
        found = None if raw is None else self._raw.stored.quality(raw)
        return None if found is None else _made(Quality, dict(zip(QualityData._fields, found, strict=True)))


@understood()
def packed(connection: Connection, numbers: Sequence[int]) -> Told | None:
    """Read the labels and qualities of directions, to be unpacked later; None where that does not pay."""
    if len(numbers) < _MANY or max(size or 0 for size in rows_of(connection, _SIZES)[0]) > _FEW * len(numbers):
        return None
    texts = rows_of(connection, *chosen(numbers, _PACKED, _PACKED_IN_ROW))[0]
    protocols = rows_of(connection, _ALL_PROTOCOLS)

    def unpack() -> _Raw:
        labels, qualities, names, sources = (from_json(text or "[]", cache_strings="none") for text in texts)
        return _Raw(Stored(names, sources, protocols), labels, qualities)

    return Told(unpack)


@understood()
def told(connection: Connection, qualities: Sequence[Any]) -> Told:
    """Read the labels of directions, given by their qualities: rows of QUALITY_COLUMNS, each behind its direction's number."""
    labels = rows_of(connection, *chosen([row[0] for row in qualities], _LABELS, _LABELS_IN_ROW))
    stored = Stored()
    stored.learn(connection, labels, [row[1:] for row in qualities])
    return Told(lambda: _Raw(stored, labels, qualities))


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
