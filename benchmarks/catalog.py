"""Measure the catalog: import, searches, file size and cold start, on generated catalogs of growing size.

    nice -n -5 python benchmarks/catalog.py

The catalogs are kept in --folder and made only once. Everything is measured in five runs or more, the sizes in turns, so
that what else the machine does is shared by all. Writes results/catalog.json beside this file, and from it the table in
docs/catalog-speed.md; `--table` makes that alone, of the results that are there. Run it on a machine with nothing else to do.
"""

import argparse
import json
import os
import platform
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from common import processor

from eigenbank.registry.catalog import Catalog, Page
from eigenbank.registry.catalog.content import (
    CheckpointData,
    CompositeData,
    DirectionData,
    EvidenceData,
    LabelData,
    LayerData,
    QualityData,
    SetData,
    SetFacts,
)
from eigenbank.registry.catalog.models import Base
from eigenbank.registry.catalog.transfer import Counts
from eigenbank.registry.catalog.whole import export_file, import_file

RESULTS = Path(__file__).with_name("results") / "catalog.json"
DOCS = Path(__file__).parents[1] / "docs" / "catalog-speed.md"
BEGIN, END = "<!-- written by benchmarks/catalog.py -->", "<!-- end -->"
RUNS = 5
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
    """Checkpoints with a set of 500 directions each, three labels per direction on average, and the quality of all that
    have a measured label; and with up to 11 composites, as labelling by eleven factors leaves.
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
                    labels = [_label(rng, text) for text in dict.fromkeys(texts)]
                    value = top * 0.85**rank * rng.uniform(0.9, 1)
                    directions.append(
                        DirectionData(
                            layer,
                            recipe,
                            rank,
                            value,
                            value / top / 7,
                            rng.random() / 10,
                            labels,
                            _quality(rng, labels),
                        )
                    )
        name = f"{ORGS[number % len(ORGS)]}/{rng.choice(NOUNS)}-{rng.choice(('ddpm', 'ldm', 'sdxl', 'dit'))}-{number}"
        facts = SetFacts(f"/sets/{name}/{rng.getrandbits(64):016x}", f"{rng.getrandbits(256):064x}", NOW + number,
                         "eigenbank 0.1.0", "apache-2.0", None, None)  # fmt: skip
        layers = [LayerData(layer, "spatial", (320, 640, 1280)[number % 3], 8) for layer in LAYERS]
        denoiser = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")[number % 3]
        licence = ("mit", "apache-2.0", "openrail++", None)[number % 4]
        composites = _composites(random.Random(f"{seed} {number}"))
        yield CheckpointData(name, "", denoiser, "", licence, None, SetData(facts, layers, directions, composites))


def _composites(rng: random.Random) -> list[CompositeData]:
    """By a source of numbers of its own: the directions stay what they are without."""
    found = []
    for noun in rng.sample(NOUNS, rng.randint(0, 11)):
        labels = [_label(rng, noun)]
        found.append(CompositeData(noun, labels, _quality(rng, labels)))
    return found


def _label(rng: random.Random, text: str) -> LabelData:
    source = rng.choices(SOURCES, (30, 30, 20, 15, 0.01, 0.01))[0]
    if source.startswith("human"):
        return LabelData(text, source, 1, None, NOW, "seen by eye", None)
    effect = rng.gauss(0, 1)
    evidence = EvidenceData(effect, rng.random(), rng.random(), rng.random(), rng.choice(NOUNS), rng.gauss(0, 0.3),
                            rng.random(),
                            *rng.choice(PROTOCOLS))  # fmt: skip
    return LabelData(text, source, 1 if effect > 0 else -1, rng.random(), NOW + rng.randrange(10**9), None, evidence)


def _quality(rng: random.Random, labels: list[LabelData]) -> QualityData | None:
    source = next((label.source for label in labels if label.evidence is not None), None)
    if source is None:
        return None
    reach = rng.choice((0.5, 1.0, 2.0))
    return QualityData(source, abs(rng.gauss(0, 1)), rng.random(), rng.randrange(7) / 6, rng.random(), (-reach, reach),
                       rng.random(), abs(rng.gauss(0, 0.3)), *rng.choice(PROTOCOLS))  # fmt: skip


ALONE = "the same rows by SQLite's driver alone"

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
        ("word, selectivity ≥ 0.8", lambda c, r: c.search(_noun(r), min_selectivity=0.8)),
        ("word, composites alone", lambda c, r: c.search(_noun(r), composites=True)),
        ("word, no composites", lambda c, r: c.search(_noun(r), composites=False)),
        ("word by eigenvalue", lambda c, r: c.search(_noun(r), sort="eigenvalue")),
        ("word by share", lambda c, r: c.search(_noun(r), sort="share")),
        ("smile, page 1", lambda c, r: c.search("smile")),
        ("smile, page 40", _deep(text="smile", limit=50)),
        ("smile by eigenvalue, page 1", lambda c, r: c.search("smile", sort="eigenvalue")),
        ("smile by eigenvalue, page 40", _deep(text="smile", sort="eigenvalue", limit=50)),
    ],
    "filters": [
        ("all by eigenvalue, page 1", lambda c, r: c.search(sort="eigenvalue")),
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
        ("all by linearity", lambda c, r: c.search(sort="linearity")),
        ("layer glob by consistency", lambda c, r: c.search(layer="up_blocks.*", sort="consistency")),
        ("composites", lambda c, r: c.search(composites=True)),
        ("composites by selectivity", lambda c, r: c.search(composites=True, sort="selectivity")),
        ("one organisation's composites", lambda c, r: c.search(model=f"{r.choice(ORGS)}/*", composites=True)),
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
        ("one composite by its name", lambda c, r: c.get_direction(f"{r.choice(_models(c))}#composite/{_noun(r)}")),
    ],
}
_known: dict[str, list[str]] = {}


def _models(catalog: Catalog) -> list[str]:
    if catalog.place not in _known:
        _known[catalog.place] = catalog.model_ids()
    return _known[catalog.place]


def fill(path: Path, size: int) -> dict[str, float]:
    """Make the catalog of a size, by one bulk import."""
    total = Counts()

    def counted() -> Iterator[CheckpointData]:
        nonlocal total
        for entry in generated(size // PER_MODEL):
            total = total.with_(entry)
            yield entry

    entries = Apart(counted())
    with Catalog.open(path, shipped=False) as catalog:
        started = time.process_time()
        catalog.put(entries)
        seconds = time.process_time() - started - entries.seconds
    return {"seconds": seconds, "per_second": size / seconds, "labels": total.labels, "composites": total.composites}


class Apart:
    """Entries whose making is timed by itself, so that it can be taken off."""

    def __init__(self, entries: Iterator[CheckpointData]) -> None:
        self.entries = entries
        self.seconds = 0.0

    def __iter__(self) -> Iterator[CheckpointData]:
        while True:
            started = time.process_time()
            entry = next(self.entries, None)
            self.seconds += time.process_time() - started
            if entry is None:
                return
            yield entry


Spread = dict[str, float]
"""The least, the median and the most of several runs."""


def spread(values: Sequence[float]) -> Spread:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def remove(path: Path) -> None:
    for leftover in path.parent.glob(f"{path.name}*"):
        leftover.unlink()


def measure_imports(folder: Path, size: int) -> dict[str, Spread]:
    """Directions per second into an empty catalog: in bulk, from an export in JSON lines, and from another catalog's file;
    and of the database alone.
    """
    again, lines, copy = folder / "again", folder / "export.jsonl", folder / "copy.db"
    rates: dict[str, list[float]] = {"in bulk": [], "from JSON lines": [], "from a catalog's file": [], ALONE: []}
    for _ in range(RUNS):
        for leftover in (again, lines, copy):
            remove(leftover)
        rates["in bulk"].append(fill(again, size)["per_second"])
        with Catalog.open(again, shipped=False) as catalog:
            export_file(catalog, lines)
            export_file(catalog, copy)
        for what, file in (("from JSON lines", lines), ("from a catalog's file", copy)):
            remove(again)
            with Catalog.open(again, shipped=False) as catalog:
                started = time.process_time()
                import_file(catalog, file)
                rates[what].append(size / (time.process_time() - started))
        rates[ALONE].append(size / by_the_database(copy, again))
    for leftover in (again, lines, copy):
        remove(leftover)
    return {what: spread(values) for what, values in rates.items()}


def by_the_database(path: Path, again: Path) -> float:
    """Seconds that SQLite's driver takes for a catalog's rows, one after the other, and for the indexes behind them: what an
    import comes to beside making the rows. Without the word indexes, which are of few texts.
    """
    remove(again)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(again, isolation_level=None)) as target:
        names = [table.name for table in Base.metadata.sorted_tables]
        rows = {name: source.execute(f"SELECT * FROM {name}").fetchall() for name in names}
        schema = "SELECT sql FROM sqlite_master WHERE type = ? AND sql IS NOT NULL AND tbl_name = ?"
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -512000", "foreign_keys = ON"):
            target.execute(f"PRAGMA {pragma}")
        for name in names:
            target.execute(*source.execute(schema, ("table", name)).fetchone())
        started = time.process_time()
        target.execute("BEGIN IMMEDIATE")
        for name in names:
            if rows[name]:
                target.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(rows[name][0]))})", rows[name])
        for name in names:
            for (statement,) in source.execute(schema, ("index", name)):
                target.execute(statement)
        target.execute("COMMIT")
        return time.process_time() - started


def measure_sets(path: Path, count: int = 10) -> Spread:
    """Directions per second when sets are added one by one to a full catalog, each in its own transaction."""
    copy = path.with_suffix(".one")
    remove(copy)
    shutil.copyfile(path, copy)
    rates = []
    with Catalog.open(copy, shipped=False) as catalog:
        for run in range(RUNS):
            entries = list(generated(count, seed=run + 1))
            for entry in entries:
                entry.model_id = f"one-by-one/{run}-{entry.model_id.partition('/')[2]}"
            started = time.process_time()
            for entry in entries:
                catalog.put([entry])
            rates.append(count * PER_MODEL / (time.process_time() - started))
    remove(copy)
    return spread(rates)


def measure_queries(paths: dict[str, Path], rounds: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Milliseconds of every query at every size: the medians of the runs and p99 of all, by the processor's time and by
    the clock. A run asks them all, the sizes in turns: a minute in which the machine is slow is one run's, not one query's.
    """
    queries = {f"{group}: {name}": run for group, own in QUERIES.items() for name, run in own}
    times: dict[str, dict[str, list[list[tuple[float, float, int]]]]] = {
        name: {size: [] for size in paths} for name in queries
    }
    with ExitStack() as stack:
        catalogs = {size: stack.enter_context(Catalog.open(path, shipped=False)) for size, path in paths.items()}
        for number in range(RUNS):
            for name, run in queries.items():
                for size, values in _in_turns(catalogs, run, rounds, number).items():
                    times[name][size].append(values)
            print(f"queries: {number + 1} of {RUNS} runs", file=sys.stderr, flush=True)
    return {
        name: {
            size: {
                "medians": (medians := [statistics.median(busy for _, busy, _ in values) for values in runs]),
                "p50": spread(medians),
                "clock_p50": spread([statistics.median(clock for clock, _, _ in values) for values in runs]),
                "p99": sorted(busy for _, busy, _ in chain(*runs))[int(len(runs) * rounds * 0.99)],
                "clock_p99": sorted(clock for clock, _, _ in chain(*runs))[int(len(runs) * rounds * 0.99)],
                "rows": statistics.mean(rows for _, _, rows in chain(*runs)),
            }
            for size, runs in own.items()
        }
        for name, own in times.items()
    }


