"""Do eigen-directions make better sliders than chance, and how near do they come to methods that sample?

    python benchmarks/quality.py --out benchmarks/results/quality.json --table docs/quality.md

The demo checkpoint's factors are known, and each of its pictures can be read. Every method gives the same number of
directions, added at the same relative length, drawn from the same held-out seeds. What a direction does is found out on some
of them and told of others. A run cut short goes on.
"""

import contextlib
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from common import about, save
from diffusers import UNet2DModel
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eigenbank.builders.composite import NORM, fit
from eigenbank.builders.label import Effects, effects
from eigenbank.faces.attributes import AttributeModel, load_attribute_model
from eigenbank.faces.render import render
from eigenbank.loaders.calibrate import calibrate
from eigenbank.loaders.pipelines import sample
from eigenbank.loaders.steer import steer
from eigenbank.registry.bank import Bank, Direction
from eigenbank.registry.shipped import DEMO_MODEL_ID
from eigenbank.workflows import build, find_checkpoint, open_pipeline

SCALE = 0.7
"""Directions are drawn at plus and minus this, and for their linearity at half of it too."""
COVERED = 0.35, 1 / 3
"""A factor is covered by a direction with at least this effect and this selectivity."""
BATCH = 48
SEARCH = range(6500, 6508)
"""Seeds that tell which factor a direction moves, which way, and that composites and rotations are fitted on."""
REPORT = 6000
"""The first of the seeds that the figures are of."""
LINEAR = 4
"""Seeds for linearity."""
RESAMPLES = 400

Added = Callable[[Sequence[tuple[int, float]]], contextlib.AbstractContextManager[Any]]
"""Given a direction's number and a scale for each sample of a batch: adds them while the context lasts."""


@dataclass(frozen=True)
class Method:
    """A way to get directions: how many, how to add them, a digest of their vectors, and what it took to get them.

    `evaluations` counts passes of the denoiser, one per sample and step; a pass backwards counts as two. Where each
    direction was `made` for a factor, in their order, nothing has to be searched for.
    """

    name: str
    count: int
    added: Added
    digest: str
    evaluations: int
    seconds: float | None
    made: bool = False


def of_bank(name: str, pipe: Any, bank: Bank, per_layer: int, seconds: float, bottom: bool = False) -> Method:
    """The first, or the last, directions of every layer of a bank."""
    chosen = chosen_of(bank, per_layer, bottom)
    return mixed(name, pipe, chosen, torch.eye(len(chosen)), 0, seconds)


def chosen_of(bank: Bank, per_layer: int, bottom: bool = False) -> list[Direction]:
    """The first, or the last, directions of every layer."""

    def wanted(each: Direction) -> bool:
        return each.rank >= bank.layers[each.layer].width - per_layer if bottom else each.rank < per_layer

    return [each for each in bank if wanted(each)]


def mixed(
    name: str,
    pipe: Any,
    parts: Sequence[Direction],
    weights: Tensor,
    evaluations: int,
    seconds: float | None,
    made: bool = False,
) -> Method:
    """Sums of directions: `weights` `(K, parts)`."""

    def added(jobs: Sequence[tuple[int, float]]) -> Any:
        amounts = torch.stack([scale * weights[k] for k, scale in jobs], dim=1)
        edits = {part: amount for part, amount in zip(parts, amounts, strict=True) if bool(amount.any())}
        return steer(pipe, edits, force=True)

    vectors = torch.cat([weights.flatten(), *(each.vector for each in parts)])
    places = [parts[0].bank.model_id, *(each.id for each in parts)]
    return Method(name, len(weights), added, _digest(vectors, *places), evaluations, seconds, made)


def composites(name: str, pipe: Any, parts: Sequence[Direction], seen: Effects, most: int, evaluations: int) -> Method:
    """A composite for every factor, of `most` directions, fitted as labelling does it to what they were seen to do."""
    weights = fit(seen, most)
    return mixed(f"{name}, {most} parts", pipe, parts, weights, evaluations, None, made=True)


