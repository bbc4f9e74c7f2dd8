"""Sliders steer as a mapping with the same arguments does, and are looked up among the directions of their own model."""

from pathlib import Path
from typing import Any

import pytest
import textpipes
import torch
from making import make_checkpoint

import eigenbank as eb
from eigenbank.loaders.lookup import OtherModelWarning
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.sample import sample
from eigenbank.registry.sliders import write_sliders
from eigenbank.schemas import Sliders, SliderSetting, Window
from eigenbank.schemas.errors import MatchError, SteerError, UnknownNameError

A, B = "mid_block.attentions.0/output-value/0", "mid_block.attentions.0/output-value/1"


@pytest.fixture
def bank(kept: eb.DirectionSet) -> eb.DirectionSet:
    return kept


def drawn(pipe: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    with eb.steer(pipe, *args, **kwargs):
        return sample(pipe, range(2), 4)


def test_sliders_a_file_and_a_mapping_are_one_edit(pipe: Any, bank: eb.DirectionSet, tmp_path: Path) -> None:
    sliders = Sliders(model="acme/tiny", sliders=(SliderSetting(key=A, scale=2), SliderSetting(key=B, scale=-1)))
    write_sliders(tmp_path / "look.json", sliders)
    wanted = drawn(pipe, {A: 2.0, B: -1.0}, bank=bank)
    for edit in (sliders, tmp_path / "look.json", str(tmp_path / "look.json")):
        assert torch.equal(drawn(pipe, edit), wanted)
    assert not torch.equal(wanted, sample(pipe, range(2), 4))


def test_a_slider_has_a_window_and_a_site_of_its_own(pipe: Any, bank: eb.DirectionSet) -> None:
    slider = SliderSetting(key=A, scale=2, window=Window(start=0, end=0.5), site="block-output")
    alone = drawn(pipe, Sliders(sliders=(slider,)), window=(0.5, 1.0), site="input")
    assert torch.equal(alone, drawn(pipe, {A: 2.0}, bank=bank, window=(0, 0.5), site="output"))
    handle = eb.steer(pipe, Sliders(sliders=(slider, SliderSetting(key=B, scale=1))), window=(0.5, 1.0), site="input")
    assert [(term.site, term.window.start) for term in handle.terms] == [("block-output", 0), ("block-input", 0.5)]


def test_sliders_may_act_on_different_halves_of_guidance() -> None:
    pipe = textpipes.stable_diffusion()
    bank = textpipes.bank_for(pipe)
    first, second = [direction.id for direction in bank][:2]

    def passes(edit: Any, **options: Any) -> torch.Tensor:
        """What the denoiser gives for one pair of halves."""
        seen = []
        with eb.steer(pipe, edit, bank=bank, **options):
            hook = pipe.unet.register_forward_hook(lambda _module, _args, output: seen.append(output[0].clone()))
            textpipes.draw(pipe, 1, steps=1)
            hook.remove()
        return seen[0]

    both = passes(
        Sliders(
            sliders=(
                SliderSetting(key=first, scale=1, branch="cond"),
                SliderSetting(key=second, scale=1, branch="uncond"),
            )
        )
    )
    half = len(both) // 2
    torch.testing.assert_close(both[half:], passes({first: 1.0})[half:])
    torch.testing.assert_close(both[:half], passes({second: 1.0})[:half])
    assert not torch.allclose(both[:half], passes({first: 1.0})[:half])


def test_sliders_of_a_parent_are_matched_with_the_weights_of_its_fine_tune(
    pipe: Any, bank: eb.DirectionSet, tmp_path: Path
) -> None:
    sliders = Sliders(model="acme/tiny", sliders=(SliderSetting(key=A, scale=2),))
    other = open_pipeline(make_checkpoint(tmp_path / "other", seed=9))
    with pytest.raises(MatchError, match="is no direction of this pipeline's weights"):
        eb.steer(other, sliders)
    with torch.no_grad():
        pipe.unet.mid_block.attentions[0].to_v.weight.mul_(1.01)
    assert eb.steer(pipe, sliders).terms[0].match.startswith("transfer")


def test_sliders_of_another_model_than_the_bank_are_warned_about(pipe: Any, bank: eb.DirectionSet) -> None:
    with pytest.warns(
        OtherModelWarning, match="made for acme/else, and are looked up among the directions of acme/tiny"
    ):
        eb.steer(pipe, Sliders(model="acme/else", sliders=(SliderSetting(key=A, scale=2),)), bank=bank)


def test_unknown_models_and_names_are_errors_with_near_matches(pipe: Any, bank: eb.DirectionSet) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'acme/tiny'.*eigenbank pull acme/tinny"):
        eb.steer(pipe, Sliders(model="acme/tinny", sliders=(SliderSetting(key=A, scale=2),)))
    with pytest.raises(UnknownNameError, match=f"did you mean .*{A}"):
        eb.steer(pipe, Sliders(model="acme/tiny", sliders=(SliderSetting(key=A[:-1] + "7", scale=2),)))


def test_a_sweep_of_sliders_scales_them_together(pipe: Any, bank: eb.DirectionSet, tmp_path: Path) -> None:
    sliders = Sliders(model="acme/tiny", sliders=(SliderSetting(key=A, scale=2), SliderSetting(key=B, scale=-1)))
    write_sliders(tmp_path / "look.json", sliders)
    found = eb.sweep(pipe, tmp_path / "look.json", [0, 0.5, 1], seeds=[0, 1], steps=4)
    assert found.name == f"{A} +2, {B} -1"
    torch.testing.assert_close(found.pixels[:, 2], drawn(pipe, sliders))
    torch.testing.assert_close(found.pixels[:, 1], drawn(pipe, {A: 1.0, B: -0.5}, bank=bank))


@pytest.mark.parametrize(
    ("edit", "message"), [(3, "a int is none of them"), ({}, "at least one"), ("x.json", "cannot be read")]
)
def test_what_is_no_edit_is_refused(edit: Any, message: str, pipe: Any) -> None:
    with pytest.raises(SteerError, match=message):
        eb.steer(pipe, edit)
