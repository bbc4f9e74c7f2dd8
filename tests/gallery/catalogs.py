"""Catalogs to make galleries of: sets with pictures in which every cell can be told from every other."""

import io
import os
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from PIL import Image

from eigenbank.registry.catalog import Catalog, SetEntry
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.registry.sets.folder import manifest_digest
from eigenbank.schemas import (
    Checkpoint,
    CompositeRecord,
    DirectionRecord,
    Evidence,
    Label,
    Layer,
    Manifest,
    Part,
    Preview,
    Quality,
    Recipe,
)

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)
SCALES = (-2.0, -1.0, 0.0, 1.0, 2.0)
SEEDS = (4, 7)
LAYERS = ("down_blocks.1.attentions.0", "mid_block.attentions.0")
RECIPES = ("output-value", "output-value:output", "qkv@0.2-0.6")
CELL = 8
EVIDENCE = Evidence(
    effect=1.25, selectivity=0.8, consistency=1, null=0.1, runner_up="age", runner_up_effect=-0.2,
    scale=1, seeds=(10, 11, 12), steps=20,
)  # fmt: skip
QUALITY = Quality(
    source="statistics", effect=1.25, selectivity=0.8, consistency=1, linearity=0.95, recommended_range=(-1, 2),
    locality=0.3, drift=None, scale=1, seeds=(10, 11, 12), steps=20,
)  # fmt: skip


def colour(number: int, row: int, column: int) -> tuple[int, int, int]:
    """The colour of a cell: its direction in red, its row in green, its column in blue."""
    return (40 + 37 * number) % 256, 60 * row + 30, 50 * column + 10


def picture(number: int, rows: int = len(SEEDS), columns: int = len(SCALES)) -> bytes:
    """A preview of plain cells."""
    image = Image.new("RGB", (columns * CELL, rows * CELL))
    for row in range(rows):
        for column in range(columns):
            image.paste(colour(number, row, column), (column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL))
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True)
    return file.getvalue()


def label(text: str, **more: object) -> Label:
    """A label with evidence."""
    given = {"confidence": 0.97, "source": "attribute-model:abcdef0123", "evidence": EVIDENCE, "created": NOW, **more}
    return Label.model_validate({"text": text, **given})


def make_bank(
    model: str,
    *,
    labels: dict[int, Sequence[Label]] | None = None,
    pictures: int | None = None,
    ranks: int = 4,
    layers: Sequence[str] = LAYERS,
    recipes: Sequence[str] = RECIPES,
    licence: str | None = "apache-2.0",
    denoiser: str = "UNet2DModel",
    revision: str | None = None,
) -> DirectionSet:
    """A bank of made-up directions. `labels` by a direction's number; the first `pictures` have one, None: all of them."""
    import torch

    records = [
        DirectionRecord(
            layer=layer, recipe=Recipe.parse(recipe), rank=rank, eigenvalue=8 / (rank + 1), share=0.3 / (rank + 1), gap=0.1,
            labels=tuple((labels or {}).get(number, ())), quality=QUALITY if number == 0 else None,
        )
        for number, (layer, recipe, rank) in enumerate(
            (layer, recipe, rank) for layer in layers for recipe in recipes for rank in range(ranks)
        )
    ]  # fmt: skip
    made = [
        Layer(
            name=layer, kind="spatial", width=16, heads=2, tensors={"query": Part(tensor=f"{layer}.to_q.weight")},
            digests={"float32": "0123456789abcdef" * 4},
        )
        for layer in layers
    ]  # fmt: skip
    manifest = Manifest(
        checkpoint=Checkpoint(model_id=model, denoiser=denoiser, licence=licence, revision=revision),
        created=NOW,
        builder="eigenbank 0.1.0",
        layers=tuple(made),
        directions=tuple(records),
    )
    bases = {f"{record.layer}/{record.recipe.basis}" for record in records}
    vectors = {name: torch.eye(16)[:ranks].clone() for name in sorted(bases)}
    drawn = {
        record.id: (Preview(seeds=SEEDS, scales=SCALES, steps=20), picture(number))
        for number, record in enumerate(records[:pictures])
    }
    return DirectionSet(manifest, vectors=vectors).with_previews(drawn)


def add(
    catalog: Catalog, bank: DirectionSet, folder: Path, *, repo: str | None = None, commit: str | None = None
) -> Path:
    """Save a bank and enter it into a catalog."""
    saved = bank.save(folder)
    location, digest = str(folder), manifest_digest(folder)
    catalog.add_set(saved.manifest, location=location, digest=digest, repo=repo, commit=commit)
    return folder


def composed(bank: DirectionSet, text: str, **more: object) -> DirectionSet:
    """A bank with a composite more, named like its label, of a direction of each of the two layers, with a picture."""
    parts = [(f"{LAYERS[0]}/output-value:output/0", 0.8), (f"{LAYERS[1]}/output-value:output/1", -0.6)]
    name = text.replace(" ", "-")
    record = CompositeRecord.model_validate(
        {
            "name": name,
            "parts": [{"direction": part, "weight": weight} for part, weight in parts],
            "labels": [label(text, **more)],
            "quality": QUALITY,
        }
    )
    made = bank.composed([*bank.manifest.composites, record])
    return made.with_previews({record.id: (Preview(seeds=SEEDS, scales=SCALES, steps=20), picture(3))})


def add_copies(catalog: Catalog, bank: DirectionSet, folder: Path, models: Iterable[tuple[str, str]]) -> None:
    """Enter a bank into a catalog under many model ids, each with a text in the place of its label `TEXT`."""
    first = bank.save(folder / "first").folder
    assert first is not None
    plain = (first / "manifest.json").read_text(encoding="utf-8")
    entries = []
    for number, (model, text) in enumerate(models):
        copy = folder / str(number)
        (copy / "previews").mkdir(parents=True)
        for path in (first / "previews").iterdir():
            os.link(path, copy / "previews" / path.name)
        written = plain.replace(bank.manifest.checkpoint.model_id, model).replace("TEXT", text)
        (copy / "manifest.json").write_text(written, encoding="utf-8")
        manifest = type(bank.manifest).model_validate_json(written)
        entries.append(SetEntry(manifest, str(copy), manifest_digest(copy)))
    catalog.add_sets(entries)
