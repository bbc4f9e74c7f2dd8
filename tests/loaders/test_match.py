"""A direction is matched by the pipeline's own weights: exact, transfer, structure, foreign or incompatible."""

import csv
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import textpipes
import torch
from making import make_checkpoint
from safetensors.torch import load_file, save_file
from torch import nn

import eigenbank as eb
from eigenbank.cli.main import run
from eigenbank.loaders.match import match
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.plugins import target_of
from eigenbank.schemas.errors import MatchError, SourceError, SteerError


@pytest.fixture(scope="module")
def bank(faces_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> eb.DirectionSet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EIGENBANK_HOME", str(tmp_path_factory.mktemp("home")))
        return eb.build(str(faces_checkpoint), recipes=["output-value", "qkv"], top_k=2)


def perturb(module: nn.Module, size: float) -> None:
    """Add noise of `size` times each tensor's own spread."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.add_(size * parameter.std() * torch.randn(parameter.shape, generator=generator))


def verdicts(pipe: Any, bank: eb.DirectionSet) -> list[Any]:
    target = target_of(pipe)
    return match(target, target.denoisers["unet"], bank)


def test_the_score_of_a_fine_tune_falls_with_its_distance(faces_checkpoint: Path, bank: eb.DirectionSet) -> None:
    scores = []
    for size in (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
        pipe = open_pipeline(faces_checkpoint)
        perturb(pipe.unet, size)
        found = verdicts(pipe, bank)
        assert {each.verdict for each in found} == {"exact"} if size == 0 else all(each.score < 1 for each in found)
        scores.append(torch.tensor([each.score for each in found]))
    table = torch.stack(scores)
    assert bool((table.mean(1).diff() < 0).all())
    assert bool((table[:5].diff(dim=0) < 1e-3).all())
    assert float(table[1].min()) > 0.99
    assert {each.verdict for each in verdicts(pipe, bank)} != {"transfer"}


def test_every_direction_has_a_score_of_its_own(faces_checkpoint: Path, bank: eb.DirectionSet) -> None:
    pipe = open_pipeline(faces_checkpoint)
    perturb(pipe.unet, 0.05)
    found = verdicts(pipe, bank)
    assert len({each.score for each in found}) == len(bank)
    assert all(str(each) == f"transfer {each.score:.3f}" for each in found)
    assert [each.direction.id for each in found] == [direction.id for direction in bank]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_pipeline_in_half_precision_is_exact(
    dtype: torch.dtype, faces_checkpoint: Path, bank: eb.DirectionSet
) -> None:
    pipe = open_pipeline(faces_checkpoint).to(dtype=dtype)
    assert {each.verdict for each in verdicts(pipe, bank)} == {"exact"}


class Int8Linear(nn.Module):
    """A linear layer whose weight is kept in whole numbers, as quantisation libraries do."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = linear.weight.detach().abs().max() / 127
        self.weight = nn.Parameter((linear.weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x) * self.scale, self.bias)


def test_quantised_weights_are_matched_by_structure_and_said_to_be(tiny_checkpoint: Path, tmp_path: Path) -> None:
    bank = eb.build(str(tiny_checkpoint), recipes=["output-value"], top_k=1)
    direction = bank["mid_block.attentions.0/output-value/0"]

    def quantised(folder: Path) -> Any:
        pipe = open_pipeline(folder)
        attention = pipe.unet.mid_block.attentions[0]
        for name in ("to_q", "to_k", "to_v"):
            setattr(attention, name, Int8Linear(getattr(attention, name)))
        return pipe

    with eb.steer(quantised(tiny_checkpoint), {direction: 1.0}) as handle:
        assert handle.terms[0].match == "structure"
    with pytest.raises(MatchError, match="32 wide, the pipeline's layer is 48 wide"):
        eb.steer(quantised(make_checkpoint(tmp_path / "wider", widths=(16, 48))), {direction: 1.0})


def test_weights_that_torchao_quantised_are_steered_by_structure() -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed: pip install torchao")
    pipe = textpipes.stable_diffusion()
    direction = next(iter(textpipes.bank_for(pipe)))
    quantization.quantize_(pipe.unet, quantization.Int8WeightOnlyConfig())
    steered_by_structure(pipe, direction)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_that_bitsandbytes_quantised_are_steered_by_structure(bits: int) -> None:
    own = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes").nn
    pipe = textpipes.stable_diffusion()
    direction = next(iter(textpipes.bank_for(pipe)))
    for name, linear in list(pipe.unet.named_modules()):
        if isinstance(linear, nn.Linear) and ".attn1.to_" in name:
            size = (linear.in_features, linear.out_features, linear.bias is not None)
            made = own.Linear4bit(*size) if bits == 4 else own.Linear8bitLt(*size, has_fp16_weights=False)
            made.load_state_dict(linear.state_dict())
            pipe.unet.set_submodule(name, made.to("cpu"))
    steered_by_structure(pipe, direction)


def steered_by_structure(pipe: Any, direction: eb.Direction) -> None:
    """Look that an edit acts on quantised weights, says so, is not folded into them, and leaves no trace."""
    before = textpipes.draw(pipe, 1)
    with eb.steer(pipe, {direction: 1.0}) as handle:
        assert handle.terms[0].match == "structure"
        assert not torch.equal(textpipes.draw(pipe, 1), before)
    with (
        pytest.raises(SteerError, match=r"cannot be fused: .* is quantised"),
        eb.steer(pipe, {direction: 1.0}, site="output", fuse=True),
    ):
        pass
    assert torch.equal(textpipes.draw(pipe, 1), before)


def test_a_stored_checkpoint_that_torchao_quantised_is_matched_by_structure(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed: pip install torchao")
    import diffusers

    from eigenbank.api import match

    how = diffusers.TorchAoConfig(quantization.Int8WeightOnlyConfig())
    unet = diffusers.UNet2DModel.from_pretrained(
        tiny_checkpoint / "unet", quantization_config=how, torch_dtype=torch.float32
    )
    unet.save_pretrained(tmp_path / "quantised")
    stored = load_file(tmp_path / "quantised" / "diffusion_pytorch_model.safetensors")
    assert "mid_block.attentions.0.to_q.weight" not in stored
    eb.build(str(tiny_checkpoint), top_k=2).save(tmp_path / "set")
    found = match(str(tmp_path / "set"), str(tmp_path / "quantised"))
    assert {(each.verdict, each.reason) for each in found} == {
        ("structure", "the weights are quantised: only their shapes match")
    }
    wider = make_checkpoint(tmp_path / "wider", widths=(16, 48))
    eb.build(str(wider), top_k=2).save(tmp_path / "other")
    found = match(str(tmp_path / "other"), str(tmp_path / "quantised"))
    assert "incompatible" in {each.verdict for each in found}
    with pytest.raises(SourceError, match="is quantised by torchao"):
        eb.build(str(tmp_path / "quantised"))


def test_a_stored_checkpoint_in_whole_numbers_is_matched_by_structure(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from eigenbank.api import match

    shutil.copytree(tiny_checkpoint, tmp_path / "int8")
    path = tmp_path / "int8" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    save_file(
        {name: each.to(torch.int8) if name.endswith(".to_q.weight") else each for name, each in weights.items()}, path
    )
    eb.build(str(tiny_checkpoint), top_k=1).save(tmp_path / "set")
    assert {each.verdict for each in match(str(tmp_path / "set"), str(tmp_path / "int8"))} == {"structure"}


def test_a_score_is_that_of_the_whole_gram_matrix(faces_checkpoint: Path, bank: eb.DirectionSet) -> None:
    from eigenbank.loaders.match import live_weights, transfer_score
    from eigenbank.registry.recipes import gram

    pipe = open_pipeline(faces_checkpoint)
    perturb(pipe.unet, 0.3)
    for direction in list(bank)[:6]:
        layer = bank.layers[direction.layer]
        weights = live_weights(target_of(pipe), pipe.unet, layer)
        matrix = gram(direction.recipe, {role: each.double() for role, each in weights.items() if each.ndim > 1}, layer)
        image = matrix @ direction.vector.double()
        expected = float(image @ direction.vector.double() / image.norm())
        assert transfer_score(weights, direction.recipe, direction.vector, layer) == pytest.approx(expected, abs=1e-9)


def table(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, str]]]:
    code = run(["match", *args, "--format", "csv"])
    return code, list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_the_command_tells_exact_transfer_foreign_and_incompatible(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = eb.build(str(tiny_checkpoint), recipes=["output-value"], top_k=2).save(tmp_path / "set")
    code, rows = table([str(bank.folder), str(tiny_checkpoint)], capsys)
    assert (code, {row["verdict"] for row in rows}, len(rows)) == (0, {"exact"}, len(bank))
    pipe = open_pipeline(tiny_checkpoint)
    perturb(pipe.unet, 0.02)
    pipe.save_pretrained(tmp_path / "tuned")
    code, rows = table([str(bank.folder), str(tmp_path / "tuned")], capsys)
    assert (code, {row["verdict"] for row in rows}) == (0, {"transfer"})
    assert all(0.9 <= float(row["score"]) < 1 for row in rows)
    code, rows = table([str(bank.folder), str(make_checkpoint(tmp_path / "other", seed=1))], capsys)
    assert (code, {row["verdict"] for row in rows}) == (1, {"foreign"})
    code, rows = table([str(bank.folder), str(make_checkpoint(tmp_path / "wider", widths=(16, 48)))], capsys)
    assert (code, {row["verdict"] for row in rows}) == (1, {"incompatible"})
    assert "32 wide, the checkpoint's layer is 48 wide" in rows[0]["reason"]
    code, rows = table([str(bank.folder), str(make_checkpoint(tmp_path / "plain", attention=False))], capsys)
    assert {row["verdict"] for row in rows} == {"incompatible"}
    assert "has no mid_block" in next(row["reason"] for row in rows if row["direction"].startswith("mid_block"))
