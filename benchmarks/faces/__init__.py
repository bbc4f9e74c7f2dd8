"""Cartoon faces of 32×32 with eleven known factors: renderer, training, and the checkpoint with its labelled set.

Benchmarks measure on them, and tests draw with them, for they take no prompt and next to no time.
"""

from pathlib import Path

MODEL_ID = "eigenbank/cartoon-faces-32"
FOLDER = Path(__file__).parent.parent / "checkpoints" / "cartoon-faces-32"
SET = FOLDER / "directions"


def add_to_catalog(path: Path) -> None:
    """Add the set and its checkpoint to a catalog, so that `MODEL_ID` means them there."""
    from eigenbank.registry.catalog.catalog import Catalog
    from eigenbank.registry.local import add_folders

    path.parent.mkdir(parents=True, exist_ok=True)
    with Catalog.open(path) as catalog:
        add_folders(catalog, [SET], checkpoint=FOLDER)
