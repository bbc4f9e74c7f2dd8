"""Where a checkpoint's bytes come from. A source knows the denoiser's config and headers, and reads single tensors.

This release reads local diffusers folders: a pipeline's (through model_index.json) or a denoiser's own, one safetensors
file or several with an index.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eigenbank.registry.tensorfile import TensorInfo, read_header
from eigenbank.schemas.errors import SourceError

if TYPE_CHECKING:
    from torch import Tensor

COMPONENTS = ("unet", "transformer", "prior")
"""The names a pipeline gives its denoiser, in the order they are looked for."""

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_MAX_JSON_BYTES = 64 * 2**20


@dataclass
class FolderSource:
    """A denoiser in a local folder. `read` maps the files into memory and touches only the tensors asked for."""

    folder: Path
    component: str
    config: dict[str, Any]
    headers: dict[str, TensorInfo]
    files: dict[str, Path]
    licence: str | None = None
    bytes_read: int = field(default=0, init=False)

    def read(self, names: list[str]) -> "dict[str, Tensor]":
        """The named tensors as they are stored, on the CPU. Every name must be in `headers`."""
        from safetensors import SafetensorError, safe_open

        tensors = {}
        for path in sorted({self.files[name] for name in names}):
            try:
                with safe_open(path, framework="pt") as file:
                    for name in names:
                        if self.files[name] == path:
                            tensors[name] = file.get_tensor(name)
                            self.bytes_read += self.headers[name].size
            except (SafetensorError, OSError) as error:
                message = f"{path} cannot be read ({error}): nothing was built. Fetch or save it again"
                raise SourceError(message) from error
        return tensors


def open_folder(folder: Path) -> FolderSource:
    """Open the denoiser of a local checkpoint folder. Reads its JSON files and tensor headers, no weights.

    Raises SourceError when the folder is missing, holds no diffusers checkpoint, or is damaged.
    """
    if not folder.exists():
        message = f"no such folder: {folder}. Give a diffusers checkpoint's folder"
        raise SourceError(message)
    if not folder.is_dir():
        message = f"{folder} is a file; expected a diffusers checkpoint's folder (with model_index.json or config.json)"
        raise SourceError(message)
    component = ""
    if (folder / "model_index.json").is_file():
        index = _read_json(folder / "model_index.json")
        component = next((name for name in COMPONENTS if name in index and (folder / name).is_dir()), "")
        if not component:
            message = (
                f"{folder} is a pipeline without a denoiser: none of {', '.join(COMPONENTS)} is in model_index.json"
            )
            raise SourceError(message)
    root = folder / component if component else folder
    if not (root / "config.json").is_file():
        message = (
            f"{folder} is no diffusers checkpoint: expected model_index.json or config.json in it, found neither. "
            "Nothing was built"
        )
        raise SourceError(message)
    config = _read_json(root / "config.json")
    files = _weight_files(root)
    headers = {
        path: read_header(path) for path in sorted(set(files) if isinstance(files, list) else set(files.values()))
    }
    if isinstance(files, list):
        files = {name: path for path in files for name in headers[path]}
    missing = next((name for name, path in files.items() if name not in headers[path]), None)
    if missing is not None:
        message = (
            f"{root}: the index says {missing} is in {files[missing].name}, which does not hold it. Nothing was built"
        )
        raise SourceError(message)
    return FolderSource(
        folder=root,
        component=component,
        config=config,
        headers={name: headers[path][name] for name, path in files.items()},
        files=files,
        licence=_licence(folder / "README.md"),
    )


def _weight_files(root: Path) -> list[Path] | dict[str, Path]:
    """The weight files: a list when one file holds all, else tensor name → shard."""
    if (root / _WEIGHTS).is_file():
        return [root / _WEIGHTS]
    index = root / f"{_WEIGHTS}.index.json"
    if not index.is_file():
        message = f"{root} holds no {_WEIGHTS}, nor an index of shards: nothing was built. Save it with safetensors"
        raise SourceError(message)
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        message = f"{index} has no weight_map of names: nothing was built. Fetch it again"
        raise SourceError(message)
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard or not (root / shard).is_file():
            message = f"{index} names the shard {shard!r}, which is not in {root}: nothing was built. Fetch it"
            raise SourceError(message)
    return {name: root / shard for name, shard in shards.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            message = f"{path} is {path.stat().st_size} bytes long, too much for a config: nothing was built"
            raise SourceError(message)
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        message = f"{path} is not JSON ({error}): nothing was built. Fetch or save it again"
        raise SourceError(message) from error
    if not isinstance(found, dict):
        message = f"{path} holds {type(found).__name__}, expected an object: nothing was built"
        raise SourceError(message)
    return found


def _licence(card: Path) -> str | None:
    """The `license:` line of a model card's YAML header, None when it has none."""
    if not card.is_file():
        return None
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    header = lines[1 : lines.index("---", 1)] if lines[:1] == ["---"] and "---" in lines[1:] else []
    found = next((line.partition(":")[2].strip() for line in header if line.startswith("license:")), "")
    return found[:200] or None
