"""A build from the Hub, through the real client in a process of its own: little is read, nothing half-written appears."""

import json
import re
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
from making import write_sparse

pytest.importorskip("hub.server", reason="the loopback Hub server of tests/hub is not there")

CONFIG: dict[str, Any] = {
    "_class_name": "UNet2DModel", "sample_size": 16, "block_out_channels": [256, 512, 768], "layers_per_block": 2,
    "down_block_types": ["DownBlock2D"] * 3, "up_block_types": ["UpBlock2D"] * 3, "attention_head_dim": 64,
}  # fmt: skip
STEM = "unet/diffusion_pytorch_model"


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | Path]:
    """A sharded float16 checkpoint of some hundred megabytes, its one attention random, all else a hole in the file."""

    from eigenbank.builders.denoisers import empty_model

    folder = tmp_path_factory.mktemp("big")
    parameters = [(name, tuple(p.shape)) for name, p in empty_model(CONFIG).named_parameters()]
    half = sum(prod(shape) for _, shape in parameters) // 2
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[], []]
    count = 0
    for name, shape in parameters:
        shards[count > half].append((name, shape))
        count += prod(shape)
    files: dict[str, bytes | Path] = {
        "model_index.json": json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}).encode(),
        "unet/config.json": json.dumps(CONFIG).encode(),
        "README.md": b"---\nlicense: mit\n---\n",
    }
    weight_map = {}
    for number, shard in enumerate(shards):
        path = folder / f"{number}.safetensors"
        stored = f"{STEM}-{number + 1:05}-of-00002.safetensors"
        files[stored] = path
        held = write_sparse(path, dict(shard), lambda name: "attentions" in name)
        weight_map |= dict.fromkeys(held, Path(stored).name)
    files[f"{STEM}.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    return files


def network(err: str) -> tuple[int, int]:
    """The bytes that came, and those the weights take, as the command says them."""
    found = re.search(r"([\d,]+) bytes came over the network, of ([\d,]+)", err)
    assert found, err
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


def test_a_build_from_the_hub_reads_a_small_part(hub: Any, client: Any, big: dict[str, Any], tmp_path: Path) -> None:
    from eigenbank.registry.sets import read_manifest

    commit = hub.put("me/big", big)
    done = client.run("build", "me/big", "--top-k", "2", "--out", str(tmp_path / "set"))
    assert done.returncode == 0, done.stderr
    came, whole = network(done.stderr)
    assert whole > 200e6
    assert came < 0.1 * whole
    checkpoint = read_manifest(tmp_path / "set").checkpoint
    assert checkpoint.revision == commit
    assert checkpoint.licence == "mit"


def test_layers_of_a_repository_are_listed_without_its_weights(hub: Any, client: Any, big: dict[str, Any]) -> None:
    hub.put("me/big", big)
    done = client.run("layers", "me/big", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert [row["layer"] for row in json.loads(done.stdout)] == ["mid_block.attentions.0"]
    assert sum(hub.served.values()) < 10e6


@pytest.mark.parametrize(
    ("kind", "action", "more"),
    [
        ("get", "cut", {"times": 2}),
        ("get", "status", {"times": 2, "status": 503}),
        ("get", "status", {"times": 1, "status": 429}),
    ],
)
def test_a_moody_hub_is_survived(
    kind: str, action: str, more: dict[str, Any], hub: Any, client: Any, big: dict[str, Any], tmp_path: Path
) -> None:
    hub.put("me/big", big)
    hub.fault(kind, action, path="*.safetensors", **more)
    done = client.run("build", "me/big", "--top-k", "2", "--out", str(tmp_path / "set"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "set" / "manifest.json").is_file()


def test_a_hub_that_fails_for_good_leaves_nothing(hub: Any, client: Any, big: dict[str, Any], tmp_path: Path) -> None:
    hub.put("me/big", big)
    hub.fault("get", "status", path="*.safetensors", status=403)
    done = client.run("build", "me/big", "--out", str(tmp_path / "set"))
    assert done.returncode == 1
    assert "nothing was built" in done.stderr
    assert list(tmp_path.glob("*set*")) == []


def test_a_repository_or_revision_that_is_not_there(hub: Any, client: Any, big: dict[str, Any]) -> None:
    hub.put("me/big", big)
    for args, message in (
        (["me/none"], "no such folder or repository"),
        (["me/big", "--revision", "no"], "has no revision 'no'"),
    ):
        done = client.run("layers", *args)
        assert done.returncode == 1
        assert message in done.stderr


def test_a_private_repository_needs_a_token(hub: Any, make_client: Callable[..., Any], big: dict[str, Any]) -> None:
    hub.put("me/big", big, private=True)
    assert make_client("stranger", token=None).run("layers", "me/big").returncode == 1
    assert make_client("owner").run("layers", "me/big").returncode == 0