def rotated(name: str, pipe: Any, parts: Sequence[Direction], seen: Effects, evaluations: int) -> Method:
    """Each layer's directions turned within their span so that each is seen to move as few factors as can be."""
    weights = torch.zeros(len(parts), len(parts))
    for layer in dict.fromkeys(each.layer for each in parts):
        own = torch.tensor([k for k, each in enumerate(parts) if each.layer == layer])
        weights[own[:, None], own] = rotation(seen.mean[own].double()).float()
    return mixed(name, pipe, parts, weights, evaluations, None)


def rotation(mean: Tensor, rounds: int = 300, starts: int = 8) -> Tensor:
    """The orthogonal Q `(K, K)` with the largest sum of (Q·mean)⁴ (quartimax, Neuhaus and Wrigley 1954), `mean` `(K, f)`."""
    best, turned = -1.0, torch.eye(len(mean), dtype=mean.dtype)
    for start in range(starts):
        generator = torch.Generator().manual_seed(start)
        now = torch.linalg.qr(torch.randn(len(mean), len(mean), generator=generator, dtype=mean.dtype))[0]
        for _ in range(rounds):
            left, _, right = torch.linalg.svd((now @ mean) ** 3 @ mean.T)
            now = left @ right
        value = float(((now @ mean) ** 4).sum())
        if value > best:
            best, turned = value, now
    return turned


def untrained(pipe: Any, gaussian: bool, folder: Path) -> Path:
    """A checkpoint of the demo's shape that has learned nothing: as initialised, or its attention weights normal."""
    torch.manual_seed(0)
    unet = UNet2DModel.from_config(pipe.unet.config)
    if gaussian:
        for name, weight in unet.named_parameters():
            if ".attentions." in name and weight.ndim == 2:
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    unet.save_pretrained(folder / "unet")
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}), encoding="utf-8"
    )
    return folder


def elsewhere(bank: Bank, home: Bank) -> Bank:
    """The vectors of `bank` at the places, and with the token lengths, of `home`."""
    return Bank(home.manifest, vectors=bank.vectors)


