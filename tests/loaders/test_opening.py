"""Pipelines open in one dtype, from whatever a folder holds, with the scheduler, LoRAs and offload that were asked for."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

import eigenbank as eb
from eigenbank.devices import pick_device
from eigenbank.loaders.pipelines import open_pipeline, own_dtype
from eigenbank.loaders.sample import sample
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import EigenbankError, SourceError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def dtypes(pipe: Any) -> set[torch.dtype]:
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return {parameter.dtype for module in modules for parameter in module.parameters()}


def draw(pipe: Any, **call: Any) -> torch.Tensor:
    return sample(pipe, [0], 2, prompt="a man", height=16, width=16, **call)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL as it is published. Not to be changed."""
    return tiny_pipelines.save_mixed(tmp_path_factory.mktemp("sdxl") / "official")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL of which only the variant fp16 was fetched. Not to be changed."""
    return tiny_pipelines.save("sdxl", tmp_path_factory.mktemp("sdxl") / "half")


def test_files_of_several_dtypes_open_in_one_and_draw(official: Path) -> None:
    pipe = eb.open_pipeline(str(official))
    assert dtypes(pipe) == {torch.float32}
    assert draw(pipe).isfinite().all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_dtype_is_that_of_all_components(dtype: Any, official: Path) -> None:
    assert dtypes(eb.open_pipeline(str(official), dtype=dtype)) == {getattr(torch, dtype)}


def test_a_folder_with_only_a_variant_is_built_and_drawn_without_being_told(half: Path) -> None:
    pipe = eb.open_pipeline(str(half), device="cpu")
    assert dtypes(pipe) == {torch.float32}
    plain = draw(pipe)
    bank = eb.build(str(half), recipes="output-value:output", top_k=1)
    with eb.steer(pipe, {next(iter(bank)): 2.0}, bank=bank):
        assert not torch.equal(draw(pipe), plain)


def test_two_sets_of_weights_of_which_one_is_incomplete_are_not_guessed(half: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(half, tmp_path / "both")
    weights = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.safetensors"))
    with pytest.raises(SourceError, match="variant=fp16"):
        eb.open_pipeline(str(folder))
    eb.open_pipeline(str(folder), variant="fp16")


def test_a_variant_that_is_not_there_is_said_with_those_that_are(half: Path) -> None:
    with pytest.raises(SourceError, match=r"has no variant 'bf16': it has fp16; nothing was opened"):
        eb.open_pipeline(str(half), variant="bf16")


def test_a_cpu_takes_half_precision_without_a_warning(half: Path, caplog: pytest.LogCaptureFixture) -> None:
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.enable_propagation()
    try:
        assert dtypes(eb.open_pipeline(str(half), device="cpu", dtype="float16")) == {torch.float16}
    finally:
        diffusers_logging.disable_propagation()
    assert "cannot run with `cpu`" not in caplog.text


@pytest.mark.parametrize("left", [[], ["config.json"]], ids=["no folder", "no weights"])
def test_a_missing_safety_checker_is_left_out_with_a_word(left: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    tiny_pipelines.save("sd", folder)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    index |= {"feature_extractor": ["transformers", "CLIPImageProcessor"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    for name in left:
        (folder / "safety_checker").mkdir()
        (folder / "safety_checker" / name).write_text("{}")
    said: list[str] = []
    pipe = open_pipeline(folder, log=said.append)
    assert pipe.safety_checker is None
    assert "safety_checker and feature_extractor" in said[0]
    assert open_pipeline(folder, Drawing(safety_checker=False), log=said.append).safety_checker is None
    assert "lacks the files of its feature_extractor," in said[1]
    assert draw(pipe).isfinite().all()
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(SourceError, match="text_encoder"):
        open_pipeline(folder, log=said.append)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("euler", "EulerDiscreteScheduler"),
        ("Euler_a", "EulerAncestralDiscreteScheduler"),
        ("dpmpp_2m", "DPMSolverMultistepScheduler"),
        ("unipc", "UniPCMultistepScheduler"),
        ("LCMScheduler", "LCMScheduler"),
        ("DDIMScheduler", "DDIMScheduler"),
    ],
)
def test_a_scheduler_by_its_class_or_a_short_name(name: str, kind: str, official: Path) -> None:
    pipe = eb.open_pipeline(str(official), scheduler=name)
    assert type(pipe.scheduler).__name__ == kind
    assert draw(pipe).isfinite().all()


def test_an_unknown_scheduler_is_refused_with_those_there_are(official: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(SourceError, match=r"no scheduler 'eular'.*can use: .*euler, .*lcm"):
        eb.open_pipeline(str(official), scheduler="eular")
    with pytest.raises(SourceError, match=r"can use: ddim, ddpm, dpmsolver$"):  # it scales no inputs
        eb.open_pipeline(str(tiny_checkpoint), scheduler="euler")
    pipe = eb.open_pipeline(str(tiny_checkpoint), scheduler="dpmpp")
    assert type(pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert sample(pipe, [0], 2).isfinite().all()


def lora_of(folder: Path, out: Path) -> Path:
    pipe = open_pipeline(folder)
    torch.manual_seed(0)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    type(pipe).save_lora_weights(out, unet_lora_layers=get_peft_model_state_dict(pipe.unet))
    return out / "pytorch_lora_weights.safetensors"


def test_loras_are_loaded_with_their_weights(official: Path, tmp_path: Path) -> None:
    lora = lora_of(official, tmp_path)
    plain = draw(open_pipeline(official))
    pictures = [draw(eb.open_pipeline(str(official), loras={str(lora): weight})) for weight in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(pictures[0], plain, atol=1e-5, rtol=0)
    assert (pictures[1] - plain).abs().max() > 1e-3
    assert (pictures[2] - pictures[1]).abs().max() > 1e-3
    other = {f"transformer.blocks.0.attn.to_q.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(SourceError, match=r"no weight in it is of a StableDiffusionXLPipeline"):
        eb.open_pipeline(str(official), loras={str(tmp_path / "other.safetensors"): 1.0})
    for nowhere in (str(tmp_path / "nowhere.safetensors"), "nowhere", "folder/nowhere.safetensors"):
        with pytest.raises(SourceError, match=r"LoRA .*nowhere.* there is no such file"):
            eb.open_pipeline(str(official), loras={nowhere: 1.0})


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_an_offloaded_pipeline_draws_the_same(offload: Any, official: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = draw(eb.open_pipeline(str(official), dtype="float32"))
    with caplog.at_level(logging.WARNING, "eigenbank"):
        pipe = eb.open_pipeline(str(official), dtype="float32", offload=offload)
    assert ("without offload" in caplog.text) == (pick_device("auto") == "cpu")
    torch.testing.assert_close(draw(pipe), plain, atol=1e-4, rtol=0)


def test_devices_are_those_of_this_machine() -> None:
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else pick_device("auto"))
    for name in ("cuda:99", "nonsense"):
        with pytest.raises(SourceError, match="no device"):
            pick_device(name)


def test_auto_is_the_weights_own_dtype_on_an_accelerator(official: Path, half: Path) -> None:
    assert own_dtype(official, None) is torch.float32
    assert own_dtype(half, "fp16") is torch.float16
    assert dtypes(open_pipeline(half, Drawing(device="cpu", dtype="auto"))) == {torch.float32}


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.diffusion_model."])
def test_weights_named_by_wrappers_are_loaded_not_left_random(prefix: str, official: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(official, tmp_path / "named")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, weights)
    unet = open_pipeline(folder).unet
    assert all(torch.equal(unet.get_parameter(name), tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("part", ["text_encoder", "vae"])
def test_other_parts_that_were_saved_compiled_are_refused_not_left_random(
    part: str, official: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(official, tmp_path / "named")
    (weights,) = (folder / part).glob("*.safetensors")
    save_file({f"_orig_mod.{name}": tensor for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(SourceError, match=rf"{part} was saved while it was compiled: it has _orig_mod\."):
        open_pipeline(folder)


def test_a_pickle_of_a_compiled_denoiser_is_refused_not_left_empty(official: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(official, tmp_path / "pickled")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(
        {f"_orig_mod.{name}": tensor for name, tensor in load_file(weights).items()}, weights.with_suffix(".bin")
    )
    weights.unlink()
    with pytest.raises(SourceError, match=r"unet lacks \d+ tensors of its config's UNet2DConditionModel.*_orig_mod"):
        open_pipeline(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("conv_in.weight"), r"lacks 1 tensors.*conv_in\.weight"),
        (lambda tensors: tensors.update({"mid_block.x.base_layer.weight": torch.ones(1)}), "base_layer"),
    ],
)
def test_a_denoiser_that_diffusers_would_fill_with_random_values_is_refused(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, official: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(official, tmp_path / "lacking")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, weights)
    with pytest.raises(SourceError, match=message):
        open_pipeline(folder)


def test_a_pointer_in_place_of_any_component_is_called_that(official: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(official, tmp_path / "pointers")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\n"
    )
    with pytest.raises(EigenbankError, match="git lfs pull"):
        open_pipeline(folder)


def _pointer(path: Path) -> object:
    return path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a tokenizer's pointer": (lambda folder: _pointer(folder / "tokenizer" / "tokenizer.json"), "tokenizer.json is a Git LFS pointer.*git lfs pull"),
    "an index's pointer": (lambda folder: _pointer(folder / "model_index.json"), "model_index.json is a Git LFS pointer"),
    "a scheduler's pointer": (lambda folder: _pointer(folder / "scheduler" / "scheduler_config.json"), "Git LFS pointer"),
    "no index": (lambda folder: (folder / "model_index.json").unlink(), "is no pipeline: it has no model_index.json"),
    "no vae": (lambda folder: shutil.rmtree(folder / "vae"), "lacks its vae"),
    "no weights": (lambda folder: (folder / "text_encoder" / "model.safetensors").unlink(), "text_encoder has no weights that diffusers loads: it holds no more than its config"),
    "onnx": (lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "model.onnx"), "unet has no weights .* an ONNX model"),
    "flax": (lambda folder: (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_flax_model.msgpack"), "vae has no weights .* Flax weights"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_is_not_whole_is_said_to_lack_what_it_lacks(name: str, official: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(official, tmp_path / "broken")
    change, message = BROKEN[name]
    change(folder)
    with pytest.raises(SourceError, match=message):
        open_pipeline(folder)


def test_without_transformers_a_pipeline_with_prompts_says_what_to_install(half: Path) -> None:
    code = """
