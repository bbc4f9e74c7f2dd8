"""Single files from the Hub into its cache, each believed only after it was hashed; what fails is quarantined.

The client notices a wrong length but not changed bytes of equal length: the hashing is ours.
"""

import contextlib
import os
import shutil
from pathlib import Path

from eigenbank.registry.hub.check import differs
from eigenbank.registry.hub.errors import hub_errors
from eigenbank.registry.hub.location import Published, repo_cache
from eigenbank.registry.hub.remote import Remote, RemoteFile
from eigenbank.registry.hub.say import Say
from eigenbank.registry.paths import file_name, home
from eigenbank.registry.sets.folder import file_digest
from eigenbank.schemas import FileEntry
from eigenbank.schemas.errors import HubError


def fetch(remote: Remote, name: str, *, entry: FileEntry | None, say: Say) -> Path:
    """A file of a repository, in the Hub's cache, equal to what the commit and the manifest's `entry` say.

    A damaged copy that lay in the cache is quarantined and fetched again; a damaged one that just came is quarantined
    and refused. Raises HubError.
    """
    from huggingface_hub import hf_hub_download

    told = remote.files.get(name)
    where = remote.at.short
    if told is None:
        message = f"{where} lacks {name}, which its manifest lists: the set is incomplete, and nothing was imported"
        raise HubError(message)
    blob = repo_cache(remote.repo) / "blobs" / (told.sha256 or told.oid or "none")
    while True:
        was_there = (remote.at.folder / name).exists() or blob.exists()
        with hub_errors(f"fetching {name} of {where}", "nothing was imported"):
            path = Path(hf_hub_download(remote.repo, name, revision=remote.commit))
        wrong = told.mismatch(path) or (differs(path, entry) if entry is not None else None)
        if wrong is None:
            return path
        kept = quarantine(path, remote.at, name)
        if not was_there:
            message = (
                f"{name} of {where} {wrong}: it was moved to {kept}, and nothing was imported. Run it again; if that "
                "does not help, tell its owner"
            )
            raise HubError(message)
        say(f"the cached {name} of {where} {wrong}: it was moved to {kept} and is fetched again")


def quarantine(path: Path, at: Published, name: str) -> Path:
    """Move a file out of the Hub's cache, so that nothing reads it and the next fetch is a fresh one. Returns where to."""
    real = path.resolve()
    folder = home() / "quarantine"
    folder.mkdir(parents=True, exist_ok=True)
    plain = file_name(f"{at.repo}/{at.commit[:12]}/{name}")
    target = folder / f"{plain}--{file_digest(real)[:12]}"
    # The name first: when the move is cut short, a name without content is fetched again, a damaged file is not.
    if path.is_symlink():
        path.unlink()
    shutil.move(real, target)
    return target


def point(at: Published, revision: str) -> None:
    """Note in the cache which commit a branch is at, where the Hub's client notes it: for when it cannot be asked."""
    place = repo_cache(at.repo) / "refs" / revision
    with contextlib.suppress(OSError):
        if place.is_file() and place.read_text(encoding="utf-8") == at.commit:
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f".{place.name}.{os.getpid()}")
        fresh.write_text(at.commit, encoding="utf-8")
        os.replace(fresh, place)


def cached_file(path: Path) -> RemoteFile:
    """What the cache itself says of a file: its blob is named by the digest the commit gave."""
    name = path.resolve().name
    size = path.stat().st_size
    if len(name) == 64:
        return RemoteFile(size, None, name)
    return RemoteFile(size, name if len(name) == 40 and path.is_symlink() else None, None)
