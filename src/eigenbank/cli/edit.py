"""`eigenbank edit`: a photo with directions added."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenbank.cli import complete
from eigenbank.cli.edits import set_option, sliders_option, wanted_sliders
from eigenbank.cli.options import catalog_option, parse_sets
from eigenbank.cli.output import emit, output_options, say
from eigenbank.cli.picture import check_picture, checkpoint_option, force_option, open_model, save_picture
from eigenbank.schemas.errors import PhotoError

if TYPE_CHECKING:
    from eigenbank.loaders.edit import Edited

COLUMNS = ["edit", "round_trip_error", "autoencoder_error", "change", "noise_std", "out"]


@click.command(short_help="Edit a photo.")
@click.argument("photo", type=click.Path(path_type=Path))
@click.option(
    "--model",
    required=True,
    metavar="ID",
    shell_complete=complete.models_or_folders,
    help="Model of the catalog, or a checkpoint's folder.",
)
@set_option
@sliders_option
@click.option("--prompt", help="What the photo shows, for models with prompts.")
@click.option("--guidance", type=click.FloatRange(0, 50), help="Guidance scale, for models with prompts [default: 1].")
@click.option("--size", type=click.IntRange(8, 4096), help="Side of the square drawn [default: the model's own].")
@click.option(
    "--steps", type=click.IntRange(1, 1000), default=50, show_default=True, help="Steps, back and forth alike."
)
@click.option(
    "--repeats", type=click.IntRange(0, 50), default=2, show_default=True, help="Corrections of every step back."
)
@checkpoint_option
@force_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="PNG to write: the edit.")
@click.option(
    "--compare",
    type=click.Path(path_type=Path, dir_okay=False),
    help="PNG with photo, unedited round trip and edit side by side.",
)
@catalog_option
@output_options
def edit(
    photo: Path,
    model: str,
    edits: tuple[str, ...],
    file: Path | None,
    prompt: str | None,
    guidance: float | None,
    size: int | None,
    steps: int,
    repeats: int,
    checkpoint: Path | None,
    force: bool,
    out: Path,
    compare: Path | None,
    fmt: str,
    quiet: bool,
) -> None:
    """Edit a photo: run it back to noise, then draw it again with directions added.

    The photo is cropped to its middle and scaled to what the model draws. The error of the round trip without any edit
    is printed with it: what the model cannot draw, it cannot edit.

    \b
    Example:
      eigenbank edit face.png --model eigenbank/cartoon-faces-32 --set 'skin tone=1' --steps 20 --out edited.png
    """
    sliders = wanted_sliders(parse_sets(edits), file)
    check_picture(out)
    if compare is not None:
        check_picture(compare, "--compare")
    if compare is not None and compare.absolute() == out.absolute():
        message = f"--out and --compare are both {out}"
        raise click.UsageError(message)
    if not photo.is_file():
        message = f"{photo} is no file: expected a picture"
        raise PhotoError(message)
    if any(path is not None and path.exists() and path.samefile(photo) for path in (out, compare)):
        message = f"{photo} would be overwritten by the edit: nothing was drawn. Choose another --out"
        raise PhotoError(message)
    bank, pipe = open_model(model, checkpoint, sliders)
    from eigenbank.loaders.edit import PoorReconstructionWarning
    from eigenbank.loaders.edit import edit as edit_photo

    call: dict[str, Any] = {"prompt": prompt, "guidance_scale": guidance}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PoorReconstructionWarning)  # said below, as a line
        found = edit_photo(
            pipe,
            photo,
            sliders,
            bank=bank,
            steps=steps,
            repeats=repeats,
            size=None if size is None else (size, size),
            force=force,
            **{key: value for key, value in call.items() if value is not None},
        )
    for note in found.notes:
        say(f"{photo.name}: {note}")
    if found.poor:
        say(f"warning: {found.poor}")
    save_picture(found.image, out)
    if compare is not None:
        save_picture(found.sheet(), compare)
    emit([_row(found, out)], COLUMNS, fmt=fmt, quiet=quiet, key="out")


def _row(found: "Edited", out: Path) -> dict[str, Any]:
    """What was measured, as one row; errors are root mean squares, of a range of 1."""
    return {
        "edit": found.name,
        "out": str(out),
        "steps": found.steps,
        "round_trip_error": found.error,
        "autoencoder_error": found.coding_error,
        "change": found.change,
        "noise_std": found.noise_std,
        "poor": found.poor is not None,
        "notes": list(found.notes),
    }
