"""Local checkpoints: a pipeline's folder (through model_index.json) or a denoiser's own, in safetensors or `.bin` files."""

import re
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eigenbank.builders.checkpoints.source import (
    FLOATS,
    LocalReader,
    Piece,
    SafetensorsSource,
    TensorFile,
    WeightSource,
)
from eigenbank.registry.file_kinds import is_other, kind_of_bytes, kind_of_config, kind_of_folder, kind_of_tensors
from eigenbank.registry.files import open_regular, parse_json, read_bounded
from eigenbank.registry.sets.tensors import TensorInfo, read_header
from eigenbank.schemas.errors import SourceError

if TYPE_CHECKING:
    from torch import Tensor

COMPONENTS = ("unet", "transformer", "prior", "decoder", "transformer_2")
"""The names a pipeline gives its denoiser, in the order they are looked for."""

STEM = "diffusion_pytorch_model"
_WEIGHTS = re.compile(
    rf"{STEM}(?:\.(?P<variant>[^.].*?))?\.(?P<kind>safetensors(?:\.(?P<former>[^.]+))?(?P<index>\.index)?|bin)"
    r"(?(index)(?:\.(?P<index_variant>.+))?\.json)"
)
"""A file of weights, or an index of several: its variant, and its kind."""
_ORDER = ("safetensors.index", "safetensors", "bin")
"""What diffusers loads of several: save_pretrained leaves an older single file beside the shards it writes."""
MAX_JSON_BYTES = 16 * 2**20
PARALLEL = 4
"""Files opened, or requests made of one, at once."""


def open_folder(folder: Path, *, variant: str | None = None, subfolder: str | None = None) -> WeightSource:
    """Open the denoiser of a local checkpoint folder. Reads its JSON files and tensor headers, no weights.

    `variant` names one of several sets of weights (`fp16`); without it the plain one is taken, else the first there is.
    Of several denoisers all are opened, the further ones as its `others`; `subfolder` names one of them. Raises SourceError when the folder is missing, holds no
    diffusers checkpoint, or is damaged.
    """
    if not exists(folder):
        message = f"no such folder: {folder}. Give a diffusers checkpoint's folder"
        raise SourceError(message)
    if not folder.is_dir():
        message = f"{folder} is a file; expected a diffusers checkpoint's folder (with model_index.json or config.json)"
        raise SourceError(message)
    parts = dict.fromkeys(["", *COMPONENTS, subfolder or ""])
    stored = StoredFiles(
        where=str(folder),
        names=[
            f"{part}/{path.name}" if part else path.name
            for part in parts
            for path in (folder / part).glob("*")
            if path.is_file()
        ],
        small=folder.joinpath,
        tensors=lambda name: local_file(folder / name),
    )
    return open_stored(stored, lambda name: (folder / name).is_dir(), variant, subfolder)


@dataclass(frozen=True)
class StoredFiles:
    """The files of a checkpoint, by their paths in it: how to have a `small` one here, and to read `tensors` of one."""

    where: str
    names: Sequence[str]
    small: Callable[[str], Path]
    tensors: Callable[[str], TensorFile]
    revision: str | None = None


def open_stored(
    stored: StoredFiles, has: Callable[[str], bool], variant: str | None, subfolder: str | None
) -> WeightSource:
    """Open the denoisers among a checkpoint's files: the first, with the `others`. `has` says whether there is such a subfolder.

    Warns of one that cannot be opened; of the first raises SourceError.
    """
    index = read_json(stored.small("model_index.json")) if "model_index.json" in stored.names else None
    components = choose_components(index, has, stored.where, "config.json" in stored.names, subfolder)
    source = _open_denoiser(stored, components[0], variant, piped=index is not None)
    for component in components[1:]:
        try:
            source.others = (*source.others, _open_denoiser(stored, component, variant, piped=True))
        except SourceError as error:
            warnings.warn(f"the pipeline's {component} is left out: {error.problem}", stacklevel=4)
    return source


