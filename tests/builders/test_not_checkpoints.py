"""Files that are no checkpoint are called what they are; prefixes that tools leave on names are read; scales are understood or refused."""

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from making import rewrite_json
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

import eigenbank as eb
from eigenbank.builders.checkpoints.folder import open_folder
from eigenbank.builders.discovery.families import find_layers
from eigenbank.schemas.errors import EigenbankError

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net with text, in a folder of its own. Not to be changed."""
    import textpipes

    folder = tmp_path_factory.mktemp("plain") / "unet"
    textpipes.pipeline("stable-diffusion").unet.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain, tmp_path / "unet")


def weights(folder: Path) -> Path:
    return folder / "diffusion_pytorch_model.safetensors"


def zip_of(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("model.safetensors", b"0" * 100)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 3438167540\n"
BYTES: dict[str, tuple[Callable[[Path], object], str]] = {
    "lfs": (lambda path: path.write_bytes(LFS), r"Git LFS pointer.*git lfs pull"),
    "page": (lambda path: path.write_bytes(b"\n<!DOCTYPE html><html><body>Log in</body>"), "web page"),
    "answer": (lambda path: path.write_bytes(b'{"error":"Repository not found"}'), "text, such as a server answers with"),
    "refusal": (lambda path: path.write_bytes(b"Access to model x is restricted."), "text, such as a server answers with"),
    "zip": (zip_of, "zip archive"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is a pickle"),
    "gguf": (lambda path: path.write_bytes(b"GGUF" + bytes(100)), "GGUF"),
    "empty": (lambda path: path.write_bytes(b""), "an empty file"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1000]), r"truncated: of \d+ bytes of tensors it holds \d+"),
}  # fmt: skip


@pytest.mark.parametrize("given", ["folder", "file"])
@pytest.mark.parametrize("name", BYTES)
def test_a_file_that_is_no_safetensors_is_called_what_it_is(name: str, given: str, folder: Path) -> None:
    write, message = BYTES[name]
    write(weights(folder))
    with pytest.raises(EigenbankError, match=message):
        eb.build(str(folder if given == "folder" else weights(folder)))


def test_a_pointer_in_place_of_a_config_or_a_pickle_is_called_that(folder: Path) -> None:
    weights(folder).rename(folder / "diffusion_pytorch_model.bin").write_bytes(LFS)
    with pytest.raises(EigenbankError, match="git lfs pull"):
        eb.build(str(folder))
    (folder / "config.json").write_bytes(LFS)
    with pytest.raises(EigenbankError, match="git lfs pull"):
        eb.build(str(folder))


FOLDERS = {
    "diffusion_flax_model.msgpack": "Flax",
    "openvino_model.xml": "OpenVINO",
    "model.onnx": "ONNX",
    "pytorch_lora_weights.safetensors": "LoRA",
    "flux-Q4.gguf": "GGUF",
    "diffusion_pytorch_model-00001-of-00002.bin": r"\.bin of several shards.*use_safetensors=False",
    "sd15.safetensors": "Give that file itself",
}


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_another_kind_is_called_that(name: str, config: bool, folder: Path) -> None:
    weights(folder).rename(folder / name)
    if not config:
        (folder / "config.json").unlink()
    with pytest.raises(EigenbankError, match=FOLDERS[name]):
        eb.build(str(folder))


def lora(rank: int = 2) -> Tensors:
    found: Tensors = {}
    for layer in ("down_blocks_1_attentions_0", "mid_block_attentions_0"):
        stem = f"lora_unet_{layer}_transformer_blocks_0_attn1_to_q"
        found |= {f"{stem}.lora_down.weight": torch.ones(rank, 32), f"{stem}.lora_up.weight": torch.ones(32, rank)}
        found[f"{stem}.alpha"] = torch.tensor(4.0)
    return found


def vae() -> Tensors:
    import textpipes

    return dict(textpipes.vae().state_dict())


def text_encoder() -> Tensors:
    import tiny_pipelines

    return dict(tiny_pipelines.clip(8).state_dict())


def nf4() -> Tensors:
    stem = "transformer_blocks.0.attn.to_q.weight"
    return {
        stem: torch.zeros(64, 1, dtype=torch.uint8), f"{stem}.absmax": torch.ones(2),
        f"{stem}.quant_state.bitsandbytes__nf4": torch.zeros(10, dtype=torch.uint8),
    }  # fmt: skip


FILES: dict[str, tuple[Callable[[], Tensors], str]] = {
    "lora": (lora, r"a LoRA.*lora=FILE"),
    "peft": (lambda: {f"unet.down.attn1.to_q.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}, "a LoRA"),
    "lokr": (lambda: {"lora_unet_mid.lokr_w1": torch.ones(2, 2), "lora_unet_mid.alpha": torch.ones(())}, "a LoRA"),
    "vae": (vae, "a VAE alone"),
    "original vae": (lambda: {f"first_stage_model.{key}": value for key, value in vae().items()}, "a VAE alone"),
    "text encoder": (text_encoder, "a text encoder alone"),
    "t5": (lambda: {"shared.weight": torch.ones(4, 4), "encoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(4, 4)}, "a text encoder alone"),
    "ip-adapter": (lambda: {"image_proj.proj.weight": torch.ones(2), "ip_adapter.1.to_k_ip.weight": torch.ones(2)}, "an IP-Adapter"),
    "controlnet": (lambda: {"control_model.input_blocks.0.0.weight": torch.ones(2)}, "a ControlNet"),
    "diffusers' controlnet": (lambda: {"controlnet_down_blocks.0.weight": torch.ones(2), "conv_in.weight": torch.ones(2)}, "a ControlNet"),
    "embedding": (lambda: {"emb_params": torch.ones(4, 768)}, r"an embedding \(textual inversion\)"),
    "sdxl embedding": (lambda: {"clip_g": torch.ones(1, 4), "clip_l": torch.ones(1, 4)}, r"an embedding \(textual inversion\)"),
    "motion module": (lambda: {"down_blocks.0.motion_modules.0.proj.weight": torch.ones(2)}, "AnimateDiff"),
    "nf4": (nf4, r"bitsandbytes \(NF4"),
}  # fmt: skip


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_other_tensors_is_called_what_it_is(name: str, config: bool, plain: Path, tmp_path: Path) -> None:
    made, message = FILES[name]
    save_file({key: value.contiguous() for key, value in made().items()}, tmp_path / "given.safetensors")
    with pytest.raises(EigenbankError, match=message):
        eb.build(str(tmp_path / "given.safetensors"), config=str(plain) if config else None)


@pytest.mark.parametrize(
    ("config", "message"),
    [({"_class_name": "AutoencoderKL"}, "a VAE alone"), ({"architectures": ["CLIPTextModel"]}, "CLIPTextModel.*text encoder")],
)  # fmt: skip
def test_a_folder_of_another_component_is_called_that(config: dict[str, Any], message: str, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EigenbankError, match=message):
        eb.build(str(folder))


def test_weights_saved_with_a_lora_still_attached_are_refused_by_that_name(tmp_path: Path) -> None:
    import textpipes

    unet = textpipes.pipeline("stable-diffusion").unet
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    unet.fuse_lora()
    unet.save_pretrained(tmp_path / "fused")
    with pytest.raises(EigenbankError, match=r"base_layer.*unload_lora_weights"):
        eb.build(str(tmp_path / "fused"))


@pytest.mark.parametrize("given", ["folder", "file"])
@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.",
        "module.",
        "module._orig_mod.",
        "model.diffusion_model.",
        "module.model.diffusion_model.",
        "diffusion_model.",
    ],
)
def test_prefixes_of_the_same_names_are_read(prefix: str, given: str, plain: Path, folder: Path) -> None:
    save_file({prefix + name: tensor for name, tensor in load_file(weights(plain)).items()}, weights(folder))
    expected = eb.build(str(plain), recipes="value", top_k=1, layers="mid*")
    found = eb.build(str(folder if given == "folder" else weights(folder)), recipes="value", top_k=1, layers="mid*")
    assert all(torch.equal(found[each.id].vector, each.vector) for each in expected)


def is_projection(name: str, tensor: Tensor) -> bool:
    return tensor.ndim == 2 and ".attn1.to_" in name and name.endswith(".weight")


def quantised(folder: Path, change: Callable[[str, Tensor], Tensors]) -> None:
    tensors: Tensors = {}
    for name, tensor in load_file(weights(folder)).items():
        tensors |= change(name, tensor) if is_projection(name, tensor) else {name: tensor}
    save_file(tensors, weights(folder))


def eight(tensor: Tensor) -> tuple[Tensor, Tensor]:
    scale = tensor.abs().amax(1, keepdim=True) / 448
    return (tensor / scale).to(torch.float8_e4m3fn), scale


def beside(ending: str, scale: Callable[[Tensor], Tensor] = lambda each: each) -> Callable[[str, Tensor], Tensors]:
    """8-bit floats with scales under a name: `{stem}`, the layer's, or `{name}`, the weight's, with an ending."""

    def change(name: str, tensor: Tensor) -> Tensors:
        small, factor = eight(tensor)
        return {name: small, ending.format(stem=name.removesuffix(".weight"), name=name): scale(factor)}

    return change


STRANGE = {
    "another name": beside("{stem}.scale"),
    "below the weight": beside("{name}.scale"),
    "an underscore": beside("{stem}_scale"),
    "no word for it": beside("{stem}.factor"),
    "far away": beside("scales.{stem}"),
    "mxfp8 as bytes": beside("{stem}.weight_scale", lambda each: each.repeat(1, 2).to(torch.uint8)),
    "mxfp8": beside("{stem}.weight_scale", lambda each: each.repeat(1, 2).to(torch.float8_e8m0fnu)),
    "an empty scale": beside("{stem}.weight_scale", lambda _each: torch.zeros(0)),
    "of no blocks": beside("{stem}.weight_scale", lambda _each: torch.ones(9, 5)),
    "of blocks that may be of any size": beside("{stem}.weight_scale", lambda _each: torch.ones(3, 1)),
    "too many": beside("{stem}.weight_scale", lambda each: torch.ones(3 * len(each))),
    "a second one": lambda name, tensor: {**beside("{stem}.weight_scale")(name, tensor), f"{name}_scale_2": torch.ones(())},
    "of half precision": lambda name, tensor: {name: tensor.half(), f"{name}_scale": torch.ones(())},
    "int8": lambda name, tensor: {name: (tensor * 100).to(torch.int8), f"{name.removesuffix('weight')}scale": torch.ones(())},
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_weights_with_what_looks_like_a_scale_are_refused_where_it_is_not_understood(name: str, folder: Path) -> None:
    quantised(folder, STRANGE[name])
    with pytest.raises(EigenbankError, match=r"scale|int8"):
        eb.build(str(folder), recipes="value", top_k=1)


@pytest.mark.parametrize(
    "change",
    [
        beside("{stem}.scale_weight"),
        beside("{stem}.weight_scale", lambda each: each.flatten()),
        lambda name, tensor: {
            name: (tensor / 2).to(torch.float8_e4m3fn), f"{name}_scale": torch.full((len(tensor) // 8, tensor.shape[1] // 8), 2.0),
        },
        lambda name, tensor: {**beside("{stem}.weight_scale")(name, tensor), f"{name.removesuffix('weight')}input_scale": torch.ones(())},
    ],
    ids=["scale_weight", "a row", "a block", "with an input scale"],
)  # fmt: skip
def test_scales_that_are_understood_are_applied(change: Callable[[str, Tensor], Tensors], folder: Path) -> None:
    expected = load_file(weights(folder))
    quantised(folder, change)
    source = open_folder(folder)
    for layer in find_layers(source).layers:
        part = layer.tensors["value"]
        (found,) = source.read([part])
        torch.testing.assert_close(found, expected[part.tensor], atol=0.05, rtol=0.1)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_are_built_where_an_older_single_file_lies_beside_them(variant: str | None, tmp_path: Path) -> None:
    import textpipes
    from diffusers import UNet2DConditionModel

    unet = textpipes.pipeline("stable-diffusion").unet
    unet.save_pretrained(tmp_path, variant=variant)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    unet.save_pretrained(tmp_path, variant=variant, max_shard_size="100KB")
    loaded = UNet2DConditionModel.from_pretrained(tmp_path, variant=variant)
    source = open_folder(tmp_path)
    for layer in find_layers(source).layers:
        part = layer.tensors["value"]
        assert torch.equal(source.read([part])[0], loaded.get_parameter(part.tensor))


def test_a_config_of_quantisation_is_named_before_its_tensors(folder: Path) -> None:
    rewrite_json(folder / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(EigenbankError, match="quantised by bitsandbytes"):
        eb.build(str(folder))
