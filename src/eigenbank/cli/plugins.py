"""`eigenbank plugins`: what is plugged in, what was skipped, and why."""

import click

from eigenbank.cli.output import emit, output_options

COLUMNS = ["group", "name", "package", "status", "reason"]


@click.command(short_help="List plugins, loaded and skipped.")
@output_options
def plugins(fmt: str, quiet: bool) -> None:
    """List the plugins of every kind that are installed, ours among them: loaded, or skipped and why.

    A package offers one by an entry point: in the group eigenbank.families, how to find a checkpoint's layers; in
    eigenbank.labelers, how to name directions; in eigenbank.recipes, of what matrix the eigenvectors are; in
    eigenbank.loaders, how to steer a pipeline.

    \b
    Example:
      eigenbank plugins --format json
    """
    from eigenbank.registry.plugins import KINDS, load_plugins

    rows = [
        {
            "group": found.group,
            "name": found.name,
            "package": found.owner,
            "object": found.value,
            "what": what,
            "status": found.status,
            "reason": found.problem,
        }
        for kind, (what, _) in KINDS.items()
        for found in load_plugins(kind)
    ]
    emit(rows, COLUMNS, fmt=fmt, quiet=quiet, key="name")
