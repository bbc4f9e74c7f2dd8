"""`eigenbank build`, `label`, `preview`: from a checkpoint's weights to a set with names and pictures."""

import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenbank.cli import complete
from eigenbank.cli.drawing import drawing_options, without
from eigenbank.cli.options import SCALES, SEEDS, source_options
from eigenbank.cli.output import emit, format_option, log, progress_bar
from eigenbank.schemas.errors import SourceError, SteerError, explaining

if TYPE_CHECKING:
    from eigenbank.builders.checkpoints.source import WeightSource
    from eigenbank.builders.label.budget import Budget
    from eigenbank.registry.sets.direction_set import Direction
    from eigenbank.schemas.drawing import Drawing


@click.command()
@click.argument("model", shell_complete=complete.models_or_folders)
@click.option(
    "--layers",
    multiple=True,
    default=["*"],
    metavar="GLOB",
    shell_complete=complete.layers,
    help="Layers to build; may be repeated.",
)
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="RECIPE",
    shell_complete=complete.buildable,
    help="Recipes, e.g. output-value@0.4-1; repeatable.",
)
@click.option(
    "--top-k", type=click.IntRange(1, 4096), default=16, show_default=True, help="Directions per layer and recipe."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--model-id",
    metavar="ID",
    help="Id to give the set [default: the catalog's or Hub's, local/NAME-DIGEST for a folder].",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="New folder to write the set to, instead of the data folder."
)
@click.option("--replace", is_flag=True, help="Replace a set even if its labels, composites or previews are lost.")
@click.option("--dry-run", is_flag=True, help="List the layers and what reading them takes; build nothing.")
@source_options
@format_option
def build(
    model: str,
    layers: tuple[str, ...],
    recipes: tuple[str, ...],
    top_k: int,
    device: str,
    model_id: str | None,
    out: Path | None,
    replace: bool,
    dry_run: bool,
    revision: str | None,
    variant: str | None,
    config: str | None,
    fmt: str,
) -> None:
    """Compute a checkpoint's directions from its weights alone, and add them to the catalog.

    MODEL is a diffusers folder, a single .safetensors file, a model id of the catalog or of the Hub, or a file there
    (ORG/NAME/FILE.safetensors). Only the attention tensors are read. Without --recipe, output-value is built on both sides.

    If a pipeline has several denoisers, as Wan 2.2 has, one set holds the directions of all: its layers are named
    COMPONENT.LAYER, and each direction edits its own denoiser; --layers 'transformer_2.*' builds one alone.

    A set of the same id and revision is replaced. If it has labels by labelers, composites or previews, say --replace.

    --dry-run lists the layers, from the headers of the weights, and builds nothing. `undecided` layers are built only
    when you name them. If `out` is no, the layer has no out projection, and value stands in for output-value.

    \b
    Example:
      eigenbank build eigenbank/avatars-64 --dry-run
      eigenbank build eigenbank/avatars-64 --layers 'mid_block.*' --model-id me/middle
    """
    from eigenbank.api import build as build_bank
    from eigenbank.api import check_model_id, open_source
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.local import store
    from eigenbank.registry.sets.folder import check_new_folder

    source_is = {"revision": revision, "variant": variant, "config": config}
    if dry_run:
        _list_layers(model, layers, fmt=fmt, **source_is)
        return
    if out is not None:
        check_new_folder(out)
    if model_id is not None:
        try:
            check_model_id(model_id)
        except SourceError as error:
            raise click.BadParameter(str(error), param_hint="--model-id") from None
    with explaining(outcome="nothing was built"):
        found_id, source, checkpoint = open_source(model, **source_is)
        if not replace:
            with Catalog.open() as catalog:
                catalog.check_overwrite(model_id or found_id, source.revision)
    begun: list[float] = []
    with progress_bar() as show:

        def progress(what: str, done: int, total: int) -> None:
            # The first call comes when torch is imported and the layers are found: what follows is the build.
            begun.append(time.perf_counter())
            show(what, done, total)

        bank = build_bank(
            source,
            layers=list(layers),
            recipes=recipes or None,
            top_k=top_k,
            device=device,
            model_id=model_id or found_id,
            progress=progress,
        )
    seconds = time.perf_counter() - begun[0]
    bank = store(bank, checkpoint=checkpoint, out=out, replace=replace, log=log)
    log(f"{len(bank)} directions of {len(bank.layers)} layers of {bank.model_id} in {seconds:.2f} s → {bank.folder}")
    without = sum("output" not in layer.tensors for layer in bank.layers.values())
    if without and any(direction.recipe.matrix == "output-value" for direction in bank):
        log(f"{without} layers have no out projection of their own: there value stands in for output-value")
    log(f"read {sum(each.bytes_read for each in source.all):,} bytes of weights{_downloaded(source)}")
    rows = [
        {
            "model": bank.model_id,
            "layer": layer.name,
            "kind": layer.kind,
            "width": layer.width,
            "heads": layer.heads,
            "directions": sum(record.layer == layer.name for record in bank.manifest.directions),
        }
        for layer in bank.manifest.layers
    ]
    emit("built", rows, ["layer", "kind", "width", "heads", "directions"], fmt=fmt)


