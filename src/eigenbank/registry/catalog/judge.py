"""How well directions match a text: the key that puts them in order, and the condition that they match at all."""

from typing import Any

from sqlalchemy import Connection, and_, false, or_, select

from eigenbank.registry.catalog.match import NAMES, Matches, Place, conditions
from eigenbank.registry.catalog.models import DirectionTable, LabelTable, LayerTable, SetTable, SpectrumTable
from eigenbank.registry.catalog.query import Position
from eigenbank.registry.catalog.scope import LabelTest, labelled_by
from eigenbank.registry.catalog.sql import among, rows_of

Key = tuple[int, bool, float]
"""How well a direction matches: tier, whether its confidence is unknown, the confidence negated. Less is better."""

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
_CHUNK = 5_000


def standing(number: int, key: Key) -> Position:
    """Return where a direction that matches so well stands in a ranked search."""
    tier, unknown, negated = key
    return Position(2 * tier + unknown, None if unknown or tier == NAMES else -negated, number)


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
                key = (tier, confidence is None, -(confidence or 0.0))
                best[number] = min(best.get(number, key), key)
        for number, place in places.items():
            if number in passing and number not in best and matches.named(*place):
                best[number] = (NAMES, False, 0.0)
    return best


def matching(matches: Matches, test: LabelTest) -> Any:
    """The condition that a direction, joined with its layer and set, matches the text in any tier."""
    ways: list[Any] = [false()]
    if matches.tiers:
        ways.append(labelled_by(test, matches.tiers))
    groups: dict[tuple[int, ...], tuple[tuple[Place, ...], list[int]]] = {}
    for text, places in matches.mixed.items():
        groups.setdefault(tuple(map(id, places)), (places, []))[1].append(text)
    for places, texts in groups.values():
        ways.append(and_(*conditions(places), labelled_by(test, texts)))
    if matches.places is not None:
        some = [] if test.anything else [labelled_by(test)]
        ways.append(and_(*conditions(matches.places), *some))
    return or_(*ways)
