"""Measure the gallery: writing 10,000 directions with their strips, memory, the first page, and the page in a browser.

    python benchmarks/gallery.py

The catalogs are kept in --folder and made only once. Writing is measured in processes of their own, the catalogs in turns.
Writes results/gallery.json beside this file and prints its table; `--table` prints that alone.
"""

import argparse
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from common import about, save

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.registry.sets.folder import manifest_digest
from eigenbank.schemas import Checkpoint, DirectionRecord, Evidence, Label, Layer, Manifest, Part, Preview, Recipe

RESULTS = Path(__file__).with_name("results") / "gallery.json"
CATALOGS = {
    "none": (0, 0),
    "1,000 in 2 sets": (2, 500),
    "10,000 in 20 sets": (20, 500),
    "10,000 in one set": (1, 10_000),
}
FULL = "10,000 in 20 sets"
WIDTH, CELL = 64, 64
SEEDS, SCALES = (0, 1, 2), (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
RECIPES = ("output-value", "output-value:output")
NAMES = (
    "smile",
    "age",
    "hair length",
    "hair colour",
    "glasses",
    "beard",
    "skin tone",
    "gaze",
    "light",
    "background hue",
)
NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)


def picture(seed: int) -> bytes:
    """A preview of smooth colours, about as large in bytes as a drawn one."""
    from PIL import Image

    rng = random.Random(seed)
    columns, rows = len(SCALES), len(SEEDS)
    small = Image.frombytes("RGB", (columns * 12, rows * 12), rng.randbytes(columns * rows * 144 * 3))
    image = small.resize((columns * CELL, rows * CELL), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=88)
    return file.getvalue()


