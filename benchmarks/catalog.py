"""Measure the catalog: indexing, searches, size and cold start, on generated catalogs of growing size.

    python benchmarks/catalog.py                     # 10,000 and 100,000 directions
    python benchmarks/catalog.py --sizes 1000000     # a million: half an hour, 3 GB of memory, 1.2 GB of disk

Prints one table, and writes results/catalog.json beside this file. Catalogs are kept in --folder and made once. Times are of the
processor, so that what else the machine does counts little.
"""

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from common import processor

from eigenbank.registry.catalog import Catalog, Page, SetEntry
from eigenbank.schemas import (
    Checkpoint,
    CompositeRecord,
    DirectionRecord,
    Evidence,
    Label,
    Layer,
    Manifest,
    Quality,
    Recipe,
)
from eigenbank.schemas.direction import Weighted

RESULTS = Path(__file__).with_name("results") / "catalog.json"
PER_MODEL = 500
RANKS = 25
LAYERS = ("down_blocks.1.attentions.0", "down_blocks.2.attentions.0", "down_blocks.2.attentions.1",
          "mid_block.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1", "up_blocks.0.attentions.2",
          "up_blocks.1.attentions.0", "up_blocks.1.attentions.1", "up_blocks.2.attentions.0")  # fmt: skip
RECIPES = tuple(map(Recipe.parse, ("output-value", "output-value:output")))
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
PROTOCOLS = [{"scale": scale, "steps": 10, "seeds": tuple(range(first, first + 24))}
             for scale in (0.5, 1.0, 1.5) for first in (100, 200)]  # fmt: skip
NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)


def generated(models: int, seed: int = 0) -> Iterator[SetEntry]:
    """Sets of 500 directions, three labels each on average, with the quality of all that have a measured label, and up to 11
    composites each.
    """
    rng = random.Random(seed)
    weights = [1 / (place + 3) for place in range(len(TEXTS))]
    for number in range(models):
        directions = []
        for layer in LAYERS:
            for recipe in RECIPES:
                top = rng.uniform(1, 100)
                for rank in range(RANKS):
                    texts = rng.choices(TEXTS, weights, k=rng.choice((0, 1, 2, 3, 4, 5, 6)))
                    labels = tuple(_label(rng, text) for text in dict.fromkeys(texts))
                    value = top * 0.85**rank * rng.uniform(0.9, 1)
                    directions.append(DirectionRecord(
                        layer=layer, recipe=recipe, rank=rank, eigenvalue=value, share=value / top / 7, gap=rng.random() / 10,
                        labels=labels, quality=_quality(rng, labels),
                    ))  # fmt: skip
        name = f"{ORGS[number % len(ORGS)]}/{rng.choice(NOUNS)}-{rng.choice(('ddpm', 'ldm', 'sdxl', 'dit'))}-{number}"
        denoiser = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")[number % 3]
        licence = ("mit", "apache-2.0", "openrail++", None)[number % 4]
        width = (320, 640, 1280)[number % 3]
        manifest = Manifest(
            checkpoint=Checkpoint(model_id=name, denoiser=denoiser, licence=licence),
            created=NOW + timedelta(microseconds=number),
            builder="eigenbank 0.1.0",
            layers=tuple(Layer(name=layer, kind="spatial", width=width, heads=8, tensors={}) for layer in LAYERS),
            directions=tuple(directions),
            composites=tuple(_composites(random.Random(f"{seed} {number}"), directions[0].id)),
        )
        yield SetEntry(manifest, f"/sets/{name}/{rng.getrandbits(64):016x}", f"{rng.getrandbits(256):064x}")


def _composites(rng: random.Random, part: str) -> Iterator[CompositeRecord]:
    for noun in rng.sample(NOUNS, rng.randint(0, 11)):
        labels = (_label(rng, noun),)
        parts = (Weighted(direction=part, weight=1),)
        yield CompositeRecord(name=noun, parts=parts, labels=labels, quality=_quality(rng, labels))


