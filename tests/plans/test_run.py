"""A plan is run: every checkpoint built, labelled, drawn and published, once; what fails fails alone."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hub.fixtures import Client
from hub.server import Hub
from planned import left_behind, put, write_plan

STEADY = {"OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "1700000000"}
FEW = {
    "zoo/ddpm": "ddpm",
    "zoo/sd": "sd",
    "zoo/dit": "DiTTransformer2DModel",
    "zoo/flux": "FluxTransformer2DModel",
}
MANY = {
    **{f"zoo/ddpm-{n}": "ddpm" for n in range(9)},
    **{f"zoo/ldm-{n}": "ldm" for n in range(5)},
    **{f"zoo/sd-{n}": "sd" for n in range(5)},
    **{f"zoo/{kind[:12].lower()}": kind for kind in (
        "UNet2DConditionModel", "DiTTransformer2DModel", "PixArtTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel",
        "Flux2Transformer2DModel", "QwenImageTransformer2DModel", "WanTransformer3DModel", "HunyuanDiT2DModel", "ZImageTransformer2DModel",
        "Lumina2Transformer2DModel",
    )},
}  # fmt: skip


def fill(hub: Hub, entries: dict[str, str]) -> None:
    for number, (name, family) in enumerate(entries.items()):
        put(hub, name, family, seed=number)


def rows(done: "subprocess.CompletedProcess[str]") -> dict[str, dict[str, Any]]:
    assert done.stdout.startswith("["), done.stderr
    return {row["id"]: row for row in json.loads(done.stdout)}


def wrong(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    return {name: row["error"] for name, row in rows(done).items() if row["error"]}


def run(client: Client, plan: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    return client.run("plan", str(plan), "--format", "json", *more)


def whole(executor: str) -> list[str]:
    return ["--label", "--publish", "org", "--executor", executor]


@contextmanager
def killing(
    process: "subprocess.Popen[str]", marks: tuple[bytes, ...], times: int, seed: int = 0
) -> Iterator[list[int]]:
    """Kill workers of a process, so many times, whenever one is at work."""
    dice, killed, over = random.Random(seed), [], threading.Event()

    def hunt() -> None:
        while not over.is_set() and len(killed) < times:
            over.wait(dice.uniform(0.3, 1.5))
            workers = [pid for pid in descendants(process.pid) if any(mark in command(pid) for mark in marks)]
            if workers:
                victim = dice.choice(workers)
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed.append(victim)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        yield killed
    finally:
        over.set()
        hunter.join()


WORKERS = {"local": (b"multiprocessing.spawn",), "ray": (b"ray::zoo/",)}
"""What is in the command line of a worker; of Ray's, the name of its task."""


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    found, more = [], [pid]
    while more:
        parent = more.pop()
        children = [child for child, of in parents.items() if of == parent]
        found += children
        more += children
    return found


def compare(
    hub: Hub, make_client: Callable[..., Client], folder: Path, entries: dict[str, str], kills: int, *, calm: bool
) -> None:
    """Run a plan by both executors, a tenth of the requests failing, so many workers killed; and first undisturbed, if `calm`.

    What comes out is the same.
    """
    fill(hub, entries)
    plan = write_plan(folder / "plan.toml", entries)
    seen = []
    if calm:
        client = make_client("calm", extra=STEADY)
        done = run(client, plan, *whole("local"))
        assert done.returncode == 0, (wrong(done), done.stderr)
        seen.append(left_behind(client.home, hub))
        assert {row["status"] for row in rows(run(client, plan, *whole("local"))).values()} == {"unchanged"}
    for executor in ("local", "ray"):
        for repo in [repo for repo in hub.store.repos if repo[1].startswith("org/")]:
            del hub.store.repos[repo]
        client = make_client(executor, extra=STEADY)
        hub.fault("*", "status", status=503, chance=0.1)
        lost = 0
        for _ in range(5):
            process = client.start("-m", "eigenbank", "plan", str(plan), "--format", "json", *whole(executor))
            with killing(process, WORKERS[executor], kills - lost) as killed:
                out, err = process.communicate(timeout=1500)
            lost += len(killed)
            # A checkpoint that lost too many workers, or too many answers, fails; the next run goes on with it.
            assert process.returncode in (0, 1), err
            assert not any(row["traceback"] for row in json.loads(out)), out
            if process.returncode == 0:
                break
        hub.mend()
        assert process.returncode == 0, (out, err)
        assert lost == kills
        seen.append(left_behind(client.home, hub))
        assert not list((client.home / "eigenbank" / "staging").iterdir())
    assert len(seen[0]["sets"]) == len(entries)
    assert all(one == seen[0] for one in seen)


