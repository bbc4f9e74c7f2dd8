"""What a search asks: its filters, checked and turned into conditions, and its cursor."""

import base64
import binascii
import fnmatch
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Connection, exists, func, select

from eigenbank.registry.catalog.models import (
    CheckpointTable,
    DirectionTable,
    LabelTable,
    LayerTable,
    RecipeTable,
    SetTable,
    SourceTable,
    SpectrumTable,
)
from eigenbank.registry.catalog.sql import among, unindexed
from eigenbank.schemas.errors import CatalogError, unknown

Sort = Literal["match", "confidence", "eigenvalue", "share", "rank", "catalog"]
MAX_LIMIT = 10_000
FEW = 5_000
"""Up to this many rows are gathered and sorted; more are walked through in the order asked for."""


@dataclass(frozen=True)
class Filters:
    """What a search asks for. `model`, `layer` and `recipe` are names or globs (`*`, `?`, `[…]`); bounds are inclusive.

    `source` is a label's source, its first part (`human`) or a glob. `source`, `min_confidence` and the text must be
    met by the same label. `labelled` False: directions without any label.
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
    sort: Sort = "match"

    @property
    def digest(self) -> str:
        """A short digest of the whole, so that a cursor of another search is noticed."""
        return hashlib.sha256(ascii(astuple(self)).encode()).hexdigest()[:12]


def check_sort(sort: str) -> None:
    """Raise UnknownNameError for an order that there is none of."""
    if sort not in get_args(Sort):
        raise unknown(kind="order", name=sort, known=get_args(Sort))


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a test of names against a glob, upper and lower case told apart."""
    pattern = re.sub(r"\*+", "*", pattern)
    if len(pattern) > 2_000:  # longer than any name; a regular expression of it would take long to make
        return lambda name: False
    compiled = re.compile(fnmatch.translate(pattern)).match
    return lambda name: compiled(name) is not None


def is_glob(pattern: str) -> bool:
    """Whether the pattern is more than a name."""
    return any(sign in pattern for sign in "*?[")


@dataclass(frozen=True)
class Scope:
    """The spectra a search is limited to: their numbers as a statement, and how many directions they hold."""

    spectra: Any
    directions: int

    def condition(self) -> ColumnElement[bool]:
        """The condition on a direction: gather the spectra's rows if they are few, else test each row met."""
        column: Any = DirectionTable.spectrum_id
        if self.directions > FEW:
            column = unindexed(column)
        condition: ColumnElement[bool] = column.in_(self.spectra)
        return condition


def _named(kind: str, pattern: str, known: list[str]) -> list[str]:
    """Return the names that a name or glob means. Raises UnknownNameError for a plain name that there is none of."""
    if is_glob(pattern):
        matches = matcher(pattern)
        return [name for name in known if matches(name)]
    if pattern not in known:
        shown = pattern if len(pattern) <= 200 else pattern[:200] + "…"
        raise unknown(kind, shown, known)
    return [pattern]


def scope(connection: Connection, filters: Filters) -> Scope | None:
    """Resolve the filters on names and layers. None where there are none.

    Raises UnknownNameError for a model, layer or recipe given by its plain name that is not there.
    """
    conditions: list[Any] = []
    if filters.model is not None:
        models = list(connection.scalars(select(CheckpointTable.model_id).distinct()))
        conditions.append(among(CheckpointTable.model_id, _named("model", filters.model, models)))
    if filters.layer is not None:
        names = list(connection.scalars(_spectra(LayerTable.name, conditions).distinct()))
        conditions.append(among(LayerTable.name, _named("layer", filters.layer, names)))
    if filters.recipe is not None:
        recipes = list(connection.scalars(_spectra(RecipeTable.slug, conditions).distinct()))
        conditions.append(among(RecipeTable.slug, _named("recipe", filters.recipe, recipes)))
    for column, pattern in (
        (LayerTable.kind, filters.kind),
        (CheckpointTable.denoiser, filters.denoiser),
        (CheckpointTable.licence, filters.licence),
        (SetTable.location, filters.location),
    ):
        if pattern is not None:
            matches = matcher(pattern)
            values = connection.scalars(_spectra(column, conditions).distinct())
            conditions.append(among(column, [value for value in values if value is not None and matches(value)]))
    if filters.width is not None:
        conditions.append(LayerTable.width == filters.width)
    if not conditions:
        return None
    count = connection.execute(_spectra(func.sum(SpectrumTable.directions), conditions)).scalar() or 0
    return Scope(_spectra(SpectrumTable.id, conditions), int(count))