def _label(rng: random.Random, text: str) -> Label:
    source = rng.choices(SOURCES, (30, 30, 20, 15, 0.01, 0.01))[0]
    if source.startswith("human"):
        return Label(text=text, source=source, created=NOW, note="seen by eye")
    effect = rng.gauss(0, 1)
    evidence = Evidence(
        effect=effect, selectivity=rng.random(), consistency=rng.random(), asymmetry=rng.random(), null=rng.random(),
        runner_up=rng.choice(NOUNS), runner_up_effect=rng.gauss(0, 0.3), **rng.choice(PROTOCOLS),
    )  # fmt: skip
    created = NOW + timedelta(microseconds=rng.randrange(10**9))
    sign = 1 if effect > 0 else -1
    return Label(text=text, source=source, polarity=sign, confidence=rng.random(), created=created, evidence=evidence)


def _quality(rng: random.Random, labels: tuple[Label, ...]) -> Quality | None:
    source = next((label.source for label in labels if label.evidence is not None), None)
    if source is None:
        return None
    reach = rng.choice((0.5, 1.0, 2.0))
    return Quality(
        source=source, effect=abs(rng.gauss(0, 1)), selectivity=rng.random(), consistency=rng.randrange(7) / 6,
        linearity=rng.random(), recommended_range=(-reach, reach), locality=rng.random(), drift=abs(rng.gauss(0, 0.3)),
        **rng.choice(PROTOCOLS),
    )  # fmt: skip


Query = tuple[str, Callable[[Catalog, random.Random], object]]


def _deep(**search: Any) -> Callable[[Catalog, random.Random], object]:
    """The 40th page of a search; the 39 before it are read once, outside of the clock."""
    cursors: dict[str, str | None] = {}

    def run(catalog: Catalog, _rng: random.Random) -> object:
        if catalog.place not in cursors:
            cursor = None
            for _ in range(39):
                cursor = catalog.search(**search, cursor=cursor).cursor or cursor
            cursors[catalog.place] = cursor
        return catalog.search(**search, cursor=cursors[catalog.place])

    return run


def _noun(rng: random.Random) -> str:
    return rng.choice(NOUNS)


QUERIES: list[Query] = [
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
    ("word, one model", lambda c, r: c.search(_noun(r), model=r.choice(_models(c)))),
    ("word, confidence ≥ 0.9", lambda c, r: c.search(_noun(r), min_confidence=0.9)),
    ("word, a person's", lambda c, r: c.search(_noun(r), source="human")),
    ("word, layer glob", lambda c, r: c.search(_noun(r), layer="up_blocks.*")),
    ("word, rank 0", lambda c, r: c.search(_noun(r), rank=0)),
    ("word, selectivity ≥ 0.8", lambda c, r: c.search(_noun(r), min_selectivity=0.8)),
    ("word, composites alone", lambda c, r: c.search(_noun(r), composites=True)),
    ("word by eigenvalue", lambda c, r: c.search(_noun(r), sort="eigenvalue")),
    ("word by share", lambda c, r: c.search(_noun(r), sort="share")),
    ("smile, page 40", _deep(text="smile", limit=50)),
    ("smile by eigenvalue, page 40", _deep(text="smile", sort="eigenvalue", limit=50)),
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
    ("selectivity ≥ 0.98, drift ≤ 0.05", lambda c, r: c.search(min_selectivity=0.98, max_drift=0.05)),
    ("all by drift", lambda c, r: c.search(sort="drift")),
    ("layer glob by consistency", lambda c, r: c.search(layer="up_blocks.*", sort="consistency")),
    ("composites by selectivity", lambda c, r: c.search(composites=True, sort="selectivity")),
    ("one organisation's composites", lambda c, r: c.search(model=f"{r.choice(ORGS)}/*", composites=True)),
    ("licence by confidence", lambda c, r: c.search(licence="mit", sort="confidence")),
    ("one model, 500 rows", lambda c, r: c.search(model=r.choice(_models(c)), limit=500)),
    ("one direction by its name", lambda c, r: c.get_direction(f"{r.choice(_models(c))}#{LAYERS[3]}/output-value/7")),
]
_known: dict[str, list[str]] = {}


