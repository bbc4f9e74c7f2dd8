"""What the catalog gives back: plain rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from eigenbank.registry.catalog.content import COMPOSITE
from eigenbank.schemas import Label, Quality


@dataclass(frozen=True)
class SetRow:
    """A direction set in the catalog. `directions` and `labels` are counts; `created` is in UTC."""

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


class Source(Protocol):
    """What a direction's labels and quality are made of when they are asked for."""

    def labels(self, direction: int) -> tuple[Label, ...]:
        """Return the labels, the most confident first."""
        ...

    def texts(self, direction: int) -> list[str]:
        """Return the labels' texts, the most confident first."""
        ...

    def confidence(self, direction: int) -> float | None:
        """Return the highest confidence of the labels."""
        ...

    def raw(self, direction: int) -> tuple[Any, ...]:
        """Return the labels and the quality as they are stored."""
        ...

    def quality(self, direction: int) -> Quality | None:
        """Return the quality; None where it is not known."""
        ...


if TYPE_CHECKING:
    from typing_extensions import Unpack

    Spectrum = tuple[int, str, str, str | None, str | None, int | None, str | None, str]
    Facts = tuple[int, int, int | None, float | None, float | None, float | None, str | None, Unpack[tuple[Any, ...]]]


class DirectionRow:
    """A direction or composite with everything the catalog knows of it. A composite has its name for `composite`, and None
    for layer, kind, width, recipe, rank, eigenvalue, share and gap.

    Its labels and quality were read with it. Everything is made when it is asked for, since most rows are only looked at.
    """

    __slots__ = ("_facts", "_labels", "_source", "_spectrum")

    def __init__(self, spectrum: "Spectrum", facts: "Facts", source: Source) -> None:
        """Hold what was read: `spectrum` is a row of `read.SPECTRA`, `facts` begins as one of `read.FACTS`."""
        self._spectrum = spectrum
        self._facts = facts
        self._source = source
        self._labels: tuple[Label, ...] | None = None

    @property
    def model_id(self) -> str:
        """The checkpoint's id."""
        return self._spectrum[1]

    @property
    def revision(self) -> str | None:
        """The checkpoint's revision; None where there is none."""
        return self._spectrum[2] or None

    @property
    def layer(self) -> str | None:
        """Name of the self-attention layer."""
        return self._spectrum[3]

    @property
    def kind(self) -> str | None:
        """What the layer's tokens are."""
        return self._spectrum[4]

    @property
    def width(self) -> int | None:
        """The layer's width."""
        return self._spectrum[5]

    @property
    def recipe(self) -> str | None:
        """The recipe in its written form."""
        return self._spectrum[6]

    @property
    def location(self) -> str:
        """Where the set is: a folder, or a place such as `shipped:NAME` or `hub:REPO@COMMIT`."""
        return self._spectrum[7]

    @property
    def rank(self) -> int | None:
        """Place in the spectrum; 0 is the largest eigenvalue."""
        return self._facts[2]

    @property
    def eigenvalue(self) -> float | None:
        """Eigenvalue of the recipe's Gram matrix."""
        return self._facts[3]

    @property
    def share(self) -> float | None:
        """The eigenvalue's share of the spectrum's sum."""
        return self._facts[4]

    @property
    def gap(self) -> float | None:
        """Distance to the next eigenvalue, over the largest; None where it is not known."""
        return self._facts[5]

    @property
    def composite(self) -> str | None:
        """A composite's name; None for a direction."""
        return self._facts[6]

    @property
    def labels(self) -> tuple[Label, ...]:
        """The labels, the most confident first, those without a confidence last."""
        if self._labels is None:
            self._labels = self._source.labels(self._facts[0])
        return self._labels

    @property
    def label_texts(self) -> list[str]:
        """The labels' texts, the most confident first."""
        return self._source.texts(self._facts[0])

    @property
    def confidence(self) -> float | None:
        """The highest confidence of any of its labels; None where none says one."""
        return self._source.confidence(self._facts[0])

    @property
    def quality(self) -> Quality | None:
        """How it behaves as a slider; None where that is not known."""
        return self._source.quality(self._facts[0])

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

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DirectionRow):
            return NotImplemented
        return self._told() == other._told()

    __hash__ = None  # type: ignore[assignment]

    def _told(self) -> tuple[object, ...]:
        return self._spectrum[1:], self._facts[2:7], self._source.raw(self._facts[0])

    def __repr__(self) -> str:
        return f"<DirectionRow {self.id}>"


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
class CompositeName:
    """A composite's full name taken apart."""

    model_id: str
    composite: str


@dataclass(frozen=True)
class DirectionName:
    """A direction's full name taken apart."""

    model_id: str
    layer: str
    recipe: str
    rank: int

    @classmethod
    def parse(cls, text: str) -> "DirectionName | None":
        """Read `MODEL_ID#LAYER/RECIPE/RANK`; None for what is not of that form."""
        model_id, hash_sign, name = text.partition("#")
        parts = name.rsplit("/", 2)
        if not (hash_sign and model_id and len(parts) == 3):
            return None
        layer, recipe, rank = parts
        # A rank has one written form: '03', '+3' and '³' name nothing.
        if not (rank.isascii() and rank.isdecimal() and len(rank) < 10 and str(int(rank)) == rank):
            return None
        return cls(model_id, layer, recipe, int(rank))


def parse_name(text: str) -> DirectionName | CompositeName | None:
    """Read `MODEL_ID#LAYER/RECIPE/RANK` or `MODEL_ID#composite/NAME`; None for what is of neither form."""
    model_id, _, name = text.partition("#")
    bare = name.removeprefix(COMPOSITE)
    if model_id and bare and bare != name and "/" not in bare:
        return CompositeName(model_id, bare)
    return DirectionName.parse(text)
