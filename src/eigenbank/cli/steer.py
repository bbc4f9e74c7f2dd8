"""`eigenbank steer`, `sweep`, `edit`: images of a checkpoint, and photos, with directions added."""

import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenbank.cli import complete
from eigenbank.cli.drawing import drawing_options, without
from eigenbank.cli.options import (
    SCALES,
    SEEDS,
    force_option,
    out_option,
    parse_sets,
    set_option,
    sliders_option,
    steering_options,
    wanted_sliders,
)
from eigenbank.cli.options import (
    save_sliders as keep_sliders,
)
from eigenbank.cli.output import drawing_bar, emit, format_option, log
from eigenbank.registry.files import check_out, replacing
from eigenbank.schemas.errors import FuseError, PhotoError, SteerError, explaining

if TYPE_CHECKING:
    from PIL.Image import Image

    from eigenbank.loaders.edit import EditedPhoto
    from eigenbank.loaders.steer import Steering
    from eigenbank.schemas import Sliders
    from eigenbank.schemas.drawing import Drawing

STRUCTURE = " (the weights are quantised: only their shapes could be compared)"


@click.command()
@click.argument("model", shell_complete=complete.models_or_folders)
@set_option
@sliders_option
@steering_options
@click.option(
    "--save-sliders", type=click.Path(path_type=Path, dir_okay=False), help="Write this edit to a sliders file."
)
@click.option("--seeds", type=SEEDS, default="0-3", show_default=True, help="One image per seed.")
@drawing_options
@force_option
@out_option
def steer(
    model: str,
    edits: tuple[str, ...],
    file: Path | None,
    window: Any,
    branch: str | None,
    site: str | None,
    mask: Path | None,
    fuse: bool,
    save_sliders: Path | None,
    seeds: tuple[int, ...],
    drawing: "Drawing",
    checkpoint: str | None,
    force: bool,
    out: Path,
) -> None:
    """Generate images with directions added, and above them the same images without.

    MODEL is a model id of the catalog; NAMEs are its labels or direction ids. A label at a scale above 0 gives more of
    what it says; an id is added as it is stored. The name - stands for ids read from stdin, one a line, as `search -q`
    prints them, all at that scale; MODEL - is then the model they belong to. A sliders file of another model applies if
    its directions match MODEL's weights.

    \b
    Example:
      eigenbank steer eigenbank/avatars-64 --set 'with blond hair=1.5' --prompt 'a person' --out steered.png
      eigenbank search 'with blond hair' -q --limit 1 | eigenbank steer - --set -=1.5 --prompt 'a person' --out steered.png
    """
    wanted = parse_sets(edits)
    if "-" in wanted:
        scale = wanted.pop("-")
        model, names = _wanted(model, ("-",))
        wanted = {**dict.fromkeys(names, scale), **wanted}
    elif model == "-":
        message = "- as MODEL is the model of ids on stdin: give their scale, as in --set -=1.5"
        raise click.UsageError(message)
    sliders = wanted_sliders(wanted, file, window=window, branch=branch, site=site)
    check_picture(out)
    drawing = _with_drawn_prompts(drawing, seeds)
    if save_sliders is not None:
        with explaining(outcome="nothing was generated", advice="Choose another --save-sliders"):
            check_out(save_sliders, (".json",), "sliders", SteerError)
    bank, pipe = open_model(model, checkpoint, drawing, sliders)
    from eigenbank.loaders.drawing import cost
    from eigenbank.loaders.image_grid import image_grid
    from eigenbank.loaders.sample import sample_in_batches
    from eigenbank.loaders.steer import steer as steer_pipe

    try:
        edit = steer_pipe(pipe, sliders, bank=bank, mask=mask, fuse=fuse, force=force)
    except FuseError as error:
        more = "add it there, --site output, or " if error.elsewhere else ""
        message = f"{error.what} cannot be fused: {error.why}. No picture was drawn; {more}leave out --fuse"
        raise SteerError(message) from error
    edit.check_guided(drawing)
    _log_matches(edit)
    with drawing_bar(cost(pipe, 2 * len(seeds), drawing)) as drawn:
        plain = sample_in_batches(pipe, seeds, drawing=drawing, drawn=drawn)
        with edit:
            edited = sample_in_batches(pipe, seeds, drawing=drawing, drawn=drawn)
    _log_if_faint(float((edited - plain).square().mean().sqrt()))
    names = [f"{slider.key} {slider.scale:+g}" for slider in sliders.sliders]
    sheet = image_grid([plain, edited], ["unedited", ", ".join(names)], [f"seed {seed}" for seed in seeds])
    save_picture(sheet, out)
    if save_sliders is not None:
        keep_sliders(sliders, bank.model_id, save_sliders)