def make_set(model: str, directions: int, rng: random.Random, pictures: list[bytes]) -> DirectionSet:
    """A set of made-up directions, each with a picture, a tenth of them with a name."""
    import torch

    ranks = 25
    layers = [f"down_blocks.{number}.attentions.0" for number in range(directions // (ranks * len(RECIPES)))]
    evidence = Evidence(effect=1, selectivity=0.6, consistency=1, null=0.1, scale=1, seeds=tuple(range(12)), steps=20)
    records, drawn = [], {}
    for layer in layers:
        for recipe in RECIPES:
            for rank in range(ranks):
                label = Label(
                    text=rng.choice(NAMES), confidence=rng.random(), source="statistics", evidence=evidence, created=NOW
                )
                labels = (label,) if rng.random() < 0.1 else ()
                record = DirectionRecord(
                    layer=layer, recipe=Recipe.parse(recipe), rank=rank, eigenvalue=9 * 0.9**rank, share=0.09 * 0.9**rank,
                    gap=0.01, labels=labels,
                )  # fmt: skip
                records.append(record)
                drawn[record.id] = (Preview(seeds=SEEDS, scales=SCALES, steps=20), rng.choice(pictures))
    made = [Layer(name=layer, kind="spatial", width=WIDTH, heads=4, tensors={"query": Part(tensor=f"{layer}.to_q.weight")}) for layer in layers]  # fmt: skip
    manifest = Manifest(
        checkpoint=Checkpoint(model_id=model, denoiser="UNet2DModel", licence="mit"),
        created=NOW,
        builder="made up",
        layers=tuple(made),
        directions=tuple(records),
    )
    vectors = {f"{layer}/{recipe}": torch.eye(WIDTH)[:ranks].clone() for layer in layers for recipe in RECIPES}
    return DirectionSet(manifest, vectors=vectors).with_previews(drawn)


def fill(folder: Path, sets: int, directions: int) -> None:
    """Make a catalog and its sets in a folder."""
    rng = random.Random(0)
    pictures = [picture(seed) for seed in range(64)]
    with Catalog.open(folder / "catalog.db", shipped=False) as catalog:
        for number in range(sets):
            bank = make_set(f"made-up/checkpoint-{number}", directions, rng, pictures).save(folder / f"set-{number}")
            catalog.add_set(bank.manifest, location=str(bank.folder), digest=manifest_digest(bank.folder))


def write(folder: Path) -> dict[str, float]:
    """Write the gallery of a catalog in a process of its own: seconds, and the most memory it had."""
    program = (
        "import sys; from pathlib import Path; from eigenbank.registry.catalog import Catalog\n"
        "from eigenbank.gallery.site import write_site\n"
        "with Catalog.open(sys.argv[1] + '/catalog.db', shipped=False) as catalog:\n"
        "    write_site(Path(sys.argv[1]) / 'site', catalog, log=lambda text: print(text, file=sys.stderr))\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])\n"
    )
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    peak = process.stdout.read()  # the most memory since exec, in kB: getrusage's counts the parent's before it
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        message = f"writing {folder} failed with {process.returncode}"
        raise RuntimeError(message)
    busy = usage.ru_utime + usage.ru_stime
    return {"seconds": time.perf_counter() - started, "busy": busy, "megabytes": int(peak) / 1024}


def first_page(site: Path) -> int:
    """Bytes of all that is read before a picture: the page, its style and scripts, the index."""
    return sum(
        path.stat().st_size for path in [site / "index.html", *(site / "assets").iterdir(), site / "data/index.js"]
    )


def browse(site: Path) -> dict[str, float]:
    """Milliseconds in Debian's Chromium: to the first page, to a first search, to another one; and the longest frame of a scroll."""
    from playwright.sync_api import sync_playwright

    program = os.environ.get("EIGENBANK_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=[] if os.geteuid() else ["--no-sandbox"])
        page = started.new_page()
        clock = time.perf_counter()
        page.goto((site / "index.html").as_uri())
        page.locator(".checkpoint").first.wait_for()
        found = {"first page": (time.perf_counter() - clock) * 1000}
        for name, text in (
            ("first search, all data read", "smile"),
            ("another search", "hair"),
            ("all directions", "attentions"),
        ):
            found[name] = page.evaluate(
                """async text => {
                  const field = document.getElementById("search");
                  const from = performance.now();
                  field.value = text;
                  field.dispatchEvent(new Event("input"));
                  while (true) {
                    await new Promise(requestAnimationFrame);
                    const status = document.querySelector(".status")?.textContent ?? "";
                    if (location.hash.includes(text) && /^[0-9,]+ directions?$/.test(status)) return performance.now() - from;
                  }
                }""",
                text,
            )
        found["longest frame while scrolling"] = page.evaluate(
            """async () => {
              let longest = 0, last = performance.now();
              for (let i = 0; i < 120; i += 1) {
                scrollBy(0, 240);
                await new Promise(requestAnimationFrame);
                longest = Math.max(longest, performance.now() - last);
                last = performance.now();
              }
              return longest;
            }"""
        )
        started.close()
    return found


def measure(folder: Path, runs: int) -> dict[str, Any]:
    """Everything, as the document that is written to results."""
    result: dict[str, Any] = {
        "about": about(),
        "load": [os.getloadavg()],
        "runs": {name: [] for name in CATALOGS},
        "first_page": {},
    }
    for name, (sets, directions) in CATALOGS.items():
        place = folder / _plain(name)
        if not (place / "done").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            fill(place, sets, directions)
            (place / "done").touch()
    for _ in range(runs):
        for name in CATALOGS:
            result["runs"][name].append(write(folder / _plain(name)))
            print(name, result["runs"][name][-1], file=sys.stderr, flush=True)
    for name in CATALOGS:
        result["first_page"][name] = first_page(folder / _plain(name) / "site")
    pictures = list((folder / _plain(FULL) / "site/pictures").rglob("*.webp"))
    result["pictures"] = {"count": len(pictures), "bytes": sum(path.stat().st_size for path in pictures)}
    result["browser"] = [browse(folder / _plain(FULL) / "site") for _ in range(runs)]
    result["load"].append(os.getloadavg())
    return result


def _plain(name: str) -> str:
    return name.replace(" ", "-").replace(",", "")


def table(result: dict[str, Any]) -> str:
    """The results in Markdown."""

    def middle(values: list[float]) -> float:
        return statistics.median(values)

    rows = [
        "| catalog | written in | processor's time | most memory | first page without pictures |",
        "|---|---|---|---|---|",
    ]
    for name, runs in result["runs"].items():
        clock, busy, memory = (middle([run[key] for run in runs]) for key in ("seconds", "busy", "megabytes"))
        rows.append(
            f"| {name} | {clock:.1f} s | {busy:.1f} s | {memory:.0f} MB | {result['first_page'][name] / 1000:.0f} kB |"
        )
    browser = {name: [run[name] for run in result["browser"]] for name in result["browser"][0]}
    seen = ["| in Debian's Chromium, 10,000 directions | middle | worst |", "|---|---|---|"]
    seen += [f"| {name} | {middle(values):.0f} ms | {max(values):.0f} ms |" for name, values in browser.items()]
    loads = " and ".join(f"{load[0]:.1f}" for load in result["load"])
    total = result["pictures"]["bytes"] / 1e6
    return "\n".join(
        [
            f"Middle of {len(result['browser'])} run{'s' * (len(result['browser']) > 1)} on {result['about']['machine']}, with a load of {loads} before and after. Copying the "
            f"{result['pictures']['count']:,} strips ({total:.0f} MB), hashing them included, is part of the time.",
            "",
            *rows,
            "",
            *seen,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/eigenbank-bench-gallery"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--table", action="store_true", help="only write the table of the results that are there")
    options = parser.parse_args()
    if not options.table:
        result = measure(options.folder, options.runs)
        save(RESULTS, result)
    print(table(json.loads(RESULTS.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
