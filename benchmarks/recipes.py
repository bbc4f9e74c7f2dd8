"""Which eigenvectors make the best sliders? Recipes, heads, windows and variations, each against random vectors there.

    python benchmarks/recipes.py --out benchmarks/results/recipes.json
    python benchmarks/recipes.py --model benchmarks/checkpoints/cartoon-faces-dit-64 \
        --out benchmarks/results/recipes-dit.json

All at the same length, the same number per layer, the same seeds; what a direction does is found out on some and told of
others (see benchmarks/quality.py). Columns as in the table's legend. A run cut short goes on.
"""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import faces
import torch
from common import about, save
from quality import BATCH, COVERED, REPORT, Measure, face_reader, figures
from rich.progress import Progress
from torch import Tensor, nn
from ways import Method, of_bank

from eigenbank.api import build, open_pipeline
from eigenbank.builders.label.attributes import load_attribute_model
from eigenbank.loaders.lengths import measure
from eigenbank.loaders.pipelines import denoiser_of
from eigenbank.registry.sets.direction_set import DirectionSet

DEFAULT = "output-value"
RECIPES = (
    DEFAULT,
    "output-value:output",
    "qkv",
    "output-value@0-0.5",
    "output-value@0.3-0.8",
)
"""Those measured unless others are named with --recipe."""
SEARCH = 6500
"""The first of the seeds that tell which factor a direction moves."""
SAME = 0.9999
"""A cosine: a variation that changes no direction is not measured again."""

LEGEND = f"""- **covered**: factors that some direction moves by at least {COVERED[0]} with a selectivity of at least 1/3; **reach**: without a least
  effect, the mean over factors of the largest effect of a direction with that selectivity, 0 where there is none
- **picked**: for each factor one direction is picked, the most selective of those that move it by {COVERED[0]} on the seeds that
  find; the mean over factors of its selectivity on the others, 0 where there is none or it moves the factor less there
- **sliders**: share of the directions that do so
- **effect**: mean over directions of the change of their factor, in standard deviations of the population per unit scale
- **best**: mean over factors of the change by the direction that moved it most
- **selectivity**: mean share of a direction's factor in the sum of all factors' changes
"""
SHOWN = ("covered", "reach", "picked", "sliders", "effect", "best", "selectivity")

Vectors = Callable[[list[nn.Module], int, int], Tensor]
"""From the attention layers in the model's order, the number of one and a count: its directions `(count, d)`."""


def output_value(layer: nn.Module) -> Tensor:
    """W_O·W_V `(d, d)`, float64."""
    product: Tensor = (layer.to_out[0].weight.double() @ layer.to_v.weight.double()).detach()
    return product


def gain(layer: nn.Module) -> Tensor:
    """The weights γ `(d,)` of the norm inside the layer; ones where it has none of its own."""
    norm = getattr(layer, "group_norm", None)
    ones = torch.ones(layer.to_v.weight.shape[1], dtype=torch.float64)
    return ones if norm is None else norm.weight.detach().double()


def leading(matrix: Tensor, count: int) -> Tensor:
    """The first right singular vectors, `(count, d)`."""
    return torch.linalg.svd(matrix)[2][:count]


def whitened(layers: list[nn.Module], at: int, count: int) -> Tensor:
    """Eigenvectors of W_O·W_V·diag(γ), in what the norm makes before its weights γ, brought back behind them."""
    scale = gain(layers[at])
    return leading(output_value(layers[at]) * scale, count) * scale


def along_the_path(layers: list[nn.Module], at: int, count: int) -> Tensor:
    """Eigenvectors of the product with the next layer of the same width, by the residual path and through this one."""
    here = output_value(layers[at])
    for following in layers[at + 1 :]:
        there = output_value(following) * gain(following)
        if there.shape == here.shape:
            return leading(there @ (torch.eye(len(here), dtype=here.dtype) + here), count)
    return leading(here, count)


def turned(layers: list[nn.Module], at: int, count: int) -> Tensor:
    """The first eigenvectors turned within their span so that each has few large entries (varimax, Kaiser 1958)."""
    basis = leading(output_value(layers[at]), count)
    rotation = torch.eye(count, dtype=basis.dtype)
    for _ in range(500):
        now = rotation @ basis
        left, _, right = torch.linalg.svd((now**3 - now * now.square().mean(dim=1, keepdim=True)) @ basis.T)
        rotation = left @ right
    return rotation @ basis


VARIATIONS: dict[str, Vectors] = {
    "whitened by the norm's weights": whitened,
    "along the path to the next layer": along_the_path,
    "turned to few large entries": turned,
}


def varied(pipe: Any, bank: DirectionSet, vectors: Vectors, per_layer: int) -> DirectionSet:
    """A bank of output-value's places with other vectors."""
    modules = dict(denoiser_of(pipe).named_modules())
    order = [name for name in modules if name in bank.layers]
    layers = [copy.deepcopy(modules[name]).cpu() for name in order]
    changed = {}
    for each in bank:
        if each.rank == 0:
            (key,) = (key for key in bank.vectors if key.startswith(f"{each.layer}/"))
            found = vectors(layers, order.index(each.layer), per_layer).float()
            changed[key] = bank.vectors[key].clone()
            changed[key][:per_layer] = nn.functional.normalize(found, dim=1)
    return DirectionSet(bank.manifest, vectors=changed)


