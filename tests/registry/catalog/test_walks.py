"""Walks of many blocks, most of them without a row that fits, find what gathering finds: in every order, page by page."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine, select

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.catalog.judge import Ranges
from eigenbank.registry.catalog.models import DirectionTable
from eigenbank.registry.catalog.scope import FEW_VALUES, Bound

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


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_sets_are_told_by_their_directions_numbers(count: int) -> None:
    numbers = range(12 * count)
    found = [(12 * place + 2, 12 * place + 2 + 3 * (place % 3)) for place in range(count)]
    plain = [number for number in numbers if any(first <= number <= last for first, last in found)]
    ranges = Ranges(reversed(found))
    assert [number for number in numbers if ranges.holds(number)] == plain
    assert ranges.among(list(numbers)) == plain
    with create_engine("sqlite://").connect() as connection:
        connection.exec_driver_sql("CREATE TABLE directions (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO directions VALUES (?)", [(number,) for number in numbers])
        statement = select(DirectionTable.id).where(ranges.condition()).order_by(DirectionTable.id)
        assert list(connection.scalars(statement)) == plain


def test_a_short_range_is_all_numbers_from_end_to_end() -> None:
    assert Bound(DirectionTable.selectivity, 9_998, 10_000).values() == [9_998, 9_999, 10_000]
    assert Bound(DirectionTable.selectivity, 9_999).values() == [9_999, 10_000]
    assert Bound(DirectionTable.selectivity, high=1).values() == [0, 1]
    assert Bound(DirectionTable.selectivity, 0, FEW_VALUES).values() is None
    assert Bound(DirectionTable.effect, 9_999, 10_000).values() is None
    assert Bound(DirectionTable.selectivity, known=True).values() is None


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_each_text_is_held_against_the_places_of_the_terms_that_it_lacks(tmp_path: Path, way: dict[str, int]) -> None:
    # "smile" lacks what is in one model's id, "grin" what is in the other's: at its own, neither has both.
    first, other = "mid_block.attentions.0/value/0", "mid_block.attentions.0/value/1"
    with Catalog.open(tmp_path / "c.db", shipped=False) as catalog:
        catalog.add_set(manifest("acme/smile", {first: [label("smile", 0.9)]}), location="x", digest="x")
        both = {first: [label("grin", 0.8)], other: [label("smile", 0.7)]}
        catalog.add_set(manifest("acme/grin", both), location="y", digest="y")
        with going(way):
            assert [row.id for row in catalog.search("smile grin")] == [f"acme/grin#{other}"]
