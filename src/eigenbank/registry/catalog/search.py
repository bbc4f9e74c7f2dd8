"""Searching: pages of directions, the best match first or in another order.

A page is one or a few plain SELECTs. Each is answered in one of two ways: by walking the index of the order asked for until the
page is full, or, where some filter leaves at most FEW directions, by sorting those. Pages follow one another by key: the next one
begins after the last row of the one before, so that a page deep inside costs as much as the first.

How well a direction matches a text is said in `ranking`; here its levels are streams of labels, the best first, each in the order
of the labels' worth. A direction stands once, under its best label.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, false, func, literal_column, or_, select, union_all
from sqlalchemy.orm import aliased

from eigenbank.registry.catalog.dialects import among, texts_with
from eigenbank.registry.catalog.index import unpack
from eigenbank.registry.catalog.rows import DirectionRow, Filters, Page, Position, is_glob, matcher, storable
from eigenbank.registry.catalog.tables import (
    DirectionTable,
    LabelTable,
    LayerTable,
    SetTable,
    SourceTable,
    SpectrumTable,
    TextTable,
)
from eigenbank.registry.ranking import Level, Query
from eigenbank.schemas.errors import unknown

FEW = 10_000
"""Up to so many directions are sorted rather than met on a walk."""
_ASCENDING = ("rank", "drift")
"""The orders in which the smallest comes first."""

Condition = ColumnElement[bool]
_Test = tuple[Any, Callable[[Any], Condition]]
"""A column, and what makes a condition on it."""


def _loose(column: Any) -> Any:
    """Return the column so that the database does not come in by its index: another way is known to be better."""
    return column + 0


def _exact(tests: Iterable[_Test]) -> list[Condition]:
    return [condition(column) for column, condition in tests]


def _looser(tests: Iterable[_Test]) -> list[Condition]:
    return [condition(_loose(column)) for column, condition in tests]


def page(connection: Connection, filters: Filters, limit: int, cursor: str | None) -> Page:
    """Return up to `limit` directions that meet the filters, after the cursor."""
    digest = filters.digest
    after = None if cursor is None else Position.read(cursor, digest)
    found = list(_Search(connection, filters).find(after, limit + 1))
    rows = directions(connection, [position.direction for position in found[:limit]])
    return Page(rows, found[limit - 1].cursor(digest) if len(found) > limit else None)


_Layer, _Composite = aliased(TextTable), aliased(TextTable)
_ROWS = (
    select(
        DirectionTable.id,
        SetTable.model_id,
        SetTable.revision,
        SetTable.location,
        _Layer.text.label("layer"),
        LayerTable.kind,
        LayerTable.width,
        SpectrumTable.recipe,
        DirectionTable.rank,
        DirectionTable.eigenvalue,
        DirectionTable.share,
        DirectionTable.gap,
        _Composite.text.label("composite"),
        DirectionTable.details,
    )
    .join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
    .join(SetTable, SetTable.id == SpectrumTable.set_id)
    .outerjoin(LayerTable, LayerTable.id == SpectrumTable.layer_id)
    .outerjoin(_Layer, _Layer.id == LayerTable.name_id)
    .outerjoin(_Composite, _Composite.id == DirectionTable.name_id)
)


def directions(connection: Connection, numbers: Sequence[int]) -> list[DirectionRow]:
    """Return directions with their labels, in the order of the numbers given."""
    rows: dict[int, DirectionRow] = {}
    for found in connection.execute(_ROWS.where(among(DirectionTable.id, numbers))).mappings():
        facts = dict(found)
        number, known = facts.pop("id"), unpack(facts.pop("details"))
        facts["revision"] = facts["revision"] or None
        rows[number] = DirectionRow(**facts, labels=known.labels, quality=known.quality)
    return [rows[number] for number in numbers]


# What a search is limited to


@dataclass
class _Scope:
    """The sets, layers and recipes that are meant, as conditions on spectra and their layers."""

    conditions: list[Condition] = field(default_factory=list)

    def condition(self, *more: Condition) -> Condition:
        """The same as a condition on a direction."""
        own = select(SpectrumTable.id).outerjoin(LayerTable, LayerTable.id == SpectrumTable.layer_id)
        return (
            own.where(SpectrumTable.id == DirectionTable.spectrum_id, *self.conditions, *more)
            .correlate(DirectionTable)
            .exists()
        )

    def directions(self, *more: Condition) -> Any:
        """Select the numbers of all directions there."""
        found = select(DirectionTable.id).join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
        return found.outerjoin(LayerTable, LayerTable.id == SpectrumTable.layer_id).where(*self.conditions, *more)


def _scope(connection: Connection, filters: Filters) -> _Scope:
    """Resolve the filters on sets and layers.

    Raises UnknownNameError for a model, layer or recipe given by its plain name that is not there.
    """
    scope = _Scope()
    sets = _sets(connection, filters)
    if sets is not None:
        scope.conditions.append(among(SpectrumTable.set_id, sets))
    if filters.layer is not None:
        layers = select(TextTable.id, TextTable.text).where(TextTable.id.in_(select(LayerTable.name_id)))
        scope.conditions.append(_named(connection, LayerTable.name_id, layers, filters.layer))
    if filters.recipe is not None:
        recipes = select(SpectrumTable.recipe, SpectrumTable.recipe).where(SpectrumTable.recipe.is_not(None)).distinct()
        scope.conditions.append(_named(connection, SpectrumTable.recipe, recipes, filters.recipe))
    if filters.kind is not None:
        kinds = select(LayerTable.kind, LayerTable.kind).distinct()
        scope.conditions.append(_named(connection, LayerTable.kind, kinds, filters.kind))
    if filters.width is not None:
        scope.conditions.append(LayerTable.width == _bounded(filters.width))
    if filters.composites:
        scope.conditions.append(SpectrumTable.layer_id.is_(None))
    if scope.conditions and connection.execute(scope.directions().limit(1)).first() is None:
        _explain(connection, filters, sets)
    return scope


def _bounded(number: int) -> int:
    """A number that is asked for. Beyond what the database can hold there is nothing."""
    return number if 0 <= number < 2**31 else -1


def _sets(connection: Connection, filters: Filters) -> list[int] | None:
    """The numbers of the sets that are meant; None for all."""
    if filters.model is not None and not is_glob(filters.model):
        known = select(SetTable.id).where(SetTable.model_id == filters.model).limit(1)
        if not storable(filters.model) or connection.execute(known).first() is None:
            models = connection.scalars(select(SetTable.model_id).distinct())
            raise unknown(kind="model", name=_short(filters.model), known=models)
    patterns = {
        SetTable.model_id: filters.model,
        SetTable.denoiser: filters.denoiser,
        SetTable.licence: filters.licence,
        SetTable.location: filters.location,
    }
    asked = {column: pattern for column, pattern in patterns.items() if pattern is not None}
    if not asked:
        return None
    tests = [matcher(pattern) for pattern in asked.values()]
    statement = select(SetTable.id, *asked)
    if filters.model is not None and not is_glob(filters.model):
        statement = statement.where(SetTable.model_id == filters.model)
    rows = connection.execute(statement)
    return [
        row[0]
        for row in rows
        if all(value is not None and test(value) for value, test in zip(row[1:], tests, strict=True))
    ]


def _named(connection: Connection, column: Any, known: Any, pattern: str) -> Condition:
    """The condition that a column is one of the `known` (selected as value and name) that a name or glob means."""
    if set(pattern) == {"*"}:
        return and_(column.is_not(None))
    test = matcher(pattern)
    return among(column, [row[0] for row in connection.execute(known) if test(row[1])])


def _explain(connection: Connection, filters: Filters, sets: list[int] | None) -> None:
    """Raise UnknownNameError where a plain name is what nothing was found for."""
    limits = [] if sets is None else [among(LayerTable.set_id, sets)]
    if filters.layer is not None and not is_glob(filters.layer):
        names = select(TextTable.text).join(LayerTable, LayerTable.name_id == TextTable.id).where(*limits).distinct()
        known = connection.scalars(names).all()
        if filters.layer not in known:
            raise unknown(kind="layer", name=_short(filters.layer), known=known)
    limits = [] if sets is None else [among(SpectrumTable.set_id, sets)]
    if filters.recipe is not None and not is_glob(filters.recipe):
        slugs = select(SpectrumTable.recipe).where(SpectrumTable.recipe.is_not(None), *limits).distinct()
        recipes = [slug for slug in connection.scalars(slugs) if slug]
        if filters.recipe not in recipes:
            raise unknown(kind="recipe", name=_short(filters.recipe), known=recipes)


def _short(name: str) -> str:
    return name if len(name) <= 200 else name[:200] + "…"


def label_tests(connection: Connection, source: str | None, min_confidence: float | None = None) -> list[_Test]:
    """The tests of a row of labels that it is of a source (a name, its first part or a glob), and so sure."""
    found: list[_Test] = []
    if source is not None:
        fits = matcher(source)
        rows = connection.execute(select(SourceTable.id, SourceTable.name))
        sources = [number for number, name in rows if fits(name) or name.partition(":")[0] == source]
        found.append((LabelTable.source_id, lambda column: among(column, sources)))
    if min_confidence is not None:
        found.append((LabelTable.confidence, lambda column: column >= min_confidence))
    return found


_BOUNDS = {
    "min_eigenvalue": DirectionTable.eigenvalue,
    "min_share": DirectionTable.share,
    "min_gap": DirectionTable.gap,
    "min_confidence": DirectionTable.confidence,
    "min_effect": DirectionTable.effect,
    "min_selectivity": DirectionTable.selectivity,
    "min_consistency": DirectionTable.consistency,
    "min_linearity": DirectionTable.linearity,
    "min_locality": DirectionTable.locality,
    "max_eigenvalue": DirectionTable.eigenvalue,
    "max_share": DirectionTable.share,
    "max_drift": DirectionTable.drift,
}


def _bounds(filters: Filters) -> dict[Any, list[_Test]]:
    """The bounds on what is known of a direction, by column."""
    found: dict[Any, list[_Test]] = {}
    for name, column in _BOUNDS.items():
        value = getattr(filters, name)
        if value is not None:
            compare = operator.ge if name.startswith("min") else operator.le
            found.setdefault(column, []).append((column, partial(_compared, compare, value)))
    return found


def _compared(compare: Callable[[Any, Any], Condition], value: float, column: Any) -> Condition:
    return compare(column, value)


# What a text matches


@dataclass
class _Names:
    """Where one term of a query is outside of labels: in the names of layers and composites, by number, and in sets' models."""

    names: set[int]
    sets: set[int]

    def condition(self) -> Condition:
        """The same as a condition on a direction, its spectrum and its layer."""
        ways: list[Condition] = [
            among(column, self.names) for column in (LayerTable.name_id, DirectionTable.name_id) if self.names
        ]
        if self.sets:
            ways.append(among(SpectrumTable.set_id, self.sets))
        return or_(false(), *ways)

    def directions(self) -> Any:
        """Select the numbers of the directions whose names have the term, by index; some of them twice."""
        plain = select(DirectionTable.id)
        spectra = plain.join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
        return union_all(
            spectra.join(LayerTable, LayerTable.id == SpectrumTable.layer_id).where(
                among(LayerTable.name_id, self.names)
            ),
            plain.where(among(DirectionTable.name_id, self.names)),
            spectra.where(among(SpectrumTable.set_id, self.sets)),
        )


