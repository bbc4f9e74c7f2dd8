"""First contact: how long commands take to start, what importing costs, and how large the wheel is.

    python benchmarks/start.py [--runs 9]

Commands and what they are held against take turns, each in a process of its own. Ratios are of neighbours in time.
"""

import argparse
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
    parser.add_argument("--out", type=Path, default=RESULTS / "start.json")
    args = parser.parse_args()
    size = float(wheel())
    document = {"about": about(), "runs": args.runs, **starts(args.runs), "wheel_bytes": spread([size])}
    save(args.out, document)
    for name, found in document["ratios"].items():
        print(f"{name}: {found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})")
    print(f"wheel: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
