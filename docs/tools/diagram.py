"""The catalog's tables as a picture: an SVG drawn from the models, no script needed to see it."""

from html import escape

from sqlalchemy import MetaData, Table

WIDTH, LINE, GAP, ACROSS = 230, 17, 22, 90
INK, FAINT, PAPER, HEAD = "#222", "#777", "#fff", "#e8eaf6"


def diagram(metadata: MetaData) -> str:
    """The SVG: a box per table, its columns with types, a line from every foreign key to the table it refers to.

    What is referred to stands to the left of what refers to it.
    """
    depths = _depths(metadata)
    columns: dict[int, list[Table]] = {}
    for table in metadata.sorted_tables:
        columns.setdefault(depths[table.name], []).append(table)
    at: dict[str, tuple[int, int]] = {}
    bottom = 0
    for depth, tables in sorted(columns.items()):
        y = GAP
        for table in tables:
            at[table.name] = (GAP + depth * (WIDTH + ACROSS), y)
            y += LINE * (len(table.columns) + 1) + GAP + 8
        bottom = max(bottom, y)
    width = 2 * GAP + len(columns) * (WIDTH + ACROSS) - ACROSS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom}" font-family="monospace" font-size="11">',
        f'<rect width="{width}" height="{bottom}" fill="{PAPER}"/>',
        *(line for table in metadata.sorted_tables for line in _lines(table, at)),
        *(line for table in metadata.sorted_tables for line in _box(table, *at[table.name])),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _depths(metadata: MetaData) -> dict[str, int]:
    """How many tables each one's longest chain of references has."""
    depths: dict[str, int] = {}
    for table in metadata.sorted_tables:  # what is referred to comes first
        parents = {key.column.table.name for key in table.foreign_keys} - {table.name}
        depths[table.name] = max((depths[name] + 1 for name in parents), default=0)
    return depths


def _box(table: Table, x: int, y: int) -> list[str]:
    height = LINE * (len(table.columns) + 1) + 8
    lines = [
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{height}" rx="3" fill="{PAPER}" stroke="{INK}"/>',
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{LINE + 2}" rx="3" fill="{HEAD}" stroke="{INK}"/>',
        f'<text x="{x + 7}" y="{y + 13}" fill="{INK}" font-weight="bold">{escape(table.name)}</text>',
    ]
    for number, column in enumerate(table.columns, start=1):
        at = y + 15 + LINE * number
        weight = ' font-weight="bold"' if column.primary_key else ""
        kind = f"{str(column.type).lower()}{'' if column.nullable else ' not null'}"
        lines.append(f'<text x="{x + 7}" y="{at}" fill="{INK}"{weight}>{escape(column.name)}</text>')
        lines.append(f'<text x="{x + WIDTH - 7}" y="{at}" fill="{FAINT}" text-anchor="end">{escape(kind)}</text>')
    return lines


def _lines(table: Table, at: dict[str, tuple[int, int]]) -> list[str]:
    x, y = at[table.name]
    lines = []
    for number, column in enumerate(table.columns, start=1):
        for key in column.foreign_keys:
            far, top = at[key.column.table.name]
            start, end = (far + WIDTH, top + 10), (x, y + 11 + LINE * number)
            bend = ACROSS // 2
            path = f"M{start[0]} {start[1]} C{start[0] + bend} {start[1]} {end[0] - bend} {end[1]} {end[0]} {end[1]}"
            lines.append(f'<path d="{path}" fill="none" stroke="{FAINT}"/>')
            lines.append(f'<circle cx="{start[0]}" cy="{start[1]}" r="3" fill="{FAINT}"/>')
    return lines
