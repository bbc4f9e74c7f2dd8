"""Hostile repositories: each refused with a message, nothing imported, nothing run, the catalog as it was."""

import hashlib
import json
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub.fixtures import Client, Worker
from hub.server import Hub
from hub.sets import files_of

REPO = "evil/directions"
Files = dict[str, bytes]


class Bomb:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path("/tmp/eigenbank-was-run").touch, ()


def edit(files: Files, *where: str | int, to: object) -> None:
    """Change one value of the manifest."""
    document = json.loads(files["manifest.json"])
    place = document
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = to
    files["manifest.json"] = json.dumps(document).encode()


def vectors(files: Files, data: bytes) -> None:
    """Put other vectors in, with a manifest that agrees."""
    files["directions.safetensors"] = data
    edit(files, "files", "directions.safetensors", to={"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)})


def numbers(change: Callable[[Any], None]) -> Callable[[Files], None]:
    def apply(files: Files) -> None:
        from safetensors.numpy import load, save

        tensors = {name: tensor.copy() for name, tensor in load(files["directions.safetensors"]).items()}
        change(tensors)
        vectors(files, save(tensors))

    return apply


def header(**entry: object) -> bytes:
    text = json.dumps({"mid_block.attentions.0/output-value": entry}).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * 800


def named(name: str) -> Callable[[Files], None]:
    def apply(files: Files) -> None:
        files["stolen"] = b"x"
        edit(files, "files", name, to={"sha256": "0" * 64, "size": 1})

    return apply


def label(text: str, **more: object) -> Callable[[Files], None]:
    entry = {"text": text, "source": "human:x", "created": "2026-01-01T00:00:00Z", **more}
    return lambda files: edit(files, "directions", 0, "labels", to=[entry])


def first(tensors: Any) -> Any:
    return next(iter(tensors.values()))


def link(files: Files) -> None:
    # What a symbolic link in a git repository is served as: the text of where it leads.
    files["directions.safetensors"] = b"../../../../../etc/passwd"


def many(files: Files) -> None:
    document = json.loads(files["manifest.json"])
    document["directions"] = [{}] * 10**6
    files["manifest.json"] = json.dumps(document).encode()


def set_nan(tensors: Any) -> None:
    first(tensors)[0, 0] = float("nan")


def set_infinite(tensors: Any) -> None:
    first(tensors)[0, 0] = float("inf")


def set_long(tensors: Any) -> None:
    first(tensors)[0] *= 2


def set_narrow(tensors: Any) -> None:
    name = next(iter(tensors))
    tensors[name] = tensors[name][:, :-1].copy()


HUGE = header(dtype="F32", shape=[80_000, 32_768], data_offsets=[0, 10_485_760_000])
CASES: dict[str, tuple[Callable[[Files], object], str]] = {
    "parent-path": (named("../../stolen"), "no manifest of format 1"),
    "absolute-path": (named("/tmp/stolen"), "no manifest of format 1"),
    "program": (named("stolen.py"), "lists the file 'stolen.py'"),
    "hidden": (named(".bashrc"), "no manifest of format 1"),
    "device": (named("previews/aux.webp"), "is the name of a device on Windows"),
    "case": (
        lambda files: [named(f"previews/{x}.webp")(files) for x in "aA"],
        "differs from 'previews/a.webp' only in case",
    ),
    "link": (link, "bytes, the repository has 25"),
    "huge-tensor": (lambda files: vectors(files, HUGE), "truncated"),
    "huge-header": (lambda files: vectors(files, struct.pack("<Q", 10 * 2**30) + b"{}" * 500), "no whole safetensors"),
    "huge-file": (lambda files: edit(files, "files", "directions.safetensors", "size", to=10 * 2**30), "at most"),
    "nan": (numbers(set_nan), "not finite unit vectors"),
    "infinite": (numbers(set_infinite), "not finite unit vectors"),
    "not-unit": (numbers(set_long), "not finite unit vectors"),
    "wrong-width": (numbers(set_narrow), "wide, directions.safetensors holds"),
    "wrong-size": (lambda files: edit(files, "files", "README.md", "size", to=1), "says README.md has 1 bytes"),
    "wrong-digest": (lambda files: edit(files, "files", "README.md", "sha256", to="0" * 64), "its manifest says 000"),
    "million-directions": (many, "no manifest of format 1: directions"),
    "markup": (label("<img src=x onerror=alert(1)>"), "markup or control characters"),
    "link-markup": (label("[smile](javascript:alert(1))"), "markup or control characters"),
    "terminal": (label("smile\x1b[31m"), "no manifest of format 1"),
    "backwards": (label("\u202esmile"), "no manifest of format 1"),
    "note": (label("smile", note="\x1b]0;title\x07"), "markup or control characters"),
    "pickle": (lambda files: vectors(files, pickle.dumps(Bomb())), "no safetensors file"),
    "other-base": (lambda files: edit(files, "checkpoint", "model_id", to="acme/other"), "says base_model acme/faces"),
    "no-json": (lambda files: files.update({"manifest.json": b"\x80\x04."}), "is not JSON"),
    "deep-json": (lambda files: files.update({"manifest.json": b"[" * 200_000}), "is not JSON"),
    "preview": (
        lambda files: edit(files, "files", "previews/x.webp", to={"sha256": "0" * 64, "size": 9}),
        "none of that",
    ),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One Hub and one client for all cases: each has a repository of its own."""
    with Hub() as hub, Worker(Client(hub, tmp_path_factory.mktemp("hostile"), token=None)) as worker:
        yield worker


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_repository_is_refused_and_nothing_imported(case: str, published_set: Path, shared: Worker) -> None:
    spoil, message = CASES[case]
    files = files_of(published_set)
    spoil(files)
    repo = f"evil/{case}"
    shared.client.hub.put(repo, files)
    for command in (["pull", repo], ["pull", repo]):
        done = shared.run(*command)
        assert done.code == 1, done.err
        assert message in done.err
        assert "Traceback" not in done.err
        assert "\x1b" not in done.err
    assert "acme/" not in shared.run("list", "-q").out
    assert not Path("/tmp/eigenbank-was-run").exists()
    assert not list(shared.client.home.rglob("stolen*"))


def test_a_sync_refuses_what_it_can_see_and_goes_on(published_set: Path, hub: Hub, worker: Worker) -> None:
    for case in ("parent-path", "million-directions", "markup", "other-base", "link", "no-json"):
        files = files_of(published_set)
        CASES[case][0](files)
        hub.put(f"evil/{case}", files)
    hub.put("good/directions", files_of(published_set))
    done = worker.run("sync", "--format", "json")
    assert done.code == 0, done.err
    outcomes = {row["repo"]: row["outcome"] for row in json.loads(done.out)}
    assert {repo for repo, outcome in outcomes.items() if outcome == "added"} == {"good/directions"}
    assert sum(outcome == "refused" for outcome in outcomes.values()) == 6


def test_a_repository_that_lies_about_its_base_is_passed_over(published_set: Path, hub: Hub, client: Client) -> None:
    lie = files_of(published_set)
    lie["README.md"] = lie["README.md"].replace(b"acme/faces", b"acme/other")
    hub.put("evil/lie", lie, downloads=1000)
    hub.put("good/directions", files_of(published_set, "acme/other"))
    done = client.run("pull", "acme/other", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["repo"] == "good/directions"
    assert "evil/lie" in done.stderr
    assert "one of them is wrong" in done.stderr
