"""Direction sets on disk: a folder that appears whole or not at all, and is believed only after it was checked."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from eigenbank.registry.sets.tensors import check_unit_rows, read_header
from eigenbank.schemas import FileEntry, Manifest
from eigenbank.schemas.common import MAX_MANIFEST_BYTES
from eigenbank.schemas.errors import SetError, first_problem

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
VECTORS = "directions.safetensors"
CARD = "README.md"
PREVIEWS = "previews/"


def manifest_digest(folder: Path) -> str:
    """SHA-256 of the set's manifest.json, which names the digest of every other file: the digest of the set."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and validate a set's manifest. Raises SetError when it is missing, oversized, malformed or of a newer format."""
    path = folder / MANIFEST
    if not path.is_file():
        message = f"{folder} is no direction set: it holds no {MANIFEST}. Build one: eigenbank build MODEL --out FOLDER"
        raise SetError(message)
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        message = (
            f"{path} is {path.stat().st_size} bytes, more than the {MAX_MANIFEST_BYTES} a manifest may have: not read"
        )
        raise SetError(message)
    text = path.read_bytes()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"{path} is not JSON ({error}): nothing was read. Build the set again, or pull it again"
        raise SetError(message) from error
    number = found.get("format") if isinstance(found, dict) else None
    if isinstance(number, int) and number > 1:
        message = f"{path} is of format {number}, this eigenbank reads format 1: nothing was read. Upgrade eigenbank"
        raise SetError(message)
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        message = f"{path} is no manifest of format 1: {first_problem(error)}. Nothing was read; build the set again"
        raise SetError(message) from error


def check_vectors(manifest: Manifest, folder: Path) -> None:
    """Check that directions.safetensors holds exactly the vectors the manifest lists. Raises SetError otherwise."""
    path = folder / VECTORS
    if not path.is_file():
        message = f"{folder} lacks {VECTORS}: the set is incomplete. Build it again, or pull it again"
        raise SetError(message)
    header = read_header(path)
    widths = {layer.name: layer.width for layer in manifest.layers}
    for direction in manifest.directions:
        name = f"{direction.layer}/{direction.recipe.basis}"
        info = header.get(name)
        width = widths[direction.layer]
        fits = info and info.dtype == "F32" and len(info.shape) == 2 and info.shape[1] == width
        if info is None or not fits or direction.rank >= info.shape[0]:
            found = f"{info.dtype} of shape {list(info.shape)}" if info else "nothing"
            message = (
                f"the manifest lists {direction.id} of a layer {width} wide, {VECTORS} holds {found} under {name!r}: "
                f"nothing was read from {folder}. Build the set again"
            )
            raise SetError(message)


def check_vectors_file(folder: Path, manifest: Manifest) -> None:
    """Check digest, finiteness and length of all vectors, without torch. Raises SetError or TensorFileError."""
    check_vectors(manifest, folder)
    entry = manifest.files.get(VECTORS)
    path = folder / VECTORS
    digest = file_digest(path)
    if entry is None or entry.sha256 != digest:
        expected = "none" if entry is None else entry.sha256[:12]
        message = (
            f"{path} has sha256 {digest[:12]}…, its manifest says {expected}…: the file was changed after it was "
            "built, and nothing was read. Build the set again, or pull it again"
        )
        raise SetError(message)
    wrong = check_unit_rows(path)
    if wrong is not None:
        message = f"{path}: the vectors under {wrong!r} are not finite unit vectors: nothing was read from {folder}"
        raise SetError(message)


def read_vectors(folder: Path, manifest: Manifest) -> "dict[str, Tensor]":
    """All vectors of a set: `LAYER/BASIS` → `(k, d)` float32, unit rows. Verifies digest, finiteness and length."""
    from safetensors.torch import load_file

    check_vectors_file(folder, manifest)
    return load_file(folder / VECTORS)


def manifest_text(manifest: Manifest) -> str:
    """The manifest as it is written to manifest.json."""
    text = json.dumps(manifest.model_dump(mode="json", exclude_defaults=False), indent=1, ensure_ascii=False)
    return text + "\n"


def check_new(target: Path) -> None:
    """Raise SetError when `target` exists and is not an empty folder: a set is never overwritten in place."""
    try:
        taken = target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir())))
    except (OSError, ValueError) as error:  # a name too long for the file system, or with a null byte
        message = f"{str(target)[:200]!r} cannot be written ({error}): nothing was written. Choose another --out"
        raise SetError(message) from error
    if taken:
        message = f"{target} exists and is not an empty folder: nothing was written. Choose another --out, or remove it"
        raise SetError(message)


def write_set(
    target: Path,
    manifest: Manifest,
    vectors: "dict[str, Tensor]",
    card: Callable[[Manifest], str],
    previews: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Write a set as the new folder `target`, by one atomic move. Returns the manifest with its files' digests.

    `card` makes the model card from the manifest once it knows the digests of the vectors and of the `previews`, WebP
    pictures by their names in the set.

    Raises SetError when `target` exists and is not an empty folder: a set is never overwritten in place.
    """
    from safetensors.torch import save_file

    check_new(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}-", dir=target.parent))
    except OSError as error:
        message = f"{target.parent} cannot be written to ({error.strerror}): nothing was written. Choose another folder"
        raise SetError(message) from error
    try:
        # One key: safetensors writes several in any order, and equal sets are to be equal files.
        essentials = {
            "format": 1,
            "checkpoint": manifest.checkpoint.model_dump(mode="json"),
            "builder": manifest.builder,
        }
        save_file(
            {name: tensor.contiguous() for name, tensor in vectors.items()},
            work / VECTORS,
            metadata={"eigenbank": json.dumps(essentials)},
        )
        files = {VECTORS: _entry(work / VECTORS)}
        if previews:
            (work / PREVIEWS).mkdir()
        for name, picture in sorted((previews or {}).items()):
            (work / name).write_bytes(picture)
            files[name] = _entry(work / name)
        manifest = manifest.model_copy(update={"files": files})
        (work / CARD).write_text(card(manifest), encoding="utf-8")
        manifest = manifest.model_copy(update={"files": {**manifest.files, CARD: _entry(work / CARD)}})
        (work / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")
        for path in work.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
            _sync(path)
        work.chmod(0o755)
        _sync(work)
        if os.name == "nt" and target.is_dir():
            target.rmdir()  # empty, as was checked; Windows replaces no folder, not even an empty one
        os.replace(work, target)
        _sync(target.parent)
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if isinstance(error, OSError):
            message = f"{target} could not be written ({error.strerror}): nothing was left behind"
            raise SetError(message) from error
        raise
    return manifest


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256=file_digest(path), size=path.stat().st_size)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Make sure a file's or folder's content is on disk before the name that announces it is."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
