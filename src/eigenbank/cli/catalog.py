"""`eigenbank catalog`: the catalog as a whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eigenbank.cli import complete
from eigenbank.cli.output import log, output_options, progress_bar
from eigenbank.cli.rows import emit_rows, facts
from eigenbank.schemas.errors import CatalogError

if TYPE_CHECKING:
    from eigenbank.registry.catalog.transfer import Difference


@click.group(short_help="Look after the catalog: statistics, sets in folders, export, import, merge, checks.")
def catalog() -> None:
    """Look after the catalog: where it is, what is in it, whether it is sound, and moving it elsewhere.

    \b
    Example:
      eigenbank catalog stats
    """


@catalog.command(short_help="Print where the catalog is.")
def path() -> None:
    """Print the catalog's file, or its URL without the password. Nothing is opened or created.

    \b
    Example:
      eigenbank catalog path
    """
    from eigenbank.registry.catalog.database import locate, name_of

    click.echo(name_of(locate(None)))


@catalog.command(short_help="Count what is in the catalog.")
@output_options
def stats(fmt: str, quiet: bool) -> None:
    """Count models, directions and labels, and say how large the catalog is.

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
        emit_rows("stats", [found], list(found), fmt=fmt, quiet=quiet, key="catalog")


@catalog.command(short_help="Enter sets that lie in folders.")
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="Folder of the checkpoint they were computed from, to draw with.",
)
@click.option(
    "--replace", is_flag=True, help="Take the place of sets with labels, composites or previews, which are lost."
)
@output_options
def add(folders: tuple[Path, ...], checkpoint: Path | None, replace: bool, fmt: str, quiet: bool) -> None:
    """Enter the direction sets of some FOLDERs, built elsewhere, as they are: all of them or none. They stay where they are.

    Every file is checked as one from the Hub would be. Each set takes the place of the one of the same id and revision; of
    a set with labels by labelers, composites or previews that it lacks only with --replace.

    \b
    Example:
      eigenbank catalog add shared/down_blocks shared/mid_block --checkpoint acme-faces
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.local import add_folders

    with Catalog.open() as opened:
        entered = add_folders(
            opened, [Path(folder).expanduser() for folder in folders], checkpoint=checkpoint, replace=replace
        )
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
    emit_rows("entered", rows, ["model", "directions", "labels", "folder"], fmt=fmt, quiet=quiet, key="model")


@catalog.command(short_help="Take a model's set out of the catalog.")
@click.argument("model", metavar="MODEL_ID", shell_complete=complete.models)
@click.option(
    "--revision", metavar="REVISION", shell_complete=complete.revisions, help="Which of its sets, where it has several."
)
@click.option("--files", is_flag=True, help="Delete the set's folder, too; one that eigenbank made among its own sets.")
def rm(model: str, revision: str | None, files: bool) -> None:
    """Take a model's set out of the catalog: its directions and the labels that labelers gave them.

    What people labelled waits until a set has its directions again. The folder on disk is left, without --files. Where the
    set had taken the place of one that ships with eigenbank, that one is back.

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
        log(f"it ships with eigenbank; eigenbank catalog add {found.folder} enters it again")
    else:
        drawn = f" --checkpoint {row.checkpoint_path}" if row.checkpoint_path else ""
        log(f"its folder is left, {found.folder}; eigenbank catalog add {found.folder}{drawn} enters it again")


