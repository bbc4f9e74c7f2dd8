"""`eigenbank catalog` and `verify`: the catalog as a whole, and whether all is as it says."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenbank.cli import complete
from eigenbank.cli.output import emit, facts, format_option, log, output_options, progress_bar

if TYPE_CHECKING:
    from sqlalchemy import URL

    from eigenbank.registry.catalog import Catalog


@click.group(short_help="Look after the catalog: import, export, remove sets, reindex.")
def catalog() -> None:
    """Look after the catalog: see what is in it, add and remove sets, take it elsewhere, index it again.

    \b
    Example:
      eigenbank catalog stats
    """


@catalog.command(short_help="Show where the catalog is and what it holds.")
@output_options
def stats(fmt: str, quiet: bool) -> None:
    """Show where the catalog is, how large it is, and how many models, directions and labels it holds.

    With -q only the catalog's file is printed, or its URL without the password.

    \b
    Example:
      eigenbank catalog stats --format json
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.catalog.care import stats as count

    with Catalog.open() as opened:
        found = count(opened)
    if fmt == "table" and not quiet:
        facts(found)
    else:
        emit("stats", [found], list(found), fmt=fmt, quiet=quiet, key="catalog")


@catalog.command(short_help="Take a model's set out of the catalog.")
@click.argument("model", metavar="MODEL_ID", shell_complete=complete.models)
@click.option(
    "--revision", metavar="REVISION", shell_complete=complete.revisions, help="Which of its sets, if it has several."
)
@click.option("--files", is_flag=True, help="Delete the set's folder, too, if eigenbank made it in its home.")
def rm(model: str, revision: str | None, files: bool) -> None:
    """Take a model's set out of the catalog: its directions and the labels that labelers gave them.

    People's labels wait until a set has their directions again. The folder on disk stays, unless you say --files. If
    the set had taken the place of one that ships with eigenbank, that one is back.

    \b
    Example:
      eigenbank catalog rm me/middle
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
        log(f"it ships with eigenbank; eigenbank catalog import {found.folder} enters it again")
    else:
        drawn = f" --checkpoint {row.checkpoint_path}" if row.checkpoint_path else ""
        log(f"its folder is left, {found.folder}; eigenbank catalog import {found.folder}{drawn} enters it again")


@catalog.command(short_help="Write the whole catalog to a file.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export(file: Path) -> None:
    """Write the whole catalog to a new FILE: the sets' manifests and people's labels, a JSON document a line.

    \b
    Example:
      eigenbank catalog export everything.jsonl
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.catalog.transfer import export_file

    with Catalog.open() as opened, progress_bar() as progress:
        found = export_file(opened, file, progress)
    log(f"{found} → {file}")


@catalog.command("import", short_help="Add sets that lie in folders, an export, or another catalog.")
@click.argument("sources", metavar="FOLDER...|FILE|URL", nargs=-1, required=True)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="Folder of the checkpoint that the sets in FOLDERs were computed from, to generate with.",
)
@click.option(
    "--replace", is_flag=True, help="Replace by a FOLDER's set even if labels, composites or previews are lost."
)
@format_option
def import_(sources: tuple[str, ...], checkpoint: Path | None, replace: bool, fmt: str) -> None:
    """Add the direction sets in FOLDERs, or everything of an export or another catalog: all of it or nothing.

    Every file of a set in a FOLDER is checked as one from the Hub would be, and stays where it is. A set of the same id
    and revision is replaced. If it has labels by labelers, composites or previews that the new one lacks, say --replace.

    From an export, another catalog's file or its URL, people's labels are added to yours. If both have a set of the same
    model and revision, this catalog's stays, and what differs is printed. The other catalog is not changed.

    \b
    Example:
      eigenbank catalog import shared/down_blocks shared/mid_block --checkpoint acme-faces
      eigenbank catalog import everything.jsonl
      eigenbank catalog import colleague.db
    """
    from eigenbank.registry.catalog.database import locate

    places = [locate(source) for source in sources]
    folders = [place for place in places if isinstance(place, Path) and os.path.isdir(place)]  # noqa: PTH112 never raises
    if len(folders) == len(places):
        _import_folders(folders, checkpoint, replace, fmt)
        return
    if len(places) > 1:
        message = "expected the folders of sets, or one export or other catalog alone"
        raise click.UsageError(message)
    if checkpoint is not None or replace:
        message = "--checkpoint and --replace go with the folders of sets"
        raise click.UsageError(message)
    _import_catalog(sources[0], places[0], fmt)


