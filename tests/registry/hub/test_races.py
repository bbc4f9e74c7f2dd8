"""Publishers that race, and processes killed at random instants: every set ends up whole, and nobody is left in doubt."""

import json
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hub.fixtures import Client, Worker
from hub.server import Hub
from hub.sets import files_of, other_version
from hub.whole import check_home, check_hub

REPO = "me/faces-directions"


def label_of(hub: Hub) -> str:
    document = json.loads(hub.files(REPO)["manifest.json"])
    return str(document["directions"][0]["labels"][0]["text"])


def test_a_push_between_looking_and_committing_is_detected(published_set: Path, hub: Hub, worker: Worker) -> None:
    hub.fault("commit", "stale-parent", times=1)
    done = worker.run("publish", str(published_set), "--repo", REPO)
    assert done.code == 1
    assert "somebody pushed to me/faces-directions while this was being published" in done.err
    assert "nothing of theirs was lost" in done.err
    assert not check_hub(hub, REPO)
    assert "NOTES.md" in hub.files(REPO)
    refused = worker.run("publish", str(published_set), "--repo", REPO)
    assert refused.code == 1
    assert "holds no direction set but NOTES.md" in refused.err


def test_a_push_since_the_last_publish_is_detected(
    published_set: Path, tmp_path: Path, hub: Hub, worker: Worker, make_client: Callable[..., Client]
) -> None:
    assert worker.run("publish", str(published_set), "--repo", REPO).code == 0
    theirs = other_version(published_set, tmp_path / "theirs", "frown")
    assert make_client("other").run("publish", str(theirs), "--repo", REPO).returncode == 0
    mine = other_version(published_set, tmp_path / "mine", "grin")
    refused = worker.run("publish", str(mine), "--repo", REPO)
    assert refused.code == 1
    assert "somebody pushed to me/faces-directions since it was last published or pulled here" in refused.err
    assert label_of(hub) == "frown"
    head = hub.head(REPO).sha
    assert f"--parent {head}" in refused.err
    assert worker.run("publish", str(mine), "--repo", REPO, "--parent", "0" * 40).code == 1
    assert worker.run("publish", str(mine), "--repo", REPO, "--parent", head).code == 0
    assert label_of(hub) == "grin"
    assert hub.head(REPO).parent == head


PULL_WHERE_THE_CATALOG_FAILS = """
import sys
from eigenbank.registry.hub.pull import pull_set
from eigenbank.registry.catalog import Catalog
from eigenbank.schemas.errors import CatalogError

def fails(*_args, **_more):
    raise CatalogError("the disk is full")

Catalog.add_set = fails
try:
    pull_set(sys.argv[1], Catalog.open(), log=print)
except CatalogError:
    sys.exit(9)
"""


def test_what_a_failed_pull_downloaded_does_not_count_as_known(
    published_set: Path, tmp_path: Path, hub: Hub, make_client: Callable[..., Client]
) -> None:
    here, other = make_client("here"), make_client("other")
    assert here.run("publish", str(published_set), "--repo", REPO).returncode == 0
    theirs = other_version(published_set, tmp_path / "theirs", "frown")
    assert other.run("publish", str(theirs), "--repo", REPO).returncode == 0
    failed = here.python(PULL_WHERE_THE_CATALOG_FAILS, REPO)
    assert failed.returncode == 9, failed.stderr
    mine = other_version(published_set, tmp_path / "mine", "grin")
    assert "somebody pushed" in here.run("publish", str(mine), "--repo", REPO).stderr
    assert label_of(hub) == "frown"


def test_a_repository_of_something_else_is_left_alone(published_set: Path, hub: Hub, worker: Worker) -> None:
    hub.put("me/lora", {"lora.safetensors": b"weights", "README.md": "mine"})
    hub.put("me/other", files_of(published_set, "acme/other"))
    for repo, message in (("me/lora", "holds no direction set but lora.safetensors"), ("me/other", "of acme/other")):
        before = hub.head(repo).sha
        done = worker.run("publish", str(published_set), "--repo", repo)
        assert done.code == 1
        assert message in done.err
        assert hub.head(repo).sha == before


