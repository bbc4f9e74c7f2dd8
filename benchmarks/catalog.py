"""Measure the catalog: import, searches, file size and cold start, on generated catalogs of growing size.

    python benchmarks/catalog.py --sizes 10000,100000,1000000

The catalogs are kept in --folder and made only once. Prints a table, and writes results/catalog.json beside this file.
"""

import argparse
import json
import os
import platform
import random
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.catalog.content import (
    CheckpointData,
    DirectionData,
    EvidenceData,
    LabelData,
    LayerData,
    SetData,
    SetFacts,
)
from eigenbank.registry.catalog.whole import export_file, import_file

RESULTS = Path(__file__).with_name("results") / "catalog.json"
PER_MODEL = 500
RANKS = 25
LAYERS = ("down_blocks.1.attentions.0", "down_blocks.2.attentions.0", "down_blocks.2.attentions.1",
          "mid_block.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1", "up_blocks.0.attentions.2",
          "up_blocks.1.attentions.0", "up_blocks.1.attentions.1", "up_blocks.2.attentions.0")  # fmt: skip
RECIPES = ("output-value", "output-value:output")
ORGS = ("google", "stabilityai", "runwayml", "acme", "openmodels", "painters", "lab-9", "zeta", "nord", "studio")
NOUNS = ("smile", "glasses", "hair", "beard", "age", "gaze", "eyes", "nose", "mouth", "skin", "head", "hat", "earring",
         "background", "light", "shadow", "contrast", "saturation", "hue", "blur", "grain", "sky", "tree", "house",
         "window", "road", "car", "wheel", "cat", "dog", "fur", "tail", "wing", "leaf", "flower", "water", "wave", "snow",
         "mountain", "cloud")  # fmt: skip
WORDS = ("", "long ", "short ", "big ", "small ", "dark ", "bright ", "red ", "blue ", "green ", "old ", "young ",
         "wide ", "narrow ", "soft ", "sharp ", "warm ", "cold ", "more ", "less ", "left ", "right ", "open ", "closed ",
         "round ")  # fmt: skip
TEXTS = [word + noun for noun in NOUNS for word in WORDS]
SOURCES = ("statistics", "attribute-model:4f2a", "attribute-model:91cc", "clip:openai/clip-vit-large-patch14@32bd64",
           "human:ann", "human:bob")  # fmt: skip
PROTOCOLS = [(scale, 10, tuple(range(first, first + 24))) for scale in (0.5, 1.0, 1.5) for first in (100, 200)]
NOW = int(datetime(2026, 11, 23, tzinfo=timezone.utc).timestamp()) * 1_000_000


def generated(models: int, seed: int = 0) -> Iterator[CheckpointData]:
    """Checkpoints with a set of 500 directions each, and three labels per direction on average."""
    rng = random.Random(seed)
    weights = [1 / (place + 3) for place in range(len(TEXTS))]
    for number in range(models):
        directions = []
        for layer in LAYERS:
            for recipe in RECIPES:
                top = rng.uniform(1, 100)
                for rank in range(RANKS):
                    texts = rng.choices(TEXTS, weights, k=rng.choice((0, 1, 2, 3, 4, 5, 6)))
                    labels = [_label(rng, text) for text in dict.fromkeys(texts)]
                    value = top * 0.85**rank * rng.uniform(0.9, 1)
                    directions.append(
                        DirectionData(layer, recipe, rank, value, value / top / 7, rng.random() / 10, labels)
                    )
        name = f"{ORGS[number % len(ORGS)]}/{rng.choice(NOUNS)}-{rng.choice(('ddpm', 'ldm', 'sdxl', 'dit'))}-{number}"
        facts = SetFacts(f"/sets/{name}/{rng.getrandbits(64):016x}", f"{rng.getrandbits(256):064x}", NOW + number,
                         "eigenbank 0.1.0", "apache-2.0", None, None)  # fmt: skip
        layers = [LayerData(layer, "spatial", (320, 640, 1280)[number % 3], 8) for layer in LAYERS]
        denoiser = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")[number % 3]
        licence = ("mit", "apache-2.0", "openrail++", None)[number % 4]
        yield CheckpointData(name, "", denoiser, "", licence, None, SetData(facts, layers, directions))


