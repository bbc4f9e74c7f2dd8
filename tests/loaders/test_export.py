"""An exported file, loaded where it is meant to go, does what `steer` does; what it could not do is refused."""

import copy
import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from textpipes import CALLS, biased, draw_image, pipeline
from torch import Tensor

import eigenbank as eb
from eigenbank.api import export_all
from eigenbank.loaders.lora import architecture, comfyui_name
from eigenbank.registry.sets.card import preview_name
from eigenbank.registry.sets.folder import file_digest, manifest_text
from eigenbank.schemas import FileEntry, TokenLength
from eigenbank.schemas.errors import EigenbankError, ExportError, MatchError, SetError

OUT = "output-value:output"
DOCS = Path(__file__).parents[2] / "docs" / "export.md"
MID = "mid_block.attentions.0"


def with_lengths(bank: eb.DirectionSet, length: float = 2.0) -> eb.DirectionSet:
    """The bank, every token length being known."""
    known = dict.fromkeys(("block-output", "projection-input"), TokenLength(length=length, source="calibration"))
    layers = tuple(layer.model_copy(update={"lengths": {**layer.lengths, **known}}) for layer in bank.manifest.layers)
    return bank.replaced(bank.manifest.model_copy(update={"layers": layers}))


@pytest.fixture(scope="module", params=list(CALLS))
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Any, eb.DirectionSet]:
    """A family, a pipeline of it, and the bank of both sides of its layers."""
    name: str = request.param
    pipe = pipeline(name)
    folder = tmp_path_factory.mktemp(name)
    component = "unet" if hasattr(pipe, "unet") else "transformer"
    getattr(pipe, component).save_pretrained(folder / component)
    layers = "transformer_blocks.*" if component == "transformer" else "*"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EIGENBANK_HOME", str(folder / "home"))
        bank = eb.build(
            str(folder / component), layers=layers, recipes=[OUT, "output-value"], top_k=2, model_id=f"acme/{name}"
        )
    return name, pipe, with_lengths(bank)


def test_load_lora_weights_adds_each_direction_as_long_as_a_token(
    family: tuple[str, Any, eb.DirectionSet], tmp_path: Path
) -> None:
    name, pipe, bank = family
    edits = {direction: 0.5 + 0.25 * number for number, direction in enumerate(bank)}
    before = draw_image(pipe, name)
    with biased(pipe, edits):
        steered = draw_image(pipe, name)
    with biased(pipe, {direction: -0.4 * scale for direction, scale in edits.items()}):
        other_way = draw_image(pipe, name)
    file = eb.export(bank, edits, tmp_path / "edit.safetensors", pipe=pipe, dtype="float32")[0]
    # PEFT warns where a file gives a bias to a layer without one, as to SD's queries: such a file cannot be fused.
    bare = any("attn1.to_q" in key for key in load_file(file))
    with pytest.warns(UserWarning, match="merging LoRA weights won't be possible") if bare else nullcontext():
        pipe.load_lora_weights(str(file), adapter_name="slider")
    try:
        loaded = draw_image(pipe, name)
        pipe.set_adapters(["slider"], [-0.4])
        slid = draw_image(pipe, name)
        pipe.set_adapters(["slider"], [0.0])
        assert torch.equal(draw_image(pipe, name), before)
        pipe.set_adapters(["slider"], [1.0])
        if not bare:
            pipe.fuse_lora()
            fused = draw_image(pipe, name)
            pipe.unfuse_lora()
    finally:
        pipe.unload_lora_weights()
    assert float((steered - before).abs().max()) > 0.02
    for found, expected in ((loaded, steered), (slid, other_way), *([] if bare else [(fused, steered)])):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def _as_comfyui_loads(weights: dict[str, Tensor], file: dict[str, Tensor], strength: float) -> dict[str, Tensor]:
    """What ComfyUI makes of a U-Net's weights: bias += strength · diff_b, for the names its loader maps to a weight.

    Written from what its `load_lora`, `model_lora_keys_unet` and `calculate_weight` do; it warns of keys it does not know.
    Of LyCORIS' keys, it adds those of the weights too; these are zero, as are its low-rank pairs.
    """
    targets = {
        f"lora_unet_{key.removesuffix('.weight').replace('.', '_')}": key for key in weights if key.endswith(".weight")
    }
    patched, used = dict(weights), set()
    for name, key in targets.items():
        bias = f"{key.removesuffix('.weight')}.bias"
        for kind, to in (("diff", key), ("w_norm", key), ("diff_b", bias), ("b_norm", bias)):
            diff = file.get(f"{name}.{kind}")
            if diff is None:
                continue
            assert patched[to].shape == diff.shape
            patched[to] = patched[to] + strength * diff
            used.add(f"{name}.{kind}")
        pair = [f"{name}.{kind}" for kind in ("lora_up.weight", "lora_down.weight", "alpha")]
        if pair[0] in file:
            assert (file[pair[0]] @ file[pair[1]]).shape == patched[key].shape
            assert not file[pair[0]].any()
            used.update(pair)
    assert used == set(file), "a key that ComfyUI does not know"
    return patched


