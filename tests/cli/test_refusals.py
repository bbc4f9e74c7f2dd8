"""A wrong call is refused with a message that helps, before anything is written. One table for all commands.

In the calls, OUT is a picture to write, FILE a sliders file, PHOTO a photo, TINY a checkpoint's folder. 2 is the exit code of
a call that is wrong in itself, 1 of one that something stands in the way of.
"""

import json
from pathlib import Path

import pytest
from PIL import Image

from eigenbank.cli.main import run

pytestmark = pytest.mark.usefixtures("with_faces")

DEMO = "eigenbank/cartoon-faces-32"
MID = "mid_block.attentions.0/output-value/0"
LORA = "down_blocks.1.attentions.0/output-value:output/0"
EDIT = ["edit", "PHOTO", "--model", DEMO]
STEER = ["steer", "acme/tiny", "--out", "OUT", "--steps", "2"]
BEARD = ["--set", "beard=1"]

CALLS = [
    (["serch"], 2, "did you mean 'search'"),
    (["--catalog", "", "list"], 2, "--catalog"),
    (["build", "/no/such/folder"], 1, "no such folder: /no/such/folder"),
    (["build", "acme/tiny-faces"], 1, "did you mean 'acme/tiny'"),
    (["build", "acme/tiny", "--layers", "mid_blok.*"], 1, "no layer 'mid_blok.*'"),
    (["build", "acme/tiny", "--recipe", "output-valu"], 1, "did you mean 'output-value'"),
    (["build", "acme/tiny", "--top-k", "0"], 2, "--top-k"),
    (["build", "acme/tiny", "--device", "tpu"], 2, "--device"),
    (["build", "acme/tiny", "--model-id", "../x"], 2, "--model-id"),
    (["build", "~nosuchuser/x"], 1, "is no folder, file or model id"),
    (["build", "a" * 5000], 1, "is no folder, file or model id"),
    (["build", ""], 1, "the checkpoint's name is empty"),
    (["build", "--dry-run", "/no/such/folder"], 1, "no such folder"),
    (["build", "--dry-run", "TINY", "--variant", "fp16"], 1, "has no variant 'fp16'"),
    (["label", "acme/tiny", "--steps", "0"], 2, "--steps"),
    (["show", "acme/tiny#mid_block.attentions.0/output-value/7"], 1, "did you mean"),
    (["show", "acme/tny#x"], 1, "did you mean 'acme/tiny'"),
    (["steer", "acme/tiny", "--set", "smile=1", "--out", "/dev/null"], 1, "is no file"),
    (["steer", "acme/tiny", "--set", "smile=1", "--out", "/tmp/a.jpg"], 1, "does not end in .png"),
    ([*STEER, "--set", "smile=1"], 1, "no label in acme/tiny: 'smile'"),
    ([*STEER, "--set", MID[:-1] + "9=1"], 1, "did you mean 'mid_block.attentions.0/output-value/"),
    ([*STEER, "--set", "smile"], 2, "expected NAME=SCALE"),
    ([*STEER, "--set", "smile=nan"], 2, "expected NAME=SCALE"),
    (["steer", "acme/tny", "--set", "smile=1", "--out", "OUT"], 1, "did you mean 'acme/tiny'"),
    (STEER, 2, "nothing to edit: give --set NAME=SCALE, or --sliders FILE"),
    ([*STEER, "--sliders", "no/such.json"], 1, "cannot be read as a sliders file"),
    ([*STEER, "--set", f"{MID}=1", "--save-sliders", "look.png"], 1, "does not end in .json"),
    ([*STEER, "--set", f"{MID}=1", "--window", "0.8,0.2"], 2, "expected two fractions of the run"),
    ([*STEER, "--set", f"{MID}=1", "--window", "0.8"], 2, "expected two fractions of the run"),
    ([*STEER, "--set", f"{MID}=1", "--window", "0-0.5"], 2, "expected numbers, as in 0.2,0.8"),
    ([*STEER, "--set", f"{MID}=1", "--site", "roof"], 2, "--site"),
    ([*STEER, "--set", f"{MID}=1", "--branch", "none"], 2, "--branch"),
    ([*STEER, "--set", f"{MID}=1", "--branch", "cond"], 1, "Leave the branch out, or say 'both'"),
    ([*STEER, "--set", f"{MID}=1", "--mask", "no/such.png"], 1, "is no file"),
    ([*STEER, "--set", f"{MID}=1", "--fuse"], 1, "cannot be fused"),
    ([*STEER, "--set", f"{MID}=1", "--lora", "a.safetensors=x"], 2, "'x' is no weight"),
    ([*STEER, "--set", f"{MID}=1e9"], 2, "less than or equal to 10000"),
    (["sweep", "acme/tiny", "--out", "OUT"], 1, "no labelled direction"),
    (["sweep", "acme/tiny", MID, "--scales", "1,x", "--out", "OUT"], 2, "expected numbers"),
    (["sweep", "acme/tiny", MID, "--seeds", "5-1", "--out", "OUT"], 2, "whole numbers"),
    (["sweep", "acme/tiny", MID, "--steps", "2", "--out", "/no/such/folder/x.png"], 1, "nothing was generated"),
    (["demo", "--out", "/no/such/folder/demo.png"], 1, "nothing was generated"),
    ([*EDIT, "--out", "OUT"], 2, "--set"),
    (["edit", "PHOTO", "--set", "smile=1", "--out", "OUT"], 2, "--model"),
    (["edit", "nothing.png", "--model", DEMO, *BEARD, "--out", "OUT"], 1, "nothing.png is no file"),
    (["edit", "FILE", "--model", DEMO, *BEARD, "--out", "OUT"], 1, "cannot be read as a picture"),
    ([*EDIT, "--set", "gills=1", "--out", "OUT"], 1, "no label"),
    ([*EDIT, *BEARD, "--out", "no/out.png"], 1, "nothing was generated"),
    ([*EDIT, *BEARD, "--prompt", "x", "--out", "OUT"], 2, "takes no prompt"),
    ([*EDIT, *BEARD, "--size", "64", "--out", "OUT"], 2, "pictures of one size only"),
    ([*EDIT, *BEARD, "--out", "OUT", "--compare", "OUT"], 2, "are both"),
    (["export", DEMO, "--out", "a.safetensors"], 2, "name its directions"),
    (["export", DEMO, "smile", "--set", "smile=1", "--out", "a.safetensors"], 2, "given twice"),
    (["export", DEMO, "smile"], 2, "say where to"),
    (["export", DEMO, "smile", "--out", "a.safetensors", "--all-labels", "all"], 2, "say where to"),
    (["export", DEMO, "smile", "--all-labels", "all"], 2, "name no directions"),
    (["export", DEMO, LORA, "--format", "lycoris", "--out", "a.safetensors"], 1, "for Stable Diffusion 1, 2 and SDXL"),
    (["export", DEMO, "--set", "smile=1", "--set", "smile=2", "--out", "a.safetensors"], 2, "given twice"),
    (["export", DEMO, "skin tone", "--format", "json", "--out", "n" * 300 + ".json"], 1, "cannot be written"),
    (["export", DEMO, LORA, "--out", "a.npz"], 1, "does not end in .safetensors"),
    (["export", DEMO, LORA, "--format", "comfyui", "--out", "a.safetensors"], 1, "ComfyUI holds a UNet2DModel"),
    (["export", DEMO, "skin tone", "--out", "a.safetensors"], 1, "9 act in a part of the run only"),
    (["export", DEMO, LORA, "--checkpoint", "/no/such", "--out", "a.safetensors"], 1, "no such folder"),
    (["export", "no/such-model", LORA, "--out", "a.safetensors"], 1, "no/such-model"),
    (["export", DEMO, "--set", "no such name=1", "--out", "a.safetensors"], 1, "no label"),
    (["export", DEMO, "--format", "exe", "--out", "a.exe"], 2, "--format"),
    (["publish", "acme/faces"], 2, "Missing option '--repo'"),
    (["publish", "acme/faces", "--repo", "me/x"], 1, "no direction set of 'acme/faces'"),
    (["publish", DEMO, "--repo", "bad"], 2, "'bad': expected ORG/NAME"),
    (["pull"], 2, "Missing argument 'REPO|MODEL'"),
    (["pull", "me/faces-directions"], 1, "offline mode is on"),
    (["pull", "me/faces-directions", "--revision", "../../x"], 1, "offline mode is on"),
    (["sync"], 1, "offline mode is on"),
    (["verify", "acme/faces"], 1, "no direction set of 'acme/faces'"),
    (["plan", "--dry-run", "--publish", "me"], 2, "builds nothing: leave out --publish"),
    (["plan", "--publish", "me/x"], 2, "expected the name of a user or organisation"),
    (["play", "eigenbank/cartoon-face-32"], 1, "did you mean 'eigenbank/cartoon-faces-32'"),
    (["play", "--checkpoint", "somewhere"], 2, "name it"),
    (["gallery"], 2, "--out FOLDER, --serve, or --publish ORG/NAME"),
    (["gallery", "--out", "site", "--model", "acme/nothing"], 1, "no direction set of 'acme/nothing'"),
    (["gallery", "--publish", "me/gallery"], 1, "offline mode is on"),
]


