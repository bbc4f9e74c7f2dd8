"""Searching: pages of directions, the best match first or in another order.

How well a direction matches a text is said in `ranking`, and here once more as one SQL expression, its score: the level of its best
label times STEP, and the label's worth. The full-text index gives the texts that hold the words; the rest is one plain SELECT.

Two things keep it fast in large catalogs. Where some filter leaves at most FEW directions (or the text does, in another order than
the best match first), these are all read and sorted; else the index of the order is walked until the page is full, which for a text
is done level by level. And of a level's labels, those below a worth that enough others reach are left out (`_walk_labels`). The next
page begins after the last row of the one before.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json
from sqlalchemy import Connection

from eigenbank.registry.catalog.database import by_index, holding, inflated, run, texts_with
from eigenbank.registry.catalog.tables import MEASURES, RISING
from eigenbank.registry.ranking import Level, Query, Sort, is_glob, matcher
from eigenbank.schemas import Label, Quality
from eigenbank.schemas.errors import CatalogError, unknown

LORA = "lora/"
"""What the name of a LoRA begins with, also where it is kept."""
FEW = 1_500
"""Up to so many directions are sorted rather than met on a walk."""
STEP = 4
"""More than any worth."""


def bare_name(own: str) -> str:
    """Return the name, within its model, of a composite or LoRA, by the one it is kept under."""
    return own if own.startswith(LORA) else f"composite/{own}"


@dataclass(frozen=True)
class DirectionRow:
    """A direction, composite or LoRA with everything the catalog knows of it. A composite has its name for `composite`, a LoRA
    its own, `lora/NAME`, and both None for layer, kind, width, recipe, rank, eigenvalue, share and gap. `confidence` is the highest
    of its labels'; from `effect` on, numbers are of its quality.
    """

    model_id: str
    revision: str | None
    location: str
    layer: str | None
    kind: str | None
    width: int | None
    recipe: str | None
    rank: int | None
    composite: str | None
    eigenvalue: float | None
    share: float | None
    gap: float | None
    confidence: float | None
    effect: float | None
    selectivity: float | None
    consistency: float | None
    linearity: float | None
    locality: float | None
    drift: float | None
    label_texts: list[str]
    """The labels' texts, the most confident first."""
    details: bytes
    """Labels and qualities of all directions of its spectrum, compressed: read when they are asked for."""

    @property
    def _own(self) -> Any:
        return unpack(self.details).get(self.name, {})

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        """The labels, the most confident first, those without a confidence last. Raises CatalogError for what is damaged."""
        with holding("labels of a direction"):
            return tuple(map(Label.model_validate, self._own.get("labels", ())))

    @cached_property
    def quality(self) -> Quality | None:
        """What was measured of it as a slider, None for nothing. Raises CatalogError for what is damaged."""
        with holding("a direction's quality"):
            found = self._own.get("quality")
            return None if found is None else Quality.model_validate(found)

    @property
    def name(self) -> str:
        """The name within its model, `LAYER/RECIPE/RANK`, `composite/NAME` or `lora/NAME`."""
        return f"{self.layer}/{self.recipe}/{self.rank}" if self.composite is None else bare_name(self.composite)

    @property
    def id(self) -> str:
        """The full name: `MODEL_ID#`, and the name within the model."""
        return f"{self.model_id}#{self.name}"


def pack(details: Mapping[str, Any]) -> bytes:
    """Compress the labels and qualities of a spectrum's directions, by their names."""
    return zlib.compress(to_json({name: own for name, own in sorted(details.items()) if any(own.values())}), 2)


@lru_cache(maxsize=100)  # the rows of a page have it in common
def unpack(packed: bytes) -> Mapping[str, Any]:
    """Return what was packed. Raises CatalogError for what is damaged."""
    with holding("labels of a direction"):
        return dict(from_json(inflated(packed)))


