"""`eigenbank pull`: a published direction set onto this machine and into the catalog."""

import click

from eigenbank.cli import complete
from eigenbank.cli.options import catalog_option, offline_option
from eigenbank.cli.output import emit, output_options, say


@click.command(short_help="Fetch a published direction set.")
@click.argument("name", metavar="REPO|MODEL", shell_complete=complete.models)
@click.option("--revision", metavar="REV", help="Commit, branch or tag of the repository [default: main].")
@offline_option
@catalog_option
@output_options
def pull(name: str, revision: str | None, fmt: str, quiet: bool) -> None:
    """Fetch a published direction set, check every file of it, and enter it into the catalog.

    REPO|MODEL is the repository of a set, or the model id of a checkpoint: then the Hub is searched for its sets, and
    a trusted author's or the most downloaded is taken.

    \b
    Example:
      eigenbank pull me/ddpm-celebahq-256-directions
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.hub.jobs import pull_set

    with Catalog.open() as catalog:
        pulled = pull_set(name, catalog, revision=revision, say=say)
    manifest = pulled.manifest
    row = {
        "model": manifest.checkpoint.model_id,
        "repo": pulled.at.repo,
        "commit": pulled.at.commit,
        "directions": len(manifest.directions),
        "labels": sum(len(record.labels) for record in manifest.directions),
        "folder": str(pulled.folder),
    }
    emit([row], ["model", "repo", "commit", "directions", "labels"], fmt=fmt, quiet=quiet, key="model")
