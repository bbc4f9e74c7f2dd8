"""`eigenbank export` and `match`: directions as files for other programs, and how they match a checkpoint or a set."""

from collections import Counter
from pathlib import Path
from typing import Any

import click

from eigenbank.cli import complete
from eigenbank.cli.options import parse_sets, source_options
from eigenbank.cli.output import echo, emit, log, output_options
from eigenbank.cli.search import limit_option

FORMATS = ("diffusers", "comfyui", "lycoris", "npz", "json")


@click.command()
@click.argument("model", metavar="SET|MODEL", shell_complete=complete.models_or_folders)
@click.argument("directions", nargs=-1, metavar="[DIRECTION]...", shell_complete=complete.sliders)
@click.option(
    "--set",
    "edits",
    multiple=True,
    metavar="NAME=SCALE",
    shell_complete=complete.scaled,
    help="A label or id and its scale at strength 1; repeatable, all go into one file.",
)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="diffusers", show_default=True, help="Kind of file."
)
@click.option(
    "--checkpoint", metavar="WHERE", help="Checkpoint the file is for [default: the one the set was built from]."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write.")
@click.option(
    "--all-labels", type=click.Path(path_type=Path, file_okay=False), help="Folder to write each named slider into."
)
def export(
    model: str,
    directions: tuple[str, ...],
    edits: tuple[str, ...],
    form: Any,
    checkpoint: str | None,
    out: Path | None,
    all_labels: Path | None,
) -> int:
    """Write sliders as files that other programs load, and print their paths.

    SET is a set's folder, MODEL a model id; DIRECTIONs are labels or ids, each at scale 1. diffusers, comfyui and
    lycoris (for A1111, Forge and InvokeAI) write one LoRA whose strength is the slider, and beside it the preview and a
    JSON with the recommended range; the edit must act in every step. npz and json hold the vectors with all that is
    known of them; without DIRECTIONs, those of the whole set.

    \b
    Example:
      eigenbank export eigenbank/avatars-64 --set 'with blond hair=1.5' --format comfyui --out skin.safetensors
    """
    if (out is None) == (all_labels is None):
        message = "say where to: --out FILE for one file, or --all-labels FOLDER for a file of each named slider"
        raise click.UsageError(message)
    chosen: dict[str, float] = dict.fromkeys(directions, 1.0)
    for name, scale in parse_sets(edits).items():
        if name in chosen:
            message = f"{name!r} is given twice, with --set and without"
            raise click.UsageError(message)
        chosen[name] = scale
    from eigenbank import api
    from eigenbank.loaders.lookup import find_direction
    from eigenbank.registry.load import load

    if all_labels is not None:
        if chosen:
            message = "--all-labels takes every named slider: name no directions"
            raise click.UsageError(message)
        files, refused = api.export_all(load(model), all_labels, format=form, checkpoint=checkpoint)
        for path in files:
            echo(path)
        for text, why in refused.items():
            log(f"no file for {text!r}: {why}")
        return 0 if files else 1
    assert out is not None
    if not chosen and form not in ("npz", "json"):
        message = "a LoRA is one slider: name its directions, as in --set 'smile=1.5'"
        raise click.UsageError(message)
    bank = load(model)
    for name in chosen:
        find_direction(bank, name)
    written = api.export(bank, chosen or None, out, format=form, checkpoint=checkpoint)
    for path in written:
        echo(path)
    for kept in () if form in ("npz", "json") else (out.with_suffix(".json"), out.with_suffix(".png")):
        if kept.exists() and kept not in written:
            log(f"{kept} was there already and stays as it is: delete it to have it written for this slider")
    if form == "diffusers":
        from eigenbank.builders.discovery.fake_weights import denoiser_class

        kind = denoiser_class(bank.manifest.checkpoint.denoiser)
        if hasattr(kind, "load_lora_adapter"):
            log(f"load it with pipe.load_lora_weights({str(out)!r}); the adapter's weight is the slider")
        else:
            log(f"diffusers has no LoRA loader for a {kind.__name__}: docs/export.md shows how PEFT loads it")
    if form == "comfyui":
        log("put it into ComfyUI's models/loras; its strength is the slider")
    return 0


COLUMNS = ["direction", "verdict", "score", "reason"]


def _short(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if len(value) > 4_000:  # longer than any path may be
        message = f"expected a model id or a folder, found {len(value):,} letters"
        raise click.BadParameter(message)
    return value


@click.command()
@click.argument("directions", metavar="SET", shell_complete=complete.models_or_folders, callback=_short)
@click.argument("model", metavar="CHECKPOINT|SET", shell_complete=complete.models_or_folders, callback=_short)
@click.option("--with-set", is_flag=True, help="Compare with the directions of another set, not with weights.")
@limit_option
@source_options
@output_options
def match(
    directions: str,
    model: str,
    with_set: bool,
    limit: int,
    revision: str | None,
    variant: str | None,
    config: str | None,
    fmt: str,
    quiet: bool,
) -> int:
    """Check how well a set's directions match a checkpoint's weights, or another set. Only attention tensors are read.

    SET is a set's folder or a model id; CHECKPOINT a folder, file or model id, as `build` takes it. `exact`: the same
    weights; `transfer`: other weights of which a direction is still an eigenvector, with cos∠(M′v, v) as its score;
    `structure`: quantised weights, of which only shapes can be compared; `foreign` and `incompatible`: steer refuses
    them. Exits with 1 if no direction can be applied.

    --with-set finds for every direction the nearest of the other SET at the same layer and recipe, and prints their
    cosine: near 1 or −1 it is the same axis. Those that differ most come first, --limit of them: what a fine-tune
    changed. What only one of the sets has is named on stderr.

    \b
    Example:
      eigenbank match eigenbank/avatars-64 eigenbank/avatars-64 --format csv
      eigenbank match eigenbank/avatars-64 eigenbank/avatars-64 --with-set
    """
    if with_set:
        _compare(directions, model, limit, fmt, quiet)
        return 0
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
    emit("match", rows, COLUMNS, fmt=fmt, quiet=quiet, key="direction")
    return 0 if counts["exact"] + counts["transfer"] + counts["structure"] else 1


def _compare(one: str, other: str, limit: int, fmt: str, quiet: bool) -> None:
    from eigenbank.registry.load import load
    from eigenbank.registry.sets.compare import compare_sets, not_shared

    banks = load(one), load(other)
    rows = compare_sets(*banks)
    columns = ["id", "nearest", "cosine", "same_rank_cosine"]
    emit("comparison", rows[:limit], columns, fmt=fmt, quiet=quiet, key="id")
    for name, (here, there) in ((one, banks), (other, banks[::-1])):
        alone = not_shared(here, there)
        if alone:
            more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
            log(f"only in {name}, and not compared: {', '.join(alone[:3])}{more}")
    if len(rows) > limit:
        log(f"the {limit} that moved most are shown, of {len(rows)}: raise --limit for more")
