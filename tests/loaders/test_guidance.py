"""Guidance: an edit acts on both halves or on one, whether a pipeline stacks the halves or calls its denoiser for each."""

from typing import Any

import pytest
import textpipes
import torch
from torch import Tensor

import eigenbank as eb
from eigenbank.loaders.plugins import target_of
from eigenbank.schemas.errors import MatchError, SteerError

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # what diffusers says of settings these pipelines leave at their defaults


def first_passes(pipe: Any, layer: str, n: int, **more: Any) -> list[tuple[bool, Tensor]]:
    """For each sample of the first step's passes: whether it is conditional, and the tokens at the layer's output."""
    seen: list[tuple[bool, Tensor]] = []
    denoiser = target_of(pipe).denoisers[next(iter(target_of(pipe).denoisers))]
    conditional: list[bool] = []

    def called(_module: Any, args: Any, kwargs: Any) -> None:
        text, width = kwargs["encoder_hidden_states"], kwargs["encoder_hidden_states"].shape[-1]
        prompt = textpipes._embeds(n, 6, width, 1, text.dtype)
        conditional[:] = [bool((row == prompt).flatten(1).all(1).any()) for row in text]

    def out(_module: Any, _args: Any, output: Any) -> None:
        tokens = output[0] if isinstance(output, tuple) else output
        seen.extend(zip(list(conditional), tokens.clone(), strict=True))

    hooks = [
        denoiser.register_forward_pre_hook(called, with_kwargs=True),
        denoiser.get_submodule(layer).register_forward_hook(out),
    ]
    try:
        textpipes.draw(pipe, n, steps=1, **more)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@pytest.mark.parametrize("make", [textpipes.stable_diffusion, textpipes.flux, textpipes.wan])
