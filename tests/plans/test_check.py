"""A plan is compared with the Hub, entry by entry, and pinned; what building would cost comes from headers alone."""

import json
from pathlib import Path
from typing import Any

from hub.fixtures import Client
from hub.server import Hub
from planned import put, write_plan

from eigenbank.builders.label.settings import LabelSettings, images_for, images_to_screen
from eigenbank.builders.label.statistics import NAMES


def check(client: Client, plan: Path, *more: str) -> tuple[int, dict[str, Any]]:
    done = client.run("plan", "--check", str(plan), "--format", "json", *more)
    assert done.stdout.startswith("["), done.stderr
    return done.returncode, {row["id"]: row for row in json.loads(done.stdout)}


def test_every_line_is_held_against_the_hub_and_what_was_found_is_pinned(
    hub: Hub, client: Client, tmp_path: Path
) -> None:
    commits = {name: put(hub, f"zoo/{name}") for name in ("right", "wrong", "old", "gated", "secret", "gone")}
    hub.repo("zoo/gated").gated = hub.repo("zoo/secret").gated = True
    plan = tmp_path / "plan.toml"
    plan.write_text(
        """
        [[checkpoint]]
        id = "zoo/right"
        subfolder = "unet"
        denoiser = "UNet2DModel"
        licence = "mit"
        gated = false
        [[checkpoint]]
        id = "zoo/wrong"
        denoiser = "FluxTransformer2DModel"
        licence = "apache-2.0"
        gated = true
        [[checkpoint]]
        id = "zoo/nowhere"
        repo = "zoo/right"
        subfolder = "transformer"
        [[checkpoint]]
        id = "zoo/old"
        [[checkpoint]]
        id = "zoo/gated"
        gated = true
        [[checkpoint]]
        id = "zoo/gone"
        [[checkpoint]]
        id = "zoo/branch"
        repo = "zoo/right"
        revision = "v9"
        """
    )
    assert check(client, plan)[0] == 1
    hub.store.rename("models", "zoo/old", "zoo/new")
    del hub.store.repos["models", "zoo/gone"]
    hub.fault("*", "status", status=503, chance=0.1)
    code, found = check(client, plan)
    assert code == 1
    assert found["zoo/right"]["status"] == "right"
    for name, words in {
        "zoo/wrong": [
            "gated = true, the Hub false",
            "licence = 'apache-2.0', its card mit",
            "config.json 'UNet2DModel'",
        ],
        "zoo/nowhere": ["no subfolder 'transformer'"],
        "zoo/old": ["renamed to zoo/new"],
        "zoo/gated": ["the repository is gated. Ask for access"],
        "zoo/gone": ["no such repository"],
        "zoo/branch": ["no such revision"],
    }.items():
        said = " ".join(found[name]["problems"])
        assert all(word in said for word in words), (name, said)
    pins = json.loads((tmp_path / "plan.lock").read_text())["checkpoints"]
    assert {name: pin["revision"] for name, pin in pins.items()} == {
        "zoo/right": commits["right"], "zoo/wrong": commits["wrong"], "zoo/nowhere": commits["right"], "zoo/old": commits["old"],
        "zoo/gated": commits["gated"],
    }  # fmt: skip


def test_what_was_not_asked_keeps_its_pin_and_a_dry_run_pins_nothing(hub: Hub, client: Client, tmp_path: Path) -> None:
    first = {name: put(hub, name) for name in ("zoo/a", "zoo/b")}
    plan, lock = tmp_path / "plan.toml", tmp_path / "other.lock"
    plan.write_text('[[checkpoint]]\nid = "zoo/a"\n[[checkpoint]]\nid = "zoo/b"\n')
    assert check(client, plan, "--dry-run")[0] == 0
    assert not (tmp_path / "plan.lock").exists()
    assert check(client, plan, "--lock", str(lock))[0] == 0
    second = {name: put(hub, name, seed=1) for name in first}
    assert check(client, plan, "--lock", str(lock), "--only", "*/b")[0] == 0
    pins = {name: pin["revision"] for name, pin in json.loads(lock.read_text())["checkpoints"].items()}
    assert pins == {"zoo/a": first["zoo/a"], "zoo/b": second["zoo/b"]}


