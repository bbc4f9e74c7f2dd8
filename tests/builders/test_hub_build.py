"""A build from the Hub, through the real client in a process of its own: little is read, nothing half-written appears."""

import json
import re
import threading
import time
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hub.fixtures import Client, Worker
from hub.server import Hub
from making import Bomb, write_sparse

CONFIG: dict[str, Any] = {
    "_class_name": "UNet2DModel", "sample_size": 16, "block_out_channels": [256, 512, 768], "layers_per_block": 2,
    "down_block_types": ["DownBlock2D"] * 3, "up_block_types": ["UpBlock2D"] * 3, "attention_head_dim": 64,
}  # fmt: skip
STEM = "unet/diffusion_pytorch_model"


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | Path]:
    """A sharded float16 checkpoint of some hundred megabytes, its one attention random, all else a hole in the file."""

    from eigenbank.builders.discovery.fake_weights import empty_model

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


@pytest.fixture
def shop(shop: Hub, big: dict[str, bytes | Path]) -> Hub:
    """The Hub, with the big checkpoint."""
    shop.put("me/big", big)
    shop.forget()
    return shop


def test_a_build_from_the_hub_reads_a_small_part_and_says_how_much(shop: Hub, worker: Worker, tmp_path: Path) -> None:
    from eigenbank.registry.sets.folder import read_manifest

    done = worker.run("build", "me/big", "--top-k", "2", "--out", str(tmp_path / "set"))
    assert done.code == 0, done.err
    came, whole = network(done.err)
    assert whole > 200e6
    assert came < 0.1 * whole
    # What it says is what was sent, but for the few small files that come through the client.
    assert came <= sum(shop.served.values()) < came + 100e3
    checkpoint = read_manifest(tmp_path / "set").checkpoint
    assert checkpoint.revision == shop.head("me/big").sha
    assert checkpoint.licence == "mit"


def test_layers_of_a_repository_are_listed_without_its_weights(shop: Hub, worker: Worker) -> None:
    done = worker.run("build", "me/big", "--dry-run", "--format", "json")
    assert done.code == 0, done.err
    assert [row["layer"] for row in json.loads(done.out)] == ["mid_block.attentions.0"]
    assert sum(shop.served.values()) < 1e6


@pytest.mark.parametrize(
    ("kind", "action", "more"),
    [
        ("get", "cut", {"times": 2}),
        ("get", "reset", {"times": 2}),
        ("get", "lost", {"times": 2}),
        ("get", "status", {"times": 2, "status": 503}),
        ("get", "status", {"times": 1, "status": 429}),
        ("info", "status", {"times": 2, "status": 502}),
    ],
)
def test_a_moody_hub_is_survived(
    kind: str, action: str, more: dict[str, Any], shop: Hub, worker: Worker, tmp_path: Path
) -> None:
    shop.fault(kind, action, path="*.safetensors" if kind == "get" else "*", **more)
    done = worker.run("build", "me/big", "--top-k", "2", "--out", str(tmp_path / "set"))
    assert done.code == 0, done.err
    assert (tmp_path / "set" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("action", "more", "message"),
    [
        ("status", {"status": 403}, "private or gated"),
        ("status", {"status": 404, "after": 2}, "cannot be read by ranges (HTTP 404)"),
        ("wrong-size", {"after": 2}, "the server sent more than was asked for"),
    ],
)
def test_a_hub_that_fails_for_good_leaves_nothing(
    action: str, more: dict[str, Any], message: str, shop: Hub, worker: Worker, tmp_path: Path
) -> None:
    shop.fault("get", action, path="*.safetensors", **more)
    done = worker.run("build", "me/big", "--out", str(tmp_path / "set"))
    assert done.code == 1
    assert message in done.err
    assert "nothing was built" in done.err
    assert list(tmp_path.glob("*set*")) == []
    sets = worker.client.home / "eigenbank" / "sets"
    assert not sets.exists() or not any(sets.rglob("*"))


