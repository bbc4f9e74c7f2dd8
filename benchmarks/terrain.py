"""Do eigenvectors steer a model that others trained, of something that is no face? Height maps, by readings of our own.

    python benchmarks/terrain.py --folder FOLDER       # an hour on a core; the model is kept in FOLDER, without it fetched anew

The first direction of every layer, on both sides, against random vectors, the last eigenvectors, and those of an untrained copy: at the same
places, the same length, the same seeds. Which reading a direction moves is found out on some seeds, the figures are of others. A run cut
short goes on where --cache is given.
"""

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from common import about, save
from quality import Measure, Readings, figures
from reach import correlations
from rich.progress import Progress
from terrain_checkpoint import DIFFICULTIES, PACKAGE, terrain_checkpoint
from torch import Tensor, nn
from ways import BOTTOM, OURS, RANDOM, UNTRAINED, Method, elsewhere, of_bank, untrained

from eigenbank.api import build, open_pipeline
from eigenbank.loaders.lengths import measure as measure_lengths
from eigenbank.loaders.sample import sample

WRITTEN, READ = "output-value:output", "output-value"
SIDES = {WRITTEN: 0.1, READ: 1.0}
"""Recipes, and the scale at which their directions are drawn: at this model's block output there is the whole residual stream."""
HIGHEST, BEND = 22.16864013671875, 0.1
"""Metres of the highest cell, and below which heights are kept in proportion: the model's heights are inverse hyperbolic sines."""
READINGS = (
    "level", "relief", "roughness", "slope", "anisotropy", "orientation", "peaks", "pits", "skew", "coarseness", "tilt", "middle",
)  # fmt: skip
REPORT, FIND, POPULATION = 6007, 6511, 7001
"""The first of the seeds; the next is so many further, that seeds differ in difficulty, which is the seed's last two digits:"""
STRIDE = 19
SHOWN = ("effect", "best", "selectivity", "consistency")
LIMIT = 1e-4


def heights(images: Tensor) -> Tensor:
    """Metres `(n, 128, 128)` of maps that were drawn, `(n, 3, 128, 128)` in [0, 1]."""
    return BEND * torch.sinh(images[:, 0].double() * math.asinh(HIGHEST / BEND))


