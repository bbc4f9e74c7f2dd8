"""How far a call travels: the files of eigenbank whose functions run, and how many calls that takes.

    python benchmarks/files_entered.py                   # everything, as a table
    python benchmarks/files_entered.py search --files    # one job, and the files by name

Every job runs in a process of its own, under `sys.setprofile`. What runs while a module is imported is not counted, and
calls of comprehensions are part of the function they stand in. Publish and pull talk to a Hub on loopback.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGE = str(ROOT / "src" / "eigenbank") + os.sep
DEMO = "eigenbank/avatars-64"
CHECKPOINT = ROOT / "catalog" / "avatars-64"
FOLDED = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}


class Trace:
    """Counts calls into eigenbank's files. `sys.setprofile` calls it at every call and return."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._importing = 0

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(PACKAGE):
            return
        if code.co_name == "<module>":
            self._importing += 1 if event == "call" else -1
        elif event == "call" and not self._importing and code.co_name not in FOLDED:
            self.calls[code.co_filename.removeprefix(PACKAGE)] += 1


@contextmanager
def traced(trace: Trace) -> Iterator[None]:
    """Counts what this thread, and those it starts, call in the block."""
    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def command(*args: str) -> None:
    """Run `eigenbank ARGS` in this process; what it prints is thrown away."""
    from eigenbank.cli.main import run

    with Path(os.devnull).open("w") as nowhere:
        out, err, sys.stdout, sys.stderr = sys.stdout, sys.stderr, nowhere, nowhere
        try:
            code = run(list(args))
        finally:
            sys.stdout, sys.stderr = out, err
    if code:
        message = f"eigenbank {' '.join(args)} exited with {code}"
        raise SystemExit(message)


def create_catalog() -> None:
    """Make this home's catalog exist, as the first change does."""
    command(
        "labels",
        "add",
        f"{DEMO}#mid_block.attentions.0.transformer_blocks.0.attn1/output-value/0",
        "grin",
        "--by",
        "ann",
    )


def search(trace: Trace) -> None:
    """`eigenbank search hair`, once the catalog is there."""
    create_catalog()
    with traced(trace):
        command("search", "hair")


def _steer(trace: Trace, warm: int) -> None:
    import diffusers

    import eigenbank as eb

    pipe = diffusers.DiffusionPipeline.from_pretrained(CHECKPOINT)
    label = eb.load(DEMO).labels[0]
    for _ in range(warm):
        with eb.steer(pipe, {label: 1}):
            pass
    with traced(trace), eb.steer(pipe, {label: 1}):
        pass


def steer_cold(trace: Trace) -> None:
    """The first `eb.steer(pipe, {label: 1})` of a process, attach and remove; no picture is generated."""
    create_catalog()
    _steer(trace, 0)


def steer_warm(trace: Trace) -> None:
    """The same, the third time."""
    command("search", "hair")
    _steer(trace, 2)


def build(trace: Trace) -> None:
    """`eb.build` of the demo checkpoint, two directions a layer and recipe."""
    import eigenbank as eb

    with traced(trace):
        eb.build(str(CHECKPOINT), top_k=2)


def publish(trace: Trace) -> None:
    """`eigenbank publish` of the demo's set to an empty Hub."""
    create_catalog()
    with traced(trace):
        command("publish", DEMO, "--repo", "me/faces")


def pull(trace: Trace) -> None:
    """`eigenbank pull` of that set, by somebody who has none of it."""
    command("publish", DEMO, "--repo", "me/faces")
    home = tempfile.mkdtemp(dir=os.environ["EIGENBANK_HOME"])
    os.environ["EIGENBANK_HOME"] = home
    create_catalog()
    with traced(trace):
        command("pull", "me/faces")


JOBS: dict[str, Callable[[Trace], None]] = {
    "search": search, "steer-cold": steer_cold, "steer-warm": steer_warm, "build": build, "publish": publish,
    "pull": pull,
}  # fmt: skip


def measure(name: str) -> dict[str, int]:
    """Calls by file, of a job run in a process of its own."""
    sys.path.insert(0, str(ROOT / "tests"))
    from hub.server import Hub

    with tempfile.TemporaryDirectory() as folder, Hub() as hub:
        environment = hub.environment(Path(folder))
        environment["PYTHONPATH"] = str(ROOT / "src")
        (Path(folder) / "eigenbank").mkdir()
        done = subprocess.run(
            [sys.executable, __file__, "--run", name], env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        message = f"{name}: {done.stderr}"
        raise SystemExit(message)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"Of {', '.join(JOBS)}; all by default.")
    parser.add_argument("--files", action="store_true", help="List the files, with the calls of each.")
    parser.add_argument("--run", choices=list(JOBS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        trace = Trace()
        JOBS[args.run](trace)
        print(json.dumps(trace.calls))
        return
    if unknown := set(args.jobs) - set(JOBS):
        parser.error(f"no such job: {', '.join(unknown)}")
    print("| job | files | calls |\n|---|---:|---:|")
    for name in args.jobs or JOBS:
        calls = measure(name)
        print(f"| {name} | {len(calls)} | {sum(calls.values()):,} |", flush=True)
        if args.files:
            for file, count in sorted(calls.items()):
                print(f"| · {file} | | {count:,} |")


if __name__ == "__main__":
    main()
