"""Do eigen-directions make better sliders than chance, and how near do they come to methods that sample?

    python benchmarks/quality.py --out benchmarks/results/quality.json --table docs/quality.md

The demo checkpoint's factors are known, and each of its pictures can be read. Every method gives the same number of
directions, added at the same relative length, drawn from the same held-out seeds. A run cut short goes on.
"""

import contextlib
import hashlib
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
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
from eigenbank.loaders.respond import respond
from eigenbank.loaders.steer import steer
from eigenbank.registry.bank import Bank, Direction
from eigenbank.registry.shipped import DEMO_MODEL_ID
from eigenbank.workflows import build, find_checkpoint, open_pipeline

SCALES = (0.5, 1.0)
"""Both sides of 0; effects are stated at the last."""
COVERED = 0.35, 1 / 3
"""A factor is covered by a direction with at least this effect and this selectivity."""
BATCH = 48
FIT_SEEDS = range(6500, 6504)
RESAMPLES = 400

Added = Callable[[Sequence[tuple[int, float]]], contextlib.AbstractContextManager[Any]]
"""Given a direction's number and a scale for each sample of a batch: adds them while the context lasts."""


@dataclass(frozen=True)
class Method:
    """A way to get directions: how many, how to add them, a digest of their vectors, and what it took to get them.

    `evaluations` counts passes of the denoiser, one per sample and step; a pass backwards counts as two.
    """

    name: str
    count: int
    added: Added
    digest: str
    evaluations: int
    seconds: float


def of_bank(name: str, pipe: Any, bank: Bank, per_layer: int, seconds: float, bottom: bool = False) -> Method:
    """The first, or the last, directions of every layer of a bank."""

    def wanted(each: Direction) -> bool:
        return each.rank >= bank.layers[each.layer].width - per_layer if bottom else each.rank < per_layer

    chosen = [each for each in bank if wanted(each)]

    def added(jobs: Sequence[tuple[int, float]]) -> Any:
        edits = {
            chosen[k]: torch.tensor([scale if k == job else 0.0 for job, scale in jobs])
            for k in sorted({k for k, _ in jobs})
        }
        return steer(pipe, edits, force=True)

    return Method(name, len(chosen), added, _digest(torch.cat([each.vector for each in chosen])), 0, seconds)


def composites(name: str, pipe: Any, model: AttributeModel, bank: Bank, per_layer: int, steps: int) -> Method:
    """A composite for every factor, fitted as labelling does it to what the bank's directions do on seeds of their own."""
    started = time.perf_counter()
    chosen = [each for each in bank if each.rank < per_layer]
    seen = respond(pipe, chosen, model.read, scale=1.0, seeds=FIT_SEEDS, steps=steps, force=True)
    weights = fit(effects(seen.base, seen.plus, seen.minus, torch.tensor(model.config.stds), 1.0))
    evaluations = (2 * len(chosen) + 1) * len(FIT_SEEDS) * steps
    seconds = time.perf_counter() - started

    def added(jobs: Sequence[tuple[int, float]]) -> Any:
        amounts = torch.stack([scale * weights[k] for k, scale in jobs], dim=1)
        edits = {each: amount for each, amount in zip(chosen, amounts, strict=True) if bool(amount.any())}
        return steer(pipe, edits, force=True)

    vectors = torch.cat([weights.flatten(), *(each.vector for each in chosen)])
    return Method(name, len(weights), added, _digest(vectors), evaluations, seconds)


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


def _digest(vectors: Tensor) -> str:
    return hashlib.sha256(vectors.contiguous().numpy().tobytes()).hexdigest()


def _unit(directions: Tensor) -> Tensor:
    """Norm 1 at every step."""
    return directions / directions.flatten(2).norm(dim=2).clamp_min(1e-12)[:, :, None, None, None]


def _lengths(seen: Tensor) -> Tensor:
    """The typical norm of h at each step, `(steps,)`: scale 1 adds as much, as it does at an attention layer."""
    return seen.flatten(2).norm(dim=2).square().mean(dim=0).sqrt()