def _import_folders(folders: list[Path], checkpoint: Path | None, replace: bool, fmt: str) -> None:
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.local import add_folders

    with Catalog.open() as opened:
        entered = add_folders(opened, folders, checkpoint=checkpoint, replace=replace)
    rows = []
    for one in entered:
        model_id = one.manifest.checkpoint.model_id
        if one.before is not None:
            log(f"took the place of the set of {model_id} at {one.before.location}, which is left there")
        rows.append(
            {
                "model": model_id,
                "revision": one.manifest.checkpoint.revision,
                "directions": len(one.manifest.directions),
                "labels": sum(len(record.labels) for record in one.manifest.sliders),
                "folder": str(one.folder),
            }
        )
    emit("entered", rows, ["model", "directions", "labels", "folder"], fmt=fmt)


def _import_catalog(source: str, place: "Path | URL", fmt: str) -> None:
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.catalog.transfer import import_file, merge

    with Catalog.open() as opened, progress_bar() as progress:
        if isinstance(place, Path):
            counts, differences = import_file(opened, place, progress)
        else:
            with Catalog.open(source, shipped=False) as other:
                counts, differences = merge(opened, other)
        log(f"{counts} → {opened.place}")
    rows = [
        {"model": one.model_id, "revision": one.revision, "what": one.what, "count": one.count, "example": one.example}
        for one in differences
    ]
    emit("difference", rows, ["model", "what", "count", "example"], fmt=fmt)
    log(f"{len(differences)} differences" if differences else "nothing differed")


@catalog.command(short_help="Index all sets again, and free unused space.")
def reindex() -> None:
    """Drop everything that the catalog derives from the sets' manifests, and index them again. People's labels stay.

    Unused space goes back to the disk; for a moment, this needs as much free space as the catalog takes.

    \b
    Example:
      eigenbank catalog reindex
    """
    from eigenbank.registry.catalog import Catalog

    with Catalog.open() as opened:
        with progress_bar() as progress:
            opened.reindex(progress)
        before, after = opened.vacuum()
        log(f"{opened.place}: {len(opened.sets())} sets indexed again; {before:,} bytes before, {after:,} after")


@click.command()
@click.argument("model", required=False, shell_complete=complete.models)
@click.option("--files", is_flag=True, help="Also hash every file of the sets on this machine.")
@click.option("--repair", is_flag=True, help="Pull damaged sets again, if they were published; hashes files, too.")
@format_option
def verify(model: str | None, files: bool, repair: bool, fmt: str) -> int:
    """Check that the catalog says what the sets' manifests say, and print what is wrong.

    With --files, every file of the sets on this machine is hashed and compared with its manifest, and the manifest with
    the catalog; with MODEL, only that model's sets. Exits with 1 if anything is wrong and was not repaired.

    \b
    Example:
      eigenbank verify --files
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.catalog.care import verify as check_catalog

    with Catalog.open() as opened:
        rows = _verify_sets(opened, model, repair=repair) if files or repair or model is not None else []
        if model is None:
            with progress_bar() as progress:
                found = check_catalog(opened, progress=progress)
            rows += [
                {"model": one.where, "status": "wrong", "location": opened.place, "problem": one.problem}
                for one in found
            ]
    emit("verified", rows, ["model", "status", "problem"], fmt=fmt)
    damaged = sum(row["status"] == "damaged" for row in rows)
    wrong = sum(row["status"] == "wrong" for row in rows)
    if wrong:
        log(f"{wrong} problems in the catalog, {opened.place}: nothing was changed. eigenbank catalog reindex")
    if damaged and not repair:
        log(f"{damaged} damaged: nothing was changed. --repair pulls those that were published again")
    if not damaged and not wrong:
        log("nothing is wrong")
    return 1 if damaged or wrong else 0


def _verify_sets(catalog: "Catalog", model: str | None, *, repair: bool) -> list[dict[str, Any]]:
    from eigenbank.registry.hub.pull import no_set
    from eigenbank.registry.hub.pull import repair as repair_set
    from eigenbank.registry.hub.pull import verify as verify_set
    from eigenbank.schemas.errors import HubError

    rows = [row for row in catalog.sets() if model in (None, row.model_id)]
    if model is not None and not rows:
        raise no_set(model, catalog)
    results = []
    for row in rows:
        try:
            results.append(repair_set(row, catalog, log=log) if repair else verify_set(row))
        except HubError as error:
            log(f"{row.model_id} could not be repaired: {error}")
            results.append(verify_set(row))
    return [
        {"model": found.model, "status": found.status, "location": found.location, "problem": found.problem}
        for found in results
    ]