def _open_denoiser(stored: StoredFiles, component: str, variant: str | None, *, piped: bool) -> WeightSource:
    prefix = f"{component}/" if component else ""
    inside = [name.removeprefix(prefix) for name in stored.names if name.startswith(prefix)]
    names = sorted(name for name in inside if "/" not in name)
    if "config.json" not in names:
        what = kind_of_folder(names)
        found = f"it holds {what[0]}" if what else "found neither" if not piped else "its denoiser has none"
        problem = f"{stored.where} is no diffusers checkpoint: expected model_index.json or config.json in it, {found}"
        raise SourceError(problem, advice=what[1] if what else "")
    config = read_json(stored.small(f"{prefix}config.json"))
    what = kind_of_config(config)
    if what:
        raise is_other(stored.where, what)
    where = f"{stored.where}/{component}" if component else stored.where
    weights = choose_weights(names, where, variant, lambda name: read_json(stored.small(prefix + name)))
    facts: dict[str, Any] = {
        "config": config, "component": component, "revision": stored.revision, "where": where,
        "licence": licence(stored.small("README.md")) if "README.md" in stored.names else None,
    }  # fmt: skip
    files = sorted(set(weights if isinstance(weights, list) else weights.values()))
    if files[0].endswith(".bin"):
        # No part of a pickle can be read alone: from the Hub it comes whole, through the client's cache.
        return BinSource(paths=[stored.small(prefix + name) for name in files], **facts)
    with ThreadPoolExecutor(PARALLEL) as pool:
        opened = pool.map(lambda name: stored.tensors(prefix + name), files)
        return gather(dict(zip(files, opened, strict=True)), weights, facts)


def exists(path: Path) -> bool:
    """Whether there is such a path. Raises SourceError for links that lead in a circle."""
    try:
        path.resolve(strict=False).stat()
    except FileNotFoundError:
        return False
    except (OSError, RuntimeError) as error:
        problem = f"{path} cannot be opened ({getattr(error, 'strerror', None) or error})"
        raise SourceError(problem) from error
    return True


def choose_components(
    index: Mapping[str, Any] | None, has: Any, where: str, flat: bool = False, subfolder: str | None = None
) -> list[str]:
    """The denoisers' subfolders: `""` for a denoiser's own folder, else those a pipeline's index names that are there.

    `flat` says that a config.json lies beside the index: old pipelines keep their only model there. `subfolder` is one
    that was asked for. Raises SourceError where there is none.
    """
    if subfolder is not None:
        if subfolder and not has(subfolder):
            problem = f"{where} has no subfolder {subfolder!r} with a denoiser in it"
            raise SourceError(problem)
        return [subfolder]
    if index is None:
        return [""]
    named = [name for name in COMPONENTS if name in index]
    components = [name for name in named if has(name)]
    if not components and not (named and flat):
        message = f"{where} is a pipeline without a denoiser: none of {', '.join(COMPONENTS)} is in model_index.json"
        raise SourceError(message)
    return components or [""]


