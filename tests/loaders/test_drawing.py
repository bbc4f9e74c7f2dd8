"""What a pipeline takes to generate pictures: prompts, sizes, guidance, and what is refused before it runs or is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
import torch

import eigenbank as eb
from eigenbank.builders.label.settings import LabelSettings
from eigenbank.loaders.drawing import check_checkpoint, cost
from eigenbank.loaders.sample import sample, sample_in_batches
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import DrawingError

pytest.importorskip("transformers", reason="transformers is not installed (pip install 'eigenbank[text]')")


@pytest.mark.parametrize("kind", [kind for kind in tiny_pipelines.KINDS if kind != "wan"])
def test_consecutive_seeds_take_the_prompts_in_turn(kind: str) -> None:
    pipe, size = tiny_pipelines.make(kind), tiny_pipelines.SIZE.get(kind)
    how: dict[str, Any] = {"steps": 2, "size": size}
    both = sample(pipe, [0, 1, 2], prompt=["abc", "zz"], **how)
    alone = sample(pipe, [1], prompt="zz", **how)
    torch.testing.assert_close(both[1:2], alone, atol=1e-4, rtol=0)
    assert (both[2] - sample(pipe, [2], prompt="zz", **how)[0]).abs().max() > 1e-3, "the third is of the first prompt"


def test_negative_prompt_guidance_and_size_reach_the_pipeline() -> None:
    pipe = tiny_pipelines.make("sd")
    plain = sample(pipe, [0, 1], 2, prompt="abc")
    for more in ({"negative_prompt": "zz"}, {"guidance_scale": 2.0}):
        assert (sample(pipe, [0, 1], 2, prompt="abc", **more) - plain).abs().max() > 1e-3
    assert sample(pipe, [0], 2, prompt="abc", size=(24, 16)).shape == (1, 3, 24, 16)


def test_a_negative_prompt_makes_the_guidance_scale_of_flux_the_true_one() -> None:
    pipe, how = tiny_pipelines.make("flux"), {"prompt": "abc", "size": (32, 32)}
    asked = Drawing(prompts=("abc",), negative_prompt="zz", guidance_scale=3, size=(32, 32), steps=2)
    one, two = sample(pipe, [0], 2, **how), sample(pipe, [0], drawing=asked)
    assert (one - two).abs().max() > 1e-4
    assert [cost(pipe, 1, each).passes for each in (Drawing(prompts=("abc",)), asked)] == [1, 2]
    with pytest.raises(DrawingError, match="acts through guidance"):
        sample(pipe, [0], negative_prompt="zz", **how)


def test_the_cost_is_that_of_the_pipelines_own_defaults() -> None:
    assert str(cost(tiny_pipelines.make("sd"), 4, Drawing())) == "4 images × 50 steps × 2 passes, at 16×16, on cpu"
    one = Drawing(guidance_scale=1, size=(24, 32), steps=7)
    assert str(cost(tiny_pipelines.make("sd"), 1, one)) == "1 image × 7 steps × 1 pass, at 32×24, on cpu"


@pytest.mark.parametrize(
    ("kind", "how", "message"),
    [
        ("StableDiffusionPipeline", {}, "needs a prompt"),
        ("DDPMPipeline", {"prompts": ["a"]}, "takes no prompt"),
        ("DDPMPipeline", {"negative_prompt": "a"}, "takes no negative prompt"),
        ("DDPMPipeline", {"guidance_scale": 3}, "has no guidance scale"),
        ("DDPMPipeline", {"size": (64, 64)}, "one size only"),
        ("StableDiffusionImg2ImgPipeline", {"prompts": ["a"]}, "starts from a picture"),
        ("FluxInpaintPipeline", {"prompts": ["a"]}, "starts from a picture"),
        ("StableDiffusionXLControlNetPipeline", {"prompts": ["a"]}, "starts from a picture"),
        ("WanImageToVideoPipeline", {"prompts": ["a"]}, "starts from a picture"),
        ("StableDiffusionPipeline", {"prompts": ["a"], "negative_prompt": "b", "guidance_scale": 1}, "is none"),
    ],
)
def test_what_is_needed_or_not_taken_is_said_by_the_index_alone(
    kind: str, how: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(DrawingError, match=message):
        check_checkpoint(tmp_path, Drawing.model_validate(how))


@pytest.mark.parametrize(
    ("kind", "how", "message"),
    [
        ("flux", {"size": (32, 24)}, r"sides are multiples of 16. The nearest size is 32×32"),
        ("sd", {"steps": 1001}, r"1001 steps are more than the 1000 .* DDIMScheduler"),
    ],
)
def test_sides_and_steps_that_a_pipeline_cannot_make_are_refused(kind: str, how: dict[str, Any], message: str) -> None:
    with pytest.raises(DrawingError, match=message):
        sample(tiny_pipelines.make(kind), [0], prompt="abc", **how)


def test_an_argument_that_a_pipeline_would_ignore_is_refused() -> None:
    pipe = tiny_pipelines.make("sd")  # its call takes any, and ignores it
    with pytest.raises(DrawingError, match=r"no argument `guidence_scale=`.*Did you mean `guidance_scale=`"):
        sample(pipe, [0], 2, prompt="abc", guidence_scale=3.0)
    with pytest.raises(DrawingError, match="no argument `smile=`"):
        eb.sweep(pipe, next(iter(eb.build(pipe, top_k=1))), [1], prompt="abc", smile=2)


@pytest.mark.parametrize("kind", ["FluxKontextPipeline", "Flux2Pipeline", "WanPipeline", "StableDiffusionXLPipeline"])
def test_an_optional_picture_may_be_left_out(kind: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    check_checkpoint(tmp_path, Drawing(prompts=("a",)))


def test_prompts_are_taken_in_turn_whatever_the_seeds_are() -> None:
    pipe = tiny_pipelines.make("sd")
    how: dict[str, Any] = {"guidance_scale": 3.0, "steps": 2}
    alone = torch.cat([sample(pipe, [seed], prompt=prompt, **how) for seed, prompt in ((4, "abc"), (6, "zz"))])
    assert (alone[1] - sample(pipe, [6], prompt="abc", **how)[0]).abs().max() > 1e-3
    for batch in (sample, sample_in_batches):
        torch.testing.assert_close(batch(pipe, [4, 6], prompt=["abc", "zz"], **how), alone, atol=1e-3, rtol=0)
    bank = eb.build(pipe, top_k=1)
    swept = eb.sweep(pipe, next(iter(bank)), [0, 0, 0], seeds=[4, 6], prompt=["abc", "zz"], **how).pixels
    torch.testing.assert_close(swept, alone[:, None].expand_as(swept), atol=1e-3, rtol=0)


def test_an_index_of_no_known_pipeline_is_left_to_loading(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "torch"}))
    check_checkpoint(tmp_path, Drawing())
    check_checkpoint(tmp_path / "nowhere", Drawing())


def test_a_pipeline_is_built_labelled_and_previewed_in_python(tmp_path: Path) -> None:
    folder = tiny_pipelines.save("sd", tmp_path / "checkpoint")
    pipe, how = eb.open_pipeline(str(folder)), {"prompts": ["abc", "zz"], "guidance_scale": 2.0}
    bank, stored = eb.build(pipe, top_k=1), eb.build(folder, top_k=1)
    assert [each.id for each in bank] == [each.id for each in stored]
    assert all(torch.equal(bank[each.id].vector, each.vector) for each in stored)
    assert {str(found) for found in eb.match(bank, pipe)} == {"exact"}
    few = LabelSettings(
        seeds=(0, 1), confirm_seeds=(2, 3), confirm_most=2, chance_most=2, most=1, null=1, parts=0, quality_seeds=0
    )
    named = eb.label(pipe, bank, ["statistics"], few, drawing=Drawing(steps=2), **how)
    assert len(named) == len(bank)
    first = next(iter(bank)).id
    seen = eb.preview(pipe, named, [first], seeds=(0,), scales=(-1, 1), steps=2, **how)
    assert next(record.preview for record in seen.manifest.directions) is not None
