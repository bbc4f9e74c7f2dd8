"""`eigenbank verify`: are the sets on this machine still what they were?"""

import click

from eigenbank.cli import complete
from eigenbank.cli.options import catalog_option, offline_option
from eigenbank.cli.output import emit, output_options, say


@click.command(short_help="Hash the sets on this machine again.")
@click.argument("model", required=False, shell_complete=complete.models)
@click.option("--all", "every", is_flag=True, help="All sets of the catalog.")
@click.option("--repair", is_flag=True, help="Pull damaged sets again, where they were published.")
@offline_option
@catalog_option
@output_options
def verify(model: str | None, every: bool, repair: bool, fmt: str, quiet: bool) -> int:
    """Hash every file of a set again, and compare it with the manifest, and the manifest with the catalog.

    Exits with 1 if a set is damaged and was not repaired.

    \b
    Example:
      eigenbank verify --all
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.hub.resolve import no_set
    from eigenbank.registry.hub.verify import repair as repair_set
    from eigenbank.registry.hub.verify import verify as verify_set
    from eigenbank.schemas.errors import HubError

    if (model is None) == (not every):
        message = "name a MODEL, or give --all"
        raise click.UsageError(message)
    results = []
    with Catalog.open() as catalog:
        rows = [row for row in catalog.sets() if every or row.model_id == model]
        if model is not None and not rows:
            raise no_set(model, catalog)
        for row in rows:
            try:
                results.append(repair_set(row, catalog, say=say) if repair else verify_set(row))
            except HubError as error:
                say(f"{row.model_id} could not be repaired: {error}")
                results.append(verify_set(row))
    emit(
        [
            {"model": found.model, "status": found.status, "location": found.location, "problem": found.problem}
            for found in results
        ],
        ["model", "status", "problem"],
        fmt=fmt,
        quiet=quiet,
        key="model",
    )
    damaged = sum(found.status == "damaged" for found in results)
    if damaged and not repair:
        say(f"{damaged} damaged: nothing was changed. Those that were published can be pulled again: --repair")
    return 1 if damaged else 0