class Bottleneck:
    """h-space: what the middle block gives, `(samples, c, h, w)` at every step; it can be read, and added to."""

    def __init__(self, pipe: Any, steps: int) -> None:
        self.pipe = pipe
        self.steps = steps
        self.evaluations = 0

    def trajectories(self, seeds: Sequence[int]) -> Tensor:
        """`(samples, steps, c, h, w)` of unedited runs."""
        parts = []
        for start in range(0, len(seeds), BATCH):
            part = seeds[start : start + BATCH]
            seen: list[Tensor] = []
            handle = self.pipe.unet.mid_block.register_forward_hook(
                lambda _m, _i, out, seen=seen: seen.append(out.clone())
            )
            try:
                sample(self.pipe, part, self.steps)
            finally:
                handle.remove()
            parts.append(torch.stack(seen, dim=1))
            self.evaluations += len(part) * self.steps
        return torch.cat(parts)

    def method(self, name: str, directions: Tensor, length: Tensor, started: float) -> Method:
        """`directions` `(K, steps or 1, c, h, w)`, each step of norm 1; `length` `(steps,)`: of a scale of 1."""

        @contextlib.contextmanager
        def added(jobs: Sequence[tuple[int, float]]) -> Iterator[None]:
            number = iter(range(self.steps))
            which = torch.tensor([k for k, _ in jobs])
            scales = torch.tensor([scale for _, scale in jobs])[:, None, None, None]

            def add(_module: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
                step = next(number)
                return out + scales * length[step] * directions[which, min(step, directions.shape[1] - 1)]

            handle = self.pipe.unet.mid_block.register_forward_hook(add)
            try:
                yield
            finally:
                handle.remove()

        return Method(
            name, len(directions), added, _digest(directions), self.evaluations, time.perf_counter() - started
        )


def principal(pipe: Any, count: int, samples: int, steps: int) -> Method:
    """Principal components of h-space over unedited runs, all steps of a run taken as one vector (Haas et al.,
    arXiv 2303.11073), each step then brought to equal length.
    """
    started = time.perf_counter()
    space = Bottleneck(pipe, steps)
    seen = space.trajectories(range(3_000_000, 3_000_000 + samples))
    flat = (seen - seen.mean(dim=0)).flatten(1)
    values, vectors = torch.linalg.eigh((flat @ flat.T).double())
    del values
    components = (vectors[:, -count:].flip(1).T.float() @ flat).unflatten(1, seen.shape[1:])
    return space.method("PCA of h-space", _unit(components), _lengths(seen), started)


def jacobian(pipe: Any, count: int, samples: int, steps: int, iterations: int) -> Method:
    """Right singular vectors of the Jacobian from h-space to the predicted noise, averaged over samples and steps, by
    subspace iteration (after Park et al., arXiv 2307.12868, and Haas et al.).
    """
    started = time.perf_counter()
    space = Bottleneck(pipe, steps)
    seeds = range(4_000_000, 4_000_000 + samples)
    seen = space.trajectories(seeds)
    inputs: list[tuple[Tensor, Tensor]] = []
    watch = pipe.unet.register_forward_pre_hook(
        lambda _m, args, kwargs: inputs.append((args[0].clone(), torch.as_tensor(args[1]))), with_kwargs=True
    )
    try:
        sample(pipe, seeds, steps)
    finally:
        watch.remove()
    space.evaluations += samples * steps
    at = [inputs[step] for step in range(1, steps, 3)]

    def shifted(images: Tensor, time: Tensor, shift: Tensor) -> Tensor:
        handle = pipe.unet.mid_block.register_forward_hook(lambda _m, _i, out: out + shift)
        try:
            return pipe.unet(images, time).sample
        finally:
            handle.remove()

    shape = seen.shape[2:]
    basis = torch.linalg.qr(torch.randn(shape.numel(), count, generator=torch.Generator().manual_seed(0)))[0]
    for _ in range(iterations):
        product = torch.zeros_like(basis)
        for images, moment in at:
            zero = torch.zeros(shape, requires_grad=True)
            plain = shifted(images, moment, zero)
            step = 0.01 * float(_lengths(seen).mean())
            for k in range(count):
                # Forwards by a central difference: forward-mode derivatives do not take this denoiser's norms.
                way = step * basis[:, k].reshape(shape)
                with torch.no_grad():
                    change = (shifted(images, moment, way) - shifted(images, moment, -way)) / (2 * step)
                product[:, k] += torch.autograd.grad(plain, zero, change, retain_graph=True)[0].flatten()
            space.evaluations += len(images) * (1 + count * 4)
        basis = torch.linalg.qr(product)[0]
    directions = basis.T.reshape(count, 1, *shape)
    return space.method("Jacobian of h-space", _unit(directions), _lengths(seen), started)


def _digest(vectors: Tensor, *places: str) -> str:
    """Of the vectors, and of where they are added where that is not always the same."""
    return hashlib.sha256("\n".join(places).encode() + vectors.contiguous().numpy().tobytes()).hexdigest()


def _unit(directions: Tensor) -> Tensor:
    """Norm 1 at every step."""
    return directions / directions.flatten(2).norm(dim=2).clamp_min(1e-12)[:, :, None, None, None]


def _lengths(seen: Tensor) -> Tensor:
    """The typical norm of h at each step, `(steps,)`: scale 1 adds as much, as it does at an attention layer."""
    return seen.flatten(2).norm(dim=2).square().mean(dim=0).sqrt()


@dataclass(frozen=True)
class Readings:
    """What a method's directions did: `search` and `report`, the effects on the one and the other seeds, `half` at half the
    scale on the first of those that report, if at all. `misfit` and `base_misfit`: root mean square difference of the edited and of the
    unedited pictures from a render of what was read off them, images in [0, 1].
    """

    search: Effects | None
    report: Effects
    half: Effects | None
    misfit: float
    base_misfit: float


class Measure:
    """Draws and reads directions; batches that were drawn before are not again."""

    def __init__(
        self,
        pipe: Any,
        model: AttributeModel,
        seeds: int,
        steps: int,
        cache: Path,
        progress: Progress,
        search: range = SEARCH,
        linear: int = LINEAR,
    ) -> None:
        self.pipe = pipe
        self.model = model
        self.std = torch.tensor(model.config.stds)
        self.search = search
        self.linear = linear
        self.report = range(REPORT, REPORT + seeds)
        self.steps = steps
        self.cache = cache
        self.progress = progress
        self._base: dict[range, tuple[Tensor, Tensor]] = {}

    def __call__(self, method: Method) -> Readings:
        """Everything that is measured of a method."""
        report, misfit = self.effects(method, self.report, SCALE)
        half = self.effects(method, self.report[: self.linear], SCALE / 2)[0] if self.linear else None
        search = None if method.made else self.effects(method, self.search, SCALE)[0]
        return Readings(search, report, half, misfit, float(self.base(self.report)[1].mean()))

    def effects(self, method: Method, seeds: range, scale: float) -> tuple[Effects, float]:
        """The effects of a method's directions on some seeds, and how far the pictures are from any face."""
        base = self.base(seeds)[0]
        jobs = [(k, sign * scale, seed) for k in range(method.count) for sign in (1, -1) for seed in seeds]
        bar = self.progress.add_task(f"{method.name}, {len(seeds)} seeds at ±{scale:g}", total=len(jobs))
        read, misfit = [], []
        for start in range(0, len(jobs), BATCH):
            part = jobs[start : start + BATCH]
            key = f"{method.digest} {method.count} {self.steps} {seeds} {scale} {BATCH} {start}"
            path = self.cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
            if not path.exists():
                with method.added([(k, amount) for k, amount, _ in part]):
                    images = sample(self.pipe, [seed for _, _, seed in part], self.steps)
                save_file({"read": self.model.read(images), "misfit": misfits(self.model, images)}, path)
            found = load_file(path)
            read.append(found["read"])
            misfit.append(found["misfit"])
            self.progress.update(bar, advance=len(part))
        edited = torch.cat(read).reshape(method.count, 2, len(seeds), -1)
        return effects(base, edited[:, 0], edited[:, 1], self.std, scale), float(torch.cat(misfit).mean())

    def base(self, seeds: range) -> tuple[Tensor, Tensor]:
        """Readings of the unedited pictures, and their misfit."""
        if seeds not in self._base:
            images = sample(self.pipe, list(seeds), self.steps)
            self._base[seeds] = self.model.read(images), misfits(self.model, images)
        return self._base[seeds]


def misfits(model: AttributeModel, images: Tensor) -> Tensor:
    """`(n,)`: how far pictures are from any face: from the render of the factors read off them."""
    again = (render(model.read(images), size=images.shape[-1]) + 1) / 2
    return (images - again).square().flatten(1).mean(dim=1).sqrt()


def figures(found: Readings) -> dict[str, Any]:
    """The columns of the table for one method, each with the 5th and 95th percentile over resamples of the seeds."""
    drawn = resampled(found)
    told: dict[str, Any] = {
        name: [round(value, 4), *_percentiles(drawn[name])]
        for name, value in columns(found.search, found.report, found.half).items()
    }
    told["misfit"] = round(found.misfit, 4)
    told["misfit_unedited"] = round(found.base_misfit, 4)
    return told


def resampled(found: Readings) -> dict[str, Tensor]:
    """Every column over resamples of the seeds, `(RESAMPLES,)`: the same resamples for all methods on as many seeds."""
    generators = [torch.Generator().manual_seed(number) for number in range(3)]
    counts = [LINEAR if part is None else part.odd.shape[1] for part in (found.search, found.report, found.half)]
    rows = []
    for _ in range(RESAMPLES):
        search, report, half = (
            torch.randint(n, (n,), generator=own) for n, own in zip(counts, generators, strict=True)
        )
        rows.append(
            columns(
                found.search and found.search.on(search), found.report.on(report), found.half and found.half.on(half)
            )
        )
    return {name: torch.tensor([each[name] for each in rows]) for name in rows[0]}


def against(one: Readings, other: Readings) -> dict[str, list[float]]:
    """How much more of the columns one method has than another, with percentiles over the same resamples for both."""
    mine, theirs = resampled(one), resampled(other)
    whole, rest = columns(one.search, one.report, one.half), columns(other.search, other.report, other.half)
    return {name: [round(whole[name] - rest[name], 4), *_percentiles(mine[name] - theirs[name])] for name in COMPARED}


def _percentiles(values: Tensor) -> list[float]:
    return [round(float(values.quantile(q)), 4) for q in (0.05, 0.95)]


def columns(search: Effects | None, report: Effects, half: Effects | None) -> dict[str, float]:
    """What is told of a method, where `search` says which factor is whose, and which way."""
    mean = report.mean
    factors = torch.arange(mean.shape[1])
    # Each direction's factor, the sign it is moved with, and each factor's strongest direction.
    guess = torch.eye(len(factors)) if search is None else search.mean
    led, strongest = guess.abs().argmax(dim=1), guess.abs().argmax(dim=0)
    rows = torch.arange(len(led))
    sign = guess[rows, led].sign()
    effect = mean[rows, led] * sign
    selectivity = effect / mean.abs().sum(dim=1).clamp_min(1e-12)
    slides = (effect >= COVERED[0]) & (selectivity >= COVERED[1])
    told = {
        "covered": float(len(set(led[slides].tolist()))),
        "sliders": float(slides.float().mean()),
        "effect": float(effect.mean()),
        "best": float((mean[strongest, factors] * guess[strongest, factors].sign()).mean()),
        "selectivity": float(selectivity.mean()),
        "consistency": float((report.odd[rows, :, led].sign() == sign[:, None]).float().mean()),
        "disentanglement": disentanglement(report),
    }
    if half is not None:
        told["linearity"] = float(_linearity(mean[rows, led], half.mean[rows, led]).mean())
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


LEGEND = f"""Which factor a direction moves, and which way, was found out on {{search}} seeds; the figures are of that factor on others.

- **covered**: of the {{factors}} factors, those that some direction moves by at least {COVERED[0]} with a selectivity of at least 1/3;
  **sliders**: share of the directions that do so
- **effect**: mean over directions of the change of their factor, in standard deviations of the population, per unit scale
- **best**: mean over factors of the change by the direction that moved it most
- **selectivity**: mean share of that factor in the changes of all; **consistency**: share of seeds whose sign agrees
- **linearity**: mean R² of a line through zero, at ±{SCALE / 2:g} and ±{SCALE:g}; **disentanglement**: D of DCI with effects for importance
- **misfit**: root mean square difference of the edited pictures from the renders of what is read off them (unedited: {{unedited:.3f}})
- **composites**: one for each factor, fitted to what the method's directions did on the {{search}} seeds, {NORM:g} of the length of a
  single direction; **turned**: each layer's directions rotated within their span, so that on the {{search}} seeds each
  moved as few factors as could be (quartimax)
- **evaluations**, **seconds**: what it took to get the directions, in passes of the denoiser per picture and step, and on this
  machine; composites and turned ones are made of readings that are kept, and were not timed
"""
COMPARED = ("covered", "sliders", "effect", "selectivity")
SHOWN = (
    "covered", "sliders", "effect", "best", "selectivity", "consistency", "linearity", "disentanglement",
)  # fmt: skip


@click.command()
@click.option("--per-layer", default=8, show_default=True, help="Directions of each of the seven layers.")
@click.option("--seeds", default=24, show_default=True, help="Seeds to tell of, none of which found anything.")
@click.option("--steps", default=10, show_default=True)
@click.option("--samples", default=512, show_default=True, help="Unedited runs for PCA.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path(".train/quality"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/quality.json"))
@click.option("--table", type=click.Path(path_type=Path), default=Path("docs/quality.md"))
@click.option("--figure", type=click.Path(path_type=Path), default=Path("docs/quality.png"))
def main(
    per_layer: int, seeds: int, steps: int, samples: int, cache: Path, out: Path, table: Path, figure: Path
) -> None:
    """Measure every method on the demo's factors, and write the figures, their table and their picture."""
    facts = about()
    cache.mkdir(parents=True, exist_ok=True)
    _, checkpoint = find_checkpoint(DEMO_MODEL_ID)
    model = load_attribute_model(checkpoint / "attributes")
    pipe = open_pipeline(DEMO_MODEL_ID)
    rows = []
    readings: dict[str, Readings] = {}
    unedited = 0.0
    with Progress() as progress:
        measure = Measure(pipe, model, seeds, steps, cache, progress)
        for method in methods(pipe, measure, per_layer, samples, steps):
            readings[method.name] = measure(method)
            told = figures(readings[method.name])
            unedited = told.pop("misfit_unedited")
            cost = {"evaluations": method.evaluations, "seconds": method.seconds and round(method.seconds, 2)}
            rows.append({"method": method.name, "directions": method.count, **told, **cost})
            progress.console.print_json(json.dumps(rows[-1]))
    document = {
        "about": facts,
        "what": "eigen-directions against controls and against methods that sample",
        "seeds": seeds,
        "steps": steps,
        "factors": len(model.config.names),
        "misfit_unedited": unedited,
        "rows": rows,
        "differences": [
            {"one": one, "other": other, **against(readings[one], readings[other])}
            for one, other in pairs(list(readings))
        ],
    }
    save(out, document)
    table.write_text(as_markdown(document, figure.name), encoding="utf-8")
    draw(document, figure)
    click.echo(f"wrote {out}, {table} and {figure}")


