"""A checkpoint's whole pipeline from the Hub, to draw with."""

import json
import time
from pathlib import Path

from eigenbank.schemas.errors import UnreachableError
from eigenbank.schemas.plan import Entry

ATTEMPTS = 6
_WEIGHTS = (".safetensors", ".bin", ".msgpack", ".pt", ".gguf")


def fetch_pipeline(entry: Entry, revision: str) -> Path:
    """The folder of a checkpoint's pipeline, through the client's cache: what drawing needs, and no other weights.

    Where the Hub cannot be asked, diffusers takes what its cache holds of the pipeline, and that may be half of it: such
    an answer counts as none. Raises HubError.
    """
    from diffusers import DiffusionPipeline

    from eigenbank.registry.hub.errors import hub_errors

    outcome = "nothing was labelled or drawn"
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(min(8.0, 0.2 * 2**attempt))
        try:
            with hub_errors(f"fetching the pipeline of {entry.source}, to draw with it,", outcome):
                folder = Path(
                    DiffusionPipeline.download(
                        entry.source, revision=revision, variant=entry.variant, use_safetensors=None
                    )
                )
                if lacking := missing_part(folder):
                    message = f"the pipeline of {entry.source} could not be fetched whole: {lacking} is missing, {outcome}. Run it again"
                    raise UnreachableError(message)
                return folder
        except UnreachableError:
            if attempt + 1 == ATTEMPTS:
                raise
    raise AssertionError


def missing_part(folder: Path) -> str | None:
    """What a pipeline's folder lacks of the components its index names: one of them, or its weights. None where it is whole.

    A component with a config.json is a model, and has weights beside it: one file, or all the shards of one index.
    Of a tokenizer's files only the Hub's listing could tell which are missing; loading it fails by itself.
    """
    for name, kind in _document(folder / "model_index.json").items():
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
    shards = _document(index).get("weight_map")
    return {each for each in shards.values() if isinstance(each, str)} if isinstance(shards, dict) else set()


def _document(path: Path) -> dict[str, object]:
    """A JSON file of a stranger's: empty where it is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
