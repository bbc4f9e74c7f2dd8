"""A pipeline is fetched whole, or not at all: diffusers takes half a cache for a pipeline when the Hub cannot be asked."""

import json
import shutil
from pathlib import Path

import pytest
from hub.fixtures import Client
from hub.server import Hub
from planned import put

from eigenbank.plans.transport import missing_part

FETCH = """
import sys
from eigenbank.plans import transport
from eigenbank.schemas.plan import PlanEntry
transport.time.sleep = lambda _: None
print(transport.fetch_pipeline(PlanEntry(id="zoo/one"), sys.argv[1]))
"""


def fetch(client: Client, revision: str) -> tuple[int, str, str]:
    done = client.python(FETCH, revision)
    return done.returncode, done.stdout.strip(), done.stderr


def half_fetched(hub: Hub, client: Client, lacking: str) -> str:
    """The client's cache holds all of a pipeline but one file or component, and not the listing of what should be there, which a download
    that was broken off leaves out; gives the revision.
    """
    revision = str(put(hub, "zoo/one", "sd"))
    code, folder, err = fetch(client, revision)
    assert code == 0, err
    part = Path(folder) / lacking
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    shutil.rmtree(Path(folder).parents[1] / "trees")
    return revision


@pytest.mark.parametrize("lacking", ["vae/diffusion_pytorch_model.safetensors", "tokenizer"])
def test_a_half_fetched_pipeline_is_completed_when_the_hub_can_be_asked_again(
    hub: Hub, client: Client, lacking: str
) -> None:
    revision = half_fetched(hub, client, lacking)
    hub.fault("info", "status", status=503, times=2)
    code, folder, err = fetch(client, revision)
    assert code == 0, err
    assert (Path(folder) / lacking).exists()


def test_a_half_fetched_pipeline_is_no_pipeline_when_it_cannot(hub: Hub, client: Client) -> None:
    revision = half_fetched(hub, client, "vae/diffusion_pytorch_model.safetensors")
    hub.fault("info", "status", status=503)
    code, out, err = fetch(client, revision)
    assert (code, out) == (1, "")
    assert "UnreachableError" in err.splitlines()[-1]
    assert "nothing was labelled or drawn" in err.lower()


def test_what_a_pipeline_lacks_is_named(tmp_path: Path) -> None:
    index = {
        "_class_name": "P",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "S"],
        "none": [None, None],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert missing_part(tmp_path) == "unet"
    for name, file in (("unet", "config.json"), ("scheduler", "scheduler_config.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    assert missing_part(tmp_path) == "unet's weights"
    (tmp_path / "unet" / "model-00001-of-00002.safetensors").write_text("")
    (tmp_path / "unet" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
    )
    assert missing_part(tmp_path) == "unet/model-00002-of-00002.safetensors"
    (tmp_path / "unet" / "model-00002-of-00002.safetensors").write_text("")
    assert missing_part(tmp_path) is None
    (tmp_path / "unet" / "model.fp16.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model.fp16-1-of-2.safetensors"}}'
    )
    assert missing_part(tmp_path) is None  # of a variant nobody asked for


@pytest.mark.parametrize(
    "index", ["[]", "{", "null", "[" * 100_000, '{"../../etc": ["a", "b"], "/": ["a", "b"], "unet": 7, "vae": []}']
)
def test_a_stranger_s_index_leads_nowhere(tmp_path: Path, index: str) -> None:
    (tmp_path / "model_index.json").write_text(index)
    assert missing_part(tmp_path) is None


@pytest.mark.parametrize("shards", ["[]", "{", '{"weight_map": 7}', '{"weight_map": {"a": 7, "b": "no.safetensors"}}'])
def test_a_stranger_s_list_of_shards_is_read_with_care(tmp_path: Path, shards: str) -> None:
    (tmp_path / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DModel"]}')
    (tmp_path / "unet").mkdir()
    for name, text in (("config.json", "{}"), ("one.safetensors", ""), ("one.safetensors.index.json", shards)):
        (tmp_path / "unet" / name).write_text(text)
    assert missing_part(tmp_path) is None
