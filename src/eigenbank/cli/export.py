"""`eigenbank export`: directions as files that other programs load."""

from pathlib import Path
from typing import Any

import click

from eigenbank.cli import complete
from eigenbank.cli.options import catalog_option, parse_sets
from eigenbank.cli.output import say

FORMATS = ("diffusers", "comfyui", "npz", "json")


@click.command(short_help="Write directions as a LoRA, npz or json file.")
@click.argument("model", metavar="SET|MODEL", shell_complete=complete.models_or_folders)
@click.argument("directions", nargs=-1, metavar="[DIRECTION]...", shell_complete=complete.sliders)
@click.option(
    "--set",
    "edits",
    multiple=True,
    metavar="NAME=SCALE",
    shell_complete=complete.scaled,
    help="A label or id and its scale at strength 1; repeatable.",
)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="diffusers", show_default=True, help="Kind of file."
)
@click.option(
    "--checkpoint", metavar="WHERE", help="Checkpoint it is to fit [default: the one the set was built from]."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
@catalog_option
def export(
    model: str,
    directions: tuple[str, ...],
    edits: tuple[str, ...],
    form: Any,
    checkpoint: str | None,
    out: Path,
) -> None:
    """Write directions as a file that other programs load.

    SET is a set's folder, MODEL a model id; DIRECTIONs are labels or ids, each at scale 1. diffusers and comfyui write
    one LoRA whose strength is the slider: only directions added at a layer's output, in all steps, fit into one. npz and
    json hold the vectors with all that is known of them; without any direction named, those of the whole set. The files
    written are printed on stdout.

    \b
    Example:
      eigenbank export eigenbank/cartoon-faces-32 --set 'skin tone=1.5' --format json --out skin.json
    """
    chosen: dict[str, float] = dict.fromkeys(directions, 1.0)
    for name, scale in parse_sets(edits).items():
        if name in chosen:
            message = f"{name!r} is given twice, with --set and without"
            raise click.UsageError(message)
        chosen[name] = scale
    if not chosen and form in ("diffusers", "comfyui"):
        message = "a LoRA is one slider: name its directions, as in --set 'smile=1.5'"
        raise click.UsageError(message)
    from eigenbank.api import export as write
    from eigenbank.loaders.load import find, load

    bank = load(model)
    for name in chosen:
        find(bank, name)
    for path in write(bank, chosen or None, out, format=form, checkpoint=checkpoint):
        click.echo(path)
    if form == "diffusers":
        from eigenbank.builders.discovery.fake_weights import denoiser_class

        kind = denoiser_class(bank.manifest.checkpoint.denoiser)
        if hasattr(kind, "load_lora_adapter"):
            say(f"load it with pipe.load_lora_weights({str(out)!r}); the adapter's weight is the slider")
        else:
            say(f"diffusers has no LoRA loader for a {kind.__name__}: docs/export.md shows how PEFT loads it")
    if form == "comfyui":
        say("put it into ComfyUI's models/loras; its strength is the slider")