def _label(rng: random.Random, text: str) -> LabelData:
    source = rng.choices(SOURCES, (30, 30, 20, 15, 0.01, 0.01))[0]
    if source.startswith("human"):
        return LabelData(text, source, 1, None, NOW, "seen by eye", None)
    effect = rng.gauss(0, 1)
    evidence = EvidenceData(effect, rng.random(), rng.random(), rng.random(), rng.choice(NOUNS), rng.gauss(0, 0.3),
                            *rng.choice(PROTOCOLS))  # fmt: skip
    return LabelData(text, source, 1 if effect > 0 else -1, rng.random(), NOW + rng.randrange(10**9), None, evidence)


Query = tuple[str, Callable[[Catalog, random.Random], object]]


def _deep(**search: object) -> Callable[[Catalog, random.Random], object]:
    """The 40th page of a search; the 39 before it are read once, outside of the clock."""
    cursors: dict[str, str | None] = {}

    def run(catalog: Catalog, _rng: random.Random) -> object:
        if catalog.place not in cursors:
            cursor = None
            for _ in range(39):
                cursor = catalog.search(**search, cursor=cursor).cursor or cursor  # type: ignore[arg-type]
            cursors[catalog.place] = cursor
        return catalog.search(**search, cursor=cursors[catalog.place])  # type: ignore[arg-type]

    return run


def _noun(rng: random.Random) -> str:
    return rng.choice(NOUNS)


QUERIES: dict[str, list[Query]] = {
    "text": [
        ("a word: smile", lambda c, r: c.search(_noun(r))),
        ("a prefix: smil", lambda c, r: c.search(_noun(r)[:3])),
        ("one letter: s", lambda c, r: c.search(r.choice("abcdefghlmnorstw"))),
        ("two words: long hair", lambda c, r: c.search(r.choice(TEXTS))),
        ('a phrase: "long hair"', lambda c, r: c.search(f'"{r.choice(TEXTS)}"')),
        ("label and layer: smile mid_block", lambda c, r: c.search(f"{_noun(r)} mid_block")),
        ("label and model: smile google", lambda c, r: c.search(f"{_noun(r)} {r.choice(ORGS)}")),
        ("layer alone: mid_block", lambda c, r: c.search("mid_block")),
        ("no such word", lambda c, r: c.search(f"qq{r.random()}")),
        ("word, one organisation's models", lambda c, r: c.search(_noun(r), model=f"{r.choice(ORGS)}/*")),
        ("word, confidence ≥ 0.9", lambda c, r: c.search(_noun(r), min_confidence=0.9)),
        ("word, a person's", lambda c, r: c.search(_noun(r), source="human")),
        ("word, layer glob", lambda c, r: c.search(_noun(r), layer="up_blocks.*")),
        ("word, rank 0", lambda c, r: c.search(_noun(r), rank=0)),
        ("word by eigenvalue", lambda c, r: c.search(_noun(r), sort="eigenvalue")),
        ("word by share", lambda c, r: c.search(_noun(r), sort="share")),
        ("word, page 40", _deep(text="smile", limit=50)),
        ("word by eigenvalue, page 40", _deep(text="smile", sort="eigenvalue", limit=50)),
    ],
    "filters": [
        ("all by eigenvalue", lambda c, r: c.search(sort="eigenvalue")),
        ("all by eigenvalue, page 40", _deep(sort="eigenvalue", limit=50)),
        ("all by confidence", lambda c, r: c.search(sort="confidence")),
        ("model glob", lambda c, r: c.search(model=f"{r.choice(ORGS)}/*")),
        ("model glob by eigenvalue", lambda c, r: c.search(model=f"{r.choice(ORGS)}/*", sort="eigenvalue")),
        ("layer glob by share", lambda c, r: c.search(layer="up_blocks.*", sort="share")),
        ("family and width", lambda c, r: c.search(denoiser="DiT*", width=1280)),
        ("recipe, rank 3 by eigenvalue", lambda c, r: c.search(recipe="output-value", rank=3, sort="eigenvalue")),
        ("eigenvalue range", lambda c, r: c.search(min_eigenvalue=10, max_eigenvalue=10.01)),
        ("share range", lambda c, r: c.search(min_share=0.05, max_share=0.0501)),
        ("a person's labels", lambda c, r: c.search(source="human:ann")),
        ("unlabelled", lambda c, r: c.search(labelled=False)),
        ("licence by confidence", lambda c, r: c.search(licence="mit", sort="confidence")),
    ],
    "one": [
        ("one model, 500 rows", lambda c, r: c.search(model=r.choice(_models(c)), limit=500)),
        (
            "one model, 500 rows, labels made into objects",
            lambda c, r: [row.labels for row in c.search(model=r.choice(_models(c)), limit=500)],
        ),
        (
            "one direction by its name",
            lambda c, r: c.get_direction(f"{r.choice(_models(c))}#{LAYERS[3]}/output-value/7"),
        ),
    ],
}
_known: dict[str, list[str]] = {}


