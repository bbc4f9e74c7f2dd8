"""A checkpoint's own id is told by where it lies."""

from pathlib import Path

import pytest
from registry.catalog.made import manifest

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.local import checkpoint_id, sets_of_checkpoint


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("shipped:cartoon-faces-32", "eigenbank/cartoon-faces-32"),
        ("shipped:other", "local/shipped-other"),
        ("/data/my faces", "local/my-faces"),
        (f"/c/models--google--ddpm-celebahq-256/snapshots/{'a1' * 20}", "google/ddpm-celebahq-256"),
        ("/c/models--google--ddpm/snapshots/main", "local/main"),
    ],
)
def test_the_id_of_a_place(location: str, found: str) -> None:
    assert checkpoint_id(location) == found


def test_the_own_id_first_then_the_newest(tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "catalog.db", shipped=False) as catalog:
        for days, name in enumerate(("acme/old", "local/faces", "acme/new", "acme/newest")):
            catalog.add_set(manifest(name, days=days), location=name, digest=name, checkpoint_path="/data/faces")
        catalog.add_set(manifest("acme/other"), location="x", digest="x", checkpoint_path="/data/cats")
        found = [row.model_id for row in sets_of_checkpoint("/data/faces", catalog)]
    assert found == ["local/faces", "acme/newest", "acme/new", "acme/old"]
