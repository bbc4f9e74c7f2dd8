"""Steering adds what was asked where it was asked, and leaves no trace."""

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from making import make_checkpoint

import eigenbank as eb
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.sample import sample
from eigenbank.schemas.errors import MatchError, SteerError, UnknownNameError

MID = "mid_block.attentions.0"
RECIPES = ("output-value", "output-value:output", "value@0.5-1")


@pytest.fixture(scope="module")
def bank(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> eb.DirectionSet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EIGENBANK_HOME", str(tmp_path_factory.mktemp("home")))
        return eb.build(str(tiny_checkpoint), recipes=RECIPES, top_k=4)


def draw(pipe: Any, n: int = 3) -> torch.Tensor:
    return sample(pipe, range(n), 4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_edit_changes_the_images_and_removal_restores_them_bit_for_bit(
    recipe: str, pipe: Any, bank: eb.DirectionSet
) -> None:
    before = draw(pipe)
    with eb.steer(pipe, {bank[f"{MID}/{recipe}/0"]: 1.0}):
        edited = draw(pipe)
    assert not torch.equal(edited, before)
    assert torch.equal(draw(pipe), before)


@pytest.mark.parametrize("recipe", RECIPES)
def test_scale_zero_is_bit_for_bit_the_unedited_image(recipe: str, pipe: Any, bank: eb.DirectionSet) -> None:
    before = draw(pipe)
    with eb.steer(pipe, {bank[f"{MID}/{recipe}/0"]: 0.0}):
        assert torch.equal(draw(pipe), before)


def test_removal_leaves_no_attribute_behind(pipe: Any, bank: eb.DirectionSet) -> None:
    before = {name: sorted(module.__dict__) for name, module in pipe.unet.named_modules()}
    with eb.steer(pipe, dict.fromkeys(bank, 0.3)):
        draw(pipe)
    assert {name: sorted(module.__dict__) for name, module in pipe.unet.named_modules()} == before
    assert torch.equal(draw(pipe), draw(copy.deepcopy(pipe)))


def test_hooks_of_others_stay(pipe: Any, bank: eb.DirectionSet) -> None:
    from diffusers.hooks import HookRegistry, ModelHook

    class Doubling(ModelHook):
        def post_forward(self, module: Any, output: Any) -> Any:
            return output * 2

    attention = pipe.unet.get_submodule(MID)
    HookRegistry.check_if_exists_or_initialize(attention).register_hook(Doubling(), "theirs")
    before = draw(pipe)
    with eb.steer(pipe, {bank[f"{MID}/output-value:output/0"]: 1.0}):
        assert not torch.equal(draw(pipe), before)
    assert torch.equal(draw(pipe), before)
    assert list(attention._diffusers_hook.hooks) == ["theirs"]


def test_an_exception_inside_removes_the_edit(pipe: Any, bank: eb.DirectionSet) -> None:
    before = draw(pipe)
    with pytest.raises(KeyError), eb.steer(pipe, {bank[f"{MID}/output-value/0"]: 1.0}):
        raise KeyError
    assert torch.equal(draw(pipe), before)


def test_nested_edits_add_up_and_come_off_in_any_order(pipe: Any, bank: eb.DirectionSet) -> None:
    first, second = bank[f"{MID}/output-value/0"], bank[f"{MID}/output-value/1"]
    before = draw(pipe)
    with eb.steer(pipe, {first: 0.7}):
        alone = draw(pipe)
        with eb.steer(pipe, {second: -0.4}):
            nested = draw(pipe)
        assert torch.equal(draw(pipe), alone)
    with eb.steer(pipe, {first: 0.7, second: -0.4}):
        torch.testing.assert_close(draw(pipe), nested, atol=1e-5, rtol=0)
    one, two = eb.steer(pipe, {first: 0.7}).attach(), eb.steer(pipe, {second: -0.4}).attach()
    one.remove()
    with eb.steer(pipe, {first: 0.7}):
        torch.testing.assert_close(draw(pipe), nested, atol=1e-5, rtol=0)
    two.remove()
    two.remove()
    assert torch.equal(draw(pipe), before)


def test_the_vector_is_added_after_the_norm_as_long_as_a_token_there(pipe: Any, bank: eb.DirectionSet) -> None:
    direction = bank[f"{MID}/output-value/0"]
    attention = pipe.unet.get_submodule(MID)
    seen: list[torch.Tensor] = []
    handle = attention.to_v.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pipe.unet(noise, 10)
        with eb.steer(pipe.unet, {direction: 0.5}):
            pipe.unet(noise, 10)
    handle.remove()
    plain, edited = seen
    lengths = plain.square().sum(-1).mean(1).sqrt()
    assert lengths[0] != lengths[1]
    torch.testing.assert_close(edited, plain + 0.5 * lengths[:, None, None] * direction.vector, atol=1e-5, rtol=0)


def test_the_vector_is_added_at_the_block_output_as_long_as_a_token_there(pipe: Any, bank: eb.DirectionSet) -> None:
    direction = bank[f"{MID}/output-value:output/0"]
    seen: list[torch.Tensor] = []
    with eb.steer(pipe, {direction: 0.0}) as handle:
        # Outside the edit's own hook: what the next layer gets.
        listening = pipe.unet.mid_block.resnets[1].register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        draw(pipe)
        handle.set_scale(1.0, direction.id)
        draw(pipe)
        listening.remove()
    first, edited = seen[0], seen[len(seen) // 2]
    added = (edited - first).permute(0, 2, 3, 1).flatten(0, 2)
    length = torch.stack([part.permute(0, 2, 3, 1).norm(dim=-1).square().mean() for part in seen[:4]]).mean().sqrt()
    torch.testing.assert_close(
        added / added.norm(dim=1, keepdim=True), direction.vector.expand_as(added), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(added.norm(dim=1).mean(), length, atol=0, rtol=0.1)


def test_a_handle_changes_scale_while_attached(pipe: Any, bank: eb.DirectionSet) -> None:
    direction = bank[f"{MID}/output-value/0"]
    with eb.steer(pipe, {direction: 1.0}):
        whole = draw(pipe)
    handle = eb.steer(pipe, {direction: 2.0}).attach()
    handle.set_scale(0.5)
    assert torch.equal(draw(pipe), whole)
    handle.set_scale(1.0)
    handle.set_scale(1.0, direction.id)
    assert torch.equal(draw(pipe), whole)
    with pytest.raises(SteerError, match="attached already"):
        handle.attach()
    with pytest.raises(SteerError, match="not part of this edit"):
        handle.set_scale(1.0, "nose")
    handle.remove()
    assert not handle.attached


def test_a_handle_takes_the_direction_it_was_made_with(pipe: Any, bank: eb.DirectionSet) -> None:
    first, second = bank[f"{MID}/output-value/0"], bank[f"{MID}/output-value/1"]
    with eb.steer(pipe, {first: 0.5, second: 1.0}):
        wanted = draw(pipe)
    for key in (first, first.id):
        with eb.steer(pipe, {key: 2.0, second: 1.0}, bank=bank) as handle:
            handle.set_scale(0.5, first)
            assert torch.equal(draw(pipe), wanted)
            with pytest.raises(SteerError, match=f"{bank.model_id}#{MID}/output-value/2 is not part of this edit"):
                handle.set_scale(1.0, bank[f"{MID}/output-value/2"])


def test_what_a_scale_of_ones_own_raises_says_of_which_direction_and_when(pipe: Any, bank: eb.DirectionSet) -> None:
    direction = bank[f"{MID}/output-value/0"]
    late = [False]

    def scale(done: float) -> float:
        return 1 / (done - 0.5) if late[0] else 1.0

    handle = eb.steer(pipe, {direction: scale}).attach()
    late[0] = True
    with pytest.raises(ZeroDivisionError) as caught:
        draw(pipe)
    handle.remove()
    assert caught.value.__notes__ == [f"raised by the scale given for {direction.id!r}, asked for 50% of the run"]
    with pytest.raises(ZeroDivisionError) as caught:
        eb.steer(pipe, {direction: lambda done: 1 / done})
    assert "0% of the run" in caught.value.__notes__[0]


@pytest.mark.parametrize("options", [{}, {"mask": torch.eye(8)}])
def test_a_steered_denoiser_is_neither_copied_nor_pickled(
    options: dict[str, Any], pipe: Any, bank: eb.DirectionSet
) -> None:
    before = draw(pipe)
    with eb.steer(pipe, {bank[f"{MID}/output-value/0"]: 1.0}, **options):
        for take in (copy.deepcopy, pickle.dumps):
            with pytest.raises(SteerError, match=r"cannot be copied or pickled.*remove"):
                take(pipe.unet)
    for unet in (copy.deepcopy(pipe.unet), pickle.loads(pickle.dumps(pipe.unet))):
        pipe.unet = unet
        torch.testing.assert_close(draw(pipe), before)


def test_a_folded_edit_goes_into_a_copy(pipe: Any, bank: eb.DirectionSet) -> None:
    with eb.steer(pipe, {eb.measure(pipe, bank)[f"{MID}/output-value:output/0"]: 1.0}, fuse=True):
        edited, copied = draw(pipe), copy.deepcopy(pipe.unet)
    assert not torch.allclose(draw(pipe), edited)
    pipe.unet = copied
    torch.testing.assert_close(draw(pipe), edited)


def test_a_window_acts_only_in_its_part_of_the_run(pipe: Any, bank: eb.DirectionSet) -> None:
    direction = bank[f"{MID}/value@0.5-1/0"]
    active: list[bool] = []
    with eb.steer(pipe, {direction: 1.0}) as handle:
        hook = handle.parts[0].sites[0].additions[0]
        handle_ = pipe.unet.conv_out.register_forward_hook(lambda *_: active.append(not hook.idle))
        sample(pipe, [0], 8)
        sample(pipe, [0], 4)
        handle_.remove()
    assert active == [False] * 4 + [True] * 4 + [False] * 2 + [True] * 2


def test_a_window_on_a_bare_denoiser_goes_by_the_timestep(pipe: Any, bank: eb.DirectionSet) -> None:
    direction = bank[f"{MID}/value@0.5-1/0"]
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        early, late = (pipe.unet(noise, step).sample for step in (900, 100))
        with eb.steer(pipe.unet, {direction: 1.0}):
            assert torch.equal(pipe.unet(noise, timestep=900).sample, early)
            assert not torch.equal(pipe.unet(noise, 100).sample, late)
    assert torch.equal(pipe.unet(noise, 100).sample, late)


def test_each_sample_of_a_batch_may_have_its_own_scale(pipe: Any, bank: eb.DirectionSet) -> None:
    direction = bank[f"{MID}/output-value/0"]
    singles = []
    for seed, scale in enumerate((-1.0, 0.0, 2.0)):
        with eb.steer(pipe, {direction: scale}):
            singles.append(sample(pipe, [seed], 4))
    with eb.steer(pipe, {direction: [-1.0, 0.0, 2.0]}):
        torch.testing.assert_close(draw(pipe), torch.cat(singles), atol=1e-4, rtol=0)
        with pytest.raises(MatchError, match="3 scales"):
            draw(pipe, 2)


def test_two_threads_steer_two_pipelines(tiny_checkpoint: Path, bank: eb.DirectionSet) -> None:
    pipes = [open_pipeline(tiny_checkpoint) for _ in range(2)]
    scales = (1.0, -1.0)
    expected = []
    for pipe, scale in zip(pipes, scales, strict=True):
        with eb.steer(pipe, {bank[f"{MID}/output-value/0"]: scale}):
            expected.append(draw(pipe))
    found: dict[int, torch.Tensor] = {}

    def work(number: int) -> None:
        for _ in range(5):
            with eb.steer(pipes[number], {bank[f"{MID}/output-value/0"]: scales[number]}):
                found[number] = draw(pipes[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[number], expected[number]) for number in range(2))


def test_words_are_looked_up_in_the_catalog(tiny_checkpoint: Path, bank: eb.DirectionSet) -> None:
    from datetime import datetime, timezone

    from eigenbank.registry.local import store
    from eigenbank.schemas import Label

    now = datetime.now(timezone.utc)
    direction = bank[f"{MID}/output-value/0"]
    label = Label(text="smile", polarity=-1, source="human:ann", created=now)
    store(bank.labelled({direction.id: (label,)}), checkpoint=tiny_checkpoint)
    pipe = open_pipeline(tiny_checkpoint)
    with eb.steer(pipe, {direction: -0.5}):
        expected = draw(pipe)
    with eb.steer(pipe, {"smile": 0.5}) as handle:
        assert torch.equal(draw(pipe), expected)
        assert handle.terms[0].match == "exact"
    with eb.steer(pipe.unet, {"Smile": 0.5}):
        assert torch.equal(draw(pipe), expected)
    with pytest.raises(UnknownNameError, match="did you mean 'smile'"):
        eb.steer(pipe, {"smlie": 1})
    with pytest.raises(UnknownNameError, match=r"mid_block\.attentions\.0/output-value/1"):
        eb.steer(pipe, {f"{MID}/output-valu/1": 1})


def test_a_fine_tune_is_a_transfer_and_another_checkpoint_is_foreign(
    tmp_path: Path, tiny_checkpoint: Path, bank: eb.DirectionSet
) -> None:
    direction = bank[f"{MID}/output-value/0"]
    pipe = open_pipeline(tiny_checkpoint)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipe.unet.get_submodule(MID).parameters():
            parameter.add_(0.1 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    assert eb.steer(pipe, {direction: 1.0}).terms[0].match.startswith("transfer 0.9")

    other = open_pipeline(make_checkpoint(tmp_path / "other", seed=1))
    with pytest.raises(MatchError, match="no direction of this pipeline's weights"):
        eb.steer(other, {direction: 1.0})
    before = draw(other)
    with eb.steer(other, {direction: 1.0}, force=True):
        assert not torch.equal(draw(other), before)


def test_a_set_of_another_width_or_architecture_is_refused(tmp_path: Path, bank: eb.DirectionSet) -> None:
    wider = open_pipeline(make_checkpoint(tmp_path / "wider", widths=(16, 48)))
    with pytest.raises(MatchError, match="32 wide, the pipeline's layer is 48 wide"):
        eb.steer(wider, {bank[f"{MID}/output-value/0"]: 1.0}, force=True)
    plain = open_pipeline(make_checkpoint(tmp_path / "plain", attention=False))
    with pytest.raises(MatchError, match="has no mid_block"):
        eb.steer(plain, {bank[f"{MID}/output-value/0"]: 1.0}, force=True)


def test_a_label_with_a_slash_keeps_its_polarity(pipe: Any, bank: eb.DirectionSet) -> None:
    from datetime import datetime, timezone

    from eigenbank.schemas import Label

    direction = bank[f"{MID}/output-value/0"]
    label = Label(text="beard/stubble", polarity=-1, source="human:ann", created=datetime.now(timezone.utc))
    named = bank.labelled({direction.id: (label,)})
    assert eb.steer(pipe, {"beard/stubble": 1.0}, bank=named).terms[0].vector @ direction.vector < 0


def test_an_empty_bank_is_not_replaced_by_the_catalogs(pipe: Any, bank: eb.DirectionSet) -> None:
    empty = bank.replaced(bank.manifest.model_copy(update={"directions": ()}))
    with pytest.raises(UnknownNameError):
        eb.steer(pipe, {"smile": 1.0}, bank=empty)


def test_a_refused_scale_changes_nothing(pipe: Any, bank: eb.DirectionSet) -> None:
    first, second = (bank[f"{MID}/output-value/{rank}"] for rank in (0, 1))
    with eb.steer(pipe, {first: [1.0, 2.0], second: [0.0, 1.0]}) as handle:
        before = draw(pipe, 2)
        for scale, key in ((float("nan"), None), ("x", None), ([1.0, 2.0], None), ([1.0, 2.0, 3.0], first.id)):
            with pytest.raises(SteerError):
                handle.set_scale(scale, key)
        assert torch.equal(draw(pipe, 2), before)


def test_scales_are_not_spread_over_a_larger_batch(pipe: Any, bank: eb.DirectionSet) -> None:
    with eb.steer(pipe, {bank[f"{MID}/output-value/0"]: [1.0, 2.0]}), pytest.raises(MatchError, match="2 scales"):
        draw(pipe, 4)


def test_a_window_follows_the_scheduler_the_pipeline_has_now(pipe: Any, bank: eb.DirectionSet) -> None:
    from diffusers import DDIMScheduler

    handle = eb.steer(pipe, {bank[f"{MID}/value@0.5-1/0"]: 1.0})
    active: list[bool] = []
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    with handle:
        listening = pipe.unet.conv_out.register_forward_hook(
            lambda *_: active.append(not handle.parts[0].sites[0].additions[0].idle)
        )
        sample(pipe, [0], 6)
        listening.remove()
    assert active == [False] * 3 + [True] * 3


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 3e38, 10**400, "much", [], [[1.0]]])
def test_a_scale_that_is_no_number_is_refused(scale: Any, pipe: Any, bank: eb.DirectionSet) -> None:
    with pytest.raises(SteerError, match="the scale of"):
        eb.steer(pipe, {bank[f"{MID}/output-value/0"]: scale})


def test_an_edit_of_nothing_and_of_no_pipeline_is_refused(pipe: Any, bank: eb.DirectionSet) -> None:
    with pytest.raises(SteerError, match="at least one direction"):
        eb.steer(pipe, {})
    with pytest.raises(SteerError, match="no denoiser"):
        eb.steer(object(), {bank[f"{MID}/output-value/0"]: 1.0})