def read(connection: Connection, numbers: Sequence[int]) -> list[DirectionRow]:
    """Return directions in the order of the numbers given."""
    statement = (
        "SELECT d.id, p.id, s.model_id, nullif(s.revision, ''), s.location, layer.text, p.kind, p.width, p.recipe, d.rank, "
        f"composite.text, {', '.join(f'd.{name}' for name in MEASURES)} FROM directions d JOIN spectra p ON p.id = d.spectrum_id "
        "JOIN sets s ON s.id = p.set_id LEFT JOIN texts layer ON layer.id = p.name_id "
        "LEFT JOIN texts composite ON composite.id = d.name_id WHERE d.id IN :numbers*"
    )
    rows = {row[0]: row for row in run(connection, statement, numbers=list(numbers))}
    own = "l.direction_id, t.text FROM labels l JOIN texts t ON t.id = l.text_id WHERE l.direction_id IN :numbers*"
    texts: dict[int, list[str]] = {number: [] for number in numbers}
    order = "l.confidence IS NULL, l.confidence DESC, t.text"
    for number, text in run(connection, f"SELECT {own} ORDER BY {order}", numbers=list(numbers)):
        texts[number].append(text)
    spectra = list({row[1] for row in rows.values()})
    details = dict(run(connection, "SELECT id, details FROM spectra WHERE id IN :spectra*", spectra=spectra).all())
    return [DirectionRow(*(*rows[number][2:], texts[number], details[rows[number][1]])) for number in numbers]