def race(hub: Hub, one: Worker, two: Worker, folders: tuple[Path, Path], repo: str) -> int:
    """Publish two versions at once; assert that what is there is whole and one of them. Returns how many were told."""
    import threading

    done: dict[int, int] = {}
    texts: dict[int, str] = {}

    def publish(number: int, worker: Worker) -> None:
        result = worker.run("publish", str(folders[number]), "--repo", repo)
        done[number], texts[number] = result.code, result.err

    threads = [threading.Thread(target=publish, args=(number, worker)) for number, worker in enumerate((one, two))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert check_hub(hub, repo)
    assert 0 in done.values(), texts
    for number, code in done.items():
        if code:
            assert "somebody pushed" in texts[number] or "made meanwhile" in texts[number], texts[number]
    label = json.loads(hub.files(repo)["manifest.json"])["directions"][0]["labels"][0]["text"]
    # Two successes came one after the other: the first is in the history. A loser's set is nowhere, and it was told.
    history = [commit for commit in hub.repo(repo).commits.values() if "manifest.json" in commit.files]
    assert len(history) == sum(code == 0 for code in done.values())
    winners = {number for number, code in done.items() if code == 0}
    assert label in {("warm smile", "frown")[number] for number in winners}
    return sum(code != 0 for code in done.values())


@pytest.mark.parametrize("times", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_two_publishers_racing_leave_a_whole_set_and_tell_the_loser(
    times: int, published_set: Path, tmp_path: Path, hub: Hub, make_client: Callable[..., Client]
) -> None:
    folders = published_set, other_version(published_set, tmp_path / "other", "frown")
    # Both look before either commits, so that every race has a loser.
    hub.fault("preupload", "slow", seconds=0.3)
    with Worker(make_client("one")) as one, Worker(make_client("two")) as two:
        told = sum(race(hub, one, two, folders, f"me/race-{number}") for number in range(times))
        for worker in (one, two):
            check_home(worker.client.home)
    assert told >= times // 2


def kill_at(client: Client, args: tuple[str, ...], seconds: float) -> bool:
    """Start a command and kill -9 it. Returns whether it was still running."""
    process = client.start("-m", "eigenbank", *args)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return True
    finally:
        process.kill()
        process.communicate()
    return False


@pytest.mark.parametrize("times", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_any_instant_all_is_whole_and_the_same_command_finishes(
    times: int, published_set: Path, hub: Hub, make_client: Callable[..., Client]
) -> None:
    chance = random.Random(7)
    # Every answer takes a moment, so that kills fall between and inside requests, not only before the first.
    hub.fault("*", "slow", seconds=0.03)
    publisher, reader = make_client("publisher"), make_client("reader", token=None)
    start = time.monotonic()
    assert publisher.run("publish", str(published_set), "--repo", "me/first").returncode == 0
    lasts = time.monotonic() - start
    killed = 0
    for number in range(times // 2):
        repo = f"me/killed-{number}"
        args = ("publish", str(published_set), "--repo", repo)
        killed += kill_at(publisher, args, chance.uniform(0.2, 1.0) * lasts)
        check_hub(hub, repo)
        check_home(publisher.home)
        if times <= 4 or number % 10 == 0:
            assert publisher.run(*args).returncode == 0
            assert check_hub(hub, repo)
    for number in range(times - times // 2):
        repo = f"me/read-{number}"
        hub.put(repo, files_of(published_set, f"acme/m{number}"))
        killed += kill_at(reader, ("pull", repo), chance.uniform(0.2, 1.0) * lasts)
        check_home(reader.home)
        if times <= 4 or number % 10 == 0:
            assert reader.run("pull", repo).returncode == 0
            assert (f"acme/m{number}", repo, hub.head(repo).sha) in check_home(reader.home)
    assert killed >= times // 4
