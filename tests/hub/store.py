"""What the loopback Hub keeps: repositories, their commits, branches and tags, and the large files. In memory only."""

import datetime
import hashlib
import itertools
import re
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from eigenbank.registry.sets.card import LICENCES

_numbers = itertools.count()


class Problem(Exception):
    """An answer that is an error: HTTP status, the Hub's X-Error-Code, and a message."""

    def __init__(self, status: int, code: str = "", message: str = "", **more: Any) -> None:
        super().__init__(message or code)
        self.status = status
        self.code = code
        self.more = more


class Moved(Exception):
    """An answer that is a redirect: a repository of another name now."""


@dataclass(frozen=True)
class Blob:
    """A file's content, in memory or on disk. `known_sha256` spares hashing a huge file that a test made sparse."""

    data: bytes | Path
    lfs: bool
    known_sha256: str | None = None

    @cached_property
    def size(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else self.data.stat().st_size

    def read(self, start: int = 0, end: int | None = None) -> bytes:
        """The bytes from `start` up to `end`."""
        end = self.size if end is None else end
        if isinstance(self.data, bytes):
            return self.data[start:end]
        with self.data.open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    @cached_property
    def sha256(self) -> str:
        if self.known_sha256 is not None:
            return self.known_sha256
        digest = hashlib.sha256()
        for start in range(0, self.size, 2**20):
            digest.update(self.read(start, min(start + 2**20, self.size)))
        return digest.hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git keeps in the place of a large file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @cached_property
    def oid(self) -> str:
        """The git object id."""
        content = self.pointer if self.lfs else self.read()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    message: str
    date: str
    files: dict[str, Blob]


@dataclass
class Repo:
    """A repository. `kind` is `models`, `datasets` or `spaces`."""

    id: str
    kind: str = "models"
    private: bool = False
    gated: bool = False
    downloads: int = 0
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        """The commit a branch, tag or sha names. Raises Problem."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Problem(404, "RevisionNotFound", f"no revision {revision!r}")
        return self.commits[sha]

    def card(self, revision: str = "main") -> dict[str, Any]:
        """The YAML header of the README, {} when there is none or it is none."""
        blob = self.at(revision).files.get("README.md")
        return front_matter(blob.read().decode("utf-8", "replace"))[0] if blob else {}

    def labels(self) -> list[str]:
        """The tags the Hub shows and filters by: the card's own, and those it derives from the card."""
        card = self.card()
        tags = [str(tag) for tag in card.get("tags") or []]
        bases = card.get("base_model") or []
        for base in [bases] if isinstance(bases, str) else bases:
            tags.append(f"base_model:{base}")
            if card.get("base_model_relation"):
                tags.append(f"base_model:{card['base_model_relation']}:{base}")
        if card.get("library_name"):
            tags.append(str(card["library_name"]))
        if card.get("license"):
            tags.append(f"license:{card['license']}")
        return list(dict.fromkeys([*tags, "region:us"]))


class Store:
    """All repositories and large files. Changes happen under one lock, so that a commit is there whole or not at all."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, Blob] = {}
        self.renamed: dict[str, str] = {}

    def create(self, kind: str, repo_id: str, *, private: bool = False) -> Repo:
        """Make a repository with the first commit every one has. Raises Problem if it is there."""
        with self.lock:
            if (kind, repo_id) in self.repos:
                raise Problem(409, "", "You already created this repo")
            repo = self.repos[kind, repo_id] = Repo(repo_id, kind, private)
            attributes = Blob(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", lfs=False)
            template = SPACE_TEMPLATE if kind == "spaces" else {}
            files = {name: Blob(text.encode(), lfs=False) for name, text in template.items()}
            self.commit(repo, "main", "initial commit", add={".gitattributes": attributes, **files})
            return repo

    def rename(self, kind: str, old: str, new: str) -> None:
        """Give a repository another name; requests for the old one are redirected."""
        with self.lock:
            repo = self.repos.pop((kind, old))
            repo.id = new
            self.repos[kind, new] = repo
            self.renamed[old] = new

    def commit(
        self,
        repo: Repo,
        branch: str,
        title: str,
        message: str = "",
        *,
        add: dict[str, Blob] | None = None,
        delete: list[str] | None = None,
        parent: str | None = None,
    ) -> Commit:
        """Add a commit to a branch. Raises Problem 412 if `parent` is given and no longer the branch's head."""
        with self.lock:
            head = repo.branches.get(branch)
            if head is None and repo.commits:
                raise Problem(404, "RevisionNotFound", f"no branch {branch!r}")
            if parent is not None and parent != head:
                raise Problem(412, "", "A commit has happened since. Please refresh and try again.")
            files = dict(repo.commits[head].files) if head else {}
            for path in delete or []:
                files = {name: blob for name, blob in files.items() if name != path and not name.startswith(f"{path}/")}
            files.update(add or {})
            sha = hashlib.sha1(f"{repo.id} {head} {title} {next(_numbers)}".encode()).hexdigest()
            commit = Commit(sha, head, title, message, _now(), files)
            repo.commits[sha] = commit
            repo.branches[branch] = sha
            self.large.update({blob.sha256: blob for blob in (add or {}).values() if blob.lfs})
            return commit


LFS_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".webp", ".png", ".jpg", ".zip", ".npy", ".npz")


