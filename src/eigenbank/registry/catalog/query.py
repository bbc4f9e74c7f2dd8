"""What a search asks, its order, and its cursor. Nothing here looks into the database."""

import base64
import binascii
import fnmatch
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from eigenbank.registry.orders import SORTS, Sort
from eigenbank.schemas.errors import CatalogError, unknown

MAX_LIMIT = 10_000


@dataclass(frozen=True)
class Filters:
    """What a search asks for. `model`, `layer` and `recipe` are names or globs (`*`, `?`, `[…]`); bounds are inclusive.

    `source` is a label's source, its first part (`human`) or a glob. `source`, `min_confidence` and the text must be
    met by the same label. `labelled` False: directions without any label. `composites`: only those, or none of them; they
    have no layer, recipe, rank, eigenvalue, share and gap, and filters on these leave them out. What is not known of a direction is within no
    bounds, and comes last in its order.
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

    @property
    def digest(self) -> str:
        """A short digest of the whole, so that a cursor of another search is noticed."""
        return hashlib.sha256(ascii(self.values).encode()).hexdigest()[:12]

    @property
    def values(self) -> tuple[object, ...]:
        """All fields in order. `dataclasses.astuple` would copy each, which takes a tenth of a search's time."""
        return tuple(vars(self).values())


def check_sort(sort: str) -> None:
    """Raise UnknownNameError for an order that there is none of."""
    if sort not in SORTS:
        raise unknown(kind="order", name=sort, known=SORTS)


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


def literal_prefix(pattern: str) -> str:
    """Return what every name that matches a glob begins with."""
    return re.split(r"[*?\[]", pattern, maxsplit=1)[0]


class Position(NamedTuple):
    """Where a page ended: in which stream of rows, at which value (as it is stored) and direction."""

    stream: int
    value: int | float | None
    direction: int

    def order(self, *, descending: bool) -> tuple[int, float, int]:
        """Return the key that puts positions in the order of their search."""
        value = self.value or 0
        return self.stream, -value if descending else value, self.direction


def encode(position: Position, digest: str) -> str:
    """Return the cursor that stands for a position of a search."""
    if not isinstance(position.value, int | float | None):
        message = f"{position.value!r} is no number"
        raise TypeError(message)
    document = json.dumps([digest, position.stream, position.value, position.direction])
    return base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")


def decode(cursor: str, digest: str) -> Position:
    """Read a cursor. Raises CatalogError for what is none, or one of another search."""
    try:
        document = json.loads(base64.urlsafe_b64decode(cursor[:1000].encode() + b"=" * (-len(cursor[:1000]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        document = None
    match document:
        case [str(found), int(stream), None | int() | float() as value, int(direction)] if (
            abs(direction) < 2**63 and abs(value or 0) < 2**63
        ):
            pass
        case _:
            message = f"{cursor[:80]!r} is not a cursor: expected one that an earlier page of the same search gave."
            raise CatalogError(message)
    if found != digest:
        message = "the cursor is of another search: repeat the search that gave it, with the same filters and order."
        raise CatalogError(message)
    return Position(stream, value, direction)
