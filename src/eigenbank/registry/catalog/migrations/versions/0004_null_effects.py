"""What random directions do at a label's place, beside what the direction does."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("labels", sa.Column("null_effect", sa.Double(), nullable=True))
