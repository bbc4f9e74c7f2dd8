"""Direction sets on disk: a folder that appears whole or not at all, and is trusted only after it was checked."""

import hashlib
import io
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from eigenbank.registry.files import open_regular, parse_json, read_bounded
from eigenbank.registry.sets.card import hub_config, model_card
from eigenbank.registry.sets.tensors import check_unit_rows, read_header
from eigenbank.schemas import FileEntry, Manifest
from eigenbank.schemas.common import MAX_MANIFEST_BYTES
from eigenbank.schemas.errors import SetError, first_problem

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

MANIFEST = "manifest.json"
VECTORS = "directions.safetensors"
CARD = "README.md"
CONFIG = "config.json"
PREVIEWS = "previews/"
MAX_PREVIEW_BYTES = 8 * 2**20
MAX_PREVIEW_SIDE = 4096
"""What a preview may be, in bytes and in pixels a side."""
_AGAIN = "Build the set again, or pull it again"


def manifest_digest(folder: Path) -> str:
    """SHA-256 of the set's manifest.json, which names the digest of every other file: the digest of the set."""
    return hashlib.sha256(read_bounded(folder / MANIFEST, MAX_MANIFEST_BYTES)).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and validate a set's manifest. Raises SetError when it is missing, oversized, malformed or of a newer format."""
    path = folder / MANIFEST
    if not path.is_file():
        problem = f"{folder} is no direction set: it holds no {MANIFEST}"
        raise SetError(problem, advice="Build one: eigenbank build MODEL --out FOLDER")
    try:
        found = parse_json(read_bounded(path, MAX_MANIFEST_BYTES))
    except OSError as error:
        problem = f"{path} cannot be read ({error.strerror or error})"
        raise SetError(problem, outcome="nothing was read", advice=_AGAIN) from error
    except ValueError as error:
        problem = f"{path} is not JSON ({error})"
        raise SetError(problem, outcome="nothing was read", advice=_AGAIN) from error
    number = found.get("format") if isinstance(found, dict) else None
    if isinstance(number, int) and number > 1:
        problem = f"{path} is of format {number}, this eigenbank reads format 1"
        raise SetError(problem, outcome="nothing was read", advice="Upgrade eigenbank")
    try:
        return Manifest.model_validate(found)
    except ValueError as error:
        problem = f"{path} is no manifest of format 1: {first_problem(error)}"
        raise SetError(problem, outcome="nothing was read", advice="Build the set again") from error


def check_vectors(manifest: Manifest, folder: Path) -> None:
    """Check that directions.safetensors holds exactly the vectors the manifest lists. Raises SetError otherwise."""
    path = folder / VECTORS
    if not path.is_file():
        problem = f"{folder} lacks {VECTORS}: the set is incomplete"
        raise SetError(problem, advice=_AGAIN)
    header = read_header(path)
    widths = {layer.name: layer.width for layer in manifest.layers}
    for direction in manifest.directions:
        name = f"{direction.layer}/{direction.recipe.basis}"
        info = header.get(name)
        width = widths[direction.layer]
        fits = info and info.dtype == "F32" and len(info.shape) == 2 and info.shape[1] == width
        if info is None or not fits or direction.rank >= info.shape[0]:
            found = f"{info.dtype} of shape {list(info.shape)}" if info else "nothing"
            problem = (
                f"the manifest of {folder} lists {direction.id} of a layer {width} wide, {VECTORS} holds {found} under "
                f"{name!r}"
            )
            raise SetError(problem, outcome="nothing was read", advice="Build the set again")


def check_vectors_file(folder: Path, manifest: Manifest) -> None:
    """Check digest, finiteness and length of all vectors, without torch. Raises SetError or TensorFileError."""
    check_vectors(manifest, folder)
    entry = manifest.files.get(VECTORS)
    path = folder / VECTORS
    digest = file_digest(path)
    if entry is None or entry.sha256 != digest:
        expected = "none" if entry is None else entry.sha256[:12]
        problem = (
            f"{path} has sha256 {digest[:12]}…, its manifest says {expected}…: the file was changed after it was built"
        )
        raise SetError(problem, outcome="nothing was read", advice=_AGAIN)
    wrong = check_unit_rows(path)
    if wrong is not None:
        problem = f"{path}: the vectors under {wrong!r} are not finite unit vectors"
        raise SetError(problem, outcome="nothing was read")


