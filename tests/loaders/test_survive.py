"""An edit survives whatever is switched on or off while it is attached, and follows the run that is going on."""

import random
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import textpipes
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.hooks import FirstBlockCacheConfig, HookRegistry, ModelHook
from torch import Tensor

import eigenbank as eb
from eigenbank.loaders.active_edit import UnmetWarning
from eigenbank.schemas.errors import SteerError

pytestmark = pytest.mark.filterwarnings("ignore:.*(?!did nothing)", "error::eigenbank.loaders.active_edit.UnmetWarning")

LATE: dict[str, Any] = {"window": (0.5, 1.0)}


class Doubling(ModelHook):  # type: ignore[misc]
    """A hook of somebody else's."""

    def post_forward(self, module: Any, output: Any) -> Any:
        return output


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def lora(pipe: Any) -> None:
    """A LoRA of zeros on the projections that input directions are read by: it changes nothing but the modules."""
    from peft import LoraConfig

    pipe.unet.add_adapter(LoraConfig(r=1, target_modules=["to_q", "to_k", "to_v", "to_out.0"]), "zero")


def no_lora(pipe: Any) -> None:
    pipe.unet.delete_adapters("zero")


def hook(pipe: Any) -> None:
    for module in (pipe.unet, pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1):
        HookRegistry.check_if_exists_or_initialize(module).register_hook(Doubling(), "theirs")


def no_hook(pipe: Any) -> None:
    HookRegistry.check_if_exists_or_initialize(pipe.unet).remove_hook("theirs")


def offload(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def group(pipe: Any) -> None:
    pipe.unet.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")


CHANGES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "model offload": (offload, lambda pipe: pipe.remove_all_hooks()),
    "group offload": (group, lambda pipe: None),
    "a LoRA": (lora, no_lora),
    "somebody's hook": (hook, no_hook),
}
"""What is switched on, and off again, none of which changes what the pipeline computes."""


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    """The pictures that all of it must leave alone."""
    return expected_pictures()


def expected_pictures() -> dict[str, Tensor]:
    """The picture without any of it: unedited, and edited in the second half of the run."""
    pipe = textpipes.stable_diffusion()
    plain = textpipes.draw(pipe, 2, 4)
    with eb.steer(pipe, dict.fromkeys(textpipes.bank_for(pipe), 0.5), **LATE):
        return {"plain": plain, "edited": textpipes.draw(pipe, 2, 4)}


@pytest.mark.parametrize("name", CHANGES)
def test_an_edit_outlives_what_is_switched_on_and_off_under_it(name: str, expected: dict[str, Tensor]) -> None:
    pipe = textpipes.stable_diffusion()
    directions = textpipes.bank_for(pipe)
    on, off = CHANGES[name]
    with eb.steer(pipe, dict.fromkeys(directions, 0.5), **LATE):
        on(pipe)
        for _ in range(2):
            same(textpipes.draw(pipe, 2, 4), expected["edited"])
        off(pipe)
        same(textpipes.draw(pipe, 2, 4), expected["edited"])
        on(pipe)
    # Removed under what is still on: that goes on as it did.
    same(textpipes.draw(pipe, 2, 4), expected["plain"])
    off(pipe)
    same(textpipes.draw(pipe, 2, 4), expected["plain"])
    assert not any(module._forward_pre_hooks for module in pipe.unet.modules())


@pytest.mark.parametrize("seed", range(3))
def test_hooks_put_on_and_taken_off_at_random_leave_edits_and_pictures_alone(
    seed: int, expected: dict[str, Tensor]
) -> None:
    """But for a hook of diffusers over one of accelerate, which go in the reverse order: they break each other without us otherwise."""
    chance = random.Random(seed)
    pipe = textpipes.stable_diffusion()
    edit = eb.steer(pipe, dict.fromkeys(textpipes.bank_for(pipe), 0.5), **LATE)
    changes = {name: CHANGES[name] for name in ("a LoRA", "somebody's hook", "model offload")}
    active: list[str] = []
    for _ in range(12):
        wrapped = {"somebody's hook", "model offload"} <= set(active)
        under = min(("somebody's hook", "model offload"), key=active.index) if wrapped else None
        step = chance.choice([name for name in (*changes, "edit") if name != under])
        if step == "edit":
            edit.remove() if edit.attached else edit.attach()
        else:
            on, off = changes[step]
            (off if step in active else on)(pipe)
            active.remove(step) if step in active else active.append(step)
        same(textpipes.draw(pipe, 2, 4), expected["edited" if edit.attached else "plain"])
    edit.remove()
    same(textpipes.draw(pipe, 2, 4), expected["plain"])


