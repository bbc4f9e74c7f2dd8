"""Running plans: two jobs against one, the cost beyond the builds themselves, and recognising what is done.

    python benchmarks/plans.py [--runs 5] [jobs] [overhead] [unchanged]

All on the loopback Hub of the tests, every measurement in processes of its own, the compared ones in turn.
jobs: checkpoints that take milliseconds to solve, on a Hub that answers each request late; wall time of `plan --jobs 1`
and `--jobs 2`, each with a worker's start. overhead: checkpoints of SD 1.5's shapes; wall time of `plan --jobs 1` against
a loop in one process that opens, builds and keeps each. unchanged: `plan` of 5,000 checkpoints that are all done.
Results go to benchmarks/results/plans.json.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "plans.json"
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE)]
from common import about, spread  # noqa: E402

DELAY = 2.0
"""Seconds before the Hub answers a request."""
SLOW, LARGE, MANY = 12, 5, 5_000
"""How many checkpoints each measurement has."""
LOOP = """
import sys
from eigenbank.builders.build import build
from eigenbank.builders.checkpoints.hub import open_hub
from eigenbank.registry.local import store
for name in sys.argv[1:]:
    store(build(open_hub(name), name, device="cpu"))
"""


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall time of a process, and processor time of it and its children, in seconds."""
    begun, before = time.perf_counter(), os.times()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - begun, used


def plan_run(plan: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "eigenbank", "plan", str(plan), "-q", *more]


def environment(hub: Any, scratch: Path) -> dict[str, str]:
    """A client's environment with an empty home, and one thread to compute with, so that jobs do not share cores."""
    return {**hub.environment(Path(tempfile.mkdtemp(dir=scratch))), "OMP_NUM_THREADS": "1"}


def jobs(scratch: Path, runs: int) -> dict[str, Any]:
    """Two jobs against one, where waiting for the network is most of the work."""
    from hub.server import Hub
    from planned import put, write_plan

    names = [f"zoo/ddpm-{number}" for number in range(SLOW)]
    plan = write_plan(scratch / "jobs.toml", dict.fromkeys(names, "ddpm"))
    seen: dict[str, list[tuple[float, float]]] = {"1": [], "2": []}
    with Hub() as hub:
        for number, name in enumerate(names):
            put(hub, name, seed=number)
        hub.fault("*", "slow", seconds=DELAY)
        for _ in range(runs):
            for count, kept in seen.items():
                kept.append(timed(plan_run(plan, "--jobs", count), environment(hub, scratch)))
    ratios = [one[0] / two[0] for one, two in zip(seen["1"], seen["2"], strict=True)]
    return {
        "checkpoints": SLOW,
        "delay_s": DELAY,
        "one_job_s": spread([wall for wall, _ in seen["1"]]),
        "two_jobs_s": spread([wall for wall, _ in seen["2"]]),
        "ratio": spread(ratios),
    }


def overhead(scratch: Path, runs: int) -> dict[str, Any]:
    """A plan with one worker against a plain loop over the same checkpoints."""
    from building import SHAPES, write
    from hub.server import Hub
    from hub.store import Blob
    from planned import write_plan

    folder = scratch / "sd1.5"
    folder.mkdir()
    write(folder, *SHAPES["sd1.5"])
    weights = Blob(folder / "diffusion_pytorch_model.safetensors", lfs=True, known_sha256="5d" * 32)
    names = [f"zoo/large-{number}" for number in range(LARGE)]
    plan = write_plan(scratch / "overhead.toml", dict.fromkeys(names, "ddpm"))
    plan.write_text(plan.read_text().replace("top_k = 2", "top_k = 16"))
    seen: dict[str, list[tuple[float, float]]] = {"loop": [], "plan": []}
    with Hub() as hub:
        for name in names:
            files = {
                "config.json": (folder / "config.json").read_bytes(),
                "diffusion_pytorch_model.safetensors": weights,
            }
            hub.put(name, files)
        for _ in range(runs):
            seen["loop"].append(timed([sys.executable, "-c", LOOP, *names], environment(hub, scratch)))
            seen["plan"].append(timed(plan_run(plan, "--jobs", "1"), environment(hub, scratch)))
    pairs = list(zip(seen["plan"], seen["loop"], strict=True))
    return {
        "checkpoints": LARGE,
        "loop_s": spread([wall for wall, _ in seen["loop"]]),
        "plan_s": spread([wall for wall, _ in seen["plan"]]),
        "ratio": spread([plan[0] / loop[0] for plan, loop in pairs]),
        "processor_ratio": spread([plan[1] / loop[1] for plan, loop in pairs]),
    }