def _models(catalog: Catalog) -> list[str]:
    if catalog.place not in _known:
        _known[catalog.place] = catalog.model_ids()
    return _known[catalog.place]


def fill(path: Path, size: int) -> float:
    """Make the catalog of a size. Returns directions indexed per second, the time of generating them taken off."""
    making = 0.0

    def apart() -> Iterator[SetEntry]:
        nonlocal making
        entries = generated(size // PER_MODEL)
        while True:
            started = time.process_time()
            entry = next(entries, None)
            making += time.process_time() - started
            if entry is None:
                return
            yield entry

    work = path.with_suffix(".partial")
    work.unlink(missing_ok=True)
    with Catalog.open(work, shipped=False) as catalog:
        started = time.process_time()
        catalog.add_sets(apart())
        seconds = time.process_time() - started - making
    work.rename(path)
    return size / seconds


def shown(found: object) -> int:
    """Read what the command line's table shows of a page, which is decompressed only then."""
    return sum(len(f"{row.id} {row.label_texts} {row.confidence}") for row in found) if isinstance(found, Page) else 0


def measure_queries(path: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of processor time of each query and of reading its page: median, 99th percentile, most."""
    found = {}
    with Catalog.open(path, shipped=False) as catalog:
        for name, query in QUERIES:
            rng = random.Random(name)
            shown(query(catalog, rng))
            times = []
            for _ in range(repeats):
                started = time.process_time()
                shown(query(catalog, rng))
                times.append((time.process_time() - started) * 1000)
            times.sort()
            found[name] = {"p50": statistics.median(times), "p99": times[int(len(times) * 0.99)], "max": times[-1]}
    return found


def measure_cold(path: Path, runs: int = 3) -> dict[str, float]:
    """Seconds of processor time of a first search in a process of its own, and of its imports alone."""
    imports = "from eigenbank.registry.catalog import Catalog"
    search = f"{imports}\nwith Catalog.open({str(path)!r}, shipped=False) as catalog:\n    print(len(catalog.search('smile')))"

    def best(code: str) -> float:
        seconds = []
        for _ in range(runs):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return statistics.median(seconds)

    alone, whole = best(imports), best(search)
    return {"imports_s": alone, "search_s": whole, "ratio": whole / alone}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--folder", type=Path, default=Path("~/.cache/eigenbank-benchmarks"))
    parser.add_argument("--repeats", type=int, default=100)
    options = parser.parse_args()
    folder = options.folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    machine = {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    if results.get("machine") != machine or "sizes" not in results:
        results = {"machine": machine, "sizes": {}}
    for size in options.sizes:
        path = folder / f"catalog-{size}.db"
        found = results["sizes"].setdefault(str(size), {})
        if not path.exists():
            found["indexed_per_second"] = fill(path, size)
        found["bytes_per_direction"] = path.stat().st_size / size
        found["queries_ms"] = measure_queries(path, options.repeats)
        found["cold"] = measure_cold(path)
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        print_table(size, found)


def print_table(size: int, found: dict[str, Any]) -> None:
    rate, room, cold = found.get("indexed_per_second"), found["bytes_per_direction"], found["cold"]
    print(f"\n{size:,} directions: {room:,.0f} bytes each", end="" if rate is None else f", indexed at {rate:,.0f}/s")
    print(f"; cold search {cold['search_s']:.2f} s, {cold['ratio']:.2f} × its imports\n")
    print("| query | p50 ms | p99 ms |\n|---|---|---|")
    for name, times in found["queries_ms"].items():
        print(f"| {name} | {times['p50']:.1f} | {times['p99']:.1f} |")


if __name__ == "__main__":
    main()
