"""The shipped checkpoint is a diffusers pipeline whose faces, and their factors, can be read."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from eigenbank.faces.attributes import load_attribute_model, r_squared
from eigenbank.faces.render import NAMES, render
from eigenbank.loaders.pipelines import open_pipeline, sample
from eigenbank.schemas.errors import EigenbankError


def test_the_card_has_the_digest_and_the_command(demo_checkpoint: Path) -> None:
    card = (demo_checkpoint / "README.md").read_text(encoding="utf-8")
    weights = demo_checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in card
    assert "python -m eigenbank.faces.train" in card
    assert weights.stat().st_size < 8e6


def test_every_factor_is_read_back_from_renders(demo_checkpoint: Path) -> None:
    model = load_attribute_model(demo_checkpoint / "attributes")
    scores = r_squared(model, seed=77, n=500)
    assert set(scores) == set(NAMES)
    assert min(scores.values()) >= 0.98
    stated = json.loads((demo_checkpoint / "attributes" / "config.json").read_text(encoding="utf-8"))["r2"]
    assert all(abs(stated[name] - scores[name]) < 0.01 for name in NAMES)


def test_generated_faces_are_faces(demo_checkpoint: Path) -> None:
    """A re-render of the factors read from a generated picture looks like the picture; of another's, it does not."""
    model = load_attribute_model(demo_checkpoint / "attributes")
    images = sample(open_pipeline(demo_checkpoint), range(12), 15)
    redrawn = (render(model.read(images)) + 1) / 2
    own = (redrawn - images).square().mean()
    other = (redrawn.roll(1, 0) - images).square().mean()
    assert own < 0.3 * other
    assert images.flatten(1).std(dim=1).min() > 0.1


def test_a_seed_gives_its_image_whatever_the_batch(demo_checkpoint: Path) -> None:
    pipe = open_pipeline(demo_checkpoint)
    together = sample(pipe, [5, 6, 7], 5)
    torch.testing.assert_close(sample(pipe, [6], 5)[0], together[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "{", "is no attribute model's config"),
        ("config.json", '{"names": ["a"], "stds": [1, 2]}', "as many"),
        ("config.json", '{"names": ["a", "b"], "stds": [1, 2]}', "does not fit"),
        ("config.json", '{"names": ["a"], "stds": [0]}', "greater than 0"),
        ("model.safetensors", "", "no whole safetensors file"),
        ("model.safetensors", None, "expected config.json and model.safetensors"),
    ],
)
def test_a_damaged_attribute_model_is_refused(
    file: str, text: str | None, message: str, demo_checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(demo_checkpoint / "attributes", tmp_path / "attributes"))
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(EigenbankError, match=message):
        load_attribute_model(folder)
