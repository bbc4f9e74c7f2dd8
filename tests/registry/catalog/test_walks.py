"""Walks of many blocks, most of them without a row that fits, find what gathering finds: in every order, page by page."""

from pathlib import Path

import pytest

from eigenbank.registry.catalog import Catalog

from .made import label, manifest, quality
from .test_naive import ORDERS, WAYS, going

SEARCHES: list[dict[str, object]] = [
    {},
    {"text": "smile"},
    {"text": "faces"},  # by the names of sets alone
    {"text": "smile", "source": "human"},
    {"text": "faces", "source": "human"},
    {"text": "smile", "min_confidence": 0.5},
    {"text": "smile", "min_selectivity": 0.9},
    {"min_selectivity": 0.9},
    {"min_selectivity": 0.9, "max_drift": 0.5},
    {"model": "*/hats"},
    {"model": "a*s", "composites": True},
    {"model": "*/hats", "text": "smil"},
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty directions and six composites of three sets; every third has a label, every sixth is selective; ties in all numbers."""
    path = tmp_path_factory.mktemp("walks") / "c.db"
    layers = tuple(f"layer.{number}" for number in range(5))
    with Catalog.open(path, shipped=False) as catalog:
        for place, model_id in enumerate(("acme/faces", "acme/hats", "zoo/hats")):
            names = [f"{layer}/value/{rank}" for layer in layers for rank in range(4)] + ["composite/x", "composite/y"]
            labels, qualities = {}, {}
            for number, name in enumerate(names, start=place):
                if number % 3 == 0:
                    source = "human:ann" if number % 2 else "statistics"
                    labels[name] = [label(("smile", "smiling", "hat")[number // 6 % 3], number % 5 / 4, source)]
                if number % 2:
                    qualities[name] = quality(
                        selectivity=0.95 if number % 3 == 0 else 0.1 * (number % 4), drift=0.25 * (number % 4)
                    )
            told = {"labels": labels, "qualities": qualities, "composites": ("x", "y")}
            catalog.add_set(
                manifest(model_id, layers=layers, recipes=("value",), ranks=4, **told),  # type: ignore[arg-type]
                location=model_id,
                digest=str(place),
            )
    return path


def found(catalog: Catalog, asked: dict[str, object], sort: str, limit: int) -> list[str]:
    """The ids of all pages."""
    ids, cursor = [], None
    while True:
        page = catalog.search(sort=sort, limit=limit, cursor=cursor, **asked)  # type: ignore[arg-type]
        ids += [row.id for row in page]
        cursor = page.cursor
        if cursor is None:
            return ids


@pytest.mark.parametrize("asked", SEARCHES, ids=repr)
def test_a_walk_finds_what_gathering_finds(filled: Path, asked: dict[str, object]) -> None:
    with Catalog.open(filled, shipped=False) as catalog:
        for sort in ORDERS:
            expected = found(catalog, asked, sort, 1000)
            assert len(expected) == len(set(expected)) > 0
            for way in WAYS[1:]:
                with going(way):
                    assert found(catalog, asked, sort, 4) == expected, (sort, way)


def test_a_glob_means_the_models_it_matches(filled: Path) -> None:
    with Catalog.open(filled, shipped=False) as catalog:
        assert {row.model_id for row in catalog.search(model="*/hats")} == {"acme/hats", "zoo/hats"}
        assert {row.model_id for row in catalog.search(model="a*s", composites=True)} == {"acme/faces", "acme/hats"}
        assert len(catalog.search(model="*", composites=True)) == 6
        assert {row.model_id for row in catalog.search(model="*/h?ts", text="hat")} == {"acme/hats", "zoo/hats"}
