"""What is no whole, sane checkpoint is refused with a message that says what was found."""

import json
import pickle
import resource
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import textpipes
import torch
from making import Bomb, make_checkpoint, rewrite_json
from safetensors.torch import load_file, save_file

from eigenbank.builders.build import build
from eigenbank.builders.checkpoints.folder import open_folder
from eigenbank.builders.checkpoints.single_file import open_file
from eigenbank.builders.discovery import fake_weights
from eigenbank.registry.sets.tensors import TensorFileError
from eigenbank.schemas.errors import EigenbankError, SourceError


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ({}, "nowhere", "no such folder"),
        ({"file": "x"}, "file", "is a file"),
        ({}, "", "no diffusers checkpoint"),
        ({"model_index.json": '{"_class_name": "X", "vae": ["diffusers", "AutoencoderKL"]}'}, "", "without a denoiser"),
    ],
)
def test_a_folder_that_is_no_checkpoint(files: dict[str, str], path: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(SourceError, match=message):
        open_folder(folder / path)


def test_an_old_pipeline_keeps_its_only_model_beside_its_index(tmp_path: Path, tiny_checkpoint: Path) -> None:
    flat = shutil.copytree(tiny_checkpoint / "unet", tmp_path / "flat")
    shutil.copy(tiny_checkpoint / "model_index.json", flat)
    source = open_folder(flat)
    assert source.component == ""
    assert source.headers.keys() == open_folder(tiny_checkpoint).headers.keys()


def test_a_subfolder_can_be_asked_for(tmp_path: Path, tiny_checkpoint: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "two")
    shutil.copytree(folder / "unet", folder / "unet_2")
    assert open_folder(folder, subfolder="unet_2").component == "unet_2"
    assert open_folder(folder).component == "unet"
    with pytest.raises(SourceError, match="no subfolder 'unet_3'"):
        open_folder(folder, subfolder="unet_3")


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "[" * 100_000], ids=["cut", "list", "string", "deep"])
def test_a_config_that_is_no_object(text: str, weights_file: Path) -> None:
    (weights_file.parent / "config.json").write_text(text)
    with pytest.raises(SourceError, match=r"config\.json"):
        open_folder(weights_file.parent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "os"}, "is a os"),
        ({"block_out_channels": [3, 5]}, "cannot make"),
        ({"block_out_channels": [16, 48]}, "asks for"),
    ],
)
def test_a_config_that_is_not_the_checkpoint_s(changes: dict[str, object], message: str, weights_file: Path) -> None:
    rewrite_json(weights_file.parent / "config.json", **changes)
    with pytest.raises(SourceError, match=message):
        build(open_folder(weights_file.parent), "a/b")


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 5000, -1])
def test_truncated_weights(kept: int, weights_file: Path) -> None:
    weights_file.write_bytes(weights_file.read_bytes()[:kept])
    with pytest.raises(TensorFileError, match="nothing was read"):
        open_folder(weights_file.parent)


@pytest.mark.parametrize("opened", [lambda path: open_folder(path.parent), open_file], ids=["folder", "file"])
def test_a_header_longer_than_memory(opened: Callable[[Path], object], weights_file: Path) -> None:
    weights_file.write_bytes(struct.pack("<Q", 2**63) + weights_file.read_bytes()[8:])
    with pytest.raises(TensorFileError, match="9223372036854775808"):
        opened(weights_file)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"data_offsets": [0, 10**12]}, "truncated"),
        ({"data_offsets": [-4, 0]}, "truncated"),
        ({"shape": [10**9, 10**9]}, "bytes long"),
        ({"dtype": "F64"}, "bytes long"),
        ({"dtype": 5, "shape": "x"}, "malformed"),
        ({"data_offsets": [1]}, "malformed"),
        ({"shape": None}, "malformed"),
        ({"shape": [float("inf"), 1]}, "malformed"),
        ({"data_offsets": [0, float("-inf")]}, "malformed"),
    ],
)
def test_headers_that_lie(change: dict[str, object], found: str, weights_file: Path) -> None:
    data = weights_file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    name = next(name for name in header if name.endswith("to_q.weight"))
    header[name].update(change)
    text = json.dumps(header).encode()
    weights_file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    with pytest.raises(TensorFileError, match=found):
        open_folder(weights_file.parent)


