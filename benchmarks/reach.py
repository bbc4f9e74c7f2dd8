"""Is it known before anything is drawn which layers move pictures? The reach of directions against what they do.

    python benchmarks/reach.py                         # avatars and faces; benchmarks/terrain.py asks the same of a model of height maps

Of every layer the first direction of each side is drawn at plus and minus a scale on the same seeds. The change is the root mean square
of half the difference of both pictures, values in [0, 1], per unit scale. The rank correlations are over layers.
"""

import json
from pathlib import Path
from typing import Any

import click
import faces
import torch
from common import about, save

from eigenbank.api import build, find_checkpoint
from eigenbank.loaders.lengths import measure
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.sample import sample
from eigenbank.loaders.steer import steer
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID
from eigenbank.registry.sets.direction_set import LEAST_REACH

RECIPES = ("output-value", "output-value:output")
MODELS = (("avatars", DEMO_MODEL_ID, {"prompt": "a person"}), ("cartoon faces", str(faces.FOLDER), {}))
SEED = 8000
"""The first of the seeds; 19 apart, so that classes by seed differ."""


@click.command()
@click.option("--steps", default=10, show_default=True)
@click.option("--seeds", default=2, show_default=True)
@click.option("--scale", default=0.5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/reach.json"))
def main(steps: int, seeds: int, scale: float, out: Path) -> None:
    """Measure what the first direction of every layer does, and how well its reach tells."""
    document: dict[str, Any] = {"about": about(), "what": "the reach of directions against what they do to pictures"}
    document |= {"steps": steps, "seeds": seeds, "scale": scale, "models": {}}
    for name, model, call in MODELS:
        rows = changes(model, steps, range(SEED, SEED + 19 * seeds, 19), scale, call)
        document["models"][name] = {"correlation": correlations(rows), "rows": rows}
        click.echo(json.dumps({name: document["models"][name]["correlation"]}))
    save(out, document)


def changes(model: str, steps: int, seeds: range, scale: float, call: dict[str, Any]) -> list[dict[str, Any]]:
    """What the first direction of every layer and side does to the pictures of a model, beside its reach."""
    _, folder = find_checkpoint(model)
    pipe = open_pipeline(folder)
    rows = []
    for direction in measure(pipe, build(folder, recipes=RECIPES, top_k=1), steps=steps, **call):
        made = []
        for sign in (1, -1):
            with steer(pipe, {direction: sign * scale}):
                made.append(sample(pipe, seeds, steps, **call))
        change = float((made[0] - made[1]).square().mean().sqrt()) / (2 * scale)
        row = {"recipe": direction.recipe.slug, "layer": direction.layer, "reach": direction.reach, "change": change}
        rows.append(row)
        click.echo(json.dumps(row))
    return rows


def correlations(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Spearman's, of reach and change, for each recipe and for both; and of what layers read, without those that cannot act."""
    found = {}
    for recipe in (*RECIPES, None):
        some = [row for row in rows if recipe in (row["recipe"], None)]
        found[recipe or "both"] = rank_correlation([row["reach"] for row in some], [row["change"] for row in some])
    some = [row for row in rows if row["recipe"] == RECIPES[0] and row["reach"] >= LEAST_REACH]
    acting = rank_correlation([row["reach"] for row in some], [row["change"] for row in some])
    return {**found, "those that act": acting}


def rank_correlation(one: list[float], other: list[float]) -> float:
    ranks = torch.stack([torch.tensor(values, dtype=torch.float64).argsort().argsort() for values in (one, other)])
    return round(float(torch.corrcoef(ranks.double())[0, 1]), 3)


if __name__ == "__main__":
    main()
