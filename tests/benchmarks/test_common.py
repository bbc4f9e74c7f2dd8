"""What got slower is told from what only jitters."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

# By its path: as a folder of modules, benchmarks/ would hide tests' own, such as `gallery` and `play`.
_SPEC = importlib.util.spec_from_file_location("common", Path(__file__).parents[2] / "benchmarks" / "common.py")
assert _SPEC is not None
assert _SPEC.loader is not None
common = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(common)
rows, slower, spread = common.rows, common.slower, common.spread


def row(name: str, *values: float, more: bool = False) -> dict[str, Any]:
    return {"name": name, **spread(values), "more_is_better": more}


def test_every_spread_of_a_document_is_a_row_with_the_way_to_it() -> None:
    document = {
        "a": {"seconds": spread([3.0, 1.0, 2.0])},
        "list": [{"rate_per_second": spread([5.0])}],
        "note": "x",
        "n": 4,
    }
    assert list(rows(document, "bench")) == [
        {"name": "bench.a.seconds", "min": 1.0, "median": 2.0, "max": 3.0, "more_is_better": False},
        {"name": "bench.list.0.rate_per_second", "min": 5.0, "median": 5.0, "max": 5.0, "more_is_better": True},
    ]


def test_only_what_is_worse_beyond_its_own_spread_is_told() -> None:
    old = [row("a", 1.0, 1.1), row("jitter", 1.0, 1.5), row("rate", 100.0, 110.0, more=True), row("gone", 1.0)]
    new = [row("a", 2.1, 2.1), row("jitter", 1.4, 1.9), row("rate", 50.0, 60.0, more=True), row("new", 9.0)]
    found = slower(old, new)
    assert [name for name, _ in found] == ["a", "rate"]
    assert found[0][1] == 2.0
    assert slower(new, new) == []
    assert slower(new, old) == []


def test_results_that_do_not_say_where_they_are_from_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "results" / "one.json"
    with pytest.raises(KeyError):
        common.save(path, {"seconds": 1.0})
    assert not path.exists()
    common.save(path, {"about": common.about(), "seconds": 1.0})
    assert json.loads(path.read_text(encoding="utf-8"))["about"]["python"]
