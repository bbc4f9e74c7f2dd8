"""Per-head recipes, grouped queries and absent out projections: what a head does is what its block of the weights does."""

import pytest
import torch

from eigenbank.registry.recipes import gram
from eigenbank.schemas import Layer, Part, Recipe
from eigenbank.schemas.errors import UnknownNameError
from eigenbank.schemas.layer import Role

D, H, S = 12, 4, 5


def layer(**changes: object) -> Layer:
    given = {"name": "attn", "kind": "spatial", "width": D, "heads": H, "tensors": {"query": Part(tensor="q")}}
    return Layer.model_validate(given | changes)


def weights(kv_heads: int = H) -> dict[Role, torch.Tensor]:
    made = torch.Generator().manual_seed(0)
    sizes: dict[Role, tuple[int, int]] = {
        "query": (H * S, D), "key": (kv_heads * S, D), "value": (kv_heads * S, D), "output": (D, H * S),
    }  # fmt: skip
    return {role: torch.randn(size, generator=made, dtype=torch.float64) for role, size in sizes.items()}


def test_the_heads_of_output_value_add_up_to_the_layer() -> None:
    w = weights()
    whole = w["output"] @ w["value"]
    for head in range(H):
        block = slice(head * S, (head + 1) * S)
        matrix = w["output"][:, block] @ w["value"][block]
        whole = whole - matrix
        assert torch.allclose(gram(Recipe.parse(f"output-value.h{head}"), w, layer()), matrix.T @ matrix)
        assert torch.allclose(gram(Recipe.parse(f"output-value.h{head}:output"), w, layer()), matrix @ matrix.T)
    assert whole.norm() < 1e-9


def test_query_key_of_a_head_reads_its_own_rows() -> None:
    w = weights()
    matrix = w["query"][S : 2 * S].T @ w["key"][S : 2 * S]
    assert torch.allclose(gram(Recipe.parse("query-key.h1"), w, layer()), matrix.T @ matrix)


def test_grouped_queries_share_a_value_head() -> None:
    w = weights(kv_heads=2)
    grouped = layer(kv_heads=2)
    full = w["value"].unflatten(0, (2, S)).repeat_interleave(2, dim=0).flatten(0, 1)
    matrix = w["output"] @ full
    assert torch.allclose(gram(Recipe.parse("output-value"), w, grouped), matrix.T @ matrix)
    block = w["output"][:, S : 2 * S] @ w["value"][:S]
    assert torch.allclose(gram(Recipe.parse("output-value.h1"), w, grouped), block.T @ block)
    assert gram(Recipe.parse("value"), w, grouped).shape == (D, D)


def test_without_an_out_projection_value_stands_in() -> None:
    w = weights()
    del w["output"]
    assert torch.allclose(gram(Recipe.parse("output-value"), w, layer()), w["value"].T @ w["value"])
    with pytest.raises(UnknownNameError, match="would be 20 wide, the layer is 12 wide"):
        gram(Recipe.parse("output-value:output"), w, layer())


def test_a_head_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="which has 4 heads"):
        gram(Recipe.parse("value.h4"), weights(), layer())


def test_rows_of_a_part_come_head_by_head() -> None:
    stored = torch.arange(12.0)[:, None].expand(12, 2)
    part = Part(tensor="qkv.weight", rows=((0, 2), (6, 8)))
    assert part.take(stored)[:, 0].tolist() == [0, 1, 6, 7]
    assert Part(tensor="w", columns=(1, 2)).take(stored).shape == (12, 1)