@dataclass(frozen=True)
class Readings:
    """`base` `(n, f)`, `edited` `(K, scales, 2, n, f)` up and down; `misfit` `(K, scales)`, `base_misfit`: root mean
    square difference of the pictures from a render of what was read off them, images in [0, 1].
    """

    base: Tensor
    edited: Tensor
    misfit: Tensor
    base_misfit: float


def measure(
    method: Method, pipe: Any, model: AttributeModel, seeds: range, steps: int, cache: Path, progress: Progress
) -> Readings:
    """Draw and read a method's directions at every scale on every seed; batches that were drawn before are not again."""
    jobs = [
        (k, sign * scale, seed) for k in range(method.count) for scale in SCALES for sign in (1, -1) for seed in seeds
    ]
    bar = progress.add_task(method.name, total=len(jobs))
    images = sample(pipe, list(seeds), steps)
    base, base_misfit = model.read(images), misfits(model, images)
    read, misfit = [], []
    for start in range(0, len(jobs), BATCH):
        part = jobs[start : start + BATCH]
        key = f"{method.digest} {steps} {seeds} {SCALES} {BATCH} {start} {method.count}"
        path = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
        if not path.exists():
            with method.added([(k, scale) for k, scale, _ in part]):
                images = sample(pipe, [seed for _, _, seed in part], steps)
            save_file({"read": model.read(images), "misfit": misfits(model, images)}, path)
        found = load_file(path)
        read.append(found["read"])
        misfit.append(found["misfit"])
        progress.update(bar, advance=len(part))
    shape = (method.count, len(SCALES), 2, len(seeds))
    return Readings(
        base,
        torch.cat(read).reshape(*shape, -1),
        torch.cat(misfit).reshape(shape).mean(dim=(2, 3)),
        float(base_misfit.mean()),
    )


def misfits(model: AttributeModel, images: Tensor) -> Tensor:
    """`(n,)`: how far pictures are from any face: from the render of the factors read off them."""
    again = (render(model.read(images)) + 1) / 2
    return (images - again).square().flatten(1).mean(dim=1).sqrt()


def figures(found: Readings, std: Tensor) -> dict[str, Any]:
    """The columns of the table for one method, each with the 5th and 95th percentile over resamples of the seeds."""
    n = found.base.shape[0]
    generator = torch.Generator().manual_seed(0)
    whole = columns(found, std, torch.arange(n))
    again = [columns(found, std, torch.randint(n, (n,), generator=generator)) for _ in range(RESAMPLES)]
    spread = {name: torch.tensor([float(each[name]) for each in again]) for name in whole}
    told: dict[str, Any] = {
        name: [round(value, 4), *(round(float(spread[name].quantile(q)), 4) for q in (0.05, 0.95))]
        for name, value in whole.items()
    }
    told["misfit"] = round(float(found.misfit[:, -1].mean()), 4)
    told["misfit_unedited"] = round(found.base_misfit, 4)
    return told


def columns(found: Readings, std: Tensor, seeds: Tensor) -> dict[str, float]:
    """What is measured of a method on some of the seeds."""
    base, edited = found.base[seeds], found.edited[:, :, :, seeds]
    at = effects(base, edited[:, -1, 0], edited[:, -1, 1], std, SCALES[-1])
    size = at.mean.abs()
    strength, led = size.max(dim=1)
    rows = torch.arange(len(led))
    return {
        "covered": float(((size >= COVERED[0]) & (at.selectivity >= COVERED[1])).any(dim=0).sum()),
        "effect": float(strength.mean()),
        "best": float(size.amax(dim=0).mean()),
        "selectivity": float(at.selectivity[rows, led].mean()),
        "consistency": float(at.consistency[rows, led].mean()),
        "linearity": float(_linearity(base, edited, std, led).mean()),
        "disentanglement": disentanglement(at),
    }


