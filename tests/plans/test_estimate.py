"""What a build costs is told from headers: the bytes are those a build then reads."""

import json
from pathlib import Path

from hub.fixtures import Client
from hub.server import Hub
from planned import put, write_plan


def test_bytes_are_those_a_build_reads_and_no_weight_is_fetched(hub: Hub, client: Client, tmp_path: Path) -> None:
    put(hub, "zoo/ddpm")
    put(hub, "zoo/dit", "DiTTransformer2DModel")
    plan = write_plan(
        tmp_path / "plan.toml", {"zoo/ddpm": "ddpm", "zoo/dit": "DiTTransformer2DModel", "zoo/none": "ddpm"}
    )
    done = client.run("plan", "--dry-run", str(plan), "--format", "json", "--mbit", "8")
    assert done.returncode == 1
    told = {row["id"]: row for row in json.loads(done.stdout)}
    assert "no such folder or repository" in told["zoo/none"]["error"]
    assert told["zoo/ddpm"]["seconds_to_read"] == round(told["zoo/ddpm"]["bytes_to_read"] / 1e6, 2)
    built = client.run("plan", str(plan), "--format", "json")
    for row in json.loads(built.stdout)[:2]:
        assert row["step_reports"][0]["bytes_read"] == told[row["id"]]["bytes_to_read"] > 0
        assert told[row["id"]]["bytes_to_read"] < told[row["id"]]["bytes_of_weights"]