def _downloaded(source: "WeightSource") -> str:
    """What came over the network for a source, in words; empty for a local one."""
    from eigenbank.builders.checkpoints.hub import received

    count = received(source)
    return (
        f"; {count:,} bytes came over the network, of {sum(each.total for each in source.all):,} the weights take"
        if count
        else ""
    )


LAYER_COLUMNS = ["layer", "kind", "width", "heads", "frame", "out", "bytes"]


def _list_layers(model: str, globs: tuple[str, ...], *, fmt: str, **source_is: str | None) -> None:
    from eigenbank.api import layers_of

    found, source = layers_of(model, **source_is)
    rows = [
        {
            "layer": layer.name,
            "kind": layer.kind,
            "width": layer.width,
            "heads": layer.heads,
            "kv_heads": layer.kv_heads or layer.heads,
            "frame": layer.frame,
            "out": "yes" if "output" in layer.tensors else "no",
            "bytes": source.layer_size(layer),
        }
        for layer in found.layers
        if any(fnmatchcase(layer.name, glob) for glob in globs)
    ]
    if found.note:
        log(found.note)
    emit("layer", rows, LAYER_COLUMNS, fmt=fmt)


def _as_budget(_ctx: click.Context, _param: click.Parameter, value: str | None) -> "Budget | None":
    from eigenbank.builders.label.budget import BudgetError, as_budget

    try:
        return None if value is None else as_budget(value)
    except BudgetError as error:
        raise click.BadParameter(str(error)) from None


budget_option = click.option(
    "--budget",
    callback=_as_budget,
    help="Draw at most this much: a number of images, as in 2000, or a time, as in 30m.",
)


@click.command()
@click.argument("model", shell_complete=complete.models_or_folders)
@click.option(
    "--labeler",
    "labelers",
    multiple=True,
    metavar="NAME[:ARGUMENT]",
    help="statistics, attributes:FOLDER, clip:MODEL@REVISION#VOCABULARY, or a plugin's name; repeatable [default: the "
    "checkpoint's attributes/ if it has them, else statistics].",
)
@click.option(
    "--screening",
    type=click.Choice(["predicted", "drawn"]),
    default="predicted",
    show_default=True,
    help="Screen by what one denoiser pass predicts of a picture, or by whole pictures, which is many times the work.",
)
@click.option("--seeds", type=SEEDS, default="100-107", show_default=True, help="Seeds to screen directions on.")
@click.option(
    "--most", type=click.IntRange(1, 1000), default=2, show_default=True, help="Directions to confirm per score."
)
@budget_option
@click.option(
    "--per-word",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Sliders to name per score.",
)
@click.option(
    "--from",
    "carry",
    metavar="MODEL",
    shell_complete=complete.models_or_folders,
    help="Skip screening: confirm the names of this set, of a distilled checkpoint or another relative.",
)
@drawing_options
@format_option
def label(
    model: str,
    labelers: tuple[str, ...],
    carry: str | None,
    drawing: "Drawing",
    checkpoint: str | None,
    fmt: str,
    **settings: Any,
) -> None:
    """Name directions by what they do: labelers read scores off edited images, and a score that clearly and steadily
    leads becomes the label.

    MODEL is a model id of the catalog. Directions are screened on a few seeds. For each score, a composite fitted to it
    and the most promising directions are measured one after the other on other seeds, until one earns the name; what
    does not beat random directions stays unnamed. The new set replaces the former one in the catalog. If you interrupt
    the command, run it again to continue.

    \b
    Example:
      eigenbank label eigenbank/avatars-64 --labeler attributes --prompt 'a person' --prompt 'a cartoon face'
    """
    from eigenbank.api import find_checkpoint
    from eigenbank.naming import label as label_directions
    from eigenbank.registry.files import readings_folder
    from eigenbank.registry.load import load, load_without_people_labels
    from eigenbank.registry.local import store

    model_id, folder = find_checkpoint(model, checkpoint, drawing=drawing, check=load_without_people_labels)
    bank = load_without_people_labels(model_id)
    relative = None if carry is None else load(carry)
    from eigenbank.builders.label.labeler import open_labelers
    from eigenbank.builders.label.settings import LabelSettings
    from eigenbank.loaders.pipelines import open_pipeline

    opened = open_labelers(list(labelers), folder)
    pipe = open_pipeline(folder, drawing)
    with progress_bar("images") as progress:
        bank = label_directions(
            pipe,
            bank,
            opened,
            LabelSettings(**settings),
            carry=relative,
            drawing=drawing,
            cache=readings_folder(),
            progress=progress,
            log=log,
        )
    bank = store(bank, checkpoint=folder, replace=True)
    rows = label_rows(bank)
    log(f"{len(rows)} labels on {len(bank)} directions of {model_id} → {bank.folder}")
    if not rows:
        log(
            f"nothing earned a name, which is common. Look for yourself: eigenbank sweep {model_id} DIRECTION… --out sweep.png (ids: "
            f"eigenbank list --model {model_id}), and name what you see: eigenbank labels add {model_id}#DIRECTION WORD. "
            "Or try more directions per score (--most), other seeds (--seeds), or more recipes (eigenbank build --recipe)"
        )
    emit("label", rows, LABEL_COLUMNS, fmt=fmt)


