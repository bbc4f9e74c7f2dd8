"""The catalog's tables.

checkpoint ─ set ─ layers ─ spectra (a layer and a recipe) ─ directions ─ labels. Strings that repeat (label texts,
layer names, sources, recipes) and the measuring protocols are kept once and referred to by number: a million directions
with three labels each then fit in 600 bytes apiece, and a text search looks at each distinct text once, however many
labels share it. Measured numbers are whole ten-thousandths (see `parts`). `directions.labels`, `directions.confidence`, `labels.rank`, `sets.directions` and `sets.labels` are derived, kept by
`write` in the same transaction, so that sorting and counting need no join.

Numbers grow along the chain: within a set, layers, spectra and directions are numbered in order, and a later set has
higher ones throughout. Searches in catalog order rely on it.

A composite is a row among the directions that has a name instead of a rank, an eigenvalue and a share. Those of a set stand
in a spectrum without a recipe, of a layer without a name, the last of their set: whatever asks for a layer, a recipe or a
number passes them by, and everything else finds them by the same indexes as directions.
"""

from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    event,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)


class UtcTime(TypeDecorator[datetime]):
    """A point in time as microseconds since 1970, read back in UTC. A time without a zone is taken as UTC."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        if value is None:
            return None
        if value.tzinfo is None:
            value = value.replace(tzinfo=timezone.utc)
        return (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else EPOCH + MICROSECOND * int(value)


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can speak of it on any database."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {float: Double()}

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def _to(column: str) -> ForeignKey:
    return ForeignKey(column, ondelete="CASCADE")


def _name(length: int) -> Any:
    """A string that is compared and sorted by code points on every database."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


class CheckpointTable(Base):
    """A checkpoint that a set was computed from. It outlives its set: people's labels wait here for a rebuild."""

    __tablename__ = "checkpoints"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    model_id: Mapped[str] = mapped_column(_name(200))
    # '' where there is none: NULLs would count as different from each other, and a model could be there twice.
    revision: Mapped[str] = mapped_column(_name(200))
    denoiser: Mapped[str] = mapped_column(_name(100), index=True)
    component: Mapped[str] = mapped_column(String(60))
    licence: Mapped[str | None] = mapped_column(_name(500), index=True)
    path: Mapped[str | None] = mapped_column(Text, index=True)
    __table_args__ = (UniqueConstraint("model_id", "revision"),)


class SetTable(Base):
    """A direction set: where it is (folder, or repository at a commit) and the digest of its manifest."""

    __tablename__ = "sets"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    checkpoint_id: Mapped[int] = mapped_column(_to("checkpoints.id"), unique=True)
    location: Mapped[str] = mapped_column(Text, index=True)
    digest: Mapped[str] = mapped_column(String(200), index=True)
    created: Mapped[datetime] = mapped_column(UtcTime)
    builder: Mapped[str] = mapped_column(String(500))
    licence: Mapped[str] = mapped_column(String(500))
    repo: Mapped[str | None] = mapped_column(String(200))
    commit: Mapped[str | None] = mapped_column(String(200))
    directions: Mapped[int] = mapped_column(Integer)
    labels: Mapped[int] = mapped_column(Integer)


class NameTable(Base):
    """A layer's name, once. Its words are in `names_fts` under the same number."""

    __tablename__ = "names"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(_name(300), unique=True)


class LayerTable(Base):
    """A layer of a set, or, with nothing but its set, the place of its composites."""

    __tablename__ = "layers"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    set_id: Mapped[int] = mapped_column(_to("sets.id"))
    name_id: Mapped[int | None] = mapped_column(ForeignKey("names.id"), index=True)
    kind: Mapped[str | None] = mapped_column(String(20), index=True)
    width: Mapped[int | None] = mapped_column(Integer, index=True)
    heads: Mapped[int | None] = mapped_column(Integer)
    __table_args__ = (UniqueConstraint("set_id", "name_id"), CheckConstraint("width > 0", name="width"))


class RecipeTable(Base):
    """A recipe in its written form, once."""

    __tablename__ = "recipes"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    slug: Mapped[str] = mapped_column(_name(200), unique=True)


