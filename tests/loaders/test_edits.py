"""Edits that change over the run, over the samples, over the picture, or on one half of guidance; and folded ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from textpipes import biased

import eigenbank as eb
from eigenbank.loaders.mask import as_mask, token_grid
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.sample import sample
from eigenbank.loaders.schedule import ramp, windowed
from eigenbank.schemas.errors import MatchError, PhotoError, SteerError

MID = "mid_block.attentions.0"
ID = f"{MID}/output-value/0"
OUT = f"{MID}/output-value:output/0"


@pytest.fixture
def bank(tiny_set: eb.DirectionSet) -> eb.DirectionSet:
    return tiny_set


def draw(pipe: Any, n: int = 2, steps: int = 4) -> torch.Tensor:
    return sample(pipe, range(n), steps)


def added(pipe: Any, edit: Any, steps: int = 4) -> list[float]:
    """How many token lengths along its direction an edit moves the tokens at the middle block's output, at each step."""
    direction = edit.terms[0].direction.vector
    plain: list[torch.Tensor] = []
    moved: list[torch.Tensor] = []
    for seen in (plain, moved):
        listening = pipe.unet.mid_block.attentions[0].register_forward_hook(
            lambda _m, _a, out, seen=seen: seen.append(out)
        )
        noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        pipe.scheduler.set_timesteps(steps)
        with torch.no_grad(), edit if seen is moved else torch.no_grad():
            for time in pipe.scheduler.timesteps:
                pipe.unet(noise, time)
        listening.remove()
    return [
        float((b - a).mean((0, 2, 3)) @ direction / a.square().sum(1).mean().sqrt())
        for a, b in zip(plain, moved, strict=True)
    ]


def test_a_scale_may_follow_the_run(pipe: Any, bank: eb.DirectionSet) -> None:
    for scale, expected in (
        (lambda done: 2 * done, [0, 0.5, 1, 1.5]),
        (ramp(1, 0), [1, 0.75, 0.5, 0.25]),
        (ramp(0, 1, start=0.25, end=0.75), [0, 0, 0.5, 1]),
        (windowed(2.0, 0.25, 0.75), [0, 2, 2, 0]),
        (windowed(lambda done: done, 0.5, 1), [0, 0, 0.5, 0.75]),
    ):
        found = added(pipe, eb.steer(pipe, {bank[OUT]: scale}))
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected).float(), atol=1e-4, rtol=0)


def test_a_window_given_replaces_that_of_the_recipe(pipe: Any, bank: eb.DirectionSet) -> None:
    assert [value != 0 for value in added(pipe, eb.steer(pipe, {bank[OUT]: 1.0}, window=(0.5, 1)))] == [
        False,
        False,
        True,
        True,
    ]
    for window in ((0.5, 0.5), (0, 2), "late"):
        with pytest.raises(SteerError, match="no window"):
            eb.steer(pipe, {bank[OUT]: 1.0}, window=window)  # type: ignore[arg-type]


def test_a_schedule_may_give_each_sample_its_own_scale(pipe: Any, bank: eb.DirectionSet) -> None:
    with eb.steer(pipe, {bank[ID]: lambda done: [done, 0.0]}):
        both = draw(pipe)
    assert torch.equal(both[1], draw(pipe)[1])
    with eb.steer(pipe, {bank[ID]: lambda done: done}):
        torch.testing.assert_close(sample(pipe, [0], 4)[0], both[0], atol=1e-4, rtol=0)


def test_a_schedule_that_gives_no_scale_is_refused(pipe: Any, bank: eb.DirectionSet) -> None:
    with pytest.raises(SteerError, match="the scale of"):
        eb.steer(pipe, {bank[ID]: lambda done: "much"})


def test_a_handle_may_change_from_one_scale_to_a_schedule_and_to_scales_per_sample(
    pipe: Any, bank: eb.DirectionSet
) -> None:
    with eb.steer(pipe, {bank[ID]: ramp(0, 1)}):
        ramped = draw(pipe)
    with eb.steer(pipe, {bank[ID]: [1.0, -1.0]}):
        apart = draw(pipe)
    before = draw(pipe)
    with eb.steer(pipe, {bank[ID]: 1.0}) as handle:
        handle.set_scale(ramp(0, 1), ID)
        assert torch.equal(draw(pipe), ramped)
        handle.set_scale([1.0, -1.0], ID)
        assert torch.equal(draw(pipe), apart)
        handle.set_scale(0.0, ID)
        assert torch.equal(draw(pipe), before)


def test_directions_of_one_site_are_one_addition(pipe: Any, bank: eb.DirectionSet) -> None:
    edits = {bank[f"{MID}/output-value/{rank}"]: scale for rank, scale in enumerate((0.5, [1.0, 0.0], -0.3))}
    with eb.steer(pipe, edits) as handle:
        assert [len(part.sites) for part in handle.parts] == [1]
        assert len(pipe.unet.get_submodule(f"{MID}.group_norm")._forward_hooks) == 1
        merged = draw(pipe)
    first, second, third = edits
    with eb.steer(pipe, {first: 0.5}), eb.steer(pipe, {second: [1.0, 0.0]}), eb.steer(pipe, {third: -0.3}):
        torch.testing.assert_close(draw(pipe), merged, atol=1e-5, rtol=0)


