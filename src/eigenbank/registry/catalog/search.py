"""Searching: pages of directions, the best match first or in another order.

How well a direction matches a text is said in `ranking`: its levels are streams of labels, the best level first, each in the order
of the labels' worth. A direction stands once, under its best label. The texts that hold the words of a query come from the
full-text index; the rest is one plain SELECT for each level, or for each order.

Two things keep it fast in large catalogs. Where some filter leaves at most FEW directions, the statement begins with those; else it
walks along the index of the order. And of the labels of a level, those below a worth that enough others reach are left out (`_floor`).
Pages follow one another by key: the next one begins after the last row of the one before.
"""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import to_json
from sqlalchemy import Connection

from eigenbank.registry.catalog.database import by_index, run, texts_with
from eigenbank.registry.catalog.tables import MEASURES
from eigenbank.registry.ranking import Level, Query, Sort, is_glob, matcher
from eigenbank.schemas import Label, Quality
from eigenbank.schemas.errors import CatalogError, first_problem, unknown

FEW = 1_500
"""Up to so many directions are sorted rather than met on a walk."""
_ASCENDING = ("rank", "drift")
"""The orders in which the smallest comes first."""
_BOUNDED = (*MEASURES, "drift")
"""Columns of directions that a filter can bound."""
COMPOSITE = "composite/"
"""What the name of a composite begins with; a LoRA's, `lora/`, is kept with its name."""
LORA = "lora/"
Document = dict[str, Any]
"""A label, or another part of a manifest: the fields of a model, or plain JSON. What stands inside may be models either way."""


# Directions and their names


@dataclass(frozen=True)
class DirectionName:
    """A direction's full name taken apart; a composite's or LoRA's has `composite` alone."""

    model_id: str
    layer: str = ""
    recipe: str = ""
    rank: int = 0
    composite: str | None = None

    @property
    def bare(self) -> str:
        """The name within the model."""
        return f"{self.layer}/{self.recipe}/{self.rank}" if self.composite is None else bare_name(self.composite)

    @classmethod
    def parse(cls, text: str) -> "DirectionName | None":
        """Read `MODEL_ID#LAYER/RECIPE/RANK`, `MODEL_ID#composite/NAME` or `MODEL_ID#lora/NAME`; None for what is of no such form."""
        found = _NAME.fullmatch(text) if storable(text) else None
        if found is None:
            return None
        own = found["lora"] or found["composite"]
        return cls(found[1], found["layer"] or "", found["recipe"] or "", int(found["rank"] or 0), own)


def bare_name(own: str) -> str:
    """Return the name, within its model, of a composite or LoRA, by the one it is kept under."""
    return own if own.startswith(LORA) else f"{COMPOSITE}{own}"


# A rank has one written form: '03', '+3' and '³' name nothing.
_NAME = re.compile(
    r"([^#]+)#(?:composite/(?P<composite>[^/]+)|(?P<lora>lora/[^/]+)|(?P<layer>.+)/(?P<recipe>[^/]*)/(?P<rank>0|[1-9][0-9]{0,8}))",
    re.DOTALL,
)


