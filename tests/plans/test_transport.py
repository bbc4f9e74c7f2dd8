"""Sets arrive as they were sent or not at all, and a pipeline counts as fetched only when it is complete."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import faces
import forks
import pytest
from hub.fixtures import Client
from hub.server import Hub
from planned import put

from eigenbank.plans.transport import missing_part, pack, unpack
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.registry.sets.folder import MANIFEST, VECTORS
from eigenbank.schemas.errors import SetError

FACES = faces.SET


def test_a_set_arrives_as_it_was(tmp_path: Path) -> None:
    packed = pack(FACES)
    folder = unpack(packed, tmp_path / "set")
    assert {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    } == packed
    assert len(DirectionSet.open(folder).vectors) == len(DirectionSet.open(FACES).vectors)


def test_a_damaged_one_leaves_nothing(tmp_path: Path) -> None:
    packed = pack(FACES)
    changed = {**packed, VECTORS: packed[VECTORS][:-1] + bytes([packed[VECTORS][-1] ^ 1])}
    lacking = {name: data for name, data in packed.items() if name != VECTORS}
    hostile = {**packed, MANIFEST: packed[MANIFEST].replace(b'"directions.safetensors":', b'"../outside":', 1)}
    for wrong, words in ((changed, "not what its manifest says"), (lacking, "lacks"), (hostile, "no manifest")):
        with pytest.raises(SetError, match=words):
            unpack(wrong, tmp_path / "set")
        assert not list(tmp_path.iterdir())


FETCH = """
import sys
from eigenbank.plans import transport
from eigenbank.schemas.errors import EigenbankError
from eigenbank.schemas.plan import PlanEntry
transport.time.sleep = lambda _: None
for line in sys.stdin:
    try:
        print(transport.fetch_pipeline("zoo/one", line.strip()), flush=True)
    except EigenbankError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
"""


@pytest.fixture
def fetch(client: Client) -> Iterator[Callable[[str], str]]:
    """Fetch a revision of `zoo/one` in a process of the client's. Returns the folder, or the error."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [forks.python(), "-c", FETCH],
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.DEVNULL,
        text=True,
        env=client.environment,
    )
    assert process.stdin
    assert process.stdout
    asked, answers = process.stdin, process.stdout

    def fetched(revision: str) -> str:
        asked.write(f"{revision}\n")
        asked.flush()
        return answers.readline().strip()

    yield fetched
    process.kill()
    process.communicate()


def test_a_half_fetched_pipeline_is_completed_or_counts_as_none(hub: Hub, fetch: Callable[[str], str]) -> None:
    revision = str(put(hub, "zoo/one", "sd"))
    folder = Path(fetch(revision))
    for lacking, times in (("vae/diffusion_pytorch_model.safetensors", 2), ("tokenizer", 2), ("vae", None)):
        # What an interrupted download leaves: parts are missing, and so is the listing that would tell.
        part = folder / lacking
        shutil.rmtree(part) if part.is_dir() else part.unlink()
        shutil.rmtree(folder.parents[1] / "trees", ignore_errors=True)
        if times is None:
            hub.fault("info", "status", status=503)
            assert fetch(revision).startswith("UnreachableError:")
            assert "nothing was drawn" in fetch(revision).lower()
        else:
            hub.fault("info", "status", status=503, times=times)
            assert fetch(revision) == str(folder)
            assert part.exists()


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
