"""Search results against a plain scan over everything, on random catalogs."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenbank.registry.catalog import Catalog, DirectionRow, search
from eigenbank.registry.ranking import Level, Query
from eigenbank.schemas import Label, Manifest

from .made import label, manifest, quality

WORDS = ["smile", "smiling", "long", "hair", "Größe", "mid", "acme", "x"]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
LABELS = st.builds(
    label,
    TEXTS,
    st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from(["statistics", "human:ann", "clip:x@1"]),
)
SIZES = st.none() | st.sampled_from([0.0, 0.5, 1.25, 1e6])
RATES = st.none() | st.sampled_from([0.0, 0.3333, 0.57, 1.0])
QUALITIES = st.builds(
    quality,
    source=st.sampled_from(["statistics", "clip:x@1"]),
    effect=SIZES,
    selectivity=RATES,
    consistency=RATES,
    linearity=RATES,
    recommended_range=st.none() | st.sampled_from([(-2.0, 2.0), (0.0, 0.5)]),
    locality=RATES,
    drift=SIZES,
    scale=st.sampled_from([0.1, 2.0]),
    seeds=st.lists(st.integers(0, 3), max_size=2).map(tuple),
)
LAYERS = ["mid_block.attentions.0", "up.smile", "x"]
COMPOSITES = ["smile", "x", "hair-length"]
QUERIES = st.lists(st.sampled_from([*WORDS, "sm", "h", '"long hair"', '"smil"', "mid_block", "groß", "0"]), max_size=3)


@st.composite
def manifests(draw: st.DrawFn) -> list[Manifest]:
    sets = []
    for model_id in draw(st.lists(st.sampled_from(["acme/faces", "acme/smile", "hair"]), unique=True, max_size=3)):
        layers = draw(st.lists(st.sampled_from(LAYERS), unique=True, min_size=1))
        names = [f"{layer}/value/{rank}" for layer in layers for rank in range(3)]
        composites = tuple(draw(st.lists(st.sampled_from(COMPOSITES), unique=True)))
        names += [f"composite/{name}" for name in composites]
        labels = draw(st.dictionaries(st.sampled_from(names), st.lists(LABELS, max_size=4)))
        qualities = draw(st.dictionaries(st.sampled_from(names), QUALITIES))
        told = {"labels": labels, "qualities": qualities, "composites": composites}
        sets.append(manifest(model_id, layers=tuple(layers), recipes=("value",), **told))
    return sets


def best(row: DirectionRow, query: str, source: str | None, floor: float | None) -> tuple[float, float] | None:
    """The direction's place by the rules of `ranking`; None where it does not match."""

    def passes(item: Label) -> bool:
        if source is not None and item.source.partition(":")[0] != source:
            return False
        return floor is None or (item.confidence is not None and item.confidence >= floor)

    passing = [(item.text, item.worth) for item in row.labels if passes(item)]
    if not passing and (source is not None or floor is not None):
        return None
    level, worth = Query.parse(query).rank(passing, [row.layer or row.composite or "", row.model_id])
    return None if level == Level.NONE else (-level, -worth)


def at_least(name: str, low: float) -> Callable[[DirectionRow], bool]:
    """What a filter asks of the quality: unknown is not enough."""

    def fits(row: DirectionRow) -> bool:
        value = None if row.quality is None else getattr(row.quality, name)
        return value is not None and bool(value >= low)

    return fits


def low_drift(row: DirectionRow) -> bool:
    return row.quality is not None and row.quality.drift is not None and row.quality.drift <= 0.50001


