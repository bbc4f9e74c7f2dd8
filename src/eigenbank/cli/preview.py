"""`eigenbank preview`: a strip of pictures for each direction, kept in the set, shown in cards and galleries."""

import click

from eigenbank.cli import complete
from eigenbank.cli.options import SCALES, SEEDS, catalog_option
from eigenbank.cli.output import emit, output_options, progress_bar, say


@click.command(short_help="Draw the previews of a set.")
@click.argument("model", shell_complete=complete.models_or_folders)
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete.sliders)
@click.option("--all", "everything", is_flag=True, help="Draw all directions, not only the labelled ones.")
@click.option("--seeds", type=SEEDS, default="0-2", show_default=True, help="A row of pictures per seed.")
@click.option(
    "--scales",
    type=SCALES,
    default="-2,-1.5,-1,-0.5,0,0.5,1,1.5,2",
    show_default=True,
    help="A column of pictures per scale.",
)
@click.option("--steps", type=click.IntRange(1, 1000), default=20, show_default=True, help="Denoising steps.")
@click.option("--device", default="cpu", show_default=True, help="Where to draw: cpu, cuda, …")
@catalog_option
@output_options
def preview(
    model: str,
    names: tuple[str, ...],
    everything: bool,
    seeds: tuple[int, ...],
    scales: tuple[float, ...],
    steps: int,
    device: str,
    fmt: str,
    quiet: bool,
) -> None:
    """Draw a strip of pictures for each direction, seeds by scales, and keep them in the set as WebP.

    MODEL is a model id of the catalog; NAMEs are labels or direction ids, by default all labelled directions. The set is
    written anew, with the previews it had, and takes the former one's place in the catalog.

    \b
    Example:
      eigenbank preview eigenbank/cartoon-faces-32 'skin tone' --steps 10
    """
    from eigenbank.api import find_checkpoint, keep
    from eigenbank.loaders.load import find, set_of
    from eigenbank.registry.sets.card import preview_name
    from eigenbank.schemas.errors import SteerError

    model_id, checkpoint = find_checkpoint(model)
    bank = set_of(model_id)
    if names:
        chosen = [find(bank, name)[0] for name in dict.fromkeys(names)]
    else:
        chosen = [each for each in bank.sliders if everything or each.labels]
    if not chosen:
        from eigenbank.registry.catalog import Catalog
        from eigenbank.registry.own import own_labels

        with Catalog.open() as catalog:
            own = list(own_labels(bank.manifest, catalog))
        message = f"no direction of {model_id} is labelled, so none was drawn: name some, or give --all"
        if own:
            message = (
                f"no direction of {model_id} is labelled in its set, so none was drawn. The {len(own)} that people labelled in "
                f"this catalog do not count here: name them by their ids, eigenbank preview {model_id} {own[0]}, or give --all"
            )
        raise SteerError(message)
    from eigenbank.loaders.pipelines import open_pipeline
    from eigenbank.loaders.preview import draw_preview

    pipe = open_pipeline(checkpoint, device)
    drawn = {}
    with progress_bar() as progress:
        for number, each in enumerate(chosen):
            drawn[each.id] = draw_preview(pipe, each, seeds=seeds, scales=scales, steps=steps)
            progress("previews", number + 1, len(chosen))
    bank = keep(bank.with_previews(drawn), checkpoint=checkpoint, replace=True)
    say(f"{len(drawn)} previews of {model_id} → {bank.folder}")
    rows = [
        {
            "id": bank[name].full_id,
            "direction": name,
            "label": ", ".join(label.text for label in bank[name].labels) or None,
            "file": preview_name(bank[name].record),
            "bytes": len(picture),
        }
        for name, (_, picture) in drawn.items()
    ]
    emit(rows, ["direction", "label", "file", "bytes"], fmt=fmt, quiet=quiet, key="id")
