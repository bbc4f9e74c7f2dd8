"""Every fault at every request of publish and pull: afterwards all is whole, and the same command finishes the job."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub.fixtures import Client, Worker
from hub.server import Hub
from hub.sets import files_of
from hub.whole import check_home, check_hub

REPO = "me/faces-directions"
PUBLISH = ("info", "create", "validate-yaml", "preupload", "lfs-batch", "lfs-upload", "lfs-verify", "commit")
PULL = ("head", "get")
FIND = ("info", "list")
STATUS = {
    "401": {"action": "status", "status": 401},
    "403": {"action": "status", "status": 403},
    "404": {"action": "status", "status": 404},
    "404-repo": {"action": "status", "status": 404, "code": "RepoNotFound"},
    "404-entry": {"action": "status", "status": 404, "code": "EntryNotFound"},
    "404-revision": {"action": "status", "status": 404, "code": "RevisionNotFound"},
    "gated": {"action": "status", "status": 403, "code": "GatedRepo"},
    "409": {"action": "status", "status": 409},
    "412": {"action": "status", "status": 412},
    "429": {"action": "status", "status": 429, "times": 1},
    "500": {"action": "status", "status": 500, "times": 1},
    "503": {"action": "status", "status": 503, "times": 1},
}
BROKEN = {
    name: {"action": name, "times": 1} for name in ("refuse", "cut", "reset", "lost", "wrong-size", "other-bytes")
}
FAULTS = {**STATUS, **BROKEN, "slow": {"action": "slow", "seconds": 0.2}}
# Where the client waits and tries again by itself: one second each, so these run in the slow suite.
RETRIED = {"preupload", "lfs-batch", "lfs-upload", "lfs-verify", "list", "head"}
SAMPLE = {"401", "403", "404-repo", "412", "503", "reset", "lost", "other-bytes"}


def cases(kinds: tuple[str, ...]) -> list[object]:
    found = []
    for kind in kinds:
        for name in FAULTS:
            quick = name in SAMPLE and not (kind in RETRIED and name in ("503", "reset", "lost"))
            marks = [] if quick else [pytest.mark.slow]
            found.append(pytest.param(kind, name, id=f"{kind}-{name}", marks=marks))
    return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Hub() as hub, Worker(Client(hub, tmp_path_factory.mktemp("faults"))) as worker:
        yield worker


@pytest.fixture
def worker(running: Worker) -> Iterator[Worker]:
    """The client of this module with an empty home, and its Hub empty."""
    hub = running.client.hub
    running.empty()
    hub.mend()
    hub.store.repos.clear()
    hub.store.large.clear()
    hub.forget()
    yield running
    hub.mend()


@pytest.mark.parametrize(("kind", "name"), cases(PUBLISH))
def test_a_fault_while_publishing(kind: str, name: str, published_set: Path, worker: Worker) -> None:
    hub = worker.client.hub
    command = ("publish", str(published_set), "--repo", REPO)
    hub.fault(kind, **FAULTS[name])  # type: ignore[arg-type]
    done = worker.run(*command)
    assert hub.requests[kind]
    assert done.code in (0, 1), done.err
    there = check_hub(hub, REPO)
    if done.code == 0:
        assert there
    else:
        assert done.err.splitlines()[-1].startswith("error: ")
    hub.mend()
    again = worker.run(*command)
    assert again.code == 0, again.err
    assert check_hub(hub, REPO)
    check_home(worker.client.home)


@pytest.mark.parametrize(("kind", "name"), cases(PULL))
@pytest.mark.parametrize("path", ["*", "directions.safetensors"])
def test_a_fault_while_pulling(kind: str, name: str, path: str, published_set: Path, worker: Worker) -> None:
    hub = worker.client.hub
    commit = hub.put(REPO, files_of(published_set))
    hub.fault(kind, path=path, **FAULTS[name])  # type: ignore[arg-type]
    done = worker.run("pull", REPO)
    assert hub.requests[kind]
    assert done.code in (0, 1), done.err
    entered = check_home(worker.client.home)
    assert entered == ([("acme/faces", REPO, commit)] if done.code == 0 else [])
    if done.code:
        assert done.err.splitlines()[-1].startswith("error: ")
    if name == "other-bytes" and kind == "get":
        assert "it was moved to" in done.err
        assert len(list((worker.client.home / "eigenbank" / "quarantine").iterdir())) == 1
    hub.mend()
    again = worker.run("pull", REPO)
    assert again.code == 0, again.err
    assert check_home(worker.client.home) == [("acme/faces", REPO, commit)]


@pytest.mark.parametrize(("kind", "name"), cases(FIND))
def test_a_fault_while_looking_for_a_model(kind: str, name: str, published_set: Path, worker: Worker) -> None:
    hub = worker.client.hub
    commit = hub.put(REPO, files_of(published_set))
    hub.fault(kind, **FAULTS[name])  # type: ignore[arg-type]
    done = worker.run("pull", "acme/faces")
    assert done.code in (0, 1), done.err
    assert check_home(worker.client.home) == ([("acme/faces", REPO, commit)] if done.code == 0 else [])
    hub.mend()
    assert worker.run("pull", "acme/faces").code == 0
    assert check_home(worker.client.home) == [("acme/faces", REPO, commit)]


GARBLED = {
    "tags-that-are-lists": ("info", lambda found: found.update(tags=[["eigenbank"], 3])),
    "files-without-names": ("info", lambda found: [each.update(rfilename=7) for each in found["siblings"]]),
    "sizes-that-are-texts": ("info", lambda found: [each.update(size="many") for each in found["siblings"]]),
    "a-commit-that-is-a-number": ("info", lambda found: found.update(sha=12)),
    "a-date-that-is-none": ("info", lambda found: found.update(lastModified="yesterday")),
    "a-listing-of-nonsense": ("list", lambda found: [each.update(tags=7, sha=[]) for each in found]),
}


@pytest.mark.parametrize("name", GARBLED)
def test_an_answer_that_lies_about_its_kinds_is_a_message(name: str, published_set: Path, worker: Worker) -> None:
    hub = worker.client.hub
    commit = hub.put(REPO, files_of(published_set))
    kind, change = GARBLED[name]

    def garble(body: bytes) -> bytes:
        found = json.loads(body)
        change(found)  # type: ignore[no-untyped-call]
        return json.dumps(found).encode()

    hub.fault(kind, "garbled", garble=garble)
    done = worker.run("pull", "acme/faces" if kind == "list" else REPO)
    assert done.code == 1, done.out
    assert done.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.err
    assert check_home(worker.client.home) == []
    hub.mend()
    assert worker.run("pull", REPO).code == 0
    assert check_home(worker.client.home) == [("acme/faces", REPO, commit)]


@pytest.mark.parametrize("oid", [[[]], 12, "main", None])
def test_an_answer_that_names_no_commit_is_looked_into(oid: object, published_set: Path, worker: Worker) -> None:
    """The commit was made: what the answer lacks is asked for, and nothing false is kept."""
    hub = worker.client.hub
    hub.fault("commit", "garbled", garble=lambda body: json.dumps({**json.loads(body), "commitOid": oid}).encode())
    done = worker.run("publish", str(published_set), "--repo", REPO)
    assert "Traceback" not in done.err
    assert done.code == 0, done.err
    assert "though the Hub's answer was not heard" in done.err
    hub.mend()
    again = worker.run("publish", str(published_set), "--repo", REPO)
    assert (again.code, "Traceback" in again.err) == (0, False)


@pytest.mark.parametrize("kind", ["info", "head", "get", "list"])
@pytest.mark.slow
def test_a_hub_that_stays_down_is_said(kind: str, published_set: Path, worker: Worker) -> None:
    hub = worker.client.hub
    hub.put(REPO, files_of(published_set))
    hub.fault(kind, "status", status=503)
    done = worker.run("pull", "acme/faces")
    assert done.code == 1
    assert "the Hub is failing (status 503)" in done.err
    assert check_home(worker.client.home) == []


def test_a_changed_byte_in_the_cache_is_noticed_and_fetched_again(published_set: Path, worker: Worker) -> None:
    hub = worker.client.hub
    commit = hub.put(REPO, files_of(published_set))
    assert worker.run("pull", REPO).code == 0
    (vectors,) = worker.client.home.rglob("directions.safetensors")
    data = bytearray(vectors.read_bytes())
    data[-1] ^= 1
    vectors.resolve().write_bytes(data)
    done = worker.run("pull", REPO)
    assert done.code == 0, done.err
    assert "is fetched again" in done.err
    assert check_home(worker.client.home) == [("acme/faces", REPO, commit)]
