"""Original-layout files of well-known checkpoints: known by their keys, read by their rows, nothing else of them."""

import json
import pickle
from pathlib import Path
from typing import Any

import original
import pytest
import torch
import zoo
from hub.fixtures import Worker
from hub.server import Hub
from making import Bomb, write_sparse
from safetensors.torch import save_file

from eigenbank.builders.build import build
from eigenbank.builders.checkpoints.folder import open_folder
from eigenbank.builders.checkpoints.single_file import open_file
from eigenbank.builders.checkpoints.source import Piece, WeightSource
from eigenbank.schemas import Part
from eigenbank.schemas.errors import SourceError

TINY = {
    "_class_name": "UNet2DConditionModel", "sample_size": 16, "block_out_channels": [32, 64], "layers_per_block": 2,
    "norm_num_groups": 8, "cross_attention_dim": 48, "attention_head_dim": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip
SDXL = {
    **TINY, "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80, "transformer_layers_per_block": [2, 1],
}  # fmt: skip
SD2 = {**TINY, "cross_attention_dim": 1024, "use_linear_projection": True}
SD3 = {
    "_class_name": "SD3Transformer2DModel", "num_layers": 2, "attention_head_dim": 64, "num_attention_heads": 24,
    "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
    "sample_size": 128, "in_channels": 16, "out_channels": 16,
}  # fmt: skip
FLUX = {"_class_name": "FluxTransformer2DModel", "num_layers": 1, "num_single_layers": 1, "guidance_embeds": True}


def unet_file(folder: Path, config: dict[str, Any], *more: str) -> tuple[Path, Path]:
    """A U-Net in CompVis' layout beside a text encoder and a VAE, and the same in diffusers' layout."""
    names = original.ldm_unet(config)
    wanted = {theirs for name, (theirs, _) in names.items() if ".attn1." in name or ".norm1." in name}
    others = [
        "first_stage_model.decoder.conv_in.weight",
        "cond_stage_model.transformer.text_model.final_layer_norm.bias",
    ]
    shapes = dict(names.values()) | dict.fromkeys([*others, *more], (4, 4))
    write_sparse(folder / "model.safetensors", shapes, wanted.__contains__)
    ordered = {name: shape for name, (_, shape) in names.items()} | dict.fromkeys([*others, *more], (4, 4))
    plain = folder / "plain"
    write_sparse(plain / "diffusion_pytorch_model.safetensors", ordered, lambda n: n in names and names[n][0] in wanted)
    (plain / "config.json").write_text(json.dumps(config))
    return folder / "model.safetensors", plain


def read(source: WeightSource, *names: str) -> list[torch.Tensor]:
    return source.read([Part(tensor=name) for name in names])


XL_KEY = "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"
UNETS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (TINY, ()),
    "stabilityai/stable-diffusion-2-1": (SD2, ()),
    "stabilityai/stable-diffusion-xl-base-1.0": (SDXL, (XL_KEY,)),
}
"""The repository diffusers names for a layout → a tiny config of the kind, and a key the layout is known by."""


def given(folder: Path, config: dict[str, Any]) -> str:
    """A config.json to be given with `config=`."""
    path = folder / "given.json"
    path.write_text(json.dumps(config))
    return str(path)


@pytest.mark.parametrize(("config", "more"), UNETS.values(), ids=["SD1", "SD2", "SDXL"])
def test_a_unet_file_is_built_like_its_folder(config: dict[str, Any], more: tuple[str, ...], tmp_path: Path) -> None:
    file, plain = unet_file(tmp_path, config, *more)
    single = build(open_file(file, config=given(tmp_path, config)), "a/b", top_k=2)
    folder = build(open_folder(plain), "a/b", top_k=2)
    assert list(single.layers) == list(folder.layers)
    assert all(torch.equal(single[direction.id].vector, direction.vector) for direction in folder)
    assert single.layers == folder.layers


def test_an_sd3_file_gives_the_image_side_of_its_joint_blocks(tmp_path: Path) -> None:
    file = tmp_path / "sd3_medium.safetensors"
    fused = f"{original.LDM}joint_blocks.1.x_block.attn.qkv.weight"
    write_sparse(file, original.sd3(depth=2), lambda name: name == fused)
    source = open_file(file, config=given(tmp_path, SD3))
    whole = stored(source, fused)
    for part, got in enumerate(read(source, *(f"transformer_blocks.1.attn.to_{role}.weight" for role in "qkv"))):
        assert torch.equal(got, whole[part * 1536 : (part + 1) * 1536])
        assert got.abs().sum() > 0


