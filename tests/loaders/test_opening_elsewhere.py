"""What was built from a single file or from the Hub is drawn by the same id."""

import shutil
from pathlib import Path

import pytest
import saved
import torch
from hub.fixtures import Client
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
    pipe = saved.stable_diffusion(work).to(dtype=torch.float16)
    pipe.save_pretrained(work / "folder", variant="fp16")
    return work / "folder"


def test_a_single_file_is_built_and_drawn_by_one_id(folder: Path, tmp_path: Path) -> None:
    pipe = eb.open_pipeline(str(folder))
    place = tmp_path / "faces"
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.safetensors"))
    file = saved.single_file(pipe, place / "faces.safetensors")
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


def test_what_was_built_from_the_hub_is_drawn_by_its_id(hub: Hub, client: Client, folder: Path, tmp_path: Path) -> None:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    extra = tmp_path / "onnx"
    extra.write_bytes(bytes(5_000_000))
    hub.put("me/sd", {**files, "unet/model.onnx": extra, "README.md": b"x"})
    assert client.run("build", "me/sd", "--layers", "mid*", "--top-k", "1").returncode == 0
    steer = ["--set", "mid_block.attentions.0.transformer_blocks.0.attn1/output-value/0=1", "--prompt", "a man"]
    steer += ["--size", "16", "--seeds", "0", "--steps", "2", "--out", str(tmp_path / "out.png")]
    done = client.run("steer", "me/sd", *steer)
    assert done.returncode == 0, done.err if hasattr(done, "err") else done.stderr
    assert (tmp_path / "out.png").is_file()
    assert sum(hub.served.values()) < 5_000_000
    # Of what has two, only the variant asked for; as the checkpoint of another model it need not have been built.
    both = {**files, **{name.replace(".fp16.", "."): extra for name in files if ".fp16." in name}}
    variant = ["--variant", "fp16"]
    hub.put("me/both", both)
    hub.put("me/more", both)
    assert client.run("build", "me/both", *variant, "--layers", "mid*", "--top-k", "1").returncode == 0
    for more in (["me/both"], ["me/sd", "--checkpoint", "me/more"]):
        done = client.run("steer", *more, *variant, *steer)
        assert done.returncode == 0, done.stderr
    assert sum(hub.served.values()) < 5_000_000
    # Offline it is in the client's cache; as the checkpoint of another model it is a name like another.
    client.extra["HF_HUB_OFFLINE"] = "1"
    done = client.run("steer", "me/sd", "--checkpoint", "me/sd", *steer)
    assert done.returncode == 0, done.stderr
    done = client.run("steer", "me/sd", "--checkpoint", "me/none", *steer)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no checkpoint 'me/none'" in done.stderr
