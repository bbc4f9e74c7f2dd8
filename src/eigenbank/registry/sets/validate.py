"""Check a direction set that somebody else made: the rules it must pass before anything of it is imported."""

import re
from pathlib import Path

from eigenbank.registry.files import is_device
from eigenbank.registry.sets.displacements import DISPLACEMENTS, check_displacements, most_bytes
from eigenbank.registry.sets.folder import (
    CARD,
    CONFIG,
    MANIFEST,
    MAX_PREVIEW_BYTES,
    PREVIEWS,
    VECTORS,
    check_vectors_file,
    file_mismatch,
    read_manifest,
)
from eigenbank.schemas import Manifest
from eigenbank.schemas.common import MAX_MANIFEST_BYTES
from eigenbank.schemas.errors import SetError
from eigenbank.schemas.printable import PRINTABLE

MAX_CARD_BYTES = 32 * 2**20
MAX_CONFIG_BYTES = 2**16
SPARE_BYTES = 64 * 2**20
"""How much longer a vectors file may be than its directions need: the header, and rows that are not listed."""

# A tag, a comment or an entity of HTML; a link or picture of Markdown. "age < 30" and "R&B" are none.
_MARKUP = re.compile(r"<[A-Za-z/!?]|&#?\w+;|\]\s*\(|(?i:javascript\s*:)")
_PRINTABLE = re.compile(PRINTABLE)
_PREVIEW = re.compile(r"previews/[\w.-]+\.webp", re.ASCII)


def check_set(folder: Path) -> Manifest:
    """Check a whole set on disk: the manifest, every file's digest, vectors and previews. Returns the manifest.

    Raises SetError.
    """
    manifest = read_manifest(folder)
    check_manifest(manifest, str(folder))
    for name, entry in manifest.files.items():
        path = folder / name
        problem = file_mismatch(path, entry) if path.is_file() else "is not there"
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
    bounds[DISPLACEMENTS] = most_bytes(manifest)
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
    """Raise SetError unless the vectors are finite, of unit length and as listed, and the previews are WebP."""
    check_vectors_file(folder, manifest)
    if manifest.displacements is not None:
        check_displacements(folder, manifest)
    for name in manifest.files:
        if name.startswith(PREVIEWS):
            with (folder / name).open("rb") as file:
                start = file.read(12)
            if start[:4] != b"RIFF" or start[8:] != b"WEBP":
                message = f"{folder / name} is no WebP picture but begins with {start[:8]!r}"
                raise SetError(message)
