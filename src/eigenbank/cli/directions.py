"""`eigenbank directions`: list, show, and compare those of two sets."""

from typing import TYPE_CHECKING, Any

import click

from eigenbank.cli import complete
from eigenbank.cli.filters import filter_options, names_given
from eigenbank.cli.options import catalog_option
from eigenbank.cli.output import emit, log, output_options
from eigenbank.cli.rows import NOT_OF_COMPOSITES, direction_row, facts, put_out, put_out_page, quality_facts

if TYPE_CHECKING:
    from eigenbank.registry.catalog import Catalog, DirectionRow


_APART = ("evidence", "labels", "confidence", "quality")
"""What `show` tells in tables of its own."""


@click.group(short_help="List, show and compare directions.")
def directions() -> None:
    """List, show and compare directions.

    \b
    Example:
      eigenbank directions ls --model eigenbank/cartoon-faces-32
    """


@directions.command(short_help="List directions that meet all filters.")
@filter_options
@catalog_option
@output_options
def ls(fmt: str, quiet: bool, **filters: Any) -> None:
    """List the directions that meet all filters, in catalog order: a set's composites follow its directions.

    \b
    Example:
      eigenbank directions ls --layer 'mid_block.*' --rank 0
    """
    from eigenbank.registry.catalog import Catalog

    with Catalog.open() as catalog:
        page = catalog.search(None, **filters)
    put_out_page(page, filters, fmt=fmt, quiet=quiet)


@click.command(short_help="Show directions, their quality and the evidence for their labels.")
@click.argument("names", nargs=-1, required=True, metavar="DIRECTION...", shell_complete=complete.directions)
@click.option(
    "--model", metavar="ID", shell_complete=complete.models, help="Model of a bare LAYER/RECIPE/RANK or composite/NAME."
)
@catalog_option
@output_options
def show(names: tuple[str, ...], model: str | None, fmt: str, quiet: bool) -> None:
    """Show everything known of directions.

    DIRECTION is MODEL_ID#LAYER/RECIPE/RANK, or MODEL_ID#composite/NAME; `-` reads them from standard input, one a line.

    \b
    Example:
      eigenbank show 'eigenbank/cartoon-faces-32#mid_block.attentions.0/output-value/0'
    """
    from eigenbank.registry.catalog import Catalog

    with Catalog.open() as catalog:
        found = [_one(catalog, name) for name in names_given(names, model)]
    if fmt != "table" or quiet:
        rows = [direction_row(row) | {"parts": _parts(row)} for row in found]
        put_out("direction", rows, list(rows[0]), fmt=fmt, quiet=quiet, key="id")
        return
    for number, row in enumerate(found):
        if number:
            click.echo()
        plain = direction_row(row)
        apart = {*_APART, *(NOT_OF_COMPOSITES if row.composite is not None else ("composite",))}
        facts({key: value for key, value in plain.items() if key not in apart})
        if parts := _parts(row):
            click.echo()
            emit(parts, ["direction", "weight"], fmt="table", quiet=False, key="direction")
        if row.quality is not None:
            click.echo()
            facts(quality_facts(row.quality))
        for label in row.labels:
            click.echo()
            own: dict[str, Any] = {"label": label.text, "polarity": label.polarity, "confidence": label.confidence}
            own |= {"source": label.source, "note": label.note, "created": label.created.isoformat()}
            if label.evidence:
                own |= {
                    key: (f"{value[0]}…{value[-1]} ({len(value)})" if key == "seeds" and value else value)
                    for key, value in label.evidence.model_dump().items()
                }
            facts(own)


directions.add_command(show)


def _one(catalog: "Catalog", name: str) -> "DirectionRow":
    found = catalog.get_direction(name)
    if found is None:
        raise catalog.unknown_direction(name)
    return found


def _parts(row: "DirectionRow") -> list[dict[str, Any]] | None:
    """What a composite is made of, the heaviest part first; None for a direction, or where its set cannot be read, which is
    said.
    """
    from eigenbank.registry.hub.client import folder_of
    from eigenbank.registry.sets.folder import MANIFEST, read_manifest
    from eigenbank.schemas.errors import SetError

    if row.composite is None:
        return None
    folder = folder_of(row.location)
    if not (folder / MANIFEST).is_file():
        log(f"what {row.id} is made of is in its set, which is not on this machine: eigenbank pull {row.model_id}")
        return None
    try:
        composites = read_manifest(folder).composites
    except SetError as error:
        log(str(error))
        return None
    parts = next((each.parts for each in composites if each.name == row.composite), ())
    return [part.model_dump() for part in sorted(parts, key=lambda part: -abs(part.weight))]


def _short(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if len(value) > 4_000:  # longer than any path may be
        message = f"expected a model id or a folder, found {len(value):,} letters"
        raise click.BadParameter(message)
    return value


@directions.command(short_help="Compare the directions of two sets, layer by layer.")
@click.argument("one", shell_complete=complete.models, callback=_short)
@click.argument("other", shell_complete=complete.models, callback=_short)
@click.option("--layer", default="*", metavar="GLOB", help="Layers to compare.")
@click.option("--recipe", default="*", metavar="GLOB", help="Recipes to compare.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Most rows to print.")
@catalog_option
@output_options
def compare(one: str, other: str, layer: str, recipe: str, limit: int, fmt: str, quiet: bool) -> None:
    """Compare two sets: for every direction of ONE the nearest of OTHER at the same layer and recipe, and their cosine.

    ONE and OTHER are model ids, or folders of direction sets. The directions that moved most come first: what a
    fine-tune changed. A cosine near 1 or −1 is the same axis. What only one of the sets has is named on stderr.

    \b
    Example:
      eigenbank directions compare eigenbank/cartoon-faces-32 eigenbank/cartoon-faces-32
    """
    from eigenbank.loaders.lookup import load
    from eigenbank.registry.sets.compare import compare_banks, not_shared

    banks = load(one), load(other)
    rows = compare_banks(*banks, layer=layer, recipe=recipe)
    columns = ["id", "nearest", "cosine", "same_rank_cosine"]
    put_out("comparison", rows[:limit], columns, fmt=fmt, quiet=quiet, key="id")
    for name, (here, there) in ((one, banks), (other, banks[::-1])):
        alone = not_shared(here, there, layer=layer, recipe=recipe)
        if alone:
            more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
            log(f"only in {name}, and not compared: {', '.join(alone[:3])}{more}")
    if len(rows) > limit:
        log(f"the {limit} that moved most are shown, of {len(rows)}: raise --limit for more")
