"""Composites beside the directions: rows with a name, and without layer, recipe, rank, eigenvalue and share."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

EMPTY = {
    "layers": ("name_id", "kind", "width", "heads"),
    "spectra": ("recipe_id",),
    "directions": ("rank", "eigenvalue", "share"),
    "labels": ("rank",),
}
"""The columns that may be empty from now on."""
CHECK = (
    "(rank IS NULL) = (composite IS NOT NULL) AND (eigenvalue IS NULL) = (rank IS NULL) "
    "AND (share IS NULL) = (rank IS NULL)"
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _make_anew()
        return
    for table, columns in EMPTY.items():
        for column in columns:
            op.alter_column(table, column, nullable=True)
    op.add_column("directions", sa.Column("composite", sa.String(100, collation="C"), nullable=True))
    op.create_check_constraint("ck_directions_composite", "directions", CHECK)


def _make_anew() -> None:
    """SQLite cannot let a column be empty that was not: the tables are made anew, and filled."""
    connection = op.get_bind()
    names = ", ".join(f"'{table}'" for table in EMPTY)
    found = connection.exec_driver_sql(
        f"SELECT type, name, tbl_name, sql FROM sqlite_master WHERE tbl_name IN ({names}) AND sql IS NOT NULL"
    ).all()
    tables = {name: sql for kind, name, _, sql in found if kind == "table"}
    for kind, name, *_ in found:
        if kind == "index":
            op.execute(f"DROP INDEX {name}")
    columns: dict[str, str] = {}
    for table in EMPTY:
        rows = connection.exec_driver_sql(f"PRAGMA table_info({table})")
        columns[table] = ", ".join(f'"{row[1]}"' for row in rows)
        op.rename_table(table, f"old_{table}")
    for table, names_of in EMPTY.items():
        lines = tables[table].split("\n")
        for number, line in enumerate(lines):
            if line.strip().split(" ")[0] in names_of:
                lines[number] = line.replace(" NOT NULL", "")
        if table == "directions":
            first = next(number for number, line in enumerate(lines) if line.strip().startswith("CONSTRAINT"))
            lines[first:first] = [
                "\tcomposite VARCHAR(100), ",
                f"\tCONSTRAINT ck_directions_composite CHECK ({CHECK}), ",
            ]
        op.execute("\n".join(lines))
        key = " ORDER BY 1, 2, 3" if table == "labels" else ""
        op.execute(f"INSERT INTO {table} ({columns[table]}) SELECT {columns[table]} FROM old_{table}{key}")
    for table in reversed(EMPTY):
        op.drop_table(f"old_{table}")
    for kind, *_, sql in found:
        if kind == "index":
            op.execute(sql)