def methods(pipe: Any, model_id: str, recipes: tuple[str, ...], per_layer: int) -> Iterator[tuple[str, str, Method]]:
    """Recipe, kind of vectors, and the directions."""
    for slug in recipes:
        bank = measure(pipe, build(model_id, recipes=[slug], top_k=per_layer, device="cpu"))
        yield slug, "top", of_bank(slug, pipe, bank, per_layer, 0.0)
        if slug == DEFAULT:
            heads = min(layer.heads for layer in bank.manifest.layers)
            single = build(
                model_id, recipes=[f"{slug}.h{head}" for head in range(heads)], top_k=per_layer // heads, device="cpu"
            )
            yield slug, "top of each head", of_bank(f"{slug}, heads", pipe, measure(pipe, single), per_layer, 0.0)
            for name, vectors in VARIATIONS.items():
                other = varied(pipe, bank, vectors, per_layer)
                if any(abs(float(one.vector @ two.vector)) < SAME for one, two in zip(bank, other, strict=True)):
                    yield slug, name, of_bank(name, pipe, other, per_layer, 0.0)
        chance = bank.randomised(per_layer, seed=1)
        yield slug, "random", of_bank(f"{slug}, random", pipe, chance, per_layer, 0.0)


@click.command()
@click.option("--model", "model_id", default=str(faces.FOLDER), help="A checkpoint of cartoon faces.")
@click.option("--recipe", "recipes", multiple=True, default=RECIPES, metavar="RECIPE", help="Recipes to measure.")
@click.option("--per-layer", default=4, show_default=True)
@click.option("--seeds", default=8, show_default=True, help="Seeds to tell of.")
@click.option("--find", default=4, show_default=True, help="Seeds to find each direction's factor on.")
@click.option("--device", type=click.Choice(list(BATCH)), default="cpu", show_default=True)
@click.option("--steps", default=10, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), default=Path(".train/quality"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/recipes.json"))
def main(
    model_id: str, recipes: tuple[str, ...], per_layer: int, seeds: int, find: int, device: str, steps: int, cache: Path,
    out: Path,
) -> None:  # fmt: skip
    """Measure every recipe against chance, and write the figures and their table."""
    facts = about()
    cache.mkdir(parents=True, exist_ok=True)
    checkpoint = faces.FOLDER
    model = load_attribute_model(checkpoint / "attributes")
    pipe = open_pipeline(model_id, device=device)
    rows = []
    with Progress() as progress:
        reader, std = face_reader(model.to(pipe.device)), torch.tensor(model.config.stds)
        search, report = range(SEARCH, SEARCH + find), range(REPORT, REPORT + seeds)
        measure = Measure(pipe, reader, std, report, steps, cache, progress, search, linear=0)
        for recipe, kind, method in methods(pipe, model_id, recipes, per_layer):
            found = figures([measure(method)])
            rows.append({"recipe": recipe, "vectors": kind, **{name: found[name] for name in SHOWN}})
            progress.console.print_json(json.dumps(rows[-1]))
    document = {
        "about": facts,
        "what": "recipes and variations against random vectors",
        "model": faces.MODEL_ID if Path(model_id) == faces.FOLDER else model_id,
        "directions": method.count,
        "per_layer": per_layer,
        "search": find,
        "seeds": seeds,
        "steps": steps,
        "factors": len(model.config.names),
        "rows": rows,
    }
    save(out, document)
    click.echo(as_markdown(document))


def as_markdown(document: dict[str, Any]) -> str:
    """The figures of a run as Markdown."""
    model = "" if document["model"] == faces.MODEL_ID else f" --model {document['model']}"
    lines = [
        f"# Which eigenvectors make the best sliders of {document['model'].rpartition('/')[2]}?",
        "",
        f"Measured on `{document['model']}` ({document['factors']} known factors) by "
        f"`python benchmarks/recipes.py{model} --find {document['search']} --seeds {document['seeds']}` on "
        f"{document['about']['accelerator'] or 'the processor'}: the first {document['per_layer']} directions of every layer, {document['directions']} in all, {document['steps']} DDIM steps; "
        f"which factor a direction moves was found out on {document['search']} seeds, the figures are of {document['seeds']} others. "
        "Random vectors are added at the same places, in the same window, at the same length. In brackets the 5th and 95th "
        "percentile over resamples of the seeds..",
        "",
        LEGEND,
        f"| recipe | vectors | {' | '.join(SHOWN)} |",
        "|---|---|" + "---|" * len(SHOWN),
    ]
    for found in document["rows"]:
        name = f"`{found['recipe']}`" if found["vectors"] == "top" else ""
        cells = (f"{value:.2f} ({low:.2f}–{high:.2f})" for value, low, high in (found[each] for each in SHOWN))
        lines.append(f"| {name} | {found['vectors']} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *findings(document), ""])


def findings(document: dict[str, Any]) -> list[str]:
    """What the table says, in words, worked out from its rows."""
    table = {(found["recipe"], found["vectors"]): found for found in document["rows"]}
    lines = ["## In words", ""]
    for (slug, kind), found in table.items():
        if kind != "random":
            name = f"`{slug}`" if kind == "top" else f"`{slug}`, {kind},"
            lines.append(f"- {name} against random vectors: {_compared(found, table[slug, 'random'])}.")
    lines.append("")
    for (slug, kind), found in table.items():
        if kind not in ("top", "random"):
            lines.append(f"- `{slug}`, {kind}, against its eigenvectors: {_compared(found, table[slug, 'top'])}.")
    return lines


def _compared(one: dict[str, Any], other: dict[str, Any]) -> str:
    said = []
    for name in SHOWN:
        (value, low, high), (theirs, from_, to) = one[name], other[name]
        if low > to or high < from_:
            said.append(f"{'more' if low > to else 'less'} {name} ({value:.2f}, {theirs:.2f})")
    return ", ".join(said) or "nothing can be told apart"


if __name__ == "__main__":
    main()
