"""Where a published set is, in a catalog's words, and where the Hub's cache keeps it on this machine."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eigenbank.registry.sets.bundled import resolve
from eigenbank.registry.sets.folder import MANIFEST

_PREFIX = "hub:"
_FORM = re.compile(r"hub:([\w.-]+/[\w.-]+|[\w.-]+)@([0-9a-f]{40})", re.ASCII)
_REPO = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Published:
    """A set in a repository at a commit. As a catalog's location: `hub:ORG/NAME@COMMIT`."""

    repo: str
    commit: str

    def __str__(self) -> str:
        return f"{_PREFIX}{self.repo}@{self.commit}"

    @property
    def short(self) -> str:
        """The form for people."""
        return f"{self.repo}@{self.commit[:8]}"

    @property
    def folder(self) -> Path:
        """Where the Hub's cache keeps it, whether it is there or not."""
        return repo_cache(self.repo) / "snapshots" / self.commit


def parse(location: str) -> Published | None:
    """What a catalog's location names on the Hub; None when it is a place on this machine."""
    found = _FORM.fullmatch(location)
    return Published(found[1], found[2]) if found and is_repo_id(found[1]) else None


def is_repo_id(text: str) -> bool:
    """Whether a text can be a repository's id, and is safe as part of a path. The Hub's own rules, no looser."""
    return _REPO.fullmatch(text) is not None and ".." not in text and "--" not in text


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit's full id, which never means anything else later."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def folder_of(location: str) -> Path:
    """The folder a catalog's location stands for on this machine, whether it is there or not."""
    published = parse(location)
    return resolve(location) if published is None else published.folder


def cache_root() -> Path:
    """The Hub's cache on this machine, shared with every program that uses huggingface_hub."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repo_cache(repo: str) -> Path:
    """The folder of one repository in the Hub's cache."""
    return cache_root() / f"models--{repo.replace('/', '--')}"


def cached_commits(repo: str | None = None) -> Iterator[Published]:
    """The commits in the cache that hold a manifest: where `main` points first, then the newest, for each repository."""
    folders = [repo_cache(repo)] if repo is not None else sorted(cache_root().glob("models--*"))
    for folder in folders:
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        main = folder / "refs" / "main"
        head = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
        found = [path.parent for path in folder.glob(f"snapshots/*/{MANIFEST}") if path.is_file()]
        found.sort(key=lambda path: (path.name == head, path.lstat().st_mtime), reverse=True)
        for path in found:
            if is_commit(path.name) and is_repo_id(name):
                yield Published(name, path.name)
