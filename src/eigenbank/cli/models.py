"""`eigenbank models`: what has a direction set."""

import click

from eigenbank.cli import complete
from eigenbank.cli.options import catalog_option
from eigenbank.cli.output import output_options
from eigenbank.cli.rows import MODEL_COLUMNS, facts, model_row, put_out
from eigenbank.schemas.errors import unknown


@click.group(short_help="List and show the models in the catalog.")
def models() -> None:
    """List and show the models in the catalog.

    \b
    Example:
      eigenbank models ls
    """


@models.command(short_help="List the models that have a direction set.")
@click.argument("pattern", required=False, metavar="[GLOB]", shell_complete=complete.models)
@catalog_option
@output_options
def ls(pattern: str | None, fmt: str, quiet: bool) -> None:
    """List the models that have a direction set; with GLOB those whose id it matches.

    \b
    Example:
      eigenbank models ls 'eigenbank/*'
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.catalog.query import matcher

    fits = matcher("*" if pattern is None else pattern)
    with Catalog.open() as catalog:
        rows = [model_row(found) for found in catalog.sets() if fits(found.model_id)]
    put_out("model", rows, MODEL_COLUMNS, fmt=fmt, quiet=quiet, key="model")


@models.command(short_help="Show a model's set, its layers and its labels.")
@click.argument("model", shell_complete=complete.models)
@click.option("--revision", metavar="REVISION", help="Which of its sets [default: the newest].")
@catalog_option
@output_options
def show(model: str, revision: str | None, fmt: str, quiet: bool) -> None:
    """Show a model's set: where it is, its layers, recipes and label texts.

    \b
    Example:
      eigenbank models show eigenbank/cartoon-faces-32
    """
    from eigenbank.registry.catalog import Catalog

    with Catalog.open() as catalog:
        found = catalog.get_set(model, revision)
        if found is None:
            if revision is not None and catalog.get_set(model) is not None:
                known = [row.revision or "" for row in catalog.sets() if row.model_id == model]
                raise unknown(kind=f"revision of {model}", name=revision, known=known)
            raise unknown(kind="model", name=model, known=catalog.model_ids())
        row = model_row(found)
        row |= {"layers": catalog.layer_names(model), "recipes": catalog.recipe_slugs(model)}
        row |= {"label_texts": catalog.label_texts(model)}
    if fmt == "table" and not quiet:
        facts(row)
    else:
        put_out("model", [row], list(row), fmt=fmt, quiet=quiet, key="model")
