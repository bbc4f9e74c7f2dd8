"""Direction sets on disk: a folder that appears whole or not at all, and is trusted only after it was checked."""

import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from eigenbank.registry.files import is_device, move_folder, new_folder, open_regular, parse_json, read_bounded
from eigenbank.registry.sets.card import hub_config, model_card
from eigenbank.registry.sets.tensors import check_unit_rows, read_header
from eigenbank.schemas import FileEntry, Manifest
from eigenbank.schemas.common import MAX_MANIFEST_BYTES
from eigenbank.schemas.errors import SetError, first_problem
from eigenbank.schemas.printable import PRINTABLE

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

MANIFEST = "manifest.json"
VECTORS = "directions.safetensors"
CARD = "README.md"
CONFIG = "config.json"
PREVIEWS = "previews/"
DISPLACEMENTS = "displacements.safetensors"
MAX_PREVIEW_BYTES = 8 * 2**20
MAX_PREVIEW_SIDE = 4096
"""What a preview may be, in bytes and in pixels a side."""
MAX_EMBEDDING = 4096
"""Widest embedding accepted."""
MAX_UNEDITED = 1024
MAX_CARD_BYTES = 32 * 2**20
MAX_CONFIG_BYTES = 2**16
SPARE_BYTES = 64 * 2**20
"""How much longer a vectors file may be than its directions need: the header, and rows that are not listed."""

# A tag, a comment or an entity of HTML; a link or picture of Markdown. "age < 30" and "R&B" are none.
_MARKUP = re.compile(r"<[A-Za-z/!?]|&#?\w+;|\]\s*\(|(?i:javascript\s*:)")
_PRINTABLE = re.compile(PRINTABLE)
_PREVIEW = re.compile(r"previews/[\w.-]+\.webp", re.ASCII)
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


def _check_lengths(path: Path) -> None:
    """Raise SetError unless all vectors are finite and of unit length. Needs no torch."""
    wrong = check_unit_rows(path)
    if wrong is not None:
        problem = f"{path}: the vectors under {wrong!r} are not finite unit vectors"
        raise SetError(problem, outcome="nothing was read")


def read_vectors(folder: Path, manifest: Manifest) -> "dict[str, Tensor]":
    """Read all vectors of a set: `LAYER/BASIS` → `(k, d)` float32, unit rows. Checks digest, finiteness and length."""
    from safetensors.torch import load_file

    check_vectors(manifest, folder)
    path, entry = folder / VECTORS, manifest.files.get(VECTORS)
    wrong = "is not among the files of its manifest" if entry is None else file_mismatch(path, entry)
    if wrong is not None:
        problem = f"{path} {wrong}: the file was changed after it was built"
        raise SetError(problem, outcome="nothing was read", advice=_AGAIN)
    _check_lengths(path)
    return load_file(path)


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
    with new_folder(target, SetError, _put) as work:
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
    return manifest


def _put(work: Path, target: Path) -> None:
    """Move a set to its place once all of it is on disk."""
    for path in work.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        _sync(path)
    _sync(work)
    move_folder(work, target)
    _sync(target.parent)


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


# A set that somebody else made: the rules it must pass before anything of it is imported


def check_set(folder: Path, *, but: Collection[str] = ()) -> Manifest:
    """Check a whole set on disk: the manifest, every file's digest `but` some files', vectors and previews. Returns the manifest.

    Raises SetError.
    """
    manifest = read_manifest(folder)
    check_manifest(manifest, str(folder))
    for name, entry in manifest.files.items():
        path = folder / name
        problem = (None if name in but else file_mismatch(path, entry)) if path.is_file() else "is not there"
        if problem is not None:
            message = f"{path} {problem}"
            raise SetError(message)
    check_contents(folder, manifest)
    return manifest


def check_manifest_size(size: int, where: str) -> None:
    """Raise SetError for a manifest that is too large to be downloaded."""
    if size > MAX_MANIFEST_BYTES:
        message = f"{where} has a {MANIFEST} of {size:,} bytes, a manifest has at most {MAX_MANIFEST_BYTES:,}"
        raise SetError(message)


def check_manifest(manifest: Manifest, where: str) -> None:
    """Raise SetError for a manifest that lists files it may not, files that are too large, or texts with markup."""
    _check_files(manifest, where)
    _check_texts(manifest, where)