def storable(text: str) -> bool:
    """Whether a string can be a parameter: text from a shell may hold what is no Unicode. Such a name is nobody's."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


_LIKELY = (
    b'"seeds":[200,201,202,203,204,205,206,207,208,209,210],"steps":10},"note":null,"created":"2026-01-01T00:00:00Z"},{"text":"'
    b'","polarity":-1,"confidence":1.0,"source":"human:","source":"clip:openai/clip-vit-large-patch14@","source":"statistics",'
    b'"evidence":null,"recommended_range":[-1.0,1.0],"locality":0.,"drift":0.,"scale":0.5,"quality":{"source":"attribute-model:",'
    b'"effect":0.,"selectivity":1.0,"consistency":1.0,"linearity":0.,"created":"2026-11-2T1:00:00Z"}],{"labels":[{"text":"",'
    b'"polarity":1,"confidence":0.,"source":"attribute-model:","evidence":{"effect":1.,"selectivity":0.,"consistency":1.0,'
    b'"asymmetry":0.,"null":0.,"runner_up":"","runner_up_effect":-0.,"scale":1.0,"seeds":[100,101,102,103,104,105,106,107,108,109,'
    b'110,111,112,113,114,115],"steps":20}'
)
"""What details are likely to hold: with it they take half the room. A change of it is a change of `tables.VERSION`."""
_COMPRESSOR = zlib.compressobj(3, zlib.DEFLATED, -12, 4, zlib.Z_DEFAULT_STRATEGY, _LIKELY)
"""Copied for each direction. A small window and little memory: setting them up would take longer than the work."""
_MAX_DETAILS = 64 * 2**20


def pack(labels: Sequence[Document], quality: Document | None) -> bytes | None:
    """Compress what is kept with a direction; None for nothing."""
    if not labels and quality is None:
        return None
    compressor = _COMPRESSOR.copy()
    return compressor.compress(to_json({"labels": labels, "quality": quality})) + compressor.flush()


def unpack(packed: bytes | None) -> bytes:
    """Return what was packed, as JSON. Raises CatalogError for what is damaged."""
    if packed is None:
        return b'{"labels":[],"quality":null}'
    try:
        return zlib.decompressobj(-12, _LIKELY).decompress(packed, _MAX_DETAILS)
    except (zlib.error, TypeError) as error:
        message = f"the catalog holds a direction whose labels cannot be read ({error}). Run: eigenbank catalog reindex"
        raise CatalogError(message) from error


@dataclass(frozen=True)
class DirectionRow:
    """A direction, composite or LoRA with everything the catalog knows of it. A composite has its name for `composite`, a LoRA
    its own, `lora/NAME`, and both None for layer, kind, width, recipe, rank, eigenvalue, share and gap.
    """

    model_id: str
    revision: str | None
    location: str
    layer: str | None
    kind: str | None
    width: int | None
    recipe: str | None
    rank: int | None
    eigenvalue: float | None
    share: float | None
    gap: float | None
    composite: str | None
    details: bytes | None
    """Labels and quality, compressed: read when they are asked for."""

    @cached_property
    def _known(self) -> Document:
        found: Document = json.loads(unpack(self.details))
        return found

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        """The labels, the most confident first, those without a confidence last. Raises CatalogError for what is damaged."""
        return tuple(_checked(Label, each) for each in self._known["labels"])

    @cached_property
    def quality(self) -> Quality | None:
        """What was measured of it as a slider, None for nothing. Raises CatalogError for what is damaged."""
        found = self._known["quality"]
        return None if found is None else _checked(Quality, found)

    @property
    def label_texts(self) -> list[str]:
        """The labels' texts, the most confident first."""
        return [label["text"] for label in self._known["labels"]]

    @property
    def confidence(self) -> float | None:
        """The highest confidence of any label; None where none says one."""
        labels = self._known["labels"]
        return labels[0]["confidence"] if labels else None

    @property
    def name(self) -> str:
        """The name within its model, `LAYER/RECIPE/RANK`, `composite/NAME` or `lora/NAME`."""
        if self.composite is not None:
            return bare_name(self.composite)
        return f"{self.layer}/{self.recipe}/{self.rank}"

    @property
    def id(self) -> str:
        """The full name: `MODEL_ID#`, and the name within the model."""
        return f"{self.model_id}#{self.name}"


def _checked(kind: Any, found: Document) -> Any:
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        message = f"the catalog holds a direction whose labels cannot be read ({first_problem(error)}). Run: eigenbank catalog reindex"
        raise CatalogError(message) from error


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
    """Where a page ended: in which stream of a search, at which value and direction."""

    stream: int
    value: float
    direction: int


def _write_cursor(position: _Position, digest: str) -> str:
    document = json.dumps([digest, *position])
    return base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")


def _read_cursor(cursor: str, digest: str) -> _Position:
    """Read a cursor. Raises CatalogError for what is none, or one of another search."""
    try:
        found, stream, value, direction = json.loads(base64.urlsafe_b64decode(cursor[:1000].encode() + b"==="))
        position = _Position(int(stream), float(value), int(direction))
    except (ValueError, TypeError, RecursionError, OverflowError):
        position = None
    if position is None or abs(position.direction) >= 2**63:
        message = f"{cursor[:80]!r} is not a cursor: expected one that an earlier page of the same search gave."
        raise CatalogError(message)
    if found != digest:
        message = "the cursor is of another search: repeat the search that gave it, with the same filters and order."
        raise CatalogError(message)
    return position


