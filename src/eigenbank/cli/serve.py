"""`eigenbank play` and `gallery`: pages in a browser, the sliders of a model and the directions of the catalog."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenbank.cli import complete, start
from eigenbank.cli.drawing import drawing_options
from eigenbank.cli.output import emit, format_option, log, progress_bar

if TYPE_CHECKING:
    from eigenbank.gallery.site import Site
    from eigenbank.schemas.drawing import Drawing


@click.command()
@click.argument("model", required=False, shell_complete=complete.models)
@drawing_options
@click.option(
    "--host", help="Address to listen on; 0.0.0.0 lets other machines in [env: GRADIO_SERVER_NAME; default: 127.0.0.1]."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port to listen on [env: GRADIO_SERVER_PORT; default: the first free one from 7860].",
)
def play(
    model: str | None,
    drawing: "Drawing",
    checkpoint: str | None,
    host: str | None,
    port: int | None,
) -> None:
    """Serve a page with a model's sliders beside its picture, until Ctrl-C.

    MODEL is a model of the catalog, or a checkpoint's folder; you can change it on the page. Only this machine can reach
    it, unless you set --host: it has no password. Needs `pip install 'eigenbank[play]'`.

    \b
    Example:
      eigenbank play eigenbank/avatars-64 --prompt 'a person'
    """
    from eigenbank.play import launch

    if checkpoint is not None and model is None:
        message = "--checkpoint is the checkpoint of MODEL: name it"
        raise click.UsageError(message)
    log("starting…")
    launch(
        model,
        checkpoint=checkpoint,
        drawing=drawing,
        host=host,
        port=port,
        ready=lambda url: log(f"the playground is on {url} (Ctrl-C stops it)"),
    )
    start.expected()


GALLERY_COLUMNS = ["model", "directions", "named", "pictures", "outcome", "reason"]


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to write the site to.")
@click.option("--serve", is_flag=True, help="Serve it on this machine, until Ctrl-C.")
@click.option(
    "--publish", metavar="ORG/NAME", help="Publish it on the Hub as a static Space; created if it does not exist."
)
@click.option("--model", metavar="GLOB", shell_complete=complete.models, help="Only these models, e.g. 'google/*'.")
@click.option(
    "--with-labels", is_flag=True, help="Also show the labels that people gave in this catalog, with their names."
)
@click.option("--force", is_flag=True, help="Write even if --out holds something else, which is renamed to NAME.1.")
@click.option("--private", is_flag=True, help="Create the Space as a private one.")
@format_option
def gallery(
    out: Path | None,
    serve: bool,
    publish: str | None,
    model: str | None,
    with_labels: bool,
    force: bool,
    private: bool,
    fmt: str,
) -> None:
    """Write a website to browse the catalog's directions by eye: a folder to open from disk or put on any web server.

    It shows the sets of the catalog with the pictures of `eigenbank preview` and, with --with-labels, the labels that
    people gave. A missing or damaged set is reported and left out. A site that was written to --out before is
    replaced. Without --out, --serve and --publish use a temporary folder.

    \b
    Example:
      eigenbank gallery --out site/
      eigenbank gallery --serve
      eigenbank gallery --publish me/eigenbank-gallery
    """
    if out is None and not serve and publish is None:
        message = "say where to: --out FOLDER, --serve, or --publish ORG/NAME"
        raise click.UsageError(message)
    if publish is not None:
        from eigenbank.registry.hub.publish import check_space

        check_space(publish)
    with tempfile.TemporaryDirectory(prefix="eigenbank-gallery-") as folder:
        site = _write(out or Path(folder) / "site", model, people=with_labels, force=force)
        if site.hidden_labels:
            log(
                f"{site.hidden_labels} labels that people gave in this catalog are left out (--with-labels shows them, with "
                "their names)"
            )
        named = sum(each.named for each in site.shown)
        total = sum(each.directions for each in site.shown)
        counts = f"checkpoints: {len(site.shown)}, directions: {total}, named: {named}"
        log(f"{counts} → {site.folder}" if out else counts)
        bare = [each.model for each in site.shown if not each.pictures]
        if bare:
            more = f" and {len(bare) - 1} more" if len(bare) > 1 else ""
            log(
                f"no direction of {bare[0]}{more} has pictures: eigenbank preview {bare[0]} draws them, with --all of all"
            )
        rows = [vars(each) for each in site.sets]
        emit("gallery", rows, GALLERY_COLUMNS, fmt=fmt)
        if publish is not None:
            _publish(site.folder, publish, private=private)
        if serve:
            from eigenbank.gallery.site import serve as serve_folder

            serve_folder(site.folder, log=log)
            start.expected()


def _write(target: Path, model: str | None, *, people: bool, force: bool) -> "Site":
    from eigenbank.gallery.site import write_site
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.ranking import is_glob, matcher
    from eigenbank.schemas.errors import GalleryError, unknown

    wanted: Callable[[str], bool] = (lambda _: True) if model is None else matcher(model)
    with Catalog.open() as catalog, progress_bar() as progress:
        known = catalog.model_ids()
        if model is not None and not is_glob(model) and model not in known:
            raise unknown(kind="direction set of", name=model, known=known)
        arguments: dict[str, Any] = {"wanted": wanted, "people": people, "force": force}
        try:
            return write_site(target, catalog, **arguments, log=log, progress=progress)
        except GalleryError as error:
            error.advice = error.advice or "Choose another --out, or give --force, which renames what is there"
            raise


def _publish(folder: Path, repo: str, *, private: bool) -> None:
    from eigenbank.gallery.site import MARK, OURS
    from eigenbank.registry.hub.publish import publish_space

    outcome = publish_space(folder, repo, mark=MARK, ours=OURS, private=private, log=log)
    if outcome.changed:
        log(f"published as a Space, {repo} at {outcome.commit}")
    else:
        log(f"the Space {repo} has all of it already, at {outcome.commit}: nothing was uploaded")
