"""Pictures come out of every kind of pipeline, and what shows nothing is never measured."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import textpipes
import tiny_pipelines
import torch
from making import make_checkpoint
from PIL import Image
from torch import Tensor, nn

import eigenbank as eb
from eigenbank.api import build
from eigenbank.builders.label import study
from eigenbank.builders.label.settings import LabelSettings
from eigenbank.builders.label.statistics import StatisticsLabeler
from eigenbank.cli.main import run
from eigenbank.loaders import measure
from eigenbank.loaders.edit import PoorReconstructionWarning
from eigenbank.loaders.measure import PipelineMeasurements
from eigenbank.loaders.pictures import pictures_of
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.sample import sample, sample_pictures
from eigenbank.naming import label
from eigenbank.schemas.errors import SteerError

PIXELS = torch.rand(2, 4, 5, 3, generator=torch.Generator().manual_seed(0))
GREY = PIXELS[..., :1]


def images(pixels: Tensor) -> list[Image.Image]:
    return [Image.fromarray((each * 255).round().byte().squeeze(-1).numpy()) for each in pixels]


def colour(frames: Tensor) -> Tensor:
    return frames.mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"images": PIXELS.numpy()}, PIXELS),
        ({"images": PIXELS.permute(0, 3, 1, 2).bfloat16()}, PIXELS),
        ({"images": list(PIXELS.numpy())}, PIXELS),
        ({"images": images(PIXELS)}, PIXELS),
        ({"images": GREY.numpy()}, GREY),
        ({"images": GREY[..., 0].numpy()}, GREY),
        ({"images": images(GREY)}, GREY),
        ({"rgb": PIXELS.numpy(), "depth": GREY.numpy()}, PIXELS),
        ((PIXELS.numpy(), None), PIXELS),
        ({"frames": PIXELS[:, None].numpy()}, PIXELS),
    ],
)
def test_pictures_come_in_many_forms(found: Any, expected: Tensor) -> None:
    output = found if isinstance(found, tuple) else SimpleNamespace(**found)
    pictures = pictures_of(output, 2, "X")
    assert pictures.frames.dtype is torch.float32
    assert pictures.withheld == (False, False)
    torch.testing.assert_close(pictures.sheets, expected.permute(0, 3, 1, 2).expand(-1, 3, -1, -1), atol=5e-3, rtol=0)


def test_a_video_is_its_first_middle_and_last_frame() -> None:
    video = torch.rand(2, 9, 4, 5, 3)
    expected = video[:, [0, 4, 8]].permute(0, 1, 4, 2, 3)
    for found in (video.numpy(), [images(each) for each in video], video.permute(0, 1, 4, 2, 3)):
        pictures = pictures_of(SimpleNamespace(frames=found), 2, "X")
        torch.testing.assert_close(pictures.frames, expected, atol=5e-3, rtol=0)
    assert torch.equal(pictures.sheets, torch.cat(list(expected.unbind(1)), dim=3))
    one = pictures_of(SimpleNamespace(frames=images(video[0])), 1, "X")
    torch.testing.assert_close(one.frames, expected[:1], atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (SimpleNamespace(audios=np.zeros((2, 100))), "makes no pictures but audios"),
        (SimpleNamespace(images=torch.zeros(2, 4, 8, 8)), r"returned \[2, 4, 8, 8\].*Latents are no pictures"),
        (SimpleNamespace(images=np.zeros((5, 8, 8, 3))), "returned 5 pictures for 2 seeds"),
        (SimpleNamespace(images=["a", "b"]), "returned a list"),
        (3, "makes no pictures but a int"),
    ],
)
def test_what_is_no_picture_is_said_so(output: Any, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        pictures_of(output, 2, "X")


def test_a_pipeline_without_its_vae_is_said_so() -> None:
    pipe = textpipes.pipeline("sdxl")
    pipe.vae = None
    with pytest.raises(SteerError, match="has no VAE"):
        sample(pipe, [0], 1, **textpipes.CALLS["sdxl"])


def test_a_pixel_pipeline_in_bfloat16_makes_the_pictures_of_float32(tiny_checkpoint: Path) -> None:
    expected = sample(open_pipeline(tiny_checkpoint), [0, 1], 2)
    pipe = open_pipeline(tiny_checkpoint).to(torch.bfloat16)
    found = sample(pipe, [0, 1], 2)
    assert eb.measure(pipe, eb.build(str(tiny_checkpoint), top_k=1), steps=1).layers
    assert 0 < float((found - expected).square().mean().sqrt()) < 0.05


@pytest.mark.parametrize("prompted", [True, False])
def test_wan_is_sampled_in_its_own_way(prompted: bool) -> None:
    pipe = tiny_pipelines.make("wan")
    call: dict[str, Any] = {"prompt": ["a", "b c"]}
    if not prompted:
        embeds = pipe.encode_prompt(["a"], do_classifier_free_guidance=False)[0]
        call = {"prompt_embeds": embeds, "negative_prompt_embeds": embeds}
    call |= {"height": 32, "width": 32, "num_frames": 9}
    pictures = sample_pictures(pipe, [0, 1], 2, **call)
    assert pictures.frames.shape == (2, 3, 3, 32, 32)
    again = sample_pictures(pipe, [1], 2, **call | ({"prompt": "b c"} if prompted else {}))
    torch.testing.assert_close(again.frames[0], pictures.frames[1], atol=1e-4, rtol=0)
    readings = PipelineMeasurements(pipe, 2, **call).unedited(colour, [0, 1])
    torch.testing.assert_close(readings, pictures.frames.mean(dim=(1, 3, 4)), atol=1e-4, rtol=0)
    assert sample(pipe, [0, 1], 2, **call).shape == (2, 3, 32, 96)


def test_every_command_works_on_one_channel(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_checkpoint(tmp_path / "digits", channels=1)
    assert run(["build", str(folder), "--model-id", "me/digits", "--top-k", "1"]) == 0
    name = "mid_block.attentions.0/output-value/0"
    few = ["--steps", "2"]
    fast = ["--seeds", "0-1", "--most", "1", "--budget", "200", *few]
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(photo)
    for number, command in enumerate((
        ["label", "me/digits", *fast],
        ["steer", "me/digits", "--set", f"{name}=1", *few],
        ["sweep", "me/digits", name, *few],
        ["preview", "me/digits", name, *few],
        ["edit", str(photo), "--model", "me/digits", "--set", f"{name}=1", *few],
    )):  # fmt: skip
        out = [] if command[0] in ("label", "preview") else ["--out", str(tmp_path / f"{number}.png")]
        assert run([*command, *out]) == 0, capsys.readouterr().err
    with pytest.warns(PoorReconstructionWarning):
        grey = eb.edit(open_pipeline(folder), photo, {name: 0.5}, bank=eb.load("me/digits"), steps=2)
    assert torch.equal(grey.edited[0], grey.edited[2])
    assert torch.equal(grey.original[0], grey.original[2])


class Checker(nn.Module):
    """A safety checker as diffusers': what it takes offence at comes back black, and is flagged. Here: bright pictures."""

    dtype, device = torch.float32, torch.device("cpu")
    limit = math.inf

    def forward(self, images: Tensor, clip_input: object) -> tuple[Tensor, list[bool]]:
        flags = [float(each.mean()) > self.limit for each in images]
        kept = [torch.zeros_like(each) if flag else each for each, flag in zip(images, flags, strict=True)]
        return torch.stack(kept), flags