def _models(catalog: Catalog) -> list[str]:
    if catalog.place not in _known:
        _known[catalog.place] = catalog.model_ids()
    return _known[catalog.place]


def fill(path: Path, size: int) -> dict[str, float]:
    """Make the catalog of a size, by one bulk import."""
    entries = list(generated(size // PER_MODEL))
    labels = sum(len(record.labels) for entry in entries for record in (entry.set.directions if entry.set else ()))
    with Catalog.open(path, shipped=False) as catalog:
        found = _rates(size, lambda: catalog.put(entries))
    return {**found, "labels": labels}


def _rates(directions: int, work: Callable[[], object]) -> dict[str, float]:
    """Directions per second, by the clock and by the processor's time: on a busy machine they differ."""
    started, before = time.perf_counter(), time.process_time()
    work()
    seconds, busy = time.perf_counter() - started, time.process_time() - before
    return {"seconds": seconds, "per_second": directions / seconds, "per_processor_second": directions / busy}


def measure_file(path: Path) -> dict[str, float]:
    """Directions per second when an export in JSON lines is imported into an empty catalog."""
    lines, target = path.with_suffix(".jsonl"), path.with_suffix(".again")
    for leftover in (lines, *target.parent.glob(f"{target.name}*")):
        leftover.unlink(missing_ok=True)
    with Catalog.open(path, shipped=False) as catalog:
        directions = export_file(catalog, lines).directions
    with Catalog.open(target, shipped=False) as catalog:
        found = _rates(directions, lambda: import_file(catalog, lines))
    for leftover in (lines, *target.parent.glob(f"{target.name}*")):
        leftover.unlink(missing_ok=True)
    return found


def measure_sets(path: Path, count: int = 20) -> dict[str, float]:
    """Directions per second when sets are added one by one to a full catalog, each in its own transaction."""
    entries = list(generated(count, seed=1))
    for entry in entries:
        entry.model_id = "one-by-one/" + entry.model_id.partition("/")[2]

    with Catalog.open(path, shipped=False) as catalog:
        return _rates(count * PER_MODEL, lambda: [catalog.put([entry]) for entry in entries])


def measure_queries(path: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds per query by the clock and of the processor, median and 99th percentile; on a busy machine only the
    processor's mean anything.
    """
    found = {}
    with Catalog.open(path, shipped=False) as catalog:
        for group, queries in QUERIES.items():
            for name, run in queries:
                rng = random.Random(7)
                clock, busy = [], []
                for _ in range(rounds + 1):
                    started, before = time.perf_counter(), time.process_time()
                    run(catalog, rng)
                    busy.append((time.process_time() - before) * 1000)
                    clock.append((time.perf_counter() - started) * 1000)
                # The first, cold one is left out.
                own = {}
                for what, times in (("clock", sorted(clock[1:])), ("processor", sorted(busy[1:]))):
                    own[f"{what}_p50"] = statistics.median(times)
                    own[f"{what}_p99"] = times[min(len(times) - 1, int(len(times) * 0.99))]
                found[f"{group}: {name}"] = own
    return found


def measure_cold(path: Path, rounds: int = 9) -> dict[str, float]:
    """Seconds of a search in a process of its own, against importing its three libraries; taken in turns."""
    environment = {**os.environ, "EIGENBANK_CATALOG": str(path)}
    commands = {
        "imports": [sys.executable, "-c", "import click, sqlalchemy, pydantic"],
        "search": [sys.executable, "-m", "eigenbank", "search", "smile"],
        "python": [sys.executable, "-c", "pass"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            times[name].append(time.perf_counter() - started)
    found = {name: statistics.median(values) for name, values in times.items()}
    return {**found, "ratio": found["search"] / found["imports"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/eigenbank-bench"))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, object] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "sizes": {},
    }
    sizes: dict[str, dict[str, object]] = {}
    for size in map(int, options.sizes.split(",")):
        path = options.folder / f"{size}.db"
        note = path.with_suffix(".json")
        if not path.exists():
            note.write_text(json.dumps(fill(path, size)))
        one: dict[str, object] = {"import": json.loads(note.read_text())}
        one["bytes_per_direction"] = path.stat().st_size / size
        one["milliseconds"] = measure_queries(path, options.rounds)
        copy = path.with_suffix(".copy")
        copy.write_bytes(path.read_bytes())
        one["one_by_one"] = measure_sets(copy)
        one["from_file"] = measure_file(path) if size <= 100_000 else None
        for leftover in options.folder.glob(f"{copy.name}*"):
            leftover.unlink()
        one["cold"] = measure_cold(path)
        sizes[str(size)] = one
    result["sizes"] = sizes
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(result))


def table(result: dict[str, object]) -> str:
    """The results as a table in Markdown: milliseconds at each size, and how much the largest costs against the smallest."""
    sizes: dict[str, dict[str, object]] = result["sizes"]  # type: ignore[assignment]
    names = list(sizes)
    head = [f"{int(name):,}" for name in names]
    lines = [
        "| p50 / p99, processor ms (p50 by the clock) | " + " | ".join(head) + " | growth of p50 |",
        "|---|" + "---:|" * (len(head) + 1),
    ]
    times = {name: one["milliseconds"] for name, one in sizes.items()}
    for query in times[names[0]]:  # type: ignore[attr-defined]
        own = [times[name][query] for name in names]  # type: ignore[index]
        cells = [f"{one['processor_p50']:.1f} / {one['processor_p99']:.1f} ({one['clock_p50']:.1f})" for one in own]
        growth = own[-1]["processor_p50"] / own[0]["processor_p50"]
        lines.append(f"| {query} | {' | '.join(cells)} | {growth:.2f} × |")
    for title, value in (
        ("import, directions/s", lambda one: f"{one['import']['per_second']:,.0f}"),
        ("import, directions per processor second", lambda one: f"{one['import']['per_processor_second']:,.0f}"),
        ("from JSON lines, directions/s", lambda one: one["from_file"] and f"{one['from_file']['per_second']:,.0f}"),
        (
            "from JSON lines, directions per processor second",
            lambda one: one["from_file"] and f"{one['from_file']['per_processor_second']:,.0f}",
        ),
        ("one set at a time, directions/s", lambda one: f"{one['one_by_one']['per_second']:,.0f}"),
        ("file, bytes per direction", lambda one: f"{one['bytes_per_direction']:.0f}"),
        ("labels", lambda one: f"{one['import']['labels']:,}"),
        ("cold `eigenbank search smile`, s", lambda one: f"{one['cold']['search']:.2f}"),
        ("… against importing click, sqlalchemy, pydantic", lambda one: f"{one['cold']['ratio']:.2f} ×"),
    ):
        lines.append(f"| {title} | " + " | ".join(value(sizes[name]) or "–" for name in names) + " | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