class SpectrumTable(Base):
    """The directions that one recipe gave at one layer; without a recipe, a set's composites."""

    __tablename__ = "spectra"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    layer_id: Mapped[int] = mapped_column(_to("layers.id"))
    recipe_id: Mapped[int | None] = mapped_column(ForeignKey("recipes.id"), index=True)
    directions: Mapped[int] = mapped_column(Integer)
    __table_args__ = (UniqueConstraint("layer_id", "recipe_id"),)


class DirectionTable(Base):
    """A direction, or a composite, which has a name and neither rank, eigenvalue nor share. `labels` is how many it has,
    `confidence` the highest of theirs (NULL where none says one). From `source_id` on its quality, all NULL where there is
    none.
    """

    __tablename__ = "directions"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    spectrum_id: Mapped[int] = mapped_column(_to("spectra.id"))
    rank: Mapped[int | None] = mapped_column(Integer)
    eigenvalue: Mapped[float | None] = mapped_column()
    share: Mapped[float | None] = mapped_column()
    gap: Mapped[float | None] = mapped_column()
    labels: Mapped[int] = mapped_column(Integer, index=True)
    confidence: Mapped[int | None] = mapped_column(Integer)
    source_id: Mapped[int | None] = mapped_column(ForeignKey("sources.id"))
    protocol_id: Mapped[int | None] = mapped_column(ForeignKey("protocols.id"))
    effect: Mapped[int | None] = mapped_column(BigInteger)
    selectivity: Mapped[int | None] = mapped_column(Integer)
    consistency: Mapped[int | None] = mapped_column(Integer)
    linearity: Mapped[int | None] = mapped_column(Integer)
    range_low: Mapped[int | None] = mapped_column(Integer)
    range_high: Mapped[int | None] = mapped_column(Integer)
    locality: Mapped[int | None] = mapped_column(Integer)
    drift: Mapped[int | None] = mapped_column(BigInteger, index=True)
    composite: Mapped[str | None] = mapped_column(_name(100))
    __table_args__ = (
        UniqueConstraint("spectrum_id", "rank"),
        # Descending, with the number ascending behind it: pages go from the largest down, ties in catalog order.
        Index("ix_directions_eigenvalue", eigenvalue.desc()),
        Index("ix_directions_share", share.desc()),
        Index("ix_directions_gap", gap.desc()),
        Index("ix_directions_confidence", confidence.desc()),
        Index("ix_directions_effect", effect.desc()),
        Index("ix_directions_selectivity", selectivity.desc()),
        Index("ix_directions_consistency", consistency.desc()),
        Index("ix_directions_linearity", linearity.desc()),
        Index("ix_directions_locality", locality.desc()),
        # High ranks have small values: in the order of all, those of one rank would be found late.
        Index("ix_directions_rank_eigenvalue", rank, eigenvalue.desc()),
        Index("ix_directions_rank_share", rank, share.desc()),
        Index("ix_directions_rank", rank),
        CheckConstraint("rank >= 0", name="rank"),
        CheckConstraint("eigenvalue >= 0", name="eigenvalue"),
        CheckConstraint("share BETWEEN 0 AND 1", name="share"),
        CheckConstraint("labels >= 0", name="labels"),
        CheckConstraint(
            "(rank IS NULL) = (composite IS NOT NULL) AND (eigenvalue IS NULL) = (rank IS NULL) "
            "AND (share IS NULL) = (rank IS NULL)",
            name="composite",
        ),
    )


class TextTable(Base):
    """A label's text, once. Its words are in `texts_fts` under the same number."""

    __tablename__ = "texts"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    text: Mapped[str] = mapped_column(_name(500), unique=True)


class SourceTable(Base):
    """Who gives labels, once: `human:ann`, `clip:<model>@<revision>`."""

    __tablename__ = "sources"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(_name(300), unique=True)


class ProtocolTable(Base):
    """How evidence was measured: the scale, the seeds (a JSON list) and the steps, which many labels share."""

    __tablename__ = "protocols"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    scale: Mapped[float]
    steps: Mapped[int] = mapped_column(Integer)
    # Indexed by digest: ten thousand seeds are too long for an index entry.
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    seeds: Mapped[str] = mapped_column(Text)