def read_maps(images: Tensor) -> tuple[Tensor, Tensor]:
    """Readings `(n, 12)` of maps, and the share `(n,)` of cells cut off at the lowest or highest that there can be."""
    unit, metres = images[:, 0].double(), heights(images)
    fine, coarse = (
        metres - nn.functional.avg_pool2d(metres[:, None], size, 1, size // 2, count_include_pad=False)[:, 0]
        for size in (5, 33)
    )
    across, down = metres.diff(dim=2)[:, :-1], metres.diff(dim=1)[:, :, :-1]
    xx, yy, xy = ((one * other).mean(dim=(1, 2)) for one, other in ((across, across), (down, down), (across, down)))
    flat = metres.flatten(1)
    rest = flat - flat.mean(dim=1, keepdim=True)
    deviation = rest.square().mean(dim=1).sqrt().clamp_min(1e-6)
    smooth = nn.functional.avg_pool2d(unit[:, None], 5, 1, 2)
    peaks, pits = (
        (sign * smooth == nn.functional.max_pool2d(sign * smooth, 13, 1, 6)).sum(dim=(1, 2, 3)) for sign in (1, -1)
    )
    rows = torch.linspace(-1, 1, 128, dtype=torch.float64)
    tilts = [(metres * grid).mean(dim=(1, 2)) for grid in (rows[None, :, None], rows[None, None])]
    found = {
        "level": unit.mean(dim=(1, 2)),
        "relief": (flat.quantile(0.95, dim=1) - flat.quantile(0.05, dim=1)).clamp_min(1e-3).log(),
        "roughness": fine.square().mean(dim=(1, 2)).sqrt().clamp_min(1e-6).log(),
        "slope": (across.square() + down.square()).sqrt().mean(dim=(1, 2)).clamp_min(1e-6).log(),
        "anisotropy": ((xx - yy).square() + 4 * xy.square()).sqrt() / (xx + yy).clamp_min(1e-12),
        "orientation": (xx.clamp_min(1e-12) / yy.clamp_min(1e-12)).log(),
        "peaks": peaks.double().log1p(),
        "pits": pits.double().log1p(),
        "skew": (rest / deviation[:, None]).pow(3).mean(dim=1),
        "coarseness": -(coarse.square().mean(dim=(1, 2)).sqrt().clamp_min(1e-6) / deviation).log(),
        "tilt": torch.stack(tilts).square().sum(dim=0).sqrt() / deviation,
        "middle": (metres[:, 32:96, 32:96].mean(dim=(1, 2)) - flat.mean(dim=1)) / deviation,
    }
    cut = ((unit <= LIMIT) | (unit >= 1 - LIMIT)).double().mean(dim=(1, 2))
    return torch.stack([found[name] for name in READINGS], dim=1).float(), cut.float()


def methods(pipe: Any, source: str, recipe: str, per_layer: int) -> Iterator[Method]:
    """The directions of a recipe, and their controls; what is read has random ones alone."""
    bank = build(source, recipes=[recipe], top_k=4096, device="cpu")
    yield of_bank(OURS, pipe, bank, per_layer, 0.0)
    yield of_bank(RANDOM, pipe, bank.randomised(per_layer, seed=1), per_layer, 0.0)
    if recipe == WRITTEN:
        yield of_bank(BOTTOM, pipe, bank, per_layer, 0.0, bottom=True)
        with tempfile.TemporaryDirectory() as folder:
            blank = build(str(untrained(pipe, False, Path(folder))), recipes=[recipe], top_k=4096, device="cpu")
        yield of_bank(UNTRAINED, pipe, elsewhere(blank, bank), per_layer, 0.0)


def by_difficulty(pipe: Any, seeds: range, std: Tensor) -> Tensor:
    """How the readings `(f,)` differ between the most and the least difficult maps of the same seeds, in deviations."""
    ends = [
        read_maps(sample(pipe, list(seeds), 1, class_labels=[level] * len(seeds)))[0] for level in (0, DIFFICULTIES - 1)
    ]
    return (ends[1] - ends[0]).mean(dim=0) / std


def row(found: Readings, condition: Tensor) -> dict[str, Any]:
    """The figures of a method: those of `benchmarks/quality.py`, how many readings its directions lead, how alike they are to the
    condition; and what each direction does to all readings, the root of their mean square change.
    """
    assert found.search is not None
    shown = {name: figures([found])[name] for name in SHOWN}
    like = nn.functional.cosine_similarity(found.report.mean, condition[None]).abs()
    return {
        **shown,
        "changes": [round(float(each.square().mean().sqrt()), 6) for each in found.report.mean],
        "readings_led": len(set(found.search.mean.abs().argmax(dim=1).tolist())),
        "like_the_condition": round(float(like.median()), 4),
        "cut_off": round(found.misfit, 4),
        "cut_off_unedited": round(found.base_misfit, 4),
    }


@click.command()
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where the model is, or is put; a temporary folder without it."
)
@click.option("--per-layer", default=1, show_default=True)
@click.option("--seeds", default=4, show_default=True, help="Seeds to tell of.")
@click.option("--find", default=2, show_default=True, help="Seeds to find each direction's reading on.")
@click.option("--cache", type=click.Path(path_type=Path), help="Keep readings here, to go on after a stop.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/terrain.json"))
def main(folder: Path | None, per_layer: int, seeds: int, find: int, cache: Path | None, out: Path) -> None:
    """Measure the terrain model's directions against chance."""
    with contextlib.ExitStack() as stack:
        kept = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        read = cache or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        read.mkdir(parents=True, exist_ok=True)
        save(out, measured(str(terrain_checkpoint(kept)), per_layer, seeds, find, read))
    click.echo(f"wrote {out}")


def measured(source: str, per_layer: int, seeds: int, find: int, cache: Path) -> dict[str, Any]:
    """The document of a run."""
    facts = about()
    pipe = open_pipeline(source)
    pipe.unet.to(memory_format=torch.channels_last)  # a fifth faster on a CPU, and as good within 3e-4
    std = read_maps(sample(pipe, range(POPULATION, POPULATION + 32 * STRIDE, STRIDE), 1))[0].std(dim=0)
    report, search = (range(first, first + count * STRIDE, STRIDE) for first, count in ((REPORT, seeds), (FIND, find)))
    condition = by_difficulty(pipe, report, std)
    known = measure_lengths(pipe, build(source, recipes=list(SIDES), top_k=per_layer, device="cpu"), steps=1)
    rows = []
    with Progress() as progress:
        for recipe, scale in SIDES.items():
            measure = Measure(pipe, read_maps, std, report, 1, cache, progress, search, 0, scale, 16)
            for method in methods(pipe, source, recipe, per_layer):
                rows.append(
                    {"recipe": recipe, "scale": scale, "method": method.name, **row(measure(method), condition)}
                )
                progress.console.print_json(json.dumps(rows[-1]))
    layers = [
        {"recipe": each["recipe"], "layer": direction.layer, "reach": direction.reach, "change": change}
        for each in rows
        if each["method"] == OURS
        for direction, change in zip(
            (one for one in known if one.recipe.slug == each["recipe"]), each["changes"], strict=True
        )
    ]
    return {
        "about": facts, "what": "the terrain model's directions against chance", "model": PACKAGE, "per_layer": per_layer, "seeds": seeds,
        "find": find, "directions": method.count, "readings": READINGS, "rows": rows,
        "reach": {"correlation": correlations(layers), "layers": layers},
        "difficulty": dict(zip(READINGS, (round(float(value), 2) for value in condition), strict=True)),
    }  # fmt: skip


if __name__ == "__main__":
    main()
