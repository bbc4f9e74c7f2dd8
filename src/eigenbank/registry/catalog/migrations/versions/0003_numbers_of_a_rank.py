"""The numbers of the directions of one rank."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index("ix_directions_rank", "directions", ["rank"])
