"""First contact: how long commands and `steer` take to start, what importing costs, and how large the wheel is.

    python benchmarks/start.py [--runs 9]

Commands and what they are held against take turns, each in a process of its own. Ratios are of neighbours in time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import HERE, RESULTS, about, save, spread

COMMANDS = {
    "python": ["-c", "pass"],
    "libraries": ["-c", "import click, sqlalchemy, pydantic"],
    "import eigenbank": ["-c", "import eigenbank"],
    "eigenbank --version": ["-m", "eigenbank", "--version"],
    "eigenbank --help": ["-m", "eigenbank", "--help"],
    "eigenbank list": ["-m", "eigenbank", "list"],
    "eigenbank search hair": ["-m", "eigenbank", "search", "hair"],
    "eigenbank doctor": ["-m", "eigenbank", "--offline", "doctor"],
}


def starts(runs: int) -> dict[str, Any]:
    """Seconds of every command, and by those of a bare Python (of the libraries, where the catalog is asked)."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "EIGENBANK_HOME": home}
        environment.pop("EIGENBANK_CATALOG", None)
        for number in range(runs + 1):
            for name, args in COMMANDS.items():
                begun = time.perf_counter()
                subprocess.run([sys.executable, *args], check=True, capture_output=True, env=environment)
                if number:  # the first round makes the catalog and fills the disk's cache
                    times[name].append(time.perf_counter() - begun)
    found: dict[str, Any] = {"seconds": {name: spread(values) for name, values in times.items()}, "ratios": {}}
    for name in COMMANDS:
        if name.startswith(("import", "eigenbank")):
            base = "libraries" if name.endswith(("list", "hair", "doctor")) else "python"
            ratios = [one / other for one, other in zip(times[name], times[base], strict=True)]
            found["ratios"][f"{name} by {base}"] = spread(ratios)
    return found


def steering(runs: int) -> dict[str, Any]:
    """Seconds that `eb.steer(pipe, {LABEL: 1})` takes on the demo before anything is attached, and by one call of its denoiser.

    `first` is the first of a process, its imports not counted; `warm` are `runs` batches of twenty later ones.
    """
    code = f"""
import json, time
import torch
import eigenbank as eb
import eigenbank.loaders.steer
torch.set_num_threads(1)
pipe = eb.open_pipeline("eigenbank/avatars-64")
label = eb.load("eigenbank/avatars-64").labels[0]
noise, text = torch.zeros(1, 4, 16, 16), torch.zeros(1, 48, 128)
def seconds(work, times):
    begun = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - begun) / times
steer = lambda: eb.steer(pipe, {{label: 1.0}})
with torch.no_grad():
    first = seconds(steer, 1)
    pairs = [(seconds(steer, 20), seconds(lambda: pipe.unet(noise, 10, text), 20)) for _ in range({runs} + 1)][1:]
print(json.dumps({{"first": first, "pairs": pairs}}))
"""
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "EIGENBANK_HOME": home}
        environment.pop("EIGENBANK_CATALOG", None)
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    found = json.loads(done.stdout)
    return {
        "seconds": {"first": found["first"], "warm": spread([steer for steer, _ in found["pairs"]])},
        "ratios": {"steer by a denoiser call": spread([steer / call for steer, call in found["pairs"]])},
    }


def wheel() -> int:
    """The wheel's size in bytes, built here from what git knows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source"
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=HERE.parent, check=True, capture_output=True).stdout
        source.mkdir()
        subprocess.run(["tar", "-x"], cwd=source, input=archive, check=True)
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        (built,) = folder.glob("*.whl")
        return built.stat().st_size


def main() -> None:
    """Measure and write benchmarks/results/start.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--steer-only", action="store_true", help="Measure steer alone, and write nothing.")
    parser.add_argument("--out", type=Path, default=RESULTS / "start.json")
    args = parser.parse_args()
    steer = steering(args.runs)
    warm = steer["seconds"]["warm"]
    print(f"steer, warm: {warm['median'] * 1e3:.1f} ms ({warm['min'] * 1e3:.1f} to {warm['max'] * 1e3:.1f})")
    for name, found in steer["ratios"].items():
        print(f"{name}: {found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})")
    if args.steer_only:
        return
    size = float(wheel())
    document = {
        "about": about(),
        "runs": args.runs,
        **starts(args.runs),
        "steer": steer,
        "wheel_bytes": spread([size]),
    }
    save(args.out, document)
    for name, found in document["ratios"].items():
        print(f"{name}: {found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})")
    print(f"wheel: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