def test_a_cache_may_come_and_go() -> None:
    pipe = textpipes.flux()
    direction = next(iter(textpipes.bank_for(pipe)))
    plain = textpipes.draw(pipe)
    with eb.steer(pipe, {direction: 1.0}):
        edited = textpipes.draw(pipe)
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
        textpipes.draw(pipe)
        pipe.transformer.disable_cache()
        same(textpipes.draw(pipe), edited)
    same(textpipes.draw(pipe), plain)


def test_progress_is_that_of_the_pipeline_that_runs_the_shared_denoiser() -> None:
    pipe = textpipes.stable_diffusion()
    other = StableDiffusionPipeline(
        **{**pipe.components, "scheduler": DDIMScheduler.from_config(pipe.scheduler.config)},
        requires_safety_checker=False,
    )
    other.set_progress_bar_config(disable=True)
    direction = next(iter(textpipes.bank_for(pipe)))
    textpipes.draw(pipe, 1, 7)
    seen: list[float] = []
    with eb.steer(pipe, {direction: lambda done: seen.append(done) or 0.0}):
        for each, steps in ((other, 4), (pipe, 5), (other, 2)):
            seen.clear()
            textpipes.draw(each, 1, steps)
            assert sorted(set(seen)) == pytest.approx([step / steps for step in range(steps)])


def test_a_second_thread_in_the_run_is_refused_and_the_first_draws_what_it_should(expected: dict[str, Tensor]) -> None:
    pipe = textpipes.stable_diffusion()
    other = StableDiffusionPipeline(
        **{**pipe.components, "scheduler": DDIMScheduler.from_config(pipe.scheduler.config)},
        requires_safety_checker=False,
    )
    other.set_progress_bar_config(disable=True)

    def meanwhile(_pipe: Any, step: int, _time: Any, state: Any) -> Any:
        if step == 1:
            with ThreadPoolExecutor(1) as pool, pytest.raises(SteerError, match="another thread is drawing"):
                pool.submit(textpipes.draw, other, 2, 7).result()
        return state

    with eb.steer(pipe, dict.fromkeys(textpipes.bank_for(pipe), 0.5), **LATE):
        same(textpipes.draw(pipe, 2, 4, callback_on_step_end=meanwhile), expected["edited"])
        with ThreadPoolExecutor(1) as pool:  # one after the other is fine
            same(pool.submit(textpipes.draw, pipe, 2, 4).result(), expected["edited"])


def test_a_denoiser_that_was_replaced_under_an_edit_is_told_of() -> None:
    pipe = textpipes.stable_diffusion()
    edit = eb.steer(pipe, {next(iter(textpipes.bank_for(pipe))): 1.0}).attach()
    pipe.unet = torch.compile(pipe.unet, backend="eager")  # the same one, wrapped
    edit.remove()
    edit.attach()
    pipe.unet = textpipes.stable_diffusion().unet
    with pytest.warns(UnmetWarning, match="the pipeline's unet was replaced while it was edited"):
        edit.remove()


