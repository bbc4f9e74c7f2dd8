"""A build gives true eigenvectors, the same ones every time, of the layers and recipes asked for."""

from pathlib import Path

import pytest
import torch
from making import make_checkpoint

from eigenbank.builders.build import build, read_weights
from eigenbank.builders.checkpoints.folder import open_folder
from eigenbank.builders.discovery.families import find_layers
from eigenbank.registry.recipes import gram
from eigenbank.schemas import Recipe
from eigenbank.schemas.errors import SourceError, UnknownNameError

ALL_RECIPES = ("value", "output-value", "output-value:output", "query-key", "query-key:output", "qkv")


@pytest.mark.parametrize("slug", ALL_RECIPES)
def test_every_direction_is_an_eigenvector_of_the_shipped_checkpoint(slug: str, faces_checkpoint: Path) -> None:
    source = open_folder(faces_checkpoint)
    bank = build(source, "a/b", recipes=[slug], top_k=8)
    weights = {layer.name: read_weights(source, layer) for layer in find_layers(source).layers}
    assert len(bank) == 7 * 8
    for direction in bank:
        recipe = Recipe.parse(slug)
        matrix = gram(
            recipe,
            {role: w.double() for role, w in weights[direction.layer].items() if w.ndim == 2},
            bank.layers[direction.layer],
        )
        vector = direction.vector.double()
        largest = torch.linalg.eigvalsh(matrix)[-1]
        assert (matrix @ vector - direction.eigenvalue * vector).norm() <= 1e-6 * largest
        assert vector.norm() == pytest.approx(1, abs=1e-6)


def test_eigenvalues_descend_and_their_shares_are_of_the_trace(tiny_checkpoint: Path) -> None:
    bank = build(open_folder(tiny_checkpoint), "a/b", recipes=["output-value"], top_k=4096)
    for layer in bank.layers:
        found = [direction.record for direction in bank if direction.layer == layer]
        values = [record.eigenvalue for record in found]
        assert len(found) == bank.layers[layer].width
        assert values == sorted(values, reverse=True)
        assert sum(record.share for record in found) == pytest.approx(1)
        assert found[0].gap == pytest.approx((values[0] - values[1]) / values[0])


def test_a_rebuild_gives_the_same_bytes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        build(open_folder(tiny_checkpoint), "a/b").save(tmp_path / name)
    first, second = ((tmp_path / name / "directions.safetensors").read_bytes() for name in ("one", "two"))
    assert first == second


def test_windows_share_their_vectors(tiny_checkpoint: Path) -> None:
    bank = build(open_folder(tiny_checkpoint), "a/b", recipes=["output-value", "output-value@0.5-1"], top_k=3)
    layer = next(iter(bank.layers))
    assert torch.equal(bank[f"{layer}/output-value/1"].vector, bank[f"{layer}/output-value@0.5-1/1"].vector)
    assert len(bank.vectors) == len(bank.layers)


@pytest.mark.parametrize("dims", [1, 2])
def test_projections_stored_as_convolutions_give_the_same_directions(
    dims: int, tiny_checkpoint: Path, weights_file: Path
) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights_file)
    for name, tensor in tensors.items():
        if ".to_" in name and tensor.ndim == 2:
            tensors[name] = tensor.reshape(*tensor.shape, *[1] * dims)
    save_file(tensors, weights_file)
    found, expected = (build(open_folder(folder), "a/b", top_k=4) for folder in (weights_file.parent, tiny_checkpoint))
    assert all(torch.equal(found[direction.id].vector, direction.vector) for direction in expected)
    assert found.layers == expected.layers


def test_globs_choose_layers(tiny_checkpoint: Path) -> None:
    bank = build(open_folder(tiny_checkpoint), "a/b", layers=["mid_block.*"], top_k=2)
    assert set(bank.layers) == {"mid_block.attentions.0"}


