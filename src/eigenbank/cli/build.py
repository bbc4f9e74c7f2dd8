"""`eigenbank build`: from a checkpoint's weights to a direction set in the catalog."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eigenbank.cli import complete
from eigenbank.cli.options import catalog_option, source_options
from eigenbank.cli.output import emit, output_options, progress_bar, say
from eigenbank.schemas.errors import SourceError

if TYPE_CHECKING:
    from eigenbank.builders.checkpoints.source import WeightSource


@click.command(short_help="Compute a checkpoint's directions from its weights.")
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
@click.option("--model-id", metavar="ID", help="Enter it under this id. Default: the folder's, local/NAME.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the set to this new folder instead of the data folder."
)
@click.option(
    "--replace", is_flag=True, help="Take the place of a set with labels, composites or previews, which are lost."
)
@source_options
@catalog_option
@output_options
def build(
    model: str,
    layers: tuple[str, ...],
    recipes: tuple[str, ...],
    top_k: int,
    device: str,
    model_id: str | None,
    out: Path | None,
    replace: bool,
    revision: str | None,
    variant: str | None,
    config: str | None,
    fmt: str,
    quiet: bool,
) -> None:
    """Compute a checkpoint's directions from its weights alone, and enter them into the catalog.

    MODEL is a diffusers folder, a single .safetensors file, a model id of the catalog or of the Hub, or a file there
    (ORG/NAME/FILE.safetensors). Only the attention tensors are read. Without --recipe, output-value is built on both sides.

    The set takes the place of the one of the same id and revision; a set with labels by labelers, composites or previews
    only with --replace.

    \b
    Example:
      eigenbank build eigenbank/cartoon-faces-32 --layers 'mid_block.*' --model-id me/middle
    """
    from eigenbank.api import build as build_bank
    from eigenbank.api import check_model_id, check_place, keep, open_source
    from eigenbank.registry.sets.folder import check_new

    if out is not None:
        check_new(out)
    if model_id is not None:
        try:
            check_model_id(model_id)
        except SourceError as error:
            raise click.BadParameter(str(error), param_hint="--model-id") from None
    found_id, source, checkpoint = open_source(model, revision=revision, variant=variant, config=config)
    if not replace:
        check_place(model_id or found_id, source.revision, outcome="nothing was built")
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
    bank = keep(bank, checkpoint=checkpoint, out=out, replace=replace, say=say)
    say(f"{len(bank)} directions of {len(bank.layers)} layers of {bank.model_id} in {seconds:.2f} s → {bank.folder}")
    without = sum("output" not in layer.tensors for layer in bank.layers.values())
    if without and any(direction.recipe.matrix == "output-value" for direction in bank):
        say(f"{without} layers have no out projection of their own: there value stands in for output-value")
    say(f"read {source.bytes_read:,} bytes of weights{network(source)}")
    if quiet:
        emit([{"model": bank.model_id}], ["model"], fmt=fmt, quiet=True, key="model")
        return
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
    emit(rows, ["layer", "kind", "width", "heads", "directions"], fmt=fmt, quiet=False, key="layer")


def network(source: "WeightSource") -> str:
    """What came over the network for a source, in words; nothing for a local one."""
    from eigenbank.builders.checkpoints.hub import received

    count = received(source)
    return f"; {count:,} bytes came over the network, of {source.total:,} the weights take" if count else ""