@pytest.mark.parametrize("guidance", ["both", "cond", "uncond"])
def test_an_edit_acts_on_the_half_it_is_asked_to(make: Any, guidance: Any) -> None:
    pipe = make()
    direction = next(iter(textpipes.bank_for(pipe)))
    scales = torch.tensor([0.5, -0.25])
    plain = first_passes(pipe, direction.layer, 2)
    assert [half for half, _ in plain].count(True) == [half for half, _ in plain].count(False) == 2
    with eb.steer(pipe, {direction: scales}, site="output", branch=guidance):
        edited = first_passes(pipe, direction.layer, 2)
    numbers = {True: 0, False: 0}
    for (half, before), (_, after) in zip(plain, edited, strict=True):
        scale = scales[numbers[half]]
        numbers[half] += 1
        acts = guidance == "both" or half == (guidance == "cond")
        length = before.square().sum(-1).mean().sqrt()
        expected = before + length * scale * direction.vector if acts else before
        torch.testing.assert_close(after, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", [textpipes.stable_diffusion, textpipes.flux, textpipes.wan])
def test_without_guidance_every_pass_is_conditional(make: Any) -> None:
    pipe = make()
    direction = next(iter(textpipes.bank_for(pipe)))
    with eb.steer(pipe, {direction: 1.0}):
        both = textpipes.draw(pipe, guided=False)
    with eb.steer(pipe, {direction: 1.0}, branch="cond"):
        assert torch.equal(textpipes.draw(pipe, guided=False), both)


def test_a_run_without_guidance_has_no_unconditional_half() -> None:
    pipe = textpipes.stable_diffusion()
    direction = next(iter(textpipes.bank_for(pipe)))
    with (
        pytest.raises(SteerError, match="no unconditional branch"),
        eb.steer(pipe, {direction: 1.0}, branch="uncond"),
    ):
        textpipes.draw(pipe, guided=False)


def test_a_pipeline_with_two_denoisers_is_edited_in_both(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = textpipes.wan(two=True)
    bank = textpipes.bank_for(pipe)
    direction = next(iter(bank))
    seen: list[str] = []
    for name in ("transformer", "transformer_2"):
        getattr(pipe, name).register_forward_hook(lambda *_, name=name: seen.append(name))
    before = textpipes.draw(pipe, steps=4)
    assert set(seen) == {"transformer", "transformer_2"}
    with eb.steer(pipe, {direction: 1.0}) as handle:
        assert handle.terms[0].matches == {"transformer": "exact", "transformer_2": "exact"}
        hooks = [part.sites[0].additions[0] for part in handle.parts]
        counts = [0, 0]
        for number, hook in enumerate(hooks):
            inner = hook.of
            monkeypatch.setattr(
                hook, "of", lambda *args, n=number, f=inner: (counts.__setitem__(n, counts[n] + 1), f(*args))[1]
            )
        edited = textpipes.draw(pipe, steps=4)
    assert all(counts)
    assert sum(counts) == len(seen) // 2
    assert not torch.equal(edited, before)
    assert torch.equal(textpipes.draw(pipe, steps=4), before)


def test_a_second_denoiser_of_other_weights_is_left_alone() -> None:
    pipe = textpipes.wan(two=True)
    torch.manual_seed(5)
    for parameter in pipe.transformer_2.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    direction = next(iter(textpipes.bank_for(pipe)))
    with eb.steer(pipe, {direction: 1.0}) as handle:
        assert handle.terms[0].matches == {"transformer": "exact"}
        assert not pipe.transformer_2.blocks[0].attn1._forward_pre_hooks


@pytest.mark.parametrize("make", [textpipes.stable_diffusion, textpipes.flux, textpipes.wan])
def test_schedules_follow_the_run_of_every_scheduler(make: Any) -> None:
    pipe = make()
    direction = next(iter(textpipes.bank_for(pipe)))
    done: list[float] = []
    with eb.steer(pipe, {direction: lambda behind: done.append(behind) or 0.0}):
        done.clear()
        textpipes.draw(pipe, steps=4)
    assert list(dict.fromkeys(done))[-4:] == pytest.approx([0, 0.25, 0.5, 0.75])


def test_texts_of_different_lengths_in_one_batch_are_refused_where_they_hide_the_image() -> None:
    import zoo

    model = zoo.make("Lumina2Transformer2DModel")
    layers = [layer for layer in zoo.layers_of(model) if layer.kind == "joint"]
    bank = zoo.bank_of(model, layers)
    mask = torch.ones(2, 6, dtype=torch.bool)
    call = {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "timestep": torch.ones(2),
        "encoder_hidden_states": torch.randn(2, 6, 32),
    }
    with torch.no_grad(), eb.steer(model, {next(iter(bank)): 1.0}):
        model(**call, encoder_attention_mask=mask)
        mask[1, 4:] = False
        with pytest.raises(MatchError, match="different lengths"):
            model(**call, encoder_attention_mask=mask)


@pytest.mark.parametrize(
    "kind", ["QwenImage21Transformer2DModel", "ZImageTransformer2DModel", "Flux3Transformer2DModel"]
)
def test_pictures_among_the_words_are_refused_where_they_hide_the_image(kind: str) -> None:
    import pipelines
    import zoo

    from eigenbank.builders.discovery.families import discover

    model = zoo.make(kind, pipelines.CONFIGS[kind])
    found = discover({"_class_name": kind, **pipelines.CONFIGS[kind]}).layers
    direction = zoo.bank_of(model, found)[f"{found[-1].name}/value/0"]
    if kind.startswith("Qwen"):  # four tokens of a given picture, two words, four of the image
        given = torch.tensor([[False, True, False, False, True]])
        shared = {"timestep": torch.ones(1), "encoder_hidden_states": torch.randn(1, 4, 16)}
        plain = {**shared, "hidden_states": torch.randn(1, 4, 4), "img_shapes": [[(1, 2, 2)]]}
        plain["img_mask"] = torch.tensor([[False] * 4 + [True]])
        more = {**shared, "hidden_states": torch.randn(1, 8, 4), "img_shapes": [[(1, 2, 2)] * 2], "img_mask": given}
    elif kind.startswith("Flux3"):
        plain = next(zoo.calls(model))
        cond = {"image_cond_hidden_states": torch.randn(1, 3, 4), "image_cond_ids": torch.zeros(3, 4)}
        plain, more = {**plain, **dict.fromkeys(cond)}, {**plain, **cond}
    else:
        plain = {"x": [torch.randn(4, 1, 8, 8)], "t": torch.ones(1), "cap_feats": [torch.randn(6, 16)]}
        more = {**plain, "x": [[torch.randn(4, 1, 8, 8)] * 2], "cap_feats": [[torch.randn(6, 16)] * 3]}
        more |= {"siglip_feats": [None], "image_noise_mask": [[0, 1]]}
    with torch.no_grad():
        model(**more)
        with eb.steer(model, {direction: 1.0}):
            model(**plain)
            with pytest.raises(MatchError, match="pictures were given along with the prompt"):
                model(**more)


def test_pipelines_with_rows_of_neither_branch_are_not_guessed_at() -> None:
    pipe = textpipes.stable_diffusion()
    pipe.__class__ = type("Semantic", (type(pipe),), {"enabled_editing_prompts": 1})
    direction = next(iter(textpipes.bank_for(pipe)))
    with (
        pytest.raises(SteerError, match="does not say which"),
        eb.steer(pipe, {direction: 1.0}, branch="cond"),
    ):
        textpipes.draw(pipe, 2)


def test_a_cache_that_leaves_out_the_unconditional_half_refuses_what_needs_it() -> None:
    from diffusers import FasterCacheConfig

    pipe = textpipes.flux()
    direction = next(iter(textpipes.bank_for(pipe)))
    pipe.transformer.enable_cache(
        FasterCacheConfig(attention_weight_callback=lambda _: 0.3, current_timestep_callback=lambda: 500)
    )
    for scale, guidance in ((1.0, "cond"), ([1.0, 2.0], "both")):
        handle = eb.steer(pipe, {direction: scale}, branch=guidance)
        with pytest.raises(SteerError, match="FasterCache works out"):
            handle.attach()
        assert not handle.attached
    assert not pipe.transformer.get_submodule(direction.layer).to_q._forward_pre_hooks
    eb.steer(pipe, {direction: 1.0}).attach().remove()


@pytest.mark.parametrize(
    ("context", "half"),
    [
        ("cond", "cond"),
        ("uncond", "uncond"),
        ("cond_uncond", None),
        (None, None),
        ("pred_neg", "uncond"),
    ],
)
def test_a_pass_is_a_half_by_its_context_unless_that_names_both(context: str | None, half: str | None) -> None:
    from eigenbank.loaders.denoiser_calls import branch_of

    assert branch_of(context) == half


def test_image_tokens_are_counted_by_frames_also_where_these_come_before_the_channels() -> None:
    pipe = textpipes.cogvideox()
    direction = next(iter(textpipes.bank_for(pipe)))
    seen: list[Tensor] = []
    block = pipe.transformer.transformer_blocks[0]
    hook = block.attn1.to_q.register_forward_hook(lambda _module, _args, output: seen.append(output.clone()))
    textpipes.draw(pipe, steps=1)
    with eb.steer(pipe, {direction: 1.0}):
        textpipes.draw(pipe, steps=1)
    hook.remove()
    plain, edited = seen
    # 6 tokens of text, then 3 frames of 4 × 4.
    assert plain.shape[1] == 6 + 48
    assert torch.equal(plain[:, :6], edited[:, :6])
    moved = edited[:, 6:] - plain[:, 6:]
    along = block.attn1.to_q.weight @ direction.vector
    lengths = moved @ along / (along @ along)
    torch.testing.assert_close(moved, lengths[..., None] * along, atol=1e-4, rtol=0)
    torch.testing.assert_close(lengths, lengths[:, :1].expand_as(lengths), atol=1e-4, rtol=0)
    assert bool((lengths > 0.1).all())
