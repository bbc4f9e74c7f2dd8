"""Which layers of a checkpoint can be built: those its config's family adapter finds, checked against what it stores."""

from fnmatch import fnmatchcase

from eigenbank.builders.checkpoints.source import Source
from eigenbank.builders.discovery.families import GROUP, Discovery, discover
from eigenbank.schemas import Layer
from eigenbank.schemas.errors import SourceError, unknown


def find_layers(source: Source) -> Discovery:
    """The self-attention layers of the source's denoiser, in the order of its modules.

    Raises SourceError when its class is unknown, has no self-attention, or the checkpoint does not fit it.
    """
    found = discover(source.config)
    if not found.layers and found.note:
        message = f"{found.note}: nothing was built. A family adapter can name its layers (entry points {GROUP})"
        raise SourceError(message)
    if not found.layers:
        message = f"this {source.config['_class_name']} has no self-attention: there is nothing to decompose, nothing was built"
        raise SourceError(message)
    for layer in found.layers:
        for part in layer.tensors.values():
            _check(source, part.tensor, found.shapes[part.tensor])
    return found


def choose_layers(layers: list[Layer], patterns: list[str]) -> list[Layer]:
    """The layers whose names match any of the globs, in order; undecided ones only where a glob names no other.

    Raises UnknownNameError for a glob that matches none.
    """
    names = [layer.name for layer in layers]
    chosen: set[str] = set()
    for pattern in patterns:
        matched = [layer for layer in layers if fnmatchcase(layer.name, pattern)]
        if not matched:
            raise unknown(kind="layer", name=pattern, known=names)
        decided = [layer for layer in matched if layer.kind != "undecided"]
        # A layer nobody could tell is built only by someone who names it: `*` is no name.
        if not decided and pattern.strip("*.") == "":
            message = (
                "it could not be decided which layers are self-attention over image tokens: nothing was built. "
                f"See `eigenbank layers`, and name those you want, e.g. --layers '{matched[0].name}'"
            )
            raise SourceError(message)
        chosen.update(layer.name for layer in decided or matched)
    return [layer for layer in layers if layer.name in chosen]


def _check(source: Source, parameter: str, expected: tuple[int, ...]) -> None:
    found = source.shape(parameter)
    if found is None:
        message = f"the checkpoint lacks {parameter}, which its config.json asks for: nothing was built"
        raise SourceError(message)
    # Old checkpoints store the projections as 1×1 convolutions.
    if tuple(extent for extent in found if extent != 1) != tuple(extent for extent in expected if extent != 1):
        message = (
            f"{parameter} has shape {list(found)}, its config.json asks for {list(expected)}: "
            "nothing was built. The config belongs to another checkpoint, or the file is damaged"
        )
        raise SourceError(message)
