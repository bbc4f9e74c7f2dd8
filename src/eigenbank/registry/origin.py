"""Which of the sets that were computed from one checkpoint is meant by its folder."""

import re
from pathlib import PurePath

from eigenbank.registry.catalog import Catalog, SetRow
from eigenbank.registry.paths import file_name
from eigenbank.registry.sets.bundled import shipped_id

_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)[/\\]snapshots[/\\][0-9a-f]{40}$", re.ASCII)
"""The folder of a checkpoint in the Hub's cache."""


def own_id(location: str) -> str:
    """The model id that a checkpoint has by where it lies: that of what ships, of the Hub's repository, or `local/NAME`."""
    cached = _CACHED.search(location)
    if cached:
        return f"{cached[1]}/{cached[2]}"
    return shipped_id(location) or f"local/{file_name(PurePath(location).name)}"


def sets_of(location: str, catalog: Catalog) -> list[SetRow]:
    """The sets that were computed from the checkpoint at a catalog's location: that of its own id first, then the newest."""
    own = own_id(location)
    return sorted(catalog.sets_at(location), key=lambda row: row.model_id != own)
