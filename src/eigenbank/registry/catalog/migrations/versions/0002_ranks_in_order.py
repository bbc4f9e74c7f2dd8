"""The directions of one rank in the order of their eigenvalues and shares."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.drop_index("ix_directions_rank", "directions")
    for column in ("eigenvalue", "share"):
        name = f"ix_directions_rank_{column}"
        op.create_index(name, "directions", ["rank", sa.literal_column(f"{column} DESC")])
