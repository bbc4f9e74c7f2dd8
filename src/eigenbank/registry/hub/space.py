"""Publish a folder of files as a static Space on the Hub: a repository that is shown as a web page."""

from collections.abc import Collection
from pathlib import Path

from eigenbank.progress import Log
from eigenbank.registry.hub.client import RemoteRepo, check_online, check_repo_id, hub_api, hub_errors, inspect_repo
from eigenbank.registry.hub.publish import NOTHING, PublishResult, Upload, inspect_or_none, push
from eigenbank.registry.sets.folder import CARD
from eigenbank.schemas.errors import HubError, explaining

TEMPLATE = frozenset({".gitattributes", CARD, "index.html", "style.css"})
"""What the Hub itself puts into a new static Space."""


def check_space(repo: str) -> None:
    """Raise HubError, before anything is written, for what cannot be a Space's id, or when offline mode is on."""
    check_online("publishing", NOTHING)
    check_repo_id(repo)
    if "/" not in repo:
        problem = f"{repo!r} names no owner: expected ORG/NAME"
        raise HubError(problem, outcome=NOTHING)


def publish_space(
    folder: Path, repo: str, *, mark: str, ours: Collection[str], private: bool = False, log: Log
) -> PublishResult:
    """Make a static Space hold the files of a folder, as one commit on top of the one that was looked at.

    `mark` is the file by which a Space of ours is known, `ours` the top-level names that belong to it: files under them
    that are not in the folder are deleted; other files, and an existing card, are left alone. The Space is created if
    needed. Raises HubError, with nothing changed but for an empty Space; ConflictError where somebody else pushed
    meanwhile.
    """
    check_space(repo)
    files: dict[str, bytes | Path] = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    advice = "Give the Space's README.md the header that the Hub asks for"
    upload = Upload(repo=repo, files=files, kind="space", what="the page", card=("the Space's card", advice))
    with explaining(outcome=NOTHING):
        remote = inspect_or_none(repo, None, "space")
        new = remote is None
        if remote is None:
            with hub_errors(f"creating the Space {repo}"):
                hub_api().create_repo(
                    repo, repo_type="space", space_sdk="static", private=private or None, exist_ok=True
                )
            remote = inspect_repo(repo, kind="space")
        fresh = new or _untouched(remote)
        if not fresh and mark not in remote.files:
            strangers = sorted(set(remote.files) - {".gitattributes", CARD})
            problem = f"the Space {repo} holds {', '.join(strangers[:3]) or 'a card'}, and no page of this kind"
            raise HubError(problem, advice="Choose another name, or delete the Space")
        changes = upload.changes(remote)
        if not fresh and CARD in remote.files:
            changes[CARD] = "keep"  # its owner may have given it another title
        tops = {*ours, "style.css"} if fresh else ours
        changes |= {name: "delete" for name in remote.files if name.split("/")[0] in tops and name not in files}
        result = PublishResult(repo, remote.commit, changes, upload.sizes)
        if not result.changed:
            return result
        commit = push(upload, remote, changes, "main", "Update the gallery", log)
    return PublishResult(repo, commit, changes, upload.sizes)


def _untouched(remote: RemoteRepo) -> bool:
    """Whether a Space holds only what the Hub put there when it was created."""
    if not set(remote.files) <= TEMPLATE:
        return False
    with hub_errors(f"looking at the Space {remote.repo}"):
        return len(hub_api().list_repo_commits(remote.repo, repo_type="space")) == 1
