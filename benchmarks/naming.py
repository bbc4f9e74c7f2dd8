"""What names cost: passes of the denoiser for the labels of the cartoon faces, and which of the shipped names they find.

    python benchmarks/naming.py --out benchmarks/results/naming.json

The set that ships was labelled exhaustively (`make directions`). Each run here has screening and confirmation seeds of its own.
"""

import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import faces
import torch
from common import about, save
from rich.progress import Progress

from eigenbank.builders.label.labeler import open_labelers
from eigenbank.builders.label.settings import LabelSettings
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.naming import label
from eigenbank.registry.sets.direction_set import DirectionSet

FIRST = 400_000
"""From here on each run has a thousand seeds that nothing else uses."""


@click.command()
@click.option("--runs", default=3, show_default=True, help="Choices of seeds.")
@click.option("--screening", default="predicted", show_default=True)
@click.option("--seeds", default=8, show_default=True, help="Seeds to screen on.")
@click.option("--most", default=2, show_default=True)
@click.option("--per-word", default=1, show_default=True)
@click.option("--confirm-most", default=48, show_default=True)
@click.option("--chance-most", default=24, show_default=True)
@click.option("--first", default=FIRST, show_default=True, help="First seed of the first run.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/naming.json"))
def main(
    runs: int,
    screening: Any,
    seeds: int,
    most: int,
    per_word: int,
    confirm_most: int,
    chance_most: int,
    first: int,
    out: Path,
) -> None:
    """Label the faces' directions anew, and write what it took and what was named."""
    facts = about()
    folder = faces.FOLDER
    shipped = DirectionSet.open(folder / "directions")
    (labeler,) = open_labelers(["attributes"], folder)
    known = _words(shipped, labeler.source)
    bare = shipped.labelled({each.id: () for each in shipped.sliders}).composed([])
    pipe = open_pipeline(folder)
    passes: Counter[str] = Counter()
    part = ""

    def count(_module: Any, args: tuple[torch.Tensor, ...]) -> None:
        passes[part] += len(args[0])

    def follow(what: str) -> None:
        nonlocal part
        part = what

    pipe.unet.register_forward_pre_hook(count)
    rows: list[dict[str, Any]] = []
    with Progress() as bar, tempfile.TemporaryDirectory() as cache:
        for run in range(runs):
            task, started = bar.add_task(f"run {run + 1} of {runs}", total=None), time.monotonic()
            passes.clear()
            start = first + 1_000 * run
            settings = LabelSettings(
                screening=screening, seeds=tuple(range(start, start + seeds)), most=most, per_word=per_word, quality_seeds=0,
                confirm_seeds=tuple(range(start + 100, start + 108)), confirm_most=confirm_most,
                chance_most=chance_most,
            )  # fmt: skip
            found = label(
                pipe, bare, [labeler], settings, cache=Path(cache) / str(run), log=lambda _: None,
                progress=lambda what, done, total, task=task: follow(what) or bar.update(task, completed=done, total=total),
            )  # fmt: skip
            words = _words(found, labeler.source)
            selectivity = [
                each.evidence.selectivity for slider in found.sliders for each in slider.labels if each.evidence
            ]
            rows.append(
                {
                    "passes": passes.total(), "of_them": dict(passes), "seconds": round(time.monotonic() - started), "words": sorted(words), "of_shipped": len(words & known),
                    "labels": len(selectivity), "selectivity": round(sum(selectivity) / max(1, len(selectivity)), 3),
                }
            )  # fmt: skip
            click.echo(json.dumps(rows[-1]))
    document = {
        "about": facts, "what": "passes of the denoiser for the labels of the cartoon faces", "directions": len(bare),
        "scores": len(labeler.names), "screening": screening, "shipped": sorted(known), "rows": rows,
    }  # fmt: skip
    save(out, document)


def _words(directions: DirectionSet, source: str) -> set[str]:
    return {each.text for slider in directions.sliders for each in slider.labels if each.source == source}


if __name__ == "__main__":
    main()
