"""What a search is limited to: which layers and recipes, which labels, which directions; and how many those are."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Any

from sqlalchemy import Connection, bindparam, case, func, literal_column, null, select

from eigenbank.registry.catalog.models import (
    CheckpointTable,
    DirectionTable,
    LabelTable,
    LayerTable,
    NameTable,
    RecipeTable,
    SetTable,
    SourceTable,
    SpectrumTable,
)
from eigenbank.registry.catalog.parts import at_least, at_most
from eigenbank.registry.catalog.query import Filters, is_glob, literal_prefix, matcher
from eigenbank.registry.catalog.sql import among, rows_of, storable, unindexed
from eigenbank.schemas.errors import UnknownNameError, unknown

FEW_SPECTRA = 400
"""Up to this many spectra are named one by one; more are described by conditions."""

_MANY_SETS = 50
"""More sets than this hold more spectra than those, as a rule."""
_SPECTRA = select(SpectrumTable.id, SpectrumTable.directions).join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
_OF_SET = _SPECTRA.where(LayerTable.set_id == bindparam("set")).limit(FEW_SPECTRA + 1)
_OF_MODEL = (
    select(CheckpointTable.id, SetTable.id)
    .outerjoin(SetTable, SetTable.checkpoint_id == CheckpointTable.id)
    .where(CheckpointTable.model_id == bindparam("model"))
)


@dataclass
class Scope:
    """The layers and recipes a search is limited to.

    `sets`: numbers in order, None for all. `layers`: columns of layers and spectra, with the values that are meant.
    `spectra`: the numbers of all that are meant, where they are few, with how many `directions` they hold.
    """

    sets: list[int] | None = None
    layers: list[tuple[Any, list[Any]]] = field(default_factory=list)
    spectra: list[int] | None = None
    directions: int = 0

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return self.sets is None and not self.layers

    def conditions(self, *, indexed: bool, sets: bool = True) -> list[Any]:
        """The conditions on joined spectra and layers, with or without those on the `sets`. `indexed`: whether the
        database may come in by them.
        """
        limits = self.layers if self.sets is None or not sets else [*self.layers, (LayerTable.set_id, self.sets)]
        return [among(column if indexed else unindexed(column), values) for column, values in limits]


def resolve(connection: Connection, filters: Filters) -> Scope:
    """Resolve the filters on names and layers.

    Raises UnknownNameError for a model, layer or recipe given by its plain name that is not there.
    """
    scope = Scope(_sets(connection, filters))
    if filters.layer is not None:
        names = _pick(connection, NameTable.id, NameTable.name, filters.layer)
        if names is not None:
            scope.layers.append((LayerTable.name_id, names))
    if filters.recipe is not None:
        recipes = _pick(connection, RecipeTable.id, RecipeTable.slug, filters.recipe)
        if recipes is not None:
            scope.layers.append((SpectrumTable.recipe_id, recipes))
    if filters.kind is not None:
        matches = matcher(filters.kind)
        kinds = [kind for kind in connection.scalars(select(LayerTable.kind).distinct()) if kind and matches(kind)]
        scope.layers.append((LayerTable.kind, kinds))
    if filters.width is not None:
        # Beyond what the database can hold there is no layer either.
        scope.layers.append((LayerTable.width, [filters.width if 0 <= filters.width < 2**31 else -1]))
    if scope.everything:
        return scope
    if scope.sets is not None and len(scope.sets) > _MANY_SETS and _many(connection, scope):
        return scope
    if scope.sets is not None and len(scope.sets) == 1 and not scope.layers:
        found = rows_of(connection, _OF_SET, {"set": scope.sets[0]})
    else:
        found = rows_of(connection, _SPECTRA.where(*scope.conditions(indexed=True)).limit(FEW_SPECTRA + 1))
    if not found:
        _explain(connection, filters, scope.sets)
    if len(found) <= FEW_SPECTRA:
        scope.spectra = sorted(row[0] for row in found)
        scope.directions = sum(row[1] for row in found)
    return scope


def _many(connection: Connection, scope: Scope) -> bool:
    """Whether there are more than FEW_SPECTRA: nothing is read of them."""
    spectra: Any = select(literal_column("1")).select_from(SpectrumTable)
    spectra = spectra.join(LayerTable, LayerTable.id == SpectrumTable.layer_id).where(*scope.conditions(indexed=True))
    return connection.execute(spectra.limit(1).offset(FEW_SPECTRA)).first() is not None


def _sets(connection: Connection, filters: Filters) -> list[int] | None:
    conditions: list[Any] = []
    plain = filters.model if filters.model is not None and not is_glob(filters.model) else None
    if plain is not None:
        known = rows_of(connection, _OF_MODEL, {"model": plain}) if storable(plain) else []
        if not known:
            raise _unknown_model(connection, plain)
        if filters.denoiser is filters.licence is filters.location is None:
            return sorted(row[1] for row in known if row[1] is not None)
        conditions.append(CheckpointTable.model_id == plain)
    keep = None
    if plain is None and filters.model is not None and set(filters.model) != {"*"}:
        if not storable(filters.model):
            return []
        keep = matcher(filters.model)
        conditions += _beginning(CheckpointTable.model_id, filters.model)
    for column, pattern in ((CheckpointTable.denoiser, filters.denoiser), (CheckpointTable.licence, filters.licence)):
        if pattern is not None:
            matches = matcher(pattern)
            values = [value for value in connection.scalars(select(column).distinct()) if value and matches(value)]
            conditions.append(among(column, values))
    if filters.location is not None:
        found = _pick(connection, SetTable.id, SetTable.location, filters.location)
        if found is not None:
            conditions.append(among(SetTable.id, found))
    if not conditions and keep is None:
        return None
    statement = select(SetTable.id, CheckpointTable.model_id)
    statement = statement.join(CheckpointTable, CheckpointTable.id == SetTable.checkpoint_id)
    rows = rows_of(connection, statement.where(*conditions))
    return sorted(row[0] for row in rows if keep is None or keep(row[1]))


def _unknown_model(connection: Connection, model_id: str) -> UnknownNameError:
    known = list(connection.scalars(select(CheckpointTable.model_id).distinct()))
    return unknown(kind="model", name=_short(model_id), known=known)


def _pick(connection: Connection, number: Any, name: Any, pattern: str) -> list[int] | None:
    """Return the numbers of the names that a name or glob means; None where it means all."""
    if set(pattern) == {"*"}:
        return None
    if not storable(pattern):
        return []
    statement = select(number, name)
    if not is_glob(pattern):
        return [row[0] for row in connection.execute(statement.where(name == pattern))]
    matches = matcher(pattern)
    rows = rows_of(connection, statement.where(*_beginning(name, pattern)))
    return [row[0] for row in rows if matches(row[1])]


def _beginning(name: Any, pattern: str) -> list[Any]:
    """The conditions that a name begins as a glob does."""
    prefix = literal_prefix(pattern)
    # Names are compared by code points: everything that begins so lies between these two.
    return [name >= prefix, name < prefix + "\U0010ffff"] if prefix else []


def _explain(connection: Connection, filters: Filters, sets: list[int] | None) -> None:
    """Raise UnknownNameError where a plain name is what nothing was found for."""
    limits = [] if sets is None else [among(LayerTable.set_id, sets)]
    if filters.layer is not None and not is_glob(filters.layer):
        names = select(NameTable.name).join(LayerTable, LayerTable.name_id == NameTable.id).where(*limits).distinct()
        known = list(connection.scalars(names))
        if filters.layer not in known:
            raise unknown(kind="layer", name=_short(filters.layer), known=known)
    if filters.recipe is not None and not is_glob(filters.recipe):
        slugs = select(RecipeTable.slug).join(SpectrumTable, SpectrumTable.recipe_id == RecipeTable.id)
        slugs = slugs.join(LayerTable, LayerTable.id == SpectrumTable.layer_id).where(*limits).distinct()
        known = list(connection.scalars(slugs))
        if filters.recipe not in known:
            raise unknown(kind="recipe", name=_short(filters.recipe), known=known)


def _short(name: str) -> str:
    return name if len(name) <= 200 else name[:200] + "…"


@dataclass(frozen=True)
class LabelTest:
    """What `source` and `min_confidence` (in ten-thousandths) ask of a label. `sources` None: any."""

    sources: frozenset[int] | None
    min_confidence: int | None

    @property
    def anything(self) -> bool:
        """Whether every label passes."""
        return self.sources is None and self.min_confidence is None

    def conditions(self, *, sources: bool = True) -> list[Any]:
        """The same as conditions on a row of labels, with or without that on `sources`."""
        found: list[Any] = []
        if sources and self.sources is not None:
            # The direction or the text is the better way in; nearly every label is of one of few sources.
            found.append(among(unindexed(LabelTable.source_id), sorted(self.sources)))
        if self.min_confidence is not None:
            found.append(LabelTable.confidence >= self.min_confidence)
        return found

    def __call__(self, source_id: int, confidence: int | None) -> bool:
        if self.sources is not None and source_id not in self.sources:
            return False
        return self.min_confidence is None or (confidence is not None and confidence >= self.min_confidence)


def label_test(connection: Connection, filters: Filters) -> LabelTest:
    """Resolve the filters on labels."""
    sources = None
    if filters.source is not None:
        matches = matcher(filters.source)
        rows = connection.execute(select(SourceTable.id, SourceTable.name))
        sources = frozenset(id_ for id_, name in rows if matches(name) or name.partition(":")[0] == filters.source)
    return LabelTest(sources, at_least(filters.min_confidence))


@dataclass(frozen=True)
class Bound:
    """A range that a column of directions must be in, both ends included, in the column's own unit; or, as `known` says,
    that it must be known or must not be.
    """

    column: Any
    low: float | None = None
    high: float | None = None
    known: bool | None = None

    def conditions(self, *, indexed: bool) -> list[Any]:
        """The same as conditions. `indexed`: whether the database may come in by this column's index."""
        column = self.column if indexed else unindexed(self.column)
        if self.known is not None:
            return [column.is_not(None) if self.known else column.is_(None)]
        if self.low is not None and self.low == self.high:
            return [column == self.low]
        found = [column >= self.low] if self.low is not None else []
        return found + ([column <= self.high] if self.high is not None else [])

    def values(self) -> list[int] | None:
        """All numbers in the range, where the column holds whole ten-thousandths of 1 and they are few."""
        low, high = self.low or 0, 10_000 if self.high is None else self.high
        if self.known is not None or not any(self.column is each for each in _SHARES) or high - low >= FEW_VALUES:
            return None
        return list(range(ceil(low), floor(high) + 1))


