"""Sliders files on the command line: written by `steer`, taken by `steer`, `sweep` and `edit`."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
from diffusers import UNet2DConditionModel, UNet2DModel
from PIL import Image, ImageChops

import eigenbank as eb
from eigenbank.cli.main import run

MID = "mid_block.attentions.0/output-value/0"


def same(one: Path, other: Path) -> bool:
    with Image.open(one) as first, Image.open(other) as second:
        return first.size == second.size and ImageChops.difference(first, second).getbbox() is None


def test_what_steer_saves_it_draws_again(built: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    look, first, second = tmp_path / "look.json", tmp_path / "1.png", tmp_path / "2.png"
    call = ["--seeds", "0", "--steps", "2"]
    assert run(["steer", built, "--set", f"{MID}=1.5", "--save-sliders", str(look), "--out", str(first), *call]) == 0
    assert f"wrote {look}" in capsys.readouterr().err
    assert json.loads(look.read_text()) == {"format": 1, "model": built, "sliders": [{"key": MID, "scale": 1.5}]}
    assert run(["steer", built, "--sliders", str(look), "--out", str(second), *call]) == 0
    assert same(first, second)
    assert run(["steer", built, "--sliders", str(look), "--set", f"{MID}=-3", "--out", str(second), *call]) == 0
    assert not same(first, second)


def test_when_where_and_how_the_directions_act_is_said_and_saved(built: str, tmp_path: Path) -> None:
    look, mask = tmp_path / "look.json", tmp_path / "mask.png"
    Image.linear_gradient("L").save(mask)
    pictures: list[Path] = []

    def steered(*options: str) -> Path:
        pictures.append(tmp_path / f"{len(pictures)}.png")
        call = ["steer", built, "--seeds", "0", "--steps", "4", *options, "--out", str(pictures[-1])]
        assert run(call) == 0
        return pictures[-1]

    edit = ["--set", f"{MID}=4"]
    plain = steered(*edit)
    late = steered(*edit, "--window", "0.5,1", "--save-sliders", str(look))
    assert json.loads(look.read_text())["sliders"] == [{"key": MID, "scale": 4.0, "window": {"start": 0.5, "end": 1.0}}]
    at_output = steered(*edit, "--site", "output", "--save-sliders", str(look))
    assert json.loads(look.read_text())["sliders"][0]["site"] == "block-output"
    others = [late, at_output, steered(*edit, "--mask", str(mask))]
    assert not any(same(plain, other) for other in others)
    assert same(steered("--sliders", str(look)), at_output)
    # A bias is as long as a typical token, not as those of the very pass.
    assert run(["measure", built, "--steps", "4"]) == 0
    assert not same(steered(*edit, "--site", "block-output", "--fuse"), steered("--set", f"{MID}=0"))
    # What a file says of a slider comes before the options.
    assert same(steered("--sliders", str(look), "--site", "input"), at_output)


def test_a_sweep_draws_a_file_as_one_row(built: str, tmp_path: Path) -> None:
    look, alone, among = tmp_path / "look.json", tmp_path / "1.png", tmp_path / "2.png"
    look.write_text(json.dumps({"sliders": [{"key": MID, "scale": 1}, {"key": MID[:-1] + "1", "scale": -1}]}))
    call = ["--sliders", str(look), "--seeds", "0", "--steps", "2", "--scales", "0,1"]
    assert run(["sweep", built, *call, "--out", str(alone)]) == 0
    assert run(["sweep", built, MID, *call, "--out", str(among)]) == 0
    with Image.open(alone) as one, Image.open(among) as two:
        assert two.height > one.height + 60


def test_a_photo_is_edited_with_a_file(built: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    look, photo = tmp_path / "look.json", tmp_path / "photo.png"
    look.write_text(json.dumps({"sliders": [{"key": MID, "scale": 1, "window": {"start": 0.5}}]}))
    Image.new("RGB", (64, 64), (120, 90, 60)).save(photo)
    call = ["edit", str(photo), "--model", built, "--sliders", str(look), "--steps", "2"]
    assert run([*call, "--out", str(tmp_path / "out.png"), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["edit"] == f"{MID} +1"


def test_sliders_of_another_model_are_drawn_as_far_as_they_match(
    built: str, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tuned = tmp_path / "tuned"
    shutil.copytree(tiny_checkpoint, tuned)
    weights = next((tuned / "unet").glob("*.safetensors"))
    torch.manual_seed(0)
    save_file({name: each + 1e-3 * torch.randn_like(each) for name, each in load_file(weights).items()}, weights)
    look, out = tmp_path / "look.json", tmp_path / "out.png"
    look.write_text(json.dumps({"model": built, "sliders": [{"key": MID, "scale": 1}]}))
    # No set of the fine-tune is needed: the names are those of the parent.
    assert run(["steer", str(tuned), "--sliders", str(look), "--steps", "2", "--out", str(out)]) == 0
    err = capsys.readouterr().err
    assert "the sliders are of acme/tiny: applied to local/tuned as far as they match its weights" in err
    assert f"{MID}: transfer 0.9" in err or f"{MID}: transfer 1.0" in err


@pytest.fixture
def prompted(tmp_path: Path) -> str:
    """A tiny Stable Diffusion; returns the model id of its set, of two directions."""
    assert run(["build", str(tiny_pipelines.save("sd", tmp_path / "sd")), "--model-id", "me/sd", "--top-k", "1"]) == 0
    return "me/sd"


def passes_of(kind: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the denoisers of a class are called with from now on."""
    called: list[Any] = []

    @functools.wraps(kind.forward)
    def noted(*given: Any, **_: Any) -> None:
        called.append(given)

    monkeypatch.setattr(kind, "forward", noted)
    return called