def test_a_wrong_call_is_refused_and_writes_nothing(
    built: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["list"]) == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "look.json").write_text("{")
    Image.new("RGB", (96, 96), (120, 90, 60)).save(tmp_path / "photo.jpg")
    places = {"OUT": "out.png", "FILE": "look.json", "PHOTO": "photo.jpg", "TINY": str(tiny_checkpoint)}
    capsys.readouterr()
    before = _files(tmp_path)
    for args, code, message in CALLS:
        assert run([places.get(arg, arg) for arg in args]) == code, args
        out, err = capsys.readouterr()
        assert message in err, args
        assert "Traceback" not in err, args
        assert (out, _files(tmp_path)) == ("", before), args


def _files(folder: Path) -> list[Path]:
    """Everything below a folder but the database's journals and what reading leaves."""
    return sorted(path for path in folder.rglob("*") if not path.name.startswith("catalog.db"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ({"sliders": []}, "sliders: "),
        ({"sliders": [{"key": "smle", "scale": 1}]}, "no label in acme/tiny: 'smle'"),
        ({"model": "acme/tny", "sliders": [{"key": "smile", "scale": 1}]}, "did you mean 'acme/tiny'"),
    ],
)
def test_what_is_wrong_with_a_sliders_file_is_said(
    content: object, message: str, built: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look = tmp_path / "look.json"
    look.write_text(content if isinstance(content, str) else json.dumps(content))
    assert run(["steer", built, "--sliders", str(look), "--out", str(tmp_path / "out.png")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_offline_comes_before_any_look_at_the_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert run(["publish", str(tmp_path), "--repo", "me/x"]) == 1
    assert "offline mode is on" in capsys.readouterr().err
