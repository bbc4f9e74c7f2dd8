"""Searching: pages of directions, the best match first or in another order.

How well a label matches is told by tiers (see `match`). Within a tier the most confident label comes first, those
without a confidence last, ties in catalog order. A direction appears once, under its best label.

Three ways lead to a page, and how many rows each would look at decides: *gather* what a selective filter leaves and sort
it; *walk* the directions in the order asked for and leave out what does not fit; *merge* the labels of the matching
texts, each already in order. Walks and merges go on after the last row of the page before, so a page deep inside costs
as much as the first; one that meets far fewer fitting rows than expected stops, and gathers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from sqlalchemy import bindparam, func, select

from eigenbank.registry.catalog import read
from eigenbank.registry.catalog.asked import Asked
from eigenbank.registry.catalog.judge import (
    best_keys,
    labelled_of_source,
    labelled_or_named,
    of_source,
    placed,
    standing,
)
from eigenbank.registry.catalog.match import NAMES, Matches
from eigenbank.registry.catalog.merge_texts import Wanted, merged
from eigenbank.registry.catalog.models import DirectionTable, LabelTable, LayerTable, SpectrumTable
from eigenbank.registry.catalog.query import Position, decode, encode
from eigenbank.registry.catalog.rows import Page
from eigenbank.registry.catalog.scope import Bound, count, counting, labelled_by
from eigenbank.registry.catalog.sql import among, rows_of, unindexed
from eigenbank.registry.catalog.stored import understood
from eigenbank.registry.catalog.walk import Budget, TooFarError, by_column, by_column_sifted, by_number, by_set

PATIENCE = 30_000
"""Rows that a walk or merge may look at before another way is considered."""
_FEW, _MOST = 512, 5_000
"""So many rows are always gathered, and so many at most where a walk is the other way."""
_FEW_LABELS = 200
"""Labels of matching texts that are gathered rather than merged."""
MANY = 400_000
"""More rows than this are never gathered."""

_LAST = select(func.max(DirectionTable.id))
_OF_SPECTRA = (
    select(DirectionTable.id)
    .where(among(DirectionTable.spectrum_id, "numbers"))
    .order_by(unindexed(DirectionTable.id))
    .limit(bindparam("count"))
)
"""Whole spectra in catalog order, a model's set as a rule: the most common question."""


_OF_TEXTS = counting(LabelTable, [among(LabelTable.text_id, "texts")])


@dataclass(frozen=True)
class Driver:
    """A selective way in: a condition on directions, and how many meet it. `bound`: the one it is made of. `partial`:
    matches by names alone are not among them. `scope`: it is the search's scope itself. `matched`: whoever comes in by it
    matches the text. `sources`: it is the sources of labels.
    """

    count: int
    conditions: list[Any]
    bound: Bound | None = None
    partial: bool = False
    scope: bool = False
    matched: bool = False
    sources: bool = False