@dataclass
class _Matches:
    """What answers a query. `texts`: the label texts of each level that hold all terms. `partial`: those that hold some, by the
    terms that they lack. `names`: where each term is in names.
    """

    names: list[_Names] = field(default_factory=list)
    texts: dict[Level, list[int]] = field(default_factory=dict)
    partial: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.levels = {text: level for level, texts in self.texts.items() for text in texts}
        self.missing = {text: terms for terms, texts in self.partial.items() for text in texts}

    @property
    def by_names(self) -> bool:
        """Whether names alone may have all terms."""
        return bool(self.names) and all(place.names or place.sets for place in self.names)

    def named(self, terms: Iterable[int]) -> list[Condition]:
        """The conditions that a direction's names have some terms."""
        return [self.names[term].condition() for term in terms]


def _matches(connection: Connection, text: str) -> _Matches:
    """Look a query up. Raises SearchError for one of too many words."""
    query = Query.parse(text)
    holding = [texts_with(connection, term.words, prefix=term.prefix) for term in query.terms]
    names = []
    for numbers in holding:
        sets = set(connection.scalars(select(SetTable.id).where(among(SetTable.name_id, numbers))) if numbers else ())
        columns = LayerTable.name_id, DirectionTable.name_id
        used = [select(column).where(among(column, numbers)).distinct() for column in columns] if numbers else []
        names.append(
            _Names({number for each in used for number in connection.scalars(each) if number is not None}, set(sets))
        )
    complete = set.intersection(*holding) if holding else set()
    texts: dict[Level, list[int]] = {}
    for number, label in connection.execute(select(TextTable.id, TextTable.text).where(among(TextTable.id, complete))):
        texts.setdefault(query.level(label), []).append(number)
    partial: dict[tuple[int, ...], list[int]] = {}
    for number in set().union(*holding) - complete:
        lacks = tuple(term for term, numbers in enumerate(holding) if number not in numbers)
        if all(names[term].names or names[term].sets for term in lacks):
            partial.setdefault(lacks, []).append(number)
    return _Matches(names, texts, partial)


