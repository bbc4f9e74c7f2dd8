"""What the loaders' tests share: the tiny checkpoint's pipeline, and its directions, built and calibrated once."""

from pathlib import Path
from typing import Any

import pytest

import eigenbank as eb
from eigenbank.loaders.lengths import measure
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.registry.local import store


@pytest.fixture
def pipe(tiny_checkpoint: Path) -> Any:
    """A pipeline of the test's own."""
    return open_pipeline(tiny_checkpoint)


@pytest.fixture(scope="session")
def tiny_set(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> eb.DirectionSet:
    """Three directions for each layer and side, as acme/tiny, calibrated and in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EIGENBANK_HOME", str(tmp_path_factory.mktemp("home")))
        recipes = ["output-value", "output-value:output"]
        made = eb.build(str(tiny_checkpoint), recipes=recipes, top_k=3, model_id="acme/tiny")
    return measure(open_pipeline(tiny_checkpoint), made)


@pytest.fixture
def kept(tiny_set: eb.DirectionSet, tiny_checkpoint: Path, home: Path) -> eb.DirectionSet:
    """The same set, stored at the test's home and in its catalog."""
    return store(tiny_set, checkpoint=tiny_checkpoint)
