"""Do the cartoon faces' labels hold? On hundreds of fresh seeds, in blind reruns, and not at all where there is nothing to name.

    python benchmarks/labels.py --out benchmarks/results/labels.json

Labels are those of the set that ships, or of --directions. What was drawn is kept: a run cut short goes on.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import faces
import torch
from common import about, save
from rich.progress import Progress
from torch import Tensor
from ways import untrained

from eigenbank.api import build
from eigenbank.builders.label.attributes import load_attribute_model
from eigenbank.builders.label.criteria import Criteria, Effects, confidence, effects, leading
from eigenbank.builders.label.labeler import open_labelers
from eigenbank.builders.label.settings import LabelSettings
from eigenbank.loaders.measure import PipelineMeasurements
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.naming import label
from eigenbank.registry.sets.direction_set import Composite, Direction, DirectionSet
from eigenbank.schemas.drawing import Drawing

HELD = range(100_000, 100_500)
"""Seeds that nothing else uses."""
AS_SHIPPED: dict[str, Any] = {
    "screening": "drawn", "most": 100, "per_word": 1000, "confirm_most": 192, "chance_most": 192,
}  # fmt: skip
"""How `make directions` labels: all that the screening finds is confirmed, on up to so many seeds, chance likewise."""
SCREENED = 16
"""On so many seeds it screens."""
FIRST_RERUN = 304_000
"""From here on each blind rerun has a thousand seeds. Those from 300,000 had a part in choosing how labels are given."""
SUBSET = 12
PAIRS = 2000
BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
Kind = Direction | Composite


@click.command()
@click.option("--directions", type=click.Path(path_type=Path), help="Set to check [default: theirs].")
@click.option("--held", default=500, show_default=True, help="Fresh seeds for each label's best direction.")
@click.option("--calibration-seeds", default=48, show_default=True, help="Seeds for everything that has a label.")
@click.option("--reruns", default=1, show_default=True, help="Blind reruns of labelling, each with seeds of its own.")
@click.option("--device", default="cpu", show_default=True, help="Where to draw: cpu, cuda.")
@click.option("--bfloat16", is_flag=True, help="Draw in bfloat16, which some processors do faster.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path(".train/labels"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/labels.json"))
def main(
    directions: Path | None,
    held: int,
    calibration_seeds: int,
    reruns: int,
    device: str,
    bfloat16: bool,
    cache: Path,
    out: Path,
) -> None:
    """Check the labels of the faces' set, and write what was found."""
    facts = about()
    checkpoint = faces.FOLDER
    bank = DirectionSet.open(directions or checkpoint / "directions")
    pipe = open_pipeline(checkpoint, Drawing(device=device))
    if bfloat16:
        cache = cache / "bfloat16"  # a run in float32 must not take these readings for its own
        pipe.unet.forward = torch.autocast(pipe.device.type, torch.bfloat16)(pipe.unet.forward)
    model = load_attribute_model(checkpoint / "attributes")
    names, std = model.config.names, torch.tensor(model.config.stds)
    source = next(
        found.source for each in bank.sliders for found in each.labels if found.source.startswith("attribute")
    )
    named = [(each, found) for each in bank.sliders for found in each.labels if found.source == source]
    document: dict[str, Any] = {
        "about": facts, "what": "whether the cartoon faces' labels hold", "labels": len(named), "source": source,
        "bfloat16": bfloat16,
    }  # fmt: skip
    with Progress() as progress:
        bars: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what)
            progress.update(bars[what], completed=done, total=total)

        measurements = PipelineMeasurements(pipe, 10)

        def read(what: str, which: list[Kind], seeds: range) -> Effects:
            found = measurements.edited(
                which, model.read, scale=1.0, seeds=seeds, cache=cache / measurements.fingerprint[:32],
                progress=lambda done, total: show(what, done, total),
            )  # fmt: skip
            return effects(*found, std, 1.0)

        best = {text: bank.named(text)[1] for text in sorted({found.text for _, found in named})}
        many = read("held", list(best.values()), HELD[:held])
        document["held"] = [
            holding(text, slider, rows, held)
            for (text, slider), rows in zip(best.items(), _each(many, names, best), strict=True)
        ]
        every = [slider for slider, _ in named]
        document["calibration"] = calibration(read("calibration", every, HELD[-calibration_seeds:]))
        document["reruns"] = [
            rerun(bank, pipe, checkpoint, number, cache, lambda what, done, total: show(f"rerun: {what}", done, total))
            for number in range(reruns)
        ]
        document["untrained"] = labels_of_untrained(
            pipe, checkpoint, bank, cache, lambda what, done, total: show(f"untrained: {what}", done, total)
        )
    save(out, document)
    click.echo(as_markdown(document))


