"""`eigenbank models`: what has a direction set."""

import click

from eigenbank.cli import complete
from eigenbank.cli.options import catalog_option
from eigenbank.cli.output import log, output_options
from eigenbank.cli.rows import MODEL_COLUMNS, facts, model_row, put_out
from eigenbank.schemas.errors import unknown


@click.group(short_help="List, show and remove the models in the catalog.")
def models() -> None:
    """List, show and remove the models in the catalog.

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
@click.option(
    "--revision",
    metavar="REVISION",
    shell_complete=complete.revisions,
    help="Which of its sets [default: the newest].",
)
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


@models.command(short_help="Take a model's set out of the catalog.")
@click.argument("model", metavar="MODEL_ID", shell_complete=complete.models)
@click.option(
    "--revision", metavar="REVISION", shell_complete=complete.revisions, help="Which of its sets, where it has several."
)
@click.option("--files", is_flag=True, help="Delete the set's folder, too; one that eigenbank made among its own sets.")
@catalog_option
def rm(model: str, revision: str | None, files: bool) -> None:
    """Take a model's set out of the catalog: its directions and the labels that labelers gave them.

    What people labelled waits until a set has its directions again. The folder on disk is left, without --files. Where the
    set had taken the place of one that ships with eigenbank, that one is back.

    \b
    Example:
      eigenbank models rm me/middle
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.hub.client import parse_location
    from eigenbank.registry.local import remove_set
    from eigenbank.registry.sets.bundled import is_shipped

    with Catalog.open() as catalog:
        found = remove_set(catalog, model, revision, files=files)
    row = found.row
    of = f"{row.model_id}{f' of revision {row.revision}' if row.revision else ''}"
    log(f"removed {of} from the catalog: {row.directions} directions, {row.labels} labels")
    if found.waiting:
        log(f"{found.waiting} labels of people wait for the set, or another with their directions, to come back")
    if found.restored:
        log(f"the set that ships with eigenbank is back: eigenbank list --model {model}")
    at = parse_location(row.location)
    if found.folder is None:
        log(
            "its folder was deleted"
            if found.deleted
            else f"it is not on this machine; the catalog had it at {row.location}"
        )
    elif at is not None:
        log(f"its files are left in the Hub's cache, {found.folder}; eigenbank pull {at.repo} enters it again")
    elif is_shipped(row.location):
        log(f"it ships with eigenbank; eigenbank catalog add {found.folder} enters it again")
    else:
        drawn = f" --checkpoint {row.checkpoint_path}" if row.checkpoint_path else ""
        log(f"its folder is left, {found.folder}; eigenbank catalog add {found.folder}{drawn} enters it again")
