"""What words cost on the text-to-image demo: labelling with a vocabulary of twenty, and the slider for a word beyond it.

    python benchmarks/words.py --out benchmarks/results/words.json

A set of the avatars is built anew and labelled by the small image-text model beside them, with three prompts. Then `find` is asked for
words that the vocabulary has not: how long screening on what was kept takes, how many pictures confirming takes, what came of it. Pictures
are counted by the passes of the denoiser; the time of a word holds neither the opening of the pipeline nor that of the model.
"""

import json
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from common import about, save
from rich.progress import Progress

from eigenbank.api import build, find_checkpoint
from eigenbank.builders.label.labeler import open_labelers
from eigenbank.builders.label.settings import FINDING, LabelSettings
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.naming import find, label
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID

PROMPTS = ("a person", "an avatar of a person", "a cartoon face")
WORDS = {
    "with blond hair": "with black hair", "with pale skin": "with dark skin", "on a pink background": "on a white background",
    "with yellow clothes": "with black clothes", "with raised eyebrows": "with angry eyebrows", "in a turtleneck": "in a t-shirt",
    "with chin-length hair": "with short hair", "with white clothes": "with black clothes", "with cropped hair": "with spiky hair", "wearing a hat": None,
}  # fmt: skip
"""What is asked for, and what there is instead. Of the last the model was never told."""
STEPS, BRANCHES = 10, 2


@click.command()
@click.option("--recipe", "recipes", multiple=True, default=["output-value", "output-value:output"], show_default=True)
@click.option("--top-k", default=16, show_default=True)
@click.option("--scale", default=1.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/words.json"))
def main(recipes: tuple[str, ...], top_k: int, scale: float, out: Path) -> None:
    """Label the avatars' directions, and look for further words."""
    facts = about()
    _, folder = find_checkpoint(DEMO_MODEL_ID)
    bank = build(folder, recipes=recipes, top_k=top_k)
    pipe = open_pipeline(folder)
    (labeler,) = open_labelers(["clip"], folder)
    passes: Counter[str] = Counter()
    part = ""

    def count(_module: Any, args: tuple[torch.Tensor, ...]) -> None:
        passes[part] += len(args[0])

    def images() -> int:
        found = round(passes.total() / STEPS / BRANCHES)
        passes.clear()
        return found

    def follow(what: str, done: int, total: int) -> None:
        nonlocal part
        part = what
        bar.update(task, completed=done, total=total)

    pipe.unet.register_forward_pre_hook(count)
    how: dict[str, Any] = {"prompts": PROMPTS, "log": lambda _: None}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as kept, Progress() as bar:
        task, begun = bar.add_task("vocabulary", total=None), time.monotonic()
        settings = LabelSettings(steps=STEPS, scale=scale)
        bank = label(
            pipe, bank, [labeler], settings, cache=Path(kept), **how, progress=follow,
        )  # fmt: skip
        parts = {what: round(count / STEPS / BRANCHES) for what, count in passes.items() if what}
        vocabulary = {
            "of_them": parts,
            "images": images(),
            "seconds": round(time.monotonic() - begun),
            "words": bank.labels,
        }
        click.echo(json.dumps(vocabulary))
        for text, without in WORDS.items():
            begun = time.monotonic()
            asked = {"without": without, "labeler": labeler, "cache": Path(kept), **how}
            finding = replace(FINDING, steps=STEPS, scale=scale)
            looked = find(pipe, bank, text, confirm=False, settings=finding, **asked)
            seconds, screened = time.monotonic() - begun, images()
            found = find(pipe, bank, text, settings=finding, **asked)
            evidence = found.label.evidence if found.label else None
            rows.append(
                {
                    "word": text, "screening_seconds": round(seconds, 2), "images_to_screen": screened, "images_to_confirm": images(),
                    "slider": found.slider and found.slider.id, "effect": evidence and round(evidence.effect, 2),
                    "selectivity": evidence and round(evidence.selectivity, 2),
                    "nearest": [(each.id or f"{each.parts} parts", round(each.effect, 2), each.also) for each in looked.nearest[:2]],
                }
            )  # fmt: skip
            click.echo(json.dumps(rows[-1]))
    save(
        out,
        {
            "about": facts,
            "what": "what words cost on the avatars",
            "directions": len(bank),
            "vocabulary": vocabulary,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
