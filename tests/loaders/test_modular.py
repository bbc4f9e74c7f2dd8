"""Modular pipelines: steered as they are, or by a block, in each branch of guidance, and left as they were."""

import warnings
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny_pipelines
import torch
from torch import Tensor

import eigenbank as eb
from eigenbank.registry.local import store
from eigenbank.registry.sets.direction_set import Direction, DirectionSet
from eigenbank.schemas.errors import SteerError

pytest.importorskip("transformers", reason="transformers is not installed (pip install 'eigenbank[text]')")
BLOCKS = {"sdxl": "StableDiffusionXLAutoBlocks", "flux": "FluxAutoBlocks"}
HOW = {"prompt": "abc", "num_inference_steps": 4, "height": 16, "width": 16, "output_type": "pt", "output": "images"}


def modular(kind: str, folder: Path, *, sliders: bool = False) -> tuple[Any, Any]:
    """A modular pipeline of tiny parts, and the usual one of the same parts."""
    pipe = eb.open_pipeline(str(tiny_pipelines.save(kind, folder)), dtype="float32")
    blocks = getattr(diffusers, BLOCKS[kind])()
    made = (eb.with_sliders(blocks) if sliders else blocks).init_pipeline()
    wanted = {each.name for each in blocks.expected_components}
    made.update_components(
        **{name: each for name, each in pipe.components.items() if name in wanted and each is not None}
    )
    return made, pipe


def draw(pipe: Any, **more: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Tensor = pipe(generator=torch.Generator().manual_seed(0), **HOW, **more)
    return found


@pytest.fixture(params=BLOCKS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, DirectionSet, Direction]:
    pipe, usual = modular(request.param, tmp_path / request.param)
    bank = eb.build(usual, top_k=1)
    return pipe, bank, next(each for each in bank if each.recipe.side == "output")


def test_an_edit_acts_where_and_when_it_should_and_leaves_no_trace(made: tuple[Any, DirectionSet, Direction]) -> None:
    pipe, bank, direction = made
    plain = draw(pipe)
    seen: list[float] = []
    with eb.steer(pipe, {direction: lambda done: seen.append(done) or 1.0}, bank=bank):
        seen.clear()
        edited = draw(pipe)
    assert sorted(set(seen)) == [0, 0.25, 0.5, 0.75]
    assert (edited - plain).abs().max() > 1e-3
    with eb.steer(pipe, {direction: eb.windowed(1.0, 0.5, 1.0)}, bank=bank):
        late = draw(pipe)
    assert not torch.equal(late, plain)
    assert not torch.equal(late, edited)
    assert torch.equal(draw(pipe), plain)


def test_each_branch_of_a_guider_is_told_from_the_other(tmp_path: Path) -> None:
    pipe, usual = modular("sdxl", tmp_path / "sdxl")
    bank = eb.build(usual, top_k=1)
    direction = next(each for each in bank if each.recipe.side == "output")

    def noted(branch: Any) -> Tensor:
        with eb.steer(pipe, {direction: 1.0}, bank=bank, branch=branch):
            return draw(pipe)

    plain, both, cond, uncond = draw(pipe), noted("both"), noted("cond"), noted("uncond")
    assert all(
        not torch.equal(one, other) for one, other in ((plain, cond), (plain, uncond), (cond, both), (cond, uncond))
    )


def test_a_block_takes_sliders_as_an_input(tmp_path: Path) -> None:
    pipe, usual = modular("flux", tmp_path / "flux", sliders=True)
    bank = eb.build(usual, top_k=1)
    direction = next(each for each in bank if each.recipe.side == "output")
    plain = draw(pipe)
    with eb.steer(pipe, {direction: 1.0}, bank=bank):
        expected = draw(pipe)
    assert torch.equal(draw(pipe, sliders={direction.id: 1.0}, sliders_bank=bank), expected)
    assert torch.equal(draw(pipe), plain)
    store(bank)  # then it is found by the weights
    assert torch.equal(draw(pipe, sliders={direction.id: 1.0}), expected)
    with pytest.raises(Exception, match="no-such-slider"):
        draw(pipe, sliders={"no-such-slider": 1.0}, sliders_bank=bank)
    assert torch.equal(draw(pipe), plain)
    assert "sliders" in [each.name for each in pipe.blocks.inputs]


def test_blocks_without_that_name_are_refused() -> None:
    with pytest.raises(SteerError, match="has no block 'loop': it has text_encoder"):
        eb.with_sliders(diffusers.FluxAutoBlocks(), "loop")
