"""What was built from a single file or from the Hub is drawn by the same id."""

import shutil
from pathlib import Path

import pytest
import tiny_pipelines
import torch
from hub.fixtures import Client, Worker
from hub.server import Hub

import eigenbank as eb
from eigenbank.api import find_checkpoint
from eigenbank.loaders.sample import sample
from eigenbank.registry.local import store
from eigenbank.schemas.errors import EigenbankError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
FEW = {"layers": "mid*", "recipes": "output-value:output", "top_k": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion with prompts, in float16. Not to be changed."""
    work = tmp_path_factory.mktemp("sd")
    pipe = tiny_pipelines.make("sd").to(dtype=torch.float16)
    pipe.save_pretrained(work / "folder", variant="fp16")
    return work / "folder"


def test_a_single_file_is_built_and_drawn_by_one_id(folder: Path, tmp_path: Path) -> None:
    pipe = eb.open_pipeline(str(folder))
    place = tmp_path / "faces"
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.safetensors"))
    file = tiny_pipelines.single_file(pipe, place / "faces.safetensors")
    made = eb.build(str(file), **FEW)
    bank = store(made, checkpoint=file)
    assert bank.model_id.startswith("local/faces-")
    assert find_checkpoint(bank.model_id) == (bank.model_id, file)
    call = {"prompt": "a man", "height": 16, "width": 16}
    plain = sample(pipe, [0], 2, **call)
    for given in (bank.model_id, str(file)):
        opened = eb.open_pipeline(given)
        torch.testing.assert_close(sample(opened, [0], 2, **call), plain, atol=1e-4, rtol=0)
        with eb.steer(opened, {next(iter(bank)).id: 3.0}) as edit:
            assert all(term.match == "exact" for term in edit.terms)
            assert (sample(opened, [0], 2, **call) - plain).abs().max() > 1e-4


def test_a_file_that_is_no_checkpoint_is_not_drawn(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a.lora_A.weight": torch.ones(2, 2), "a.lora_B.weight": torch.ones(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(EigenbankError, match="a LoRA"):
        eb.open_pipeline(str(tmp_path / "lora.safetensors"))


WEIGHTS = 5_000_000
"""More bytes than the pipeline takes, fewer than what it must not fetch."""


def test_what_was_built_from_the_hub_is_drawn_by_its_id(hub: Hub, client: Client, folder: Path, tmp_path: Path) -> None:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    extra = tmp_path / "onnx"
    extra.write_bytes(bytes(WEIGHTS))
    hub.put("me/sd", {**files, "unet/model.onnx": extra, "README.md": b"x"})
    # Of what has two, only the variant asked for; as the checkpoint of another model it need not have been built.
    both = {**files, **{name.replace(".fp16.", "."): extra for name in files if ".fp16." in name}}
    hub.put("me/both", both)
    hub.put("me/more", both)
    few, variant = ["--layers", "mid*", "--top-k", "1"], ["--variant", "fp16"]
    name = "mid_block.attentions.0.transformer_blocks.0.attn1/output-value/0"
    how = ["--size", "16", "--seeds", "0", "--steps", "2", "--out", str(tmp_path / "out.png")]
    steer = ["--set", f"{name}=1", "--prompt", "a man", *how]
    with Worker(client) as worker:
        assert worker.run("build", "me/sd", *few).code == 0
        before = sum(hub.served.values())
        wrong = worker.run("steer", "me/sd", "--set", "no such name=1", "--prompt", "a man", *how)
        assert "no such name" in wrong.err
        without = worker.run("steer", "me/sd", "--set", f"{name}=1", *how)
        assert (wrong.code, without.code) == (1, 2)
        assert "needs a prompt" in without.err
        assert sum(hub.served.values()) - before < 5_000, "what fails by what was typed fetches no weights"
        # The pipeline is that of the commit it was built from, whatever came since.
        hub.put("me/sd", {**files, "unet/diffusion_pytorch_model.fp16.safetensors": b"x"})
        done = worker.run("steer", "me/sd", *steer)
        assert done.code == 0, done.err
        assert (tmp_path / "out.png").is_file()
        assert sum(hub.served.values()) < WEIGHTS
        assert worker.run("build", "me/both", *variant, *few).code == 0
        for more in (["me/both"], ["me/sd", "--checkpoint", "me/more"]):
            done = worker.run("steer", *more, *variant, *steer)
            assert done.code == 0, done.err
        assert sum(hub.served.values()) < WEIGHTS
    code = """
from eigenbank.api import find_checkpoint
own, named = find_checkpoint("me/sd"), find_checkpoint("me/sd", revision="main")
assert own[0] == named[0] == "me/sd"
weights = "unet/diffusion_pytorch_model.fp16.safetensors"
assert (own[1] / weights).stat().st_size > 1 == (named[1] / weights).stat().st_size, (own, named)
"""
    found = client.python(code)
    assert found.returncode == 0, found.stderr
    # Offline it is in the client's cache; as the checkpoint of another model it is a name like another.
    client.extra["HF_HUB_OFFLINE"] = "1"
    done = client.run("steer", "me/sd", "--checkpoint", "me/sd", *steer)
    assert done.returncode == 0, done.stderr
    assert "torchvision" not in done.stderr
    done = client.run("steer", "me/sd", "--checkpoint", "me/none", *steer)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no checkpoint 'me/none'" in done.stderr
