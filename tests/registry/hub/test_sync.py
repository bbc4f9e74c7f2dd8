"""The catalog follows what is published: by manifests, incrementally, without ever replacing what was built here."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub.fixtures import Client, Done, Worker
from hub.server import Hub
from hub.sets import files_of, other_version

REPO = "me/faces-directions"


def rows(done: Done) -> dict[str, str]:
    assert done.code == 0, done.err
    return {row["repo"]: row["outcome"] for row in json.loads(done.out)}


def test_entries_come_without_tensors_and_tensors_when_loaded(published_set: Path, hub: Hub, client: Client) -> None:
    hub.put(REPO, files_of(published_set))
    assert client.run("sync").returncode == 0
    assert hub.served["get"] < 100_000
    assert not list(client.home.rglob("directions.safetensors"))
    found = client.run("search", "smile", "--model", "acme/faces", "--format", "json")
    assert [row["location"] for row in json.loads(found.stdout)] == [f"hub:{REPO}@{hub.head(REPO).sha}"]
    assert json.loads(client.run("verify", "acme/faces", "--format", "json").stdout)[0]["status"] == "remote"
    load = "import eigenbank as eb; print(len(eb.load('acme/faces')))"
    assert "fetching me/faces-directions@" in client.python(load).stderr
    assert list(client.home.rglob("directions.safetensors"))
    assert client.python(load).stderr == ""


def test_a_hundred_unchanged_repositories_cost_one_listing(published_set: Path, hub: Hub, worker: Worker) -> None:
    card = {"README.md": files_of(published_set)["README.md"]}
    for number in range(100):
        # A hundred repositories, three of which hold a set worth fetching: the others are what a hub is full of.
        name = f"org{number % 7}/set-{number}"
        hub.put(name, files_of(published_set, f"acme/m{number}") if number < 3 else card)
    first = rows(worker.run("sync", "--format", "json"))
    assert sum(outcome == "added" for outcome in first.values()) == 3
    assert sum(outcome == "refused" for outcome in first.values()) == 97
    hub.forget()
    again = worker.run("sync", "--format", "json")
    assert rows(again) == {}
    assert "100 published sets: 100 unchanged" in again.err
    assert dict(hub.requests) == {"list": 1}


def test_only_what_changed_is_asked_for(published_set: Path, tmp_path: Path, hub: Hub, worker: Worker) -> None:
    for number in range(5):
        hub.put(f"org/set-{number}", files_of(published_set, f"acme/m{number}"))
    assert set(rows(worker.run("sync", "--format", "json")).values()) == {"added"}
    hub.put("org/set-3", files_of(other_version(published_set, tmp_path / "other", "frown"), "acme/m3"))
    hub.forget()
    assert rows(worker.run("sync", "--format", "json")) == {"org/set-3": "updated"}
    assert hub.requests["info"] == 1
    found = json.loads(worker.run("search", "frown", "--format", "json").out)
    assert {row["model"] for row in found} == {"acme/m3"}


def test_a_set_built_here_is_kept(tiny_checkpoint: Path, published_set: Path, hub: Hub, client: Client) -> None:
    assert client.run("build", str(tiny_checkpoint), "--model-id", "acme/faces", "--top-k", "2").returncode == 0
    hub.put(REPO, files_of(published_set))
    done = client.run("sync", "--format", "json")
    (row,) = json.loads(done.stdout)
    assert row["outcome"] == "kept"
    assert f"eigenbank pull {REPO}" in row["reason"]
    assert json.loads(client.run("sync", "--format", "json").stdout) == []


def test_an_author_or_an_index_narrows_it(published_set: Path, hub: Hub, worker: Worker) -> None:
    heads = {}
    for number, owner in enumerate(("ann", "bob", "bob")):
        name = f"{owner}/set-{number}"
        heads[name] = hub.put(name, files_of(published_set, f"acme/m{number}"))
    index = {"format": 1, "sets": [{"repo": "bob/set-1", "commit": heads["bob/set-1"], "base": "acme/m1"}]}
    hub.put("cur/ated", {"index.json": json.dumps(index)}, kind="datasets")
    assert rows(worker.run("sync", "--index", "cur/ated", "--format", "json")) == {"bob/set-1": "added"}
    assert rows(worker.run("sync", "--author", "bob", "--format", "json")) == {"bob/set-2": "added"}
    hub.put("cur/ated", {"index.json": '{"format": 1, "sets": [{"repo": "../x", "commit": "0"}]}'}, kind="datasets")
    broken = worker.run("sync", "--index", "cur/ated")
    assert broken.code == 1
    assert "is no index of format 1: sets.0" in broken.err


def test_verify_finds_and_repairs_what_changed_on_disk(
    published_set: Path, hub: Hub, worker: Worker, make_client: Callable[..., Client]
) -> None:
    hub.put(REPO, files_of(published_set))
    assert worker.run("pull", REPO).code == 0
    assert worker.run("verify", "acme/faces").code == 0
    (vectors,) = worker.client.home.rglob("directions.safetensors")
    data = bytearray(vectors.read_bytes())
    data[-1] ^= 1
    vectors.resolve().write_bytes(data)
    damaged = worker.run("verify", "--files")
    assert damaged.code == 1
    assert "sha256" in damaged.out
    assert "--repair" in damaged.err
    repaired = worker.run("verify", "acme/faces", "--repair", "--format", "json")
    assert repaired.code == 0, repaired.err
    assert json.loads(repaired.out)[0]["status"] == "repaired"
    assert worker.run("verify", "--files").code == 0
    assert list((worker.client.home / "eigenbank" / "quarantine").iterdir())
    assert vectors.read_bytes() == (published_set / "directions.safetensors").read_bytes()


def test_a_set_of_ones_own_is_repaired_from_where_it_was_published(
    tiny_checkpoint: Path, hub: Hub, client: Client
) -> None:
    build = ("build", str(tiny_checkpoint), "--model-id", "acme/faces", "--top-k", "2")
    assert client.run(*build).returncode == 0
    (vectors,) = (client.home / "eigenbank" / "sets").rglob("directions.safetensors")
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:-1])
    lost = client.run("verify", "acme/faces", "--repair")
    assert lost.returncode == 1
    assert "never published" in lost.stdout
    vectors.write_bytes(whole)
    assert client.run("publish", "acme/faces", "--repo", REPO).returncode == 0
    vectors.write_bytes(whole[:-1])
    mended = client.run("verify", "acme/faces", "--repair")
    assert mended.returncode == 0, mended.stderr
    assert client.run("verify", "acme/faces").returncode == 0


PASSING: dict[str, tuple[str, dict[str, Any]]] = {
    "401": ("info", {"action": "status", "status": 401}),
    "403": ("info", {"action": "status", "status": 403}),
    "404": ("info", {"action": "status", "status": 404, "code": "RepoNotFound"}),
    "gated": ("head", {"action": "status", "status": 403, "code": "GatedRepo"}),
    "forbidden file": ("head", {"action": "status", "status": 403}),
    "no such file": ("head", {"action": "status", "status": 404, "code": "EntryNotFound"}),
    "corrupt body": ("get", {"action": "other-bytes"}),
    "failing": ("info", {"action": "status", "status": 500}),
    "endless answer": (
        "info",
        {"action": "garbled", "garble": lambda body: body[:-1] + b" " * (33 * 2**20) + body[-1:]},
    ),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_could_not_be_read_this_time_is_tried_again(
    name: str, published_set: Path, hub: Hub, worker: Worker
) -> None:
    hub.put("bad/set", files_of(published_set, "acme/bad"))
    hub.put("good/set", files_of(published_set, "acme/good"))
    kind, fault = PASSING[name]
    hub.fault(kind, times=1, path="manifest.json" if kind in ("head", "get") else "*", **fault)
    first = worker.run("sync", "--format", "json")
    outcomes = [row["outcome"] for row in json.loads(first.out)]
    assert first.code == 1, first.err
    assert sorted(outcomes) == ["added", "failed"]
    assert "run it again" in first.err
    hub.mend()
    assert list(rows(worker.run("sync", "--format", "json")).values()) == ["added"]
    assert rows(worker.run("sync", "--format", "json")) == {}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder that cannot be written to")
def test_a_cache_that_cannot_be_written_to_is_no_refusal(published_set: Path, hub: Hub, client: Client) -> None:
    hub.put(REPO, files_of(published_set))
    cache = client.home / "readonly"
    cache.mkdir(mode=0o500)
    client.extra["HF_HUB_CACHE"] = str(cache / "hub")
    assert client.run("sync").returncode == 1
    cache.chmod(0o700)
    assert json.loads(client.run("sync", "--format", "json").stdout)[0]["outcome"] == "added"


def test_a_hub_that_does_not_answer_ends_a_sync(published_set: Path, hub: Hub, worker: Worker) -> None:
    for number in range(5):
        hub.put(f"org/set-{number}", files_of(published_set, f"acme/m{number}"))
    hub.fault("info", "status", status=500)
    done = worker.run("sync")
    assert done.code == 1
    assert "did not answer for 3 repositories in a row" in done.err
    assert hub.requests["info"] == 3


def test_a_private_or_gated_set_asks_for_a_login_and_a_revision_for_a_revision(
    published_set: Path, hub: Hub, make_client: Callable[..., Client]
) -> None:
    hub.put("me/secret", files_of(published_set), private=True)
    hub.put("me/gated", files_of(published_set, "acme/gated"))
    hub.repo("me/gated").gated = True
    hub.put("me/open", files_of(published_set, "acme/open"))
    stranger = make_client("stranger", token=None)
    for name in ("me/secret", "me/gated", "acme/gated"):
        done = stranger.run("pull", name)
        assert done.returncode == 1
        assert "log in: hf auth login" in done.stderr
        assert "Traceback" not in done.stderr
    for name in ("me/open", "acme/open"):
        done = stranger.run("pull", name, "--revision", "v9")
        assert done.returncode == 1
        assert "no such revision" in done.stderr
        assert "no repository of that name" not in done.stderr
