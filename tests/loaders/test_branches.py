"""A branch of guidance is found in pipelines that stack both in either order, take turns, or keep to themselves whether they guide."""

from typing import Any

import diffusers
import pytest
import textpipes
import torch
import zoo
from torch import Tensor

import eigenbank as eb
from eigenbank.loaders.drawing import unguided
from eigenbank.loaders.export import choose
from eigenbank.loaders.plugins import target_of
from eigenbank.schemas import CompositeRecord, Sliders, SliderSetting, Weighted
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import ExportError, FuseError, SteerError

pytestmark = pytest.mark.filterwarnings("ignore")

N, LENGTH = 2, 6
POOLED = {"pooled_prompt_embeds": textpipes.embeddings(N, 32, seed=3), "negative_pooled_prompt_embeds": textpipes.embeddings(N, 32, seed=4)}  # fmt: skip
MASKS = {f"{each}prompt_attention_mask": torch.ones(N, LENGTH, dtype=torch.bool) for each in ("", "negative_")}
FLOW = diffusers.FlowMatchEulerDiscreteScheduler
CASES: dict[str, tuple[str, str, int, Any, dict[str, Any]]] = {
    "sd3": ("StableDiffusion3Pipeline", "SD3Transformer2DModel", 32, FLOW, POOLED),
    "pixart": (
        "PixArtAlphaPipeline",
        "PixArtTransformer2DModel",
        16,
        diffusers.DDIMScheduler,
        {**MASKS, "use_resolution_binning": False, "negative_prompt": None},
    ),
    "auraflow, conditional rows first": ("AuraFlowPipeline", "AuraFlowTransformer2DModel", 32, FLOW, MASKS),
    "chroma, in turn": ("ChromaPipeline", "ChromaTransformer2DModel", 32, FLOW, MASKS),
    "cogvideox": (
        "CogVideoXPipeline",
        "CogVideoXTransformer3DModel",
        16,
        diffusers.CogVideoXDDIMScheduler,
        {"num_frames": 9, "max_sequence_length": LENGTH},
    ),
}
"""Pipeline and denoiser, the width of its text, its scheduler, and what its call is given besides."""


def made(case: str) -> tuple[Any, dict[str, Any]]:
    kind, denoiser, width, scheduler, more = CASES[case]
    parts: dict[str, Any] = dict.fromkeys(getattr(diffusers, kind)._get_signature_keys(getattr(diffusers, kind))[0])
    parts.pop("self", None)
    pipe = getattr(diffusers, kind)(**{**parts, "transformer": zoo.make(denoiser), "scheduler": scheduler()})
    pipe.set_progress_bar_config(disable=True)
    texts = {"prompt_embeds": textpipes.embeddings(N, LENGTH, width, seed=1), "negative_prompt_embeds": textpipes.embeddings(N, LENGTH, width, seed=2)}  # fmt: skip
    call = {
        **texts,
        "height": 64,
        "width": 64,
        "num_inference_steps": 1,
        "output_type": "latent",
        "guidance_scale": 4.0,
    }
    return pipe, {**call, **more}


def first_step(pipe: Any, call: dict[str, Any], layer: str) -> list[tuple[bool, Tensor]]:
    """For each row of the first step's passes: whether its text is the prompt, and its tokens at the layer's output."""
    seen: list[tuple[bool, Tensor]] = []
    conditional: list[bool] = []
    denoiser = next(iter(target_of(pipe).denoisers.values()))

    def called(_module: Any, _args: Any, kwargs: Any) -> None:
        text = kwargs["encoder_hidden_states"]
        conditional[:] = [any(torch.equal(row, each) for each in call["prompt_embeds"]) for row in text]

    def out(_module: Any, _args: Any, output: Any) -> None:
        tokens = output[0] if isinstance(output, tuple) else output
        seen.extend(zip(list(conditional), tokens.clone(), strict=True))

    hooks = [
        denoiser.register_forward_pre_hook(called, with_kwargs=True),
        denoiser.get_submodule(layer).register_forward_hook(out),
    ]
    generators = [torch.Generator().manual_seed(seed) for seed in range(N)]
    try:
        with torch.no_grad():
            pipe(**call, generator=generators)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@pytest.mark.parametrize("case", CASES)
def test_exactly_the_rows_of_the_branch_move(case: str) -> None:
    pipe, call = made(case)
    direction = next(iter(textpipes.bank_for(pipe)))
    plain = first_step(pipe, call, direction.layer)
    assert [conditional for conditional, _ in plain].count(True) == N
    for branch in ("cond", "uncond"):
        with eb.steer(pipe, {direction: 1.0}, site="output", branch=branch):  # type: ignore[arg-type]
            edited = first_step(pipe, call, direction.layer)
        moved = [not torch.equal(before, after) for (_, before), (_, after) in zip(plain, edited, strict=True)]
        assert moved == [conditional == (branch == "cond") for conditional, _ in plain]


def test_a_composite_acts_on_the_branch_it_is_made_for_unless_one_says_otherwise() -> None:
    pipe, call = made("sd3")
    bank = textpipes.bank_for(pipe)
    parts = (Weighted(direction=next(iter(bank)).id, weight=1.0),)
    bank = bank.composed([CompositeRecord(name="words", parts=parts, branch="cond")])
    layer = next(iter(bank)).layer
    plain = first_step(pipe, call, layer)

    def moved(sliders: Any, **how: Any) -> list[bool]:
        with eb.steer(pipe, sliders, bank=bank, **how):
            edited = first_step(pipe, call, layer)
        return [not torch.equal(before, after) for (_, before), (_, after) in zip(plain, edited, strict=True)]

    conditional = [each for each, _ in plain]
    said = Sliders(sliders=(SliderSetting(key="composite/words", scale=1.0, branch="both"),))
    assert moved({"composite/words": 1.0}, site="output") == conditional
    assert moved({bank["composite/words"]: 1.0}, site="output") == conditional
    assert all(moved({"composite/words": 1.0}, site="output", branch="both"))
    assert all(moved(said, site="output"))
    with pytest.raises(ExportError, match="acts on one branch of guidance, cond"):
        choose(bank, ["composite/words"])
    with pytest.raises(FuseError, match="one branch"):
        eb.steer(pipe, {"composite/words": 1.0}, bank=bank, site="output", fuse=True)


@pytest.mark.parametrize("case", CASES)
def test_without_guidance_every_row_is_conditional(case: str) -> None:
    pipe, call = made(case)
    assert not unguided(pipe, Drawing(guidance_scale=call["guidance_scale"]))
    assert not unguided(pipe, Drawing())
    call["guidance_scale"] = 1.0 if "chroma" not in case else 0.0
    assert unguided(pipe, Drawing(guidance_scale=call["guidance_scale"]))
    direction = next(iter(textpipes.bank_for(pipe)))
    with eb.steer(pipe, {direction: 1.0}, site="output"):
        both = first_step(pipe, call, direction.layer)
    with eb.steer(pipe, {direction: 1.0}, site="output", branch="cond"):
        cond = first_step(pipe, call, direction.layer)
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(both, cond, strict=True))
    with pytest.raises(SteerError, match="no unconditional branch"), eb.steer(pipe, {direction: 1.0}, branch="uncond"):
        first_step(pipe, call, direction.layer)
