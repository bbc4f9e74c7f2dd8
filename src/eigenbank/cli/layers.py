"""`eigenbank layers`: which layers of a checkpoint can be decomposed, and what reading them takes."""

import click

from eigenbank.cli import complete
from eigenbank.cli.options import catalog_option, source_options
from eigenbank.cli.output import emit, output_options, say

COLUMNS = ["layer", "kind", "width", "heads", "frame", "out", "bytes"]


@click.command(short_help="List a checkpoint's self-attention layers.")
@click.argument("model", shell_complete=complete.models_or_folders)
@source_options
@catalog_option
@output_options
def layers(model: str, revision: str | None, variant: str | None, config: str | None, fmt: str, quiet: bool) -> None:
    """List a checkpoint's self-attention layers, without reading its weights.

    MODEL is a folder, a single .safetensors file, a model id of the catalog or of the Hub, or a file there. `undecided` layers are built
    only when named; where `out` is no, the layer has no out projection and value stands in for output-value.

    \b
    Example:
      eigenbank layers eigenbank/cartoon-faces-32
    """
    from eigenbank.api import layers_of

    found, source = layers_of(model, revision=revision, variant=variant, config=config)
    rows = [
        {
            "layer": layer.name,
            "kind": layer.kind,
            "width": layer.width,
            "heads": layer.heads,
            "kv_heads": layer.kv_heads or layer.heads,
            "frame": layer.frame,
            "out": "yes" if "output" in layer.tensors else "no",
            "bytes": source.size(layer.tensors.values()),
        }
        for layer in found.layers
    ]
    if found.note:
        say(found.note)
    emit(rows, COLUMNS, fmt=fmt, quiet=quiet, key="layer")