@pytest.mark.parametrize("command", ["steer", "steer with a file", "sweep", "edit"])
def test_a_branch_that_a_run_does_not_have_is_refused_before_anything_is_drawn(
    command: str, prompted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = passes_of(UNet2DConditionModel, monkeypatch)
    name = next(iter(eb.load(prompted))).id
    look, photo = tmp_path / "look.json", tmp_path / "photo.png"
    look.write_text(json.dumps({"sliders": [{"key": name, "scale": 1, "branch": "uncond", "window": {"start": 0.9}}]}))
    Image.new("RGB", (32, 32), (120, 90, 60)).save(photo)
    call = {
        "steer": ["steer", prompted, "--set", f"{name}=1", "--branch", "uncond", "--guidance-scale", "1"],
        "steer with a file": ["steer", prompted, "--sliders", str(look), "--guidance-scale", "0.5"],
        "sweep": ["sweep", prompted, "--sliders", str(look), "--guidance-scale", "1"],
        "edit": ["edit", str(photo), "--model", prompted, "--sliders", str(look)],  # its guidance scale is 1
    }[command]
    capsys.readouterr()
    assert run([*call, "--prompt", "a", "--steps", "2", "--out", str(tmp_path / "out.png")]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"error: {name!r} is to act on the unconditional branch of guidance, and the run has none" in said
    assert "nothing was drawn. Guide it (--guidance-scale above 1)" in said
    assert not called
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_a_model_without_guidance_has_no_branches(
    branch: str, built: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = passes_of(UNet2DModel, monkeypatch)
    call = ["steer", built, "--set", f"{MID}=1", "--branch", branch, "--steps", "2", "--out", str(tmp_path / "out.png")]
    assert run(call) == 1
    said = capsys.readouterr().err
    assert (
        f"has no guidance, so {MID!r} cannot act on one branch of it; nothing was drawn. Leave the branch out" in said
    )
    assert not called


def test_without_guidance_the_only_pass_is_the_conditional_one(prompted: str, tmp_path: Path) -> None:
    name = next(iter(eb.load(prompted))).id
    call = ["steer", prompted, "--set", f"{name}=4", "--prompt", "a", "--guidance-scale", "1", "--seeds", "0"]
    both, cond = tmp_path / "both.png", tmp_path / "cond.png"
    assert run([*call, "--steps", "2", "--out", str(both)]) == 0
    assert run([*call, "--steps", "2", "--branch", "cond", "--out", str(cond)]) == 0
    assert same(both, cond)
