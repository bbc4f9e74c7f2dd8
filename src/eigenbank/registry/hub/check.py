"""Is a set of somebody else's what it should be? Every rule a downloaded set must pass before anything is imported."""

import re
from pathlib import Path

from eigenbank.registry.paths import is_device
from eigenbank.registry.sets.folder import CARD, MANIFEST, PREVIEWS, VECTORS, check_vectors_file, file_digest
from eigenbank.registry.sets.previews import MAX_BYTES
from eigenbank.schemas import FileEntry, Manifest
from eigenbank.schemas.common import MAX_MANIFEST_BYTES, PRINTABLE
from eigenbank.schemas.errors import EigenbankError, HubError

MAX_CARD_BYTES = 32 * 2**20
SPARE_BYTES = 64 * 2**20
"""How much longer a vectors file may be than its directions need: header, and rows that are not listed."""

# A tag, a comment or an entity of HTML; a link or picture of Markdown. "age < 30" and "R&B" are none.
_MARKUP = re.compile(r"<[A-Za-z/!?]|&#?\w+;|\]\s*\(|(?i:javascript\s*:)")
_PRINTABLE = re.compile(PRINTABLE)
_PREVIEW = re.compile(r"previews/[\w.-]+\.webp", re.ASCII)


def check_manifest_size(size: int, where: str) -> None:
    """Raise HubError for a manifest too large to be fetched."""
    if size > MAX_MANIFEST_BYTES:
        message = (
            f"{where} has a {MANIFEST} of {size:,} bytes, a manifest has at most {MAX_MANIFEST_BYTES:,}: it was not "
            "fetched, and nothing was imported"
        )
        raise HubError(message)


def check_manifest(manifest: Manifest, where: str, *, bases: tuple[str, ...], model: str | None) -> None:
    """Raise HubError for a manifest that asks for what it may not, or that contradicts the repository it is in.

    `bases` are the checkpoints the repository's card names (none: it says nothing), `model` the one that was asked for.
    """
    found = manifest.checkpoint.model_id
    if bases and found not in bases:
        message = (
            f"{where} says base_model {', '.join(bases)} in its card, but its manifest is of {found}: one of them is "
            "wrong, and nothing was imported. Tell its owner, or use another repository"
        )
        raise HubError(message)
    if model is not None and found != model:
        message = f"{where} is of {found}, not of {model}: nothing was imported. Use another repository"
        raise HubError(message)
    _check_files(manifest, where)
    _check_texts(manifest, where)


def _check_files(manifest: Manifest, where: str) -> None:
    needed: dict[str, int] = {}
    widths = {layer.name: layer.width for layer in manifest.layers}
    for record in manifest.directions:
        name = f"{record.layer}/{record.recipe.basis}"
        needed[name] = max(needed.get(name, 0), (record.rank + 1) * widths[record.layer] * 4)
    folded: dict[str, str] = {}
    bounds = {VECTORS: sum(needed.values()) + SPARE_BYTES, CARD: MAX_CARD_BYTES}
    if VECTORS not in manifest.files:
        message = f"the manifest of {where} lists no {VECTORS}: the set is incomplete, and nothing was imported"
        raise HubError(message)
    for name, entry in manifest.files.items():
        if name not in bounds and not _PREVIEW.fullmatch(name):
            message = (
                f"the manifest of {where} lists the file {name[:100]!r}; a set holds {VECTORS}, {CARD} and "
                f"{PREVIEWS}*.webp: nothing was fetched or imported"
            )
            raise HubError(message)
        same = folded.setdefault(name.casefold(), name)
        if same != name or is_device(name.removeprefix(PREVIEWS)):
            why = f"differs from {same[:100]!r} only in case" if same != name else "is the name of a device on Windows"
            message = (
                f"the manifest of {where} lists the file {name[:100]!r}, which {why}: not every machine can keep it, and "
                "nothing was fetched or imported. Tell its owner"
            )
            raise HubError(message)
        if entry.size > bounds.get(name, MAX_BYTES):
            message = (
                f"the manifest of {where} says {name} has {entry.size:,} bytes, for its directions at most "
                f"{bounds.get(name, MAX_BYTES):,} are expected: nothing was fetched or imported"
            )
            raise HubError(message)


def _check_texts(manifest: Manifest, where: str) -> None:
    texts = [manifest.builder, manifest.licence, manifest.checkpoint.licence, manifest.checkpoint.revision]
    for record in manifest.sliders:
        texts.append(record.quality.source if record.quality else None)
        for label in record.labels:
            runner_up = label.evidence.runner_up if label.evidence else None
            texts += [label.text, label.source, runner_up, (label.note or "").replace("\n", " ").replace("\t", " ")]
    for text in texts:
        if text and (_MARKUP.search(text) or not _PRINTABLE.fullmatch(text)):
            message = (
                f"the manifest of {where} holds markup or control characters in the text {text[:80]!a}: nothing "
                "was imported. Tell its owner, or use another repository"
            )
            raise HubError(message)


def check_content(folder: Path, manifest: Manifest, where: str) -> None:
    """Raise HubError unless the fetched files hold what the manifest says: vectors, finite and of unit length; WebP."""
    try:
        check_vectors_file(folder, manifest)
    except EigenbankError as error:
        message = f"{where} was not imported: {error}"
        raise HubError(message) from error
    for name in manifest.files:
        if name.startswith(PREVIEWS):
            with (folder / name).open("rb") as file:
                start = file.read(12)
            if start[:4] != b"RIFF" or start[8:] != b"WEBP":
                message = f"{where}: {name} is no WebP picture but begins with {start[:8]!r}: nothing was imported"
                raise HubError(message)


def differs(path: Path, entry: FileEntry) -> str | None:
    """How a file differs from its entry in a manifest, None if it does not."""
    size = path.stat().st_size
    if size != entry.size:
        return f"is {size} bytes long, its manifest says {entry.size}"
    found = file_digest(path)
    return None if found == entry.sha256 else f"has sha256 {found[:12]}…, its manifest says {entry.sha256[:12]}…"