def methods(pipe: Any, measure: Measure, per_layer: int, samples: int, steps: int) -> Iterator[Method]:
    """Ours, its controls, what is made of the one and the other by measuring, and the methods that look at samples."""
    started = time.perf_counter()
    bank = build(DEMO_MODEL_ID, recipes=["output-value"], top_k=4096)
    seconds = time.perf_counter() - started
    home = calibrate(pipe, bank)
    bases = {OURS: home, RANDOM: home.randomised(per_layer, seed=1)}
    for name, gaussian in ((UNTRAINED, False), (GAUSSIAN, True)):
        with tempfile.TemporaryDirectory() as folder:
            other = build(str(untrained(pipe, gaussian, Path(folder))), recipes=["output-value"], top_k=4096)
            bases[name] = elsewhere(other, home)
    for name, basis in bases.items():
        yield of_bank(name, pipe, basis, per_layer, seconds if name == OURS else 0.0)
    yield of_bank("random unit vectors, drawn again", pipe, home.randomised(per_layer, seed=2), per_layer, 0.0)
    yield of_bank(BOTTOM, pipe, home, per_layer, seconds, bottom=True)
    bases[BOTTOM] = home
    for name, sizes in COMPOSED.items():
        bottom = name == BOTTOM
        parts = chosen_of(bases[name], per_layer, bottom)
        seen, _ = measure.effects(of_bank(name, pipe, bases[name], per_layer, 0.0, bottom), SEARCH, SCALE)
        evaluations = (2 * len(parts) + 1) * len(SEARCH) * steps
        for most in sizes:
            yield composites(f"composites of {name}", pipe, parts, seen, most, evaluations)
        if name in (OURS, RANDOM):
            yield rotated(f"{name}, turned", pipe, parts, seen, evaluations)
    count = per_layer * len(bank.layers)
    yield principal(pipe, count, samples, steps)
    yield jacobian(pipe, count, 4, steps, 4)


