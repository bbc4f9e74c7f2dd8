"""How well do photos come back from their noise, and do edits act on them? Measured on faces rendered, not generated.

    python benchmarks/inversion.py

diffusers' own DDIMInverseScheduler beside ours without and with repeats, on the cartoon faces' checkpoint.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import click
import faces
import torch
from common import about, save
from faces.render import render, sample_factors
from torch import Tensor

from eigenbank.api import open_pipeline
from eigenbank.builders.label.attributes import AttributeModel, load_attribute_model
from eigenbank.loaders.edit import UnconditionalPipeline
from eigenbank.loaders.steer import steer
from eigenbank.registry.sets.direction_set import DirectionSet

WAYS: tuple[int | None, ...] = (None, 0, 2, 5)
"""Repeats of the inversion; None is diffusers' own scheduler."""
EDIT_STEPS = 20
SCALE = 0.7


def back(reversible: UnconditionalPipeline, images: Tensor, own: bool) -> Tensor:
    """The noise of a batch of images, by our scheduler or diffusers' own."""
    if own:
        return reversible.run(images, reversible.inverse)
    from diffusers import DDIMInverseScheduler
    from diffusers.utils import logging

    logging.set_verbosity_error()  # it tells of a setting that it has no use for
    return reversible.run(images, DDIMInverseScheduler.from_config(reversible.forward.config))


def off(found: Tensor, wanted: Tensor) -> Tensor:
    """Root mean square difference per image, of a range of 1."""
    return ((found.clamp(-1, 1) - wanted) / 2).square().mean(dim=(1, 2, 3)).sqrt()


def known(bank: DirectionSet, model: AttributeModel) -> list[str]:
    """The set's labels that name what the renderer varies; others, of image statistics, are not read here."""
    return [label for label in bank.labels if label in model.config.names]


def edits(
    reversible: UnconditionalPipeline, noise: Tensor, bank: DirectionSet, model: AttributeModel
) -> dict[str, float]:
    """What the set's labels do to the photos: mean change of the labelled factor, its share of all, and its sign."""
    effects, shares, agree = [], [], []
    std = torch.tensor(model.config.stds)
    n = len(noise)
    for label in known(bank, model):
        factor = model.config.names.index(label)
        scales = torch.tensor([SCALE] * n + [-SCALE] * n)
        with steer(reversible.pipe, {label: scales}, bank=bank):
            images = reversible.run(noise.repeat(2, 1, 1, 1), reversible.forward)
        readings = model.read(images.clamp(-1, 1) / 2 + 0.5)
        change = (readings[:n] - readings[n:]) / (2 * SCALE) / std
        effects.append(float(change[:, factor].mean()))
        shares.append(float(change.mean(dim=0).abs()[factor] / change.mean(dim=0).abs().sum()))
        agree.append(float((change[:, factor] > 0).float().mean()))
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    return {"effect": mean(effects), "selectivity": mean(shares), "consistency": mean(agree)}


@torch.no_grad()
def measure(photos: int, steps: tuple[int, ...]) -> dict[str, Any]:
    """All rows of the table."""
    pipe, bank = open_pipeline(str(faces.FOLDER)), DirectionSet.open(faces.SET)
    model = load_attribute_model(faces.FOLDER / "attributes")
    images = render(sample_factors(photos, torch.Generator().manual_seed(2024)))
    rows = []
    for count in steps:
        for repeats in WAYS:
            reversible = UnconditionalPipeline(pipe, count, repeats or 0)
            noise = back(reversible, images, own=repeats is not None)
            error = off(reversible.run(noise, reversible.forward), images)
            row: dict[str, Any] = {
                "steps": count,
                "repeats": repeats,
                "passes": count * (2 + (repeats or 0)),
                "error": float(error.mean()),
                "worst": float(error.max()),
                "noise_std": float(noise.std()),
            }
            if count == EDIT_STEPS:
                row["edits"] = edits(reversible, noise, bank, model)
            rows.append(row)
            click.echo(json.dumps(row), err=True)
    return {
        "photos": photos,
        "labels": len(known(bank, model)),
        "rows": rows,
    }


def as_markdown(document: dict[str, Any]) -> str:
    """The figures of a run as Markdown."""
    lines = [
        "# How well do photos come back from their noise?",
        "",
        f"Measured on the cartoon faces' checkpoint by `python benchmarks/inversion.py`, on {document['photos']} faces drawn by the "
        "renderer, which the checkpoint did not generate..",
        "",
        "- **error**: root mean square difference of the unedited reconstruction from the photo, of a range of 1; mean, and worst photo",
        "- **noise**: standard deviation of the noise the photos were run back to; it should be 1",
        "- **passes**: runs of the denoiser, back and forth",
        "",
        "| steps | inversion | error | worst | noise | passes |",
        "|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        lines.append(
            f"| {row['steps']} | {_way(row['repeats'])} | {row['error']:.4f} | {row['worst']:.4f} | {row['noise_std']:.2f} | "
            f"{row['passes']} |"
        )
    lines += [
        "",
        f"The shipped set's {document['labels']} labels of known factors on these photos, at ±{SCALE}, in {EDIT_STEPS} steps: mean change of "
        "the labelled factor in standard deviations per unit scale, its share of all factors' changes, and the share of photos "
        "on which it has the right sign.",
        "",
        "| inversion | effect | selectivity | consistency |",
        "|---|---|---|---|",
    ]
    for row in document["rows"]:
        if "edits" in row:
            found = row["edits"]
            lines.append(
                f"| {_way(row['repeats'])} | {found['effect']:.2f} | {found['selectivity']:.2f} | {found['consistency']:.2f} |"
            )
    return "\n".join([*lines, ""])


def _way(repeats: int | None) -> str:
    return "diffusers' DDIMInverseScheduler" if repeats is None else f"eigenbank, {repeats} repeats"


@click.command()
@click.option("--photos", type=click.IntRange(1, 256), default=8, show_default=True)
@click.option("--steps", multiple=True, type=click.IntRange(2, 1000), default=(10, 20, 50), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/inversion.json"))
def main(photos: int, steps: tuple[int, ...], out: Path) -> None:
    """Measure reconstructions and edits of rendered faces."""
    warnings.simplefilter("ignore", FutureWarning)
    facts = about()
    document = {"about": facts, **measure(photos, steps)}
    save(out, document)
    click.echo(as_markdown(document))


if __name__ == "__main__":
    main()
