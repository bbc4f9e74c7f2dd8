"""`eigenbank sync`: the catalog brought up to date with everything that is published."""

from collections import Counter

import click

from eigenbank.cli.options import catalog_option
from eigenbank.cli.output import emit, output_options, say


@click.command(short_help="Bring the catalog up to date with the Hub.")
@click.option("--author", metavar="NAME", help="Only what this user or organisation published.")
@click.option("--index", metavar="REPO", help="Take the sets from this dataset's index.json, not from the listing.")
@catalog_option
@output_options
def sync(author: str | None, index: str | None, fmt: str, quiet: bool) -> None:
    """Enter every published direction set into the catalog; their tensors are fetched when they are first loaded.

    Only what changed since the last sync is looked at. A set that was built here is never replaced. Prints what
    changed, and what was refused and why.

    \b
    Example:
      eigenbank sync --author google
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.hub.sync import sync as sync_catalog

    counts: Counter[str] = Counter()
    rows: list[dict[str, object]] = []
    with Catalog.open() as catalog:
        for found in sync_catalog(catalog, author=author, index=index, say=say):
            counts[found.outcome] += 1
            if found.outcome != "unchanged":
                rows.append(
                    {
                        "repo": found.repo,
                        "commit": found.commit,
                        "model": found.model,
                        "outcome": found.outcome,
                        "reason": found.reason,
                    }
                )
    total = sum(counts.values())
    parts = [f"{counts[name]} {name}" for name in ("added", "updated", "kept", "refused", "unchanged") if counts[name]]
    say(f"{total} published sets: {', '.join(parts) or 'none'}")
    emit(rows, ["repo", "model", "outcome", "reason"], fmt=fmt, quiet=quiet, key="repo")