def unchanged(scratch: Path, runs: int) -> dict[str, Any]:
    """A plan of thousands, pinned by a lock, in the catalog, published: nothing is to be done."""
    from hub.server import Hub
    from planned import put, write_plan

    from eigenbank.plans.files import write_lock
    from eigenbank.registry.catalog import Catalog, SetEntry
    from eigenbank.registry.sets.folder import read_manifest
    from eigenbank.schemas.plan import Lock, Pin

    with Hub() as hub:
        put(hub, "zoo/first")
        client = environment(hub, scratch)
        timed(plan_run(write_plan(scratch / "first.toml", {"zoo/first": "ddpm"})), client)
        home = Path(client["EIGENBANK_HOME"])
        manifest = read_manifest(next(home.glob("sets/zoo--first/*")))
        names = [f"zoo/many-{number}" for number in range(MANY)]
        plan = write_plan(scratch / "many.toml", dict.fromkeys(names, "ddpm"))
        commits = {name: f"{number:040x}" for number, name in enumerate(names)}
        entries = []
        for name, commit in commits.items():
            folder = home / "sets" / name.replace("/", "--") / "0123456789abcdef"
            folder.mkdir(parents=True)
            (folder / "manifest.json").write_text("{}")
            checkpoint = manifest.checkpoint.model_copy(update={"model_id": name, "revision": commit})
            repo = f"org/{name.replace('/', '-')}-directions"
            own = manifest.model_copy(update={"checkpoint": checkpoint})
            entries.append(SetEntry(own, str(folder), f"{commit}-", repo=repo, commit=commit))
        with Catalog.open(home / "catalog.db") as catalog:
            catalog.add_sets(entries)
        now = datetime.datetime.now(datetime.timezone.utc)
        pins = {name: Pin(repo=name, revision=commit) for name, commit in commits.items()}
        write_lock(plan.with_suffix(".lock"), Lock(checked=now, checkpoints=pins))
        hub.forget()
        seconds = [timed(plan_run(plan, "--publish", "org"), client) for _ in range(runs)]
        return {
            "checkpoints": MANY,
            "seconds": spread([wall for wall, _ in seconds]),
            "processor_s": spread([used for _, used in seconds]),
            "requests": sum(hub.requests.values()),
        }


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown table: medians, least and most in brackets."""

    def told(found: dict[str, float], form: str) -> str:
        return f"{found['median']:{form}} ({found['min']:{form}} to {found['max']:{form}})"

    lines = ["| what | one | other | ratio or seconds |", "|---|---|---|---|"]
    for name, row in results.items():
        if name == "jobs":
            cells = [f"{row['checkpoints']} checkpoints, answers {row['delay_s']} s late: one job, two jobs"]
            cells += [f"{row[key]['median']:.1f} s" for key in ("one_job_s", "two_jobs_s")]
            cells += [f"{told(row['ratio'], '.2f')}, at least 1.6"]
        elif name == "overhead":
            cells = [f"{row['checkpoints']} checkpoints of SD 1.5's shapes: a loop, a plan"]
            cells += [f"{row[key]['median']:.1f} s" for key in ("loop_s", "plan_s")]
            cells += [
                f"{told(row['ratio'], '.3f')} of the time, {told(row['processor_ratio'], '.3f')} of the processor's; at most 1.05"
            ]
        else:
            cells = [f"{row['checkpoints']:,} unchanged checkpoints, {row['requests']} requests", "", ""]
            cells += [
                f"{told(row['seconds'], '.2f')} s, of the processor {told(row['processor_s'], '.2f')} s; at most 10"
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all, or what is named."""
    measures = {"jobs": jobs, "overhead": overhead, "unchanged": unchanged}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(measures)}")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in args.names or measures:
        with tempfile.TemporaryDirectory() as scratch:
            before = about()
            kept[name] = measures[name](Path(scratch), args.runs) | before
        RESULTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
        print(table({name: kept[name]}).splitlines()[-1], flush=True)
    print(table({name: kept[name] for name in measures if name in kept}))


if __name__ == "__main__":
    main()
