"""The whole journey on the pipelines that people have: built, labelled, searched, drawn, exported, played with; and from Python."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
import torch
from PIL import Image

import eigenbank as eb
from eigenbank.cli.main import run
from eigenbank.loaders.sample import sample
from eigenbank.play.playground import Playground, Session
from eigenbank.play.request import parse_request
from eigenbank.schemas import SliderSetting
from eigenbank.schemas.drawing import Drawing

pytest.importorskip("transformers", reason="transformers is not installed (pip install 'eigenbank[text]')")

PROMPTS = ("--prompt", "abc", "--prompt", "zz")
FEW = ["--seeds=0,1", "--most=1", "--budget=400"]
INVERTIBLE = ("sd", "sdxl", "sd3", "flux")
USUAL = (("sd", "float32"), ("sd", "float16"), ("flux", "bfloat16"))
"""What CI runs every time: the rest is slow."""
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
    steps = "6" if kind == "wan" else "2"  # of fewer, each transformer has one, and its scheduler corrects none
    how = [*PROMPTS, *size, "--steps", steps]
    assert run(["build", str(folder), "--model-id", model, "--top-k", "1"]) == 0
    assert run(["label", model, *how, *FEW, "--labeler", "statistics"]) == 0
    assert "at most " in capsys.readouterr().err
    found = _rows(capsys, "search", "attn", "--model", model)
    name = next(row["id"] for row in found if ":output/" in row["id"])
    direction = name.partition("#")[2]

    out = tmp_path / "steer.png"
    assert run(["steer", model, "--set", f"{direction}=2", *how, "--seeds", "0,1", "--out", str(out)]) == 0
    said = capsys.readouterr().err
    height, width = tiny_pipelines.SIZE.get(kind) or ((256, 256) if kind == "pixart" else (16, 16))
    assert f"4 images × {steps} steps × {1 if kind == 'flux' else 2} pass" in said
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

    playground = Playground({model: folder}, Drawing(size=tiny_pipelines.SIZE.get(kind)))
    moved = parse_request(
        model=model, steps=int(steps), prompt="abc", sliders=[SliderSetting(key=direction, scale=2.0)]
    )
    shown = playground.sample(Session(), moved)
    assert shown is not None
    assert shown.edited.tobytes() != shown.unedited.tobytes()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        pytest.param(kind, dtype, marks=[] if (kind, dtype) in USUAL else pytest.mark.slow)
        for kind in tiny_pipelines.KINDS
        for dtype in ("float32", "bfloat16", "float16")
    ],
)
def test_python_does_the_same_in_every_dtype(
    kind: str, dtype: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = eb.open_pipeline(str(tiny_pipelines.save(kind, tmp_path / "checkpoint")), dtype=dtype)
    bank = eb.build(pipe, top_k=1)
    direction = next(each for each in bank if each.recipe.side == "output")
    how: dict[str, Any] = {"prompt": ["abc", "zz"], "size": tiny_pipelines.SIZE.get(kind), "steps": 2}
    plain = sample(pipe, [0, 1], **how)
    assert plain.isfinite().all()
    with eb.steer(pipe, {direction: 2.0}, bank=bank) as edit:
        edited = sample(pipe, [0, 1], **how)
    assert [term.match for term in edit.terms] == ["exact"]
    assert all((edited[number] - plain[number]).abs().max() > 1e-3 for number in (0, 1))
    assert torch.equal(sample(pipe, [0, 1], **how), plain)
    swept = eb.sweep(pipe, direction, [0, 2], seeds=[0, 1], bank=bank, **how)
    assert swept.pixels.isfinite().all()
    said: list[tuple[str, int, int]] = []
    shown = eb.preview(
        pipe, bank, [direction.id], seeds=[0], scales=[-1, 1], progress=lambda *each: said.append(each), **how
    )
    assert "2 prompts, and seeds for 1 image each: only the first is drawn" in caplog.text
    assert "2 images × 2 steps × " in caplog.text
    assert said[0] == ("images", 0, 2)
    assert said[-1] == ("images", 2, 2)
    assert len(shown.previews) == 1
    eb.export(shown, {direction.id: 1.0}, tmp_path / "lora.safetensors", pipe=pipe)  # with the lengths that it measured
    with eb.steer(pipe, {direction.id: 2.0}, bank=shown, fuse=True):
        assert (sample(pipe, [0, 1], **how) - plain).abs().max() > 1e-3


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
