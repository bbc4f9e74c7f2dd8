"""How well directions match a text: the key that puts them in order, and the condition that they match at all."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Boolean, Connection, and_, false, func, literal_column, or_, select

from eigenbank.registry.catalog.match import NAMES, Matches, Place, conditions
from eigenbank.registry.catalog.models import DirectionTable, LabelTable, LayerTable, SetTable, SpectrumTable
from eigenbank.registry.catalog.query import Position
from eigenbank.registry.catalog.scope import LabelTest, labelled_by
from eigenbank.registry.catalog.sql import among, rows_of, unindexed
from eigenbank.registry.catalog.stored import understood

Key = tuple[int, bool, int]
"""How well a direction matches: tier, whether its confidence is unknown, the confidence negated. Less is better."""


def _end(*, last: bool) -> Any:
    """The first or last direction of a set: numbers grow along the chain."""
    which: Any = func.max if last else func.min
    layer = select(which(LayerTable.id)).where(LayerTable.set_id == SetTable.id).correlate(SetTable).scalar_subquery()
    spectrum = select(which(SpectrumTable.id)).where(SpectrumTable.layer_id == layer).scalar_subquery()
    # Within a spectrum, numbers are in the order of ranks, as its index is: one entry is read, not all.
    # Composites have no ranks: among those, the number decides.
    columns = DirectionTable.rank, DirectionTable.id
    ends = [column.desc() for column in columns] if last else columns
    own = select(DirectionTable.id).where(DirectionTable.spectrum_id == spectrum)
    return own.order_by(*ends).limit(1).scalar_subquery()


_LABELS = select(LabelTable.direction_id, LabelTable.text_id, LabelTable.source_id, LabelTable.confidence).where(
    among(LabelTable.direction_id, "numbers")
)
_PLACES = (
    select(DirectionTable.id, LayerTable.name_id, SetTable.checkpoint_id)
    .join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
    .join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
    .join(SetTable, SetTable.id == LayerTable.set_id)
    .where(among(DirectionTable.id, "numbers"))
)
_RANGES = select(_end(last=False), _end(last=True)).where(among(SetTable.checkpoint_id, "checkpoints"))
_AT_NAMES = (
    select(DirectionTable.id)
    .join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
    .join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
)
_CHUNK = 5_000
_MOST_SETS = 400
"""More sets than this are not named one by one."""


def standing(number: int, key: Key) -> Position:
    """Return where a direction that matches so well stands in a ranked search."""
    tier, unknown, negated = key
    return Position(2 * tier + unknown, None if unknown or tier == NAMES else -negated, number)


@understood()
def best_keys(connection: Connection, matches: Matches | None, test: LabelTest, numbers: list[int]) -> dict[int, Key]:
    """Return how well directions match; those that do not are left out."""
    assert matches is not None
    best: dict[int, Key] = {}
    places: dict[int, tuple[int, int]] = {}
    for start in range(0, len(numbers), _CHUNK):
        chunk = numbers[start : start + _CHUNK]
        if matches.places is not None or matches.mixed:
            places = {row[0]: (row[1], row[2]) for row in rows_of(connection, _PLACES, {"numbers": chunk})}
        passing = set(chunk) if test.anything else set()
        for number, text, source, confidence in rows_of(connection, _LABELS, {"numbers": chunk}):
            if not test(source, confidence):
                continue
            passing.add(number)
            tier = matches.tier(text, *places.get(number, (0, 0)))
            if tier is not None:
                key = (tier, confidence is None, -(confidence or 0))
                best[number] = min(best.get(number, key), key)
        for number, place in places.items():
            if number in passing and number not in best and matches.named(*place):
                best[number] = (NAMES, False, 0)
    return best


class Ranges:
    """Sets by the numbers of their first and last directions."""

    def __init__(self, found: Iterable[tuple[int, int]] = ()) -> None:
        self._found = sorted(found)
        self._firsts = [first for first, _ in self._found]
        # By how many of the sets begin before a number; none for one before them all.
        self._lasts = [-1, *(last for _, last in self._found)]

    def holds(self, number: int) -> bool:
        """Whether a direction is of one of the sets."""
        return number <= self._lasts[bisect_right(self._firsts, number)]

    def condition(self) -> Any:
        """The same as a condition on a row of directions: a tree of comparisons, nine deep for the most sets there can be."""
        number = f"{DirectionTable.__tablename__}.id"

        def tree(found: list[tuple[int, int]]) -> str:
            if len(found) == 1:
                return f"{number} BETWEEN {found[0][0]:d} AND {found[0][1]:d}"
            middle = len(found) // 2
            less, more = tree(found[:middle]), tree(found[middle:])
            return f"CASE WHEN {number} < {found[middle][0]:d} THEN {less} ELSE {more} END"

        return literal_column(tree(self._found), Boolean()) if self._found else false()

    def among(self, numbers: list[int]) -> list[int]:
        """Return those of the directions that are of one of the sets. Sets are few: each is looked for among them."""
        ordered = sorted(numbers)
        return [
            number
            for first, last in self._found
            for number in ordered[bisect_left(ordered, first) : bisect_right(ordered, last)]
        ]


def named_sets(connection: Connection, matches: Matches) -> Ranges | None:
    """Return the sets whose model's id alone matches. None where layers' names have a part in it, or texts with them, or
    the sets are many.
    """
    if matches.mixed:
        return None
    return Ranges() if matches.places is None else sets_at(connection, matches.places)


def sets_at(connection: Connection, places: tuple[Place, ...]) -> Ranges | None:
    """Return the sets whose model's id has the terms of all places; None where layers' names have one, or they are many,
    or one begins or ends with a layer without directions.
    """
    if any(place.names for place in places):
        return None
    checkpoints = frozenset.intersection(*(place.checkpoints for place in places))
    if len(checkpoints) > _MOST_SETS:
        return None
    found = rows_of(connection, _RANGES, {"checkpoints": sorted(checkpoints)})
    # An end that is missing is a layer's without directions: such a set has no range that is told so quickly.
    return None if any(None in row for row in found) else Ranges((row[0], row[1]) for row in found)


def labelled(connection: Connection, matches: Matches, test: LabelTest, named: Ranges, numbers: list[int]) -> set[int]:
    """Return those of the directions that match, by a label that passes the test, or as one of the `named`."""
    statement = select(LabelTable.direction_id).where(among(LabelTable.direction_id, "numbers"), *test.conditions())
    texts = statement.where(among(unindexed(LabelTable.text_id), "texts"))
    found = {row[0] for row in rows_of(connection, texts, {"numbers": numbers, "texts": sorted(matches.tiers)})}
    inside = named.among(numbers)
    if inside and not test.anything:
        inside = [row[0] for row in rows_of(connection, statement, {"numbers": inside})]
    return found.union(inside)


def labelled_or_named(matches: Matches, test: LabelTest, named: Ranges) -> Any:
    """The same as a condition on a row of directions."""
    inside = named.condition()
    return or_(inside if test.anything else and_(inside, labelled_by(test)), labelled_by(test, matches.tiers))


def labelled_of_source(connection: Connection, matches: Matches, test: LabelTest, named: Ranges) -> set[int]:
    """Return all directions that match, by a label of the test's sources, or as one of the `named` with such a label."""
    sources = among(LabelTable.source_id, sorted(test.sources or ()))
    statement = select(LabelTable.direction_id, LabelTable.text_id).where(sources, *test.conditions(sources=False))
    rows = rows_of(connection, statement)
    tiers = matches.tiers
    return {row[0] for row in rows if row[1] in tiers}.union(named.among([row[0] for row in rows]))


