"""What this machine remembers of repositories: the commit it last saw there, and why one was not brought in.

One small file per repository and Hub, replaced atomically: processes that run at once do not lose each other's notes.
All of it can be deleted; then the next run asks again.
"""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from eigenbank.registry.paths import file_name, home


class Note(BaseModel):
    """`base`: the commit a publish or pull of ours last left or found on a branch, by branch. `commit`, `outcome`,
    `reason`: what a sync decided about a commit it did not bring in; `model` and `revision` the set it holds.
    `version` is of the eigenbank that decided: another one looks again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: dict[str, str] = {}
    commit: str | None = None
    outcome: Literal["refused", "kept"] | None = None
    reason: str = ""
    model: str | None = None
    revision: str | None = None
    version: str = ""


def recall(repo: str) -> Note:
    """The note on a repository, an empty one where there is none or it cannot be read."""
    try:
        return Note.model_validate_json(_place(repo).read_bytes())
    except (OSError, ValidationError):
        return Note()


def remember(repo: str, note: Note) -> None:
    """Replace the note on a repository. A home that cannot be written to only costs the memory."""
    place = _place(repo)
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".note-", dir=place.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(note.model_dump_json(indent=1))
        os.replace(name, place)


def remember_base(repo: str, branch: str, commit: str) -> None:
    """Note the commit that a branch was left at by us, or was found at."""
    note = recall(repo)
    remember(repo, note.model_copy(update={"base": {**note.base, branch: commit}}))


def _place(repo: str) -> Path:
    from huggingface_hub import constants

    hub = hashlib.sha256(constants.ENDPOINT.encode()).hexdigest()[:8]
    return home() / "hub" / hub / f"{file_name(repo)}.json"