@catalog.command(short_help="Write the whole catalog to a file.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export(file: Path) -> None:
    """Write the whole catalog to a new FILE: JSON lines, or a catalog of its own where the name ends in .db.

    \b
    Example:
      eigenbank catalog export everything.jsonl
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.catalog.transfer import export_file

    with Catalog.open() as opened, progress_bar() as progress:
        found = export_file(opened, file, progress)
    log(f"{found} → {file}")


@catalog.command("import", short_help="Bring in what an export holds.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@output_options
def import_(file: Path, fmt: str, quiet: bool) -> None:
    """Bring in everything that FILE holds, an export or another catalog's file, and print what differed: all of it or nothing.

    People's labels of both sides are kept. Where both have a set of the same model and revision, this catalog's stays.

    \b
    Example:
      eigenbank catalog import everything.jsonl
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.catalog.transfer import import_file

    with Catalog.open() as opened:
        with progress_bar() as progress:
            found, differences = import_file(opened, file, progress)
        _emit_differences(differences, fmt=fmt, quiet=quiet)
        log(f"{found} → {opened.place}")


def _emit_differences(differences: "Sequence[Difference]", *, fmt: str, quiet: bool) -> None:
    rows = [
        {"model": one.model_id, "revision": one.revision, "what": one.what, "count": one.count, "example": one.example}
        for one in differences
    ]
    emit_rows("difference", rows, ["model", "what", "count", "example"], fmt=fmt, quiet=quiet, key="model")


@catalog.command(short_help="Merge another catalog into this one.")
@click.argument("other", metavar="CATALOG")
@output_options
def merge(other: str, fmt: str, quiet: bool) -> None:
    """Merge another CATALOG (a path or URL) into this one, and print what differed.

    People's labels of both sides are kept. Where both have a set of the same model and revision, this catalog's stays. The
    other catalog is not changed.

    \b
    Example:
      eigenbank catalog merge colleague.db
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.catalog.database import check_file, locate
    from eigenbank.registry.catalog.transfer import merge as merge_catalogs

    place = locate(other)
    if isinstance(place, Path) and not place.exists():
        message = f"there is no catalog at {place}: nothing was merged. Check the path."
        raise CatalogError(message)
    if isinstance(place, Path):
        check_file(place, "Nothing was merged. Check the path")
    with Catalog.open() as opened, Catalog.open(other, shipped=False) as source:
        differences = merge_catalogs(opened, source)
    _emit_differences(differences, fmt=fmt, quiet=quiet)
    log(f"merged {other}: {len(differences)} differences" if differences else f"merged {other}: nothing differed")


@catalog.command(short_help="Check that the catalog is sound.")
@click.option("--files", is_flag=True, help="Also hash every file of the sets on this machine.")
@output_options
def verify(files: bool, fmt: str, quiet: bool) -> None:
    """Check the database, and compare it with the manifests it was made of; print what is wrong, and exit with 1 if anything is.
    Changes nothing.

    \b
    Example:
      eigenbank catalog verify --files
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.catalog.care import verify as check

    with Catalog.open() as opened, progress_bar() as progress:
        found = check(opened, files=files, progress=progress)
        place = opened.place
    rows = [{"where": one.where, "problem": one.problem} for one in found]
    emit_rows("problem", rows, ["where", "problem"], fmt=fmt, quiet=quiet, key="where")
    if found:
        message = f"{len(found)} problems in {place}. Nothing was changed."
        raise CatalogError(message)
    log(f"{place} is sound")


@catalog.command(short_help="Give unused room back to the disk.")
def vacuum() -> None:
    """Give unused room back to the disk. Needs as much free room as the catalog is large, for a moment.

    \b
    Example:
      eigenbank catalog vacuum
    """
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.catalog.care import vacuum as tidy

    with Catalog.open() as opened:
        before, after = tidy(opened)
        log(f"{opened.place}: {before:,} bytes before, {after:,} after")


@catalog.command(short_help="Index all sets again from their manifests.")
def reindex() -> None:
    """Drop everything that the catalog derives from the sets' manifests, and index them again. People's labels stay.

    \b
    Example:
      eigenbank catalog reindex
    """
    from eigenbank.registry.catalog import Catalog

    with Catalog.open() as opened, progress_bar() as progress:
        opened.reindex(progress)
        log(f"{opened.place}: {len(opened.sets())} sets indexed again")