def _each(found: Effects, names: tuple[str, ...], best: dict[str, Kind]) -> list[Tensor]:
    """For each label the odd part of its own factor `(n,)`, in standard deviations per unit scale."""
    return [found.odd[k, :, names.index(text)] for k, text in enumerate(best)]


def holding(text: str, slider: Kind, odd: Tensor, held: int) -> dict[str, Any]:
    """How a label holds on the fresh seeds."""
    (found,) = [each for each in slider.labels if each.text == text][:1]
    agree = float((odd.sign() == found.polarity).float().mean())
    return {
        "label": text,
        "by": slider.id,
        "seeds": held,
        "sign_agreement": round(agree, 4),
        "effect": round(float(odd.mean()) * found.polarity, 4),
        "stated_effect": round(found.evidence.effect, 4) if found.evidence else None,
        "confidence": found.confidence,
    }


def calibration(found: Effects) -> list[dict[str, Any]]:
    """How often a second, disjoint set of seeds gives the label that a first one gave with so much confidence."""
    generator = torch.Generator().manual_seed(0)
    criteria = Criteria()
    said: list[tuple[float, bool]] = []
    n = found.odd.shape[1]
    for _ in range(PAIRS // len(found.odd) + 1):
        order = torch.randperm(n, generator=generator)
        first, second = (found.on(order[start : start + SUBSET]) for start in (0, SUBSET))
        lead, again = leading(first, criteria), leading(second, criteria)
        trust = confidence(first, criteria, resamples=200)
        sign, sign_again = (part.mean[torch.arange(len(lead)), lead.clamp_min(0)].sign() for part in (first, second))
        for k in (lead >= 0).nonzero().flatten().tolist():
            said.append((float(trust[k]), bool(again[k] == lead[k] and sign[k] == sign_again[k])))
    rows = []
    for low, high in zip((0.0, *BINS), BINS, strict=False):
        here = [same for stated, same in said if low <= stated < high or stated == high == 1.0]
        if here:
            rows.append({"from": low, "to": high, "pairs": len(here), "same": round(sum(here) / len(here), 4)})
    return rows


def rerun(bank: DirectionSet, pipe: Any, checkpoint: Path, number: int, cache: Path, progress: Any) -> dict[str, Any]:
    """Label the same directions again with other seeds: how many labels come back?"""
    start = FIRST_RERUN + 1_000 * number
    settings = LabelSettings(
        seeds=tuple(range(start, start + SCREENED)),
        confirm_seeds=tuple(range(start + 100, start + 124)),
        quality_seeds=0,
        **AS_SHIPPED,
    )
    plain = bank.composed([]).labelled({each.id: () for each in bank})
    again = label(
        pipe, plain, open_labelers(["attributes"], checkpoint), settings, cache=cache / "rerun", progress=progress
    )
    before, after = given(bank, "attribute"), given(again, "attribute")
    texts, new = {text for _, text, _ in before}, {text for _, text, _ in after}
    lost = {name for name, *_ in before - after}
    otherwise = {(name, text) for name, text, _ in after if name in lost}
    return {
        "seeds": [start, start + 100],
        "texts": sorted(texts),
        "found_again": sorted(texts & new),
        "new": sorted(new - texts),
        **{
            kind: {"given": len(own), "again": len(own & after)}
            for kind, own in (
                ("directions", {each for each in before if not is_composite(each[0])}),
                ("composites", {each for each in before if is_composite(each[0])}),
            )
        },
        "only_in_the_rerun": sorted(map(list, after - before)),
        "lost": sorted(map(list, before - after)),
        "otherwise": sorted(map(list, otherwise)),
    }


def given(bank: DirectionSet, source: str) -> set[tuple[str, str, int]]:
    """The labels that sources of a kind gave: id, text and polarity."""
    return {
        (each.id, found.text, found.polarity)
        for each in bank.sliders
        for found in each.labels
        if found.source.startswith(source)
    }


def is_composite(name: str) -> bool:
    """Whether an id is a composite's."""
    return name.startswith("composite/")


def labels_of_untrained(pipe: Any, checkpoint: Path, bank: DirectionSet, cache: Path, progress: Any) -> dict[str, Any]:
    """What labelling gives on a copy of the checkpoint that has learned nothing."""
    recipes = sorted({each.recipe.slug for each in bank})
    with tempfile.TemporaryDirectory() as folder:
        blank = untrained(pipe, False, Path(folder))
        pipe.scheduler.save_pretrained(blank / "scheduler")
        index = {
            "_class_name": "DDPMPipeline",
            "unet": ["diffusers", "UNet2DModel"],
            "scheduler": ["diffusers", type(pipe.scheduler).__name__],
        }
        (blank / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
        other = build(str(blank), recipes=recipes, top_k=8)
        labelers = open_labelers(["attributes", "statistics"], checkpoint)
        named = label(
            open_pipeline(blank, Drawing(device=str(pipe.device))),
            other,
            labelers,
            LabelSettings(seeds=tuple(range(100, 100 + SCREENED)), quality_seeds=0, **AS_SHIPPED),
            cache=cache / "untrained",
            progress=progress,
        )
    given = [[each.id, found.text, found.source.partition(":")[0]] for each in named.sliders for found in each.labels]
    return {"directions": len(other), "labels": given}


def as_markdown(document: dict[str, Any]) -> str:
    """The figures of a run as Markdown."""
    lines = [
        "# Do the labels hold?",
        "",
        f"Checked on the cartoon faces' {document['labels']} labels by `python benchmarks/labels.py --reruns {len(document['reruns'])}"
        f"{' --bfloat16' if document['bfloat16'] else ''}` on "
        f"{document['about']['accelerator'] or 'the processor'}; this file is written by that command.",
        "",
        "## On fresh seeds",
        "",
        "Each label's best direction or composite, at ±1, on seeds that nothing else used. Effects in standard deviations of "
        "the population, per unit scale.",
        "",
        "| label | by | sign agrees | effect | effect as stated | confidence as stated |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['label']} | `{row['by']}` | {row['sign_agreement']:.1%} of {row['seeds']} | {row['effect']:.2f} | "
            f"{row['stated_effect']:.2f} | {row['confidence']:.2f} |"
            for row in document["held"]
        ),
        "",
        "## Whether the confidence is right",
        "",
        f"Two disjoint sets of {SUBSET} seeds are drawn again and again from the same readings. Where the first gives a label with "
        "so much confidence (share of bootstrap resamples), how often does the second give the same?",
        "",
        "| confidence | pairs | the same label |",
        "|---|---|---|",
        *(
            f"| {row['from']:.2f}–{row['to']:.2f} | {row['pairs']} | {row['same']:.1%} |"
            for row in document["calibration"]
        ),
        "",
        "## In blind reruns, and on a checkpoint that has learned nothing",
        "",
    ]
    for row in document["reruns"]:
        kinds = {kind: row[kind] for kind in ("directions", "composites")}
        total = {key: sum(each[key] for each in kinds.values()) for key in ("given", "again")}
        lines.append(
            f"- Seeds from {row['seeds'][0]:,}: {len(row['found_again'])} of {len(row['texts'])} names found again"
            + (f", and {', '.join(row['new'])} besides" if row["new"] else "")
            + f"; {total['again']} of {total['given']} labels ({total['again'] / total['given']:.0%}) are given again: "
            + ", ".join(f"{each['again']} of {each['given']} on {kind}" for kind, each in kinds.items())
            + f". What lost its label has {len(row['otherwise']) or 'no'} other, or none with the other sign; "
            f"{len(row['only_in_the_rerun'])} labels are given in the rerun alone."
        )
    blank = document["untrained"]
    lines += [
        f"- An untrained copy: {len(blank['labels'])} labels on {blank['directions']} directions, by attributes and statistics.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
