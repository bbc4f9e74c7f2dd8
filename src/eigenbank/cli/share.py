"""`eigenbank publish`, `pull`, `sync`: direction sets on the Hub."""

from collections import Counter

import click

from eigenbank.cli import complete
from eigenbank.cli.output import emit, format_option, log


def _of_somebody(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if value.count("/") != 1:
        message = f"{value[:200]!r}: expected ORG/NAME"
        raise click.BadParameter(message)
    return value


@click.command()
@click.argument("target", metavar="SET|MODEL", shell_complete=complete.models_or_folders)
@click.option(
    "--repo",
    required=True,
    metavar="ORG/NAME",
    callback=_of_somebody,
    help="Repository to publish in; created if it does not exist.",
)
@click.option(
    "--with-labels", is_flag=True, help="Also publish the labels that people gave in this catalog, with their names."
)
@click.option("--private", is_flag=True, help="Create the repository as a private one.")
@click.option(
    "--revision", metavar="BRANCH", help="Branch to publish on; created if it does not exist [default: main]."
)
@click.option("--parent", metavar="COMMIT", help="Publish on top of this commit, even if somebody else pushed it.")
@click.option("--dry-run", is_flag=True, help="Check everything and list what would be uploaded; change nothing.")
@format_option
def publish(
    target: str,
    repo: str,
    with_labels: bool,
    private: bool,
    revision: str | None,
    parent: str | None,
    dry_run: bool,
    fmt: str,
) -> None:
    """Publish a direction set on the Hugging Face Hub, as one commit.

    SET|MODEL is a set's folder, or a model id of the catalog. Log in with `hf auth login` or HF_TOKEN. Files that the
    repository already has are not uploaded again. If somebody else pushed since your last pull,
    nothing is published until you have seen it: pull, or give --parent.

    \b
    Example:
      eigenbank publish google/ddpm-celebahq-256 --repo me/ddpm-celebahq-256-directions
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.hub.publish import publish_set

    with Catalog.open() as catalog:
        outcome = publish_set(
            target,
            repo,
            catalog,
            with_labels=with_labels,
            private=private,
            revision=revision,
            parent=parent,
            dry_run=dry_run,
            log=log,
        )
    rows = [
        {"file": name, "change": change, "bytes": outcome.sizes.get(name), "repo": repo, "commit": outcome.commit}
        for name, change in outcome.changes.items()
    ]
    if dry_run:
        there = f"at {outcome.commit[:8]}" if outcome.commit else "to be created"
        log(f"{repo} ({there}): {'this would be published' if outcome.changed else 'has all of it already'}")
    elif outcome.changed:
        log(f"published in {repo} at {outcome.commit}")
    else:
        log(f"{repo} has all of it already, at {outcome.commit}: nothing was uploaded")
    emit("published", rows, ["file", "change", "bytes"], fmt=fmt)


@click.command()
@click.argument("name", metavar="REPO|MODEL", shell_complete=complete.models)
@click.option("--revision", metavar="REV", help="Commit, branch or tag of the repository [default: main].")
@format_option
def pull(name: str, revision: str | None, fmt: str) -> None:
    """Fetch a published direction set, verify every file, and add it to the catalog.

    REPO|MODEL is the repository of a set, or the model id of a checkpoint. For a checkpoint the Hub is searched, and a
    trusted author's set or the most downloaded one is pulled.

    \b
    Example:
      eigenbank pull me/ddpm-celebahq-256-directions
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.hub.pull import pull_set

    with Catalog.open() as catalog:
        pulled = pull_set(name, catalog, revision=revision, log=log)
    manifest = pulled.manifest
    row = {
        "model": manifest.checkpoint.model_id,
        "repo": pulled.at.repo,
        "commit": pulled.at.commit,
        "directions": len(manifest.directions),
        "labels": sum(len(record.labels) for record in manifest.directions),
        "folder": str(pulled.folder),
    }
    emit("pulled", [row], ["model", "repo", "commit", "directions", "labels"], fmt=fmt)


@click.command()
@click.option("--author", metavar="NAME", help="Only what this user or organisation published.")
@click.option("--index", metavar="REPO", help="Take the sets from this dataset's index.json, not from the listing.")
@format_option
def sync(author: str | None, index: str | None, fmt: str) -> int:
    """Add every published direction set to the catalog. Vectors are fetched when you first load a set.

    Only what changed since the last sync is read. Sets that you built are never replaced. Prints what changed, and what
    was refused and why; exits with 1 if a set could not be read this time.

    \b
    Example:
      eigenbank sync --author google
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.hub.sync import sync as sync_catalog

    counts: Counter[str] = Counter()
    rows: list[dict[str, object]] = []
    with Catalog.open() as catalog:
        for found in sync_catalog(catalog, author=author, index=index, log=log):
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
    parts = [
        f"{counts[name]} {name}"
        for name in ("added", "updated", "kept", "refused", "failed", "unchanged")
        if counts[name]
    ]
    log(f"{total} published sets: {', '.join(parts) or 'none'}")
    emit("synced", rows, ["repo", "model", "outcome", "reason"], fmt=fmt)
    if counts["failed"]:
        log(f"{counts['failed']} could not be read this time: run it again, which tries them again")
    return 1 if counts["failed"] else 0