def search(connection: Connection, filters: Filters, limit: int, cursor: str | None) -> Page:
    """Return up to `limit` directions that meet the filters, after the cursor.

    Raises UnknownNameError for a model, layer or recipe given by its plain name that is not there, CatalogError for a cursor of
    another search, SearchError for a text of too many words.
    """
    digest = hashlib.sha256(ascii(astuple(filters)).encode()).hexdigest()[:12]
    after = None if cursor is None else _read_cursor(cursor, digest)
    asked = _Search(connection, filters)
    found = list(asked.find(after, limit + 1))
    rows = directions(connection, [position.direction for position in found[:limit]])
    return Page(rows, _write_cursor(found[limit - 1], digest) if len(found) > limit else None)


def directions(connection: Connection, numbers: Sequence[int]) -> list[DirectionRow]:
    """Return directions in the order of the numbers given."""
    statement = (
        "SELECT d.id, s.model_id, nullif(s.revision, ''), s.location, layer.text, p.kind, p.width, p.recipe, d.rank, d.eigenvalue, "
        "d.share, d.gap, composite.text, d.details FROM directions d JOIN spectra p ON p.id = d.spectrum_id "
        "JOIN sets s ON s.id = p.set_id LEFT JOIN texts layer ON layer.id = p.name_id "
        "LEFT JOIN texts composite ON composite.id = d.name_id WHERE d.id IN :numbers*"
    )
    rows = {row[0]: DirectionRow(*row[1:]) for row in run(connection, statement, numbers=list(numbers))}
    return [rows[number] for number in numbers]


def label_sources(connection: Connection, source: str) -> list[int]:
    """Return the numbers of the sources that are meant: a name, its first part or a glob."""
    fits = matcher(source)
    rows = run(connection, "SELECT id, text FROM sources")
    return [number for number, name in rows if fits(name) or name.partition(":")[0] == source]


