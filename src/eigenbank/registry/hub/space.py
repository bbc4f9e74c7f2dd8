"""A folder of files as a static Space on the Hub: the web page that a repository of that kind is."""

from collections.abc import Collection
from pathlib import Path

from eigenbank.registry.hub.errors import check_online, hub_errors
from eigenbank.registry.hub.remote import Remote, api, check_repo_id, look
from eigenbank.registry.hub.say import Say
from eigenbank.registry.hub.upload import NOTHING, Outcome, Upload, commit, look_or_none
from eigenbank.schemas.errors import HubError

CARD = "README.md"
TEMPLATE = frozenset({".gitattributes", CARD, "index.html", "style.css"})
"""What the Hub itself puts into a new static Space."""


def check_space(repo: str) -> None:
    """Raise HubError, before anything is written, for what cannot be a Space's id, or where the Hub may not be asked."""
    check_online("publishing", NOTHING)
    check_repo_id(repo)
    if "/" not in repo:
        message = f"{repo!r} names no owner: expected ORG/NAME. {NOTHING.capitalize()}"
        raise HubError(message)


def publish_space(
    folder: Path, repo: str, *, mark: str, ours: Collection[str], private: bool = False, say: Say
) -> Outcome:
    """Bring a static Space to hold the files of a folder, as one commit on top of what was looked at.

    `mark` is the file by which a Space of ours is known, `ours` the top-level names that belong to it: what is under them
    and not in the folder is deleted, other files are left alone, and so is a card that is there. The Space is made if
    needed. Raises HubError, with nothing changed but for an empty Space; ConflictError where somebody else pushed
    meanwhile.
    """
    check_space(repo)
    files: dict[str, bytes | Path] = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    advice = "Give the Space's README.md the header that the Hub asks for"
    upload = Upload(repo=repo, files=files, kind="space", what="the page", card=("the Space's card", advice))
    remote = look_or_none(repo, None, "space")
    new = remote is None
    if remote is None:
        with hub_errors(f"making the Space {repo}", NOTHING):
            api().create_repo(repo, repo_type="space", space_sdk="static", private=private or None, exist_ok=True)
        remote = look(repo, kind="space", outcome=NOTHING)
    fresh = new or _untouched(remote)
    if not fresh and mark not in remote.files:
        strangers = sorted(set(remote.files) - {".gitattributes", CARD})
        message = (
            f"the Space {repo} holds {', '.join(strangers[:3]) or 'a card'}, and no page of this kind: {NOTHING}. Choose "
            "another name, or delete the Space"
        )
        raise HubError(message)
    changes = upload.changes(remote)
    if not fresh and CARD in remote.files:
        changes[CARD] = "keep"  # its owner may have given it another title
    tops = {*ours, "style.css"} if fresh else ours
    changes |= {name: "delete" for name in remote.files if name.split("/")[0] in tops and name not in files}
    outcome = Outcome(repo, remote.commit, changes, upload.sizes)
    if not outcome.changed:
        return outcome
    made = commit(upload, remote, changes, "main", "The gallery, written anew", say)
    return Outcome(repo, made, changes, upload.sizes)


def _untouched(remote: Remote) -> bool:
    """Whether a Space holds nothing but what the Hub put there when it was made."""
    if not set(remote.files) <= TEMPLATE:
        return False
    with hub_errors(f"looking at the Space {remote.repo}", NOTHING):
        return len(api().list_repo_commits(remote.repo, repo_type="space")) == 1
