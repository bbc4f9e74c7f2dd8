"""The labelers that ship, as plugins. Importing this imports no torch: a plugin is listed more often than opened."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eigenbank.builders.label.labeler import Labeler


class Attributes:
    """Offers attribute models: `attributes:FOLDER`, by default the checkpoint's own folder `attributes`."""

    name = "attributes"

    def applies(self, checkpoint: Path) -> bool:
        return (checkpoint / "attributes" / "config.json").is_file()

    def open(self, argument: str | None, checkpoint: Path) -> "Labeler":
        from eigenbank.builders.label.attributes import open_attributes

        return open_attributes(Path(argument).expanduser() if argument else checkpoint / "attributes")


class Clip:
    """Offers `clip:MODEL@REVISION#VOCABULARY:LANGUAGE`; each part may be left out. Never used unless asked for."""

    name = "clip"

    def applies(self, _checkpoint: Path) -> bool:
        return False

    def open(self, argument: str | None, _checkpoint: Path) -> "Labeler":
        from eigenbank.builders.label.clip import open_clip

        return open_clip(argument)


class Statistics:
    """Offers the statistics, on every checkpoint that has no attribute model of its own."""

    name = "statistics"

    def applies(self, checkpoint: Path) -> bool:
        return not (checkpoint / "attributes" / "config.json").is_file()

    def open(self, _argument: str | None, _checkpoint: Path) -> "Labeler":
        from eigenbank.builders.label.statistics import Statistics as Labeler

        return Labeler()


ATTRIBUTES = Attributes()
CLIP = Clip()
STATISTICS = Statistics()