def read_vectors(folder: Path, manifest: Manifest) -> "dict[str, Tensor]":
    """Read all vectors of a set: `LAYER/BASIS` → `(k, d)` float32, unit rows. Checks digest, finiteness and length."""
    from safetensors.torch import load_file

    check_vectors_file(folder, manifest)
    return load_file(folder / VECTORS)


def manifest_text(manifest: Manifest) -> str:
    """Return the manifest as it is written to manifest.json."""
    text = json.dumps(manifest.model_dump(mode="json", exclude_defaults=False), indent=1, ensure_ascii=False)
    return text + "\n"


def check_new_folder(target: Path) -> None:
    """Raise SetError when `target` exists and is not an empty folder: a set is never overwritten in place."""
    try:
        taken = target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir())))
    except (OSError, ValueError) as error:  # a name too long for the file system, or with a null byte
        problem = f"{str(target)[:200]!r} cannot be written ({error})"
        raise SetError(problem, outcome="nothing was written") from error
    if taken:
        problem = f"{target} exists and is not an empty folder"
        raise SetError(problem, outcome="nothing was written", advice="Choose another folder, or remove it")


def write_set(
    target: Path,
    manifest: Manifest,
    vectors: "dict[str, Tensor]",
    previews: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Write a set as the new folder `target`, by one atomic move. Returns the manifest with its files' digests.

    `previews` are WebP pictures by their names in the set. Raises SetError when `target` exists and is not an empty
    folder: a set is never overwritten in place.
    """
    from safetensors.torch import save_file

    check_new_folder(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}-", dir=target.parent))
    except OSError as error:
        problem = f"{target.parent} cannot be written to ({error.strerror})"
        raise SetError(problem, outcome="nothing was written", advice="Choose another folder") from error
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
        (work / CONFIG).write_text(hub_config(manifest), encoding="utf-8")
        files[CONFIG] = _entry(work / CONFIG)
        manifest = manifest.model_copy(update={"files": files})
        (work / CARD).write_text(model_card(manifest), encoding="utf-8")
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
            problem = f"{target} could not be written ({error.strerror})"
            raise SetError(problem, outcome="nothing was left behind") from error
        raise
    return manifest


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256=file_digest(path), size=path.stat().st_size)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open_regular(path) as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def file_mismatch(path: Path, entry: FileEntry) -> str | None:
    """Say how a file differs from its entry in a manifest; None if it does not."""
    size = path.stat().st_size
    if size != entry.size:
        return f"is {size} bytes long, its manifest says {entry.size}"
    found = file_digest(path)
    return None if found == entry.sha256 else f"has sha256 {found[:12]}…, its manifest says {entry.sha256[:12]}…"


def _sync(path: Path) -> None:
    """Make sure a file's or folder's content is on disk before the name that announces it is."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_previews(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Read the previews of a set, by their names in it. Raises SetError where one is not what the manifest says."""
    return {name: read_preview(folder, manifest, name) for name in manifest.files if name.startswith(PREVIEWS)}


def read_preview(folder: Path, manifest: Manifest, name: str) -> bytes:
    """Read a preview that the manifest lists, as bytes. Raises SetError where it is not what the manifest says."""
    path = folder / name
    try:
        data = read_bounded(path, MAX_PREVIEW_BYTES)
    except OSError as error:
        problem = f"{path} cannot be read ({error.strerror})"
        raise SetError(problem, advice=_AGAIN) from error
    if hashlib.sha256(data).hexdigest() != manifest.files[name].sha256:
        problem = f"{path} is not what the manifest says"
        raise SetError(problem, advice=_AGAIN)
    return data


@contextmanager
def open_preview(data: bytes, name: str) -> "Iterator[Image]":
    """Open a preview as a picture, its size bounded. Raises SetError for what is no such WebP picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
                if max(image.size) > MAX_PREVIEW_SIDE:
                    message = (
                        f"{name} is {image.width}×{image.height} pixels, a preview at most {MAX_PREVIEW_SIDE} a side"
                    )
                    raise SetError(message)
                yield image
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombWarning) as error:
        message = f"{name} is no WebP picture ({error})"
        raise SetError(message) from error