OURS, RANDOM = "eigenvectors", "random unit vectors"
UNTRAINED, GAUSSIAN = "eigenvectors of an untrained copy", "eigenvectors of Gaussian matrices"
BOTTOM = "bottom eigenvectors"
SIZES = (4, 8, 32)
COMPOSED = {OURS: SIZES, RANDOM: SIZES, UNTRAINED: SIZES, GAUSSIAN: SIZES, BOTTOM: SIZES}
"""Of whose directions composites are made, and of how many at most."""


def _cell(value: Any) -> str:
    return f"{value[0]:.2f} ({value[1]:.2f}–{value[2]:.2f})" if isinstance(value, list) else f"{value:.3g}"


def as_markdown(document: dict[str, Any], figure: str) -> str:
    """The page docs/quality.md of a run."""
    head = ("method", *SHOWN, "misfit", "evaluations", "seconds")
    lines = [
        "# Eigen-directions against chance, and against methods that sample",
        "",
        f"Measured on the demo checkpoint by `make bench-quality`: {document['rows'][0]['directions']} directions of every "
        f"method, {document['seeds']} seeds, {document['steps']} DDIM steps, all at the same length relative to what they are "
        "added to; the eigenvectors are the default recipe's, `output-value`. In brackets the 5th and 95th percentile over "
        "resamples of the seeds. This file is written by that command.",
        "",
        LEGEND.format(factors=document["factors"], unedited=document["misfit_unedited"], search=len(SEARCH)),
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *(
            f"| {row['method']} | "
            + " | ".join(_cell(row[name]) for name in head[1:-2])
            + f" | {row['evaluations']:,} | {'' if row['seconds'] is None else format(row['seconds'], '.1f')} |"
            for row in document["rows"]
        ),
        "",
        f"![Factors covered, effect and selectivity of every method]({figure})",
        "",
        *findings(document),
        "",
    ]
    return "\n".join(lines)