LABEL_COLUMNS = ["label", "direction", "effect", "at_random", "selectivity", "consistency", "confidence", "also_moves"]


def label_rows(bank: object) -> list[dict[str, object]]:
    """The labels of a bank as rows, the best direction of every label first."""
    from eigenbank.registry.sets.direction_set import DirectionSet

    assert isinstance(bank, DirectionSet)
    rows: list[dict[str, object]] = []
    for text in bank.labels:
        for direction in bank.search(text):
            for found in direction.labels:
                if found.text == text:
                    evidence = found.evidence
                    rows.append(
                        {
                            "id": direction.full_id,
                            "label": text,
                            "direction": direction.id,
                            "polarity": found.polarity,
                            "effect": evidence and evidence.effect,
                            "at_random": evidence and evidence.null,
                            "selectivity": evidence and evidence.selectivity,
                            "consistency": evidence and evidence.consistency,
                            "confidence": found.confidence,
                            "also_moves": evidence and f"{evidence.runner_up} {evidence.runner_up_effect:+.2f}",
                            "source": found.source,
                        }
                    )
    return rows


@click.command()
@click.argument("model", shell_complete=complete.models_or_folders)
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete.sliders)
@click.option("--all", "everything", is_flag=True, help="All directions, not only the labelled ones.")
@click.option("--seeds", type=SEEDS, default="0-2", show_default=True, help="A row of pictures per seed.")
@click.option(
    "--scales",
    type=SCALES,
    default="-2,-1.5,-1,-0.5,0,0.5,1,1.5,2",
    show_default=True,
    help="A column of pictures per scale.",
)
@drawing_options
@format_option
def preview(
    model: str,
    names: tuple[str, ...],
    everything: bool,
    seeds: tuple[int, ...],
    scales: tuple[float, ...],
    drawing: "Drawing",
    checkpoint: str | None,
    fmt: str,
) -> None:
    """Generate a strip of pictures for each direction, seeds by scales, and keep it in the set.

    MODEL is a model id of the catalog; NAMEs are labels or direction ids, by default all labelled directions. The new set,
    with the previews it had before, replaces the former one in the catalog.

    \b
    Example:
      eigenbank preview eigenbank/avatars-64 'with blond hair' --prompt 'a person' --steps 10
    """
    from eigenbank.api import find_checkpoint
    from eigenbank.naming import preview as generate_previews
    from eigenbank.registry.load import load_without_people_labels
    from eigenbank.registry.local import store
    from eigenbank.registry.sets.card import preview_name

    chosen: list[str] = []
    model_id, folder = find_checkpoint(
        model,
        checkpoint,
        drawing=drawing,
        check=lambda model_id: chosen.extend(_to_preview(model_id, names, everything=everything)),
    )
    from eigenbank.loaders.pipelines import open_pipeline

    pipe = open_pipeline(folder, drawing)
    with progress_bar("images") as progress:
        bank = generate_previews(
            pipe,
            load_without_people_labels(model_id),
            chosen,
            seeds=seeds,
            scales=scales,
            drawing=drawing,
            progress=progress,
            log=log,
        )
    bank = store(bank, checkpoint=folder, replace=True)
    log(f"{len(chosen)} previews of {model_id} → {bank.folder}")
    rows = [
        {
            "id": bank[name].full_id,
            "direction": name,
            "label": ", ".join(label.text for label in bank[name].labels) or None,
            "file": preview_name(bank[name].record),
            "bytes": len(bank.previews[preview_name(bank[name].record)]),
        }
        for name in chosen
    ]
    emit("preview", rows, ["direction", "label", "file", "bytes"], fmt=fmt)


