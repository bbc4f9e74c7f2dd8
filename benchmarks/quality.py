"""Do eigen-directions make better sliders than chance, and how near do they come to methods that sample?

    make bench-quality                                 # 24 seeds, one draw of each control: an hour on two cores
    python benchmarks/quality.py --device cuda --seeds 192 --find 32 --draws 4 --cache FOLDER --readings FILE
    python benchmarks/quality.py --read FILE           # the page again, of readings that were kept

The cartoon faces' factors are known, and each of its pictures can be read. Every method gives the same number of
directions, added at the same relative length, drawn from the same held-out seeds. What a direction does is found out on some
of them and told of others. A run cut short goes on.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import click
import faces
import torch
from common import about, save
from faces.render import render
from quality_page import COMPARED, CURVES, LINES, as_markdown, draw_bars, draw_curves
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from ways import (
    BOTTOM,
    CHANCE,
    GAUSSIAN,
    OURS,
    RANDOM,
    SIZES,
    UNTRAINED,
    Method,
    chosen_of,
    composites,
    elsewhere,
    jacobian,
    of_bank,
    principal,
    rotated,
    untrained,
)  # fmt: skip

from eigenbank.api import build, open_pipeline
from eigenbank.builders.label.attributes import AttributeModel, load_attribute_model
from eigenbank.builders.label.composites import NORM
from eigenbank.builders.label.criteria import Effects, effects
from eigenbank.loaders.lengths import measure as measure_lengths
from eigenbank.loaders.sample import sample
from eigenbank.registry.sets.direction_set import DirectionSet

SCALE = 0.7
"""Directions are drawn at plus and minus this, and for their linearity at half of it too."""
COVERED = 0.35, 1 / 3
"""A factor is covered by a direction with at least this effect and this selectivity."""
BATCH = {"cpu": 48, "cuda": 2048}
SEARCH = range(6500, 6508)
"""Seeds that tell which factor a direction moves, and which way; composites and rotations are fitted on them."""
REPORT = 6000
"""The first of the seeds that the figures are of."""
LINEAR = 4
"""Seeds for linearity."""
RESAMPLES = 400
DEMANDS = tuple(round(0.05 * number, 2) for number in range(31))
"""Effects that may be demanded of a direction, for the curve of what is covered."""


@dataclass(frozen=True, eq=False)
class Readings:
    """What a method's directions did: `search` and `report`, the effects on the one and the other seeds; `half` at half the
    scale on the first of those that report, if at all, and `full` on the same at the whole. `misfit` and `base_misfit`: root
    mean square difference of the edited and of the unedited pictures from a render of what was read off them, images in [0, 1].
    """

    search: Effects | None
    report: Effects
    half: Effects | None
    full: Effects | None
    misfit: float
    base_misfit: float

    def parts(self) -> dict[str, Effects]:
        """The effects that there are, by name."""
        return {name: part for name in PARTS if (part := getattr(self, name)) is not None}

    def of(self, change: Callable[[str, Effects], Effects]) -> "Readings":
        """The same with all effects changed."""
        return replace(self, **{name: change(name, part) for name, part in self.parts().items()})

    def first(self, per_layer: int, of: int) -> "Readings":
        """Those of the first `per_layer` directions of each layer, of which there are `of`."""
        rows = [row for row in range(len(self.report.odd)) if row % of < per_layer]
        return self.of(lambda _name, part: part.rows(rows))


PARTS = ("search", "report", "half", "full")
Found = dict[str, list[Readings]]
"""By method, for each of its draws: what its directions did."""


Read = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From images `(n, 3, h, w)` what is read off them, `(n, f)`, and `(n,)` how far each is from what it should be a picture of."""


def face_reader(model: AttributeModel) -> Read:
    """Reads faces; how far a picture is from any face is how far it is from the render of what was read."""

    def read(images: Tensor) -> tuple[Tensor, Tensor]:
        values = model.read(images)
        again = (render(values, size=images.shape[-1]) + 1) / 2
        return values, (images - again).square().flatten(1).mean(dim=1).sqrt()

    return read