FEW_VALUES = 500
"""A range of so many ten-thousandths is looked up value by value."""
_SHARES = (
    DirectionTable.confidence,
    DirectionTable.selectivity,
    DirectionTable.consistency,
    DirectionTable.linearity,
    DirectionTable.locality,
)


def bounds(filters: Filters) -> list[Bound]:
    """The filters that a row of directions can answer by itself."""
    found = [
        Bound(DirectionTable.eigenvalue, filters.min_eigenvalue, filters.max_eigenvalue),
        Bound(DirectionTable.share, filters.min_share, filters.max_share),
        Bound(DirectionTable.gap, filters.min_gap, None),
        # Necessary, whichever label the filters ask for.
        Bound(DirectionTable.confidence, at_least(filters.min_confidence), None),
        Bound(DirectionTable.effect, at_least(filters.min_effect), None),
        Bound(DirectionTable.selectivity, at_least(filters.min_selectivity), None),
        Bound(DirectionTable.consistency, at_least(filters.min_consistency), None),
        Bound(DirectionTable.linearity, at_least(filters.min_linearity), None),
        Bound(DirectionTable.locality, at_least(filters.min_locality), None),
        Bound(DirectionTable.drift, None, at_most(filters.max_drift)),
    ]
    if filters.rank is not None:
        found.append(Bound(DirectionTable.rank, rank_of(filters), rank_of(filters)))
    if filters.labelled is not None:
        found.append(Bound(DirectionTable.labels, *((1, None) if filters.labelled else (0, 0))))
    found = [bound for bound in found if bound.low is not None or bound.high is not None]
    if filters.composites is not None:
        found.append(Bound(DirectionTable.rank, known=not filters.composites))
    any_but_one = any(pattern is not None and set(pattern) == {"*"} for pattern in (filters.layer, filters.recipe))
    if any_but_one and filters.composites is not False:
        found.append(Bound(DirectionTable.rank, known=True))  # any layer or recipe, but there must be one
    return found