def test_a_flux_file_gives_the_rows_of_its_fused_projections(tmp_path: Path) -> None:
    file = tmp_path / "flux1-dev.safetensors"
    fused = {"": "double_blocks.0.img_attn.qkv.weight", "single_": "single_blocks.0.linear1.weight"}
    write_sparse(file, original.flux(double=1, single=1), lambda name: name in fused.values())
    source = open_file(file, config=given(tmp_path, FLUX))
    for prefix, name in fused.items():
        whole = stored(source, name)
        before = source.bytes_read
        got = read(source, *(f"{prefix}transformer_blocks.0.attn.to_{role}.weight" for role in "qkv"))
        assert all(torch.equal(each, whole[n * 3072 : (n + 1) * 3072]) for n, each in enumerate(got))
        # Of the fused projection of a single block the MLP's rows stay unread.
        assert source.bytes_read - before == 3 * 3072 * 3072 * 2


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in zoo.FAST else pytest.mark.slow) for kind in zoo.CONFIGS]
)
def test_a_file_of_diffusers_own_names_is_read_whatever_its_class_and_prefix(
    kind: str, prefix: str, tmp_path: Path
) -> None:
    model = zoo.make(kind)
    save_file({f"{prefix}{name}": each.contiguous() for name, each in model.state_dict().items()}, tmp_path / "it.safetensors")  # fmt: skip
    source = open_file(tmp_path / "it.safetensors", config=given(tmp_path, {**model.config, "_class_name": kind}))
    parts = [part for layer in zoo.layers_of(model) for part in layer.tensors.values()]
    assert parts
    for part, got in zip(parts, source.read(parts), strict=True):
        assert torch.equal(got, part.take(model.get_parameter(part.tensor))), part.tensor


def stored(source: WeightSource, name: str) -> torch.Tensor:
    return source.rows([Piece(name, 0, source.headers[name].shape[0])])[0]


def test_a_layout_is_known_by_its_keys_and_its_config_comes_from_the_hub(
    shop: Hub, worker: Worker, tmp_path: Path
) -> None:
    files = {
        repo: unet_file(tmp_path / f"{n}", config, *more)[0] for n, (repo, (config, more)) in enumerate(UNETS.items())
    }
    for repo, config, shapes in (
        ("stabilityai/stable-diffusion-3-medium-diffusers", SD3, original.sd3(depth=2)),
        ("black-forest-labs/FLUX.1-dev", FLUX, original.flux(double=1, single=1)),
    ):
        files[repo] = tmp_path / f"{config['_class_name']}.safetensors"
        write_sparse(files[repo], shapes, lambda _name: False)
        shop.put(repo, {"transformer/config.json": json.dumps(config).encode()})
    for repo, (config, _) in UNETS.items():
        shop.put(repo, {"unet/config.json": json.dumps(config).encode()})
    for repo, file in files.items():
        done = worker.run("build", "--dry-run", str(file), "--format", "json")
        assert done.code == 0, (repo, done.err)
        names = [row["layer"] for row in json.loads(done.out)]
        assert len(names) >= 2
        assert (worker.client.home / "hf" / "hub" / f"models--{repo.replace('/', '--')}").is_dir()
        if repo in UNETS:
            assert all(name.endswith("attn1") for name in names)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_and_not_run(suffix: str, zipped: bool, tmp_path: Path) -> None:
    bomb = Bomb(tmp_path / "ran")
    file = tmp_path / f"model{suffix}"
    torch.save({"x": bomb}, file) if zipped else file.write_bytes(pickle.dumps(bomb))
    with pytest.raises(SourceError, match=r"pickle.*Nothing of it was run"):
        open_file(file)
    assert not (tmp_path / "ran").exists()


def test_a_file_inside_a_repository_is_read_by_ranges(shop: Hub, worker: Worker, tmp_path: Path) -> None:
    file, _ = unet_file(tmp_path, TINY)
    config = {"unet/config.json": json.dumps(TINY).encode()}
    shop.put("stable-diffusion-v1-5/stable-diffusion-v1-5", config)
    commit = shop.put("me/mix", {"versions/mix.safetensors": file})
    out = str(tmp_path / "set")
    done = worker.run("build", "me/mix/versions/mix.safetensors", "--top-k", "1", "--out", out, "--format", "json")
    missing = worker.run("build", "--dry-run", "me/mix/versions/none.safetensors")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)) == 6
    assert "bytes came over the network" in done.err
    checkpoint = json.loads((tmp_path / "set" / "manifest.json").read_text())["checkpoint"]
    assert (checkpoint["model_id"], checkpoint["revision"]) == ("me/mix--mix", commit)
    assert missing.code == 1
    assert "me/mix holds no versions/none.safetensors" in missing.err