class Measure:
    """Draws and reads directions; batches that were drawn before are not again. `std` `(f,)` are the readings' deviations."""

    def __init__(
        self,
        pipe: Any,
        reader: Read,
        std: Tensor,
        report: range,
        steps: int,
        cache: Path,
        progress: Progress,
        search: range = SEARCH,
        linear: int = LINEAR,
        scale: float = SCALE,
        batch: int | None = None,
    ) -> None:
        self.pipe = pipe
        self.device = pipe.device
        self.reader = reader
        self.std = std
        self.search = search
        self.linear = linear
        self.report = report
        self.steps = steps
        self.cache = cache
        self.scale = scale
        self.batch = batch or BATCH[self.device.type]
        self.progress = progress
        self._base: dict[range, tuple[Tensor, Tensor]] = {}

    def __call__(self, method: Method) -> Readings:
        """Everything that is measured of a method."""
        report, misfit = self.effects(method, self.report, self.scale)
        half = self.effects(method, self.report[: self.linear], self.scale / 2)[0] if self.linear else None
        full = report.on(torch.arange(len(self.report[: self.linear]))) if self.linear else None
        search = None if method.made else self.effects(method, self.search, self.scale)[0]
        return Readings(search, report, half, full, misfit, float(self.base(self.report)[1].mean()))

    def effects(self, method: Method, seeds: range, scale: float) -> tuple[Effects, float]:
        """The effects of a method's directions on some seeds, and how far the pictures are from any face."""
        base = self.base(seeds)[0]
        jobs = [(k, sign * scale, seed) for k in range(method.count) for sign in (1, -1) for seed in seeds]
        bar = self.progress.add_task(f"{method.name}, {len(seeds)} seeds at ±{scale:g}", total=len(jobs))
        read, misfit = [], []
        for start in range(0, len(jobs), self.batch):
            part = jobs[start : start + self.batch]
            key = f"{method.digest} {method.count} {self.steps} {seeds} {scale} {self.batch} {start}"
            path = self.cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
            if not path.exists():
                with method.added([(k, amount) for k, amount, _ in part]):
                    found = self.read([seed for _, _, seed in part])
                save_file(dict(zip(("read", "misfit"), found, strict=True)), path)
            kept = load_file(path)
            read.append(kept["read"])
            misfit.append(kept["misfit"])
            self.progress.update(bar, advance=len(part))
        self.progress.remove_task(bar)
        edited = torch.cat(read).reshape(method.count, 2, len(seeds), -1)
        return effects(base, edited[:, 0], edited[:, 1], self.std, scale), float(torch.cat(misfit).mean())

    def base(self, seeds: range) -> tuple[Tensor, Tensor]:
        """Readings of the unedited pictures, and their misfit."""
        if seeds not in self._base:
            self._base[seeds] = self.read(list(seeds))
        return self._base[seeds]

    def read(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Pictures drawn from the seeds: what is read off them `(n, f)`, and `(n,)` how far they are from what they should be."""
        values, misfit = self.reader(sample(self.pipe, seeds, self.steps).to(self.device))
        return values.cpu(), misfit.cpu()


def figures(draws: Sequence[Readings]) -> dict[str, Any]:
    """The columns of the table for one method, the mean over its draws, each with the 5th and 95th percentile over resamples
    of seeds and draws.
    """
    drawn = resampled(tuple(draws))
    told: dict[str, Any] = {name: [round(value, 4), *_percentiles(drawn[name])] for name, value in whole(draws).items()}
    told["misfit"] = round(sum(each.misfit for each in draws) / len(draws), 4)
    told["misfit_unedited"] = round(draws[0].base_misfit, 4)
    return told


def whole(draws: Sequence[Readings]) -> dict[str, float]:
    """Every column on all the seeds, the mean over a method's draws."""
    found = [columns(each) for each in draws]
    return {name: sum(each[name] for each in found) / len(found) for name in found[0]}


@cache
def resampled(draws: tuple[Readings, ...]) -> dict[str, Tensor]:
    """Every column over resamples of seeds and draws, `(RESAMPLES,)`: of seeds the same for all methods on as many."""
    generators = {name: torch.Generator().manual_seed(number) for number, name in enumerate(("", *PARTS))}
    counts = {name: part.odd.shape[1] for name, part in draws[0].parts().items()}
    rows = []
    for _ in range(RESAMPLES):
        seeds = {name: torch.randint(n, (n,), generator=generators[name]) for name, n in counts.items()}
        seeds["full"] = seeds.get("half", seeds["report"])
        picked = torch.randint(len(draws), (len(draws),), generator=generators[""]).tolist()
        at = {
            draw: columns(draws[draw].of(lambda name, part, seeds=seeds: part.on(seeds[name]))) for draw in set(picked)
        }
        rows.append({name: sum(at[draw][name] for draw in picked) / len(picked) for name in at[picked[0]]})
    return {name: torch.tensor([each[name] for each in rows]) for name in rows[0]}


def against(one: Sequence[Readings], other: Sequence[Readings]) -> dict[str, list[float]]:
    """How much more of the columns one method has than another, with percentiles over the same resamples for both."""
    mine, theirs = resampled(tuple(one)), resampled(tuple(other))
    full, rest = whole(one), whole(other)
    return {name: [round(full[name] - rest[name], 4), *_percentiles(mine[name] - theirs[name])] for name in COMPARED}


def _at(demand: float) -> str:
    return f"covered at {demand}"


def _percentiles(values: Tensor) -> list[float]:
    return [round(float(values.quantile(q)), 4) for q in (0.05, 0.95)]


def columns(found: Readings) -> dict[str, float]:
    """What is told of a method, where the seeds that search say which factor is whose, and which way."""
    search, report, half, full = found.search, found.report, found.half, found.full
    mean = report.mean
    count = mean.shape[1]
    # Each direction's factor, the sign it is moved with, and each factor's strongest direction.
    guess = torch.eye(count) if search is None else search.mean
    led, strongest = guess.abs().argmax(dim=1), guess.abs().argmax(dim=0)
    rows = torch.arange(len(led))
    sign = guess[rows, led].sign()
    effect = mean[rows, led] * sign
    selectivity = effect / mean.abs().sum(dim=1).clamp_min(1e-12)
    selective = selectivity >= COVERED[1]
    own = torch.nn.functional.one_hot(led, count).bool()
    # For each factor the largest effect of a direction that is selective enough, none being 0.
    reach = (own * (effect * selective)[:, None]).amax(dim=0).clamp_min(0)
    # For each factor the direction one would take: of those seen to move it enough, the one seen to be most selective.
    seen = guess.abs()[rows, led]
    worth = own * torch.where(seen >= COVERED[0], seen / guess.abs().sum(dim=1).clamp_min(1e-12), 0)[:, None]
    taken = worth.argmax(dim=0)
    holds = (worth.amax(dim=0) > 0) & (effect[taken] >= COVERED[0])
    told = {
        "covered": float((reach >= COVERED[0]).sum()),
        "reach": float(reach.mean()),
        "picked": float((selectivity[taken] * holds).mean()),
        "sliders": float(((effect >= COVERED[0]) & selective).float().mean()),
        "effect": float(effect.mean()),
        "best": float((mean[strongest, torch.arange(count)] * guess[strongest, torch.arange(count)].sign()).mean()),
        "selectivity": float(selectivity.mean()),
        "consistency": float((report.odd[rows, :, led].sign() == sign[:, None]).float().mean()),
        "disentanglement": disentanglement(report),
        **{_at(demand): float((reach >= max(demand, 1e-6)).sum()) for demand in DEMANDS},
    }
    if half is not None and full is not None:
        told["linearity"] = float(_linearity(full.mean[rows, led], half.mean[rows, led]).mean())
    return told


def _linearity(whole: Tensor, half: Tensor) -> Tensor:
    """`(K,)`: R² of the line through zero to a factor's mean change at the scale and half of it, given per unit scale."""
    changes, scales = torch.stack([whole, half / 2]), torch.tensor([1.0, 0.5])[:, None]
    slope = (changes * scales).sum(dim=0) / scales.square().sum()
    rest = (changes - slope * scales).square().sum(dim=0)
    return (1 - rest / changes.square().sum(dim=0).clamp_min(1e-12)).clamp_min(0)


def disentanglement(found: Effects) -> float:
    """D of DCI (Eastwood and Williams, 2018) with |effect| for importance: 1 where each direction moves one factor."""
    size = found.mean.abs()
    share = size / size.sum(dim=1, keepdim=True).clamp_min(1e-12)
    entropy = -(share * share.clamp_min(1e-12).log()).sum(dim=1) / torch.tensor(float(size.shape[1])).log()
    weight = size.sum(dim=1) / size.sum()
    return float((weight * (1 - entropy)).sum())


def measured(
    pipe: Any, measure: Measure, per_layer: int, samples: int, draws: int
) -> Iterator[tuple[Method, Readings]]:
    """Ours, its controls in several draws, what is made of the one and the other by measuring, and the methods that look at
    samples. Several methods of one name are its draws.
    """
    steps = measure.steps
    started = time.perf_counter()
    bank = build(str(faces.FOLDER), recipes=["output-value"], top_k=4096, device="cpu")
    seconds = time.perf_counter() - started
    home = measure_lengths(pipe, bank)

    def blank(gaussian: bool, draw: int) -> DirectionSet:
        with tempfile.TemporaryDirectory() as folder:
            source = str(untrained(pipe, gaussian, Path(folder), seed=draw))
            return elsewhere(build(source, recipes=["output-value"], top_k=4096, device="cpu"), home)

    bases = [(OURS, home), (BOTTOM, home)]
    for draw in range(draws):
        bases += [
            (RANDOM, home.randomised(per_layer, seed=1 + draw)),
            (UNTRAINED, blank(False, draw)),
            (GAUSSIAN, blank(True, draw)),
        ]
    turned_once: set[str] = set()
    for name, basis in bases:
        bottom = name == BOTTOM
        method = of_bank(name, pipe, basis, per_layer, seconds if basis is home else 0.0, bottom)
        found = measure(method)
        yield method, found
        parts = chosen_of(basis, per_layer, bottom)
        seen = found.search.on(torch.arange(len(SEARCH)))
        evaluations = (2 * len(parts) + 1) * len(SEARCH) * steps
        for most in SIZES:
            composed = composites(f"composites of {name}", pipe, parts, seen, most, evaluations)
            yield composed, measure(composed)
        if not bottom and name not in turned_once:
            turned_once.add(name)
            turned = rotated(f"{name}, turned", pipe, parts, seen, evaluations)
            yield turned, measure(turned)
    count = per_layer * len(bank.layers)
    for sampled in (principal(pipe, count, samples, steps), jacobian(pipe, count, 4, steps, 4)):
        yield sampled, measure(sampled)


def keep(path: Path, facts: dict[str, Any], found: Found) -> None:
    """Write all readings to a file, with what is told of the run."""
    tensors = {}
    for number, draws in enumerate(found.values()):
        for draw, each in enumerate(draws):
            for part, measured in each.parts().items():
                tensors[f"{number}/{draw}/{part}"] = measured.odd.contiguous()
    misfits = {name: [[each.misfit, each.base_misfit] for each in draws] for name, draws in found.items()}
    save_file(tensors, path, {"about": json.dumps({**facts, "misfits": misfits})})


def kept(path: Path) -> tuple[dict[str, Any], Found]:
    """Read what `keep` wrote; the even parts, of which nothing is told, are 0."""
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["about"])
        parts = {key: file.get_tensor(key) for key in list(file.keys())}
    found: Found = {}
    for number, (name, misfits) in enumerate(facts.pop("misfits").items()):
        found[name] = []
        for draw, (misfit, base) in enumerate(misfits):
            odd = {part: parts.get(f"{number}/{draw}/{part}") for part in PARTS}
            all_parts = {part: None if at is None else Effects(at, torch.zeros_like(at)) for part, at in odd.items()}
            found[name].append(Readings(**all_parts, misfit=misfit, base_misfit=base))
    return facts, found


