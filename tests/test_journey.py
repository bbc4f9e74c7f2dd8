"""The whole journey through the command line, on the pipelines that people have: built, labelled, searched, drawn, exported."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
from PIL import Image

from eigenbank.cli.main import run

pytest.importorskip("transformers", reason="transformers is not installed (pip install 'eigenbank[clip]')")

PROMPTS = ("--prompt", "abc", "--prompt", "zz")
FEW = (
    "--seeds",
    "0,1",
    "--confirm-seeds",
    "2-5",
    "--confirm-most",
    "4",
    "--chance-most",
    "4",
    "--most",
    "1",
    "--null",
    "1",
)
INVERTIBLE = ("sd", "sdxl", "sd3", "flux")
Capture = pytest.CaptureFixture[str]


def _rows(capsys: Capture, *args: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run([*args, "--format", "json"]) == 0, capsys.readouterr().err
    return list(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    "kind", ["sd", *(pytest.param(kind, marks=pytest.mark.slow) for kind in tiny_pipelines.KINDS if kind != "sd")]
)
def test_every_command_works(kind: str, tmp_path: Path, capsys: Capture) -> None:
    folder, model = tiny_pipelines.save(kind, tmp_path / "checkpoint"), f"me/{kind}"
    size = [f"--size={tiny_pipelines.SIZE[kind][0]}"] if kind in tiny_pipelines.SIZE else []
    how = [*PROMPTS, *size, "--steps", "2"]
    assert run(["build", str(folder), "--model-id", model, "--top-k", "1"]) == 0
    assert run(["label", model, *how, *FEW, "--labeler", "statistics", "--parts", "4"]) == 0
    assert "at most " in capsys.readouterr().err
    found = _rows(capsys, "search", "attn", "--model", model)
    name = next(row["id"] for row in found if ":output/" in row["id"])
    direction = name.partition("#")[2]

    out = tmp_path / "steer.png"
    assert run(["steer", model, "--set", f"{direction}=2", *how, "--seeds", "0,1", "--out", str(out)]) == 0
    said = capsys.readouterr().err
    height, width = tiny_pipelines.SIZE.get(kind) or ((256, 256) if kind == "pixart" else (16, 16))
    assert f"4 images × 2 steps × {1 if kind == 'flux' else 2} pass" in said
    assert f"at {width}×{height}, on " in said
    with Image.open(out) as sheet:
        assert sheet.width > 2 * width

    assert run(["sweep", name, *how, "--seeds", "0", "--scales=-1,1", "--out", str(tmp_path / "sweep.png")]) == 0
    assert "2 prompts, and seeds for 1 image each: only the first is drawn" in capsys.readouterr().err
    made = _rows(capsys, "preview", model, direction, *how, "--seeds", "0,1", "--scales=-1,1")
    assert made[0]["bytes"] > 0

    Image.radial_gradient("L").convert("RGB").save(tmp_path / "photo.png")
    call = ["edit", str(tmp_path / "photo.png"), "--model", model, "--set", f"{direction}=1", "--prompt", "abc", *size]
    code = run([*call, "--steps", "3", "--out", str(tmp_path / "edit.png")])
    assert code == (0 if kind in INVERTIBLE else 1)
    said = capsys.readouterr().err
    assert kind in INVERTIBLE or "Nothing was edited" in said
    assert f"5 runs × 3 steps × 1 pass, at {width}×{height}, on " in said or kind not in INVERTIBLE

    lora = tmp_path / "lora.safetensors"
    assert run(["export", model, "--set", f"{direction}=1", "--checkpoint", str(folder), "--out", str(lora)]) == 0
    assert lora.stat().st_size > 0


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("steer", ("--set", "{}=1", "--out", "{out}")),
        ("sweep", ("{}", "--out", "{out}")),
        ("preview", ("{}",)),
        ("label", ()),
    ],
)
def test_a_missing_prompt_is_a_wrong_call_before_anything_is_loaded(
    command: str, more: tuple[str, ...], tmp_path: Path, capsys: Capture
) -> None:
    folder = tiny_pipelines.save("sd", tmp_path / "checkpoint")
    assert run(["build", str(folder), "--model-id", "me/sd", "--top-k", "1"]) == 0
    capsys.readouterr()
    assert run(["list", "--model", "me/sd", "-q"]) == 0
    name = capsys.readouterr().out.split()[0].partition("#")[2]
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()  # nothing can be loaded any more
    filled = [part.format(name, out=tmp_path / "out.png") for part in more]
    assert run([command, "me/sd", *filled]) == 2
    assert 'needs a prompt. Say what to generate: --prompt "…"' in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()