def test_a_revision_changed_midway_gives_the_one_that_was_begun_with(
    shop: Hub, worker: Worker, big: dict[str, Any], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    before = shop.put("me/moving", big)
    expected = worker.run("build", "me/moving", "--top-k", "2", "--out", str(tmp_path / "first"))
    assert expected.code == 0, expected.err
    worker.empty()
    shop.forget()
    # Once the first range has been asked for, somebody else's weights are pushed to the branch.
    shop.fault("get", "slow", path="*.safetensors", seconds=0.3)
    pushed = threading.Thread(target=lambda: push_later(shop, tiny_checkpoint))
    pushed.start()
    done = worker.run("build", "me/moving", "--top-k", "2", "--out", str(tmp_path / "second"))
    pushed.join()
    assert done.code == 0, done.err
    assert shop.head("me/moving").sha != before
    first, second = ((tmp_path / name / "directions.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second
    assert json.loads((tmp_path / "second" / "manifest.json").read_text())["checkpoint"]["revision"] == before


def push_later(hub: Hub, checkpoint: Path) -> None:
    """Push another checkpoint as soon as a file of the one that is there has been asked for."""
    deadline = time.monotonic() + 60
    while not hub.requests["get"] and time.monotonic() < deadline:
        time.sleep(0.01)
    hub.put("me/moving", files_of(checkpoint), delete=[f"{STEM}.safetensors.index.json"])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_not_there_is_said(shop: Hub, worker: Worker) -> None:
    for args, message in (
        (["me/none"], "the Hub has no such repository"),
        (["me/big", "--revision", "no"], "me/big@no cannot be fetched: the repository has no such revision"),
        (["me/big", "--variant", "fp16"], "has no variant 'fp16'"),
    ):
        done = worker.run("build", "--dry-run", *args)
        assert done.code == 1
        assert message in done.err


def test_a_private_repository_needs_a_token(shop: Hub, worker: Worker, big: dict[str, Any], tmp_path: Path) -> None:
    shop.put("me/private", big, private=True)
    assert worker.run("build", "--dry-run", "me/private").code == 0
    shop.put("me/gated", big)
    shop.store.repos["models", "me/gated"].gated = True
    assert worker.run("build", "--dry-run", "me/gated").code == 0
    with Worker(Client(shop, tmp_path, token=None)) as stranger:
        for repo, message in (
            ("me/private", "for a private one log in"),
            ("me/gated", "the repository is gated. Ask for access"),
        ):
            refused = stranger.run("build", repo)
            assert refused.code == 1
            assert message in refused.err


def test_a_pickle_on_the_hub_is_read_as_tensors_and_code_in_it_is_not_run(
    shop: Hub, worker: Worker, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    files = files_of(tiny_checkpoint)
    tensors = load_file(tiny_checkpoint / f"{STEM}.safetensors")
    del files[f"{STEM}.safetensors"]
    for repo, content in (("me/pickle", tensors), ("me/bomb", {"x": Bomb(tmp_path / "ran")})):
        torch.save(content, tmp_path / "saved.bin")
        shop.put(repo, files | {f"{STEM}.bin": (tmp_path / "saved.bin").read_bytes()})
    done = worker.run("build", "me/pickle", "--top-k", "1", "--out", str(tmp_path / "set"))
    assert done.code == 0, done.err
    refused = worker.run("build", "me/bomb", "--top-k", "1", "--out", str(tmp_path / "bad"))
    assert refused.code == 1
    assert "nothing of it was run" in refused.err
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "bad").exists()


def test_offline_the_cache_is_used_and_what_it_lacks_is_said(
    shop: Hub, worker: Worker, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    commit = shop.put("me/tiny", files_of(tiny_checkpoint))
    assert worker.run("build", "me/big", "--top-k", "1", "--out", str(tmp_path / "ranged")).code == 0
    code = "import huggingface_hub as h; h.snapshot_download('me/tiny')"
    assert worker.client.python(code).returncode == 0
    shop.forget()
    with Worker(Client(shop, worker.client.home, extra={"HF_HUB_OFFLINE": "1"})) as offline:
        done = offline.run("build", "me/tiny", "--top-k", "1", "--out", str(tmp_path / "set"))
        assert done.code == 0, done.err
        assert json.loads((tmp_path / "set" / "manifest.json").read_text())["checkpoint"]["revision"] == commit
        # Of what was built by ranges the small files are there, under their commit, and the weights are not.
        for args, message in (
            (["me/other"], "me/other is not in the cache"),
            (["me/big"], "fetch it with `hf download me/big`"),
            (["me/big", "--revision", shop.head("me/big").sha], "the cache does not hold all of me/big"),
        ):
            refused = offline.run("build", *args, "--out", str(tmp_path / "none"))
            assert refused.code == 1
            assert message in refused.err
    assert not shop.requests
    assert not (tmp_path / "none").exists()
