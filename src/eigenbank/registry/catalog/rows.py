"""What the catalog gives back: plain rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from eigenbank.registry.catalog.content import COMPOSITE
from eigenbank.registry.catalog.parts import number
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

    def labels(self, raw: Sequence[Any]) -> tuple[Label, ...]:
        """Return the labels, the most confident first."""
        ...

    def texts(self, raw: Sequence[Any]) -> list[str]:
        """Return the labels' texts, the most confident first."""
        ...

    def quality(self, raw: Sequence[Any]) -> Quality | None:
        """Return the quality; None where it is not known."""
        ...


@dataclass(slots=True)
class DirectionRow:
    """A direction or composite with everything the catalog knows of it. A composite has its name for `composite`, and None
    for layer, kind, width, recipe, rank, eigenvalue, share and gap.

    Its labels and quality were read with it; they are made objects when they are asked for, since most rows are only
    looked at.
    """

    model_id: str
    revision: str | None
    layer: str | None
    kind: str | None
    width: int | None
    recipe: str | None
    rank: int | None
    eigenvalue: float | None
    share: float | None
    gap: float | None
    composite: str | None
    location: str
    _raw: Sequence[Any] = field(repr=False)
    _measured: Sequence[Any] = field(repr=False)
    _source: Source = field(repr=False, compare=False)
    _labels: tuple[Label, ...] | None = field(default=None, repr=False, compare=False)

    @property
    def labels(self) -> tuple[Label, ...]:
        """The labels, the most confident first, those without a confidence last."""
        if self._labels is None:
            self._labels = self._source.labels(self._raw)
        return self._labels

    @property
    def label_texts(self) -> list[str]:
        """The labels' texts, the most confident first."""
        return self._source.texts(self._raw)

    @property
    def confidence(self) -> float | None:
        """The highest confidence of any of its labels; None where none says one."""
        return number(max((raw[4] for raw in self._raw if raw[4] is not None), default=None))

    @property
    def quality(self) -> Quality | None:
        """How it behaves as a slider; None where that is not known."""
        return self._source.quality(self._measured)

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
