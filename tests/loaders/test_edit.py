"""A photo comes back from the unedited round trip, changes with the edit, and the pipeline is left as it was."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from faces import FOLDER
from faces.render import NAMES, render, sample_factors
from textpipes import CALLS, PROMPT, embeddings, latent_diffusion, pipeline
from torch import Tensor, nn

import eigenbank as eb
from eigenbank.builders.label.attributes import load_attribute_model
from eigenbank.loaders.edit import PoorReconstructionWarning
from eigenbank.loaders.image_grid import to_image
from eigenbank.loaders.sample import sample
from eigenbank.schemas import TokenLength
from eigenbank.schemas.errors import EigenbankError, SteerError

pytestmark = pytest.mark.usefixtures("with_faces")

DEMO = "eigenbank/cartoon-faces-32"


@pytest.fixture(scope="module")
def demo() -> Any:
    return eb.open_pipeline(str(FOLDER))


@pytest.fixture(scope="module")
def faces() -> Tensor:
    """Faces the demo checkpoint was not trained on, drawn by its world's renderer: `(1, 3, 32, 32)` in [0, 1]."""
    return (render(sample_factors(1, torch.Generator().manual_seed(77))) + 1) / 2


def test_a_rendered_face_comes_back_and_its_edit_keeps_the_person(
    demo: Any, faces: Tensor, faces_checkpoint: Path
) -> None:
    read = load_attribute_model(faces_checkpoint / "attributes").read
    stays = [NAMES.index(name) for name in ("smile", "head width", "head position", "hair length", "gaze")]
    skin = NAMES.index("skin tone")
    for face in faces:
        towards = 1.0 if float(read(face[None])[0, skin]) < 0 else -1.0
        found = eb.edit(demo, to_image(face), {"skin tone": towards}, steps=12)
        assert found.error < 0.02
        assert found.coding_error is None
        assert found.change > 3 * found.error
        before, plain, after = read(torch.stack([found.original, found.reconstruction, found.edited]))
        torch.testing.assert_close(plain, before, atol=0.2, rtol=0)
        assert float((after - plain)[skin]) * towards > 0.3
        assert float((after - plain)[stays].abs().max()) < float((after - plain)[skin].abs())


def test_more_repeats_bring_the_photo_back_better_and_its_noise_nearer_to_noise(demo: Any, faces: Tensor) -> None:
    guessed, solved = (eb.edit(demo, faces[0], {"skin tone": 0.5}, steps=8, repeats=repeats) for repeats in (0, 4))
    assert solved.error < 0.85 * guessed.error
    assert abs(solved.noise_std - 1) < abs(guessed.noise_std - 1) / 2


def test_an_edit_of_scale_zero_is_the_round_trip_and_the_pipeline_is_as_before(demo: Any, faces: Tensor) -> None:
    scheduler, before = demo.scheduler, sample(demo, [3], 4)
    config = dict(demo.config)
    modules = {name: sorted(module.__dict__) for name, module in demo.unet.named_modules()}
    found = eb.edit(demo, faces[0], {"skin tone": 0.0}, steps=4)
    assert torch.equal(found.edited, found.reconstruction)
    assert found.change == 0
    assert demo.scheduler is scheduler
    assert dict(demo.config) == config
    assert {name: sorted(module.__dict__) for name, module in demo.unet.named_modules()} == modules
    assert torch.equal(sample(demo, [3], 4), before)


def test_a_poor_round_trip_is_warned_about(demo: Any) -> None:
    noise = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    with pytest.warns(PoorReconstructionWarning, match="off by 0") as caught:
        found = eb.edit(demo, noise, {"skin tone": 1.0}, steps=3, repeats=0)
    assert found.poor == str(caught[0].message)
    assert found.grid().size > (32 * 3, 32)


def _bank(pipe: Any, folder: Path) -> eb.DirectionSet:
    component = "unet" if hasattr(pipe, "unet") else "transformer"
    getattr(pipe, component).save_pretrained(folder / component)
    layers = "transformer_blocks.*" if component == "transformer" else "*"
    bank = eb.build(
        str(folder / component), layers=layers, recipes=["output-value:output"], top_k=1, model_id="acme/tiny"
    )
    known = {"block-output": TokenLength(length=2.0, source="calibration")}
    found = tuple(layer.model_copy(update={"lengths": known}) for layer in bank.manifest.layers)
    return bank.replaced(bank.manifest.model_copy(update={"layers": found}))


PHOTO = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("family", "guided"),
    [
        ("stable-diffusion", False),
        ("stable-diffusion", True),
        pytest.param("sdxl", True, marks=pytest.mark.slow),
        ("sd3", True),
        ("flux", False),
    ],
)
def test_latent_pipelines_with_prompts_come_back_to_what_their_autoencoder_makes(
    family: str, guided: bool, tmp_path: Path
) -> None:
    pipe = pipeline(family)
    if hasattr(pipe, "unet"):
        # An untrained U-Net's output changes far more steeply with its input than a trained one's.
        pipe.unet.conv_out.weight.data.mul_(0.2)
    bank = _bank(pipe, tmp_path)
    call = CALLS[family] if guided else {key: value for key, value in CALLS[family].items() if key != "guidance_scale"}
    scheduler = pipe.scheduler
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PoorReconstructionWarning)
        few, many = (
            eb.edit(pipe, PHOTO, dict.fromkeys(bank, 1.0), bank=bank, steps=10, repeats=repeats, size=(16, 16), **call)
            for repeats in (0, 8)
        )
    # An untrained autoencoder loses the photo; that is said, and how much of it is the autoencoder's doing.
    assert [warning.category for warning in caught].count(PoorReconstructionWarning) == 2
    assert many.coding_error is not None
    assert f"{many.coding_error:.3f} of it by the autoencoder alone" in (many.poor or "")
    assert many.coded is not None
    assert few.coded is not None
    lost = [float((found.reconstruction - found.coded).abs().max()) for found in (few, many) if found.coded is not None]
    assert lost[1] < 0.02
    assert lost[1] < lost[0]
    assert many.change > 2e-3
    assert pipe.scheduler is scheduler


