"""A small set to publish: real directions of a tiny checkpoint, some of them labelled, one with a preview."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub.fixtures import Client, Worker
from hub.sets import NOW, add_preview

from eigenbank.builders.build import build
from eigenbank.builders.checkpoints.folder import open_folder
from eigenbank.registry.sets.card import preview_name
from eigenbank.schemas import Label


@pytest.fixture(scope="session")
def published_set(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of `acme/faces`. Not to be changed."""
    folder = tmp_path_factory.mktemp("published") / "set"
    bank = build(open_folder(tiny_checkpoint), "acme/faces", top_k=3)
    first, second = list(bank)[:2]
    labels = {
        first.id: (Label(text="warm smile", source="human:ann", created=NOW),),
        second.id: (Label(text="age < 30", source="attribute-model:x", confidence=0.5, created=NOW),),
    }
    bank = bank.labelled(labels).save(folder)
    add_preview(folder, preview_name(first.record))
    return folder


@pytest.fixture
def set_folder(published_set: Path, tmp_path: Path) -> Path:
    """A copy of the set, to be changed."""
    return Path(shutil.copytree(published_set, tmp_path / "set"))


@pytest.fixture
def worker(client: Client) -> Iterator[Worker]:
    with Worker(client) as started:
        yield started
