"""What programs rely on: in JSON every row of every command says what it is."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import tiny_pipelines
from builders.labelers.test_clip import VOCABULARY
from builders.labelers.test_clip import tiny as tiny_clip
from hub.fixtures import Client
from hub.server import Hub
from loras import lora_of
from PIL import Image
from planned import put, write_plan

import eigenbank as eb
from eigenbank.cli.main import cli
from eigenbank.cli.output import FORMATS

HOW = ["--prompt", "abc", "--steps", "2", "--size", "32"]


def commands(group: click.Group, *above: str) -> Iterator[str]:
    """The names of all commands that print rows."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)
        elif command and any(getattr(each.type, "choices", None) == FORMATS for each in command.params):
            yield " ".join([*above, name])


def test_every_row_of_every_command_begins_with_its_kind_and_version(tmp_path: Path, client: Client, hub: Hub) -> None:
    pytest.importorskip("peft")
    folder = tiny_pipelines.save("sd", tmp_path / "sd")
    lora = lora_of(eb.open_pipeline(folder, device="cpu").unet, "unet", tmp_path / "smile.safetensors")
    Image.new("RGB", (32, 32), (90, 60, 30)).save(tmp_path / "photo.png")
    words = tmp_path / "words.json"
    words.write_text(json.dumps(VOCABULARY))
    clip = f"clip:{tiny_clip(tmp_path / 'clip', 'clip')}#{words}"
    put(hub, "zoo/planned")
    plan = write_plan(tmp_path / "plan.toml", {"zoo/planned": "ddpm"})
    out, mine = str(tmp_path / "edit.png"), str(tmp_path / "mine")
    calls = [
        ["build", str(folder), "--dry-run"],
        ["build", str(folder), "--model-id", "me/sd", "--top-k", "1", "--out", mine],
        ["catalog", "import", mine],
        ["import-lora", str(lora), "--model", "me/sd", "--label", "big smile"],
        ["label", "me/sd", *HOW, "--labeler", clip, "--seeds", "0", "--most", "1", "--budget", "80"],
        ["find", "me/sd", "a face", *HOW, "--labeler", clip, "--no-confirm"],
        ["find", "me/sd", "a hat", "--prompt", "abc", "--no-draw"],
        ["preview", "me/sd", "lora/big-smile", *HOW],
        ["measure", "me/sd", *HOW],
        ["list"],
        ["list", "--model", "me/sd"],
        ["search", "smile"],
        ["search", "--like", "a face", "--model", "me/sd", "--labeler", clip],
        ["show", "me/sd"],
        ["show", "me/sd#lora/big-smile"],
        ["match", "me/sd", str(folder)],
        ["match", "me/sd", "me/sd", "--with-set"],
        ["edit", str(tmp_path / "photo.png"), "--model", "me/sd", "--set", "big smile=1", *HOW, "--out", out],
        ["gallery", "--out", str(tmp_path / "site")],
        ["publish", "me/sd", "--repo", "me/sd-directions", "--dry-run"],
        ["publish", "me/sd", "--repo", "me/sd-directions"],
        ["verify", "me/sd"],
        ["catalog", "stats"],
        ["sync"],
        ["pull", "me/sd-directions"],
        ["plan", "--check", str(plan)],
        ["plan", "--dry-run", str(plan)],
        ["plan", str(plan), "--jobs", "1"],
        ["doctor"],
    ]
    called = {" ".join(call[: 2 if call[0] == "catalog" else 1]) for call in calls}
    assert called == set(commands(cli))  # type: ignore[arg-type]
    for call in calls:
        if call[0] == "sync":
            assert client.run("catalog", "rm", "me/sd", "--files").returncode == 0
        done = client.run(*call, "--format", "json")
        rows = json.loads(done.stdout or "[]")
        assert rows, (call, done)
        assert all(re.fullmatch(r"eigenbank/[a-z-]+/1", next(iter(row.items()))[1]) for row in rows), call
