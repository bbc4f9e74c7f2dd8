"""Do the avatars' sliders hold? On fresh seeds over ten prompts that finding did not use, beside random vectors, and on an untrained copy.

    python benchmarks/holding.py --out benchmarks/results/holding.json    # about 6,000 pictures of 64×64

Each slider is drawn at plus and minus the scale that its evidence is of, and read by the small image-text model beside the checkpoint, and
by the attribute model, which had no part in finding it. What was drawn is kept: a run cut short goes on.
"""

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from common import about, save
from rich.progress import Progress
from torch import Tensor

from eigenbank.api import find_checkpoint
from eigenbank.builders.label.criteria import effects
from eigenbank.builders.label.labeler import open_labelers
from eigenbank.cli.demo import WORDS
from eigenbank.loaders.measure import PipelineMeasurements
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.naming import find
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID
from eigenbank.registry.sets.direction_set import Composite, DirectionSet

PROMPTS = (
    "a portrait of a person", "someone with short hair", "a person in a cardigan", "a face with a moustache",
    "a cartoon person with long wavy hair", "an avatar of a person in a t-shirt with no beard", "a person with chin-length hair in a jacket",
    "a person with side-combed hair and a short beard", "someone with open eyes and cropped hair in a dress", "a person with a bun in a turtleneck",
)  # fmt: skip
"""What is to hold is said by none of them."""
FACTORS = {
    "with blond hair": ("light hair", 1), "on a yellow background": ("warm background", 1),
    "with grey hair": ("light hair", 1), "smiling": ("smile", 1),
}  # fmt: skip
"""The attribute that should move with a label, and which way."""
FIRST, DRAWS, STEPS = 500_000, 3, 10


@click.command()
@click.option("--seeds", default=500, show_default=True)
@click.option("--random-seeds", default=50, show_default=True, help="Seeds for each of the random vectors.")
@click.option("--kept", type=click.Path(path_type=Path), help="Folder that keeps readings: a run cut short goes on.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/holding.json"))
def main(seeds: int, random_seeds: int, kept: Path | None, out: Path) -> None:
    """Draw the shipped sliders on fresh seeds, and write how many agree."""
    facts = about()
    _, folder = find_checkpoint(DEMO_MODEL_ID)
    bank = DirectionSet.open(folder / "directions")
    pipe = open_pipeline(folder)
    reader, attributes = (open_labelers([name], folder)[0] for name in ("clip", "attributes"))
    asked = {text: (without, drawing) for text, without, drawing in WORDS}
    rows: list[dict[str, Any]] = []
    with Progress() as bar:
        task = bar.add_task("images", total=None)

        def counted(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        for slider in bank.sliders:
            for label in slider.labels:
                assert label.evidence is not None
                assert isinstance(slider, Composite)
                text, scale = label.text, label.evidence.scale
                without, _ = asked[text]
                asking = reader.asking(
                    text, [f"{each}, {text}" for each in PROMPTS], [f"{each}, {without}" for each in PROMPTS]
                )
                factor, sign = FACTORS[text]
                column = attributes.names.index(factor)
                measurements = PipelineMeasurements(pipe, STEPS, prompts=PROMPTS)

                reading = Reading(asking, attributes, column, sign)
                where = None if kept is None else kept / text.replace(" ", "-")
                moved = partial(reading.moved, measurements, scale=scale, cache=where, progress=counted)
                (own,) = moved([slider], seeds)
                records = [bank.randomised(2_000, seed=number).composed([slider.record]) for number in range(DRAWS)]
                random = moved([each[slider.id] for each in records], random_seeds)
                rows.append(
                    {
                        "label": text, "slider": slider.id, "scale": round(scale, 2), "branch": slider.branch,
                        "agree": _agree(own[:, 0]), "factor": factor, "factor_agrees": _agree(own[:, 1]),
                        "random_agree": [max(_agree(each[:, 0]), _agree(-each[:, 0])) for each in random],
                        "random_moves": round(float((random[..., 0].square().mean() / own[:, 0].square().mean()).sqrt()), 2),
                    }
                )  # fmt: skip
                click.echo(rows[-1])
        unnamed = []
        untrained = copy.deepcopy(pipe)
        torch.manual_seed(0)
        for module in untrained.unet.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        for text, (without, drawing) in asked.items():
            found = find(
                untrained,
                bank.composed([]).labelled({}),
                text,
                without=without,
                labeler=reader,
                drawing=drawing,
                log=lambda _: None,
            )
            unnamed.append({"word": text, "slider": found.slider and found.slider.id})
            click.echo(unnamed[-1])
    save(
        out,
        {
            "about": facts, "what": "whether the avatars' sliders hold", "seeds": seeds, "prompts": len(PROMPTS),
            "random_seeds": random_seeds, "rows": rows, "untrained": unnamed,
        },
    )  # fmt: skip


@dataclass
class Reading:
    """How pictures are read for one label: the word by one model, and its factor, which should move by `sign`, by another."""

    asking: Any
    attributes: Any
    column: int
    sign: int

    def read(self, images: Tensor) -> Tensor:
        """The word and its factor `(n, 2)`."""
        word, factor = self.asking.read(images)[:, 0], self.attributes.read(images)[:, self.column]
        return torch.stack([word, self.sign * factor], dim=1)

    def moved(
        self, measurements: PipelineMeasurements, sliders: list[Composite], seeds: int, *, scale: float, **how: Any
    ) -> Tensor:
        """What sliders do to both `(sliders, seeds, 2)`, per unit scale."""
        found = measurements.edited(
            sliders, self.read, scale=scale, seeds=range(FIRST, FIRST + seeds), force=True, **how
        )
        return effects(*found, torch.ones(2), scale).odd


def _agree(odd: Tensor) -> float:
    """The share of seeds on which it moves the right way."""
    return round(float((odd > 0).float().mean()), 4)


if __name__ == "__main__":
    main()