def _linearity(base: Tensor, edited: Tensor, std: Tensor, led: Tensor) -> Tensor:
    """`(K,)`: R² of the line through zero from the scales to the led factor's mean change."""
    changes = ((edited - base) / std).mean(dim=3)[torch.arange(len(led)), :, :, led]  # (K, scales, 2)
    scales = torch.tensor(SCALES)[:, None] * torch.tensor([1.0, -1.0])
    slope = (changes * scales).sum(dim=(1, 2)) / scales.square().sum()
    rest = (changes - slope[:, None, None] * scales).square().sum(dim=(1, 2))
    return (1 - rest / changes.square().sum(dim=(1, 2)).clamp_min(1e-12)).clamp_min(0)


def disentanglement(found: Effects) -> float:
    """D of DCI (Eastwood and Williams, 2018) with |effect| for importance: 1 where each direction moves one factor."""
    size = found.mean.abs()
    share = size / size.sum(dim=1, keepdim=True).clamp_min(1e-12)
    entropy = -(share * share.clamp_min(1e-12).log()).sum(dim=1) / torch.tensor(float(size.shape[1])).log()
    weight = size.sum(dim=1) / size.sum()
    return float((weight * (1 - entropy)).sum())


LEGEND = f"""- **covered**: of the {{factors}} factors, those that some direction moves by at least {COVERED[0]} with a selectivity of at least 1/3
- **effect**: mean over directions of the change of the factor moved most, in standard deviations of the population, per unit scale
- **best**: mean over factors of the strongest direction's change
- **selectivity**: mean share of that factor in the changes of all; **consistency**: share of seeds whose sign agrees
- **linearity**: mean R² of a line through zero, at ±0.5 and ±1; **disentanglement**: D of DCI with effects for importance
- **misfit**: root mean square difference of the edited pictures from the renders of what is read off them (unedited: {{unedited:.3f}})
- **composites**: one for each factor, fitted to the same directions' effects on
  {{fit_seeds}} other seeds, {{norm:g}} of the length of a single direction
- **evaluations**, **seconds**: what it took to get the directions, in passes of the denoiser per picture and step, on two cores
"""
SHOWN = ("covered", "effect", "best", "selectivity", "consistency", "linearity", "disentanglement")


@click.command()
@click.option("--per-layer", default=4, show_default=True, help="Directions of each of the seven layers.")
@click.option("--seeds", default=8, show_default=True, help="Seeds to measure on, none of which found anything.")
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
    cache.mkdir(parents=True, exist_ok=True)
    _, checkpoint = find_checkpoint(DEMO_MODEL_ID)
    model = load_attribute_model(checkpoint / "attributes")
    std = torch.tensor(model.config.stds)
    pipe = open_pipeline(DEMO_MODEL_ID)
    rows = []
    unedited = 0.0
    with Progress() as progress:
        for method in methods(pipe, model, per_layer, samples, steps):
            found = measure(method, pipe, model, range(6000, 6000 + seeds), steps, cache, progress)
            told = figures(found, std)
            unedited = told.pop("misfit_unedited")
            cost = {"evaluations": method.evaluations, "seconds": round(method.seconds, 2)}
            rows.append({"method": method.name, "directions": method.count, **told, **cost})
            progress.console.print_json(json.dumps(rows[-1]))
    document = {
        "what": "eigen-directions against controls and against methods that sample",
        "seeds": seeds,
        "steps": steps,
        "factors": len(model.config.names),
        "misfit_unedited": unedited,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "rows": rows,
    }
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    table.write_text(as_markdown(document, figure.name), encoding="utf-8")
    draw(document, figure)
    click.echo(f"wrote {out}, {table} and {figure}")