def _to_preview(model_id: str, names: tuple[str, ...], *, everything: bool) -> list[str]:
    """The ids of the directions of those names, of all, or of the labelled ones. Raises UnknownNameError, SteerError for none."""
    from eigenbank.loaders.lookup import find_direction
    from eigenbank.registry.load import load_without_people_labels

    bank = load_without_people_labels(model_id)
    if names:
        return [find_direction(bank, name)[0].id for name in dict.fromkeys(names)]
    chosen = [each.id for each in bank.sliders if everything or each.labels]
    if not chosen:
        from eigenbank.registry.catalog import Catalog
        from eigenbank.registry.local import people_labels

        with Catalog.open() as catalog:
            own = list(people_labels(bank.manifest, catalog))
        message = f"no direction of {model_id} is labelled, so none was drawn: name some, or give --all"
        if own:
            message = (
                f"no direction of {model_id} is labelled in its set, so none was drawn. The {len(own)} that people labelled in "
                f"this catalog do not count here: name them by their ids, eigenbank preview {model_id} {own[0]}, or give --all"
            )
        raise SteerError(message)
    return chosen


@without("negative_prompt", "unchecked")
@click.command()
@click.argument("model", shell_complete=complete.models_or_folders)
@drawing_options
@format_option
def measure(model: str, drawing: "Drawing", checkpoint: str | None, fmt: str) -> None:
    """Measure how long a typical token is at each site of a set, and keep it in the set.

    `export` and `steer --fuse` need it, because they write constants. It takes two runs without a picture. `label` and
    `preview` measure it, too. MODEL is a model id of the catalog.

    REACH compares what a site's strongest direction adds at a scale of 1 with the residual stream it is added to, by
    length. If it is tiny, the site's directions cannot act: such sites are listed last, and `label` screens them last.

    \b
    Example:
      eigenbank measure eigenbank/avatars-64 --prompt 'a person' --steps 10
    """
    from eigenbank.api import find_checkpoint
    from eigenbank.loaders.drawing import cost
    from eigenbank.loaders.lengths import SEEDS as RUNS
    from eigenbank.loaders.lengths import measure as measure_lengths
    from eigenbank.loaders.pipelines import open_pipeline
    from eigenbank.registry.load import load_without_people_labels
    from eigenbank.registry.local import store

    model_id, folder = find_checkpoint(model, checkpoint, drawing=drawing, check=load_without_people_labels)
    bank = load_without_people_labels(model_id)
    pipe = open_pipeline(folder, drawing)
    log(f"{cost(pipe, len(RUNS), drawing)}, undecoded")
    measured = measure_lengths(pipe, bank, drawing=drawing)
    if measured is bank:
        log(f"{model_id} has all the token lengths its recipes use: nothing was run")
    else:
        measured = store(measured, checkpoint=folder, replace=True)
        log(f"token lengths of {model_id} → {measured.folder}")
    strongest: dict[tuple[str, str], Direction] = {}
    for each in sorted(measured, key=lambda each: each.reach or 0.0):
        strongest[each.layer, each.recipe.site] = each
    rows = []
    for layer in measured.manifest.layers:
        for site, found in layer.lengths.items():
            best = strongest.get((layer.name, site))
            row = {"layer": layer.name, "site": site, "length": found.length, "source": found.source}
            rows.append((best is not None and not best.acts, {**row, "reach": best and best.reach}))
    rows.sort(key=lambda row: row[0])
    columns = ["layer", "site", "length", "source", "reach"]
    emit("length", [row for _, row in rows], columns, fmt=fmt)