def rank_of(filters: Filters) -> int:
    """The rank that is asked for. Beyond what the database can hold there is no direction either."""
    return filters.rank if filters.rank is not None and 0 <= filters.rank < 2**31 else -1


def labelled_by(test: LabelTest, texts: Iterable[int] | None = None) -> Any:
    """The condition that a direction has a label that passes the test, and whose text is one of `texts`."""
    own = LabelTable.direction_id == DirectionTable.id
    found = [] if texts is None else [among(unindexed(LabelTable.text_id), sorted(texts))]
    # A column, and not all: the narrow index is enough then.
    return select(LabelTable.direction_id).where(own, *test.conditions(), *found).exists()


def counting(table: Any, conditions: list[Any]) -> Any:
    """Select how many rows of a table meet the conditions, NULL where they are more than `most`."""
    more = select(literal_column("1")).select_from(table).where(*conditions).limit(1).offset(bindparam("most")).exists()
    exactly = select(func.count()).select_from(table).where(*conditions).scalar_subquery()
    return select(case((more, null()), else_=exactly))


def count(connection: Connection, statement: Any, most: int, values: dict[str, Any] | None = None) -> int:
    """Return what a statement by `counting` counts, counting no further than one beyond `most`."""
    found: int | None = connection.execute(statement, {**(values or {}), "most": most}).scalar_one()
    return most + 1 if found is None else found