@click.command()
@click.argument("first", metavar="MODEL|ID|-", shell_complete=complete.models_or_folders)
@click.argument("directions", nargs=-1, metavar="[NAME]...", shell_complete=complete.sliders)
@sliders_option
@click.option("--scales", type=SCALES, default="-2,-1,0,1,2", show_default=True, help="Scales, one column each.")
@click.option("--seeds", type=SEEDS, default="0-2", show_default=True, help="Seeds, one group of columns each.")
@drawing_options
@force_option
@out_option
def sweep(
    first: str,
    directions: tuple[str, ...],
    file: Path | None,
    scales: tuple[float, ...],
    seeds: tuple[int, ...],
    drawing: "Drawing",
    checkpoint: str | None,
    force: bool,
    out: Path,
) -> None:
    """Generate a grid of images: a row per direction and, for each seed, a column per scale and one for the unedited
    image.

    NAMEs are labels or direction ids; without any, the best direction of every label. Instead of MODEL you can give a
    full id (MODEL#LAYER/RECIPE/RANK); - reads ids from stdin, one a line, as `search -q` prints them. A sliders file is
    one more row: all its sliders at once, at each scale times their own. If it was measured, a bar shows how much a
    scale of 1 changes what the direction is named after, in standard deviations.

    \b
    Example:
      eigenbank sweep eigenbank/avatars-64 'with blond hair' --prompt 'a person' --out sweep.png
    """
    check_picture(out)
    drawing = _with_drawn_prompts(drawing, seeds)
    model_id, wanted = _wanted(first, directions)
    sliders = None if file is None else wanted_sliders({}, file)
    bank, pipe = open_model(model_id, checkpoint, drawing, sliders, wanted)
    import torch

    from eigenbank.loaders.drawing import cost
    from eigenbank.loaders.image_grid import image_grid, stack
    from eigenbank.loaders.sample import sample_in_batches
    from eigenbank.loaders.steer import steer as steer_pipe
    from eigenbank.loaders.sweep import sweep as sweep_pipe

    chosen: list[Any] = [*(wanted or ([] if sliders else bank.labels)), *([sliders] if sliders else [])]
    if not chosen:
        message = f"{bank.model_id} has no labelled direction: name some (eigenbank list --model {bank.model_id}), or label it"
        raise SteerError(message)
    if sliders is not None:
        steer_pipe(pipe, sliders, bank=bank, force=force).check_guided(drawing)
    rows, names, notes, effects = [], [], [], []
    shown = scales if 0 in scales else (0.0, *scales)  # a scale of 0 is the unedited image
    edited = tuple(scale for scale in dict.fromkeys(scales) if scale) or (0.0,)
    with drawing_bar(cost(pipe, len(seeds) * (1 + len(chosen) * len(edited)), drawing)) as drawn:
        plain = sample_in_batches(pipe, seeds, drawing=drawing, drawn=drawn)
        for each in chosen:
            name = each if isinstance(each, str) else str(file)
            swept = sweep_pipe(pipe, each, edited, seeds=seeds, bank=bank, drawing=drawing, drawn=drawn, force=force)
            at = {0.0: plain, **dict(zip(edited, swept.pixels.unbind(1), strict=True))}
            rows.append(torch.stack([at[scale] for scale in shown], dim=1))
            names.append(name)
            effects.append(_effect(bank, each) if name is each else None)
            notes.append(swept.name if name is not each else bank[name].id if name not in bank[name].id else "")
    columns = [f"{scale:+g}" if scale else "unedited" for scale in shown]
    prompts = drawing.prompts or ("",)
    turns = sorted(range(len(seeds)), key=lambda number: number % len(prompts))  # those of a prompt beside each other
    heads = [", ".join(filter(None, (f"seed {seeds[number]}", prompts[number % len(prompts)]))) for number in turns]
    grids = [
        image_grid(
            [torch.cat([row[number] for number in turns[first : first + ACROSS]]) for row in rows],
            names, columns * len(turns[first : first + ACROSS]), notes=notes, effects=effects, group=len(shown),
            group_names=heads[first : first + ACROSS], cell=64,
        )
        for first in range(0, len(turns), ACROSS)
    ]  # fmt: skip
    sheet = stack(grids)
    save_picture(sheet, out)


