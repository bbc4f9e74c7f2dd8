"""`import-lora`: a slider somebody trained, through every command that takes a direction."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
from hub.fixtures import Client
from hub.server import Hub
from loras import lora_of
from PIL import Image

import eigenbank as eb
from eigenbank.cli.main import run

pytest.importorskip("peft")
HOW = ("--prompt", "abc", "--steps", "2", "--size", "32")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_pipelines.save("sd", tmp_path / "sd")


@pytest.fixture
def file(checkpoint: Path, tmp_path: Path) -> Path:
    unet = eb.open_pipeline(checkpoint, device="cpu").unet
    return lora_of(unet, "unet", tmp_path / "smile.safetensors")


def rows(capsys: Capture, *args: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run([*args, "--format", "json"]) == 0, capsys.readouterr().err
    return list(json.loads(capsys.readouterr().out))


def test_it_is_searched_shown_used_measured_and_taken_out_again(
    checkpoint: Path, file: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert run(["build", str(checkpoint), "--model-id", "me/sd", "--top-k", "1"]) == 0
    (row,) = rows(capsys, "import-lora", str(file), "--model", "me/sd", "--label", "big smile")
    assert row["id"] == "me/sd#lora/big-smile"
    file.unlink()  # a copy is kept
    assert rows(capsys, "search", "smile")[0]["id"] == row["id"]
    assert rows(capsys, "list", "--model", "me/sd")[-1]["id"] == row["id"]
    assert "author:smile.safetensors" in json.dumps(rows(capsys, "show", row["id"]))
    capsys.readouterr()
    assert run(["show", row["id"]]) == 0
    assert "composite" not in capsys.readouterr().out
    assert run(["labels", "add", row["id"], "grin", "--by", "ann"]) == 0
    assert rows(capsys, "search", "grin")[0]["id"] == row["id"]

    assert run(["steer", "me/sd", "--set", "big smile=2", *HOW, "--out", str(tmp_path / "a.png")]) == 0
    assert "hardly visible" not in capsys.readouterr().err
    assert run(["sweep", "me/sd", "grin", *HOW, "--scales=-1,0,1", "--out", str(tmp_path / "b.png")]) == 0
    with Image.open(tmp_path / "b.png") as image:
        assert len(image.convert("RGB").getcolors(10**6)) > 100
    assert run(["preview", "me/sd", "lora/big-smile", *HOW]) == 0
    few = ["--seeds=0,1", "--most=1", "--budget=400", "--labeler", "statistics"]
    assert run(["label", "me/sd", "--prompt", "abc", "--steps", "2", *few]) == 0
    bank = eb.load("me/sd")
    (lora,) = bank.loras
    assert lora.quality is not None
    assert lora.record.preview is not None
    assert {label.text for label in lora.labels} >= {"big smile", "grin"}
    assert run(["export", "me/sd", "big smile", "--format", "json", "--out", str(tmp_path / "a.json")]) == 1
    assert "is a LoRA file already" in capsys.readouterr().err
    assert run(["gallery", "--out", str(tmp_path / "gallery")]) == 0
    page = "".join(
        each.read_text() for each in (tmp_path / "gallery").rglob("*.js") if "lora/big-smile" in each.read_text()
    )
    assert "big smile" in page

    # What would be lost is said, and what is derived comes again.
    assert run(["build", str(checkpoint), "--model-id", "me/sd", "--top-k", "1"]) == 1
    said = capsys.readouterr().err
    assert "1 LoRA " in said or "1 LoRA and" in said or "1 LoRA," in said
    assert "composite" not in said
    assert run(["catalog", "reindex"]) == 0
    assert run(["verify"]) == 0
    assert rows(capsys, "search", "grin")[0]["id"] == row["id"]
    assert run(["import-lora", "lora/big-smile", "--model", "me/sd", "--remove"]) == 0
    assert not eb.load("me/sd").loras


def test_wrong_calls(checkpoint: Path, file: Path, capsys: Capture) -> None:
    assert run(["build", str(checkpoint), "--model-id", "me/sd", "--top-k", "1"]) == 0
    for args, code, said in [
        ([str(file), "--model", "me/sd"], 2, "give --label TEXT"),
        ([str(file), "--model", "me/sd", "--label", "smile", "--remove"], 2, "give --label TEXT"),
        ([str(file), "--model", "me/other", "--label", "smile"], 1, "me/other"),
        ([str(checkpoint / "unet"), "--model", "me/sd", "--label", "smile"], 1, "tensors are called"),
        ([str(checkpoint), "--model", "me/sd", "--label", "smile"], 1, "0 safetensors files"),
        (["lora/smile", "--model", "me/sd", "--remove"], 1, "no LoRA in me/sd"),
        ([str(file), "--model", "me/sd", "--label", "a" * 10_000], 1, "no label"),
    ]:
        capsys.readouterr()
        assert run(["import-lora", *args]) == code, args
        assert said in capsys.readouterr().err, args
    assert not eb.load("me/sd").loras


def test_from_the_hub_and_back(
    hub: Hub, make_client: Callable[..., Client], checkpoint: Path, file: Path, tmp_path: Path
) -> None:
    """A set names a LoRA of the Hub by its commit and digest: whoever pulls it fetches the file from its author's repository."""
    hub.put("ann/smile", {"smile.safetensors": file.read_bytes(), "README.md": b"---\nlicense: mit\n---\n"})
    hub.put("ann/two", {"a.safetensors": file.read_bytes(), "b.safetensors": file.read_bytes()})
    first, second = make_client("first"), make_client("second")
    for args in (
        ("build", str(checkpoint), "--model-id", "me/sd", "--top-k", "1"),
        ("import-lora", "ann/smile", "--model", "me/sd", "--label", "smile"),
        ("import-lora", "ann/two/b.safetensors", "--model", "me/sd", "--label", "grin"),
        ("publish", "me/sd", "--repo", "me/sd-directions"),
    ):
        done = first.run(*args)
        assert done.returncode == 0, done.stderr
    assert not any("lora" in name or "smile" in name for name in hub.files("me/sd-directions"))
    done = first.run("import-lora", "ann/two", "--model", "me/sd", "--label", "smirk")
    assert done.returncode == 1
    assert "2 safetensors files: a.safetensors, b.safetensors" in done.stderr
    assert second.run("pull", "me/sd-directions").returncode == 0
    out = tmp_path / "a.png"
    steer = ("steer", "me/sd", "--checkpoint", str(checkpoint), "--set", "smile=2", *HOW, "--out", str(out))
    done = second.run(*steer)
    assert done.returncode == 0, done.stderr
    assert out.is_file()
    # Changed where it came from: the digest tells.
    third = make_client("third")
    assert third.run("pull", "me/sd-directions").returncode == 0
    done = third.run("search", "smile", "--format", "json")
    assert json.loads(done.stdout)[0]["id"] == "me/sd#lora/smile"
