"""Finding the sets of a checkpoint: among what the Hub's cache holds, and on the Hub by tag."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eigenbank.registry.hub.errors import hub_errors
from eigenbank.registry.hub.location import cached_commits, is_commit, is_repo_id
from eigenbank.registry.hub.pull import Pulled, cached_set
from eigenbank.registry.hub.remote import TAG, Told, api, told
from eigenbank.registry.hub.say import Say
from eigenbank.registry.sets.folder import MANIFEST

if TYPE_CHECKING:
    pass

TRUST = "EIGENBANK_TRUST"
"""Environment variable: users and organisations, separated by commas, whose sets are preferred."""
HOUSE = "eigenbank"


@dataclass(frozen=True)
class Candidate:
    """A repository on the Hub that says it holds directions. `commit` is the head of its main branch."""

    repo: str
    commit: str
    downloads: int
    bases: tuple[str, ...]

    @property
    def author(self) -> str:
        return self.repo.split("/")[0]

    @property
    def trusted(self) -> bool:
        """Whether it is of the project, of the organisation whose checkpoint it is for, or named in EIGENBANK_TRUST."""
        named = {name.strip() for name in os.environ.get(TRUST, "").split(",")} - {""}
        return self.author in {HOUSE, *named, *(base.split("/")[0] for base in self.bases if "/" in base)}

    @property
    def order(self) -> tuple[bool, int, str]:
        """Sorts the preferred first: the trusted, then the most downloaded."""
        return not self.trusted, -self.downloads, self.repo


def candidates(model: str | None = None, *, author: str | None = None) -> list[Candidate]:
    """The repositories on the Hub tagged as direction sets, of one checkpoint if one is named; the preferred first.

    One listing (a request a thousand repositories). Raises HubError.
    """
    wanted = [TAG] if model is None else [TAG, f"base_model:{model}"]
    what = "listing direction sets on the Hub" if model is None else f"looking for direction sets of {model} on the Hub"
    with hub_errors(what, "nothing was changed"):
        listed = list(api().list_models(filter=wanted, author=author, expand=["sha", "tags", "downloads"]))
    checked = [told(info) for info in listed]
    found = [_candidate(one) for one in checked if one is not None and is_repo_id(one.id) and is_commit(one.sha)]
    return sorted(found, key=lambda candidate: candidate.order)


def _candidate(found: Told) -> Candidate:
    return Candidate(found.id, found.sha or "", found.downloads, found.bases)


def told_choice(chosen: Candidate, others: list[Candidate], model: str) -> str:
    """The sentence that says which repository was taken, and how to take another."""
    trust = "trusted" if chosen.trusted else f"not of a trusted author; {TRUST}={chosen.author} makes it one"
    text = f"directions of {model}: taken from {chosen.repo} on the Hub ({trust}; {chosen.downloads:,} downloads)"
    if others:
        names = ", ".join(other.repo for other in others[:5])
        text += f". Others: {names}{', …' if len(others) > 5 else ''}; choose with repo= or `eigenbank pull REPO`"
    return text


def cached(model: str, *, say: Say) -> Iterator[Pulled]:
    """The sets of a checkpoint, or of a repository of that name, that the cache holds whole."""
    # The head of the file is enough to pass by other checkpoints' manifests; what is found there is checked after.
    mark = json.dumps(model, ensure_ascii=False).encode()
    for at in cached_commits():
        with (at.folder / MANIFEST).open("rb") as file:
            head = file.read(2**16)
        if at.repo == model or mark in head:
            found = cached_set(at, say=say)
            if found is not None and model in (at.repo, found.manifest.checkpoint.model_id):
                yield found
