"""`eigenbank find`: the slider for any words."""

from typing import TYPE_CHECKING

import click

from eigenbank.cli import complete
from eigenbank.cli.drawing import drawing_options
from eigenbank.cli.make import LABEL_COLUMNS, budget_option, label_rows
from eigenbank.cli.output import echo_parts, emit, format_option, log, progress_bar

if TYPE_CHECKING:
    from eigenbank.builders.label.budget import Budget
    from eigenbank.builders.label.candidates import Nearest
    from eigenbank.schemas.drawing import Drawing

NEAREST_COLUMNS = ["direction", "parts", "effect", "selectivity", "also_moves"]


@click.command()
@click.argument("model", shell_complete=complete.models_or_folders)
@click.argument("text")
@click.option("--not", "without", metavar="TEXT", help="The opposite, e.g. bare-headed [default: nothing].")
@click.option(
    "--labeler",
    default="clip",
    show_default=True,
    metavar="clip:MODEL@REVISION#VOCABULARY",
    help="Image-text model, and the vocabulary whose words must stay where they are.",
)
@click.option("--no-confirm", is_flag=True, help="Only list what comes nearest; draw and name nothing.")
@click.option(
    "--no-draw",
    is_flag=True,
    help="Compute a slider from the words and the checkpoint's weights; measure nothing.",
)
@budget_option
@drawing_options
@format_option
def find(
    model: str,
    text: str,
    without: str | None,
    labeler: str,
    no_confirm: bool,
    no_draw: bool,
    budget: "Budget | None",
    drawing: "Drawing",
    checkpoint: str | None,
    fmt: str,
) -> int:
    """Find the slider that moves pictures towards any words, and name it after them.

    MODEL is a model id of the catalog. Write TEXT as in a prompt. An image-text model, by default the checkpoint's own
    or CLIP, looks for it in the pictures that `label` or an earlier `find` with the same drawing options kept. Without
    any, the slider that the words themselves make is drawn; if it earns no name, the directions are screened. Then the
    best candidates are drawn. The name goes to one that moves these words on nearly all seeds, moves other words
    little, and acts more than random directions do. Exits with 1 if there is none.

    The words' own slider is computed through the checkpoint's text attention, as a composite of the set's output-side
    directions. --no-draw saves it as it is, without a label.

    \b
    Example:
      eigenbank find eigenbank/avatars-64 "long hair" --not "short hair" --prompt "a person" --no-confirm
    """
    from dataclasses import replace

    from eigenbank.api import find_checkpoint
    from eigenbank.builders.label.labeler import open_labelers
    from eigenbank.builders.label.settings import FINDING
    from eigenbank.loaders.pipelines import open_pipeline
    from eigenbank.naming import find as find_slider
    from eigenbank.registry.files import readings_folder
    from eigenbank.registry.load import load_without_people_labels
    from eigenbank.registry.local import store

    if no_draw:
        if no_confirm or budget is not None:
            message = "--no-draw draws nothing: --no-confirm and --budget say what to draw"
            raise click.UsageError(message)
        return _without_drawing(model, text, without, drawing, checkpoint, fmt=fmt)
    model_id, folder = find_checkpoint(model, checkpoint, drawing=drawing, check=load_without_people_labels)
    bank = load_without_people_labels(model_id)
    (opened,) = open_labelers([labeler], folder)
    with progress_bar("images") as progress:
        found = find_slider(
            open_pipeline(folder, drawing),
            bank,
            text,
            without=without,
            labeler=opened,
            settings=replace(FINDING, budget=budget),
            confirm=not no_confirm,
            drawing=drawing,
            cache=readings_folder(),
            progress=progress,
            log=log,
        )
    if found.slider is not None:
        bank = store(found.directions, checkpoint=folder, replace=True)
        rows = [row for row in label_rows(bank) if row["direction"] == found.slider.id and row["label"] == text]
        log(f"{found.slider.id} is now called {text!r} → {bank.folder}")
        emit("label", rows, LABEL_COLUMNS, fmt=fmt)
        return 0
    rows = [_nearest_row(each) for each in found.nearest]
    if not no_confirm:
        log(f"no direction or composite of {model_id} earned the name {text!r}{'; nearest come' if rows else ''}")
    elif not found.nearest:
        log(f"nothing moves {text!r} at all")
    emit("nearest", rows, NEAREST_COLUMNS, fmt=fmt)
    return 0 if no_confirm and found.nearest else 1


def _without_drawing(
    model: str, text: str, without: str | None, drawing: "Drawing", checkpoint: str | None, *, fmt: str
) -> int:
    """Save the slider of the words alone, read from the checkpoint's text encoders and a few of its weights, wherever it is."""
    from eigenbank.api import open_source
    from eigenbank.loaders.pipelines import open_pipeline
    from eigenbank.loaders.prompts import open_text_side
    from eigenbank.naming import look_through
    from eigenbank.registry.load import load_without_people_labels
    from eigenbank.registry.local import store

    bank = load_without_people_labels(model)
    _, source, path = open_source(checkpoint or model, variant=drawing.variant)
    if path is not None and path.is_file():
        pipe = open_pipeline(path, drawing)
    else:
        pipe = open_text_side(path or checkpoint or model, revision=source.revision, variant=drawing.variant)
    found = look_through(pipe, bank, text, source=source, without=without, prompts=drawing.prompts, log=log)
    assert found.slider is not None
    store(found.directions, checkpoint=path, replace=True)
    parts = sorted(found.slider.parts, key=lambda each: -abs(each[1]))
    rows = [{"direction": part.id, "weight": weight} for part, weight in parts]
    log(f"look at it: eigenbank sweep {model} {found.slider.id} --prompt …")
    if fmt == "table":
        echo_parts(rows)
    else:
        emit("part", rows, ["direction", "weight"], fmt=fmt)
    return 0


def _nearest_row(found: "Nearest") -> dict[str, object]:
    return {
        "direction": found.id or None,  # a composite is none of the set's before it is confirmed
        "parts": found.parts,
        "effect": found.effect,
        "selectivity": found.selectivity,
        "also_moves": f"{found.also} {found.also_effect:+.2f}",
    }
