"""Which texts, layers and models a query's words are in, and how well that is a match.

A label matches a text when every term is in its own text, in its layer's name or in its model's id. How well, by tier:

0. the label's text is the query, word for word
1. every term is in the label's text as whole words
2. every term is in the label's text, some only as the beginning of a word
3. some terms are in the label's text, the others in the names
4. every term is in the names alone (a direction needs no label for that)
"""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, or_, select

from eigenbank.registry.catalog import fts
from eigenbank.registry.catalog.models import LayerTable, SetTable, TextTable
from eigenbank.registry.catalog.sql import among, rows_of, unindexed
from eigenbank.registry.catalog.words import MAX_TERMS, MAX_WORD, parse, split
from eigenbank.schemas.errors import CatalogError

NAMES = 4
"""The tier of what matches by its names alone."""
_TEXTS = select(TextTable.id, TextTable.text).where(among(TextTable.id, "numbers"))


@dataclass(frozen=True)
class Place:
    """Where one term is outside of labels: in the names of these layers, in the ids of these checkpoints' models."""

    names: frozenset[int]
    checkpoints: frozenset[int]

    def __bool__(self) -> bool:
        return bool(self.names or self.checkpoints)

    def holds(self, name: int, checkpoint: int) -> bool:
        """Whether a layer of that name, of a set of that checkpoint, has the term."""
        return name in self.names or checkpoint in self.checkpoints

    def condition(self) -> ColumnElement[bool]:
        """The same as a condition on layers, which are reached another way."""
        ways = []
        if self.names:
            ways.append(among(unindexed(LayerTable.name_id), sorted(self.names)))
        if self.checkpoints:
            sets = select(SetTable.id).where(among(SetTable.checkpoint_id, sorted(self.checkpoints)))
            ways.append(unindexed(LayerTable.set_id).in_(sets))
        return or_(*ways)


@dataclass
class Matches:
    """What answers a query. `tiers`: text → tier 0 to 2. `mixed`: text → the places of the terms that it lacks.
    `places`: those of all terms; None where some term is in no name.
    """

    tiers: dict[int, int] = field(default_factory=dict)
    mixed: dict[int, tuple[Place, ...]] = field(default_factory=dict)
    places: tuple[Place, ...] | None = None

    def tier(self, text: int, name: int, checkpoint: int) -> int | None:
        """The tier of a label's text on a direction of a layer of that name; None where it does not match."""
        found = self.tiers.get(text)
        if found is not None:
            return found
        missing = self.mixed.get(text)
        return 3 if missing and all(place.holds(name, checkpoint) for place in missing) else None

    def named(self, name: int, checkpoint: int) -> bool:
        """Whether a layer's names alone have every term."""
        return self.places is not None and all(place.holds(name, checkpoint) for place in self.places)


def conditions(places: tuple[Place, ...]) -> list[Any]:
    """The conditions on layers that their names have the terms of all places."""
    return [place.condition() for place in places]


def match(connection: Connection, text: str) -> Matches:
    """Look a query up in the word index. Raises CatalogError for one of more than MAX_TERMS different terms."""
    terms = parse(text)
    if len(terms) > MAX_TERMS:
        message = f"a search takes up to {MAX_TERMS} different words, this one has {len(terms)}: leave some out."
        raise CatalogError(message)
    found = Matches()
    # Longer than any indexed word or text.
    if not terms or any(len(term.words) > MAX_WORD or max(map(len, term.words)) > MAX_WORD for term in terms):
        return found
    ways: tuple[tuple[fts.Kind, bool], ...] = ("texts", False), ("texts", True), ("names", True), ("models", True)
    rows = fts.having(connection, [(kind, term, prefix) for kind, prefix in ways for term in terms])
    whole, started, names, models = (rows[start : start + len(terms)] for start in range(0, len(rows), len(terms)))
    places = tuple(Place(frozenset(name), frozenset(model)) for name, model in zip(names, models, strict=True))
    if all(places):
        found.places = places
    found.tiers.update(dict.fromkeys(set.intersection(*started), 2))
    query = [word for term in terms for word in term.words]
    complete = set.intersection(*whole)
    if complete:
        for number, label in rows_of(connection, _TEXTS, {"numbers": complete}):
            found.tiers[number] = 0 if split(label) == query else 1
    if len(terms) > 1:
        for number in set().union(*started).difference(found.tiers):
            missing = tuple(place for place, texts in zip(places, started, strict=True) if number not in texts)
            if all(missing):
                found.mixed[number] = missing
    return found