def extractor(pictures: Any, return_tensors: str) -> Any:
    """Where a safety checker's pictures come from."""
    return SimpleNamespace(to=lambda _device: SimpleNamespace(pixel_values=torch.zeros(len(pictures), 1)))


@pytest.fixture
def checked() -> Any:
    pipe = textpipes.pipeline("stable-diffusion")
    pipe.safety_checker, pipe.feature_extractor = Checker(), extractor
    return pipe


CALL = {**textpipes.CALLS["stable-diffusion"], "height": 16, "width": 16}


def test_blacked_out_pictures_are_never_measured(checked: Any, caplog: pytest.LogCaptureFixture) -> None:
    measurements = PipelineMeasurements(checked, 2, **CALL)
    key = measurements.fingerprint
    pixels = sample(checked, range(8), 2, **CALL)
    checked.safety_checker.limit = float((pixels * 2 - 1).mean(dim=(1, 2, 3)).quantile(0.7))
    with pytest.raises(SteerError, match=r"blacked out [1-7] of 8 pictures.*pipe\.safety_checker = None"):
        measurements.unedited(colour, range(8))
    direction = next(iter(build(checked, recipes="output-value", top_k=1)))
    limit, checked.safety_checker.limit = checked.safety_checker.limit, -math.inf
    with pytest.raises(SteerError, match="blacked out 8 of 8 pictures"):
        measurements.predicted([direction], colour, scale=1.0, seeds=range(8))
    checked.safety_checker.limit = limit
    assert "blacked out" not in caplog.text
    found = sample(checked, range(8), 2, **CALL)
    assert "the safety checker blacked out" in caplog.text
    black = (found == found[..., :1, :1]).flatten(1).all(dim=1)
    assert 0 < int(black.sum()) < 8
    checked.safety_checker = None
    assert PipelineMeasurements(checked, 2, **CALL).fingerprint == key, "what was read before goes on being used"
    torch.testing.assert_close(PipelineMeasurements(checked, 2, **CALL).unedited(colour, range(8)), colour(pixels))