FILTERS: list[tuple[dict[str, object], Callable[[DirectionRow], bool]]] = [
    ({}, lambda row: True),
    ({"model": "acme/*"}, lambda row: row.model_id.startswith("acme/")),
    ({"layer": "*mi*"}, lambda row: row.layer is not None and "mi" in row.layer),
    ({"layer": "*"}, lambda row: row.layer is not None),
    ({"recipe": "**"}, lambda row: row.recipe is not None),
    ({"kind": "*"}, lambda row: row.kind is not None),
    ({"composites": True}, lambda row: row.composite is not None),
    ({"composites": False}, lambda row: row.composite is None),
    ({"composites": True, "model": "acme/*"}, lambda row: row.composite is not None and row.model_id[0] == "a"),
    ({"composites": True, "rank": 0}, lambda row: False),
    ({"composites": True, "layer": "*"}, lambda row: False),
    (
        {"composites": True, "min_selectivity": 0.3333},
        lambda row: row.rank is None and at_least("selectivity", 0.3333)(row),
    ),
    ({"width": 128}, lambda row: row.width == 128),
    ({"rank": 1}, lambda row: row.rank == 1),
    ({"min_eigenvalue": 5.0, "max_eigenvalue": 10.0}, lambda row: 5 <= (row.eigenvalue or 0) <= 10),
    ({"max_share": 0.2}, lambda row: row.share is not None and row.share <= 0.2),
    ({"labelled": True}, lambda row: bool(row.labels)),
    ({"labelled": False, "rank": 2}, lambda row: not row.labels and row.rank == 2),
    ({"min_gap": 0.1}, lambda row: row.gap is not None and row.gap >= 0.1),
    *(
        ({f"min_{name}": low}, at_least(name, low))
        for name, low in (
            ("effect", 0.5),
            ("selectivity", 0.33335),
            ("consistency", 0.57),
            ("linearity", 0.0),
            ("locality", 0.33325),
            ("effect", 1e300),
        )
    ),
    ({"max_drift": 0.50001}, low_drift),
    (
        {"min_consistency": 0.3333, "max_drift": 0.50001, "rank": 0},
        lambda row: row.rank == 0 and at_least("consistency", 0.3333)(row) and low_drift(row),
    ),
]


def by(name: str, sign: int) -> Callable[[DirectionRow], tuple[object, ...]]:
    """The order of what a quality, or the row itself, says; unknown comes last."""

    def key(row: DirectionRow) -> tuple[object, ...]:
        value = getattr(row.quality, name, None) if name != "gap" else row.gap
        return value is None, sign * (value or 0)

    return key


ORDERS: dict[str, Callable[[DirectionRow], tuple[object, ...]]] = {
    "match": lambda row: (),
    "catalog": lambda row: (),
    "eigenvalue": lambda row: (row.eigenvalue is None, -(row.eigenvalue or 0)),
    "share": lambda row: (row.share is None, -(row.share or 0)),
    "rank": lambda row: (row.rank is None, row.rank or 0),
    "confidence": lambda row: (row.confidence is None, -(row.confidence or 0)),
    **{name: by(name, -1) for name in ("gap", "effect", "selectivity", "consistency", "linearity", "locality")},
    "drift": by("drift", 1),
}
FEW = [search.FEW, 0]
"""Up to so many are sorted: all, as in a small catalog; or none, as on a walk through a large one."""


@settings(max_examples=60)
@given(
    manifests(),
    st.lists(
        st.tuples(
            st.sampled_from(["smile", "sm", "hair", "smile hair", "smile acme", "smile x"]) | QUERIES.map(" ".join),
            st.none() | st.sampled_from(["human", "statistics"]),
            st.none() | st.sampled_from([0.0, 0.4, 1.0]),
            st.sampled_from(FILTERS),
            st.sampled_from(["match"] * 5 + list(ORDERS)),
            st.sampled_from(FEW),
            st.integers(1, 4),
        ),
        min_size=1,
        max_size=10,
    ),
)
def test_a_search_finds_what_a_plain_scan_finds_in_the_same_order(
    sets: list[Manifest], searches: list[tuple[Any, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as folder, Catalog.open(Path(folder) / "c.db", shipped=False) as catalog:
        for index, one in enumerate(sets):
            catalog.add_set(one, location=str(index), digest=str(index))
        rows = [row for name in (one.checkpoint.model_id for one in sets) for row in catalog.search(model=name)]
        assert [row.id for row in rows] == [f"{one.checkpoint.model_id}#{d.id}" for one in sets for d in one.sliders]
        for query, source, floor, (filters, fits), sort, few, limit in searches:
            keys = {}
            for index, row in enumerate(rows):
                if query.strip():
                    key = best(row, query, source, floor)
                else:
                    key = (0.0, 0.0) if has_label(row, source, floor) else None
                if key is not None and fits(row):
                    keys[index] = (key if sort == "match" else ORDERS[sort](row), index)
            expected = [rows[index].id for index in sorted(keys, key=keys.__getitem__)]
            got, cursor = [], None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(search, "FEW", few)
                while True:
                    page = catalog.search(
                        query, source=source, min_confidence=floor, sort=sort, limit=limit, cursor=cursor, **filters
                    )
                    got += [row.id for row in page]
                    cursor = page.cursor
                    if cursor is None:
                        break
            assert got == expected, (query, source, floor, filters, sort, few)


def has_label(row: DirectionRow, source: str | None, floor: float | None) -> bool:
    """Whether a label of the source has at least that confidence, where one is asked for."""
    return (source is None and floor is None) or any(
        (source is None or item.source.partition(":")[0] == source)
        and (floor is None or (item.confidence is not None and item.confidence >= floor))
        for item in row.labels
    )