def test_only_the_attention_tensors_of_the_chosen_layers_are_read(tiny_checkpoint: Path) -> None:
    source = open_folder(tiny_checkpoint)
    bank = build(source, "a/b", layers=["mid_block.*"])
    layer = bank.layers["mid_block.attentions.0"]
    assert source.bytes_read == sum(source.headers[part.tensor].size for part in layer.tensors.values())
    assert source.bytes_read < 0.1 * sum(info.size for info in source.headers.values())


def test_half_precision_weights_match_their_own_casts(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    from eigenbank.loaders.match import is_exact, live_weights
    from eigenbank.loaders.plugins import target_of

    bank = build(open_folder(tiny_checkpoint), "a/b")
    unet = UNet2DModel.from_pretrained(tiny_checkpoint / "unet", low_cpu_mem_usage=False)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        cast = unet.to(dtype=dtype) if dtype == torch.float32 else _reload(tiny_checkpoint, dtype)
        assert all(is_exact(live_weights(target_of(cast), cast, layer), layer) for layer in bank.layers.values())


def _reload(checkpoint: Path, dtype: torch.dtype) -> torch.nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel.from_pretrained(checkpoint / "unet", low_cpu_mem_usage=False, torch_dtype=dtype)


def test_weights_under_their_old_names_give_the_same_directions(tiny_checkpoint: Path, weights_file: Path) -> None:
    from safetensors.torch import load_file, save_file

    former = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = {}
    for name, tensor in load_file(weights_file).items():
        part = next((part for part in former if part in name), "")
        tensors[name.replace(part, former[part]) if part else name] = tensor
    save_file(tensors, weights_file)
    old, new = (build(open_folder(path), "a/b", top_k=4) for path in (weights_file.parent, tiny_checkpoint))
    assert [direction.id for direction in old] == [direction.id for direction in new]
    assert all(torch.equal(old[direction.id].vector, direction.vector) for direction in new)


def test_a_recipe_named_twice_is_built_once(tiny_checkpoint: Path) -> None:
    once = build(open_folder(tiny_checkpoint), "a/b", recipes=["value"], top_k=2)
    twice = build(open_folder(tiny_checkpoint), "a/b", recipes=["value", "value:input", "value@0-1"], top_k=2)
    assert [direction.id for direction in twice] == [direction.id for direction in once]


@pytest.mark.parametrize("how", [{"top_k": 0}, {"top_k": -1}, {"layers": []}, {"recipes": []}, {"device": "mps"}])
def test_asking_for_nothing_is_refused(how: dict[str, object], tiny_checkpoint: Path) -> None:
    with pytest.raises(SourceError, match="; nothing was built"):
        build(open_folder(tiny_checkpoint), "a/b", **how)  # type: ignore[arg-type]


def test_an_unknown_layer_is_refused_with_near_matches(tiny_checkpoint: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"'mid_block\.attentions\.0'"):
        build(open_folder(tiny_checkpoint), "a/b", layers=["mid_block.attention.0"])


@pytest.mark.parametrize(
    ("slug", "hint"),
    [
        ("valeu", "'value'"),
        ("value:output", "value"),
        ("outputvalue", "'output-value'"),
        ("value@0.5-0.2", "recipe"),
        ("", "MATRIX"),
    ],
)
def test_an_unknown_recipe_is_refused_with_near_matches(slug: str, hint: str, tiny_checkpoint: Path) -> None:
    with pytest.raises(UnknownNameError, match=hint):
        build(open_folder(tiny_checkpoint), "a/b", recipes=[slug])


def test_a_checkpoint_without_self_attention_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "plain", attention=False)
    with pytest.raises(SourceError, match="no self-attention"):
        build(open_folder(folder), "a/b")


def test_a_missing_cuda_device_is_said(tiny_checkpoint: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(SourceError, match="no device 'cuda'"):
        build(open_folder(tiny_checkpoint), "a/b", device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cpu_and_gpu_give_the_same_directions(faces_checkpoint: Path) -> None:
    cpu, gpu = (build(open_folder(faces_checkpoint), "a/b", device=device) for device in ("cpu", "cuda"))
    for direction in cpu:
        if direction.record.gap and direction.record.gap > 1e-4:
            assert direction.vector @ gpu[direction.id].vector >= 1 - 1e-6
