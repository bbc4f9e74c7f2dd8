"""Composites in the orders that they can be listed in, by themselves."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

ORDERS = ("confidence", "effect", "selectivity", "consistency", "linearity", "locality")
"""The columns of which the largest comes first."""


def upgrade() -> None:
    only = sa.text("composite IS NOT NULL")
    for name in (*ORDERS, "drift"):
        order = sa.text(f"{name} DESC" if name in ORDERS else name)
        op.create_index(f"ix_composites_{name}", "directions", [order], sqlite_where=only, postgresql_where=only)
