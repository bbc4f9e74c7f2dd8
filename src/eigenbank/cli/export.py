"""`eigenbank export` and `match`: directions as files for other programs, and how they match a checkpoint."""

from collections import Counter
from pathlib import Path
from typing import Any

import click

from eigenbank.cli import complete
from eigenbank.cli.options import parse_sets, source_options
from eigenbank.cli.output import echo, emit, format_option, log

FORMATS = ("diffusers", "comfyui", "npz", "json")


@click.command()
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
def export(
    model: str,
    directions: tuple[str, ...],
    edits: tuple[str, ...],
    form: Any,
    checkpoint: str | None,
    out: Path,
) -> None:
    """Write directions as a file that other programs load, and print its path.

    SET is a set's folder, MODEL a model id; DIRECTIONs are labels or ids, each at scale 1. diffusers and comfyui write
    one LoRA whose strength is the slider; it can hold directions that are added at a layer's output, in all steps. npz and
    json hold the vectors with all that is known of them; without DIRECTIONs, those of the whole set.

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
    from eigenbank.loaders.lookup import find_direction, load

    bank = load(model)
    for name in chosen:
        find_direction(bank, name)
    for path in write(bank, chosen or None, out, format=form, checkpoint=checkpoint):
        echo(path)
    if form == "diffusers":
        from eigenbank.builders.discovery.fake_weights import denoiser_class

        kind = denoiser_class(bank.manifest.checkpoint.denoiser)
        if hasattr(kind, "load_lora_adapter"):
            log(f"load it with pipe.load_lora_weights({str(out)!r}); the adapter's weight is the slider")
        else:
            log(f"diffusers has no LoRA loader for a {kind.__name__}: docs/export.md shows how PEFT loads it")
    if form == "comfyui":
        log("put it into ComfyUI's models/loras; its strength is the slider")


COLUMNS = ["direction", "verdict", "score", "reason"]


@click.command()
@click.argument("directions", metavar="SET")
@click.argument("model", metavar="PIPELINE_DIR")
@source_options
@format_option
def match(directions: str, model: str, revision: str | None, variant: str | None, config: str | None, fmt: str) -> int:
    """Check how the directions of a set match a checkpoint's weights. Only attention tensors are read.

    SET is a set's folder or a model id; PIPELINE_DIR a folder, file or model id, as `build` takes it. `exact`: the same
    weights; `transfer`: other weights of which a direction is still an eigenvector, with cos∠(M′v, v) as its score;
    `structure`: quantised weights, of which only shapes can be compared; `foreign` and `incompatible`: steer refuses
    them. Exits with 1 if no direction can be applied.

    \b
    Example:
      eigenbank match eigenbank/cartoon-faces-32 eigenbank/cartoon-faces-32 --format csv
    """
    from eigenbank.api import match as match_set

    found = match_set(directions, model, revision=revision, variant=variant, config=config)
    rows = [
        {
            "direction": each.direction.id,
            "layer": each.direction.layer,
            "verdict": each.verdict,
            "score": each.score,
            "reason": each.reason,
        }
        for each in found
    ]
    counts = Counter(each.verdict for each in found)
    log(f"{len(found)} directions: {', '.join(f'{count} {name}' for name, count in counts.items()) or 'none'}")
    emit(rows, COLUMNS, fmt=fmt)
    return 0 if counts["exact"] + counts["transfer"] + counts["structure"] else 1