def choose_weights(names: Iterable[str], where: str, variant: str | None, read: Any) -> list[str] | dict[str, str]:
    """The weight files among a folder's: a list of files that hold all, or for shards tensor name → file.

    `read` gives an index file's content. Raises SourceError where there is none, or an index names what is not there.
    """
    names = set(names)
    found: dict[tuple[str, str], str] = {}
    for name in sorted(names):
        match = _WEIGHTS.fullmatch(name)
        if match and "-of-" not in name and (match["index"] or not match["former"]):
            # The index of a variant is `STEM.safetensors.index.fp16.json`, formerly `STEM.safetensors.fp16.index.json`.
            kind = "safetensors.index" if match["index"] else match["kind"]
            found.setdefault((match["variant"] or match["index_variant"] or match["former"] or "", kind), name)
    variants = sorted({each for each, _ in found})
    if variant and variant not in variants:
        message = f"{where} has no variant {variant!r}: it has {', '.join(each or 'the plain one' for each in variants) or 'no weights'}"
        raise SourceError(message)
    chosen = variant or ("" if "" in variants or not variants else variants[0])
    kind = next((kind for kind in _ORDER if (chosen, kind) in found), None)
    if kind is None:
        what = kind_of_folder(names)
        problem = (
            f"{where} holds no {STEM}.safetensors, nor an index of shards{f': it holds {what[0]}' if what else ''}"
        )
        raise SourceError(problem, advice=what[1] if what else "Save it with safetensors")
    if kind != "safetensors.index":
        return [found[chosen, kind]]
    index = found[chosen, kind]
    shards = read(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        problem = f"{where}/{index} has no weight_map of names"
        raise SourceError(problem, advice="Fetch it again")
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard or shard not in names:
            problem = f"{where}/{index} names the shard {shard!r}, which is not in {where}"
            raise SourceError(problem, advice="Fetch it")
    return shards


def local_file(path: Path) -> TensorFile:
    """A safetensors file on this machine, its header read and checked. Raises TensorFileError."""
    header = read_header(path)
    with open_regular(path) as file:
        return TensorFile(LocalReader(path), header, 8 + struct.unpack("<Q", file.read(8))[0])


def gather(
    files: dict[str, TensorFile], weights: list[str] | dict[str, str], facts: dict[str, Any]
) -> SafetensorsSource:
    """A source of these files. Raises SourceError where the index says of a file what the file does not say of itself."""
    home = {name: file for file in weights for name in files[file].header} if isinstance(weights, list) else weights
    if "quantization_config" not in facts["config"]:
        check_tensors(home, facts["where"])
    missing = next((name for name, file in home.items() if name not in files[file].header), None)
    if missing is not None:
        problem = f"{facts['where']}: the index says {missing} is in {home[missing]}, which does not hold it"
        raise SourceError(problem)
    return SafetensorsSource(files=files, home=home, **facts)


@dataclass
class TensorSource(WeightSource):
    """A checkpoint whose tensors are in memory: those of a pipeline, or of a file that can only be read whole."""

    given: "dict[str, Tensor]" = field(default_factory=dict)

    @cached_property
    def tensors(self) -> "dict[str, Tensor]":
        """The tensors by name, on whatever device."""
        return self.given

    @cached_property
    def headers(self) -> Mapping[str, TensorInfo]:
        check_tensors(self.tensors, self.where)
        names = {f"torch.{name}": code for code, name in FLOATS.items()}
        return {
            name: TensorInfo(names.get(str(t.dtype), str(t.dtype)), tuple(t.shape), 0, t.numel() * t.element_size())
            for name, t in self.tensors.items()
        }

    def rows(self, pieces: Sequence[Piece]) -> "list[Tensor]":
        self.bytes_read += sum(self._row_bytes(piece.stored) * (piece.end - piece.start) for piece in pieces)
        return [self.tensors[piece.stored][piece.start : piece.end].clone() for piece in pieces]


@dataclass
class BinSource(TensorSource):
    """A checkpoint in a pickle. Nothing but tensors is unpickled; still, its format is the one malware comes in."""

    paths: list[Path] = field(default_factory=list)

    @cached_property
    def tensors(self) -> "dict[str, Tensor]":
        """The tensors, mapped into memory."""
        import torch

        found: dict[str, Tensor] = {}
        for path in self.paths:
            with open_regular(path) as file:
                what = kind_of_bytes(file.read(256))
            if what and "pickle" not in what[0]:
                raise is_other(path, what)
            warnings.warn(f"{path} is a pickle, read with weights_only: prefer safetensors", stacklevel=2)
            try:
                loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            except Exception as error:  # a hostile pickle fails in whatever way it likes
                problem = f"{path} cannot be read as plain tensors, and nothing of it was run"
                raise SourceError(problem, advice=f"Save it with safetensors ({type(error).__name__})") from error
            loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
            found |= {str(name): tensor for name, tensor in loaded.items() if isinstance(tensor, torch.Tensor)}
        return found


def check_tensors(names: Iterable[str], where: str) -> None:
    """Raise SourceError where tensors of these names are no denoiser's, or cannot be read as they are."""
    what = kind_of_tensors(names)
    if what:
        raise is_other(where, what)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of bounded size. Raises SourceError."""
    try:
        text = read_bounded(path, MAX_JSON_BYTES)
        found = parse_json(text, values=500_000)
    except OSError as error:
        problem = f"{path} cannot be read ({error.strerror or error})"
        raise SourceError(problem) from error
    except ValueError as error:
        what = None if text.lstrip()[:1] in (b"{", b"[") else kind_of_bytes(text)
        problem = f"{path} is {what[0]}" if what else f"{path} is not JSON ({error})"
        advice = what[1] if what else "Fetch or save it again"
        raise SourceError(problem, advice=advice) from error
    if not isinstance(found, dict):
        problem = f"{path} holds {type(found).__name__}, expected an object"
        raise SourceError(problem)
    return found


def licence(card: Path) -> str | None:
    """The `license:` line of a model card's YAML header, None when it has none."""
    try:
        with open_regular(card) as file:
            lines = file.read(2**20).decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    header = lines[1 : lines.index("---", 1)] if lines[:1] == ["---"] and "---" in lines[1:] else []
    found = next((line.partition(":")[2].strip() for line in header if line.startswith("license:")), "")
    return found[:200] or None
