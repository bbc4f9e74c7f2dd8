"""Without the Hub: everything cached works, the rest fails at once with a clear word, and a cached copy is announced."""

import json
import shutil
from pathlib import Path

import pytest
from hub.fixtures import Client, Worker
from hub.server import Hub

REPO = "me/faces-directions"
LOAD = "import sys, eigenbank as eb\ntry: print(len(eb.load(sys.argv[1])))\nexcept eb.EigenbankError as error: sys.exit(str(error))"


@pytest.fixture
def published(published_set: Path, hub: Hub, worker: Worker) -> Hub:
    """A Hub that holds the set, and a client that has nothing."""
    assert worker.run("publish", str(published_set), "--repo", REPO).code == 0
    worker.empty()
    hub.forget()
    return hub


def test_offline_what_is_cached_works_and_the_rest_says_so(published: Hub, client: Client) -> None:
    refused = client.run("--offline", "pull", REPO)
    assert refused.returncode == 1
    assert "offline mode is on" in refused.stderr
    assert client.run("pull", REPO).returncode == 0
    published.forget()
    client.extra["HF_HUB_OFFLINE"] = "1"
    with Worker(client) as alone:
        for args in (["pull", REPO], ["pull", "acme/faces"], ["verify", "acme/faces"]):
            assert alone.run(*args).code == 0
        for args in (["sync"], ["publish", "acme/faces", "--repo", REPO]):
            done = alone.run(*args)
            assert done.code == 1
            assert "offline mode is on" in done.err
    assert client.python(LOAD, "acme/faces").returncode == 0
    nowhere = client.python(LOAD, "acme/other")
    assert "Offline mode is on, so the Hub was not asked. Build one: eigenbank build acme/other" in nowhere.stderr
    assert not published.requests


def test_a_set_in_the_cache_is_found_without_a_catalog(published: Hub, client: Client) -> None:
    assert client.run("pull", REPO).returncode == 0
    shutil.rmtree(client.home / "eigenbank")
    published.forget()
    client.extra["HF_HUB_OFFLINE"] = "1"
    found = client.python(LOAD, "acme/faces")
    assert found.returncode == 0, found.stderr
    assert "the copy in the Hub's cache" in found.stderr
    assert not published.requests


@pytest.mark.parametrize("fault", [{"action": "status", "status": 503}, {"action": "refuse"}], ids=["503", "refuse"])
def test_a_cached_copy_served_because_the_hub_is_down_is_announced(
    fault: dict[str, object], published: Hub, worker: Worker
) -> None:
    assert worker.run("pull", REPO).code == 0
    published.fault("*", **fault)  # type: ignore[arg-type]
    for name in (REPO, "acme/faces"):
        done = worker.run("pull", name)
        assert done.code == 0, done.err
        assert "The copy in the cache is used" in done.err
        assert "may not be the newest" in done.err


def test_a_hub_that_is_not_there_is_said_with_how_to_build(client: Client) -> None:
    client.extra["HF_ENDPOINT"] = "http://127.0.0.1:9"
    done = client.python(LOAD, "acme/faces")
    assert "The Hub was not of help" in done.stderr
    assert "Build one: eigenbank build acme/faces" in done.stderr


def test_load_says_how_to_build_when_nobody_has_a_set(hub: Hub, client: Client) -> None:
    done = client.python(LOAD, "acme/faces")
    assert "The Hub has none either. Build one: eigenbank build acme/faces" in done.stderr
    assert sum(hub.requests.values()) == 2


def test_of_several_the_most_downloaded_of_the_trusted_is_taken(published: Hub, hub: Hub, client: Client) -> None:
    files = hub.files(REPO)
    hub.put("stranger/popular", files, downloads=10_000)
    hub.put("friend/directions", files, downloads=5)
    hub.put("friend/better", files, downloads=50)
    client.extra["EIGENBANK_TRUST"] = "friend,other"
    done = client.run("pull", "acme/faces", "--format", "json")
    assert json.loads(done.stdout)[0]["repo"] == "friend/better"
    assert "taken from friend/better on the Hub (trusted; 50 downloads)" in done.stderr
    assert "stranger/popular" in done.stderr
    hub.put("acme/own", files, downloads=500)
    assert (
        "acme/faces"
        in client.python(
            "import eigenbank as eb; print(eb.load('acme/faces', repo='stranger/popular').model_id)"
        ).stdout
    )
    shutil.rmtree(client.home / "eigenbank")
    assert json.loads(client.run("pull", "acme/faces", "--format", "json").stdout)[0]["repo"] == "acme/own"
