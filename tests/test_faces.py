"""Faces are what their factors say, and their checkpoint is a pipeline whose faces, and factors, can be read."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from faces.attributes import r_squared
from faces.render import FACTORS, NAMES, render, sample_factors

from eigenbank.builders.label.attributes import load_attribute_model
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.sample import sample
from eigenbank.schemas.errors import EigenbankError


def test_the_card_has_the_digest_and_the_command(faces_checkpoint: Path) -> None:
    card = (faces_checkpoint / "README.md").read_text(encoding="utf-8")
    weights = faces_checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in card
    assert "python -m faces.train" in card
    assert weights.stat().st_size < 8e6


def test_every_factor_is_read_back_from_renders(faces_checkpoint: Path) -> None:
    model = load_attribute_model(faces_checkpoint / "attributes")
    scores = r_squared(model, seed=77, n=500)
    assert set(scores) == set(NAMES)
    assert min(scores.values()) >= 0.98
    stated = json.loads((faces_checkpoint / "attributes" / "config.json").read_text(encoding="utf-8"))["r2"]
    assert all(abs(stated[name] - scores[name]) < 0.01 for name in NAMES)


def test_generated_faces_are_faces(faces_checkpoint: Path) -> None:
    """A re-render of the factors read from a generated picture looks like the picture; of another's, it does not."""
    model = load_attribute_model(faces_checkpoint / "attributes")
    images = sample(open_pipeline(faces_checkpoint), range(12), 15)
    redrawn = (render(model.read(images)) + 1) / 2
    own = (redrawn - images).square().mean()
    other = (redrawn.roll(1, 0) - images).square().mean()
    assert own < 0.3 * other
    assert images.flatten(1).std(dim=1).min() > 0.1


def test_a_seed_gives_its_image_whatever_the_batch(faces_checkpoint: Path) -> None:
    pipe = open_pipeline(faces_checkpoint)
    together = sample(pipe, [5, 6, 7], 5)
    torch.testing.assert_close(sample(pipe, [6], 5)[0], together[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "{", "is no attribute model's config"),
        ("config.json", '{"names": ["a"], "stds": [1, 2]}', "as many"),
        ("config.json", '{"names": ["a", "b"], "stds": [1, 2]}', "does not fit"),
        ("config.json", '{"names": ["a"], "stds": [0]}', "greater than 0"),
        ("model.safetensors", "", "no safetensors file, it is an empty file"),
        ("model.safetensors", None, "expected config.json and model.safetensors"),
    ],
)
def test_a_damaged_attribute_model_is_refused(
    file: str, text: str | None, message: str, faces_checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(faces_checkpoint / "attributes", tmp_path / "attributes"))
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(EigenbankError, match=message):
        load_attribute_model(folder)


def _face(**factors: float) -> torch.Tensor:
    values = torch.zeros(1, len(FACTORS))
    for name, value in factors.items():
        values[0, NAMES.index(name.replace("_", " "))] = value
    return render(values)[0]


def test_a_face_is_a_function_of_its_factors() -> None:
    factors = sample_factors(8, torch.Generator().manual_seed(3))
    assert torch.equal(render(factors), render(factors))
    assert torch.allclose(render(factors)[5:6], render(factors[5:6]))
    assert render(factors).shape == (8, 3, 32, 32)
    assert render(factors, 64).shape == (8, 3, 64, 64)
    assert render(factors).abs().max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_every_factor_changes_the_picture_smoothly(name: str) -> None:
    values = torch.zeros(41, len(FACTORS))
    values[:, NAMES.index(name)] = torch.linspace(-1, 1, 41)
    steps = render(values).diff(dim=0).flatten(1).norm(dim=1)
    ends = (render(values[[0, -1]]).diff(dim=0)).norm()
    assert ends > 2
    assert steps.max() < 0.5 * ends


def test_the_population_is_what_the_factors_say() -> None:
    factors = sample_factors(20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(factors.std(dim=0), torch.tensor([factor.std for factor in FACTORS]), atol=0.02, rtol=0)
    correlation = torch.corrcoef(factors.T) - torch.eye(len(FACTORS))
    assert correlation.abs().max() < 0.03
    assert set(factors[:, NAMES.index("glasses")].tolist()) == {-1.0, 1.0}


def test_factors_mean_what_their_words_say() -> None:
    cheek = (slice(None), 18, 12)
    assert (_face(skin_tone=1, glasses=-1, beard=-1)[cheek] > _face(skin_tone=-1, glasses=-1, beard=-1)[cheek]).all()
    top = (slice(None), 3, 16)
    assert (_face(hair_colour=1)[top] > _face(hair_colour=-1)[top]).all()
    corner = (slice(None), 0, 0)
    orange, violet = _face(background_hue=-1)[corner], _face(background_hue=1)[corner]
    assert orange[0] > orange[2]
    assert violet[2] > violet[0]
    left, right = (_face(head_position=side, hair_colour=-1)[:, 5].sum(0) for side in (-1, 1))
    assert left[:16].sum() < right[:16].sum()