def _spectra(column: Any, conditions: list[Any]) -> Any:
    return (
        select(column)
        .select_from(SpectrumTable)
        .join(RecipeTable, RecipeTable.id == SpectrumTable.recipe_id)
        .join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
        .join(SetTable, SetTable.id == LayerTable.set_id)
        .join(CheckpointTable, CheckpointTable.id == SetTable.checkpoint_id)
        .where(*conditions)
    )


@dataclass(frozen=True)
class LabelTest:
    """What `source` and `min_confidence` ask of a label. `sources` None: any."""

    sources: frozenset[int] | None
    min_confidence: float | None

    @property
    def anything(self) -> bool:
        """Whether every label passes."""
        return self.sources is None and self.min_confidence is None

    def conditions(self) -> list[Any]:
        """The same as conditions on a row of labels."""
        found: list[Any] = []
        if self.sources is not None:
            # The direction or the text is the better way in; nearly every label is of one of few sources.
            found.append(among(unindexed(LabelTable.source_id), sorted(self.sources)))
        if self.min_confidence is not None:
            found.append(LabelTable.confidence >= self.min_confidence)
        return found

    def __call__(self, source_id: int, confidence: float | None) -> bool:
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
    return LabelTest(sources, filters.min_confidence)


def direction_conditions(filters: Filters) -> list[Any]:
    """The filters that a row of directions can answer by itself."""
    found: list[Any] = []
    for column, low, high in (
        (DirectionTable.eigenvalue, filters.min_eigenvalue, filters.max_eigenvalue),
        (DirectionTable.share, filters.min_share, filters.max_share),
    ):
        if low is not None:
            found.append(column >= low)
        if high is not None:
            found.append(column <= high)
    if filters.rank is not None:
        # Beyond what the database can hold there is no direction either.
        found.append(DirectionTable.rank == (filters.rank if 0 <= filters.rank < 2**31 else -1))
    if filters.labelled is not None:
        found.append(DirectionTable.labels > 0 if filters.labelled else DirectionTable.labels == 0)
    return found


def some_label(connection: Connection, test: LabelTest) -> list[Any]:
    """The condition that a direction has a label that passes the test; none where every direction passes."""
    if test.anything:
        return []
    if test.sources is None:
        return [DirectionTable.confidence >= test.min_confidence]
    own = LabelTable.direction_id == DirectionTable.id
    rows = select(LabelTable.direction_id).where(among(LabelTable.source_id, sorted(test.sources)))
    if connection.execute(select(func.count()).select_from(rows.limit(FEW + 1).subquery())).scalar_one() <= FEW:
        if test.min_confidence is not None:
            rows = rows.where(LabelTable.confidence >= test.min_confidence)
        return [DirectionTable.id.in_(rows)]
    return [exists().where(own, *test.conditions())]


@dataclass(frozen=True)
class Position:
    """Where a page ended: in which stream of rows, at which value and direction."""

    stream: int
    value: float | None
    direction: int


def encode(position: Position, digest: str) -> str:
    """Return the cursor that stands for a position of a search."""
    document = json.dumps([digest, position.stream, position.value, position.direction])
    return base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")


def decode(cursor: str, digest: str) -> Position:
    """Read a cursor. Raises CatalogError for what is none, or one of another search."""
    try:
        document = json.loads(base64.urlsafe_b64decode(cursor[:1000].encode() + b"=" * (-len(cursor[:1000]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        document = None
    match document:
        case [str(found), int(stream), None | int() | float() as value, int(direction)] if abs(direction) < 2**63:
            pass
        case _:
            message = f"{cursor[:80]!r} is not a cursor: expected one that an earlier page of the same search gave."
            raise CatalogError(message)
    if found != digest:
        message = "the cursor is of another search: repeat the search that gave it, with the same filters and order."
        raise CatalogError(message)
    return Position(stream, None if value is None else float(value), direction)
