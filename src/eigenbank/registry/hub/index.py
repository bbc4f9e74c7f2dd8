"""An index: a dataset repository whose index.json names published sets, for those who curate them.

    {"format": 1, "sets": [{"repo": "me/faces-directions", "commit": "3f2c…", "base": "acme/faces"}]}

It replaces the Hub's listing: only what it names is brought in, at the commits it names, in its order.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from eigenbank.registry.hub.discover import Candidate
from eigenbank.registry.hub.errors import hub_errors
from eigenbank.registry.hub.location import is_repo_id
from eigenbank.registry.hub.remote import RemoteFile, api, check_repo_id
from eigenbank.registry.hub.say import Say
from eigenbank.schemas.common import Model, ModelId
from eigenbank.schemas.errors import HubError, first_problem

NAME = "index.json"
MAX_BYTES = 64 * 2**20


class IndexEntry(Model):
    """One published set, at a commit."""

    repo: ModelId
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    base: ModelId | None = None


class Index(Model):
    """What index.json holds."""

    format: Literal[1]
    sets: tuple[IndexEntry, ...] = Field(max_length=1_000_000)


def from_index(repo: str, *, author: str | None, say: Say) -> list[Candidate]:
    """The sets an index names. Raises HubError when there is none, or it is malformed."""
    from huggingface_hub import hf_hub_download

    check_repo_id(repo)
    nothing = "the catalog is as it was"
    with hub_errors(f"reading the index {repo}", nothing):
        info = api().dataset_info(repo, files_metadata=True)
    told = next((sibling for sibling in info.siblings or [] if sibling.rfilename == NAME), None)
    if told is None or (told.size or 0) > MAX_BYTES:
        found = "none" if told is None else f"one of {told.size:,} bytes"
        message = f"{repo} is no index: expected an {NAME} of at most {MAX_BYTES:,} bytes, found {found}: {nothing}"
        raise HubError(message)
    with hub_errors(f"fetching the index {repo}", nothing):
        path = Path(hf_hub_download(repo, NAME, repo_type="dataset", revision=info.sha))
    wrong = RemoteFile(told.size or 0, told.blob_id, told.lfs.sha256 if told.lfs is not None else None).mismatch(path)
    if wrong is not None:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        message = f"the {NAME} of {repo} {wrong}: it was removed, and {nothing}. Run it again"
        raise HubError(message)
    try:
        index = Index.model_validate_json(path.read_bytes())
    except ValidationError as error:
        message = f"the {NAME} of {repo} is no index of format 1: {first_problem(error)}: {nothing}"
        raise HubError(message) from error
    entries = [entry for entry in index.sets if is_repo_id(entry.repo)]
    if len(entries) < len(index.sets):
        say(f"{len(index.sets) - len(entries)} entries of the index {repo} name no repository: they are passed over")
    return [
        Candidate(entry.repo, entry.commit, 0, (entry.base,) if entry.base else ())
        for entry in entries
        if author is None or entry.repo.split("/")[0] == author
    ]