class _Search:
    """One search in one transaction: the conditions of its SELECTs, on d (directions), p (spectra) and labels; their values; and
    other SELECTs (`ways`) of which each holds the number of every direction that meets the filters.
    """

    def __init__(self, connection: Connection, filters: Filters) -> None:
        self.connection = connection
        self.filters = filters
        self.values: dict[str, Any] = {}
        self.where: list[str] = []
        self.ways: list[str] = []
        self.of_labels: list[str] = []
        self._counts: dict[str, int] = {}
        self._limit_places()
        self._limit_directions()
        self._limit_labels()
        self.matches = None if filters.text is None else _Matches(connection, filters.text, self.values)

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
                    raise unknown(kind=name, name=_short(pattern), known=[text for _, text in known])
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
        if filters.model is not None and not is_glob(filters.model):
            known = "SELECT 1 FROM sets WHERE model_id = :model LIMIT 1"
            if not storable(filters.model) or run(self.connection, known, model=filters.model).first() is None:
                models = run(self.connection, "SELECT DISTINCT model_id FROM sets").scalars()
                raise unknown(kind="model", name=_short(filters.model), known=models)
        given = {name: getattr(filters, name) for name in ("denoiser", "licence", "location")}
        asked = {"model_id": filters.model, **given}
        tests = {name: matcher(pattern) for name, pattern in asked.items() if pattern is not None}
        if not tests:
            return None
        rows = run(self.connection, f"SELECT id, {', '.join(tests)} FROM sets")
        return [
            number
            for number, *values in rows
            if all(value is not None and test(value) for value, test in zip(values, tests.values(), strict=True))
        ]

    def _limit_directions(self) -> None:
        filters = self.filters
        for column in _BOUNDED:
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

    def _limit_labels(self) -> None:
        filters = self.filters
        if filters.source is not None:
            self.values["sources"] = label_sources(self.connection, filters.source)
            self.of_labels.append("source_id IN :sources*")
            self.ways.append("SELECT direction_id AS id FROM labels WHERE source_id IN :sources*")
        if filters.min_confidence is not None:
            self.of_labels.append("confidence >= :min_confidence")

    def _labelled(self, *conditions: str) -> str:
        """The condition that a direction has a label, b, that meets the filters and some more conditions."""
        own = [f"b.{condition}" for condition in self.of_labels]
        return f"EXISTS (SELECT 1 FROM labels b WHERE {' AND '.join(['b.direction_id = d.id', *own, *conditions])})"

    def _few(self, *more: str) -> str | None:
        """The way with the fewest directions, as a selection; None where each has more than FEW."""
        for way in (*self.ways, *more):
            if way not in self._counts:
                count = f"SELECT count(*) FROM (SELECT 1 AS one FROM ({way}) w LIMIT {FEW + 1}) found"
                self._counts[way] = self._run(count).scalar_one()
        best = min((*self.ways, *more), key=self._counts.__getitem__, default="")
        return best if best and self._counts[best] <= FEW else None

    def _run(self, statement: str, place: _Position | None = None) -> Any:
        values = self.values if place is None else {**self.values, "last": place.value, "last_id": place.direction}
        needed = {name: value for name, value in values.items() if f":{name}" in statement}
        return run(self.connection, statement, **needed)

    def _find(
        self,
        columns: str,
        walk: str,
        few: str | None,
        conditions: Iterable[str],
        order: str,
        wanted: int,
        place: _Position | None,
    ) -> list[Any]:
        """Run a SELECT that begins with a few directions, or walks along a table. One on labels has those as l."""
        labels = " CROSS JOIN labels l" if "l." in columns else ""
        begin = f"(SELECT DISTINCT id FROM ({few}) f) c CROSS JOIN directions d{labels}" if few is not None else walk
        own = ["d.id = c.id"] if few is not None else []
        where = " AND ".join([*own, "p.id = d.spectrum_id", *self.where, *conditions])
        statement = f"SELECT {columns} FROM {begin} CROSS JOIN spectra p WHERE {where} ORDER BY {order} LIMIT {wanted}"
        return list(self._run(statement, place).all())

    def find(self, after: _Position | None, wanted: int) -> Iterator[_Position]:
        """Find the next directions: stream by stream, of which each is in an order of its own; ties in catalog order."""
        streams: list[Callable[[_Position | None, int], Iterable[Any]]]
        if self.matches is not None and self.filters.sort == "match":
            levels = sorted(Level, reverse=True)[:-2]
            streams = [*(partial(self._level, level) for level in levels), self._by_names]
        elif self.filters.sort in ("match", "catalog"):
            streams = [partial(self._by_column, None, True)]
        else:  # known values first, then those that have none
            streams = [partial(self._by_column, self.filters.sort, known) for known in (True, False)]
        first = 0 if after is None else after.stream
        for number, stream in enumerate(streams):
            if number >= first and wanted:
                rows = list(stream(after if after is not None and number == first else None, wanted))
                wanted -= len(rows)
                yield from (_Position(number, float(value), direction) for direction, value in rows)

    def _by_column(self, sort: str | None, known: bool, place: _Position | None, wanted: int) -> list[Any]:
        """The next directions in the order of a column; with `known` False, those without a value. In catalog order without one."""
        conditions, ways = [], []
        if self.matches is not None:
            conditions.append(self._matching(self.matches))
            ways.append(self._candidates(self.matches))
        elif self.of_labels:
            conditions.append(self._labelled())
        column, up = f"d.{sort}", sort in _ASCENDING
        by_value = sort is not None and known
        if sort is not None:
            conditions.append(f"{column} IS {'NOT ' if known else ''}NULL")
        if place is not None and by_value:  # the bound by itself is what an index can start from
            less = ">" if up else "<"
            conditions.append(f"{column} {less}= :last AND ({column} {less} :last OR d.id > :last_id)")
        elif place is not None:
            conditions.append("d.id > :last_id")
        order = f"{column} {'ASC' if up else 'DESC'}, d.id" if by_value else "d.id"
        walk = f"directions d {by_index(self.connection, None if sort is None else f'ix_directions_{sort}')}"
        columns = f"d.id, {column if by_value else 0}"
        return self._find(columns, walk, self._few(*ways), conditions, order, wanted, place)

    def _matching(self, matches: "_Matches") -> str:
        """The condition that a direction matches the text in any level."""
        ways = [self._labelled(f"({held})") for level in Level if (held := matches.held(level, "b"))]
        if matches.by_names:
            ways.append(" AND ".join([matches.named(), *([self._labelled()] if self.of_labels else [])]))
        return f"({' OR '.join(ways)})" if ways else "1 = 0"

    def _candidates(self, matches: "_Matches") -> str:
        """A selection of directions that holds all that match."""
        held = [
            f"SELECT direction_id AS id FROM labels WHERE text_id IN :{key}*"
            for level in Level
            for key in matches.keys(level)
        ]
        own = [matches.way()] if matches.by_names else []
        return " UNION ALL ".join([*held, *own]) or "SELECT id FROM directions WHERE 1 = 0"

    def _by_names(self, place: _Position | None, wanted: int) -> list[Any]:
        """The next directions whose names alone have all terms."""
        matches = self.matches
        if matches is None or not matches.by_names:
            return []
        conditions = [matches.named()]
        conditions += [f"NOT {self._labelled(f'({held})')}" for level in Level if (held := matches.held(level, "b"))]
        conditions += [self._labelled()] if self.of_labels else []
        conditions += [] if place is None else ["d.id > :last_id"]
        walk = f"directions d {by_index(self.connection, None)}"
        return self._find("d.id, 0.0", walk, self._few(matches.way()), conditions, "d.id", wanted, place)

    def _level(self, level: Level, place: _Position | None, wanted: int) -> list[Any]:
        """The next directions of a level and the worth of their labels, the largest first."""
        assert self.matches is not None
        found = {tuple(row) for key in self.matches.keys(level) for row in self._labels(level, key, place, wanted)}
        return sorted(found, key=lambda row: (-row[1], row[0]))[:wanted]

    def _labels(self, level: Level, key: str, place: _Position | None, wanted: int) -> list[Any]:
        """The next labels of a level, of the texts under a key, as direction and worth: of each direction the best one only."""
        assert self.matches is not None
        matches = self.matches
        held = [condition for each in Level if each > level and (condition := matches.held(each, "b"))]
        better = " OR ".join([*(f"({each})" for each in held), f"({matches.held(level, 'b')}) AND b.worth > l.worth"])
        conditions = [f"NOT {self._labelled(f'({better})')}"]
        conditions += [f"l.{condition}" for condition in self.of_labels]
        lacking = matches.lacking.get(key, ())
        conditions += [matches.named([term]) for term in lacking]
        if place is not None:
            conditions.append("l.worth <= :last AND (l.worth < :last OR l.direction_id > :last_id)")
        columns, order = "DISTINCT d.id, l.worth", "l.worth DESC, d.id"
        few = self._few(*([matches.way(lacking)] if lacking else []))
        if few is not None:
            limits = ["l.direction_id = d.id", f"(l.text_id IN :{key}*) IS TRUE", *conditions]
            return self._find(columns, "", few, limits, order, wanted, place)
        walk = f"labels l {by_index(self.connection, 'ix_labels_text_id')} CROSS JOIN directions d"
        conditions = [f"l.text_id IN :{key}* AND d.id = l.direction_id", *conditions]
        offset = wanted
        while (floor := self._floor(key, offset, place)) is not None:
            self.values["floor"] = floor
            rows = self._find(columns, walk, None, [*conditions, "l.worth >= :floor"], order, wanted, place)
            if len(rows) >= wanted:
                return rows
            offset *= 4
        return self._find(columns, walk, None, conditions, order, wanted, place)

    def _floor(self, key: str, offset: int, place: _Position | None) -> float | None:
        """A worth that more than `offset` of the labels of some texts reach; None where there are fewer."""
        last = "" if place is None else "AND l.worth <= :last"
        one = (
            f"SELECT l.worth FROM labels l WHERE l.text_id = t.id {last} ORDER BY l.worth DESC LIMIT 1 OFFSET {offset}"
        )
        found = self._run(f"SELECT max(({one})) FROM texts t WHERE t.id IN :{key}*", place).scalar()
        return None if found is None else float(found)