def test_a_hub_that_is_down_costs_no_pins(hub: Hub, client: Client, tmp_path: Path) -> None:
    put(hub, "zoo/a")
    plan = tmp_path / "plan.toml"
    plan.write_text('[[checkpoint]]\nid = "zoo/a"\n')
    assert check(client, plan)[0] == 0
    before = json.loads((tmp_path / "plan.lock").read_text())["checkpoints"]
    hub.fault("info", "status", status=503)
    code, found = check(client, plan)
    assert code == 1
    assert "the Hub is failing" in found["zoo/a"]["problems"][0]
    assert json.loads((tmp_path / "plan.lock").read_text())["checkpoints"] == before


def test_bytes_are_those_a_build_reads_and_no_weight_is_fetched(hub: Hub, client: Client, tmp_path: Path) -> None:
    put(hub, "zoo/ddpm")
    put(hub, "zoo/dit", "DiTTransformer2DModel")
    plan = write_plan(
        tmp_path / "plan.toml", {"zoo/ddpm": "ddpm", "zoo/dit": "DiTTransformer2DModel", "zoo/none": "ddpm"}
    )
    done = client.run("plan", "--dry-run", str(plan), "--format", "json")
    assert done.returncode == 1
    told = {row["id"]: row for row in json.loads(done.stdout)}
    assert "the Hub has no such repository" in told["zoo/none"]["error"]
    assert told["zoo/ddpm"]["seconds_to_read"] == round(told["zoo/ddpm"]["bytes_to_read"] / 12.5e6, 2)
    built = client.run("plan", str(plan), "--format", "json", "--jobs", "1")
    for row in json.loads(built.stdout)[:2]:
        assert row["step_reports"][0]["bytes_read"] == told[row["id"]]["bytes_to_read"] > 0
        assert told[row["id"]]["bytes_to_read"] < told[row["id"]]["bytes_of_weights"]


def test_a_pipeline_without_the_prompt_it_needs_is_told_and_its_pictures_are_counted(
    hub: Hub, client: Client, tmp_path: Path
) -> None:
    put(hub, "zoo/sd", "sd")
    put(hub, "zoo/ddpm")
    plan = tmp_path / "plan.toml"
    entry = '[[checkpoint]]\nid = "zoo/{}"\n{}\n'
    prompted = 'drawing = {prompts = ["a face", "a dog"]}'
    plan.write_text("[defaults]\ntop_k = 2\n" + entry.format("sd", "") + entry.format("ddpm", prompted))
    code, found = check(client, plan)
    assert code == 1
    assert "a StableDiffusionPipeline needs a prompt: give it in the entry's" in found["zoo/sd"]["problems"][0]
    assert "takes no prompt" in found["zoo/ddpm"]["problems"][0]

    plan.write_text(
        "[defaults]\ntop_k = 2\n" + entry.format("sd", prompted) + entry.format("ddpm", 'steps = ["build"]')
    )
    assert check(client, plan)[0] == 0
    done = client.run("plan", "--dry-run", str(plan), "--format", "json")
    rows = {row["id"]: row for row in json.loads(done.stdout)}
    directions = 2 * 2 * rows["zoo/sd"]["layers"]
    assert rows["zoo/sd"]["images_to_screen"] == images_to_screen(directions, len(NAMES), LabelSettings())
    assert rows["zoo/sd"]["images_of_previews"] == min(64, directions) * 3 * 9
    labelled, previewed = rows["zoo/sd"]["images_to_label"], rows["zoo/sd"]["images_of_previews"]
    assert labelled == images_for(directions, 2 * rows["zoo/sd"]["layers"], len(NAMES), LabelSettings())
    assert labelled > 2 * rows["zoo/sd"]["images_to_screen"], "confirmation and qualities count"
    assert rows["zoo/sd"]["passes"] == 2 * (10 * labelled + 50 * previewed)
    assert rows["zoo/ddpm"]["images"] == 0