@dataclass(frozen=True)
class Page:
    """A page of directions. `cursor` gives the next one to the same search; None at the end."""

    rows: list[DirectionRow]
    cursor: str | None

    def __iter__(self) -> Iterator[DirectionRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Filters:
    """What a search asks for. `model`, `layer` and `recipe` are names or globs (`*`, `?`, `[…]`); bounds are inclusive.

    `source` is a label's source, its first part (`human`) or a glob. `source`, `min_confidence` and the text must be
    met by the same label. `labelled` False: directions without any label. `composites`: only those, or none of them; they
    have no layer, recipe, rank, eigenvalue, share and gap, and filters on these leave them out. What is not known of a
    direction is within no bounds, and comes last in its order.
    """

    text: str | None = None
    model: str | None = None
    layer: str | None = None
    recipe: str | None = None
    rank: int | None = None
    kind: str | None = None
    width: int | None = None
    denoiser: str | None = None
    licence: str | None = None
    location: str | None = None
    min_eigenvalue: float | None = None
    max_eigenvalue: float | None = None
    min_share: float | None = None
    max_share: float | None = None
    source: str | None = None
    min_confidence: float | None = None
    labelled: bool | None = None
    min_gap: float | None = None
    min_effect: float | None = None
    min_selectivity: float | None = None
    min_consistency: float | None = None
    min_linearity: float | None = None
    min_locality: float | None = None
    max_drift: float | None = None
    composites: bool | None = None
    sort: Sort = "match"


class _Position(NamedTuple):
    """Where a page ended: at which score or value (None where it is not known), and at which direction."""

    value: float | None
    direction: int


def search(connection: Connection, filters: Filters, limit: int, cursor: str | None) -> Page:
    """Return up to `limit` directions that meet the filters, after the cursor.

    Raises UnknownNameError for a model, layer or recipe given by its plain name that is not there, CatalogError for a cursor of
    another search, SearchError for a text of too many words.
    """
    digest = hashlib.sha256(ascii(astuple(filters)).encode()).hexdigest()[:12]
    after = None if cursor is None else _read_cursor(cursor, digest)
    found = _Search(connection, filters, after, limit + 1).find()
    more = json.dumps([digest, *found[limit - 1]]).encode() if len(found) > limit else None
    rows = read(connection, [position.direction for position in found[:limit]])
    return Page(rows, None if more is None else base64.urlsafe_b64encode(more).decode().rstrip("="))


def _read_cursor(cursor: str, digest: str) -> _Position:
    """Read a cursor. Raises CatalogError for what is none, or one of another search."""
    try:
        found, value, direction = json.loads(base64.urlsafe_b64decode(cursor[:1000].encode() + b"==="))
        position = _Position(None if value is None else float(value), int(direction))
    except (ValueError, TypeError, RecursionError, OverflowError):
        position = None
    if position is None or not isinstance(found, str) or abs(position.direction) >= 2**63:
        message = f"{cursor[:80]!r} is not a cursor: expected one that an earlier page of the same search gave."
        raise CatalogError(message)
    if found != digest:
        message = "the cursor is of another search: repeat the search that gave it, with the same filters and order."
        raise CatalogError(message)
    return position


def label_sources(connection: Connection, source: str) -> list[int]:
    """Return the numbers of the sources that are meant: a name, its first part or a glob."""
    fits = matcher(source)
    rows = run(connection, "SELECT id, text FROM sources")
    return [number for number, name in rows if fits(name) or name.partition(":")[0] == source]


class _Search:
    """One search in one transaction: conditions on d (directions) and p (spectra), and on a label, b; the values in them; and other
    SELECTs (`ways`), of which each holds the number of every direction that meets the filters.
    """

    def __init__(self, connection: Connection, filters: Filters, after: _Position | None, wanted: int) -> None:
        self.connection = connection
        self.filters = filters
        self.after = after
        self.wanted = wanted
        self.values: dict[str, Any] = {}
        self.where = ["p.id = d.spectrum_id"]
        self.of_label: list[str] = []
        self.ways: list[str] = []
        self._counts: dict[str, int] = {}
        if after is not None:
            self.values |= {"last": after.value, "last_id": after.direction}
        self._limit_places()
        self._limit_directions()
        self.groups: dict[tuple[Level, tuple[int, ...]], str] = {}
        if filters.text is not None:
            self._match(Query.parse(filters.text))
            self.score = self._score()
        elif self.of_label:
            self.where.append(self._labelled())

    # Filters

    def _limit_places(self) -> None:
        filters, place = self.filters, []
        sets = self._sets()
        if sets is not None:
            place.append("p.set_id IN :sets*")
            self.values["sets"] = sets
        named = {
            "layer": ("p.name_id", "p.name_id, t.text FROM spectra p JOIN texts t ON t.id = p.name_id"),
            "recipe": ("p.recipe", "p.recipe, p.recipe FROM spectra p"),
            "kind": ("p.kind", "p.kind, p.kind FROM spectra p"),
        }
        of_sets = " AND ".join(place) or "1 = 1"
        for name, (column, source) in named.items():
            pattern = getattr(filters, name)
            if pattern is not None:
                place.append(f"{column} IS NOT NULL" if set(pattern) == {"*"} else f"{column} IN :{name}*")
                known = self._run(f"SELECT DISTINCT {source} WHERE {column} IS NOT NULL AND {of_sets}").all()
                fits = matcher(pattern)
                self.values[name] = [number for number, text in known if fits(text)]
                if not self.values[name] and not is_glob(pattern) and name != "kind":
                    raise unknown(kind=name, name=pattern, known=[text for _, text in known])
        if filters.width is not None:
            place.append("p.width = :width")
            self.values["width"] = _bounded(filters.width)
        if filters.composites is not None:
            place.append(f"p.name_id IS {'' if filters.composites else 'NOT '}NULL")
        if place:
            self.where += place
            self.ways.append(_in_spectra(place))

    def _sets(self) -> list[int] | None:
        """The numbers of the sets that are meant; None for all."""
        filters = self.filters
        asked = {
            "model_id": filters.model, "denoiser": filters.denoiser, "licence": filters.licence, "location": filters.location
        }  # fmt: skip
        tests = {name: matcher(pattern) for name, pattern in asked.items() if pattern is not None}
        if not tests:
            return None
        rows = run(self.connection, f"SELECT id, model_id, {', '.join(tests)} FROM sets").all()
        if filters.model is not None and not is_glob(filters.model) and all(row[1] != filters.model for row in rows):
            raise unknown(kind="model", name=filters.model, known={row[1] for row in rows})
        return [
            number
            for number, _, *values in rows
            if all(value is not None and test(value) for value, test in zip(values, tests.values(), strict=True))
        ]

    def _limit_directions(self) -> None:
        filters = self.filters
        for column in MEASURES:
            bounds = []
            for end, sign in (("min", ">="), ("max", "<=")):
                value = getattr(filters, f"{end}_{column}", None)
                if value is not None:
                    self.values[f"{end}_{column}"] = value
                    bounds.append(f"d.{column} {sign} :{end}_{column}")
            if bounds:
                self.where += bounds
                self.ways.append(f"SELECT d.id FROM directions d WHERE {' AND '.join(bounds)}")
        if filters.rank is not None:
            self.values["rank"] = _bounded(filters.rank)
            self.where.append("d.rank = :rank")
            self.ways.append("SELECT d.id FROM directions d WHERE d.rank = :rank")
        if filters.labelled is not None:
            self.where.append(f"d.labels {'>' if filters.labelled else '='} 0")
        if filters.source is not None:
            self.values["sources"] = label_sources(self.connection, filters.source)
            self.of_label.append("source_id IN :sources*")
            self.ways.append("SELECT direction_id AS id FROM labels WHERE source_id IN :sources*")
        if filters.min_confidence is not None:
            self.of_label.append("confidence >= :min_confidence")

    def _labelled(self) -> str:
        """The condition that a direction has a label that meets the filters."""
        return f"EXISTS (SELECT 1 FROM labels b WHERE {' AND '.join(self._of_label('b', 'direction_id = d.id'))})"

    def _of_label(self, name: str, *more: str) -> list[str]:
        """The conditions that a label, by the name of its table, meets the filters, and some more."""
        return [f"{name}.{condition}" for condition in (*more, *self.of_label)]

    # The text

    def _match(self, query: Query) -> None:
        """Sort the texts that hold terms of a query into groups, by level and by the terms they lack, which a direction's names must
        have then. The group of the names alone has no texts.
        """
        holding = [texts_with(self.connection, term.words, prefix=term.prefix) for term in query.terms]
        every = {number: text for found in holding for number, text in found.items()}
        self.values["every"] = list(every)
        of_sets = self._run("SELECT name_id, id FROM sets WHERE name_id IN :every*").all()
        used = "EXISTS (SELECT 1 FROM spectra WHERE name_id = t.id) OR EXISTS (SELECT 1 FROM directions WHERE name_id = t.id)"
        names = set(self._run(f"SELECT id FROM texts t WHERE id IN :every* AND ({used})").scalars())
        in_names = []
        for term, found in enumerate(holding):
            self.values[f"names{term}"] = [number for number in found if number in names]
            self.values[f"sets{term}"] = [set_id for name_id, set_id in of_sets if name_id in found]
            in_names.append(bool(self.values[f"names{term}"] or self.values[f"sets{term}"]))
        for number, text in every.items():
            lacks = tuple(term for term, found in enumerate(holding) if number not in found)
            if all(in_names[term] for term in lacks):
                level = Level.MIXED if lacks else query.level(text)
                key = self.groups.setdefault((level, lacks), f"texts{len(self.groups)}")
                self.values.setdefault(key, []).append(number)
        if holding and all(in_names):
            self.groups[Level.NAMES, tuple(range(len(holding)))] = ""

    def _score(self) -> str:
        """The score of a direction; NULL where it does not match."""
        cases, by_names = [], "NULL"
        for (level, lacks), key in sorted(self.groups.items(), reverse=True):
            if key:
                conditions = [f"b.text_id IN :{key}*", *self._named(lacks)]
                cases.append(f"WHEN {' AND '.join(conditions)} THEN {STEP * level} + b.worth")
            else:
                conditions = [*self._named(lacks), *([self._labelled()] if self.of_label else [])]
                by_names = f"CASE WHEN {' AND '.join(conditions)} THEN {STEP * level} END"
        if not cases:
            return by_names
        own = " AND ".join(self._of_label("b", "direction_id = d.id"))
        return f"coalesce((SELECT max(CASE {' '.join(cases)} END) FROM labels b WHERE {own}), {by_names})"

    def _named(self, terms: Iterable[int], where: str = "d") -> list[str]:
        """The conditions that a direction's names have some terms; with `where` "p", those that its spectrum meets then."""
        conditions = []
        for term in terms:
            ways = [f"p.name_id IN :names{term}*"]
            ways.append("p.name_id IS NULL" if where == "p" else f"d.name_id IN :names{term}*")
            ways += [f"p.set_id IN :sets{term}*"] if self.values[f"sets{term}"] else []
            conditions.append(f"({' OR '.join(ways)})")
        return conditions

    def _way(self, terms: Iterable[int]) -> str:
        """A selection of the directions whose names have some terms."""
        return _in_spectra([*self._named(terms, "p"), *self._named(terms)])

    # Finding

    def find(self) -> list[_Position]:
        """Find the next directions; ties are in catalog order."""
        sort, more = self.filters.sort, []
        by_score = self.filters.text is not None and sort == "match"
        if self.filters.text is not None:
            if not self.groups:
                return []
            if not by_score:
                self.where.append(f"{self.score} IS NOT NULL")
                # Those of labels first: they are counted at once, and may be too many by themselves.
                groups = sorted(self.groups.items(), reverse=True)
                own = "SELECT direction_id AS id FROM labels WHERE text_id IN :{}*"
                more = [[self._way(lacks) if lacks else own.format(key) for (_, lacks), key in groups]]
        value = self.score if by_score else "NULL" if sort in ("match", "catalog") else f"d.{sort}"
        few = self._few(*more)
        if few is not None:
            found = self._first(self._scan(few, value))
            return [position for position in found if position.value is not None or not by_score]
        return self._by_level() if by_score else self._by_column(value)

    def _few(self, *more: Sequence[str]) -> str | None:
        """The selection with the fewest directions: a way, or more ways taken together; None where each has more than FEW."""
        counted = []
        for ways in (*([way] for way in self.ways), *more):
            total = 0
            for way in ways:
                if total <= FEW and way not in self._counts:
                    count = f"SELECT count(*) FROM (SELECT 1 AS one FROM ({way}) w LIMIT {FEW + 1}) found"
                    self._counts[way] = self._run(count).scalar_one()
                total += self._counts.get(way, 0)
            counted.append((total, " UNION ALL ".join(ways)))
        total, best = min(counted, default=(FEW + 1, ""))
        return best if total <= FEW else None

    def _scan(self, few: str, value: str) -> list[_Position]:
        """All of a few directions that meet the filters."""
        begin = f"(SELECT DISTINCT id FROM ({few}) f) c CROSS JOIN directions d CROSS JOIN spectra p"
        where = " AND ".join(["d.id = c.id", *self.where])
        return [_Position(*row) for row in self._run(f"SELECT {value}, d.id FROM {begin} WHERE {where}")]

    def _walk(self, value: str, begin: str, conditions: Sequence[str], order: str) -> list[_Position]:
        """The next directions along an index."""
        where = " AND ".join([*self.where, *conditions])
        statement = f"SELECT DISTINCT {value}, d.id FROM {begin} CROSS JOIN spectra p WHERE {where} ORDER BY {order} LIMIT {self.wanted}"
        return [_Position(*row) for row in self._run(statement)]

    def _first(self, found: Iterable[_Position]) -> list[_Position]:
        """The first of some directions after the last page."""
        sign = 1 if self.filters.sort in RISING else -1

        def key(position: _Position) -> tuple[bool, float, int]:
            return position.value is None, sign * (position.value or 0), position.direction

        after = self.after
        return sorted((each for each in found if after is None or key(each) > key(after)), key=key)[: self.wanted]

    def _by_column(self, column: str) -> list[_Position]:
        """The next directions along a column, those without a value last; in catalog order where the column is NULL."""
        index = None if column == "NULL" else f"ix_directions_{self.filters.sort}"
        begin = f"directions d {by_index(self.connection, index)}"
        after, found = self.after, []
        if index is not None and (after is None or after.value is not None):
            less, way = (">", "ASC") if self.filters.sort in RISING else ("<", "DESC")
            # The bound by itself is what an index can start from.
            bound = f"{column} {less}= :last AND ({column} {less} :last OR d.id > :last_id)"
            conditions = [f"{column} IS NOT NULL", *([] if after is None else [bound])]
            found = self._walk(column, begin, conditions, f"{column} {way}, d.id")
        if len(found) < self.wanted:
            conditions = [f"{column} IS NULL"] if index is not None else []
            conditions += [] if after is None or after.value is not None else ["d.id > :last_id"]
            found += self._walk("NULL", begin, conditions, "d.id")
        return found[: self.wanted]

    def _by_level(self) -> list[_Position]:
        """The next directions that match the text, level by level."""
        found: list[_Position] = []
        for level in sorted({level for level, _ in self.groups}, reverse=True):
            if len(found) < self.wanted and (self.after is None or (self.after.value or 0) >= STEP * level):
                rows: set[_Position] = set()
                for (each, lacks), key in self.groups.items():
                    if each == level:
                        rows.update(self._of_group(level, lacks, key))
                found += self._first(rows)
        return found[: self.wanted]

    def _of_group(self, level: Level, lacks: tuple[int, ...], key: str) -> list[_Position]:
        few = self._few([self._way(lacks)]) if lacks else None
        if few is not None:
            rows = self._scan(few, self.score)
            return [row for row in rows if row.value is not None and STEP * level <= row.value < STEP * (level + 1)]
        if key:
            return self._walk_labels(level, lacks, key)
        begin = f"directions d {by_index(self.connection, None)}"
        conditions = [*self._named(lacks), f"{self.score} = {STEP * level}"]
        if self.after is not None and self.after.value == STEP * level:
            conditions.append("d.id > :last_id")
        return self._walk(f"{STEP * level}", begin, conditions, "d.id")

    def _walk_labels(self, level: Level, lacks: tuple[int, ...], key: str) -> list[_Position]:
        """The next directions of which a label of some texts is the best, by its worth."""
        score = f"{STEP * level} + l.worth"
        begin = f"labels l {by_index(self.connection, 'ix_labels_text_id')} CROSS JOIN directions d"
        conditions = self._of_label("l", f"text_id IN :{key}*", "direction_id = d.id")
        conditions += [*self._named(lacks), f"{score} = {self.score}"]
        below = ""
        if self.after is not None and self.after.value is not None and self.after.value < STEP * (level + 1):
            self.values["most"] = self.after.value - STEP * level + 1e-6
            below = " AND l.worth <= :most"
            conditions.append(f"l.worth <= :most AND ({score} < :last OR {score} = :last AND d.id > :last_id)")
        order, offset = "1 DESC, d.id", self.wanted
        while True:
            # A worth that more than `offset` of the labels of one text reach: of the others, most are below it.
            one = f"SELECT l.worth FROM labels l WHERE l.text_id = t.id{below} ORDER BY l.worth DESC LIMIT 1 OFFSET {offset}"
            floor = self._run(f"SELECT max(({one})) FROM texts t WHERE t.id IN :{key}*").scalar()
            if floor is None:
                return self._walk(score, begin, conditions, order)
            self.values["floor"] = floor
            found = self._walk(score, begin, [*conditions, "l.worth >= :floor"], order)
            if len(found) >= self.wanted:
                return found
            offset *= 4

    def _run(self, statement: str) -> Any:
        return run(self.connection, statement, **self.values)


def _in_spectra(conditions: Sequence[str]) -> str:
    """A selection of the directions of some spectra."""
    return f"SELECT d.id FROM spectra p CROSS JOIN directions d WHERE {' AND '.join(['d.spectrum_id = p.id', *conditions])}"


def _bounded(number: int) -> int:
    """A number that is asked for. Beyond what the database can hold there is nothing."""
    return number if 0 <= number < 2**31 else -1