@click.command()
@click.option("--per-layer", default=8, show_default=True, help="Directions of each of the seven layers.")
@click.option("--seeds", default=24, show_default=True, help="Seeds to tell of, none of which found anything.")
@click.option(
    "--find", default=len(SEARCH), show_default=True, help="Seeds to find each direction's factor on, 8 or more."
)
@click.option("--draws", default=1, show_default=True, help="How often chance is drawn.")
@click.option("--steps", default=10, show_default=True)
@click.option("--samples", default=512, show_default=True, help="Unedited runs for PCA.")
@click.option("--device", type=click.Choice(list(BATCH)), default="cpu", show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), default=Path(".train/quality"), show_default=True)
@click.option(
    "--readings", type=click.Path(path_type=Path), help="Keep all readings in this file; tell of them another time."
)
@click.option(
    "--read", "again", type=click.Path(exists=True, path_type=Path), help="Draw nothing; tell of such a file."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/quality.json"))
@click.option("--figures", "folder", type=click.Path(path_type=Path), default=Path("docs"), show_default=True)
def main(
    per_layer: int, seeds: int, find: int, draws: int, steps: int, samples: int, device: str, cache: Path,
    readings: Path | None, again: Path | None, out: Path, folder: Path,
) -> None:  # fmt: skip
    """Measure every method on the faces' factors, and write the figures, their table and their pictures."""
    if again is not None:
        facts, found = kept(again)
    else:
        facts, found = draw_all(per_layer, seeds, find, draws, steps, samples, device, cache)
    if readings is not None:
        keep(readings, facts, found)
        return
    document = told(facts, found)
    save(out, document)
    click.echo(as_markdown(document, LEGEND))
    draw_bars(document, folder / "quality.png")
    draw_curves(document, folder / "quality-reach.png")
    click.echo(f"wrote {out} and the pictures")


def draw_all(
    per_layer: int, seeds: int, find: int, draws: int, steps: int, samples: int, device: str, cache: Path
) -> tuple[dict[str, Any], Found]:
    """Measure every method: what is told of the run, and what the directions did."""
    facts = {"about": about(), "per_layer": per_layer, "seeds": seeds, "find": find, "draws": draws, "steps": steps}
    cache.mkdir(parents=True, exist_ok=True)
    checkpoint = faces.FOLDER
    model = load_attribute_model(checkpoint / "attributes")
    pipe = open_pipeline(str(faces.FOLDER), device=device)
    found: Found = {}
    costs = {}
    with Progress() as progress:
        search = range(SEARCH.start, SEARCH.start + max(find, len(SEARCH)))
        std, report = torch.tensor(model.config.stds), range(REPORT, REPORT + seeds)
        reader, linear = face_reader(model.to(pipe.device)), max(LINEAR, seeds // 8)
        measure = Measure(pipe, reader, std, report, steps, cache, progress, search, linear)
        begun = time.perf_counter()
        for method, readings in measured(pipe, measure, per_layer, samples, draws):
            found.setdefault(method.name, []).append(readings)
            costs[method.name] = [method.evaluations, method.seconds and round(method.seconds, 2)]
            progress.console.print(f"{time.perf_counter() - begun:7.1f} s  {method.name}")
    facts |= {"factors": len(model.config.names), "directions": len(found[OURS][0].report.odd), "costs": costs}
    return facts, found


def told(facts: dict[str, Any], found: Found) -> dict[str, Any]:
    """The document of a run."""
    rows = []
    curves = {}
    for name, draws in found.items():
        shown = figures(draws)
        curve = [shown.pop(_at(demand)) for demand in DEMANDS]
        if any(name == kind.format(each) for kind in CURVES.values() for each in LINES):
            curves[name] = curve
        evaluations, seconds = facts["costs"][name]
        cost = {"evaluations": evaluations, "seconds": seconds}
        rows.append({"method": name, "draws": len(draws), "directions": len(draws[0].report.odd), **shown, **cost})
    few = {
        str(count): {
            name: {
                key: figures([each.first(count, facts["per_layer"]) for each in found[name]])[key] for key in COMPARED
            }
            for name in (OURS, *CHANCE)
        }
        for count in FEW
        if count < facts["per_layer"]
    }
    return {
        "about": facts["about"],
        "what": "eigen-directions against controls and against methods that sample",
        **{key: facts[key] for key in ("seeds", "find", "draws", "steps", "factors")},
        "misfit_unedited": rows[0]["misfit_unedited"],
        "rows": rows,
        "least": COVERED[0],
        "first": few,
        "demands": DEMANDS,
        "curves": curves,
        "differences": [
            {"one": one, "other": other, **against(found[one], found[other])} for one, other in pairs(list(found))
        ],
    }


FEW = (1, 2, 4)
LEGEND = f"""Which factor a direction moves, and which way, was found out on {{find}} seeds; the figures are of that factor on others. Chance
was drawn {{draws}}: its rows are means.

- **covered**: of the {{factors}} factors, those that some direction moves by at least {COVERED[0]} with a selectivity of at least 1/3;
  **reach**: without a least effect, the mean over factors of the largest effect of a direction with that selectivity, 0 where there is none
- **picked**: for each factor one direction is picked, the most selective of those that move it by {COVERED[0]} on the seeds
  that find; the mean over factors of its selectivity on the others, 0 where there is none or it moves the factor less there
- **sliders**: share of the directions that are enough for *covered*
- **effect**: mean over directions of the change of their factor, in standard deviations of the population, per unit scale
- **best**: mean over factors of the change by the direction that moved it most
- **selectivity**: mean over directions of the share of that factor in the changes of all; **consistency**: share of seeds whose sign agrees
- **linearity**: mean R² of a line through zero, at ±{SCALE / 2:g} and ±{SCALE:g}; **disentanglement**: D of DCI with effects for importance
- **misfit**: root mean square difference of the edited pictures from the renders of what is read off them (unedited: {{unedited:.3f}})
- **composites**: one for each factor, fitted to what the method's directions did on the {len(SEARCH)} first of the seeds that find,
  {NORM:g} of the length of a single direction; **turned**: each layer's directions rotated within their span, so that on those {len(SEARCH)} seeds each
  moved as few factors as could be (quartimax)
- **evaluations**, **seconds**: what it took to get the directions, in passes of the denoiser per picture and step, and on this
  machine; composites and turned ones are made of readings that are kept, and were not timed
"""


def pairs(methods: Sequence[str]) -> list[tuple[str, str]]:
    """Which method is held against which."""
    sampled = [name for name in methods if name.endswith("of h-space")]
    kinds = ["{}", *(f"composites of {{}}, {most} parts" for most in SIZES), "{}, turned"]
    return [
        (kind.format(OURS), other)
        for kind in kinds
        for other in (*(kind.format(chance) for chance in CHANCE), *sampled)
        if other in methods
    ]


if __name__ == "__main__":
    main()
