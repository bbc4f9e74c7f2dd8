"""What judging a match takes of the labels of a direction, close together."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_index(
        "ix_labels_direction_id", "labels", ["direction_id", "text_id", "source_id", "confidence"], if_not_exists=True
    )