def test_every_step_is_done_once_and_the_next_run_does_nothing(hub: Hub, client: Client, tmp_path: Path) -> None:
    fill(hub, {name: FEW[name] for name in ("zoo/ddpm", "zoo/sd", "zoo/dit")})
    plan = write_plan(tmp_path / "plan.toml", {name: FEW[name] for name in ("zoo/ddpm", "zoo/sd", "zoo/dit")})
    client.extra = STEADY
    first = run(client, plan, *whole("local"))
    assert first.returncode == 0, first.stderr
    found = rows(first)
    assert found["zoo/ddpm"]["steps"] == ["build", "label", "preview", "publish"]
    assert found["zoo/dit"]["steps"] == ["build", "publish"]
    assert found["zoo/sd"]["published"] == "org/zoo-sd-directions"
    assert json.loads(first.stdout)[0]["id"] == "zoo/ddpm"
    hub.forget()
    pinned = client.run("plan", "--check", str(plan))
    assert pinned.returncode == 0, pinned.stdout + pinned.stderr
    hub.forget()
    second = run(client, plan, *whole("local"))
    assert {row["status"] for row in rows(second).values()} == {"unchanged"}
    assert not hub.requests  # the lock says which revision, the catalog that it is there
    put(hub, "zoo/ddpm", seed=5)
    assert {row["status"] for row in rows(run(client, plan)).values()} == {"unchanged"}  # still pinned
    assert client.run("plan", "--check", str(plan)).returncode == 0
    third = rows(run(client, plan, *whole("local")))
    assert [name for name, row in third.items() if row["status"] == "done"] == ["zoo/ddpm"]
    plan.write_text(plan.read_text().replace("top_k = 2", "top_k = 3"))
    fourth = rows(run(client, plan, "--only", "zoo/d*"))
    assert {name: row["steps"] for name, row in fourth.items()} == {"zoo/ddpm": ["build"], "zoo/dit": ["build"]}


def test_a_checkpoint_that_fails_says_why_and_stops_no_other(hub: Hub, client: Client, tmp_path: Path) -> None:
    fill(hub, {"zoo/good": "ddpm", "zoo/secret": "ddpm", "zoo/damaged": "ddpm"})
    hub.repo("zoo/secret").gated = True
    hub.put("zoo/damaged", {"unet/diffusion_pytorch_model.safetensors": b"\x08\0\0\0\0\0\0\0{}      "})
    from making import make_checkpoint

    without = make_checkpoint(tmp_path / "without", attention=False)
    hub.put(
        "zoo/without",
        {path.relative_to(without).as_posix(): path.read_bytes() for path in without.rglob("*") if path.is_file()},
    )
    names = ["zoo/missing", "zoo/secret", "zoo/damaged", "zoo/without", "zoo/good"]
    plan = write_plan(tmp_path / "plan.toml", dict.fromkeys(names, "ddpm"))
    client.token = None
    done = run(client, plan)
    assert done.returncode == 1
    found = rows(done)
    assert found["zoo/good"]["status"] == "done"
    for name, words in {
        "zoo/missing": "no such folder or repository",
        "zoo/secret": "is gated: accept its terms",
        "zoo/damaged": "the checkpoint lacks",
        "zoo/without": "has no self-attention",
    }.items():
        assert found[name]["status"] == "failed"
        assert words in found[name]["error"], found[name]["error"]
        assert found[name]["traceback"] is None


def test_the_same_comes_out_of_both_executors_whatever_fails(
    hub: Hub, make_client: Callable[..., Client], tmp_path: Path
) -> None:
    compare(hub, make_client, tmp_path, FEW, 1, calm=False)


@pytest.mark.slow
def test_thirty_checkpoints_of_many_families_come_out_the_same(
    hub: Hub, make_client: Callable[..., Client], tmp_path: Path
) -> None:
    assert len(MANY) == 30
    compare(hub, make_client, tmp_path, MANY, 5, calm=True)


def in_catalog(home: Path) -> int:
    """How many of the plan's sets the catalog has."""
    try:
        with closing(sqlite3.connect(f"file:{home / 'eigenbank' / 'catalog.db'}?mode=ro", uri=True)) as connection:
            counted = (
                "SELECT count(*) FROM sets s JOIN checkpoints c ON c.id = s.checkpoint_id WHERE model_id LIKE 'zoo/%'"
            )
            return int(connection.execute(counted).fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # not made yet


def test_a_run_that_is_killed_goes_on_when_it_is_run_again(hub: Hub, client: Client, tmp_path: Path) -> None:
    entries = {f"zoo/ddpm-{n}": "ddpm" for n in range(3)}
    fill(hub, entries)
    plan = write_plan(tmp_path / "plan.toml", entries)
    process = client.start("-m", "eigenbank", "plan", str(plan), "--jobs", "1", *whole("local"))
    deadline = time.monotonic() + 240
    while not in_catalog(client.home) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    done = run(client, plan, *whole("local"))
    assert done.returncode == 0, done.stderr
    steps = [step for row in rows(done).values() for step in row["steps"]]
    assert steps.count("build") < len(entries)  # what the killed run had built was not built again
    assert len(left_behind(client.home, hub)["sets"]) == 3
    assert not list((client.home / "eigenbank" / "staging").iterdir())


def test_a_full_disk_fails_the_checkpoint_in_words(hub: Hub, client: Client, tmp_path: Path) -> None:
    fill(hub, {"zoo/ddpm": "ddpm"})
    plan = write_plan(tmp_path / "plan.toml", {"zoo/ddpm": "ddpm"})
    assert client.run("list").returncode == 0
    point = client.home / "eigenbank" / "staging"
    point.mkdir(parents=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", point], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"a small disk needs the right to mount: {made.stderr.decode().strip()}")
    try:
        done = run(client, plan)
    finally:
        subprocess.run(["umount", "-l", point], check=True)
    assert done.returncode == 1
    error = rows(done)["zoo/ddpm"]["error"]
    assert "No space left on device" in error, error
    assert rows(run(client, plan))["zoo/ddpm"]["status"] == "done"