def methods(pipe: Any, model: AttributeModel, per_layer: int, samples: int, steps: int) -> Iterator[Method]:
    """Ours, its controls, and the methods that look at samples."""
    started = time.perf_counter()
    bank = build(DEMO_MODEL_ID, recipes=["output-value"], top_k=4096)
    seconds = time.perf_counter() - started
    home = calibrate(pipe, bank)
    yield of_bank(OURS, pipe, home, per_layer, seconds)
    yield of_bank("random unit vectors", pipe, home.randomised(per_layer, seed=1), per_layer, 0.0)
    yield of_bank("bottom eigenvectors", pipe, home, per_layer, seconds, bottom=True)
    yield composites(COMPOSITES, pipe, model, home, per_layer, steps)
    yield composites(RANDOM_COMPOSITES, pipe, model, home.randomised(per_layer, seed=1), per_layer, steps)
    for name, gaussian in (("of an untrained copy", False), ("of Gaussian matrices", True)):
        with tempfile.TemporaryDirectory() as folder:
            other = build(str(untrained(pipe, gaussian, Path(folder))), recipes=["output-value"], top_k=4096)
            yield of_bank(f"eigenvectors {name}", pipe, elsewhere(other, home), per_layer, 0.0)
    count = per_layer * len(bank.layers)
    yield principal(pipe, count, samples, steps)
    yield jacobian(pipe, count, 4, steps, 4)


OURS = "eigenvectors (`output-value`)"
COMPOSITES, RANDOM_COMPOSITES = "composites of eigenvectors", "composites of random vectors"


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
        "added to. In brackets the 5th and 95th percentile over resamples of the seeds. This file is written by that command.",
        "",
        LEGEND.format(
            factors=document["factors"], unedited=document["misfit_unedited"], fit_seeds=len(FIT_SEEDS), norm=NORM
        ),
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *(
            f"| {row['method']} | "
            + " | ".join(_cell(row[name]) for name in head[1:-2])
            + f" | {row['evaluations']:,} | {row['seconds']:.1f} |"
            for row in document["rows"]
        ),
        "",
        f"![Factors covered, effect and selectivity of every method]({figure})",
        "",
        *findings(document),
        "",
    ]
    return "\n".join(lines)


def findings(document: dict[str, Any]) -> list[str]:
    """What the table says, in words, worked out from its rows."""
    ours, *others = document["rows"]
    by_name = {row["method"]: row for row in document["rows"]}
    pairs = [(ours, other) for other in others if not other["method"].startswith("composites")]
    pairs.append((by_name[COMPOSITES], by_name[RANDOM_COMPOSITES]))
    lines = ["## In words", ""]
    for one, other in pairs:
        said = []
        for name in ("covered", "effect", "selectivity"):
            (value, low, high), (theirs, from_, to) = one[name], other[name]
            word = "more" if low > to else "less" if high < from_ else "not told apart"
            said.append(f"{name} {value:.2f} against {theirs:.2f} ({word})")
        lines.append(f"- {one['method'].capitalize()} against {other['method']}: {', '.join(said)}.")
    sampled = [row for row in others if row["evaluations"]]
    lines += [
        "",
        "Getting the eigenvectors took no evaluation of the denoiser; "
        + "; ".join(
            f"{row['method']} took {row['evaluations']:,}, {row['seconds'] / ours['seconds']:,.0f} times the time"
            for row in sampled
        )
        + ".",
    ]
    return lines


def draw(document: dict[str, Any], path: Path) -> None:
    """The table's most telling columns as bars with their intervals."""
    from matplotlib import pyplot

    rows = document["rows"][::-1]
    picture, axes = pyplot.subplots(1, 3, figsize=(11, 3.2), sharey=True, layout="constrained")
    for axis, name in zip(axes, ("covered", "effect", "selectivity"), strict=True):
        values = [row[name][0] for row in rows]
        low = [row[name][0] - row[name][1] for row in rows]
        high = [row[name][2] - row[name][0] for row in rows]
        colours = ["#0b6e4f" if row["method"] == OURS else "#8a8f98" for row in rows]
        bounds = [[max(0.0, one) for one in low], [max(0.0, one) for one in high]]
        axis.barh([row["method"].replace("`", "") for row in rows], values, xerr=bounds, color=colours, capsize=2)
        axis.set_title(name if name != "covered" else f"covered, of {document['factors']} factors")
        axis.spines[["top", "right"]].set_visible(False)
    picture.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
