"""`eigenbank export`: the file is there, whole, and its name is printed; or nothing is."""

import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

import eigenbank as eb
from eigenbank.cli.main import run

pytestmark = pytest.mark.usefixtures("with_faces")

DEMO = "eigenbank/cartoon-faces-32"
OUTPUT = "down_blocks.1.attentions.0/output-value:output/0"


def test_a_lora_of_the_faces_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.safetensors"
    assert run(["export", DEMO, "--set", f"{OUTPUT}=-2", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [str(out), str(out.with_suffix(".json"))]
    assert "no LoRA loader for a UNet2DModel" in printed.err
    assert {name.split(".lora_")[1] for name in load_file(out)} == {"A.weight", "B.weight", "B.bias"}


def test_json_of_one_label_and_of_the_whole_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, whole = tmp_path / "one.json", tmp_path / "all.json"
    assert run(["export", DEMO, "skin tone", "--format", "json", "--out", str(one)]) == 0
    assert run(["export", DEMO, "--format", "json", "--out", str(whole)]) == 0
    entries = json.loads(one.read_text(encoding="utf-8"))["directions"]
    assert {(entry["name"], entry["scale"]) for entry in entries} == {("skin tone", 1.0)}
    assert len(entries) == len(eb.load(DEMO)["skin tone"].parts)
    capsys.readouterr()
    assert run(["list", "--model", DEMO, "-q"]) == 0
    ids = [each for each in capsys.readouterr().out.splitlines() if "#composite/" not in each]
    assert sorted(found["full_id"] for found in json.loads(whole.read_text(encoding="utf-8"))["directions"]) == sorted(
        ids
    )


def test_a_composite_that_acts_in_a_part_of_the_run_is_refused_with_a_direction_that_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    assert run(["export", DEMO, "hair length", "--out", str(out)]) == 1
    refused = capsys.readouterr().err
    parts = eb.load(DEMO)["composite/hair-length"].parts
    timed = sum(not direction.recipe.window.whole for direction, _ in parts)
    assert 0 < timed < len(parts)
    said = (
        f"'hair length' means composite/hair-length, a sum of {len(parts)} directions, of which {timed} act in a part"
    )
    assert said in refused
    advised = re.search(r"this one fits: '([^']+)'", refused)
    assert advised is not None
    assert run(["export", DEMO, "--set", advised[1], "--out", str(out)]) == 0
    assert run(["export", DEMO, "hair colour", "--out", str(out)]) == 1
    refused = capsys.readouterr().err
    assert "Nothing else of that name fits" in refused
    assert "eigenbank.steer(pipe, {'hair colour': 1})" in refused


def test_every_named_slider_that_fits_is_a_file_and_of_the_others_it_is_said_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sliders"
    assert run(["export", DEMO, "--all-labels", str(folder)]) == 0
    printed = capsys.readouterr()
    assert sorted(printed.out.split("\n")[:-1]) == sorted(map(str, folder.iterdir()))
    texts = {label.text for each in eb.load(DEMO).sliders for label in each.labels}
    written = {path.stem for path in folder.glob("*.safetensors")}
    assert written
    assert written | set(re.findall(r"no file for '([^']+)': .*part of the run", printed.err)) == {
        text if f"no file for {text!r}" in printed.err else text.replace(" ", "-") for text in texts
    }
