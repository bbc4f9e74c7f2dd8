"""Pipelines with two denoisers: both are built into one set, each direction edits the one it is of, one alone can be built."""

import json
from pathlib import Path
from typing import Any

import pytest
import textpipes
import tiny_pipelines
import torch

import eigenbank as eb
from eigenbank.builders.checkpoints.folder import open_folder
from eigenbank.cli.main import run
from eigenbank.loaders.active_edit import UnmetWarning
from eigenbank.loaders.lengths import measure
from eigenbank.registry.load import load
from eigenbank.registry.local import store
from eigenbank.schemas.errors import ExportError, MatchError, SourceError

pytestmark = pytest.mark.filterwarnings("ignore")
BOTH = ("transformer", "transformer_2")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipelines.make("wan")


def draw(pipe: Any, steps: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    made: torch.Tensor = pipe(
        prompt="a",
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=steps,
        generator=generator,
        output_type="latent",
    ).frames
    return made


def test_both_are_built_steered_and_left_as_they_were(pipe: Any) -> None:
    bank = eb.build(pipe, top_k=2)
    assert {layer.component for layer in bank.layers.values()} == set(BOTH)
    before = draw(pipe)
    drawn = {}
    for component in BOTH:
        name = f"{component}.blocks.0.attn1/output-value:output/0"
        with eb.steer(pipe, {name: 2.0}, bank=bank) as handle:
            assert handle.terms[0].matches == {component: "exact"}
            drawn[component] = draw(pipe)
        assert not torch.equal(drawn[component], before)
    with eb.steer(pipe, dict.fromkeys(bank, 1.0)) as handle:
        assert [part.name for part in handle.parts] == list(BOTH)
        assert [len(part.terms) for part in handle.parts] == [4, 4]
        drawn["both"] = draw(pipe)
    assert not any(torch.equal(drawn["both"], drawn[component]) for component in BOTH)
    assert torch.equal(draw(pipe), before)


def test_a_run_that_never_comes_to_the_second_says_so(pipe: Any) -> None:
    with (
        pytest.warns(UnmetWarning, match=r"transformer_2\.blocks\.0.* did nothing"),
        eb.steer(pipe, {"transformer_2.blocks.0.attn1/output-value/0": 1.0}, bank=eb.build(pipe, top_k=1)),
    ):
        draw(pipe, steps=2)


def test_of_equal_weights_each_direction_edits_its_own_alone() -> None:
    pipe = textpipes.wan(two=True)
    bank = eb.build(pipe, top_k=1)
    ran: list[str] = []
    for direction in bank:
        with eb.steer(pipe, {direction: 1.0}) as handle:
            ran += handle.terms[0].matches
    assert sorted(ran) == sorted(bank.layers[direction.layer].component for direction in bank)


@pytest.mark.parametrize("component", BOTH)
def test_one_alone_is_built_as_a_set_of_its_own(component: str, pipe: Any, tmp_path: Path) -> None:
    tiny_pipelines.save("wan", tmp_path / "wan")
    for model in (pipe, tmp_path / "wan"):
        bank = eb.build(model, component=component, top_k=1)
        assert bank.manifest.checkpoint.component == component
        assert list(bank.layers) == ["blocks.0.attn1"]
        with eb.steer(pipe, {next(iter(bank)): 1.0}, force=model is not pipe) as handle:
            assert component in handle.terms[0].matches
        assert {each.verdict for each in eb.match(bank, model)} == {"exact"}
        with pytest.raises(SourceError, match="decoder"):
            eb.build(model, component="decoder")


def test_a_folder_is_built_and_matched_as_its_pipeline(tmp_path: Path) -> None:
    textpipes.wan(two=True).save_pretrained(tmp_path)
    bank = eb.build(tmp_path, top_k=1)
    assert sorted({layer.component for layer in bank.layers.values()}) == list(BOTH)
    assert {each.verdict for each in eb.match(bank, tmp_path)} == {"exact"}
    one = eb.match(bank, tmp_path / "transformer")  # without a pipeline, the weights decide
    assert {each.verdict for each in one} == {"exact"}
    chosen = eb.build(tmp_path, layers="transformer_2.*", top_k=1)
    assert {layer.component for layer in chosen.layers.values()} == {"transformer_2"}
    with pytest.raises(MatchError, match="transformer_2, and this WanPipeline has none"):
        eb.steer(textpipes.wan(), {next(iter(chosen)): 1.0})


def test_the_command_line_builds_both_or_one(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tiny_pipelines.save("wan", tmp_path / "wan"))
    assert run(["build", folder, "--dry-run", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["layer"] for row in rows] == [f"{component}.blocks.0.attn1" for component in BOTH]
    assert rows[0]["bytes"] == rows[1]["bytes"] > 0
    assert run(["build", folder, "--model-id", "me/wan", "--top-k", "1"]) == 0
    assert [layer.component for layer in load("me/wan").layers.values()] == list(BOTH)
    assert run(["build", folder, "--model-id", "me/low", "--top-k", "1", "--layers", "transformer_2.*"]) == 0
    assert {layer.component for layer in load("me/low").layers.values()} == {"transformer_2"}
    assert run(["match", "me/wan", folder, "--format", "json"]) == 0
    assert "exact" in capsys.readouterr().out


def test_a_set_is_found_by_the_weights_of_both(home: Path) -> None:
    pipe = textpipes.wan(two=True)
    store(eb.build(pipe, top_k=1, model_id="me/wan"))
    with eb.steer(pipe, {"transformer_2.blocks.0.attn1/output-value/0": 1.0}) as handle:
        assert handle.terms[0].matches == {"transformer_2": "exact"}


def test_a_second_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    pipe = textpipes.wan(two=True)
    pipe.save_pretrained(tmp_path)
    for file in (tmp_path / "transformer_2").glob("*.safetensors"):
        file.unlink()
    with pytest.warns(UserWarning, match="transformer_2 is left out: .* holds no diffusion_pytorch_model"):
        source = open_folder(tmp_path)
    assert source.others == ()


def test_token_lengths_are_each_denoisers_own_and_a_lora_is_of_one(pipe: Any, tmp_path: Path) -> None:
    bank = measure(pipe, eb.build(pipe, top_k=1), steps=8, prompt="a", size=(32, 32), num_frames=5)
    lengths = [layer.lengths["block-output"].length for layer in bank.layers.values()]
    assert len(set(lengths)) == 2
    first, second = (f"{component}.blocks.0.attn1/output-value:output/0" for component in BOTH)
    eb.export(bank, [first], tmp_path / "first.safetensors", pipe=pipe)
    with pytest.raises(ExportError, match=r"of the pipeline's transformer_2, and a LoRA"):
        eb.export(bank, [second], tmp_path / "second.safetensors", pipe=pipe)
    with eb.steer(pipe, {second: 1.0}, bank=bank, fuse=True) as handle:
        assert handle.terms[0].matches == {"transformer_2": "exact"}
