"""How directions behave as sliders; measured numbers as whole ten-thousandths; a direction's rank beside its labels."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

MEASURED = ("effect", "selectivity", "consistency", "asymmetry", "runner_up_effect", "null_effect")
LARGE = ("effect", "asymmetry", "runner_up_effect", "null_effect", "drift")
QUALITY = ("effect", "selectivity", "consistency", "linearity", "range_low", "range_high", "locality", "drift")
DIRECTIONS = ("id", "spectrum_id", "rank", "eigenvalue", "share", "gap", "labels")
LABELS = ("direction_id", "text_id", "source_id", "polarity", "created", "note", "protocol_id", "runner_up_id")
DESCENDING = (
    "eigenvalue",
    "share",
    "gap",
    "confidence",
    "effect",
    "selectivity",
    "consistency",
    "linearity",
    "locality",
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _make_anew()
    else:
        _alter()
    for column in ("gap", *(name for name in DESCENDING[4:])):
        op.create_index(f"ix_directions_{column}", "directions", [sa.literal_column(f"{column} DESC")])
    op.create_index("ix_directions_drift", "directions", ["drift"])
    columns: list[Any] = ["text_id", sa.literal_column("confidence DESC"), "direction_id", "rank"]
    op.create_index("ix_labels_text_id_confidence", "labels", columns)


def _kept(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger() if name in LARGE else sa.Integer(), nullable=True)


def _parts(column: str) -> str:
    return f"CAST(round({column} * 10000) AS BIGINT)"


def _alter() -> None:
    op.drop_index("ix_labels_text_id_confidence", "labels")
    op.drop_constraint("ck_labels_confidence", "labels")
    for table, names in (("labels", ("confidence", *MEASURED)), ("directions", ("confidence",))):
        for name in names:
            kind = _kept(name).type
            op.alter_column(table, name, type_=kind, postgresql_using=_parts(name))
    op.create_check_constraint("ck_labels_confidence", "labels", "confidence BETWEEN 0 AND 10000")
    op.add_column("labels", sa.Column("rank", sa.Integer(), nullable=True))
    op.execute("UPDATE labels SET rank = d.rank FROM directions AS d WHERE d.id = labels.direction_id")
    op.alter_column("labels", "rank", nullable=False)
    for name in ("source_id", "protocol_id"):
        op.add_column("directions", sa.Column(name, sa.Integer(), nullable=True))
        table = name.removesuffix("_id") + "s"
        op.create_foreign_key(f"fk_directions_{name}", "directions", table, [name], ["id"])
    for name in QUALITY:
        op.add_column("directions", _kept(name))


def _make_anew() -> None:
    """SQLite cannot change a column's type: both tables are made anew, and filled."""
    for table, index in (
        ("labels", "source_id"),
        ("labels", "text_id_confidence"),
        *(("directions", name) for name in ("eigenvalue", "share", "confidence", "labels")),
        *(("directions", name) for name in ("rank", "rank_eigenvalue", "rank_share")),
    ):
        op.drop_index(f"ix_{table}_{index}", table)
    op.rename_table("labels", "old_labels")
    op.rename_table("directions", "old_directions")
    op.create_table(
        "directions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("spectrum_id", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("eigenvalue", sa.Double(), nullable=False),
        sa.Column("share", sa.Double(), nullable=False),
        sa.Column("gap", sa.Double(), nullable=True),
        sa.Column("labels", sa.Integer(), nullable=False),
        sa.Column("confidence", sa.Integer(), nullable=True),
        sa.Column("source_id", sa.Integer(), nullable=True),
        sa.Column("protocol_id", sa.Integer(), nullable=True),
        *map(_kept, QUALITY),
        sa.CheckConstraint("eigenvalue >= 0", name=op.f("ck_directions_eigenvalue")),
        sa.CheckConstraint("labels >= 0", name=op.f("ck_directions_labels")),
        sa.CheckConstraint("rank >= 0", name=op.f("ck_directions_rank")),
        sa.CheckConstraint("share BETWEEN 0 AND 1", name=op.f("ck_directions_share")),
        sa.ForeignKeyConstraint(["protocol_id"], ["protocols.id"], name=op.f("fk_directions_protocol_id")),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_directions_source_id")),
        sa.ForeignKeyConstraint(
            ["spectrum_id"], ["spectra.id"], name=op.f("fk_directions_spectrum_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_directions")),
        sa.UniqueConstraint("spectrum_id", "rank", name=op.f("uq_directions_spectrum_id_rank")),
    )
    names = ", ".join(DIRECTIONS)
    op.execute(
        f"INSERT INTO directions ({names}, confidence) SELECT {names}, {_parts('confidence')} FROM old_directions"
    )
    op.create_table(
        "labels",
        sa.Column("direction_id", sa.Integer(), nullable=False),
        sa.Column("text_id", sa.Integer(), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("polarity", sa.Integer(), nullable=False),
        _kept("confidence"),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("protocol_id", sa.Integer(), nullable=True),
        *map(_kept, MEASURED[:4]),
        sa.Column("runner_up_id", sa.Integer(), nullable=True),
        *map(_kept, MEASURED[4:]),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.CheckConstraint("confidence BETWEEN 0 AND 10000", name=op.f("ck_labels_confidence")),
        sa.CheckConstraint("polarity IN (-1, 1)", name=op.f("ck_labels_polarity")),
        sa.ForeignKeyConstraint(
            ["direction_id"], ["directions.id"], name=op.f("fk_labels_direction_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["protocol_id"], ["protocols.id"], name=op.f("fk_labels_protocol_id")),
        sa.ForeignKeyConstraint(["runner_up_id"], ["texts.id"], name=op.f("fk_labels_runner_up_id")),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_labels_source_id")),
        sa.ForeignKeyConstraint(["text_id"], ["texts.id"], name=op.f("fk_labels_text_id")),
        sa.PrimaryKeyConstraint("direction_id", "text_id", "source_id", name=op.f("pk_labels")),
        sqlite_with_rowid=False,
    )
    kept, measured = ", ".join(f"l.{name}" for name in LABELS), ("confidence", *MEASURED)
    op.execute(
        f"INSERT INTO labels ({', '.join(LABELS)}, {', '.join(measured)}, rank) "
        f"SELECT {kept}, {', '.join(_parts(f'l.{name}') for name in measured)}, d.rank "
        "FROM old_labels AS l JOIN old_directions AS d ON d.id = l.direction_id ORDER BY 1, 2, 3"
    )
    op.drop_table("old_labels")
    op.drop_table("old_directions")
    for name in ("eigenvalue", "share", "confidence"):
        op.create_index(f"ix_directions_{name}", "directions", [sa.literal_column(f"{name} DESC")])
    for name in ("eigenvalue", "share"):
        op.create_index(f"ix_directions_rank_{name}", "directions", ["rank", sa.literal_column(f"{name} DESC")])
    op.create_index("ix_directions_rank", "directions", ["rank"])
    op.create_index("ix_directions_labels", "directions", ["labels"])
    op.create_index("ix_labels_source_id", "labels", ["source_id"])
