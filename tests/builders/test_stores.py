"""Weights in other files, layouts and dtypes give the directions their plain form gives."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from making import Bomb, rewrite_json
from safetensors.torch import load_file, save_file

from eigenbank.builders.build import build
from eigenbank.builders.checkpoints.folder import open_folder
from eigenbank.builders.checkpoints.single_file import open_file
from eigenbank.builders.checkpoints.source import WeightSource
from eigenbank.schemas import Part
from eigenbank.schemas.errors import SourceError

WAN = {
    "_class_name": "WanTransformer3DModel", "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1,
    "in_channels": 4, "out_channels": 4, "text_dim": 16, "ffn_dim": 32, "freq_dim": 16,
}  # fmt: skip
HUNYUAN = {
    "_class_name": "HunyuanVideoTransformer3DModel", "in_channels": 4, "out_channels": 4, "num_attention_heads": 2,
    "attention_head_dim": 16, "num_layers": 1, "num_single_layers": 0, "num_refiner_layers": 1, "text_embed_dim": 32,
    "pooled_projection_dim": 32, "rope_axes_dim": [4, 6, 6],
}  # fmt: skip


def same(one: Any, two: Any) -> bool:
    return all(torch.equal(one[direction.id].vector, direction.vector) for direction in two)


def read(source: WeightSource, *names: str, **part: Any) -> list[torch.Tensor]:
    return source.read([Part(tensor=name, **part) for name in names])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def write(
    folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], name: str = "model.safetensors"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / name)
    return folder / name


def test_a_variant_is_read_when_named_or_when_it_is_the_only_one(tiny_checkpoint: Path, weights_file: Path) -> None:
    plain = build(open_folder(tiny_checkpoint), "a/b", top_k=2)
    half = {name: tensor.half() for name, tensor in load_file(weights_file).items()}
    save_file(half, weights_file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert same(build(open_folder(weights_file.parent), "a/b", top_k=2), plain)
    named = build(open_folder(weights_file.parent, variant="fp16"), "a/b", top_k=2)
    assert not same(named, plain)
    with pytest.raises(SourceError, match="has no variant 'bf16': it has the plain one, fp16"):
        open_folder(weights_file.parent, variant="bf16")
    weights_file.unlink()
    assert same(build(open_folder(weights_file.parent), "a/b", top_k=2), named)


def test_a_pickle_is_read_as_tensors_with_a_warning(tiny_checkpoint: Path, weights_file: Path) -> None:
    torch.save(load_file(weights_file), weights_file.with_suffix(".bin"))
    weights_file.unlink()
    source = open_folder(weights_file.parent)
    with pytest.warns(UserWarning, match="is a pickle"):
        made = build(source, "a/b", top_k=2)
    assert same(made, build(open_folder(tiny_checkpoint), "a/b", top_k=2))


def test_code_in_a_pickle_does_not_run(weights_file: Path, tmp_path: Path) -> None:
    for name, dump in (("torch", torch.save), ("plain", lambda value, path: path.write_bytes(pickle.dumps(value)))):
        folder = tmp_path / name
        shutil.copytree(weights_file.parent, folder)
        (folder / weights_file.name).unlink()
        dump({"x": Bomb(tmp_path / "ran")}, folder / "diffusion_pytorch_model.bin")  # type: ignore[operator]
        with pytest.warns(UserWarning, match="pickle"), pytest.raises(SourceError, match="nothing of it was run"):
            build(open_folder(folder), "a/b")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("scale", [torch.tensor(0.25), torch.arange(1, 5)[:, None] / 8, None])
def test_eight_bit_floats_are_scaled(dtype: torch.dtype, scale: torch.Tensor | None, tmp_path: Path) -> None:
    stored = noise(4, 6).to(dtype)
    tensors = {"a.weight": stored} | ({} if scale is None else {"a.weight_scale": scale.float()})
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (found,) = read(open_folder(tmp_path), "a.weight", rows=((1, 3),))
    expected = stored.float() * (1 if scale is None else scale)
    assert torch.equal(found, expected[1:3])


def test_a_block_of_an_eight_bit_weight_has_its_own_scale(tmp_path: Path) -> None:
    stored, scale = noise(4, 8).to(torch.float8_e4m3fn), torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    save_file({"a.weight": stored, "a.weight_scale_inv": scale}, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (found,) = read(open_folder(tmp_path), "a.weight")
    assert torch.equal(found, stored.float() * scale.repeat_interleave(2, 0).repeat_interleave(4, 1))


@pytest.mark.parametrize("name", ["model.gguf", "model.safetensors"])
def test_gguf_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(SourceError, match="is GGUF, whose quantised weights"):
        open_file(tmp_path / name)


def test_bitsandbytes_is_refused_by_name(weights_file: Path) -> None:
    rewrite_json(weights_file.parent / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(SourceError, match="is quantised by bitsandbytes"):
        build(open_folder(weights_file.parent), "a/b")


def test_rows_of_a_fused_projection_are_read_alone(tmp_path: Path) -> None:
    weight = noise(12, 4)
    save_file({"a.weight": weight, "b": torch.zeros(100)}, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    source = open_folder(tmp_path)
    (found,) = read(source, "a.weight", rows=((0, 2), (6, 8)))
    assert torch.equal(found, torch.cat([weight[:2], weight[6:8]]))
    assert source.bytes_read == 4 * 4 * 4


def test_a_wan_file_in_its_original_layout(tmp_path: Path) -> None:
    stems = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
    plain, original = {}, {}
    for number, (old, new) in enumerate(stems.items()):
        for kind, tensor in (("weight", noise(24, 24, seed=number)), ("bias", noise(24, seed=9 + number))):
            original[f"blocks.0.self_attn.{old}.{kind}"] = tensor
            plain[f"blocks.0.attn1.{new}.{kind}"] = tensor
    write(tmp_path / "folder", WAN, plain, "diffusion_pytorch_model.safetensors")
    single = write(tmp_path / "single", WAN, original)
    made = build(open_file(single), "a/b", top_k=3)
    assert list(made.layers) == ["blocks.0.attn1"]
    assert same(made, build(open_folder(tmp_path / "folder"), "a/b", top_k=3))


def test_a_fused_projection_in_its_original_layout_is_followed_to_its_rows(tmp_path: Path) -> None:
    fused = noise(96, 32)
    original = {
        "double_blocks.0.img_attn_qkv.weight": fused, "double_blocks.0.img_attn_qkv.bias": noise(96),
        "double_blocks.0.img_attn_proj.weight": noise(32, 32, seed=1), "double_blocks.0.img_attn_proj.bias": noise(32),
    }  # fmt: skip
    source = open_file(write(tmp_path / "single", HUNYUAN, original))
    query, value = read(source, "transformer_blocks.0.attn.to_q.weight", "transformer_blocks.0.attn.to_v.weight")
    assert torch.equal(query, fused[:32])
    assert torch.equal(value, fused[64:])
    assert source.bytes_read == 2 * 32 * 32 * 4


def test_a_layout_nobody_knows_is_refused(tmp_path: Path) -> None:
    save_file({"some.weight": noise(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(SourceError, match=r"`config="):
        open_file(tmp_path / "x.safetensors")
