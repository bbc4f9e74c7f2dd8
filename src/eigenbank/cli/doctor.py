"""`eigenbank doctor`: is everything where it should be?"""

from dataclasses import asdict

import click

from eigenbank.cli.output import emit, format_option

COLUMNS = ["check", "status", "found"]


@click.command()
@format_option
@click.pass_context
def doctor(ctx: click.Context, fmt: str) -> None:
    """Check this installation: versions, devices, home, catalog, cache, the Hub, plugins, extras. Changes nothing.

    A problem keeps eigenbank from working, and the exit code is 1; a warning concerns part of it. Plugins are listed by
    kind: families find a checkpoint's layers, recipes say which matrix is decomposed, labelers name directions, loaders
    make pipelines steerable. Each plugin that was skipped has a line of its own, with the reason.

    \b
    Example:
      eigenbank doctor --format json
    """
    from eigenbank.doctor import examine

    findings = list(examine())
    rows = [asdict(finding) for finding in findings]
    if fmt == "table":
        rows = [{**row, "found": " → ".join(filter(None, (row["found"], row["advice"])))} for row in rows]
    emit("finding", rows, COLUMNS, fmt=fmt)
    if any(finding.status == "problem" for finding in findings):
        ctx.exit(1)