def pairs(methods: Sequence[str]) -> list[tuple[str, str]]:
    """Which method is held against which."""
    return [
        *((OURS, other) for other in methods if other != OURS and not _made_of(other)),
        *(
            (f"composites of {OURS}, {most} parts", f"composites of {name}, {most} parts")
            for most in SIZES
            for name in COMPOSED
            if name != OURS
        ),
        *(
            (f"composites of {OURS}, {most} parts", other)
            for most in SIZES
            for other in methods
            if other.endswith("of h-space")
        ),
        (f"{OURS}, turned", f"{RANDOM}, turned"),
    ]


def findings(document: dict[str, Any]) -> list[str]:
    """What the table says, in words, worked out from its rows and their differences."""
    by_name = {row["method"]: row for row in document["rows"]}
    lines = [
        "## In words",
        "",
        "Differences over the same resamples of the seeds for both; *more* and *less* where the 5th and the 95th percentile of the "
        "difference have one sign.",
        "",
    ]
    for each in document["differences"]:
        said = []
        for name in COMPARED:
            _, low, high = each[name]
            word = "more" if low > 0 else "less" if high < 0 else "not told apart"
            value, theirs = by_name[each["one"]][name][0], by_name[each["other"]][name][0]
            said.append(f"{name} {value:.2f} against {theirs:.2f} ({word}, {low:+.2f} to {high:+.2f})")
        lines.append(f"- {each['one'].capitalize()} against {each['other']}: {', '.join(said)}.")
    lines += ["", "What it took to get them, in evaluations of the denoiser: none for the eigenvectors; "]
    costs = {
        "composites and what is turned" if _made_of(row["method"]) else row["method"]: row["evaluations"]
        for row in document["rows"]
        if row["evaluations"]
    }
    lines[-1] += "; ".join(f"{passes:,} for {what}" for what, passes in costs.items()) + "."
    return lines


def _made_of(method: str) -> bool:
    return method.startswith("composites") or method.endswith(", turned")


def _ours(method: str) -> bool:
    return method in (OURS, f"{OURS}, turned") or method.startswith(f"composites of {OURS},")


def draw(document: dict[str, Any], path: Path) -> None:
    """The table's most telling columns as bars with their intervals."""
    from matplotlib import pyplot

    rows = document["rows"][::-1]
    picture, axes = pyplot.subplots(1, 3, figsize=(12, 5), sharey=True, layout="constrained")
    for axis, name in zip(axes, ("covered", "effect", "selectivity"), strict=True):
        values = [row[name][0] for row in rows]
        low = [row[name][0] - row[name][1] for row in rows]
        high = [row[name][2] - row[name][0] for row in rows]
        colours = ["#0b6e4f" if _ours(row["method"]) else "#8a8f98" for row in rows]
        bounds = [[max(0.0, one) for one in low], [max(0.0, one) for one in high]]
        axis.barh([row["method"].replace("`", "") for row in rows], values, xerr=bounds, color=colours, capsize=2)
        axis.set_title(name if name != "covered" else f"covered, of {document['factors']} factors")
        axis.spines[["top", "right"]].set_visible(False)
    picture.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
