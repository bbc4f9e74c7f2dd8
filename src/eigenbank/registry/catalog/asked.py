"""What a search asks, resolved: as conditions on directions, and as a test of some of them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, select

from eigenbank.registry.catalog.judge import Ranges, labelled, matching, named_sets
from eigenbank.registry.catalog.match import Matches, match
from eigenbank.registry.catalog.models import DirectionTable, LayerTable, SpectrumTable
from eigenbank.registry.catalog.query import Filters
from eigenbank.registry.catalog.scope import Bound, bounds, label_test, labelled_by, resolve
from eigenbank.registry.catalog.sql import among, rows_of, unindexed

_ASCENDING = ("rank", "drift")
"""The orders in which the smallest comes first; those of other columns begin with the largest."""


class Asked:
    """What one search asks, in one transaction."""

    def __init__(self, connection: Connection, filters: Filters) -> None:
        self.connection = connection
        self.filters = filters
        self.test = label_test(connection, filters)
        self.scope = resolve(connection, filters)
        self.bounds = bounds(filters)
        self.matches: Matches | None = None if filters.text is None else match(connection, filters.text)
        self.ranked = self.matches is not None and filters.sort == "match"
        self.column = None if filters.sort in ("match", "catalog") else getattr(DirectionTable, filters.sort)
        self.descending = self.ranked or filters.sort not in ("catalog", *_ASCENDING)

    def conditions(
        self, indexed: Bound | None = None, *, sources: bool = True, without: Sequence[Bound] = ()
    ) -> list[Any]:
        """The conditions on directions; only the bound `indexed` may be a way in. `sources`: with that on the labels'."""
        told = {id(bound) for bound in without}
        bounds = [bound for bound in self.bounds if id(bound) not in told]
        found = [condition for bound in bounds for condition in bound.conditions(indexed=bound is indexed)]
        if sources and self.test.sources is not None and not self.ranked:
            found.append(labelled_by(self.test))
        return found

    def fitting(self, statement: Any, limits: list[Any], *, scoped: bool = False, matched: bool = False) -> Any:
        """Limit a statement on directions to those in the scope that meet the limits and match the text. `scoped`,
        `matched`: it is limited so already.
        """
        statement = statement.where(*limits)
        if self.scope.spectra is not None and not scoped:
            statement = statement.where(among(unindexed(DirectionTable.spectrum_id), self.scope.spectra))
        words = None if self.matches is None or matched else matching(self.matches, self.test)
        if words is None and (self.scope.everything or self.scope.spectra is not None):
            return statement
        statement = statement.join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
        statement = statement.join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
        if self.scope.spectra is None:
            statement = statement.where(*self.scope.conditions(indexed=False))
        if words is not None:
            statement = statement.where(words)
        return statement

    def fits(self, numbers: list[int], limits: list[Any], *, matched: bool = False) -> set[int]:
        """Return those of the directions that are in the scope, meet the limits and match the text (`matched`: as all do)."""
        if self.matches is not None and self.named is not None and not matched:
            numbers = sorted(labelled(self.connection, self.matches, self.test, self.named, numbers))
            matched = True
        if not numbers or (matched and self.scope.everything and not limits):
            return set(numbers)
        statement = select(DirectionTable.id).where(among(DirectionTable.id, numbers))
        return {row[0] for row in rows_of(self.connection, self.fitting(statement, limits, matched=matched))}

    @cached_property
    def named(self) -> Ranges | None:
        """The sets whose names alone match; None where it is not by set."""
        return None if self.matches is None else named_sets(self.connection, self.matches)

    def starting(self) -> list[Bound]:
        """The bounds that an index in the order asked for tells by itself: on that column, on the rank before it, or that there
        is none, of composites, which have indexes of their own.
        """
        ranked = self.filters.sort in ("eigenvalue", "share")
        return [
            bound
            for bound in self.bounds
            if bound.column is self.column
            or (bound.column is DirectionTable.rank and (bound.known is False or (ranked and bound.known is None)))
        ]
