"""Every benchmark, one after the other, and one table of what they found.

    make bench                                         # hours on two cores; python benchmarks/run.py --list says what
    python benchmarks/run.py start peers               # some of them
    python benchmarks/run.py --table --compare OLD.json

A benchmark is a program in this folder that writes results/NAME.json; whatever lies here is found. The table goes to stdout,
all rows to results/bench.json: an older one of those is what --compare takes. It exits with 1 where
something got slower: the median by more than 10 %, and no run of the one as good as any of the other.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import HERE, RESULTS, about, rows, slower

APART = {"common", "files_entered", "quality_page", "run", "size", "terrain_checkpoint", "ways"}
QUICK = {
    "building": ["sd1.5", "--runs", "1"], "gpu": ["--rounds", "1"], "catalog": ["--sizes", "10000", "--rounds", "2", "--folder", "/tmp/eigenbank-bench-quick"],
    "inversion": ["--photos", "1"], "peers": ["--runs", "1", "--samples", "4", "--steps", "4", "--per-layer", "1"],
    "reach": ["--seeds", "1", "--steps", "1"], "recipes": ["--seeds", "1", "--steps", "2"], "start": ["--runs", "1"], "words": ["--top-k", "1", "--recipe", "output-value"], "steering": ["--rounds", "1", "--steps", "1"],
}  # fmt: skip
"""Settings that show that a benchmark runs, and measure nothing worth keeping."""


def programs() -> list[str]:
    """The benchmarks in this folder, by name."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in APART)


def run(name: str, quick: bool) -> dict[str, Any]:
    """Run a benchmark in a process of its own; its output goes where this one's does."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(HERE / f"{name}.py"), *(QUICK.get(name, []) if quick else [])], check=False
    )
    return {"code": done.returncode, "seconds": round(time.perf_counter() - begun)}


@contextmanager
def kept() -> Iterator[None]:
    """Puts back what lay in results/ when the block ends, whatever benchmarks wrote."""
    before = {path: path.read_bytes() for path in RESULTS.glob("*.json")}
    try:
        yield
    finally:
        for path in RESULTS.glob("*.json"):
            if path not in before:
                path.unlink()
        for path, content in before.items():
            path.write_bytes(content)


def collect() -> list[dict[str, Any]]:
    """The rows of all results that lie there, measured now or earlier."""
    found = []
    for path in sorted(RESULTS.glob("*.json")):
        if path.stem != "bench":
            found += rows(json.loads(path.read_text(encoding="utf-8")), path.stem)
    return found


def table(document: dict[str, Any]) -> str:
    """All rows, as Markdown."""
    facts = document["about"]
    lines = [
        "# All benchmarks",
        "",
        f"Written by `python benchmarks/run.py`: {facts['machine']}, {facts['accelerator'] or 'no GPU'}; Python {facts['python']}, "
        f"torch {facts['torch']}; commit {facts['commit'][:12]}; {facts['date']}, load {facts['load_before']:.1f} before. Rows are "
        "of the results that lie in benchmarks/results, some measured at an earlier commit, as their files say. Names are the way "
        "to a number in a file; numbers are least, median and most of the runs.",
        "",
        "| what | least | median | most |",
        "|---|---:|---:|---:|",
    ]
    for row in document["rows"]:
        numbers = " | ".join(_number(row[key]) for key in ("min", "median", "max"))
        lines.append(f"| {row['name'].replace('|', '/')} | {numbers} |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def main() -> int:
    """Run, collect, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run [default: all]")
    parser.add_argument("--list", action="store_true", help="only say which there are")
    parser.add_argument("--table", action="store_true", help="run nothing; collect the results that are there")
    parser.add_argument("--quick", action="store_true", help="smallest settings, to see that all runs; keep none of it")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="an earlier results/bench.json")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench.json")
    args = parser.parse_args()
    known = programs()
    if args.list:
        print("\n".join(known))
        return 0
    if wrong := sorted(set(args.names) - set(known)):
        parser.error(f"no benchmark {', '.join(wrong)}: there are {', '.join(known)}")
    old = json.loads(args.compare.read_text(encoding="utf-8"))["rows"] if args.compare else []
    facts = about()
    names = args.names or [name for name in known if not args.quick or name in QUICK]
    if args.quick:
        with kept():
            ran = {name: run(name, quick=True) for name in names}
        print(json.dumps(ran))
        return 1 if any(how["code"] for how in ran.values()) else 0
    ran = {} if args.table else {name: run(name, quick=False) for name in names}
    document = {"about": facts, "ran": ran, "rows": collect()}
    args.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table(document))
    failed = [name for name, how in ran.items() if how["code"]]
    for name in failed:
        print(f"{name} failed with {ran[name]['code']}", file=sys.stderr)
    worse = slower(old, document["rows"])
    for name, times in worse:
        print(f"slower: {name}, {times:.2f} times")
    if args.compare and not worse:
        print(f"nothing got slower than in {args.compare}")
    return 1 if failed or worse else 0


if __name__ == "__main__":
    sys.exit(main())
