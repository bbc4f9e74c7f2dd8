"""Do eigenvectors act more than chance? Every recipe's top directions against random and bottom ones, on the demo faces.

    python benchmarks/recipes.py --out benchmarks/results/recipes.json --table docs/results.md
    python benchmarks/recipes.py --model benchmarks/checkpoints/cartoon-faces-dit-64 \
        --out benchmarks/results/recipes-dit.json --table docs/results-dit.md

All at the same length, the same number per layer, the same seeds. Columns as in the table's legend.
"""

import json
import platform
import time
from pathlib import Path
from typing import Any

import click
import torch

from eigenbank.builders.label import effects
from eigenbank.faces.attributes import load_attribute_model
from eigenbank.loaders.calibrate import calibrate
from eigenbank.loaders.respond import respond
from eigenbank.registry.shipped import DEMO_MODEL_ID
from eigenbank.workflows import build, find_checkpoint, open_pipeline

RECIPES = ("output-value", "output-value:output", "qkv@0.2-0.6", "output-value@0.3-0.8")
"""Those measured unless others are named with --recipe."""
PER_LAYER = 6
EFFECT, SELECTIVITY = 0.35, 1 / 3

LEGEND = f"""- **effect**: mean over directions of the largest change of any factor, in standard deviations of the population per unit scale
- **selectivity**: mean share of that factor in the sum of all factors' changes
- **best**: mean over factors of the strongest direction's change
- **covered**: factors for which some direction has a change of at least {EFFECT} and a selectivity of at least 1/3
- **even/odd**: median size of the even part of the response against the odd one; beyond 1 a slider no longer slides
"""


def row(pipe: Any, directions: list[Any], model: Any, scale: float, seeds: range, steps: int) -> dict[str, float]:
    """Measure the directions and summarise them as a row of the table."""
    found = respond(pipe, directions, model.read, scale=scale, seeds=seeds, steps=steps)
    got = effects(found.base, found.plus, found.minus, torch.tensor(model.config.stds), scale)
    strength, leader = got.mean.abs().max(dim=1)
    rows = torch.arange(len(leader))
    covered = (got.mean.abs() >= EFFECT) & (got.selectivity >= SELECTIVITY)
    return {
        "directions": len(directions),
        "effect": float(strength.mean()),
        "selectivity": float(got.selectivity[rows, leader].mean()),
        "best": float(got.mean.abs().amax(dim=0).mean()),
        "covered": int(covered.any(dim=0).sum()),
        "asymmetry": float(got.asymmetry[rows, leader].median()),
    }


@click.command()
@click.option("--model", "model_id", default=DEMO_MODEL_ID, show_default=True, help="A checkpoint of cartoon faces.")
@click.option("--recipe", "recipes", multiple=True, default=RECIPES, metavar="RECIPE", help="Recipes to measure.")
@click.option("--scale", default=0.7, show_default=True)
@click.option("--seeds", default=4, show_default=True)
@click.option("--steps", default=10, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/recipes.json"))
@click.option("--table", type=click.Path(path_type=Path), default=Path("docs/results.md"))
def main(model_id: str, recipes: tuple[str, ...], scale: float, seeds: int, steps: int, out: Path, table: Path) -> None:
    """Measure every recipe against its controls and write the figures and their table."""
    started = time.perf_counter()
    _, checkpoint = find_checkpoint(DEMO_MODEL_ID)
    model = load_attribute_model(checkpoint / "attributes")
    pipe = open_pipeline(model_id)
    rows = []
    for slug in recipes:
        bank = calibrate(pipe, build(model_id, recipes=[slug], top_k=4096))
        top = [direction for direction in bank if direction.rank < PER_LAYER]
        bottom = [d for d in bank if d.rank >= bank.layers[d.layer].width - PER_LAYER]
        chance = list(bank.randomised(PER_LAYER, seed=1))
        for name, directions in (("top", top), ("random", chance), ("bottom", bottom)):
            found = row(pipe, directions, model, scale, range(5000, 5000 + seeds), steps)
            rows.append({"recipe": slug, "site": top[0].recipe.site, "vectors": name, **found})
            click.echo(json.dumps(rows[-1]))
    document = {
        "what": "recipes against random and bottom vectors",
        "model": model_id,
        "layers": len(bank.layers),
        "scale": scale,
        "seeds": seeds,
        "steps": steps,
        "factors": len(model.config.names),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - started),
        "rows": rows,
    }
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    table.write_text(as_markdown(document), encoding="utf-8")
    click.echo(f"wrote {out} and {table}")


def as_markdown(document: dict[str, Any]) -> str:
    """The page docs/results.md of a run."""
    lines = [
        "# Do eigenvectors act more than chance?",
        "",
        f"Measured on `{document.get('model', DEMO_MODEL_ID)}` ({document['factors']} known factors) by `python "
        f"benchmarks/recipes.py`: the first {PER_LAYER} directions of each of its {document.get('layers', 7)} layers, scale ±{document['scale']}, {document['seeds']} seeds, "
        f"{document['steps']} DDIM steps, against random unit vectors and the bottom {PER_LAYER} eigenvectors at the same "
        "place and length. This file is written by that command.",
        "",
        LEGEND,
        "| recipe | vectors | effect | selectivity | best | covered | even/odd |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in document["rows"]:
        name = f"`{found['recipe']}`" if found["vectors"] == "top" else ""
        lines.append(
            f"| {name} | {found['vectors']} | {found['effect']:.2f} | {found['selectivity']:.2f} | {found['best']:.2f} | "
            f"{found['covered']} of {document['factors']} | {found['asymmetry']:.2f} |"
        )
    return "\n".join([*lines, "", *findings(document), ""])


def findings(document: dict[str, Any]) -> list[str]:
    """What the table says, in words, worked out from its rows."""
    table = {(found["recipe"], found["vectors"]): found for found in document["rows"]}
    lines = ["## In words", ""]
    for slug in dict.fromkeys(found["recipe"] for found in document["rows"]):
        top, chance, bottom = (table[slug, name] for name in ("top", "random", "bottom"))
        lines.append(
            f"- `{slug}`: top eigenvectors act {top['effect'] / chance['effect']:.1f} times as strongly as random vectors and "
            f"{top['effect'] / bottom['effect']:.1f} times as the bottom ones; they cover {top['covered']} factors, random "
            f"vectors {chance['covered']}; selectivity {top['selectivity']:.2f} against {chance['selectivity']:.2f}."
        )
    return lines


if __name__ == "__main__":
    main()