# Finding


class _Search:
    """One search in one transaction."""

    def __init__(self, connection: Connection, filters: Filters) -> None:
        self.connection = connection
        self.filters = filters
        self.matches = None if filters.text is None else _matches(connection, filters.text)
        self.scope = _scope(connection, filters)
        self.of_labels = label_tests(connection, filters.source, filters.min_confidence)
        self.bounds = _bounds(filters)

    def find(self, after: Position | None, wanted: int) -> Iterator[Position]:
        """Yield up to `wanted` positions after one."""
        if self.matches is not None and self.filters.sort == "match":
            return self._by_match(self.matches, after, wanted)
        return self._by_column(after, wanted)

    # Conditions

    def _ways(self) -> Iterator[Any]:
        """Selections of directions that each hold all that the filters leave."""
        if self.scope.conditions:
            yield self.scope.directions()
        for tests in self.bounds.values():
            yield select(DirectionTable.id).where(*_exact(tests))
        if self.filters.source is not None:
            yield select(LabelTable.direction_id).where(*_exact(self.of_labels))

    @cached_property
    def _few_by_filters(self) -> tuple[int, Any]:
        return self._fewest(self._ways(), (FEW + 1, None))

    def _few(self, *more: Any) -> Any:
        """A selection of directions that holds all that the filters and more selections leave, None where each has more than FEW."""
        _, best = self._fewest(more, self._few_by_filters)
        return None if best is None else select(best.subquery().c[0])

    def _fewest(self, ways: Iterable[Any], best: tuple[int, Any]) -> tuple[int, Any]:
        """The selection with the fewest directions, and how many those are; `best` where none has fewer."""
        for way in ways:
            rows = way.limit(best[0]).subquery()
            count = self.connection.execute(select(func.count()).select_from(rows)).scalar_one()
            if count < best[0]:
                best = count, way
        return best

    def _limits(self) -> list[Condition]:
        """The conditions on directions, for whoever comes in another way than by an index on these."""
        found = [condition for tests in self.bounds.values() for condition in _looser(tests)]
        if self.scope.conditions:
            found.append(self.scope.condition())
        if self.filters.rank is not None:
            found.append(DirectionTable.rank == _bounded(self.filters.rank))
        if self.filters.labelled is not None:
            found.append(DirectionTable.labels > 0 if self.filters.labelled else DirectionTable.labels == 0)
        if self.filters.composites is False:
            found.append(DirectionTable.name_id.is_(None))
        return found

    def _labelled(self, texts: list[int] | None = None) -> Condition:
        """The condition that a direction has a label that meets the filters, and is one of some texts."""
        own = select(LabelTable.direction_id).where(
            LabelTable.direction_id == DirectionTable.id, *_looser(self.of_labels)
        )
        if texts is not None:
            own = own.where(among(_loose(LabelTable.text_id), texts))
        return own.correlate(DirectionTable).exists()

    def _matching(self, matches: _Matches) -> Condition:
        """The condition that a direction matches the text in any level."""
        whole = [text for texts in matches.texts.values() for text in texts]
        ways = [self._labelled(whole)] if whole else []
        for terms, texts in matches.partial.items():
            ways.append(and_(self._labelled(texts), _Scope().condition(*matches.named(terms))))
        if matches.by_names:
            own = [self._labelled()] if self.of_labels else []
            ways.append(and_(*own, _Scope().condition(*matches.named(range(len(matches.names))))))
        return or_(false(), *ways)

    # In the order of a column

    def _by_column(self, after: Position | None, wanted: int) -> Iterator[Position]:
        """In the order of what a direction has: known values first, then those that have none; ties in catalog order."""
        limits, ways = self._limits(), []
        if self.matches is not None:
            limits.append(self._matching(self.matches))
            ways.append(self._candidates(self.matches))
        elif self.of_labels:
            limits.append(self._labelled())
        few = self._few(*ways)
        if few is not None:
            limits.append(DirectionTable.id.in_(few))
        sort = self.filters.sort
        column = None if sort in ("match", "catalog") else getattr(DirectionTable, sort)
        for stream in (0,) if column is None else (0, 1):
            if after is not None and after.stream > stream:
                continue
            place = after if after is not None and after.stream == stream else None
            key: Any = column if few is None or column is None else _loose(column)
            statement = _in_order(key if stream == 0 else None, place, descending=sort not in _ASCENDING).where(*limits)
            if column is not None:
                statement = statement.where(key.is_not(None) if stream == 0 else key.is_(None))
            rows = self.connection.execute(statement.limit(wanted)).all()
            wanted -= len(rows)
            yield from (Position(stream, value or 0, number) for number, value in rows)
            if not wanted:
                return

    @staticmethod
    def _candidates(matches: _Matches) -> Any:
        """A selection of directions that holds all that match."""
        texts = [*matches.levels, *matches.missing]
        found = select(LabelTable.direction_id).where(among(LabelTable.text_id, texts))
        if not matches.by_names:
            return found
        fewest = min(matches.names, key=lambda place: len(place.names) + len(place.sets))
        return union_all(found, select(fewest.directions().subquery().c[0]))

    # The best match first

    def _by_match(self, matches: _Matches, after: Position | None, wanted: int) -> Iterator[Position]:
        for level in sorted(Level, reverse=True)[:-1]:
            stream = Level.EXACT - level
            if after is not None and after.stream > stream:
                continue
            place = after if after is not None and after.stream == stream else None
            seen: set[int] = set()
            while True:
                rows = self._level(matches, level, place, wanted)
                best = self._best(matches, {number for number, _ in rows})
                for number, worth in rows:
                    # Under a better label it was shown elsewhere.
                    if number not in seen and best[number] == (level, worth):
                        seen.add(number)
                        yield Position(stream, worth, number)
                        wanted -= 1
                        if not wanted:
                            return
                if len(rows) < wanted:
                    break
                place = Position(stream, rows[-1][1], rows[-1][0])

    def _level(self, matches: _Matches, level: Level, place: Position | None, wanted: int) -> list[tuple[int, float]]:
        """The next labels of a level, as direction and worth, after a place."""
        if level == Level.NAMES:
            if not matches.by_names:
                return []
            named = matches.named(range(len(matches.names)))
            limits = [*self._limits(), _Scope().condition(*named)]
            if self.of_labels:
                limits.append(self._labelled())
            few = self._few(*(place.directions() for place in matches.names))
            if few is not None:
                limits.append(DirectionTable.id.in_(few))
            statement = _in_order(None, place, descending=True).where(*limits).limit(wanted)
            return [(number, 0.0) for number, _ in self.connection.execute(statement)]
        if level != Level.MIXED:
            return self._labels(matches.texts.get(level, []), [], place, wanted)
        found: list[tuple[int, float]] = []
        for terms, texts in matches.partial.items():
            found += self._labels(texts, [matches.names[term] for term in terms], place, wanted)
        return sorted(found, key=lambda row: (-row[1], row[0]))[:wanted]

    def _labels(
        self, texts: list[int], named: list[_Names], place: Position | None, wanted: int
    ) -> list[tuple[int, float]]:
        """The next labels of some texts whose directions meet the filters, and whose names have some terms."""
        if not texts:
            return []
        few = self._few(*(term.directions() for term in named))
        limits = self._limits()
        if named:
            limits.append(_Scope().condition(*(term.condition() for term in named)))
        statement = select(LabelTable.direction_id, LabelTable.worth)
        if few is not None:
            statement = statement.where(among(_loose(LabelTable.text_id), texts), LabelTable.direction_id.in_(few))
        else:
            statement = statement.where(among(LabelTable.text_id, texts))
        statement = statement.where(*_looser(self.of_labels))
        if limits:
            own = select(DirectionTable.id).where(DirectionTable.id == LabelTable.direction_id, *limits)
            statement = statement.where(own.correlate(LabelTable).exists())
        if place is not None:
            beyond = (LabelTable.worth < place.value) | (LabelTable.direction_id > place.direction)
            statement = statement.where(LabelTable.worth <= place.value, beyond)
        statement = statement.order_by(LabelTable.worth.desc(), LabelTable.direction_id).limit(wanted)
        return [(row[0], row[1]) for row in self.connection.execute(statement)]

    def _best(self, matches: _Matches, numbers: set[int]) -> dict[int, tuple[Level, float]]:
        """The best level of directions that match, and the largest worth in it."""
        terms = dict.fromkeys(numbers, 0)
        if matches.by_names or matches.partial:
            places = select(DirectionTable.id, LayerTable.name_id, DirectionTable.name_id, SpectrumTable.set_id)
            places = places.join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
            places = places.outerjoin(LayerTable, LayerTable.id == SpectrumTable.layer_id)
            for number, layer, composite, set_id in self.connection.execute(
                places.where(among(DirectionTable.id, numbers))
            ):
                terms[number] = sum(
                    1 << term
                    for term, place in enumerate(matches.names)
                    if layer in place.names or composite in place.names or set_id in place.sets
                )
        best = dict.fromkeys(numbers, (Level.NAMES, 0.0))
        labels = select(LabelTable.direction_id, LabelTable.text_id, LabelTable.worth).where(
            among(LabelTable.direction_id, numbers)
        )
        for number, text, worth in self.connection.execute(labels.where(*_looser(self.of_labels))):
            level = matches.levels.get(text)
            if level is None and text in matches.missing:
                held = all(terms[number] >> term & 1 for term in matches.missing[text])
                level = Level.MIXED if held else None
            if level is not None:
                best[number] = max(best[number], (level, worth))
        return best


def _in_order(key: Any, place: Position | None, *, descending: bool) -> Any:
    """Select directions and a key in the key's order, None for catalog order, after a place."""
    number = DirectionTable.id
    if key is None:
        statement: Any = select(number, literal_column("0").label("value")).order_by(number)
        return statement if place is None else statement.where(number > place.direction)
    statement = select(number, key.label("value")).order_by(key.desc() if descending else key, number)
    if place is not None:
        # The bound by itself is what an index can start from; the rest cuts off the ties on the other side.
        beyond = key < place.value if descending else key > place.value
        statement = statement.where(
            key <= place.value if descending else key >= place.value, beyond | (number > place.direction)
        )
    return statement