def test_a_mask_acts_where_it_is_one(pipe: Any, bank: eb.DirectionSet) -> None:
    mask = torch.zeros(8, 8)
    mask[:, 4:] = 1
    seen: list[torch.Tensor] = []
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    listening = pipe.unet.mid_block.attentions[0].register_forward_hook(lambda _m, _a, out: seen.append(out))
    with torch.no_grad():
        pipe.unet(noise, 10)
        with eb.steer(pipe, {bank[OUT]: 1.0}, mask=mask):
            pipe.unet(noise, 10)
    listening.remove()
    difference = (seen[1] - seen[0]).norm(dim=1)[0]
    assert difference.shape == (4, 4)
    assert not difference[:, :2].any()
    assert bool((difference[:, 2:] > 0).all())


def test_a_whole_mask_is_no_mask_and_each_sample_may_have_its_own(pipe: Any, bank: eb.DirectionSet) -> None:
    before = draw(pipe)
    with eb.steer(pipe, {bank[ID]: 1.0}):
        whole = draw(pipe)
    with eb.steer(pipe, {bank[ID]: 1.0}, mask=torch.ones(8, 8)):
        assert torch.equal(draw(pipe), whole)
    with eb.steer(pipe, {bank[ID]: 1.0}, mask=torch.stack([torch.ones(8, 8), torch.zeros(8, 8)])):
        apart = draw(pipe)
    assert torch.equal(apart[0], whole[0])
    assert torch.equal(apart[1], before[1])


def test_a_picture_can_be_a_mask(pipe: Any, bank: eb.DirectionSet) -> None:
    from PIL import Image

    picture = Image.new("L", (8, 8), 0)
    picture.paste(255, (4, 0, 8, 8))
    mask = torch.zeros(8, 8)
    mask[:, 4:] = 1
    with eb.steer(pipe, {bank[ID]: 1.0}, mask=picture):
        drawn = draw(pipe)
    with eb.steer(pipe, {bank[ID]: 1.0}, mask=mask):
        assert torch.equal(draw(pipe), drawn)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(8, 8), "0 everywhere"),
        (torch.full((8, 8), 2.0), "not all in"),
        (torch.ones(8), "shape"),
        ("left.png", "is no file"),
        ([["left"]], "a mask is a map of numbers"),
        (torch.ones(1, 1, 8, 8), "shape"),
        (torch.ones(8, 8, dtype=torch.complex64), "of complex numbers"),
        (torch.ones(8, 8, device="meta"), "on the meta device"),
        (torch.ones(0, 8, dtype=torch.uint8), "shape"),
    ],
)
def test_what_is_no_mask_is_refused(mask: Any, message: str, pipe: Any, bank: eb.DirectionSet) -> None:
    with pytest.raises((SteerError, PhotoError), match=message):
        eb.steer(pipe, {bank[ID]: 1.0}, mask=mask)


@pytest.mark.parametrize(
    ("tokens", "image", "latent", "frames", "expected"),
    [
        (64, (512, 512), (), 1, (1, 8, 8)),
        (1536, (768, 512), (), 1, (1, 48, 32)),
        (20, (72, 64), (9, 8), 1, (1, 5, 4)),
        (3 * 24, (64, 96), (), 3, (3, 4, 6)),
        (16, (64, 64), (8, 8), 1, (1, 4, 4)),
    ],
)
def test_a_layers_tokens_are_a_grid_of_the_images_proportions(
    tokens: int, image: tuple[int, int], latent: tuple[int, ...], frames: int, expected: tuple[int, int, int]
) -> None:
    assert token_grid(tokens, image, latent, frames) == expected


