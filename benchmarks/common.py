"""What the benchmarks have in common: where and with what was measured, results as files, spreads, and rows to compare."""

import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
Spread = dict[str, float]
"""The least, the median and the most of several runs."""
_MORE_IS_BETTER = ("per_second", "one_by_one", "imports.in bulk", "imports.from")


def about() -> dict[str, Any]:
    """Machine, versions, commit, load and date of a measurement. Where the sources lie without their history, or with
    another's, $EIGENBANK_COMMIT says the commit.
    """
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
    versions = {}
    for name in ("torch", "diffusers", "sqlalchemy", "pydantic"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "none"
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {processor()}", "accelerator": accelerator(), **versions,
        "python": platform.python_version(), "commit": os.environ.get("EIGENBANK_COMMIT") or commit.stdout.strip(), "load_before": os.getloadavg()[0],
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def save(path: Path, document: dict[str, Any]) -> None:
    """Write a benchmark's document. Raises KeyError where it does not say `about` what and where it was measured."""
    document["about"]["commit"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def accelerator() -> str | None:
    """The name of the GPU, None where there is none. Imports torch."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def processor() -> str:
    """The processor's name."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor()


def spread(values: Sequence[float]) -> Spread:
    """Least, median and most."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def rows(document: Any, name: str) -> Iterator[dict[str, Any]]:
    """Every spread in a benchmark's document, as a row: `name` with the way to it, min, median, max."""
    if isinstance(document, dict):
        if {"min", "median", "max"} <= document.keys():
            more = any(sign in name for sign in _MORE_IS_BETTER)
            yield {"name": name, **{key: document[key] for key in ("min", "median", "max")}, "more_is_better": more}
            return
        for key, value in document.items():
            yield from rows(value, f"{name}.{key}")
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from rows(value, f"{name}.{number}")


def slower(old: list[dict[str, Any]], new: list[dict[str, Any]], most: float = 1.1) -> list[tuple[str, float]]:
    """Which rows got worse, and how many times: the medians by more than `most`, and the runs do not overlap."""
    before = {row["name"]: row for row in old}
    found = []
    for row in new:
        was = before.get(row["name"])
        if was is None or min(was["median"], row["median"]) <= 0:
            continue
        if row["more_is_better"]:
            worse, apart = was["median"] / row["median"], row["max"] < was["min"]
        else:
            worse, apart = row["median"] / was["median"], row["min"] > was["max"]
        if worse > most and apart:
            found.append((row["name"], worse))
    return sorted(found, key=lambda each: -each[1])
