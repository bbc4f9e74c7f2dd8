"""`eigenbank publish`: a direction set onto the Hub, as one commit."""

import click

from eigenbank.cli import complete
from eigenbank.cli.options import catalog_option
from eigenbank.cli.output import emit, output_options, say


def _of_somebody(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if value.count("/") != 1:
        message = f"{value[:200]!r}: expected ORG/NAME"
        raise click.BadParameter(message)
    return value


@click.command(short_help="Publish a direction set on the Hub.")
@click.argument("target", metavar="SET|MODEL", shell_complete=complete.models_or_folders)
@click.option(
    "--repo",
    required=True,
    metavar="ORG/NAME",
    callback=_of_somebody,
    help="Repository to publish in; made if it is not there.",
)
@click.option(
    "--with-labels", is_flag=True, help="Publish the labels people gave in this catalog, too, with their names."
)
@click.option("--private", is_flag=True, help="Make the repository private, if it is made.")
@click.option("--revision", metavar="BRANCH", help="Branch to publish on; made if it is not there [default: main].")
@click.option("--message", metavar="TEXT", help="Message of the commit.")
@click.option("--parent", metavar="COMMIT", help="Publish on top of this commit, though somebody else pushed it.")
@click.option("--dry-run", is_flag=True, help="Check everything and say what would be uploaded; change nothing.")
@catalog_option
@output_options
def publish(
    target: str,
    repo: str,
    with_labels: bool,
    private: bool,
    revision: str | None,
    message: str | None,
    parent: str | None,
    dry_run: bool,
    fmt: str,
    quiet: bool,
) -> None:
    """Publish a direction set on the Hugging Face Hub, as one commit.

    SET|MODEL is a set's folder, or a model id of the catalog. The login is the Hub client's own: hf auth login, or
    HF_TOKEN. What the repository has already is not uploaded again, and what somebody else pushed is never overwritten
    unseen.

    \b
    Example:
      eigenbank publish google/ddpm-celebahq-256 --repo me/ddpm-celebahq-256-directions
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.hub.jobs import publish_set

    with Catalog.open() as catalog:
        outcome = publish_set(
            target,
            repo,
            catalog,
            with_labels=with_labels,
            private=private,
            revision=revision,
            message=message,
            parent=parent,
            dry_run=dry_run,
            say=say,
        )
    rows = [
        {"file": name, "change": change, "bytes": outcome.sizes.get(name), "repo": repo, "commit": outcome.commit}
        for name, change in outcome.changes.items()
    ]
    if dry_run:
        there = f"at {outcome.commit[:8]}" if outcome.commit else "to be made"
        say(f"{repo} ({there}): {'this would be published' if outcome.changed else 'has all of it already'}")
    elif outcome.changed:
        say(f"published in {repo} at {outcome.commit}")
    else:
        say(f"{repo} has all of it already, at {outcome.commit}: nothing was uploaded")
    emit(rows, ["file", "change", "bytes"], fmt=fmt, quiet=quiet, key="file")