class Search(Asked):
    """One search in one transaction."""

    def page(self, limit: int, cursor: str | None) -> Page:
        """Return up to `limit` directions after the cursor."""
        digest = self.filters.digest
        after = decode(cursor, digest) if cursor is not None else None
        found = self._find(after, limit + 1)
        rows = read.directions(self.connection, [position.direction for position in found[:limit]])
        with understood():
            return Page(rows, encode(found[limit - 1], digest) if len(found) > limit else None)

    def _find(self, after: Position | None, wanted: int) -> list[Position]:
        if self.scope.spectra == []:
            return []
        driver = self._driver(self._few(wanted))
        if driver is None:
            try:
                return self._page(self._stepwise(after, wanted, Budget(PATIENCE)), wanted)
            except TooFarError:
                driver = self._driver(MANY)
        if driver is None:
            return self._page(self._stepwise(after, wanted, Budget(None)), wanted)
        if driver.scope and after is None and self.column is None and self.matches is None and not self.conditions():
            values = {"numbers": self.scope.spectra, "count": wanted}
            return [Position(0, None, row[0]) for row in rows_of(self.connection, _OF_SPECTRA, values)]
        return self._page(self._gathered(driver, after, wanted), wanted)

    def _few(self, wanted: int) -> int:
        """Up to how many rows gathering is the shorter way: a walk past the others that finds as many as are wanted looks
        at `wanted · all / few` rows. Judging a match takes about twice as long as sorting it; in catalog order the rows lie
        one after the other, and five are looked at while one is fetched from where it is.
        """
        if self.scope.spectra is not None and self.scope.directions <= _FEW:
            return _FEW
        if self.ranked and self.scope.spectra is None and not self.bounds and self.test.sources is None:
            return _FEW  # there is no other way in than by the texts, which has a limit of its own
        asked = self.column, self.matches, self.test.sources
        in_row = all(one is None for one in asked) and self.scope.everything
        few = int((wanted * self._last / (5 if in_row else 1)) ** 0.5)
        return min(max(few // 2 if self.ranked else few, _FEW), _MOST)

    @cached_property
    def _last(self) -> int:
        """The highest number of a direction."""
        return self.connection.execute(_LAST).scalar() or 0

    @staticmethod
    def _page(positions: Iterable[Position], wanted: int) -> list[Position]:
        seen: dict[int, Position] = {}
        for position in positions:
            seen.setdefault(position.direction, position)
            if len(seen) == wanted:
                break
        return list(seen.values())

    # Ways in

    def _driver(self, most: int) -> Driver | None:
        """Return the way in with the fewest directions; None where all have more than `most`."""
        found: list[Driver] = []
        if self.scope.spectra is not None and self.scope.directions <= most:
            spectra = among(DirectionTable.spectrum_id, self.scope.spectra)
            found.append(Driver(self.scope.directions, [spectra], scope=True))
        for bound in self.bounds:
            own = bound.conditions(indexed=True)
            found.append(Driver(count(self.connection, counting(DirectionTable, own), most), own, bound))
        if self.test.sources is not None:
            own = [among(LabelTable.source_id, sorted(self.test.sources)), *self.test.conditions(sources=False)]
            number = count(self.connection, counting(LabelTable, own), most)
            if number <= most:
                found.append(Driver(number, [_labelled(own)], sources=True))
        if self.matches is not None and (self.ranked or self.matches.places is None):
            found += self._by_texts(self.matches, most)
        if most == MANY and self.scope.spectra is None and not self.scope.everything:
            inner = select(SpectrumTable.id).join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
            inner = inner.where(*self.scope.conditions(indexed=True))
            total = self.connection.execute(
                select(func.coalesce(func.sum(SpectrumTable.directions), 0)).where(SpectrumTable.id.in_(inner))
            ).scalar_one()
            found.append(Driver(int(total), [DirectionTable.spectrum_id.in_(inner)]))
        best = min(found, key=lambda driver: driver.count, default=None)
        return best if best is not None and best.count <= most else None

    def _by_texts(self, matches: Matches, most: int) -> list[Driver]:
        """The way in by the labels of the matching texts; none where those are more than `most`."""
        texts = [*matches.tiers, *matches.mixed]
        # Texts have their labels in order already: merging them is rarely the longer way.
        enough = min(most, _FEW_LABELS) if self.ranked else most
        number = count(self.connection, _OF_TEXTS, enough, {"texts": texts})
        if number > enough:
            return []
        directions = [_labelled([among(LabelTable.text_id, texts)])]
        matched = not matches.mixed and self.test.anything
        return [Driver(number, directions, partial=matches.places is not None, matched=matched)]

    # Gathering

    def _gathered(self, driver: Driver, after: Position | None, wanted: int) -> Iterator[Position]:
        others = self.conditions(driver.bound, sources=not driver.sources)
        limits = driver.conditions + others
        column = self.column
        statement = select(DirectionTable.id) if column is None else select(DirectionTable.id, column)
        if not self.ranked:
            statement = self.fitting(statement, limits, scoped=driver.scope, matched=driver.matched)
            yield from self._sorted_by_database(statement, after, wanted)
            return
        if driver.sources and self.matches is not None and self.named is not None:
            found = labelled_of_source(self.connection, self.matches, self.test, self.named)
            numbers = sorted(self.fits(sorted(found), self.conditions(), matched=True))
        else:
            statement = self.fitting(statement, limits, scoped=driver.scope, matched=True)
            numbers = [row[0] for row in rows_of(self.connection, statement)]
            if not driver.matched:
                numbers = sorted(self.fits(numbers, []))
        best = best_keys(self.connection, self.matches, self.test, numbers)
        positions = [standing(number, key) for number, key in best.items() if not (driver.partial and key[0] == NAMES)]
        start = None if after is None else after.order(descending=True)
        keyed = sorted((position.order(descending=True), position) for position in positions)
        yield from (position for key, position in keyed if start is None or key > start)
        if driver.partial:
            yield from self._by_names(after, wanted, Budget(None))

    def _sorted_by_database(self, statement: Any, after: Position | None, wanted: int) -> Iterator[Position]:
        # The way in is chosen: the database must not walk in the order asked for instead.
        number, column = unindexed(DirectionTable.id), self.column
        if column is None:
            if after is not None:
                statement = statement.where(number > after.direction)
            for row in rows_of(self.connection, statement.order_by(number).limit(wanted)):
                yield Position(0, None, row[0])
            return
        plain = unindexed(column)
        if after is None or after.stream == 0:
            known = statement.where(plain.is_not(None))
            if after is not None and after.value is not None:
                beyond = plain < after.value if self.descending else plain > after.value
                known = known.where(beyond | ((plain == after.value) & (number > after.direction)))
            order = plain.desc() if self.descending else plain
            for row in self.connection.execute(known.order_by(order, number).limit(wanted)):
                yield Position(0, row[1], row[0])
        if column.nullable:
            rest = statement.where(plain.is_(None))
            if after is not None and after.stream == 1:
                rest = rest.where(number > after.direction)
            for row in self.connection.execute(rest.order_by(number).limit(wanted)):
                yield Position(1, None, row[0])

    # Step by step

    def _stepwise(self, after: Position | None, wanted: int, budget: Budget) -> Iterator[Position]:
        if self.ranked:
            for positions in self._merged(after, wanted, budget):
                best = best_keys(
                    self.connection, self.matches, self.test, [position.direction for position in positions]
                )
                for position in positions:
                    # Elsewhere it stands under a better label, and was shown there.
                    if standing(position.direction, best[position.direction]) == position:
                        yield position
            yield from self._by_names(after, wanted, budget)
            return
        for batch in self._walked(after, wanted, budget):
            yield from batch

    def _walked(self, after: Position | None, wanted: int, budget: Budget) -> Iterator[list[Position]]:
        if self.column is None and self.matches is None and not (self.scope.everything and not self.conditions()):
            start = after.direction if after is not None else 0
            if self.scope.everything:
                narrow = [(bound, values) for bound in self.bounds if (values := bound.values()) is not None][:1]
                limits = self.conditions(without=[bound for bound, _ in narrow])
                few = among(narrow[0][0].column, narrow[0][1]) if narrow else None
                found = by_number(self.connection, limits, few, start, self._last, wanted, budget)
            else:
                composites = any(each.column is DirectionTable.rank and each.known is False for each in self.bounds)
                found = by_set(
                    self.connection, self.scope, [], self.conditions(), start, wanted, budget, composites=composites
                )
            for numbers in found:
                yield [Position(0, None, number) for number in numbers]
            return
        told = self.starting()
        limits = self.conditions(without=told)
        own = [condition for bound in told for condition in _in_order(bound)]
        if self.matches is not None and self.scope.everything and self.named is not None:
            yield from by_column_sifted(
                self.connection,
                self.column,
                [*limits, labelled_or_named(self.matches, self.test, self.named)],
                descending=self.descending,
                after=after,
                wanted=wanted,
                budget=budget,
                own=own,
            )
            return
        everything = not limits and self.scope.everything and self.matches is None
        yield from by_column(
            self.connection,
            self.column,
            None if everything else lambda numbers: self.fits(numbers, limits),
            descending=self.descending,
            after=after,
            wanted=wanted,
            budget=budget,
            own=own,
        )

    def _merged(self, after: Position | None, wanted: int, budget: Budget) -> Iterator[list[Position]]:
        """The labels of the matching texts, tier by tier: those with a confidence, then those without."""
        assert self.matches is not None
        which = self._wanted()
        for tier in range(NAMES):
            texts = [text for text, found in self.matches.tiers.items() if found == tier]
            if tier == 3:
                texts, which = list(self.matches.mixed), replace(which, sieve=partial(self._sifted, mixed=True))
            for unknown in (False, True):
                stream = 2 * tier + unknown
                if texts and (after is None or after.stream <= stream):
                    start = after if after is not None and after.stream == stream else None
                    yield from merged(self.connection, texts, which, stream, start, wanted, budget)

    def _wanted(self) -> Wanted:
        """What is asked of the labels of matching texts."""
        own: list[str] = []
        values: dict[str, Any] = {}
        if self.test.min_confidence is not None:
            own.append("confidence >= :least")
            values["least"] = self.test.min_confidence
        for bound in self.bounds:
            if bound.column is not DirectionTable.rank:
                continue
            if bound.known is not None:
                own.append("rank IS NOT NULL" if bound.known else "rank IS NULL")
            else:
                own.append("rank = :rank")
                values["rank"] = bound.low
        sifted = self.test.sources is not None or self._limits() or not self.scope.everything
        return Wanted(tuple(own), values, self._sifted if sifted else None)

    def _limits(self) -> list[Any]:
        """The conditions on directions that a label does not tell."""
        found = [bound for bound in self.bounds if bound.column is not DirectionTable.rank]
        return [condition for bound in found for condition in bound.conditions(indexed=False)]

    def _sifted(self, label: Any, *, mixed: bool = False) -> list[Any]:
        """The conditions on a label, given as its columns, that its text's index does not tell. `mixed`: its text lacks some
        terms.
        """
        assert self.matches is not None
        found: list[Any] = []
        if self.test.sources is not None:
            found.append(of_source(label, self.test))
        if mixed:
            found.append(placed(label, self.matches))
        limits = self._limits()
        if limits or not self.scope.everything:
            own = select(DirectionTable.id).where(DirectionTable.id == label.direction_id)
            found.append(self.fitting(own, limits, matched=True).exists())
        return found

    def _by_names(self, after: Position | None, wanted: int, budget: Budget) -> Iterator[Position]:
        """What matches by the names of its layer and model alone."""
        assert self.matches is not None
        if self.matches.places is None:
            return
        start = after.direction if after is not None and after.stream == 2 * NAMES else 0
        places = list(self.matches.places)
        limits = self.conditions()
        if not self.test.anything:
            limits.append(labelled_by(self.test))
        for numbers in by_set(self.connection, self.scope, places, limits, start, wanted, budget):
            best = best_keys(self.connection, self.matches, self.test, numbers)
            for number in numbers:
                if best[number][0] == NAMES:
                    yield Position(2 * NAMES, None, number)


def _labelled(label: list[Any]) -> Any:
    """The condition that a direction has a label that meets some conditions."""
    return DirectionTable.id.in_(select(LabelTable.direction_id).where(*label))


def _in_order(bound: Bound) -> list[Any]:
    """The conditions of a bound as an index in the order asked for has them."""
    if bound.column is DirectionTable.rank and bound.known is False:
        return [DirectionTable.composite.is_not(None)]
    return bound.conditions(indexed=True)
