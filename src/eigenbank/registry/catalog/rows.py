"""What the catalog takes and gives: sets, directions, pages; and what a search asks for."""

import base64
import binascii
import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field
from datetime import datetime
from typing import NamedTuple

from eigenbank.registry.ranking import Sort
from eigenbank.schemas import Label, Manifest, Quality
from eigenbank.schemas.errors import CatalogError

COMPOSITE = "composite/"
"""What the name of a composite begins with."""
MAX_LIMIT = 10_000
"""Most directions of a page."""


@dataclass(frozen=True)
class SetEntry:
    """A direction set to put into the catalog: its manifest and that file's digest, and where the set is.

    `checkpoint_path` is the local folder it was computed from (None leaves the known one), `repo` and `commit` where it was
    published.
    """

    manifest: Manifest
    location: str
    digest: str
    checkpoint_path: str | None = None
    repo: str | None = None
    commit: str | None = None


@dataclass(frozen=True)
class SetRow:
    """A direction set in the catalog. `directions` and `labels` are counts; `created` is in UTC. Searches have equals in the order
    of `number`.
    """

    model_id: str
    revision: str | None
    location: str
    digest: str
    checkpoint_path: str | None
    created: datetime
    directions: int
    labels: int
    repo: str | None
    commit: str | None
    denoiser: str
    licence: str | None
    builder: str
    number: int = field(default=0, compare=False)


@dataclass(frozen=True)
class DirectionRow:
    """A direction or composite with everything the catalog knows of it. A composite has its name for `composite`, and None
    for layer, kind, width, recipe, rank, eigenvalue, share and gap. `labels`: the most confident first, those without a
    confidence last.
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
    labels: tuple[Label, ...]
    quality: Quality | None

    @property
    def label_texts(self) -> list[str]:
        """The labels' texts, the most confident first."""
        return [label.text for label in self.labels]

    @property
    def confidence(self) -> float | None:
        """The highest confidence of any label; None where none says one."""
        return self.labels[0].confidence if self.labels else None

    @property
    def name(self) -> str:
        """The name within its model, `LAYER/RECIPE/RANK` or `composite/NAME`."""
        if self.composite is not None:
            return f"{COMPOSITE}{self.composite}"
        return f"{self.layer}/{self.recipe}/{self.rank}"

    @property
    def id(self) -> str:
        """The full name: `MODEL_ID#`, and the name within the model."""
        return f"{self.model_id}#{self.name}"


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
class DirectionName:
    """A direction's full name taken apart; a composite's has `composite` alone."""

    model_id: str
    layer: str = ""
    recipe: str = ""
    rank: int = 0
    composite: str | None = None

    @property
    def bare(self) -> str:
        """The name within the model."""
        return f"{self.layer}/{self.recipe}/{self.rank}" if self.composite is None else f"{COMPOSITE}{self.composite}"

    @classmethod
    def parse(cls, text: str) -> "DirectionName | None":
        """Read `MODEL_ID#LAYER/RECIPE/RANK` or `MODEL_ID#composite/NAME`; None for what is of neither form."""
        model_id, _, name = text.partition("#")
        composite = name.removeprefix(COMPOSITE)
        parts = name.rsplit("/", 2)
        if not model_id or not storable(text):
            return None
        if composite != name and composite and "/" not in composite:
            return cls(model_id, composite=composite)
        # A rank has one written form: '03', '+3' and '³' name nothing.
        rank = parts[-1]
        if len(parts) == 3 and rank.isascii() and rank.isdecimal() and len(rank) < 10 and str(int(rank)) == rank:
            return cls(model_id, parts[0], parts[1], int(rank))
        return None


def storable(text: str) -> bool:
    """Whether a string can be a parameter: text from a shell may hold what is no Unicode. Such a name is nobody's."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


_SCHEME = re.compile(r"[a-z]{2,}:")


def path_key(path: str) -> str:
    """Return the one written form of a local path; a place such as `shipped:NAME` is that already."""
    return path if _SCHEME.match(path) or "\x00" in path else os.path.realpath(path)


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

    @property
    def digest(self) -> str:
        """A short digest of the whole, so that a cursor of another search is noticed."""
        return hashlib.sha256(ascii(astuple(self)).encode()).hexdigest()[:12]


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


class Position(NamedTuple):
    """Where a page ended: in which stream of a search, at which value and direction."""

    stream: int
    value: float
    direction: int

    def cursor(self, digest: str) -> str:
        """Return the cursor that stands for this position of a search."""
        document = json.dumps([digest, *self])
        return base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")

    @classmethod
    def read(cls, cursor: str, digest: str) -> "Position":
        """Read a cursor. Raises CatalogError for what is none, or one of another search."""
        try:
            document = json.loads(base64.urlsafe_b64decode(cursor[:1000].encode() + b"=" * (-len(cursor[:1000]) % 4)))
        except (binascii.Error, ValueError, RecursionError):
            document = None
        match document:
            case [str(found), int(stream), int() | float() as value, int(direction)] if (
                abs(direction) < 2**63 and abs(value) < 2**63
            ):
                pass
            case _:
                message = f"{cursor[:80]!r} is not a cursor: expected one that an earlier page of the same search gave."
                raise CatalogError(message)
        if found != digest:
            message = (
                "the cursor is of another search: repeat the search that gave it, with the same filters and order."
            )
            raise CatalogError(message)
        return cls(stream, value, direction)
