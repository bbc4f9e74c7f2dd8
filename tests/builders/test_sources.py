"""What is no whole, sane checkpoint is refused with a message that says what was found."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from making import rewrite_json
from safetensors.torch import load_file, save_file

from eigenbank.builders.build import build
from eigenbank.builders.sources import open_folder
from eigenbank.registry.tensorfile import TensorFileError
from eigenbank.schemas.errors import EigenbankError, SourceError


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        open_folder(tmp_path / "nowhere")


def test_a_file_in_place_of_a_folder(weights_file: Path) -> None:
    with pytest.raises(SourceError, match="is a file"):
        open_folder(weights_file)


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no diffusers checkpoint"):
        open_folder(tmp_path)


def test_a_pipeline_without_a_denoiser(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "X", "vae": ["diffusers", "AutoencoderKL"]}')
    with pytest.raises(SourceError, match="without a denoiser"):
        open_folder(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "[" * 100_000], ids=["cut", "list", "string", "deep"])
def test_a_config_that_is_no_object(text: str, weights_file: Path) -> None:
    (weights_file.parent / "config.json").write_text(text)
    with pytest.raises(SourceError, match=r"config\.json"):
        open_folder(weights_file.parent)


def test_a_class_diffusers_does_not_know(weights_file: Path) -> None:
    rewrite_json(weights_file.parent / "config.json", _class_name="os")
    with pytest.raises(SourceError, match="is a os"):
        build(open_folder(weights_file.parent), "a/b")


def test_a_config_the_class_refuses(weights_file: Path) -> None:
    rewrite_json(weights_file.parent / "config.json", block_out_channels=[3, 5])
    with pytest.raises(SourceError, match="cannot make"):
        build(open_folder(weights_file.parent), "a/b")


def test_a_config_of_another_checkpoint(weights_file: Path) -> None:
    rewrite_json(weights_file.parent / "config.json", block_out_channels=[16, 48])
    with pytest.raises(SourceError, match="asks for"):
        build(open_folder(weights_file.parent), "a/b")


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 5000, -1])
def test_truncated_weights(kept: int, weights_file: Path) -> None:
    weights_file.write_bytes(weights_file.read_bytes()[:kept])
    with pytest.raises(TensorFileError, match="Nothing was read"):
        open_folder(weights_file.parent)


def test_a_header_longer_than_memory(weights_file: Path) -> None:
    weights_file.write_bytes(struct.pack("<Q", 2**63) + weights_file.read_bytes()[8:])
    with pytest.raises(TensorFileError, match="9223372036854775808"):
        open_folder(weights_file.parent)


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
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    weights_file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(EigenbankError):
        open_folder(weights_file.parent)
    assert not (tmp_path / "ran").exists()
