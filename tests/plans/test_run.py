"""Running a plan builds, labels, previews and publishes every checkpoint once; one that fails stops no other."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hub.fixtures import Client
from hub.server import Hub
from planned import left_behind, put, write_plan

from eigenbank.registry.catalog import Catalog

STEADY = {"OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "1700000000"}
FEW = {"zoo/ddpm": "ddpm", "zoo/sd": "sd", "zoo/dit": "DiTTransformer2DModel"}
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
    """Run a plan, by one worker, which is the quickest here: starting one takes longer than its work."""
    return client.run("plan", str(plan), "--format", "json", "--jobs", "1", *more)


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


def run_disturbed(hub: Hub, client: Client, plan: Path, executor: str, kills: int) -> dict[str, Any]:
    """Run a plan while a tenth of the requests fail and so many workers are killed, until it is done. Returns what it left."""
    hub.fault("*", "status", status=503, chance=0.1)
    lost = 0
    for _ in range(5):
        process = client.start("-m", "eigenbank", "plan", str(plan), "--format", "json", *whole(executor))
        with killing(process, WORKERS[executor], kills - lost) as killed:
            out, err = process.communicate(timeout=1500)
        lost += len(killed)
        # A checkpoint that lost too many workers, or too many answers, fails; the next run goes on with it.
        assert process.returncode in (0, 1), err
        assert out, err
        assert not any(row["traceback"] for row in json.loads(out)), out
        if process.returncode == 0:
            break
    hub.mend()
    assert process.returncode == 0, (out, err)
    assert lost == kills
    assert not list((client.home / "eigenbank" / "staging").iterdir())
    return left_behind(client.home, hub)


def unpublish(hub: Hub) -> None:
    for repo in [repo for repo in hub.store.repos if repo[1].startswith("org/")]:
        del hub.store.repos[repo]


def test_both_executors_do_every_step_once_whatever_fails(
    hub: Hub, make_client: Callable[..., Client], tmp_path: Path
) -> None:
    fill(hub, FEW)
    plan = write_plan(tmp_path / "plan.toml", FEW)
    ray = run_disturbed(hub, make_client("ray", extra=STEADY), plan, "ray", 1)
    unpublish(hub)
    client = make_client("local", extra=STEADY)
    local = run_disturbed(hub, client, plan, "local", 1)
    assert len(local) == len(FEW)
    assert local == ray
    pinned = client.run("plan", "--check", str(plan))
    assert pinned.returncode == 0, pinned.stdout + pinned.stderr
    put(hub, "zoo/ddpm", seed=5)
    hub.forget()
    found = rows(run(client, plan, *whole("local")))
    assert list(found) == list(FEW)
    assert [row["status"] for row in found.values()] == ["unchanged"] * 3
    assert [step["step"] for step in found["zoo/ddpm"]["step_reports"]] == ["build", "label", "preview", "publish"]
    assert [step["step"] for step in found["zoo/dit"]["step_reports"]] == ["build", "publish"]
    assert found["zoo/sd"]["published"] == "org/zoo-sd-directions"
    assert not hub.requests  # the lock says which revision, whatever is newer, and the catalog that it is there
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
        "zoo/missing": "the Hub has no such repository",
        "zoo/secret": "the repository is gated. Ask for access",
        "zoo/damaged": "the checkpoint lacks",
        "zoo/without": "has no self-attention",
    }.items():
        assert found[name]["status"] == "failed"
        assert words in found[name]["error"], found[name]["error"]
        assert found[name]["traceback"] is None


@pytest.mark.slow
def test_thirty_checkpoints_of_many_families_come_out_the_same(
    hub: Hub, make_client: Callable[..., Client], tmp_path: Path
) -> None:
    assert len(MANY) == 30
    fill(hub, MANY)
    plan = write_plan(tmp_path / "plan.toml", MANY)
    client = make_client("calm", extra=STEADY)
    done = run(client, plan, *whole("local"), "--jobs", "2")
    assert done.returncode == 0, (wrong(done), done.stderr)
    calm = left_behind(client.home, hub)
    assert len(calm) == len(MANY)
    for executor in ("local", "ray"):
        unpublish(hub)
        assert run_disturbed(hub, make_client(executor, extra=STEADY), plan, executor, 5) == calm


def count_sets(home: Path) -> int:
    """How many of the plan's sets the catalog has, 0 before it exists."""
    path = home / "eigenbank" / "catalog.db"
    if not path.exists():
        return 0
    with Catalog.open(path, shipped=False) as catalog:
        return sum(row.model_id.startswith("zoo/") for row in catalog.sets())


def test_a_run_that_is_killed_goes_on_when_it_is_run_again(hub: Hub, client: Client, tmp_path: Path) -> None:
    entries = {f"zoo/ddpm-{n}": "ddpm" for n in range(2)}
    fill(hub, entries)
    plan = write_plan(tmp_path / "plan.toml", entries)
    process = client.start("-m", "eigenbank", "plan", str(plan), "--jobs", "1", *whole("local"))
    deadline = time.monotonic() + 240
    while not count_sets(client.home) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    done = run(client, plan, *whole("local"))
    assert done.returncode == 0, done.stderr
    steps = [step for row in rows(done).values() for step in row["steps"]]
    assert steps.count("build") < len(entries)  # what the killed run had built was not built again
    assert len(left_behind(client.home, hub)) == len(entries)
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
