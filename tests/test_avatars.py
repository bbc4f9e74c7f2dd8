"""The text-to-image checkpoint that ships: small, in Stable Diffusion's layout, and it draws what it is told."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from eigenbank.builders.label.attributes import open_attributes
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.sample import sample
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID, shipped_checkpoint
from eigenbank.schemas.drawing import Drawing

FOLDER = shipped_checkpoint(DEMO_MODEL_ID) or Path()


@pytest.fixture(scope="module")
def pipe() -> Any:
    return open_pipeline(FOLDER)


def test_it_is_small_in_half_precision_and_says_its_licence() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file() and "directions" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 20_000_000
    for path in (path for path in files if path.suffix == ".safetensors"):
        with safe_open(path, "pt") as tensors:
            assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"F16"}, path  # noqa: SIM118
    for name in ("README.md", "NOTICE"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert "Johan Melin" in text
        assert "CC BY 4.0" in text


def test_plain_diffusers_code_draws_with_it_the_same_for_a_seed() -> None:
    plain = StableDiffusionPipeline.from_pretrained(FOLDER, torch_dtype=torch.float32)
    plain.set_progress_bar_config(disable=True)

    def drawn(seed: int) -> torch.Tensor:
        noise = torch.Generator().manual_seed(seed)
        images = plain("a person", num_inference_steps=3, generator=noise, output_type="pt").images
        assert images.shape == (1, 3, 64, 64)
        return images

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@pytest.mark.parametrize(
    ("word", "much", "little"),
    [
        ("beard", "a person with a long beard", "a clean-shaven face"),
        ("dark skin", "a person with dark skin", "a person with pale skin"),
        ("hair length", "a person with long straight hair", "a person with short hair"),
        ("light hair", "a person with grey hair", "a person with black hair"),
        ("closed eyes", "a person with closed eyes", "a person with open eyes"),
        ("open mouth", "a person with an open mouth", "a smiling person"),
        ("warm background", "a person on a yellow background", "a person on a blue background"),
    ],
)
def test_its_pictures_are_what_their_prompts_say(word: str, much: str, little: str, pipe: Any) -> None:
    reader = open_attributes(FOLDER / "attributes")
    assert reader.stds is not None
    prompts = (much,) * 4 + (little,) * 4
    pictures = sample(pipe, range(8), 8, drawing=Drawing(prompts=prompts, guidance_scale=4.0))
    column = reader.names.index(word)
    high, low = (reader.read(pictures) / reader.stds)[:, column].split(4)
    assert float(high.mean() - low.mean()) > 1


def test_its_attribute_model_reads_renders_that_it_was_not_trained_on() -> None:
    config = json.loads((FOLDER / "attributes" / "config.json").read_text(encoding="utf-8"))
    assert config["r2"].keys() == set(config["names"])
    assert min(config["r2"].values()) >= 0.85
