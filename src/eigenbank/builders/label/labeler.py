"""What a labeler is, opening one by name, and several reading the same images.

A labeler reads named scores off images; a direction that moves one score, clearly and steadily, gets that name. Labelers
come from plugins: objects with a `name`, `applies(checkpoint)` and `open(argument, checkpoint)`, registered as entry points
in the group `eigenbank.labelers`. Those that ship are registered the same way. Importing this module imports no torch: a
plugin is listed more often than opened.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eigenbank.registry.plugins import load_plugins
from eigenbank.schemas.errors import EigenbankError, SourceError, explaining, unknown

if TYPE_CHECKING:
    from torch import Tensor

KIND = "labelers"
BATCH = 64
"""Images that a network reads at once."""


class LabelerError(EigenbankError):
    """A labeler cannot do its work. `source` says which one, where it was at work."""

    def __init__(self, message: str, source: str | None = None) -> None:
        super().__init__(message)
        self.source = source


class Labeler(Protocol):
    """Reads scores that have names. A score need not have a unit: effects are stated in standard deviations.

    `source` is what labels say gave them, `names` one per score. `stds` `(f,)` are the scores' standard deviations over
    the population the labeler was made for; None where there is no such population, then those of the checkpoint's own
    unedited images are used.

    Two more are optional. `digest`, a text: readings are kept between runs under `source`, `names` and this, so let it differ
    wherever the same images would be read otherwise (other weights, other prompts). `to(device)`: read there from now on.

    A labeler that knows words by an image's embedding has `features(images)` `(n, d)` and `scores(features)` `(…, d)` → `(…, f)`,
    linear, such that `read` is one after the other, and says `features_width`, d. Then the features are kept: other words are
    read off the same images later, and `digest` is of what the features depend on.
    """

    source: str
    names: tuple[str, ...]
    stds: "Tensor | None"

    def read(self, images: "Tensor") -> "Tensor":
        """Return scores `(n, f)` of images `(n, 3, h, w)` in [0, 1]."""


class LabelerPlugin(Protocol):
    """A plugin that offers a labeler."""

    name: str

    def applies(self, checkpoint: Path) -> bool:
        """Whether it is one of the labelers used where none is asked for. Must be cheap."""

    def open(self, argument: str | None, checkpoint: Path) -> Labeler:
        """Return the labeler; `argument` is what the user wrote after the name. Raises EigenbankError."""


@explaining(outcome="no label was given")
def open_labelers(specs: list[str], checkpoint: Path) -> list[Labeler]:
    """The labelers that `specs` (`NAME` or `NAME:ARGUMENT`) name, or, without any, those that apply to the checkpoint.

    Raises SourceError for an unknown name or one given twice, and whatever opening one raises.
    """
    plugins = {plugin.name: plugin for plugin in load_plugins(KIND)}
    if not specs:
        specs = [name for name, plugin in plugins.items() if not plugin.problem and plugin.object.applies(checkpoint)]
    opened: dict[str, Labeler] = {}
    for spec in specs:
        name, _, argument = spec.partition(":")
        if name not in plugins:
            raise unknown(kind="labeler", name=name, known=plugins, hint="See `eigenbank doctor`.")
        if plugins[name].problem:
            problem = f"the labeler {name} was skipped ({plugins[name].problem})"
            raise SourceError(problem)
        labeler = plugins[name].object.open(argument or None, checkpoint)
        check_labeler(labeler, name)
        if labeler.source in opened:
            problem = f"the labeler {spec} is asked for twice"
            raise SourceError(problem)
        opened[labeler.source] = labeler
    return list(opened.values())


def check_labeler(labeler: Labeler, name: str) -> None:
    """Raise LabelerError for a labeler with less than two names, with a name twice, or whose `stds` do not fit them."""
    names = labeler.names
    if not names or len(set(names)) != len(names):
        message = f"the labeler {name} has {len(names)} names, {len(set(names))} of them different: expected at least two, none twice"
        raise LabelerError(message)
    if len(names) == 1:
        message = f"the labeler {name} has one name, {names[0]!r}: it is given where its score leads others, so give it some beside"
        raise LabelerError(message)
    stds = labeler.stds
    if stds is not None and (stds.shape != (len(names),) or not bool((stds > 0).all())):
        message = f"the labeler {name} states standard deviations of shape {list(stds.shape)} for {len(names)} names: expected one above 0 for each"
        raise LabelerError(message)


def _embeds(labeler: Any) -> bool:
    return hasattr(labeler, "features")


def _features_of(labeler: Any) -> "tuple[Callable[[Tensor], Tensor], int]":
    """What reads that of images which is kept, and how wide it is: an embedding, or the scores themselves."""
    return (labeler.features, labeler.features_width) if _embeds(labeler) else (labeler.read, len(labeler.names))


def _checked(labeler: Labeler, images: "Tensor", read: "Callable[[Tensor], Tensor]", width: int) -> "Tensor":
    """What `read` makes of images, `(n, width)` float32 on the CPU.

    Raises LabelerError where it raises, or gives another shape, or values that are not finite.
    """
    from torch import OutOfMemoryError, Tensor

    try:
        scores = read(images)
    except OutOfMemoryError:  # not the labeler's fault: it is given fewer images
        raise
    except Exception as error:  # a stranger's labeler raises whatever it raises
        message = f"the labeler {labeler.source} failed ({type(error).__name__}: {error})"
        raise LabelerError(message, labeler.source) from error
    wanted = [len(images), width]
    if not isinstance(scores, Tensor) or list(scores.shape) != wanted:
        got = list(scores.shape) if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        message = f"the labeler {labeler.source} gave scores of shape {got}: expected {wanted}"
        raise LabelerError(message, labeler.source)
    scores = scores.detach().float().cpu()
    if not bool(scores.isfinite().all()):
        message = f"the labeler {labeler.source} gave scores that are not finite"
        raise LabelerError(message, labeler.source)
    return scores


class LabelerEnsemble:
    """Labelers that read the same images: generated once, read by all.

    `columns` says which of the scores, in the order they are read, are whose, by source; `width` is how many there are.
    """

    def __init__(self, labelers: list[Labeler]) -> None:
        self.labelers = labelers
        self.columns: dict[str, slice] = {}
        self.width = 0
        for labeler in labelers:
            self.columns[labeler.source] = slice(self.width, self.width + len(labeler.names))
            self.width += len(labeler.names)

    def read(self, images: "Tensor") -> "Tensor":
        """`(n, 3, h, w)` in [0, 1] → `(n, f)` of all labelers. Raises LabelerError, which says whose fault it is."""
        return self.scores(self.features(images))

    def features(self, images: "Tensor") -> "Tensor":
        """`(n, 3, h, w)` in [0, 1] → `(n, d)`: what is kept of images, of which `scores` makes all labelers' scores."""
        import torch

        return torch.cat([_checked(each, images, *_features_of(each)) for each in self.labelers], dim=1)

    def scores(self, features: "Tensor") -> "Tensor":
        """`(…, d)` features, or differences of them → `(…, f)`."""
        import torch

        labelers: list[Any] = self.labelers
        parts = features.split([_features_of(each)[1] for each in labelers], dim=-1)
        made = [each.scores(part) if _embeds(each) else part for each, part in zip(labelers, parts, strict=True)]
        return torch.cat(made, dim=-1)

    @property
    def features_width(self) -> int:
        """How wide the features are."""
        return sum(_features_of(each)[1] for each in self.labelers)

    @property
    def embedding(self) -> slice | None:
        """Where the embedding of the first labeler that has one is among the features; None where none has."""
        start = 0
        for each in self.labelers:
            width = _features_of(each)[1]
            if _embeds(each):
                return slice(start, start + width)
            start += width
        return None

    @property
    def read_as(self) -> list[object]:
        """What the features depend on: readings are kept under it."""
        return [
            [each.source, "features" if _embeds(each) else each.names, getattr(each, "digest", "")]
            for each in self.labelers
        ]


