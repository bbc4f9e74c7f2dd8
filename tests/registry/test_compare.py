"""Comparing the directions of two sets."""

from datetime import datetime, timezone

import pytest
import torch

from eigenbank.registry.sets.compare import compare_sets
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas import Checkpoint, DirectionRecord, Layer, Manifest, Recipe

MID = "mid_block.attentions.0"


def bank(vectors: torch.Tensor, model_id: str = "acme/one", layer: str = MID) -> DirectionSet:
    """A bank of one layer, whose directions are the given rows."""
    recipe = Recipe.parse("output-value")
    records = tuple(
        DirectionRecord(layer=layer, recipe=recipe, rank=rank, eigenvalue=1.0, share=0.1, gap=None)
        for rank in range(len(vectors))
    )
    layers = (Layer(name=layer, kind="spatial", width=vectors.shape[1], heads=1, tensors={}),)
    manifest = Manifest(
        checkpoint=Checkpoint(model_id=model_id, denoiser="UNet2DModel"),
        created=datetime.now(timezone.utc),
        builder="test",
        layers=layers,
        directions=records,
    )
    return DirectionSet(manifest, vectors={f"{layer}/output-value": vectors})


def basis(width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0].float()


def test_a_set_compared_with_itself_is_all_ones() -> None:
    one = bank(basis(8)[:4])
    for row in compare_sets(one, one):
        assert row["nearest"] == row["id"]
        assert row["cosine"] == pytest.approx(1, abs=1e-6)
        assert row["same_rank_cosine"] == pytest.approx(1, abs=1e-6)


def test_what_moved_most_comes_first_and_the_nearest_is_found() -> None:
    vectors = basis(8)
    moved = vectors[[1, 0, 2, 7]].clone()
    moved[2] = -moved[2]
    rows = compare_sets(bank(vectors[:4]), bank(moved, "acme/two"))
    assert rows[0]["id"] == f"acme/one#{MID}/output-value/3"
    assert abs(rows[0]["cosine"]) < 1e-5
    by_id = {row["id"][-1]: row for row in rows}
    assert by_id["0"]["nearest"] == f"acme/two#{MID}/output-value/1"
    assert by_id["0"]["same_rank_cosine"] == pytest.approx(0, abs=1e-5)
    assert by_id["2"]["cosine"] == pytest.approx(-1, abs=1e-5)