class _Matches:
    """Where the terms of a query are: in texts that hold all of them, by level; in texts that lack some, which a direction's names
    must have then; and in names. The numbers of texts and sets are put into `values`, under the keys that conditions name.
    """

    def __init__(self, connection: Connection, text: str, values: dict[str, Any]) -> None:
        query = Query.parse(text)
        holding = [texts_with(connection, term.words, prefix=term.prefix) for term in query.terms]
        self.values = values
        self.terms = range(len(holding))
        self.lacking: dict[str, tuple[int, ...]] = {}
        self._keys: dict[Level, list[str]] = {}
        every = {number: text for found in holding for number, text in found.items()}
        of_sets = run(connection, "SELECT name_id, id FROM sets WHERE name_id IN :every*", every=list(every)).all()
        used = "EXISTS (SELECT 1 FROM spectra WHERE name_id = t.id) OR EXISTS (SELECT 1 FROM directions WHERE name_id = t.id)"
        named = set(
            run(connection, f"SELECT id FROM texts t WHERE id IN :every* AND ({used})", every=list(every)).scalars()
        )
        for term, found in enumerate(holding):
            values[f"names{term}"] = [number for number in found if number in named]
            values[f"sets{term}"] = [set_id for name_id, set_id in of_sets if name_id in found]
        in_names = [bool(values[f"names{term}"] or values[f"sets{term}"]) for term in self.terms]
        self.by_names = bool(holding) and all(in_names)
        for number, label in every.items():
            lacks = tuple(term for term in self.terms if number not in holding[term])
            if not lacks:
                level = query.level(label)
                self._put(level, f"level{int(level)}", number)
            elif all(in_names[term] for term in lacks):
                key = f"lacks{'_'.join(map(str, lacks))}"
                self.lacking[key] = lacks
                self._put(Level.MIXED, key, number)

    def _put(self, level: Level, key: str, number: int) -> None:
        if key not in self.values:
            self.values[key] = []
            self._keys.setdefault(level, []).append(key)
        self.values[key].append(number)

    def keys(self, level: Level) -> list[str]:
        """The keys of the texts of a level."""
        return self._keys.get(level, [])

    def held(self, level: Level, label: str) -> str:
        """The condition that a label, by the name of its table, is one of a level; '' where none is."""
        conditions = []
        for key in self.keys(level):
            names = [self.named([term]) for term in self.lacking.get(key, ())]
            # IS TRUE: so that the few labels of a direction are looked through, rather than each of many texts looked up.
            conditions.append(" AND ".join([f"({label}.text_id IN :{key}*) IS TRUE", *names]))
        return " OR ".join(conditions)

    def named(self, terms: Iterable[int] | None = None, where: str = "d") -> str:
        """The condition that a direction's names have some terms, or all; with `where` "p", one that spectra must meet for that."""
        conditions = []
        for term in self.terms if terms is None else terms:
            ways = [f"p.name_id IN :names{term}*"]
            ways.append("p.name_id IS NULL" if where == "p" else f"d.name_id IN :names{term}*")
            ways += [f"p.set_id IN :sets{term}*"] if self.values[f"sets{term}"] else []
            conditions.append(f"({' OR '.join(ways)})")
        return " AND ".join(conditions)

    def way(self, terms: Iterable[int] | None = None) -> str:
        """A selection of the directions whose names have some terms, or all."""
        return _in_spectra([self.named(terms, "p"), self.named(terms)])


def _in_spectra(conditions: Sequence[str]) -> str:
    """A selection of the directions of some spectra."""
    return f"SELECT d.id FROM spectra p CROSS JOIN directions d WHERE {' AND '.join(['d.spectrum_id = p.id', *conditions])}"


def _bounded(number: int) -> int:
    """A number that is asked for. Beyond what the database can hold there is nothing."""
    return number if 0 <= number < 2**31 else -1


def _short(name: str) -> str:
    return name if len(name) <= 200 else name[:200] + "…"
