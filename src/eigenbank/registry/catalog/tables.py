"""The catalog's tables.

Three are the catalog's own: `sets` (each with its manifest, compressed), `people_labels`, and `bundled`, which notes which of the
sets that come with eigenbank were put in. All others are derived from these, and can be dropped and made again (`index`).

sets ─ spectra (a layer and a recipe) ─ directions ─ labels ─ texts. Every distinct string that can be searched for (a label, a
layer's name, a composite's name, a model's id) is one row of `texts`; its words are in a full-text index, `texts_fts`, which
`database` makes for each kind of database. Directions are numbered in catalog order: the order in which sets were added, and
within a set the order of its manifest. Nothing here is declared to refer to anything: only `index` writes, and `care.verify` compares.
"""

from typing import Any, ClassVar

from sqlalchemy import Double, Index, Integer, LargeBinary, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

VERSION = 3
"""Number of this layout. A catalog of a lower one is indexed again when it is opened; one of a higher one is refused."""


class Base(DeclarativeBase):
    """The catalog's tables, with the same names of indexes on every database."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {float: Double()}
    metadata = MetaData(naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s"})


def _name(length: int) -> Any:
    """A string that is compared and sorted by code points on every database."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def _number() -> Any:
    """A primary key whose values `index` chooses."""
    return mapped_column(Integer, primary_key=True, autoincrement=False)


class SetTable(Base):
    """A direction set. `revision` is '' where there is none; `created` is in the form of `index.moment`. From `created` on,
    everything is taken from the manifest.
    """

    __tablename__ = "sets"
    id: Mapped[int] = _number()
    model_id: Mapped[str] = mapped_column(_name(200))
    revision: Mapped[str] = mapped_column(_name(200))
    location: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(String(200), index=True)
    checkpoint_path: Mapped[str | None] = mapped_column(Text, index=True)
    repo: Mapped[str | None] = mapped_column(String(200))
    commit: Mapped[str | None] = mapped_column(String(200))
    created: Mapped[str] = mapped_column(_name(40))
    denoiser: Mapped[str] = mapped_column(String(100))
    licence: Mapped[str | None] = mapped_column(String(500))
    builder: Mapped[str] = mapped_column(String(500))
    name_id: Mapped[int] = mapped_column(index=True)
    layers: Mapped[int]
    directions: Mapped[int]
    labels: Mapped[int]
    # Last: what stands behind a large value is found only by reading past it.
    manifest: Mapped[bytes] = mapped_column(LargeBinary)
    __table_args__ = (Index("uq_sets_model_id_revision", "model_id", "revision", unique=True),)


class PeopleLabelTable(Base):
    """What a person calls a direction of a model, as JSON. It depends on no set: it waits where there is none with the direction."""

    __tablename__ = "people_labels"
    model_id: Mapped[str] = mapped_column(_name(200), primary_key=True)
    direction: Mapped[str] = mapped_column(_name(600), primary_key=True)
    text: Mapped[str] = mapped_column(_name(500), primary_key=True)
    source: Mapped[str] = mapped_column(_name(300), primary_key=True)
    label: Mapped[str] = mapped_column(Text)


class BundledTable(Base):
    """Digests of the sets that came with eigenbank and were put in, each once: what was removed stays removed."""

    __tablename__ = "bundled"
    digest: Mapped[str] = mapped_column(String(200), primary_key=True)


class TextTable(Base):
    """A string that can be searched for, once."""

    __tablename__ = "texts"
    id: Mapped[int] = _number()
    text: Mapped[str] = mapped_column(_name(500), unique=True)


class LayerDigestTable(Base):
    """A digest of a layer's weights, one for each dtype that they may be loaded in. `layer` is its place in the set."""

    __tablename__ = "layer_digests"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    set_id: Mapped[int] = mapped_column(primary_key=True, index=True)
    layer: Mapped[int] = mapped_column(primary_key=True)
    __table_args__ = ({"sqlite_with_rowid": False},)


class SpectrumTable(Base):
    """The directions that one recipe gave at one layer; without layer and recipe, a set's composites. `details` holds their labels and
    qualities as they are in the manifest, compressed (`index.pack`).
    """

    __tablename__ = "spectra"
    id: Mapped[int] = _number()
    set_id: Mapped[int] = mapped_column(index=True)
    name_id: Mapped[int | None] = mapped_column(index=True)
    kind: Mapped[str | None] = mapped_column(String(20))
    width: Mapped[int | None]
    recipe: Mapped[str | None] = mapped_column(_name(200), index=True)
    details: Mapped[bytes] = mapped_column(LargeBinary)


class DirectionTable(Base):
    """A direction; or a composite, which has a name (`name_id`) instead of a rank, an eigenvalue, a share and a gap.

    `labels` is how many labels it has, `confidence` the highest of theirs; from `effect` on its quality.
    """

    __tablename__ = "directions"
    id: Mapped[int] = _number()
    spectrum_id: Mapped[int]
    rank: Mapped[int | None] = mapped_column(index=True)
    eigenvalue: Mapped[float | None]
    share: Mapped[float | None]
    gap: Mapped[float | None]
    name_id: Mapped[int | None]
    labels: Mapped[int]
    confidence: Mapped[float | None]
    effect: Mapped[float | None]
    selectivity: Mapped[float | None]
    consistency: Mapped[float | None]
    linearity: Mapped[float | None]
    locality: Mapped[float | None]
    drift: Mapped[float | None]
    __table_args__ = (Index("ix_directions_spectrum_id", "spectrum_id", "rank"),)


QUALITY = ("effect", "selectivity", "consistency", "linearity", "locality", "drift")
"""Columns of directions that come from their quality."""
MEASURES = ("eigenvalue", "share", "gap", "confidence", *QUALITY)
"""Columns of directions that a search can bound, and be ordered by."""
RISING = ("rank", "drift")
"""Columns of directions of which the smallest comes first in a search; of the others, the largest."""

for _measure in MEASURES:
    _column = getattr(DirectionTable, _measure)
    # A rank has much the same eigenvalue everywhere: with it in the index, those of other ranks are passed over without a look at
    # their rows.
    _more = (DirectionTable.rank,) if _measure in ("eigenvalue", "share") else ()
    Index(f"ix_directions_{_measure}", _column if _measure in RISING else _column.desc(), *_more)


class SourceTable(Base):
    """Who gives labels, once: `human:ann`, `clip:<model>@<revision>`."""

    __tablename__ = "sources"
    id: Mapped[int] = _number()
    text: Mapped[str] = mapped_column(_name(300), unique=True)


class LabelTable(Base):
    """What one source calls one direction, as a search needs it: its confidence, and its worth, which orders matches."""

    __tablename__ = "labels"
    direction_id: Mapped[int] = mapped_column(primary_key=True)
    # Before the text: a direction's few labels are looked through, rather than each of the many texts of a search be looked up.
    source_id: Mapped[int] = mapped_column(primary_key=True, index=True)
    text_id: Mapped[int] = mapped_column(primary_key=True)
    confidence: Mapped[float | None]
    worth: Mapped[float]
    __table_args__ = (
        Index("ix_labels_text_id", "text_id", "worth", "direction_id"),
        # Clustered by direction: its labels are read in one go, and the key needs no second copy.
        {"sqlite_with_rowid": False},
    )