def _check_files(manifest: Manifest, where: str) -> None:
    needed: dict[str, int] = {}
    widths = {layer.name: layer.width for layer in manifest.layers}
    for record in manifest.directions:
        name = f"{record.layer}/{record.recipe.basis}"
        needed[name] = max(needed.get(name, 0), (record.rank + 1) * widths[record.layer] * 4)
    bounds = {VECTORS: sum(needed.values()) + SPARE_BYTES, CARD: MAX_CARD_BYTES, CONFIG: MAX_CONFIG_BYTES}
    bounds[DISPLACEMENTS] = _most_displacements(manifest)
    if VECTORS not in manifest.files:
        message = f"the manifest of {where} lists no {VECTORS}: the set is incomplete"
        raise SetError(message)
    by_folded_name: dict[str, str] = {}
    for name, entry in manifest.files.items():
        problem = None
        if name not in bounds and not _PREVIEW.fullmatch(name):
            problem = f"lists the file {name[:100]!r}; a set holds {VECTORS}, {CARD}, {CONFIG}, {DISPLACEMENTS} and {PREVIEWS}*.webp"
        elif (same := by_folded_name.setdefault(name.casefold(), name)) != name:
            problem = f"lists the file {name[:100]!r}, which differs from {same[:100]!r} only in case"
        elif is_device(name.removeprefix(PREVIEWS)):
            problem = f"lists the file {name[:100]!r}, which is the name of a device on Windows"
        elif entry.size > bounds.get(name, MAX_PREVIEW_BYTES):
            most = bounds.get(name, MAX_PREVIEW_BYTES)
            problem = f"says {name} has {entry.size:,} bytes, for its directions at most {most:,} are expected"
        if problem is not None:
            message = f"the manifest of {where} {problem}"
            raise SetError(message)


def _check_texts(manifest: Manifest, where: str) -> None:
    texts = [manifest.builder, manifest.licence, manifest.checkpoint.licence, manifest.checkpoint.revision]
    for record in manifest.sliders:
        texts.append(record.quality.source if record.quality else None)
        for label in record.labels:
            runner_up = label.evidence.runner_up if label.evidence else None
            texts += [label.text, label.source, runner_up, (label.note or "").replace("\n", " ").replace("\t", " ")]
    for text in texts:
        if text and (_MARKUP.search(text) or not _PRINTABLE.fullmatch(text)):
            message = f"the manifest of {where} holds markup or control characters in the text {text[:80]!a}"
            raise SetError(message)


def check_contents(folder: Path, manifest: Manifest) -> None:
    """Raise SetError unless the vectors are finite, of unit length and as listed, and the previews are WebP.

    The files' digests are to be checked before.
    """
    check_vectors(manifest, folder)
    _check_lengths(folder / VECTORS)
    if manifest.displacements is not None:
        check_displacements(folder, manifest)
    for name in manifest.files:
        if name.startswith(PREVIEWS):
            with (folder / name).open("rb") as file:
                start = file.read(12)
            if start[:4] != b"RIFF" or start[8:] != b"WEBP":
                message = f"{folder / name} is no WebP picture but begins with {start[:8]!r}"
                raise SetError(message)


def _most_displacements(manifest: Manifest) -> int:
    """How long the file of a set's displacements may be."""
    return 2 * MAX_EMBEDDING * (len(manifest.directions) + MAX_UNEDITED) + 2**16


def check_displacements(folder: Path, manifest: Manifest) -> None:
    """Raise SetError unless the file holds, for each direction, a vector as wide as those of the unedited pictures."""
    path = folder / DISPLACEMENTS
    if DISPLACEMENTS not in manifest.files or not path.is_file():
        message = f"{folder} lacks {DISPLACEMENTS}, which its manifest speaks of"
        raise SetError(message)
    header = read_header(path)
    shapes = {name: (info.dtype, *info.shape) for name, info in header.items()}
    mean, unedited = (header[name].shape if name in header else () for name in ("mean", "unedited"))
    fits = (
        len(header) == 2 and {info.dtype for info in header.values()} == {"F16"} and len(mean) == len(unedited) == 2
        and mean[0] == len(manifest.directions) and 0 < mean[1] == unedited[1] <= MAX_EMBEDDING
        and 2 <= unedited[0] <= MAX_UNEDITED
    )  # fmt: skip
    if not fits:
        message = (
            f"{path} should hold mean ({len(manifest.directions)}, d) and unedited (n, d) in float16, it holds {shapes}"
        )
        raise SetError(message)
    size = sum(info.size for info in header.values())
    high = set(
        read_bounded(path, _most_displacements(manifest))[-size:][1::2]
    )  # the half of each number with its exponent
    if any(byte & 0x7C == 0x7C for byte in high):
        message = f"{path} holds numbers that are not finite"
        raise SetError(message)
