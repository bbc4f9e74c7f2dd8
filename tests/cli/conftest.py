"""Fixtures of the command line's tests."""

from pathlib import Path

import pytest

import eigenbank as eb
from eigenbank.registry.local import store

_BUILT: list[eb.DirectionSet] = []


@pytest.fixture
def built(tiny_checkpoint: Path) -> str:
    """The model id of the tiny checkpoint, whose set, two directions a layer and recipe, is in the catalog."""
    if not _BUILT:  # in memory; not a fixture of the session, which would see this user's own catalog
        _BUILT.append(eb.build(str(tiny_checkpoint), model_id="acme/tiny", top_k=2))
    store(_BUILT[0], checkpoint=tiny_checkpoint)
    return "acme/tiny"