def test_overlapping_tensors(weights_file: Path) -> None:
    header = {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
    }
    text = json.dumps(header).encode()
    weights_file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(12))
    with pytest.raises(TensorFileError, match="overlaps"):
        open_folder(weights_file.parent)


def test_weights_that_are_not_finite(weights_file: Path) -> None:
    tensors = load_file(weights_file)
    tensors["mid_block.attentions.0.to_v.weight"][3, 3] = torch.nan
    save_file(tensors, weights_file)
    with pytest.raises(SourceError, match=r"mid_block\.attentions\.0\.to_v\.weight holds values that are not finite"):
        build(open_folder(weights_file.parent), "a/b")


def test_a_layer_that_the_file_lacks(weights_file: Path) -> None:
    tensors = load_file(weights_file)
    del tensors["mid_block.attentions.0.to_v.weight"]
    save_file(tensors, weights_file)
    with pytest.raises(SourceError, match="lacks"):
        build(open_folder(weights_file.parent), "a/b")


def test_shards_give_what_one_file_gives(tiny_checkpoint: Path, weights_file: Path) -> None:
    from diffusers import UNet2DModel

    unet = UNet2DModel.from_pretrained(weights_file.parent, low_cpu_mem_usage=False)
    shutil.rmtree(weights_file.parent)
    unet.save_pretrained(weights_file.parent, max_shard_size="40KB")
    assert len(list(weights_file.parent.glob("*.safetensors"))) > 2
    sharded, whole = (build(open_folder(folder), "a/b", top_k=2) for folder in (weights_file.parent, tiny_checkpoint))
    assert all(torch.equal(sharded[direction.id].vector, direction.vector) for direction in whole)

    shard = sorted(weights_file.parent.glob("*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(SourceError, match=shard.name):
        open_folder(weights_file.parent)


@pytest.mark.parametrize("shard", ["../../../etc/passwd", "/etc/passwd", "a/../b"])
def test_an_index_that_points_elsewhere(shard: str, weights_file: Path) -> None:
    weights_file.unlink()
    index = weights_file.parent / f"{weights_file.name}.index.json"
    index.write_text(json.dumps({"weight_map": {"x": shard}}))
    with pytest.raises(SourceError, match="names the shard"):
        open_folder(weights_file.parent)


def test_a_pickle_named_safetensors_is_not_run(weights_file: Path, tmp_path: Path) -> None:
    weights_file.write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(EigenbankError):
        open_folder(weights_file.parent)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"layers_per_block": 10**9},
        {"block_out_channels": [16] * 10**6, "down_block_types": ["DownBlock2D"] * 10**6, "up_block_types": ["UpBlock2D"] * 10**6},
        {"block_out_channels": [16, 32 * 10**5]},
        {"in_channels": 10**12},
    ],
    ids=["layers", "blocks", "width", "channels"],
)  # fmt: skip
def test_a_config_without_bounds_is_refused_in_bounded_memory(changes: dict[str, object], weights_file: Path) -> None:
    rewrite_json(weights_file.parent / "config.json", **changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SourceError):
        build(open_folder(weights_file.parent), "a/b")
    # In kilobytes on Linux, in bytes on a Mac.
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 2 * 2**30


@pytest.mark.parametrize(
    "name", ["", "unet", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "model_index.json"]
)
def test_links_in_a_circle_inside_a_checkpoint_are_refused(name: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "linked")
    target = folder / name if name else folder
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    target.symlink_to(target.name)
    with pytest.raises(SourceError):
        build(open_folder(folder), "a/b")


def stored_as(weights_file: Path, dtype: torch.dtype) -> None:
    save_file({name: tensor.to(dtype) for name, tensor in load_file(weights_file).items()}, weights_file)