import sys
sys.modules["transformers"] = None  # as where it is not installed
import eigenbank as eb
try:
    eb.open_pipeline(sys.argv[1])
except eb.EigenbankError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(half)], capture_output=True, text=True, check=False)
    assert "diffusers cannot load a pipeline" in done.stdout, done.stderr
    assert "pip install 'eigenbank[text]'" in done.stdout


@pytest.mark.parametrize(
    ("component", "kind", "file"),
    [
        ("text_encoder", "AutoModel", "config.json"),
        ("tokenizer", "AutoTokenizer", "tokenizer_config.json"),
        ("tokenizer", "AutoProcessor", "preprocessor_config.json"),
    ],
)
def test_a_component_that_brings_code_by_an_auto_class_is_refused_and_nothing_is_asked(
    component: str, kind: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_pipelines.save("sd", tmp_path / "sd")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, component: ["transformers", kind]}))
    (folder / component / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Theirs: pass\n")
    path = folder / component / file
    config = json.loads(path.read_text()) if path.is_file() else {}
    theirs = dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer", "AutoProcessor"), "theirs.Theirs")
    path.write_text(json.dumps({**config, "model_type": "theirs", "tokenizer_class": "Theirs", "auto_map": theirs}))
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda *prompt: asked.append(str(prompt)) or "y")
    with pytest.raises(EigenbankError):
        eb.open_pipeline(str(folder))
    assert not asked
    assert not (tmp_path / "ran").exists()
