"""What must hold after any fault, on the Hub and on the client's machine."""

import hashlib
import json
import sqlite3
from pathlib import Path

from hub.server import Hub


def check_hub(hub: Hub, repo: str) -> bool:
    """Assert that a repository holds a whole set or none. Returns whether it holds one."""
    if ("models", repo) not in hub.store.repos:
        return False
    files = hub.files(repo)
    if "manifest.json" not in files:
        assert "directions.safetensors" not in files
        return False
    entries = json.loads(files["manifest.json"])["files"]
    for name, entry in entries.items():
        assert hashlib.sha256(files[name]).hexdigest() == entry["sha256"], name
    assert set(files) - {"NOTES.md"} == {*entries, "manifest.json"}
    return True


def check_home(home: Path) -> list[tuple[str, str, str]]:
    """Assert that the catalog is intact and the cache holds what it says. Returns the catalog's (model, repo, commit)."""
    for blob in (home / "hf").rglob("blobs/*"):
        if blob.suffix == ".incomplete":
            continue
        data = blob.read_bytes()
        if len(blob.name) == 64:
            assert hashlib.sha256(data).hexdigest() == blob.name
        else:
            assert hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == blob.name
    catalog = home / "eigenbank" / "catalog.db"
    if not catalog.is_file():
        return []
    connection = sqlite3.connect(catalog)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            return []  # killed before the first transaction: a file without tables, which the next run fills
        rows = connection.execute(
            'SELECT model_id, repo, "commit", location, digest, directions, (SELECT count(*) FROM directions '
            "JOIN spectra ON spectra.id = spectrum_id WHERE set_id = sets.id AND recipe IS NOT NULL) "
            "FROM sets WHERE repo IS NOT NULL"
        ).fetchall()
    finally:
        connection.close()
    for model, repo, commit, location, digest, counted, there in rows:
        assert counted == there, model
        if location.startswith("hub:"):
            folder = home / "hf" / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / commit
            manifest = (folder / "manifest.json").read_bytes()
            assert hashlib.sha256(manifest).hexdigest() == digest
            for name, entry in json.loads(manifest)["files"].items():
                assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"]
    return [(row[0], row[1], row[2]) for row in rows]