def overflow(vae: Any) -> None:
    vae.decoder.conv_out.weight.mul_(torch.inf)


def blacken(vae: Any) -> None:
    vae.decoder.conv_out.weight.zero_()


@pytest.mark.parametrize("spoil", [overflow, blacken])
def test_a_vae_that_overflows_is_noticed(spoil: Callable[[Any], None]) -> None:
    pipe = textpipes.pipeline("sdxl")
    with torch.no_grad():
        spoil(pipe.vae)
    with pytest.raises(SteerError, match="blank or not finite"):
        PipelineMeasurements(pipe, 2, **textpipes.CALLS["sdxl"], size=(16, 16)).unedited(colour, [0, 1])


@pytest.mark.parametrize("spoiled", [torch.nan, 0.0])
def test_an_edit_that_breaks_pictures_gives_no_reading_and_no_name(
    spoiled: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some VAEs overflow on latents that are unlike a picture's: here on all that are brighter than unedited ones."""
    pipe = textpipes.pipeline("stable-diffusion")
    pipe.unet.save_pretrained(tmp_path)
    bank = eb.build(str(tmp_path), recipes=["output-value"], top_k=1)
    measurements = PipelineMeasurements(pipe, 2, **CALL)
    base, *edited = measurements.edited(list(bank), colour, scale=100.0, seeds=[0, 1])
    limit = base.mean(dim=1).max() + 1e-4
    broken = [part.mean(dim=2) > limit for part in edited]
    assert 0 < int(torch.stack(broken).sum()) < torch.stack(broken).numel()

    def spoil(_module: object, _args: object, out: Tensor) -> Tensor:
        bright = (out / 2 + 0.5).clamp(0, 1).mean(dim=(1, 2, 3), keepdim=True) > limit
        return torch.where(bright, spoiled, out)

    pipe.vae.decoder.register_forward_hook(spoil)
    again, *found = measurements.edited(list(bank), colour, scale=100.0, seeds=[0, 1])
    torch.testing.assert_close(again, base)
    for before, after, lost in zip(edited, found, broken, strict=True):
        assert torch.equal(after.isnan().any(dim=2), lost)
        torch.testing.assert_close(after[~lost], before[~lost], atol=1e-4, rtol=0)
    monkeypatch.setattr(study, "POPULATION", (0, 1))
    monkeypatch.setattr(measure, "LOOK", 0.0)  # what a first step predicts breaks as often
    said: list[str] = []
    settings = LabelSettings(
        scale=100.0, seeds=(0, 1), confirm_seeds=(0, 1), confirm_most=2, steps=2, null=1, agreement=-1.0, quality_seeds=2,
        all_qualities=True,
    )  # fmt: skip
    labelled = label(pipe, bank, [StatisticsLabeler()], settings, log=said.append, **CALL)
    lost = torch.stack(broken).any(dim=2).any(dim=0)
    assert f"{int(lost.sum())} of {len(bank)} directions break pictures at ±100" in said[1]
    for each, gone in zip(labelled, lost.tolist(), strict=True):
        assert each.quality is not None
        assert not gone or (each.quality.effect is None and not each.labels)