def _in_turns(
    catalogs: dict[str, Catalog], run: Any, rounds: int, number: int
) -> dict[str, list[tuple[float, float, int]]]:
    """Milliseconds by the clock and by the processor, and the rows of the answer, of one run."""
    times: dict[str, list[tuple[float, float, int]]] = {size: [] for size in catalogs}
    sources = {size: random.Random(number) for size in catalogs}
    for catalog in catalogs.values():
        run(catalog, random.Random(-1))  # statements are compiled once, outside of the clock
    for _ in range(rounds):
        for size, catalog in catalogs.items():
            started, before = time.perf_counter(), time.process_time()
            answer = run(catalog, sources[size])
            busy, clock = time.process_time() - before, time.perf_counter() - started
            rows = len(answer) if isinstance(answer, Page | list) else answer is not None
            times[size].append((clock * 1000, busy * 1000, int(rows)))
    return times


def measure_cold(path: Path, rounds: int = 9) -> dict[str, Spread]:
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
    ratios = [one / other for one, other in zip(times["search"], times["imports"], strict=True)]
    return {**{name: spread(values) for name, values in times.items()}, "ratio": spread(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/eigenbank-bench"))
    parser.add_argument("--rounds", type=int, default=60, help="times a query is asked in each of the five runs")
    parser.add_argument("--table", action="store_true", help="only write the table of the results that are there")
    options = parser.parse_args()
    if not options.table:
        result = measure(options.folder, options.sizes.split(","), options.rounds)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = DOCS.read_text(encoding="utf-8")
    before, mark, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    made = table(json.loads(RESULTS.read_text(encoding="utf-8")))
    DOCS.write_text(f"{before}{mark}\n{made}\n{END}{after}", encoding="utf-8")


def measure(folder: Path, sizes: list[str], rounds: int) -> dict[str, Any]:
    """Everything, as the document that is written to results."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {size: folder / f"{size}.db" for size in sizes}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {processor()}",
        "load": [os.getloadavg()],
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "sqlalchemy": version("sqlalchemy"),
        "pydantic": version("pydantic"),
        "commit": commit,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "sizes": {},
    }
    for size, path in paths.items():
        note = path.with_suffix(".json")
        if not path.exists():
            note.write_text(json.dumps(fill(path, int(size))))
        one = json.loads(note.read_text())
        one["bytes_per_direction"] = path.stat().st_size / int(size)
        one["one_by_one"] = measure_sets(path)
        one["cold"] = measure_cold(path)
        result["sizes"][size] = one
    result["imports"] = {"size": sizes[0], **measure_imports(folder, int(sizes[0]))}
    result["milliseconds"] = measure_queries(paths, rounds)
    result["load"].append(os.getloadavg())
    return result


def table(result: dict[str, Any]) -> str:
    """The results in Markdown: what was asked for and what was found, then every query at every size."""
    sizes, queries = result["sizes"], result["milliseconds"]
    first, last = next(iter(sizes)), list(sizes)[-1]
    large = sizes[last]
    text = {name: one[last] for name, one in queries.items() if name.startswith("text")}
    growth = {name: _ratio(one[last], one[first]) for name, one in queries.items()}
    deep = {
        name: _ratio(one[last], queries[name.removesuffix("40") + "1"][last])
        for name, one in queries.items()
        if name.endswith("page 40")
    }
    slow = [name for name, one in text.items() if one["p50"]["median"] > 10]
    late = [name for name, one in text.items() if one["p99"] > 50]
    many = [name for name, one in growth.items() if one >= 2]
    alike = [name for name in many if queries[name][last].get("rows", 0) <= 1.5 * queries[name][first].get("rows", 0)]
    whole = queries["one: one model, 500 rows"][last]["p50"]
    rows = [
        ("text search, p50 ≤ 10 ms", f"{max(one['p50']['median'] for one in text.values()):.1f} ms the slowest", slow),
        ("text search, p99 ≤ 50 ms", f"{max(one['p99'] for one in text.values()):.1f} ms the slowest", late),
        ("everything of one model, 500 rows ≤ 5 ms", f"{_three(whole)} ms", whole["median"] > 5),
        (
            "a page deep inside costs as a first page",
            f"{max(deep.values()):.2f} × the worst",
            max(deep.values()) > 1.25,
        ),
        (f"growth from {int(first):,} to {int(last):,} < 2 ×", f"{max(growth.values()):.2f} × the worst", many),
        (
            "… of those whose answers are about as long",
            f"{max((growth[name] for name in alike), default=0):.2f} × the worst" if alike else "all below",
            alike,
        ),
        ("import ≥ 20,000 directions/s, in bulk", f"{large['per_second']:,.0f}", large["per_second"] < 20_000),
        *(
            (
                f"… {what}, {int(result['imports']['size']):,}",
                _three(rate, ",.0f"),
                None if what == ALONE else rate["median"] < 20_000,
            )
            for what, rate in result["imports"].items()
            if isinstance(rate, dict)
        ),
        ("file ≤ 600 bytes per direction", f"{large['bytes_per_direction']:.0f}", large["bytes_per_direction"] > 600),
        (
            "cold search ≤ 2.5 × its imports",
            f"{_three(large['cold']['ratio'], '.2f')} ×",
            large["cold"]["ratio"]["median"] > 2.5,
        ),
    ]
    loads = " and ".join(f"{load[0]:.1f}" for load in result["load"])
    head = [f"{int(name):,}" for name in sizes]
    lines = [
        f"{result['machine']}; Python {result['python']}, SQLite {result['sqlite']}, SQLAlchemy {result['sqlalchemy']}, "
        f"pydantic {result['pydantic']}; commit {result['commit'][:12]}; {result['when'][:10]}. Load average {loads} before "
        "and after. Milliseconds and rates of import are by the processor's time: the clock would count the turns of "
        "whatever else runs, too (the clock's milliseconds are in the results). "
        f"{large['labels']:,} labels on "
        f"{int(last):,} directions and {large['composites']:,} composites. Three numbers are the least, the median and the most of {RUNS} runs.",
        "",
        "| asked for | found | |",
        "|---|---:|---|",
        *(f"| {asked} | {found} | {_verdict(missed)} |" for asked, found, missed in rows),
        "",
        "| ms: median of runs / p99 | " + " | ".join(head) + " | growth |",
        "|---|" + "---:|" * (len(head) + 1),
    ]
    for query, own in queries.items():
        cells = [f"{one['p50']['median']:.1f} / {one['p99']:.1f}" for one in own.values()]
        rows_of = [own[size].get("rows", 0) for size in (first, last)]
        longer = f" (of {rows_of[0]:.0f} → {rows_of[1]:.0f} rows)" if rows_of[1] > 1.5 * rows_of[0] else ""
        lines.append(f"| {query} | {' | '.join(cells)} | {growth[query]:.2f} ×{longer} |")
    lines += ["", "| | " + " | ".join(head) + " |", "|---|" + "---:|" * len(head)]
    for title, value in (
        ("filled in bulk, directions/s", lambda one: f"{one['per_second']:,.0f}"),
        ("a set at a time, directions/s", lambda one: _three(one["one_by_one"], ",.0f")),
        ("file, bytes per direction", lambda one: f"{one['bytes_per_direction']:.0f}"),
        ("cold `eigenbank search smile`, s", lambda one: _three(one["cold"]["search"], ".2f")),
        ("… against importing click, sqlalchemy, pydantic", lambda one: _three(one["cold"]["ratio"], ".2f")),
    ):
        lines.append(f"| {title} | " + " | ".join(value(one) for one in sizes.values()) + " |")
    return "\n".join(lines)


def _ratio(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The median of the runs' ratios: within a run the machine is about as fast for both."""
    return statistics.median(a / b for a, b in zip(one["medians"], other["medians"], strict=True))


def _verdict(missed: bool | list[str] | None) -> str:
    """Of what was asked for; None was not."""
    if missed is None:
        return ""
    if isinstance(missed, bool):
        return "missed" if missed else "met"
    return f"missed by {'; '.join(one.partition(': ')[2] for one in missed)}" if missed else "met"


def _three(found: Spread, form: str = ".1f") -> str:
    return " / ".join(format(found[which], form) for which in ("min", "median", "max"))


if __name__ == "__main__":
    main()