def goes_to_lfs(path: str, sample: bytes, size: int) -> bool:
    """Whether the Hub keeps a file as LFS: by its ending, its size, or because it is no text."""
    return size > 0 and (path.endswith(LFS_ENDINGS) or size > 10 * 2**20 or b"\0" in sample)


def front_matter(text: str) -> tuple[dict[str, Any], str | None]:
    """The YAML header of a card, and what is wrong with it, if anything is."""
    match = re.match(r"^---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
    if match is None:
        return {}, None
    try:
        found = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return {}, f"the header is not YAML: {error}"
    return (found, None) if isinstance(found, dict) else ({}, "the header is not a mapping")


RELATIONS = ("finetune", "adapter", "merge", "quantized")


def card_problems(text: str) -> list[str]:
    """What the Hub's validator finds wrong with a card's header, by the rules its documentation states."""
    card, problem = front_matter(text)
    if problem is not None:
        return [problem]
    problems = []
    licence = card.get("license")
    for one in licence if isinstance(licence, list) else [licence] if licence is not None else []:
        if one not in LICENCES:
            problems.append(f'"license" must be one of [{", ".join(sorted(LICENCES)[:5])}, …], found {one!r}')
    base = card.get("base_model")
    for one in base if isinstance(base, list) else [base] if base is not None else []:
        if not (isinstance(one, str) and re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", one) and ".." not in one):
            problems.append(f'"base_model" with value {one!r} is not valid. Use a model id from https://hf.co/models.')
    if card.get("base_model_relation") not in (None, *RELATIONS):
        problems.append(f'"base_model_relation" must be one of {", ".join(RELATIONS)}')
    tags = card.get("tags")
    if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        problems.append('"tags" must be an array of strings')
    if "library_name" in card and not isinstance(card["library_name"], str):
        problems.append('"library_name" must be a string')
    return problems


SPACE_SDKS = ("gradio", "docker", "static")
SPACE_COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
SPACE_TEMPLATE = {
    "README.md": "---\ntitle: New\nemoji: 👁\ncolorFrom: red\ncolorTo: gray\nsdk: static\npinned: false\n---\n",
    "index.html": "<!doctype html>\n<title>My static Space</title>\n",
    "style.css": "body { padding: 2rem; }\n",
}
"""What a new static Space holds."""


def space_problems(text: str) -> list[str]:
    """What the Hub's validator finds wrong with a Space's header, by the rules its documentation states."""
    card, problem = front_matter(text)
    if problem is not None:
        return [problem]
    problems = []
    if card.get("sdk") not in SPACE_SDKS:
        problems.append(f'"sdk" must be one of [{", ".join(SPACE_SDKS)}]')
    for key in ("colorFrom", "colorTo"):
        if card.get(key, "red") not in SPACE_COLOURS:
            problems.append(f'"{key}" must be one of [{", ".join(SPACE_COLOURS)}]')
    if "emoji" in card and not (
        isinstance(card["emoji"], str) and 0 < len(card["emoji"]) <= 8 and not card["emoji"].isascii()
    ):
        problems.append('"emoji" must be an emoji')
    if len(str(card.get("short_description", ""))) > 60:
        problems.append('"short_description" length must be less than or equal to 60 characters long')
    if card.get("license", "other") not in LICENCES:
        problems.append(f'"license" must be one of [{", ".join(sorted(LICENCES)[:5])}, …]')
    return problems


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