class LabelTable(Base):
    """What one source calls one direction. The evidence is spread over columns, all NULL where there is none. `rank` is
    the direction's: the labels of one text at one rank are then told by the text's index alone.
    """

    __tablename__ = "labels"
    direction_id: Mapped[int] = mapped_column(_to("directions.id"), primary_key=True)
    text_id: Mapped[int] = mapped_column(ForeignKey("texts.id"), primary_key=True)
    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id"), primary_key=True, index=True)
    polarity: Mapped[int] = mapped_column(Integer)
    confidence: Mapped[int | None] = mapped_column(Integer)
    created: Mapped[datetime] = mapped_column(UtcTime)
    note: Mapped[str | None] = mapped_column(Text)
    protocol_id: Mapped[int | None] = mapped_column(ForeignKey("protocols.id"))
    effect: Mapped[int | None] = mapped_column(BigInteger)
    selectivity: Mapped[int | None] = mapped_column(Integer)
    consistency: Mapped[int | None] = mapped_column(Integer)
    asymmetry: Mapped[int | None] = mapped_column(BigInteger)
    runner_up_id: Mapped[int | None] = mapped_column(ForeignKey("texts.id"))
    runner_up_effect: Mapped[int | None] = mapped_column(BigInteger)
    null_effect: Mapped[int | None] = mapped_column(BigInteger)
    rank: Mapped[int | None] = mapped_column(Integer)
    __table_args__ = (
        Index("ix_labels_text_id_confidence", text_id, confidence.desc(), direction_id, rank),
        # All that judging a match takes, in a quarter of the room of the rows, which lie far apart for most searches.
        Index("ix_labels_direction_id", direction_id, text_id, source_id, confidence),
        CheckConstraint("polarity IN (-1, 1)", name="polarity"),
        CheckConstraint("confidence BETWEEN 0 AND 10000", name="confidence"),
        # Clustered by direction: its labels are read in one go, and the key needs no second copy.
        {"sqlite_with_rowid": False},
    )


class StrayTable(Base):
    """A person's label whose direction a rebuild of the set left out: kept until a set has that direction again."""

    __tablename__ = "strays"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    checkpoint_id: Mapped[int] = mapped_column(_to("checkpoints.id"), index=True)
    direction: Mapped[str] = mapped_column(String(600))
    label: Mapped[str] = mapped_column(Text)


class ShippedTable(Base):
    """Digests of sets that came with eigenbank and were offered to this catalog: a set is offered once."""

    __tablename__ = "shipped"
    digest: Mapped[str] = mapped_column(String(200), primary_key=True)


# Words are put in by `write`, already folded (see `words`), so that searching means the same on every database. SQLite:
# the ascii tokenizer leaves everything beyond ASCII alone, which is what folded words need; contentless, since the texts
# are in their own tables already. PostgreSQL: its own search vectors, made without its parser.
INDEXED = ("texts", "names", "models")
FTS = {
    "sqlite": [
        f"CREATE VIRTUAL TABLE {name}_fts USING fts5(words, content='', columnsize=0, tokenize='ascii')"
        for name in INDEXED
    ],
    "postgresql": [
        statement
        for name in INDEXED
        for statement in (
            f"CREATE TABLE {name}_fts (rowid INTEGER PRIMARY KEY, words TSVECTOR NOT NULL)",
            f"CREATE INDEX ix_{name}_fts_words ON {name}_fts USING gin (words)",
        )
    ],
}
# Composites are one in a hundred: in the order of all, they would be found late. As text: SQLAlchemy would load PostgreSQL's
# dialect, and asyncio with it, to look at the condition.
ALONE = [
    f"CREATE INDEX ix_composites_{name} ON directions ({order}) WHERE composite IS NOT NULL"
    for name, order in (
        ("confidence", "confidence DESC"),
        ("effect", "effect DESC"),
        ("selectivity", "selectivity DESC"),
        ("consistency", "consistency DESC"),
        ("linearity", "linearity DESC"),
        ("locality", "locality DESC"),
        ("drift", "drift"),
    )
]
_ddl: Any = DDL
for _dialect, _statements in FTS.items():
    for _statement in _statements:
        event.listen(Base.metadata, "after_create", _ddl(_statement).execute_if(dialect=_dialect))
for _statement in ALONE:
    event.listen(Base.metadata, "after_create", _ddl(_statement))