@pytest.mark.parametrize("form", ["comfyui", "lycoris"])
@pytest.mark.parametrize("family", ["stable-diffusion", "sdxl"], indirect=True)
def test_comfyuis_loader_adds_each_direction_as_long_as_a_token(
    family: tuple[str, Any, eb.DirectionSet], form: Any, tmp_path: Path
) -> None:
    name, pipe, bank = family
    edits = dict.fromkeys(bank, 0.8)
    before = draw_image(pipe, name)
    with biased(pipe, dict.fromkeys(bank, 0.4)):
        steered = draw_image(pipe, name)
    file = eb.export(bank, edits, tmp_path / "edit.safetensors", format=form, pipe=pipe, dtype="float32")[0]
    weights = {key: value.clone() for key, value in pipe.unet.state_dict().items()}
    pipe.unet.load_state_dict(_as_comfyui_loads(weights, load_file(file), 0.5))
    try:
        torch.testing.assert_close(draw_image(pipe, name), steered, atol=1e-5, rtol=0)
    finally:
        pipe.unet.load_state_dict(weights)
    assert torch.equal(draw_image(pipe, name), before)


@pytest.mark.parametrize("family", ["stable-diffusion", "sdxl"], indirect=True)
def test_lycoris_itself_adds_each_direction_as_long_as_a_token(
    family: tuple[str, Any, eb.DirectionSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LyCORIS' own modules, merged into the layers as its loaders do."""
    wrapper: Any = pytest.importorskip("lycoris.wrapper", reason="LyCORIS is not installed (pip install lycoris-lora)")
    monkeypatch.setattr(wrapper.LycorisNetwork, "LORA_PREFIX", "lora_unet")  # as in files of kohya and A1111
    name, pipe, bank = family
    with biased(pipe, dict.fromkeys(bank, 0.4)):
        steered = draw_image(pipe, name)
    file = eb.export(
        bank, dict.fromkeys(bank, 0.8), tmp_path / "edit.safetensors", format="lycoris", pipe=pipe, dtype="float32"
    )[0]
    own, pipe.unet = pipe.unet, copy.deepcopy(pipe.unet)
    try:
        network, _ = wrapper.create_lycoris_from_weights(0.5, str(file), pipe.unet)
        assert {type(each).__name__ for each in network.loras} >= {"FullModule", "NormModule"}
        network.merge_to(0.5)
        torch.testing.assert_close(draw_image(pipe, name), steered, atol=1e-5, rtol=0)
    finally:
        pipe.unet = own


class _Everything(dict[str, Tensor]):
    """A checkpoint in which a converter finds whatever it asks for."""

    def __missing__(self, key: str) -> Tensor:
        return torch.zeros(21504)

    def pop(self, key: str, *_default: Any) -> Tensor:  # type: ignore[override]
        return super().pop(key, self[key])


@pytest.mark.parametrize(
    ("kind", "module", "converter", "originals", "others"),
    [
        ("Flux", "transformer_blocks.0.attn.to_{}", "flux", ["double_blocks.0.img_attn", "double_blocks.0.txt_attn"], ["single_blocks.0.x"]),
        ("SD3", "transformer_blocks.0.attn.to_{}", "sd3", ["joint_blocks.0.x_block.attn", "joint_blocks.0.x_block.attn2", "joint_blocks.0.context_block.attn"], ["joint_blocks.1.x"]),
        ("SD3", "transformer_blocks.0.attn2.to_{}", "sd3", ["joint_blocks.0.x_block.attn", "joint_blocks.0.x_block.attn2", "joint_blocks.0.context_block.attn"], ["joint_blocks.1.x"]),
        ("Wan", "blocks.0.attn1.to_{}", "wan", ["blocks.0.self_attn", "blocks.0.cross_attn"], []),
    ],
)  # fmt: skip
def test_names_in_the_original_layout_are_those_diffusers_converts_from(
    kind: str, module: str, converter: str, originals: list[str], others: list[str]
) -> None:
    """ComfyUI's names are the original layout's with underscores: of all original biases, those that become the module's."""
    from diffusers.loaders import single_file_utils

    names = {
        "flux": "convert_flux_transformer_checkpoint_to_diffusers",
        "sd3": "convert_sd3_transformer_checkpoint_to_diffusers",
    }
    convert = getattr(single_file_utils, names.get(converter, "convert_wan_transformer_to_diffusers"))
    parts = ["o", "q", "k", "v"] if converter == "wan" else ["proj", "qkv"]
    marked = _Everything()
    for number, name in enumerate(f"{original}.{part}" for original in originals for part in parts):
        # Each third of a bias has a value of its own.
        marked[f"{name}.bias"] = 10.0 * number + torch.arange(3.0).repeat_interleave(3072 if converter == "flux" else 3)
        marked[f"{name}.weight"] = torch.zeros(9)
    every = {name.removesuffix(".bias"): value for name, value in marked.items() if name.endswith(".bias")}
    for other in others:
        marked[other] = torch.zeros(3)
    found = convert(marked)
    for part in ("out.0", "q", "k", "v"):
        path = module.format(part)
        theirs, third = comfyui_name(f"{kind}Transformer{'3' if kind == 'Wan' else '2'}DModel", path)
        (original,) = [value for name, value in every.items() if "lora_unet_" + name.replace(".", "_") == theirs]
        wanted = original if third is None else original.chunk(3)[third]
        assert found[f"{path}.bias"].unique().tolist() == wanted.unique().tolist()


@pytest.mark.parametrize("family", ["flux", "sd3"], indirect=True)
def test_a_transformers_comfyui_file_holds_the_biases_of_the_diffusers_file(
    family: tuple[str, Any, eb.DirectionSet], tmp_path: Path
) -> None:
    _, pipe, bank = family
    edits = dict.fromkeys(bank, 1.5)
    ours = eb.export(bank, edits, tmp_path / "a.safetensors", pipe=pipe)[0]
    theirs = eb.export(bank, edits, tmp_path / "b.safetensors", format="comfyui", pipe=pipe)[0]
    kind, found, named = type(pipe.transformer).__name__, load_file(theirs), set()
    for key, value in load_file(ours).items():
        if key.endswith(".bias"):
            name, third = comfyui_name(kind, key.removeprefix("transformer.").removesuffix(".lora_B.bias"))
            named.add(f"{name}.diff_b")
            whole = found[f"{name}.diff_b"]
            assert torch.equal(whole if third is None else whole.chunk(3)[third], value)
    assert named == set(found)


def test_peft_alone_loads_the_file_into_a_unet_without_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """UNet2DModel has no LoRA loader in diffusers; its blocks divide what they give by a factor, residual included."""
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    from eigenbank.loaders.sample import sample

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        mid_block_scale_factor=1.5,
    )  # fmt: skip
    assert not hasattr(unet, "load_lora_adapter")
    unet.save_pretrained(tmp_path / "unet")
    bank = with_lengths(eb.build(str(tmp_path / "unet"), recipes=[OUT, "value"], top_k=2, model_id="acme/tiny"))
    pipe = DDIMPipeline(unet=unet, scheduler=DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    edits = {
        bank[f"{MID}/{OUT}/0"]: 0.8,
        bank[f"{MID}/{OUT}/1"]: -0.5,
        bank[f"down_blocks.1.attentions.0/{OUT}/0"]: 0.3,
        bank["up_blocks.0.attentions.0/value/0"]: 0.6,
    }
    before = sample(pipe, [0], 3)
    with biased(pipe, {direction: 0.8 * scale for direction, scale in edits.items()}):
        steered = sample(pipe, [0], 3)
    eb.export(bank, edits, tmp_path / "smile.safetensors", checkpoint=tmp_path / "unet", dtype="float32")
    # As the documentation says, with the slider at 0.8, and this pipeline in the place of its own.
    (code,) = re.findall(r"```python\n([^`]*from peft .*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    code, opened = re.subn(r"^pipe = .*\n", "", code, flags=re.MULTILINE)
    assert opened == 1
    monkeypatch.chdir(tmp_path)
    exec(code, {"pipe": pipe})
    torch.testing.assert_close(sample(pipe, [0], 3), steered, atol=1e-5, rtol=0)
    for module in unet.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_scale("smile", 0.0)
    assert torch.equal(sample(pipe, [0], 3), before)


@pytest.fixture(scope="module")
def bank(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> eb.DirectionSet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EIGENBANK_HOME", str(tmp_path_factory.mktemp("home")))
        recipes = [OUT, f"{OUT}@0.2-0.7", "output-value", "value"]
        return eb.build(str(tiny_checkpoint), recipes=recipes, top_k=2, model_id="acme/tiny")


def test_a_set_without_token_lengths_is_refused_and_the_command_that_measures_them_named(
    bank: eb.DirectionSet, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    edits = {f"{MID}/{OUT}/0": 1.0}
    pipe = eb.open_pipeline(str(tiny_checkpoint))
    with pytest.raises(EigenbankError, match="eigenbank measure acme/tiny"):
        eb.export(bank, edits, tmp_path / "a.safetensors", pipe=pipe)
    with pytest.raises(EigenbankError, match="eigenbank measure acme/tiny"):
        eb.steer(pipe, edits, bank=bank, fuse=True)
    measured = eb.measure(pipe, bank)
    file = eb.export(measured, edits, tmp_path / "a.safetensors", pipe=pipe, dtype="float32")[0]
    with eb.steer(pipe, edits, bank=measured, fuse=True):
        bias = load_file(file)[f"unet.{MID}.to_out.0.lora_B.bias"]
        before = measured[f"{MID}/{OUT}/0"].bank.layers[MID].lengths["block-output"].length
        torch.testing.assert_close(bias.norm(), torch.tensor(before), atol=0, rtol=1e-5)


@pytest.mark.parametrize("form", ["diffusers", "comfyui"])
@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({f"{MID}/{OUT}@0.2-0.7/0": 1.0}, "acts from 0.2 to 0.7 of the run"),
        ({f"{MID}/{OUT}/0": 0.0}, "would do nothing"),
        ({f"{MID}/{OUT}/0": float("nan")}, "a file holds one number per direction"),
        ({f"{MID}/{OUT}/0": [1.0, 2.0]}, "a file holds one number per direction"),
        ({f"{MID}/{OUT}/0": lambda _step: 1.0}, "a file holds one number per direction"),
        ({}, "no direction to export"),
        ({f"{MID}/{OUT}/7": 1.0}, "did you mean"),
    ],
)
def test_what_a_lora_cannot_express_is_refused_and_nothing_written(
    form: Any, edits: Any, message: str, bank: eb.DirectionSet, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(EigenbankError, match=message.replace("[", r"\[")):
        eb.export(bank, edits, tmp_path / "a.safetensors", format=form, checkpoint=tiny_checkpoint)
    assert not list(tmp_path.iterdir())


def test_layers_whose_output_no_bias_is_are_refused(tmp_path: Path) -> None:
    pipe = pipeline("flux")
    pipe.transformer.save_pretrained(tmp_path / "transformer")
    bank = with_lengths(eb.build(str(tmp_path / "transformer"), recipes=[OUT], top_k=1, model_id="acme/flux"))
    single = next(each for each in bank if each.layer.startswith("single_transformer_blocks"))
    with pytest.raises(ExportError, match="no out projection of its own"):
        eb.export(bank, [single], tmp_path / "a.safetensors", pipe=pipe)
    with pytest.raises(MatchError):
        eb.export(bank, [f"transformer_blocks.0.attn/{OUT}/0"], tmp_path / "a.safetensors", pipe=pipeline("sd3"))
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize("form", ["diffusers", "comfyui"])
def test_a_bias_that_would_move_other_tokens_too_is_refused(form: Any, tmp_path: Path) -> None:
    """Audio models put memory tokens before the sound's: their layers' bias is not the edit."""
    from diffusers import StableAudio3DiTModel

    torch.manual_seed(0)
    model = StableAudio3DiTModel(
        io_channels=4, embed_dim=32, depth=1, num_heads=2, cond_token_dim=16, global_cond_dim=16, local_add_cond_dim=4,
        timestep_features_dim=16, num_memory_tokens=3,
    )  # fmt: skip
    model.save_pretrained(tmp_path / "transformer")
    bank = with_lengths(eb.build(str(tmp_path / "transformer"), recipes=[OUT], top_k=1, model_id="acme/audio"))
    with pytest.raises(ExportError, match="none of the image's too"):
        eb.export(
            bank, [next(iter(bank))], tmp_path / "a.safetensors", format=form, checkpoint=tmp_path / "transformer"
        )
    assert not (tmp_path / "a.safetensors").exists()


def test_without_the_checkpoint_a_lora_is_refused_and_its_vectors_are_not(
    bank: eb.DirectionSet, tmp_path: Path
) -> None:
    with pytest.raises(EigenbankError, match="how the layers of acme/tiny are made"):
        eb.export(with_lengths(bank), [f"{MID}/{OUT}/0"], tmp_path / "a.safetensors")
    assert not list(tmp_path.glob("*.safetensors"))
    assert eb.export(bank, [f"{MID}/{OUT}/0"], tmp_path / "a.npz", format="npz") == [tmp_path / "a.npz"]


def test_npz_and_json_hold_every_vector_and_all_about_it(bank: eb.DirectionSet, tmp_path: Path) -> None:
    eb.export(bank, None, tmp_path / "all.npz", format="npz")
    eb.export(bank, {f"{MID}/{OUT}@0.2-0.7/1": -1.5}, tmp_path / "one.json", format="json")
    with np.load(tmp_path / "all.npz", allow_pickle=False) as arrays:
        told = json.loads(str(arrays["metadata"]))
        assert {entry["id"] for entry in told["directions"]} == {each.id for each in bank} == set(arrays) - {"metadata"}
        assert all(np.array_equal(arrays[each.id], each.vector.numpy()) for each in bank)
    (entry,) = json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))["directions"]
    direction = bank[entry["id"]]
    assert torch.equal(torch.tensor(entry["vector"]), direction.vector)
    assert (entry["scale"], entry["site"], entry["token_length"]) == (-1.5, "block-output", None)
    assert entry["recipe"]["window"] == {"start": 0.2, "end": 0.7}
    assert entry["eigenvalue"] == direction.eigenvalue


def test_a_label_that_points_the_other_way_is_exported_the_right_way_round(
    bank: eb.DirectionSet, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from datetime import datetime, timezone

    from eigenbank.schemas import Label

    direction = bank[f"{MID}/{OUT}/0"]
    label = Label(text="smile", polarity=-1, source="human:ann", created=datetime.now(timezone.utc))
    named = with_lengths(bank.labelled({direction.id: (label,)}))
    file = eb.export(named, {"smile": 1.5}, tmp_path / "a.safetensors", checkpoint=tiny_checkpoint, dtype="float32")[0]
    bias = load_file(file)[f"unet.{MID}.to_out.0.lora_B.bias"]
    torch.testing.assert_close(bias, -3.0 * direction.vector)
    with safe_open(file, "pt") as opened:
        (entry,) = json.loads(opened.metadata()["eigenbank"])["directions"]
    assert (entry["name"], entry["weight"], entry["token_length"]) == ("smile", -1, 2.0)


def test_equal_edits_are_equal_files_and_a_failure_keeps_the_old_one(
    bank: eb.DirectionSet, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    known = with_lengths(bank)
    for form, suffix in (("diffusers", "safetensors"), ("npz", "npz"), ("json", "json")):
        first, second = (
            eb.export(
                known, [f"{MID}/{OUT}/0"], tmp_path / f"{name}.{suffix}", format=form, checkpoint=tiny_checkpoint
            )[0]  # type: ignore[arg-type]
            for name in "ab"
        )
        assert first.read_bytes() == second.read_bytes()
        with pytest.raises(EigenbankError):
            eb.export(known, ["no such"], first, format=form, checkpoint=tiny_checkpoint)  # type: ignore[arg-type]
        assert first.read_bytes() == second.read_bytes()
    for out, message in (("a.bin", "does not end in .safetensors"), ("no/a.safetensors", "is no folder")):
        with pytest.raises(ExportError, match=message):
            eb.export(known, [f"{MID}/{OUT}/0"], tmp_path / out, checkpoint=tiny_checkpoint)


@pytest.mark.parametrize("family", ["stable-diffusion"], indirect=True)
def test_a_preview_of_the_set_lies_beside_a_comfyui_file(
    family: tuple[str, Any, eb.DirectionSet], tmp_path: Path
) -> None:
    _, pipe, bank = family
    direction = next(iter(bank))
    folder = tmp_path / "set"
    bank.save(folder)
    name = preview_name(direction.record)
    (folder / "previews").mkdir()
    Image.new("RGB", (40, 20), (200, 30, 30)).save(folder / name, lossless=True)
    entry = FileEntry(sha256=file_digest(folder / name), size=(folder / name).stat().st_size)
    manifest = eb.DirectionSet.open(folder).manifest
    manifest = manifest.model_copy(update={"files": {**manifest.files, name: entry}})
    (folder / "manifest.json").write_text(manifest_text(manifest), encoding="utf-8")
    out = tmp_path / "slider.safetensors"
    files = eb.export(eb.DirectionSet.open(folder), [direction.id], out, format="comfyui", pipe=pipe)
    assert files == [out, tmp_path / "slider.png", tmp_path / "slider.json"]
    with Image.open(files[1]) as picture:
        assert (picture.format, picture.size, picture.getpixel((5, 5))) == ("PNG", (40, 20), (200, 30, 30))
    (folder / name).write_bytes(b"not a picture")
    for each in files:
        each.unlink()
    with pytest.raises(SetError, match="not what the manifest says"):
        eb.export(eb.DirectionSet.open(folder), [direction.id], out, format="comfyui", pipe=pipe)
    assert not out.exists()


@pytest.mark.parametrize("form", ["diffusers", "comfyui", "lycoris"])
@pytest.mark.parametrize("family", ["stable-diffusion"], indirect=True)
def test_a_file_says_what_it_is_where_user_interfaces_look(
    family: tuple[str, Any, eb.DirectionSet], form: Any, tmp_path: Path
) -> None:
    from datetime import datetime, timezone

    from eigenbank.schemas import Label, Quality

    _, pipe, bank = family
    direction = next(iter(bank))
    label = Label(text="warm light", polarity=-1, source="human:ann", created=datetime.now(timezone.utc))
    quality = Quality(source="pixel-statistics", recommended_range=(-1.0, 3.0), scale=1.0, seeds=(0, 1), steps=2)
    named = bank.labelled({direction.id: (label,)}).measured({direction.id: quality})
    out, sidecar = eb.export(named, {"warm light": 2.0}, tmp_path / "a.safetensors", format=form, pipe=pipe)
    told = json.loads(sidecar.read_text(encoding="utf-8"))
    # The label points against the vector, and strength 1 is a scale of 2.
    assert (told["recommended range"], told["preferred weight"]) == ([-1.5, 0.5], 0.5)
    assert "-1.5 to 0.5" in told["notes"]
    with safe_open(out, "pt") as opened:
        metadata = opened.metadata()
        assert {opened.get_tensor(name).dtype for name in opened.keys()} == {torch.float16}  # noqa: SIM118
    assert metadata["modelspec.title"] == "warm light"
    assert metadata["modelspec.usage_hint"] == told["notes"]
    assert metadata["modelspec.license"] == bank.manifest.licence
    # A range that holds no scale is none: the file is not told to be used at a weight of 0.
    nowhere = named.measured({direction.id: quality.model_copy(update={"recommended_range": (0.0, 0.0)})})
    _, sidecar = eb.export(nowhere, {"warm light": 2.0}, tmp_path / "b.safetensors", format=form, pipe=pipe)
    told = json.loads(sidecar.read_text(encoding="utf-8"))
    assert (told.get("recommended range"), told["preferred weight"]) == (None, 1.0)


@pytest.mark.parametrize(
    ("config", "name"),
    [({"cross_attention_dim": 768}, "stable-diffusion-v1"), ({"cross_attention_dim": 1024}, "stable-diffusion-v2-512"),
     ({"cross_attention_dim": 1024, "sample_size": 96}, "stable-diffusion-v2-768-v"), ({"cross_attention_dim": (768,)}, None),
     ({"cross_attention_dim": 2048}, "stable-diffusion-xl-v1-base"), ({"cross_attention_dim": 16}, None),
     ({"cross_attention_dim": 2048, "encoder_hid_dim": 4096, "encoder_hid_dim_type": "text_proj"}, None)],
)  # fmt: skip
def test_the_architecture_is_said_as_the_base_of_a_lora(config: dict[str, int], name: str | None) -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        found = architecture(
            UNet2DConditionModel(
                block_out_channels=(32,),
                down_block_types=("CrossAttnDownBlock2D",),
                up_block_types=("CrossAttnUpBlock2D",),
                **config,
            )
        )
    assert (None if found is None else found[0]) == name


def test_a_slider_that_acts_in_a_part_of_the_run_is_refused_with_what_fits_and_where_it_works(
    bank: eb.DirectionSet, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from datetime import datetime, timezone

    from eigenbank.schemas import Label

    timed, whole = f"{MID}/{OUT}@0.2-0.7/0", f"{MID}/value/1"
    label = Label(text="smile", polarity=1, source="human:ann", created=datetime.now(timezone.utc))
    named = with_lengths(bank.labelled({timed: (label,)}))
    with pytest.raises(
        ExportError, match=r"Nothing else of that name fits.*eigenbank.steer\(pipe, \{'smile': 2\}\).*ComfyUI node"
    ):
        eb.export(named, {"smile": 2.0}, tmp_path / "a.safetensors", checkpoint=tiny_checkpoint)
    named = with_lengths(bank.labelled({timed: (label,), whole: (label,)}))
    with pytest.raises(ExportError, match=re.escape(f"this one fits: '{whole}=1'")):
        eb.export(named, {timed: 2.0}, tmp_path / "a.safetensors", checkpoint=tiny_checkpoint)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["flux"], indirect=True)
def test_input_sides_of_a_folder_are_those_of_the_pipeline_and_of_no_layer_that_text_goes_through(
    family: tuple[str, Any, eb.DirectionSet], tmp_path: Path
) -> None:
    _, pipe, bank = family
    pipe.transformer.save_pretrained(tmp_path / "transformer")
    edits = [direction for direction in bank if direction.recipe.side == "input"]
    ours = eb.export(bank, edits, tmp_path / "a.safetensors", pipe=pipe)[0]
    theirs = eb.export(bank, edits, tmp_path / "b.safetensors", checkpoint=tmp_path / "transformer")[0]
    assert ours.read_bytes() == theirs.read_bytes()
    single = with_lengths(
        eb.build(str(tmp_path / "transformer"), recipes=["value"], layers="single*", top_k=1, model_id="a/b")
    )
    with pytest.raises(ExportError, match="its projections read text tokens too"):
        eb.export(single, [next(iter(single))], tmp_path / "c.safetensors", pipe=pipe)


def test_all_labels_are_a_file_each_and_what_has_none_is_said(
    bank: eb.DirectionSet, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from datetime import datetime, timezone

    from eigenbank.schemas import Label

    names = {
        f"{MID}/{OUT}/0": "a/b",
        f"{MID}/{OUT}/1": "A b",
        f"{MID}/value/0": "目",
        f"{MID}/{OUT}@0.2-0.7/0": "timed",
    }
    now = datetime.now(timezone.utc)
    labels = {key: (Label(text=text, polarity=1, source="human:ann", created=now),) for key, text in names.items()}
    named = with_lengths(bank.labelled(labels))
    files, refused = export_all(named, tmp_path / "all", checkpoint=tiny_checkpoint)
    assert {path.name for path in files if path.suffix == ".safetensors"} == {
        "a-b.safetensors",
        "A-b-2.safetensors",
        "目.safetensors",
    }
    assert list(refused) == ["timed"]


def test_what_lies_beside_a_file_is_not_replaced(bank: eb.DirectionSet, tiny_checkpoint: Path, tmp_path: Path) -> None:
    for suffix in (".json", ".png"):
        (tmp_path / f"a{suffix}").write_text("mine")
    out = tmp_path / "a.safetensors"
    assert eb.export(with_lengths(bank), [f"{MID}/{OUT}/0"], out, checkpoint=tiny_checkpoint) == [out]
    assert {path.read_text() for path in tmp_path.iterdir() if path != out} == {"mine"}


@pytest.mark.parametrize("family", ["stable-diffusion"], indirect=True)
def test_all_labels_are_compared_with_the_pipeline_they_are_for(
    family: tuple[str, Any, eb.DirectionSet], tmp_path: Path
) -> None:
    from datetime import datetime, timezone

    from eigenbank.schemas import Label

    _, pipe, bank = family
    label = Label(text="smile", polarity=1, source="human:ann", created=datetime.now(timezone.utc))
    named = bank.labelled({next(each.id for each in bank if each.recipe.side == "input"): (label,)})
    assert export_all(named, tmp_path / "own", pipe=pipe)[0]
    other = pipeline("stable-diffusion")
    with torch.no_grad():
        for parameter in other.unet.parameters():
            parameter.copy_(torch.randn_like(parameter))
    with pytest.raises(MatchError):
        export_all(named, tmp_path / "other", pipe=other)
    assert not list((tmp_path / "other").iterdir())
