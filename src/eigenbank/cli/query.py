"""`eigenbank search`, and the short forms `list` and `show`: questions to the catalog. Nothing here imports torch."""

from typing import Any

import click

from eigenbank.cli import complete
from eigenbank.cli.filters import filter_options
from eigenbank.cli.options import catalog_option
from eigenbank.cli.output import log, output_options
from eigenbank.cli.rows import MODEL_COLUMNS, model_row, put_out, put_out_page


@click.command("list", short_help="List the models in the catalog, or the directions of one.")
@click.option(
    "--model",
    metavar="ID",
    shell_complete=complete.models,
    help="List this model's directions; a glob may name several models.",
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="Most rows to print.")
@click.option("--cursor", metavar="CURSOR", help="Go on after the page that printed this cursor.")
@catalog_option
@output_options
def list_(model: str | None, limit: int, cursor: str | None, fmt: str, quiet: bool) -> None:
    """List the models in the catalog, or with --model the directions of one.

    Short for `models ls` and `directions ls`.

    \b
    Example:
      eigenbank list --model eigenbank/cartoon-faces-32
    """
    from eigenbank.registry.catalog import Catalog

    if cursor is not None and model is None:
        message = "--cursor goes on with the directions of --model: name that, too; models have no pages"
        raise click.UsageError(message)
    with Catalog.open() as catalog:
        if model is not None:
            page = catalog.search(model=model, sort="catalog", limit=limit, cursor=cursor)
            put_out_page(page, {"sort": "catalog", "limit": limit}, fmt=fmt, quiet=quiet)
            return
        rows = [model_row(found) for found in catalog.sets()]
    put_out("model", rows, MODEL_COLUMNS, fmt=fmt, quiet=quiet, key="model")


@click.command(short_help="Search the directions of all models.")
@click.argument("text", required=False, shell_complete=complete.words)
@filter_options
@catalog_option
@output_options
def search(text: str | None, fmt: str, quiet: bool, **filters: Any) -> None:
    """Search the directions of all models by label text and more; best match first.

    Words match the beginnings of words in labels, layers and model ids; all must be there. A phrase "in double quotes"
    matches as it stands. Best match means: how well the text matches, then the confidence of the label; what the label alone
    stands for in `steer`, as in Python's bank.search, is what promises the best slider. No match is an empty result, exit code 0; stderr says so then, and names near matches.

    \b
    Example:
      eigenbank search smile --model 'eigenbank/*' --format json
      eigenbank search smile -q | eigenbank labels add - grin --by ann
    """
    from eigenbank.registry.catalog import Catalog

    with Catalog.open() as catalog:
        page = catalog.search(text, **filters)
        if text and text.count('"') % 2:
            log(
                f"the last quote in {text[:80]!r} is not closed: all behind it was taken as a phrase that must match as it stands"
            )
        if text and not len(page) and filters["cursor"] is None:
            strange = catalog.near(text)
            if not strange and len(catalog.search(text, limit=1)):
                log(f"nothing found for {text[:80]!r} that meets the filters: without them there is something")
            elif not strange:
                log(f"nothing found for {text[:80]!r}: `eigenbank labels ls` lists the labels there are")
            for word, near in strange.items():
                hint = f"did you mean {' or '.join(near)}?" if near else "nothing is like it."
                log(f"no label, layer or model has a word {word!r}: {hint}")
    put_out_page(page, filters, fmt=fmt, quiet=quiet)
