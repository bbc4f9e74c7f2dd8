"""Carry direction sets between machines as bytes, and fetch pipelines from the Hub, whole or not at all."""

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from eigenbank.registry.files import parse_json, read_bounded
from eigenbank.registry.sets.folder import MANIFEST, file_mismatch, read_manifest
from eigenbank.schemas.errors import SetError, UnreachableError

T = TypeVar("T")
SetFiles = Mapping[str, bytes]
"""The files of a direction set by name."""
FETCH_TRIES = 6
_WEIGHTS = (".safetensors", ".bin", ".msgpack", ".pt", ".gguf")


def retry(call: Callable[[], T], tries: int) -> tuple[T, int]:
    """Call again, after growing pauses, while the Hub does not answer. Returns the value and the number of tries.

    Raises UnreachableError from the last try.
    """
    for attempt in range(1, tries):
        try:
            return call(), attempt
        except UnreachableError:
            time.sleep(min(8.0, 0.1 * 2**attempt))
    return call(), tries


def pack(folder: Path) -> dict[str, bytes]:
    """Read a set's files: the manifest, and those it lists. Raises SetError where one is missing."""
    manifest = read_manifest(folder)
    try:
        return {name: (folder / name).read_bytes() for name in (MANIFEST, *manifest.files)}
    except OSError as error:
        message = (
            f"{error.filename} cannot be read ({error.strerror}): the set at {folder} is incomplete. Build it again"
        )
        raise SetError(message) from error


def unpack(files: SetFiles, folder: Path) -> Path:
    """Write a set's files into a new folder, each checked against the manifest's digest. Returns the folder.

    Only files that the manifest lists are written, and it can name none outside the set. Raises SetError where a file is
    missing or different, or cannot be written; then the folder is removed.
    """
    try:
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_bytes(files[MANIFEST])
        for name, entry in read_manifest(folder).files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(files[name])
            if file_mismatch(folder / name, entry):
                message = (
                    f"{name}, received from a worker, is not what its manifest says: nothing was kept. Run it again"
                )
                raise SetError(message)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, KeyError):
            message = f"a set received from a worker lacks {error.args[0]}: nothing was kept. Run it again"
            raise SetError(message) from error
        if isinstance(error, OSError):
            message = (
                f"{folder} cannot be written ({error.strerror}): nothing was kept. Make room, or set EIGENBANK_HOME"
            )
            raise SetError(message) from error
        raise
    return folder


def fetch_pipeline(source: str, revision: str | None, variant: str | None = None) -> Path:
    """Download a checkpoint's pipeline through the Hub client's cache: what sampling needs, and no other weights.

    When the Hub does not answer, diffusers returns whatever part of the pipeline is cached; an incomplete one counts as
    not fetched. Returns its folder. Raises HubError.
    """
    from diffusers import DiffusionPipeline

    from eigenbank.registry.hub.client import hub_errors

    outcome = "nothing was drawn"

    def download() -> Path:
        with hub_errors(f"fetching the pipeline of {source}", outcome):
            folder = Path(DiffusionPipeline.download(source, revision=revision, variant=variant, use_safetensors=None))
            if lacking := missing_part(folder):
                message = (
                    f"the pipeline of {source} was fetched without {lacking}, {outcome}. Run it again when the Hub "
                    "answers"
                )
                raise UnreachableError(message)
            return folder

    return retry(download, FETCH_TRIES)[0]


def missing_part(folder: Path) -> str | None:
    """Name a component, or weights of one, that a pipeline's index lists and its folder lacks. None if it is complete.

    A component with a config.json is a model and needs weights beside it: one file, or all shards of one index. Which
    files a tokenizer needs only the Hub's listing could tell; loading an incomplete one fails by itself.
    """
    for name, kind in _json_object(folder / "model_index.json").items():
        if not name.isidentifier() or name.startswith("_") or not (isinstance(kind, list) and kind and kind[0]):
            continue
        part = folder / name
        if not part.is_dir():
            return name
        held = {path.name for path in part.iterdir()}
        weights = {file for file in held if file.endswith(_WEIGHTS)}
        if "config.json" in held and not weights:
            return f"{name}'s weights"
        listed = [_shards(part / file) for file in sorted(held) if ".index." in file and file.endswith(".json")]
        # An index of another variant may lie beside the weights that were asked for.
        if listed and weights <= set().union(*listed) and all(shards - held for shards in listed):
            return f"{name}/{min(listed[0] - held)}"
    return None


def _shards(index: Path) -> set[str]:
    shards = _json_object(index).get("weight_map")
    return {each for each in shards.values() if isinstance(each, str)} if isinstance(shards, dict) else set()


def _json_object(path: Path) -> dict[str, object]:
    """Read an untrusted JSON file; empty where it holds no object."""
    try:
        found = parse_json(read_bounded(path, 16 * 2**20), values=500_000)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
