"""Under torch.compile: steering breaks no graph, and changing a scale, a schedule's step or a row does not recompile."""

from collections.abc import Iterator
from typing import Any

import pytest
import textpipes
import tiny_pipelines
import torch
import zoo

import eigenbank as eb
from eigenbank.loaders.memory import picture_bytes


class Counting:
    """A backend that runs graphs as they are and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, _inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def call_of(model: Any) -> dict[str, Any]:
    for arguments in zoo.calls(model):
        try:
            with torch.no_grad():
                model(**arguments)
        except Exception:  # arguments of another layout
            continue
        return arguments
    raise AssertionError


@pytest.mark.parametrize(
    "in_place", [pytest.param(False, id="wrapper"), pytest.param(True, id="in place", marks=pytest.mark.slow)]
)
def test_changing_a_scale_does_not_recompile(in_place: bool) -> None:
    model, counting = zoo.make("FluxTransformer2DModel"), Counting()
    bank = zoo.bank_of(model, zoo.layers_of(model))
    call = call_of(model)
    if in_place:
        model.compile(backend=counting, fullgraph=True)
        compiled: Any = model
    else:
        compiled = torch.compile(model, backend=counting, fullgraph=True)

    def run() -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = compiled(**call, return_dict=False)[0]
        return found

    before = run()
    plain = counting.graphs
    first, second = list(bank)[:2]
    with eb.steer(compiled, {first: 0.5, second: lambda done: 1.0}) as handle:
        edited = run()
        steered = counting.graphs
        assert steered > plain
        for scale in (1.0, -2.0, 0.0, 0.5):
            handle.set_scale(scale, first.id)
            run()
        assert torch.equal(run(), edited)
        handle.set_scale(0.0)
        assert torch.equal(run(), before)
        assert counting.graphs == steered
    assert not torch.equal(edited, before)
    assert torch.equal(run(), before)
    # What was compiled before the edit is used again.
    assert counting.graphs == steered


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_pipeline_is_steered_bit_for_bit_as_it_was_before() -> None:
    pipe = textpipes.stable_diffusion()
    bank = textpipes.bank_for(pipe)
    first, second = list(bank)[:2]
    edits = {first: lambda done: [1.0, done], second: -0.5}

    def drawn() -> list[torch.Tensor]:
        found = [textpipes.draw(pipe, 2)]
        for branch in ("both", "cond"):
            with eb.steer(pipe, edits, branch=branch, window=(0.3, 1)):  # type: ignore[arg-type]
                found.append(textpipes.draw(pipe, 2))
        return found

    eager = drawn()
    assert not any(torch.equal(edited, eager[0]) for edited in eager[1:])
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    assert all(torch.equal(one, other) for one, other in zip(drawn(), eager, strict=True))


@pytest.mark.filterwarnings("ignore")
def test_photos_and_sweeps_take_a_pipeline_whose_parts_are_compiled() -> None:
    pipe = tiny_pipelines.make("sd")
    bank = eb.build(pipe, top_k=1)
    first = next(iter(bank))
    photo = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))

    def drawn() -> list[torch.Tensor]:
        edited = eb.edit(pipe, photo, {first: 1.0}, bank=bank, steps=2, prompt="a").edited
        return [edited, eb.sweep(pipe, first, [1.0], bank=bank, steps=2, prompt="a").pixels]

    eager, size = drawn(), picture_bytes(pipe, 64, 64)
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    pipe.vae = torch.compile(pipe.vae, backend="eager")
    assert picture_bytes(pipe, 64, 64) == size
    assert all(torch.equal(one, other) for one, other in zip(drawn(), eager, strict=True))


@pytest.mark.slow
def test_an_eager_run_gives_the_same_edit() -> None:
    model = zoo.make("FluxTransformer2DModel")
    bank = zoo.bank_of(model, zoo.layers_of(model))
    call = call_of(model)
    with torch.no_grad(), eb.steer(model, dict.fromkeys(bank, 0.5)):
        eager = model(**call, return_dict=False)[0]
    compiled = torch.compile(model, backend=Counting())
    with torch.no_grad(), eb.steer(compiled, dict.fromkeys(bank, 0.5)):
        torch.testing.assert_close(compiled(**call, return_dict=False)[0], eager, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_whole_guided_and_scheduled_run_is_compiled_once() -> None:
    pipe, counting = textpipes.stable_diffusion(), Counting()
    bank = textpipes.bank_for(pipe)
    pipe.unet = torch.compile(pipe.unet, backend=counting)
    textpipes.draw(pipe, 2)
    plain = counting.graphs
    direction = next(iter(bank))
    with eb.steer(pipe, {direction: lambda done: [done, 1 - done]}, branch="cond") as handle:
        textpipes.draw(pipe, 2)
        steered = counting.graphs
        handle.set_scale(lambda done: [1.0, done], direction.id)
        textpipes.draw(pipe, 2, steps=5)
        assert counting.graphs == steered > plain


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_default_backend_gives_the_same_edit() -> None:
    model = zoo.make("FluxTransformer2DModel")
    bank = zoo.bank_of(model, zoo.layers_of(model))
    call = call_of(model)
    with torch.no_grad(), eb.steer(model, dict.fromkeys(bank, 0.5)) as handle:
        eager = model(**call, return_dict=False)[0]
        handle.set_scale(0.0)
        plain = model(**call, return_dict=False)[0]
    compiled = torch.compile(model)
    with torch.no_grad():
        unedited = compiled(**call, return_dict=False)[0]
        with eb.steer(compiled, dict.fromkeys(bank, 0.5)) as handle:
            edited = compiled(**call, return_dict=False)[0]
            torch.testing.assert_close(edited, eager, atol=1e-4, rtol=1e-3)
            handle.set_scale(0.0)
            torch.testing.assert_close(compiled(**call, return_dict=False)[0], plain, atol=1e-4, rtol=1e-3)
        assert torch.equal(compiled(**call, return_dict=False)[0], unedited)