def of_source(label: Any, test: LabelTest) -> Any:
    """The condition that a label, given by its direction, text and confidence, is of one of the test's sources."""
    own = LabelTable.direction_id == label.direction_id, LabelTable.text_id == label.text_id
    same = LabelTable.confidence.is_not_distinct_from(label.confidence)
    return select(LabelTable.direction_id).where(*own, same, *test.conditions()).exists()


def placed(label: Any, matches: Matches) -> Any:
    """The condition that a label of one of the texts that lack some terms is of a direction at names that have them."""
    ways: list[Any] = []
    groups = _groups(matches)
    for places, texts in groups:
        at = _AT_NAMES.where(DirectionTable.id == label.direction_id, *conditions(places)).exists()
        ways.append(at if len(groups) == 1 else and_(among(unindexed(label.text_id), texts), at))
    return or_(*ways)


def _groups(matches: Matches) -> list[tuple[tuple[Place, ...], list[int]]]:
    """The texts that lack some terms, together where those are in the same places."""
    groups: dict[tuple[int, ...], tuple[tuple[Place, ...], list[int]]] = {}
    for text, places in matches.mixed.items():
        groups.setdefault(tuple(map(id, places)), (places, []))[1].append(text)
    return list(groups.values())


def matching(matches: Matches, test: LabelTest) -> Any:
    """The condition that a direction, joined with its layer, matches the text in any tier."""
    ways: list[Any] = [false()]
    if matches.tiers:
        ways.append(labelled_by(test, matches.tiers))
    for places, texts in _groups(matches):
        ways.append(and_(*conditions(places), labelled_by(test, texts)))
    if matches.places is not None:
        some = [] if test.anything else [labelled_by(test)]
        ways.append(and_(*conditions(matches.places), *some))
    return or_(*ways)
