"""A catalog of a test's own, without what ships."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from eigenbank.registry.catalog import Catalog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


@pytest.fixture
def catalog(path: Path) -> Iterator[Catalog]:
    with Catalog.open(path, shipped=False) as opened:
        yield opened
