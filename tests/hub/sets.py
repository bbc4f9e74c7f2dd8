"""Changing sets that tests publish."""

import io
from datetime import datetime, timezone
from pathlib import Path

from PIL import Image

from eigenbank.registry.bank import Bank
from eigenbank.registry.sets import MANIFEST, file_digest, manifest_text
from eigenbank.schemas import FileEntry, Label

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)


def add_preview(folder: Path, name: str, colour: tuple[int, int, int] = (200, 100, 50)) -> None:
    """Add a small picture to a set, and its entry to the manifest."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(data, "WEBP")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(data.getvalue())
    manifest = Bank.open(folder).manifest
    entry = FileEntry(sha256=file_digest(folder / name), size=len(data.getvalue()))
    manifest = manifest.model_copy(update={"files": {**manifest.files, name: entry}})
    (folder / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")


def other_version(folder: Path, target: Path, text: str) -> Path:
    """The same directions with another label on the first: another set of the same checkpoint."""
    bank = Bank.open(folder)
    first = next(iter(bank))
    label = Label(text=text, source="human:bob", created=NOW)
    bank.labelled({first.id: (label,)}).save(target)
    return target
