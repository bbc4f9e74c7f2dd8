"""The database's own account of how it answers: no search may look through a whole table."""

import dataclasses
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, get_args

import pytest
from sqlalchemy import event

from eigenbank.cli import search as cli
from eigenbank.registry.catalog import Catalog, Filters, Sort

from .made import label, manifest, quality
from .test_naive import going

SORTS = get_args(Sort)
FILTERS: list[dict[str, Any]] = [
    {"model": "acme/faces-3"},
    {"model": "acme/*"},
    {"denoiser": "UNet*"},
    {"licence": "mit"},
    {"location": "/sets/1*"},
    {"layer": "mid_block.attentions.0"},
    {"layer": "mid*"},
    {"kind": "spatial"},
    {"width": 64},
    {"recipe": "value"},
    {"rank": 1},
    {"min_eigenvalue": 9.0},
    {"min_eigenvalue": 1.0, "max_eigenvalue": 2.0},
    {"max_share": 0.2},
    {"source": "human"},
    {"source": "statistics", "min_confidence": 0.5},
    {"min_confidence": 0.9},
    {"labelled": True},
    {"labelled": False},
    {"recipe": "value", "rank": 3, "layer": "mid*"},
    {"min_gap": 0.05},
    {"min_effect": 1.9},
    {"min_selectivity": 0.9},
    {"min_consistency": 0.5, "min_linearity": 0.5},
    {"min_linearity": 0.99},
    {"min_locality": 0.9},
    {"max_drift": 0.01},
    {"composites": True},
    {"composites": False},
    {"composites": True, "min_selectivity": 0.5},
    {"composites": False, "source": "human"},
    {"composites": True, "model": "acme/*"},
    {"recipe": "*"},
]
TEXTS = ("smile", "smi", '"big smile"', "smile mid_block", "smile acme", "mid_block", "nothing")
SEARCHES: list[dict[str, Any]] = [
    *({"text": text, "sort": sort} for text in (None, *TEXTS) for sort in SORTS),
    *({"text": text, "sort": sort, **one} for text in (None, "smile") for sort in SORTS for one in FILTERS),
]


def test_every_filter_and_order_is_among_these() -> None:
    asked = {name for search in SEARCHES for name in search}
    assert asked | {"min_share"} == {field.name for field in dataclasses.fields(Filters)}
    assert set(SORTS) == set(cli.SORTS)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """More directions than are ever gathered at once without need, so that walks and merges are taken, too."""
    path = tmp_path_factory.mktemp("plans") / "catalog.db"
    with Catalog.open(path, shipped=False) as catalog:
        for number in range(6):
            texts = ("smile", "big smile", "smiling", "hair", "long hair")
            labels = {
                f"{layer}/value/{rank}": [label(texts[rank % 5], rank / 200), label("mine", None, "human:ann")]
                for layer in ("mid_block.attentions.0", "up.1")
                for rank in range(180)
            }
            composites = tuple(f"c{rank}" for rank in range(20))
            labels |= {f"composite/{name}": [label(texts[rank % 5], rank / 20)] for rank, name in enumerate(composites)}
            layers = ("mid_block.attentions.0", "up.1")
            qualities = {
                name: quality(
                    effect=rank / 100,
                    selectivity=rank / 200,
                    consistency=rank / 200,
                    linearity=rank / 200,
                    locality=rank / 200,
                    drift=rank / 100,
                )
                for rank, name in ((int(name.rpartition("/")[2].lstrip("c")), name) for name in labels)
            }
            told = {"labels": labels, "qualities": qualities, "composites": composites}
            one = manifest(f"acme/faces-{number}", layers=layers, ranks=200, **told)
            catalog.add_set(one, location=f"/sets/{number}", digest=str(number))
        yield catalog


def scans(catalog: Catalog, work: Any) -> list[str]:
    """The whole-table scans in the plans of all statements that some work executes."""
    seen: dict[str, Any] = {}

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, _many: bool) -> None:
        seen[statement] = values

    engine = catalog._database.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        work()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    found = []
    with catalog._database.reading() as connection:
        for statement, values in seen.items():
            if not statement.startswith(("SELECT", "WITH")):
                continue
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values):
                # Subqueries and lists of values have no index, and need none.
                scanned = re.match(r"SCAN (\w+)(?! USING)(?! VIRTUAL)", str(row[3]))
                if scanned and scanned[1] in TABLES:
                    found.append(f"{row[3]} in {' '.join(statement.split())}")
    return found


TABLES = {"checkpoints", "sets", "names", "layers", "recipes", "spectra", "directions", "texts", "protocols", "labels"}


def pages(catalog: Catalog, search: dict[str, Any]) -> None:
    """The first page and the next."""
    page = catalog.search(**search, limit=5)
    if page.cursor is not None:
        catalog.search(**search, limit=5, cursor=page.cursor)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("large", [False, True], ids=["gathered", "walked"])
def test_every_search_goes_by_an_index(filled: Catalog, sort: str, large: bool) -> None:
    """Also as in a catalog so large that nothing is gathered."""
    with going({"_FEW": 0, "_MOST": 0, "_FEW_LABELS": 0} if large else {}):
        wrong = {
            str(search): scans(filled, partial(pages, filled, search)) for search in SEARCHES if search["sort"] == sort
        }
    assert {search: found for search, found in wrong.items() if found} == {}


def test_a_direction_a_set_and_labels_are_found_by_an_index(filled: Catalog) -> None:
    def work() -> None:
        assert filled.get_direction("acme/faces-1#up.1/value/7") is not None
        assert filled.get_direction("acme/faces-1#composite/c7") is not None
        assert filled.get_set("acme/faces-1") is not None
        filled.sets_at("/nowhere")
        filled.label_texts("acme/faces-1")
        filled.label_counts("acme/faces-1")
        filled.recipe_slugs("acme/faces-1")
        filled.layer_names("acme/faces-1")

    assert scans(filled, work) == []