def test_tokens_that_are_no_such_grid_are_refused() -> None:
    with pytest.raises(MatchError, match="no grid"):
        token_grid(17, (64, 64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_fold_adds_a_vector_as_long_as_a_token_and_is_restored_bit_for_bit(
    dtype: torch.dtype, tiny_checkpoint: Path, bank: eb.DirectionSet
) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    unet = pipe.unet.to(dtype=dtype)
    weights = {name: value.clone() for name, value in unet.state_dict().items()}
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        before = unet(noise, 10).sample
        with biased(pipe, {bank[OUT]: 1.0}):
            hooked = unet(noise, 10).sample
        with eb.steer(unet, {bank[OUT]: 2.0}, fuse=True) as handle:
            handle.set_scale(0.5)
            folded = unet(noise, 10).sample
            assert not unet.mid_block.attentions[0]._forward_hooks
            handle.set_scale(0.0)
            assert torch.equal(unet(noise, 10).sample, before)
        tolerance = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
        assert float((hooked - before).abs().max()) > 3 * tolerance
        torch.testing.assert_close(folded, hooked, atol=tolerance, rtol=tolerance)
        assert torch.equal(unet(noise, 10).sample, before)
    assert all(torch.equal(value, weights[name]) for name, value in unet.state_dict().items())


def test_masks_of_more_bits_keep_their_greys() -> None:
    from PIL import Image

    grey = Image.new("I;16", (4, 4), 128 * 257)
    assert torch.equal(as_mask(grey), torch.full((1, 4, 4), 128 / 255))
    assert torch.equal(as_mask(torch.full((4, 4), 128)), torch.full((1, 4, 4), 128 / 255))


def test_a_picture_is_black_where_it_is_transparent(tmp_path: Path) -> None:
    from PIL import Image

    picture = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    picture.paste((255, 255, 255, 255), (2, 0, 4, 4))
    picture.save(tmp_path / "mask.png")
    expected = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 4)[None]
    assert torch.equal(as_mask(picture), expected)
    assert torch.equal(as_mask(tmp_path / "mask.png"), expected)
    assert torch.equal(as_mask(str(tmp_path / "mask.png")), expected)


def test_levels_of_0_and_1_are_taken_for_the_mistake_they_are() -> None:
    from PIL import Image

    zero_one = Image.new("L", (4, 4), 0)
    zero_one.paste(1, (2, 0, 4, 4))
    with pytest.raises(SteerError, match=r"levels 0 and 1 of 255.*Multiply it by 255"):
        as_mask(zero_one)
    assert as_mask([[0, 1], [0, 1]]).max() == 1
    assert as_mask(zero_one.point(lambda level: level * 255).convert("1")).max() == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_folds_of_one_layer_are_removed_in_any_order(
    order: tuple[int, ...], tiny_checkpoint: Path, bank: eb.DirectionSet
) -> None:
    unet = open_pipeline(tiny_checkpoint).unet
    weights = {name: value.clone() for name, value in unet.state_dict().items()}
    linear = unet.mid_block.attentions[0].to_out[0]
    edits = [eb.steer(unet, {bank[OUT]: scale}, fuse=True) for scale in (1.0, -0.3, 0.7)]
    alone = []
    for edit in edits:
        with edit:
            alone.append(linear.bias.detach().clone())
    for edit in edits:
        edit.attach()
    edits[order[0]].remove()
    edits[order[1]].remove()
    assert torch.equal(linear.bias, alone[order[2]])
    edits[order[2]].remove()
    assert all(torch.equal(value, weights[name]) for name, value in unet.state_dict().items())
    assert not any("folded" in name for name in linear.__dict__)


def test_a_layer_without_a_bias_has_none_again() -> None:
    model = zoo.make("QwenImageTransformer2DModel")
    layer = zoo.layers_of(model)[0]
    linear = model.get_submodule(layer.name).to_out[0]
    linear.bias = None
    bank = zoo.bank_of(
        model, [layer.model_copy(update={"tensors": {r: p for r, p in layer.tensors.items() if r != "output-bias"}})]
    )
    with eb.steer(model, {next(iter(bank)): 1.0}, site="output", fuse=True):
        assert linear.bias is not None
        assert bool(linear.bias.any())
    assert linear.bias is None
    assert "bias" not in linear.state_dict()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"window": (0, 0.5)}, "changes over the run"),
        ({"scale": [1.0, 2.0]}, "a scale per sample"),
        ({"scale": ramp(0, 1)}, "changes over the run"),
        ({"mask": torch.ones(8, 8)}, "part of the image"),
        ({"branch": "cond"}, "one branch of guidance"),
        ({"site": "projection"}, "projection-input"),
    ],
)
def test_what_a_bias_cannot_express_is_not_folded(
    change: dict[str, Any], why: str, pipe: Any, bank: eb.DirectionSet
) -> None:
    scale = change.pop("scale", 1.0)
    with pytest.raises(SteerError, match=why):
        eb.steer(pipe, {bank[OUT]: scale}, fuse=True, **change)


def test_a_layer_whose_out_projection_writes_text_too_is_not_folded() -> None:
    for kind, why in (("CogVideoXTransformer3DModel", "text tokens"), ("FluxTransformer2DModel", "no out projection")):
        model = zoo.make(kind)
        bank = zoo.bank_of(model, zoo.layers_of(model)[-1:])
        with pytest.raises(SteerError, match=why):
            eb.steer(model, {next(iter(bank)): 1.0}, site="output", fuse=True).attach()
        assert not model._forward_pre_hooks


def test_an_edit_that_could_do_nothing_is_an_error(pipe: Any, bank: eb.DirectionSet) -> None:
    with pytest.raises(SteerError, match="does not say which"), eb.steer(pipe, {bank[ID]: 1.0}, branch="cond"):
        draw(pipe)
    with pytest.raises(SteerError, match="expected 'both', 'cond' or"):
        eb.steer(pipe, {bank[ID]: 1.0}, branch="some")  # type: ignore[arg-type]
    with (
        pytest.raises(SteerError, match="no unconditional branch"),
        eb.steer(_saying(pipe, False), {bank[ID]: 1.0}, branch="uncond"),
    ):
        draw(pipe)


def _saying(pipe: Any, guided: bool) -> Any:
    """The pipeline, of a class that says whether it is guided, as those with text do."""
    pipe.__class__ = type("Saying", (type(pipe),), {"do_classifier_free_guidance": guided})
    return pipe
