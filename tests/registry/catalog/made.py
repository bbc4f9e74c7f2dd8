"""Manifests to fill catalogs with."""

from datetime import datetime, timedelta, timezone

from eigenbank.schemas import (
    Checkpoint,
    CompositeRecord,
    DirectionRecord,
    Evidence,
    Label,
    Layer,
    Manifest,
    Quality,
    Recipe,
)

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=timezone.utc)
DIGEST = "d" * 64


def label(text: str, confidence: float | None = None, source: str = "statistics", **more: object) -> Label:
    return Label.model_validate({"text": text, "confidence": confidence, "source": source, "created": NOW, **more})


def measured(text: str, confidence: float) -> Label:
    evidence = Evidence(
        effect=1.25,
        selectivity=0.7,
        consistency=1.0,
        asymmetry=0.1,
        null=0.4,
        runner_up="glasses",
        runner_up_effect=-0.2,
        scale=1.5,
        seeds=(3, 1, 2),
        steps=20,
    )
    return label(text, confidence, "attribute-model:abc", evidence=evidence, polarity=-1, note="by\nhand")


def quality(**known: object) -> Quality:
    """A quality of which nothing is known but what is given."""
    facts = {"source": "attribute-model:abc", "scale": 1.5, "seeds": (4, 5), "steps": 20}
    return Quality.model_validate({**facts, **known})


def manifest(
    model_id: str = "acme/faces",
    labels: dict[str, list[Label]] | None = None,
    *,
    layers: tuple[str, ...] = ("down_blocks.2.attentions.0", "mid_block.attentions.0"),
    recipes: tuple[str, ...] = ("value", "output-value:output"),
    ranks: int = 3,
    revision: str | None = None,
    days: int = 0,
    licence: str | None = "mit",
    qualities: dict[str, Quality] | None = None,
    composites: tuple[str, ...] = (),
) -> Manifest:
    """A set of made-up numbers. `labels` and `qualities` by the names of directions and of `composite/NAME`; names that are
    not in the set are an error.
    """
    labels, qualities = dict(labels or {}), dict(qualities or {})
    records = []
    for layer in layers:
        for slug in recipes:
            for rank in range(ranks):
                number = len(records)
                record = DirectionRecord(
                    layer=layer,
                    recipe=Recipe.parse(slug),
                    rank=rank,
                    eigenvalue=10.0 / (rank + 1) + number / 1000,
                    share=0.5 / (rank + 1),
                    gap=None if rank == 2 else 0.1,
                )
                told = {"labels": tuple(labels.pop(record.id, ())), "quality": qualities.pop(record.id, None)}
                records.append(record.model_copy(update=told))
    made = []
    for name in composites:
        parts = [{"direction": records[0].id, "weight": 0.5}]
        composite = CompositeRecord.model_validate({"name": name, "parts": parts})
        told = {"labels": tuple(labels.pop(composite.id, ())), "quality": qualities.pop(composite.id, None)}
        made.append(composite.model_copy(update=told))
    assert not labels
    assert not qualities
    return Manifest(
        checkpoint=Checkpoint(model_id=model_id, revision=revision, denoiser="UNet2DModel", licence=licence),
        created=NOW + timedelta(days=days),
        builder="eigenbank 0.1.0",
        layers=tuple(
            Layer(name=name, kind="spatial", width=64 * (index + 1), heads=4, tensors={})
            for index, name in enumerate(layers)
        ),
        directions=tuple(records),
        composites=tuple(made),
    )