def test_float64_weights_give_the_directions_of_their_float32_form(tiny_checkpoint: Path, weights_file: Path) -> None:
    stored_as(weights_file, torch.float64)
    found, expected = (build(open_folder(folder), "a/b", top_k=4) for folder in (weights_file.parent, tiny_checkpoint))
    assert all(torch.equal(found[direction.id].vector, direction.vector) for direction in expected)
    assert [layer.digests for layer in found.layers.values()] == [layer.digests for layer in expected.layers.values()]


def test_eight_bit_weights_are_built_with_their_scales(weights_file: Path) -> None:
    plain, small = {}, {}
    for name, tensor in load_file(weights_file).items():
        plain[name] = small[name] = tensor
        if ".to_" in name and name.endswith(".weight"):
            small[name] = (tensor / 0.01).to(torch.float8_e4m3fn)
            small[f"{name.removesuffix('weight')}weight_scale"] = torch.tensor(0.01)
            plain[name] = small[name].float() * 0.01
    banks = []
    for tensors in (plain, small):
        save_file(tensors, weights_file)
        banks.append(build(open_folder(weights_file.parent), "a/b", top_k=4))
    assert all(torch.equal(banks[1][direction.id].vector, direction.vector) for direction in banks[0])


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 1e15), (torch.float64, 1e60), (torch.float32, 1e-18)])
def test_extreme_weights_give_the_same_directions(dtype: torch.dtype, factor: float, weights_file: Path) -> None:
    stored_as(weights_file, torch.float64)
    expected = build(open_folder(weights_file.parent), "a/b", top_k=2)
    tensors = load_file(weights_file)
    scaled = {name: (t * factor if ".to_" in name else t).to(dtype) for name, t in tensors.items()}
    save_file(scaled, weights_file)
    found = build(open_folder(weights_file.parent), "a/b", top_k=2)
    for direction in expected:
        if direction.record.gap is not None and direction.record.gap > 1e-4:
            assert found[direction.id].vector @ direction.vector >= 1 - 1e-6


def test_weights_beyond_what_can_be_computed_are_refused(weights_file: Path) -> None:
    tensors = {name: tensor.double() for name, tensor in load_file(weights_file).items()}
    tensors["mid_block.attentions.0.to_v.weight"] *= 1e200
    save_file(tensors, weights_file)
    with pytest.raises(SourceError, match=r"mid_block\.attentions\.0 are too large: output-value overflows float64"):
        build(open_folder(weights_file.parent), "a/b")


def test_a_norm_that_tells_no_token_length_is_left_to_calibration(weights_file: Path) -> None:
    tensors = load_file(weights_file)
    tensors["mid_block.attentions.0.group_norm.weight"] *= 1e12
    save_file(tensors, weights_file)
    layers = build(open_folder(weights_file.parent), "a/b").layers
    assert layers["mid_block.attentions.0"].lengths == {}
    assert any(layer.lengths for layer in layers.values())


@pytest.mark.parametrize("most", range(1, 16))
def test_a_config_that_is_refused_leaves_gradients_as_they_were(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the bound is met: constructors initialise weights with gradients switched off."""
    monkeypatch.setattr(fake_weights, "MAX_CALLS", most)
    with pytest.raises(SourceError, match="more layers than any denoiser"):
        fake_weights.empty_model({"_class_name": "UNet2DModel"})
    assert torch.is_grad_enabled()


def test_a_second_denoiser_is_opened_beside_the_first(tmp_path: Path) -> None:
    textpipes.wan(two=True).save_pretrained(tmp_path)
    assert [each.component for each in open_folder(tmp_path).all] == ["transformer", "transformer_2"]
    assert [each.component for each in open_folder(tmp_path, subfolder="transformer_2").all] == ["transformer_2"]


def test_an_empty_weight_is_called_that(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "checkpoint") / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    empty = {name: torch.zeros(0, each.shape[1]) for name, each in weights.items() if name.endswith("to_v.weight")}
    save_file({**weights, **empty}, path)
    with pytest.raises(
        SourceError, match=r"attentions.0.to_v.weight has shape \[0, 32\], its config.json asks for \[32, 32\]"
    ):
        build(open_folder(tmp_path / "checkpoint"), "a/b")