def test_a_run_of_a_part_of_the_schedule_is_counted_from_its_own_beginning() -> None:
    base = textpipes.stable_diffusion()
    pipe = StableDiffusionImg2ImgPipeline(**base.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    direction = next(iter(textpipes.bank_for(base)))
    seen: list[float] = []
    call = {
        "image": torch.rand(1, 3, 16, 16),
        "strength": 0.5,
        "num_inference_steps": 8,
        "prompt_embeds": textpipes.embeddings(1, 6, 16),
        "guidance_scale": 1.0,
        "output_type": "latent",
    }
    with eb.steer(pipe, {direction: lambda done: seen.append(done) or 0.0}):
        seen.clear()
        pipe(**call)
    assert sorted(set(seen)) == pytest.approx([0, 0.25, 0.5, 0.75])


def test_a_window_or_branch_that_no_step_meets_is_warned_about_once() -> None:
    pipe = textpipes.stable_diffusion()
    direction = next(iter(textpipes.bank_for(pipe)))
    with warnings.catch_warnings(record=True) as caught, eb.steer(pipe, {direction: 1.0}, window=(0.6, 0.7)):
        warnings.simplefilter("always")
        for _ in range(3):
            textpipes.draw(pipe, 1, 2)
    found = [str(each.message) for each in caught if each.category is UnmetWarning]
    assert len(found) == 1
    assert "(0.6 to 0.7 of the run) did nothing: no step" in found[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnmetWarning)
        with eb.steer(pipe, {direction: 1.0}, window=(0.6, 0.7)):
            textpipes.draw(pipe, 1, 10)
        with eb.steer(pipe, {direction: 1.0}, window=(0.6, 0.7)):
            pass


def test_guidance_switched_off_in_mid_run_ends_an_edit_of_its_branch_without_an_error() -> None:
    pipe = textpipes.stable_diffusion()
    direction = next(iter(textpipes.bank_for(pipe)))
    half = SDCFGCutoffCallback(cutoff_step_ratio=0.5)
    plain = textpipes.draw(pipe, 1, 4, callback_on_step_end=half)
    for branch in ("cond", "uncond"):
        with eb.steer(pipe, {direction: 1.0}, branch=branch):  # type: ignore[arg-type]
            assert not torch.equal(textpipes.draw(pipe, 1, 4, callback_on_step_end=half), plain)
    with pytest.raises(SteerError, match="no unconditional branch"), eb.steer(pipe, {direction: 1.0}, branch="uncond"):
        textpipes.draw(pipe, guided=False)


def test_what_is_fused_over_an_edit_stays_when_the_edit_goes() -> None:
    pipe = textpipes.stable_diffusion()
    bank = textpipes.bank_for(pipe)
    direction = next(iter(bank))
    linear = pipe.unet.get_submodule(direction.layer).to_out[0]
    before = linear.bias.detach().clone()
    theirs = torch.linspace(-1, 1, len(before))
    first = eb.steer(pipe, {direction: 0.5}, site="output", fuse=True).attach()
    second = eb.steer(pipe, {direction: -0.2}, site="output", fuse=True).attach()
    with torch.no_grad():
        linear.bias.add_(theirs)
    first.set_scale(0.7)
    first.remove()
    second.remove()
    torch.testing.assert_close(linear.bias, before + theirs)
    with eb.steer(pipe, {direction: 0.5}, site="output", fuse=True), torch.no_grad():
        kept = linear.bias.detach().clone()
        pipe.unet.to(torch.float64).to(torch.float32)
        assert torch.equal(linear.bias, kept)
    torch.testing.assert_close(linear.bias, before + theirs)


@pytest.mark.parametrize("before", [True, False])
def test_layerwise_casting_outlives_an_edit(before: bool) -> None:
    cast = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": torch.float32}
    plain = textpipes.stable_diffusion()
    plain.unet.enable_layerwise_casting(**cast)
    expected = textpipes.draw(plain, 2, 4)
    pipe = textpipes.stable_diffusion()
    edits = dict.fromkeys(textpipes.bank_for(pipe), 0.5)
    if before:
        pipe.unet.enable_layerwise_casting(**cast)
    with eb.steer(pipe, edits, force=before):
        if not before:
            pipe.unet.enable_layerwise_casting(**cast)
        assert not torch.equal(textpipes.draw(pipe, 2, 4), expected)
    same(textpipes.draw(pipe, 2, 4), expected)
    assert pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