class AttributesPlugin:
    """Offers attribute models: `attributes:FOLDER` or `attributes:FILE`, by default the checkpoint's own folder `attributes`."""

    name = "attributes"

    def applies(self, checkpoint: Path) -> bool:
        return (checkpoint / "attributes" / "config.json").is_file()

    def open(self, argument: str | None, checkpoint: Path) -> Labeler:
        from eigenbank.builders.label.attributes import open_attributes

        return open_attributes(Path(argument).expanduser() if argument else checkpoint / "attributes")


class ClipPlugin:
    """Offers `clip:MODEL@REVISION#VOCABULARY:LANGUAGE`; each part may be left out, the model where the checkpoint has a folder
    `clip`. Used only when asked for.
    """

    name = "clip"

    def applies(self, _checkpoint: Path) -> bool:
        return False

    def open(self, argument: str | None, checkpoint: Path) -> Labeler:
        from eigenbank.builders.label.clip import open_clip

        return open_clip(argument, checkpoint / "clip")


class StatisticsPlugin:
    """Offers image statistics, by default on every checkpoint that has no attribute model of its own."""

    name = "statistics"

    def applies(self, checkpoint: Path) -> bool:
        return not ATTRIBUTES.applies(checkpoint)

    def open(self, _argument: str | None, _checkpoint: Path) -> Labeler:
        from eigenbank.builders.label.statistics import StatisticsLabeler

        return StatisticsLabeler()


ATTRIBUTES = AttributesPlugin()
CLIP = ClipPlugin()
STATISTICS = StatisticsPlugin()