def _effect(bank: Any, name: str) -> float | None:
    """What a scale of 1 is known to do: to the score of that name, else to the one it moves most; None if unknown."""
    slider = bank[name]
    for label in slider.labels:
        if label.evidence is not None and label.text.casefold() == name.casefold():
            return float(label.evidence.effect)
    return None if slider.quality is None else slider.quality.effect


def _wanted(first: str, directions: tuple[str, ...]) -> tuple[str, list[str]]:
    """The model and the directions of a call. `first` is a model, an id, or - for the model of the ids on stdin.

    Each - is replaced by the ids on stdin. Raises UsageError for ids of several models, or of none that is named.
    """
    given = (first, *directions) if "#" in first or (first == "-" and "-" not in directions) else directions
    names = [name for each in given for name in (_ids_on_stdin() if each == "-" else [each])]
    models = {name.partition("#")[0] for name in names if "#" in name}
    if "#" not in first and first != "-":
        if "-" not in directions:  # an id of another model gets a word of its own where it is looked up
            return first, names
        models.add(first)
    if len(models) != 1:
        found = f"ids of {len(models)} models ({', '.join(sorted(models))})" if models else "ids without a model"
        message = f"{found}: images are of one model. Narrow the search with --model, or name the model before the -"
        raise click.UsageError(message)
    return models.pop(), names


def _ids_on_stdin() -> list[str]:
    names = [line.strip() for line in sys.stdin if line.strip()]
    if not names:
        message = "no ids on stdin: nothing was found, or the command before printed none (use -q)"
        raise SteerError(message)
    return names


def open_model(
    model: str, checkpoint: str | None, drawing: "Drawing", sliders: "Sliders | None" = None, names: Iterable[str] = ()
) -> tuple[Any, Any]:
    """Open a model's direction set, or the one that the sliders name, and the model's pipeline.

    What the pipeline needs and `drawing` lacks, and an unknown name, of the sliders or of `names`, fail before the pipeline
    is fetched or loaded.
    """
    from eigenbank.api import find_checkpoint
    from eigenbank.loaders.lookup import find_direction, set_in_catalog
    from eigenbank.registry.load import load

    found: list[Any] = []

    def names_are_known(model_id: str) -> None:
        if sliders is None or sliders.model in (None, model_id):
            found.append(load(model_id))
        else:
            found.append(set_in_catalog(sliders.model))
            log(f"the sliders are of {found[0].model_id}: applied to {model_id} as far as they match its weights")
        for key in (*names, *(slider.key for slider in (() if sliders is None else sliders.sliders))):
            find_direction(found[0], key)

    _, folder = find_checkpoint(model, checkpoint, drawing=drawing, check=names_are_known)
    from eigenbank.loaders.pipelines import open_pipeline

    return found[0], open_pipeline(folder, drawing)