def test_an_unconditional_latent_pipeline_comes_back(tmp_path: Path) -> None:
    pipe = latent_diffusion()
    bank = _bank(pipe, tmp_path)
    with pytest.warns(PoorReconstructionWarning, match="by the autoencoder alone"):
        found = eb.edit(pipe, PHOTO, dict.fromkeys(bank, 1.0), bank=bank, steps=8, repeats=8)
    assert found.coded is not None
    assert float((found.reconstruction - found.coded).square().mean().sqrt()) < 0.05
    assert found.change > 2e-3


def test_the_prompt_reaches_the_pipeline(tmp_path: Path) -> None:
    pipe = pipeline("stable-diffusion")
    bank = _bank(pipe, tmp_path)
    noises = []
    for seed in (5, 6):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PoorReconstructionWarning)
            embeds = embeddings(1, 7, 16, seed=seed) * 5
            noises.append(
                eb.edit(
                    pipe, PHOTO, dict.fromkeys(bank, 1.0), bank=bank, steps=3, size=(16, 16), prompt_embeds=embeds
                ).noise
            )
    assert not torch.allclose(*noises)


def test_a_window_acts_in_its_part_of_the_run_and_never_on_the_way_back(demo: Any, faces: Tensor) -> None:
    bank = eb.build(DEMO, layers="mid_block.*", recipes=["value@0.5-1"], top_k=1)
    seen: list[bool] = []
    attention = demo.unet.get_submodule("mid_block.attentions.0")
    plain = {}

    def listen(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        key = (len(seen) - 4) % 4 if len(seen) >= 4 else None
        seen.append(True)
        if key is not None:
            plain.setdefault(key, []).append(args[0])

    handle = attention.to_v.register_forward_pre_hook(listen)
    try:
        found = eb.edit(demo, faces[0], {next(iter(bank)): 1.0}, bank=bank, steps=4, repeats=0)
    finally:
        handle.remove()
    # Four passes back, four forth without the edit, four with it, which acts in the last two.
    assert len(seen) == 12
    same = [torch.equal(*plain[step]) for step in range(4)]
    assert same[:2] == [True, True]
    assert same[2] is False
    assert found.change > 0


class _Other:
    """A pipeline of somebody else's."""

    transformer = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("make", "call", "message"),
    [
        (_Other, {}, "photos cannot be edited with a _Other"),
        (lambda: pipeline("stable-diffusion").unet, {}, "not a bare denoiser"),
        (lambda: pipeline("stable-diffusion"), {"size": (15, 16)}, "multiples of 8"),
        (lambda: pipeline("stable-diffusion"), {"size": 64}, r"size=64: expected \(height, width\)"),
        (latent_diffusion, {"size": (32, 32)}, "pictures of one size only"),
        (lambda: pipeline("stable-diffusion"), {"steps": 0}, "steps: .* greater than or equal to 1"),
        (lambda: pipeline("stable-diffusion"), {**PROMPT, "repeats": "2"}, "whole numbers"),
        (lambda: pipeline("stable-diffusion"), {**PROMPT, "steps": 1001}, "more than the 1000"),
        (lambda: pipeline("stable-diffusion"), {}, "needs a prompt; nothing was edited"),
        (lambda: pipeline("stable-diffusion"), {"prompt": "a", "negative_prompt": "b"}, "guidance scale of 1 is none"),
        (lambda: pipeline("stable-diffusion"), {"prompt": ["a", "b"]}, "one prompt, 2 were given"),
        (latent_diffusion, {"prompt": "a face"}, "takes no prompt"),
    ],
)
def test_what_cannot_be_edited_is_refused_by_name(make: Any, call: dict[str, Any], message: str) -> None:
    with pytest.raises(SteerError, match=message):
        eb.edit(make(), PHOTO, {"smile": 1.0}, **call)


def test_an_unknown_word_is_refused_before_anything_runs(demo: Any, faces: Tensor) -> None:
    with pytest.raises(EigenbankError, match="no label"):
        eb.edit(demo, faces[0], {"no such thing": 1.0})


def test_numbers_out_of_range_are_an_error_and_a_scale_per_sample_may_be_of_one(
    demo: Any, faces: Tensor, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PoorReconstructionWarning)
        assert eb.edit(demo, faces[0], {"skin tone": [0.5]}, steps=2, repeats=0).name == "skin tone"
    pipe = pipeline("stable-diffusion")
    bank = _bank(pipe, tmp_path)
    pipe.vae.decoder.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(SteerError, match="left the numbers' range"):
        eb.edit(
            pipe,
            PHOTO,
            dict.fromkeys(bank, 1.0),
            bank=bank,
            steps=2,
            repeats=0,
            size=(16, 16),
            **CALLS["stable-diffusion"],
        )
