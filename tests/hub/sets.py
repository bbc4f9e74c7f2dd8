"""Changing sets that tests publish."""

import hashlib
import io
from datetime import datetime, timezone
from pathlib import Path

from PIL import Image

from eigenbank.registry.sets.card import model_card
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.registry.sets.folder import MANIFEST, file_digest, manifest_text, read_manifest
from eigenbank.schemas import FileEntry, Label

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)


def add_preview(folder: Path, name: str, colour: tuple[int, int, int] = (200, 100, 50)) -> None:
    """Add a small picture to a set, and its entry to the manifest."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(data, "WEBP")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(data.getvalue())
    manifest = DirectionSet.open(folder).manifest
    entry = FileEntry(sha256=file_digest(folder / name), size=len(data.getvalue()))
    manifest = manifest.model_copy(update={"files": {**manifest.files, name: entry}})
    (folder / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")


def other_version(folder: Path, target: Path, text: str) -> Path:
    """The same directions with another label on the first, and no previews: another set of the same checkpoint."""
    bank = DirectionSet.open(folder)
    first = next(iter(bank))
    label = Label(text=text, source="human:bob", created=NOW)
    DirectionSet(bank.labelled({first.id: (label,)}).manifest, vectors=bank.vectors).save(target)
    return target


def files_of(folder: Path, model: str | None = None) -> dict[str, bytes]:
    """A set's files as a repository would hold them; of another checkpoint, if one is named."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if model is not None:
        manifest = read_manifest(folder)
        manifest = manifest.model_copy(
            update={"checkpoint": manifest.checkpoint.model_copy(update={"model_id": model})}
        )
        found["README.md"] = model_card(manifest).encode()
        entry = FileEntry(sha256=hashlib.sha256(found["README.md"]).hexdigest(), size=len(found["README.md"]))
        manifest = manifest.model_copy(update={"files": {**manifest.files, "README.md": entry}})
        found["manifest.json"] = manifest_text(manifest).encode()
    return found
