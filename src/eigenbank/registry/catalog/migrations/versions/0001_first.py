"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


FTS = ("texts", "names", "models")


def _name(length: int) -> "sa.types.TypeEngine[str]":
    return sa.String(length=length).with_variant(sa.String(length=length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", _name(200), nullable=False),
        sa.Column("revision", _name(200), nullable=False),
        sa.Column("denoiser", _name(100), nullable=False),
        sa.Column("component", sa.String(length=60), nullable=False),
        sa.Column("licence", _name(500), nullable=True),
        sa.Column("path", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
        sa.UniqueConstraint("model_id", "revision", name=op.f("uq_checkpoints_model_id_revision")),
    )
    for column in ("path", "denoiser", "licence"):
        op.create_index(op.f(f"ix_checkpoints_{column}"), "checkpoints", [column])
    op.create_table(
        "names",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", _name(300), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_names")),
        sa.UniqueConstraint("name", name=op.f("uq_names_name")),
    )
    op.create_table(
        "protocols",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("scale", sa.Double(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("seeds", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_protocols")),
        sa.UniqueConstraint("digest", name=op.f("uq_protocols_digest")),
    )
    op.create_table(
        "recipes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("slug", _name(200), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recipes")),
        sa.UniqueConstraint("slug", name=op.f("uq_recipes_slug")),
    )
    op.create_table(
        "shipped",
        sa.Column("digest", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_shipped")),
    )
    op.create_table(
        "sources",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", _name(300), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sources")),
        sa.UniqueConstraint("name", name=op.f("uq_sources_name")),
    )
    op.create_table(
        "texts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("text", _name(500), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_texts")),
        sa.UniqueConstraint("text", name=op.f("uq_texts_text")),
    )
    op.create_table(
        "sets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("checkpoint_id", sa.Integer(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=200), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("builder", sa.String(length=500), nullable=False),
        sa.Column("licence", sa.String(length=500), nullable=False),
        sa.Column("repo", sa.String(length=200), nullable=True),
        sa.Column("commit", sa.String(length=200), nullable=True),
        sa.Column("directions", sa.Integer(), nullable=False),
        sa.Column("labels", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_sets_checkpoint_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sets")),
        sa.UniqueConstraint("checkpoint_id", name=op.f("uq_sets_checkpoint_id")),
    )
    op.create_index(op.f("ix_sets_digest"), "sets", ["digest"])
    op.create_index(op.f("ix_sets_location"), "sets", ["location"])
    op.create_table(
        "strays",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("checkpoint_id", sa.Integer(), nullable=False),
        sa.Column("direction", sa.String(length=600), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_strays_checkpoint_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_strays")),
    )
    op.create_index(op.f("ix_strays_checkpoint_id"), "strays", ["checkpoint_id"])
    op.create_table(
        "layers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("set_id", sa.Integer(), nullable=False),
        sa.Column("name_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("heads", sa.Integer(), nullable=False),
        sa.CheckConstraint("width > 0", name=op.f("ck_layers_width")),
        sa.ForeignKeyConstraint(["set_id"], ["sets.id"], name=op.f("fk_layers_set_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["name_id"], ["names.id"], name=op.f("fk_layers_name_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_layers")),
        sa.UniqueConstraint("set_id", "name_id", name=op.f("uq_layers_set_id_name_id")),
    )
    for column in ("name_id", "kind", "width"):
        op.create_index(op.f(f"ix_layers_{column}"), "layers", [column])
    op.create_table(
        "spectra",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("layer_id", sa.Integer(), nullable=False),
        sa.Column("recipe_id", sa.Integer(), nullable=False),
        sa.Column("directions", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["layer_id"], ["layers.id"], name=op.f("fk_spectra_layer_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_spectra_recipe_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spectra")),
        sa.UniqueConstraint("layer_id", "recipe_id", name=op.f("uq_spectra_layer_id_recipe_id")),
    )
    op.create_index(op.f("ix_spectra_recipe_id"), "spectra", ["recipe_id"])
    op.create_table(
        "directions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("spectrum_id", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("eigenvalue", sa.Double(), nullable=False),
        sa.Column("share", sa.Double(), nullable=False),
        sa.Column("gap", sa.Double(), nullable=True),
        sa.Column("labels", sa.Integer(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.CheckConstraint("eigenvalue >= 0", name=op.f("ck_directions_eigenvalue")),
        sa.CheckConstraint("labels >= 0", name=op.f("ck_directions_labels")),
        sa.CheckConstraint("rank >= 0", name=op.f("ck_directions_rank")),
        sa.CheckConstraint("share BETWEEN 0 AND 1", name=op.f("ck_directions_share")),
        sa.ForeignKeyConstraint(
            ["spectrum_id"], ["spectra.id"], name=op.f("fk_directions_spectrum_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_directions")),
        sa.UniqueConstraint("spectrum_id", "rank", name=op.f("uq_directions_spectrum_id_rank")),
    )
    op.create_index("ix_directions_confidence", "directions", [sa.literal_column("confidence DESC")])
    op.create_index("ix_directions_eigenvalue", "directions", [sa.literal_column("eigenvalue DESC")])
    op.create_index(op.f("ix_directions_labels"), "directions", ["labels"])
    op.create_index(op.f("ix_directions_rank"), "directions", ["rank"])
    op.create_index("ix_directions_share", "directions", [sa.literal_column("share DESC")])
    op.create_table(
        "labels",
        sa.Column("direction_id", sa.Integer(), nullable=False),
        sa.Column("text_id", sa.Integer(), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("polarity", sa.Integer(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("protocol_id", sa.Integer(), nullable=True),
        sa.Column("effect", sa.Double(), nullable=True),
        sa.Column("selectivity", sa.Double(), nullable=True),
        sa.Column("consistency", sa.Double(), nullable=True),
        sa.Column("asymmetry", sa.Double(), nullable=True),
        sa.Column("runner_up_id", sa.Integer(), nullable=True),
        sa.Column("runner_up_effect", sa.Double(), nullable=True),
        sa.CheckConstraint("confidence BETWEEN 0 AND 1", name=op.f("ck_labels_confidence")),
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
    op.create_index(op.f("ix_labels_source_id"), "labels", ["source_id"])
    op.create_index(
        "ix_labels_text_id_confidence", "labels", ["text_id", sa.literal_column("confidence DESC"), "direction_id"]
    )
    for name in FTS:
        if op.get_bind().dialect.name == "sqlite":
            op.execute(f"CREATE VIRTUAL TABLE {name}_fts USING fts5(words, content='', columnsize=0, tokenize='ascii')")
        else:
            op.execute(f"CREATE TABLE {name}_fts (rowid INTEGER PRIMARY KEY, words TSVECTOR NOT NULL)")
            op.execute(f"CREATE INDEX ix_{name}_fts_words ON {name}_fts USING gin (words)")