def _with_drawn_prompts(drawing: "Drawing", seeds: tuple[int, ...]) -> "Drawing":
    from eigenbank.loaders.drawing import drawn_prompts

    return drawn_prompts(drawing, len(seeds), log)


ACROSS = 3
"""Seeds beside each other in the picture of a sweep; more are drawn below."""
FAINT = 1 / 255
"""A root mean square change of all pixels, in [0, 1], that hardly anybody sees: one step of an 8-bit picture."""


def _log_if_faint(change: float) -> None:
    if change < FAINT:
        log(
            f"the edit is hardly visible: it changes pixels by {255 * change:.2g} of 255. Raise the scale, or try another name"
        )


def _log_matches(edit: "Steering") -> None:
    """Log which directions do not match the pipeline's weights exactly, and how they do."""
    for term in edit.terms:
        if term.match != "exact":
            log(f"{term.key}: {term.match}{STRUCTURE if 'structure' in term.match else ''}")


def check_picture(out: Path, option: str = "--out") -> None:
    """Raise SteerError, before anything is generated, if no PNG can be written there, or its name is of another kind."""
    with explaining(outcome="nothing was generated", advice=f"Choose another {option}"):
        check_out(out, (".png", ""), "PNG", SteerError)


def save_picture(sheet: "Image", out: Path) -> None:
    """Write a PNG by one atomic move."""
    try:
        with replacing(out) as work:
            sheet.save(work, format="PNG")
    except OSError as error:
        message = f"{out} cannot be written ({error.strerror or error}): no picture was saved. Choose another --out"
        raise SteerError(message) from error
    log(f"wrote {out}")


EDIT_COLUMNS = ["edit", "round_trip_error", "autoencoder_error", "change", "noise_std", "out"]


@without("unchecked")
@click.command()
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
@drawing_options
@force_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="PNG to write: the edit.")
@click.option(
    "--compare",
    type=click.Path(path_type=Path, dir_okay=False),
    help="PNG to write: photo, reconstruction and edit side by side.",
)
@format_option
def edit(
    photo: Path,
    model: str,
    edits: tuple[str, ...],
    file: Path | None,
    drawing: "Drawing",
    checkpoint: str | None,
    force: bool,
    out: Path,
    compare: Path | None,
    fmt: str,
) -> None:
    """Edit a photo: invert it to noise, then generate it again with directions added.

    The photo is cropped to its middle and scaled to the model's size. Say with --prompt what it shows. The defaults are
    50 steps each way and a guidance scale of 1: above 1, inversion is less faithful. The error of the reconstruction
    without any edit is printed, too: what the model cannot reconstruct, it cannot edit.

    \b
    Example:
      eigenbank edit face.png --model eigenbank/avatars-64 --set 'with blond hair=1' --prompt 'a person' --steps 20 --out edited.png
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
    bank, pipe = open_model(model, checkpoint, drawing, sliders)
    from eigenbank.loaders.edit import REPEATS, PoorReconstructionWarning, edit_cost
    from eigenbank.loaders.edit import edit as edit_photo

    log(f"{edit_cost(pipe, drawing)}: {1 + REPEATS} to invert the photo, 2 to generate it again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PoorReconstructionWarning)  # said below, as a line
        found = edit_photo(
            pipe,
            photo,
            sliders,
            bank=bank,
            drawing=drawing,
            force=force,
        )
    for note in found.notes:
        log(f"{photo.name}: {note}")
    if found.poor:
        log(f"warning: {found.poor}")
    _log_if_faint(found.change)
    save_picture(found.image, out)
    if compare is not None:
        save_picture(found.grid(), compare)
    emit("edit", [_row(found, out)], EDIT_COLUMNS, fmt=fmt)


def _row(found: "EditedPhoto", out: Path) -> dict[str, Any]:
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
