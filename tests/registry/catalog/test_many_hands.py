"""Many processes on one catalog, and processes that are killed."""

import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.catalog.care import verify

from .made import label, manifest

if sys.platform == "win32":
    pytest.skip("processes are forked", allow_module_level=True)
FORK = multiprocessing.get_context("fork")
MID = "mid_block.attentions.0/value/0"


def work(path: Path, number: int, until: float, results: Any) -> None:
    """Write and read until a time; report what was written, or what went wrong."""
    rng = random.Random(number)
    sets, labels = [], 0
    try:
        # At least one of each, however slow the machine is.
        while time.time() < until or not sets or not labels:
            with Catalog.open(path, shipped=False) as catalog:
                for _ in range(rng.randrange(1, 6)):
                    choice = rng.random()
                    if choice < 0.3:
                        name = f"writer/{number}-{len(sets)}"
                        catalog.add_set(manifest(name, {MID: [label("smile", 0.5)]}), location="/x", digest="x")
                        sets.append(name)
                    elif choice < 0.6:
                        catalog.add_labels([f"shared/faces#{MID}"], label(f"word {labels}", source=f"human:{number}"))
                        labels += 1
                    elif choice < 0.8:
                        assert len(catalog.search("smile", limit=20)) >= 1
                    else:
                        assert catalog.get_direction(f"shared/faces#{MID}") is not None
        results.put((number, sets, labels, None))
    except BaseException as error:
        results.put((number, sets, labels, f"{type(error).__name__}: {error}"))


def soak(path: Path, seconds: float) -> int:
    """Sixteen processes at one catalog for so long; assert that nothing is lost. Returns how much they wrote."""
    with Catalog.open(path, shipped=False) as catalog:
        catalog.add_set(manifest("shared/faces", {MID: [label("smile", 0.5)]}), location="/x", digest="x")
    results = FORK.Queue()
    until = time.time() + seconds
    writers = [FORK.Process(target=work, args=(path, number, until, results)) for number in range(16)]
    for writer in writers:
        writer.start()
    reports = [results.get(timeout=seconds + 120) for _ in writers]
    for writer in writers:
        writer.join()
    assert [report[3] for report in reports if report[3]] == []
    with Catalog.open(path, shipped=False) as catalog:
        names = {name for report in reports for name in report[1]}
        assert set(catalog.model_ids()) == names | {"shared/faces"}
        assert len(names) >= 16
        row = catalog.get_direction(f"shared/faces#{MID}")
        assert row is not None
        expected = {(f"word {item}", f"human:{number}") for number, _, count, _ in reports for item in range(count)}
        assert {(item.text, item.source) for item in row.labels} == expected | {("smile", "statistics")}
        assert verify(catalog) == []
    return len(names) + len(expected)


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_sixteen_processes_lose_nothing_and_are_never_locked_out(path: Path, seconds: float) -> None:
    assert soak(path, seconds) >= 32


def test_sixteen_processes_may_make_the_catalog_at_once(path: Path) -> None:
    results = FORK.Queue()

    def begin(number: int) -> None:
        with Catalog.open(path, shipped=False) as catalog:
            catalog.add_set(manifest(f"writer/{number}"), location="/x", digest="x")
        results.put(number)

    writers = [FORK.Process(target=begin, args=(number,)) for number in range(16)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 16
    with Catalog.open(path, shipped=False) as catalog:
        assert len(catalog.model_ids()) == 16
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


OLD, NEW = (
    manifest("acme/faces", {MID: [label(word, 0.5)]}, ranks=ranks) for word, ranks in (("old", 40), ("new", 60))
)


def flicker(path: Path) -> None:
    """Replace one set by another, and label it, for ever."""
    with Catalog.open(path, shipped=False) as catalog:
        number = 0
        while True:
            number += 1
            catalog.add_set(NEW if number % 2 else OLD, location="/x", digest=str(number))
            catalog.add_labels([f"acme/faces#{MID}"], label(f"word {number}", source="human:ann"))


@pytest.mark.parametrize("times", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_the_old_state_or_the_new(path: Path, times: int) -> None:
    rng = random.Random(1)
    with Catalog.open(path, shipped=False) as catalog:
        catalog.add_set(OLD, location="/x", digest="0")
    for _ in range(times):
        writer = FORK.Process(target=flicker, args=(path,))
        writer.start()
        time.sleep(rng.uniform(0.0, 0.25))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        with Catalog.open(path, shipped=False) as catalog:
            assert verify(catalog) == []
            (row,) = catalog.sets()
            direction = catalog.get_direction(f"acme/faces#{MID}")
            assert direction is not None
            (found,) = [item.text for item in direction.labels if item.source == "statistics"]
            assert row.directions == {"old": 160, "new": 240}[found]


def create(path: Path) -> None:
    with Catalog.open(path, shipped=False) as catalog:
        catalog.reindex()


def test_a_killed_creation_leaves_nothing_or_a_catalog(path: Path) -> None:
    rng = random.Random(2)
    for _ in range(8):
        path.unlink(missing_ok=True)
        maker = FORK.Process(target=create, args=(path,))
        maker.start()
        time.sleep(rng.uniform(0.0, 0.05))
        assert maker.pid is not None
        os.kill(maker.pid, signal.SIGKILL)
        maker.join()
        with Catalog.open(path, shipped=False) as catalog:
            assert catalog.model_ids() == []
        create(path)
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_reader_is_not_held_up_by_a_writer(path: Path) -> None:
    with Catalog.open(path, shipped=False) as catalog:
        catalog.add_set(OLD, location="/x", digest="0")
        plain = sqlite3.connect(path, isolation_level=None)
        plain.execute("BEGIN IMMEDIATE")
        plain.execute("DELETE FROM labels")
        assert len(catalog.search("old")) == 1
        plain.execute("ROLLBACK")
        plain.close()


def test_threads_share_one_catalog_that_is_not_there_yet(tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "catalog.db") as catalog, ThreadPoolExecutor(8) as pool:

        def turn(number: int) -> int:
            if number % 4 == 0:
                given = {MID: [label("threaded", 0.5)]}
                catalog.add_set(manifest(f"acme/{number}", given), location="/x", digest=f"{number}")
            return len(catalog.search("hair").rows) + len(catalog.sets())

        assert min(pool.map(turn, range(64))) > 1
        assert len(catalog.search("threaded").rows) == 16
