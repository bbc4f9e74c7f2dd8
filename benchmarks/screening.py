"""How well does one denoiser pass tell what a direction does? Predicted pictures against drawn ones, on the same pipeline.

    python benchmarks/screening.py --out benchmarks/results/screening.json

For each way of looking: passes of the denoiser a direction, the correlation of its effects with those in pictures drawn on
other seeds, and how many of a score's three strongest directions are among its ten strongest (`found`; `by_chance` is what
lists drawn by lot would have).
"""

import json
from pathlib import Path
from typing import Any

import click
import faces
import torch
from common import about, save
from rich.progress import Progress
from torch import Tensor

from eigenbank.api import build, find_checkpoint
from eigenbank.builders.label.labeler import LabelerEnsemble, open_labelers
from eigenbank.loaders import measure
from eigenbank.loaders.drawing import passes_of
from eigenbank.loaders.measure import PipelineMeasurements
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas.drawing import Drawing

REFERENCE = range(5_000, 5_016)
BEST, LISTED = 3, 10


@click.command()
@click.option(
    "--model", default=str(faces.FOLDER), help="A model id, or a checkpoint's folder; the cartoon faces otherwise."
)
@click.option("--directions", default=48, show_default=True, help="Directions to look at, drawn by lot.")
@click.option("--recipe", "recipes", multiple=True, help="Build these recipes instead of opening the set that ships.")
@click.option("--labeler", "labelers", multiple=True, help="As for `eigenbank label`.")
@click.option("--prompt", "prompts", multiple=True)
@click.option("--steps", default=10, show_default=True)
@click.option("--looks", default="0.1,0.2,0.3,0.4", show_default=True, help="How far into the run to predict.")
@click.option("--seeds", default="2,4,8", show_default=True, help="How many seeds to look on.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path(".train/screening"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/screening.json"))
def main(
    model: str,
    directions: int,
    recipes: tuple[str, ...],
    labelers: tuple[str, ...],
    prompts: tuple[str, ...],
    steps: int,
    looks: str,
    seeds: str,
    cache: Path,
    out: Path,
) -> None:
    """Compare ways of looking at directions, and write what was found."""
    facts = about()
    folder = Path(model)
    if not folder.is_dir():
        _, folder = find_checkpoint(model)
    bank = build(str(folder), recipes=list(recipes), top_k=8) if recipes else DirectionSet.open(folder / "directions")
    everything = list(bank)
    lot = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))[:directions].tolist()
    chosen = [everything[number] for number in sorted(lot)]
    drawing = Drawing(prompts=prompts)
    pipe = open_pipeline(folder, drawing)
    ensemble = LabelerEnsemble(open_labelers(list(labelers), folder))
    measurements = PipelineMeasurements(pipe, steps, drawing=drawing)
    passes = passes_of(pipe, drawing)
    cache = cache / measurements.fingerprint[:16]
    with Progress() as bar:

        def counted(what: str) -> Any:
            task = bar.add_task(what, total=None)
            return lambda done, total: bar.update(task, completed=done, total=total)

        population = measurements.unedited(
            ensemble.read, range(2_000_000, 2_000_064), cache=cache, progress=counted("population")
        )
        stds = population.std(dim=0).clamp_min(1e-6)

        def drawn(seeds: range) -> Tensor:
            _, plus, minus = measurements.edited(
                chosen, ensemble.read, scale=1.0, seeds=seeds, cache=cache, progress=counted(f"drawn, {len(seeds)}")
            )
            return ((plus - minus) / (2 * stds)).nan_to_num().mean(dim=1)

        reference = drawn(REFERENCE)
        rows = []
        for count in map(int, seeds.split(",")):
            found = drawn(range(100, 100 + count))
            rows.append(
                {"way": "drawn", "seeds": count, "passes": 2 * steps * count * passes, **_against(found, reference)}
            )
            for look in map(float, looks.split(",")):
                measure.LOOK = look
                plus, minus = measurements.predicted(
                    chosen,
                    ensemble.read,
                    scale=1.0,
                    seeds=range(100, 100 + count),
                    cache=cache,
                    progress=counted(f"predicted at {look:g}"),
                )
                found = ((plus - minus) / (2 * stds)).nan_to_num().mean(dim=1)
                rows.append(
                    {
                        "way": f"predicted at {look:g}",
                        "seeds": count,
                        "passes": 2 * count * passes,
                        **_against(found, reference),
                    }
                )
    document = {
        "about": facts, "what": "effects in predicted pictures against effects in drawn ones", "model": model, "prompts": prompts,
        "directions": len(chosen), "scores": len(stds), "steps": steps, "by_chance": min(1.0, LISTED / len(chosen)), "rows": rows,
    }  # fmt: skip
    save(out, document)
    for row in rows:
        click.echo(json.dumps(row))


def _against(found: Tensor, reference: Tensor) -> dict[str, float]:
    """How effects `(K, f)` agree with those of reference: as a correlation, in the strongest of each score, in size."""
    r = float(torch.corrcoef(torch.stack([found.flatten(), reference.flatten()]))[0, 1])
    best, listed = (each.abs().topk(count, dim=0).indices for each, count in ((reference, BEST), (found, LISTED)))
    share = torch.stack([torch.isin(a, b).float().mean() for a, b in zip(best.T, listed.T, strict=True)]).mean()
    size = float((found * reference).sum() / reference.square().sum())
    return {"r": round(r, 3), "found": round(float(share), 3), "size": round(size, 3)}


if __name__ == "__main__":
    main()
