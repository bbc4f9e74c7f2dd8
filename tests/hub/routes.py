"""What the loopback Hub answers: one function per endpoint, from a request to an Answer. No sockets here."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from hub.store import SPACE_SDKS, Blob, Commit, Problem, Repo, Store, card_problems, goes_to_lfs, space_problems


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    origin: str
    cdn: str | None
    user: str | None
    page_size: int

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)

    def json(self) -> Any:
        return json.loads(self.body or b"{}")


@dataclass
class Answer:
    """`blob` is sent from `start` up to `end`; else `body` is sent."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    blob: Blob | None = None
    span: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, value: Any, status: int = 200, **headers: str) -> "Answer":
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


Route = Callable[[Store, Request, re.Match[str]], Answer]
_ROUTES: list[tuple[str, re.Pattern[str], str, Route]] = []
_ID = r"(?P<id>[^/]+/[^/]+|[^/]+)"
_T = r"/api/(?P<t>models|datasets|spaces)"


def route(method: str, pattern: str, kind: str) -> Callable[[Route], Route]:
    def keep(function: Route) -> Route:
        _ROUTES.append((method, re.compile(pattern), kind, function))
        return function

    return keep


def find(method: str, target: str) -> tuple[str, re.Match[str], Route] | None:
    """The kind of a request, its parts, and what answers it."""
    path = urlsplit(target).path
    for wanted, pattern, kind, function in _ROUTES:
        match = pattern.fullmatch(path)
        if match and wanted == method:
            return kind, match, function
    return None


def path_of(match: re.Match[str]) -> str:
    """The file a request is for, for faults that are for one file."""
    return unquote(match.groupdict().get("path") or "")


def _kind(match: re.Match[str]) -> str:
    found = match.groupdict().get("t") or "models"
    return found.strip("/")


def _repo(store: Store, request: Request, match: re.Match[str], *, write: bool = False) -> Repo:
    repo = store.repos.get((_kind(match), match["id"]))
    owner = match["id"].split("/")[0]
    if repo is None or (repo.private and request.user != owner):
        raise Problem(401 if request.user is None else 404, "RepoNotFound", "Repository not found")
    if write and request.user is None:
        raise Problem(401, "", "Invalid username or password.")
    if write and request.user != owner and not owner.startswith("org"):
        raise Problem(403, "", "You don't have the rights to write to this repository")
    return repo


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": blob.size, "oid": blob.oid}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    return entry


def _shown(repo: Repo, commit: Commit, *, blobs: bool = False) -> dict[str, Any]:
    siblings: list[dict[str, Any]] = []
    for path, blob in sorted(commit.files.items()):
        sibling: dict[str, Any] = {"rfilename": path}
        if blobs:
            sibling |= {"size": blob.size, "blobId": blob.oid}
            if blob.lfs:
                sibling["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
        siblings.append(sibling)
    card = repo.card(commit.sha)
    return {
        "_id": repo.id,
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.id.split("/")[0],
        "sha": commit.sha,
        "private": repo.private,
        "gated": "auto" if repo.gated else False,
        "disabled": False,
        "downloads": repo.downloads,
        "likes": 0,
        "tags": repo.labels(),
        "library_name": card.get("library_name"),
        "cardData": json.loads(json.dumps(card, default=str)),
        "createdAt": next(iter(repo.commits.values())).date,
        "lastModified": commit.date,
        "siblings": siblings,
        **({"sdk": card.get("sdk"), "subdomain": repo.id.replace("/", "-")} if repo.kind == "spaces" else {}),
    }


@route("GET", "/api/whoami-v2", "whoami")
def whoami(_store: Store, request: Request, _match: re.Match[str]) -> Answer:
    if request.user is None:
        raise Problem(401, "", "Invalid username or password.")
    token = {"accessToken": {"displayName": "test", "role": "write"}}
    return Answer.of({"type": "user", "name": request.user, "orgs": [], "auth": token})


@route("POST", "/api/repos/create", "create")
def create(store: Store, request: Request, _match: re.Match[str]) -> Answer:
    asked = request.json()
    if request.user is None:
        raise Problem(401, "", "Invalid username or password.")
    owner = asked.get("organization") or request.user
    repo_id = f"{owner}/{asked['name']}"
    kind = f"{asked.get('type') or 'model'}s"
    url = f"{request.origin}/{'' if kind == 'models' else f'{kind}/'}{repo_id}"
    if kind == "spaces" and asked.get("sdk") not in SPACE_SDKS:
        raise Problem(400, "", f"sdk: expected one of {', '.join(SPACE_SDKS)}, found {asked.get('sdk')!r}")
    if owner != request.user and not owner.startswith("org"):
        raise Problem(403, "", "You don't have the rights to create a repository there")
    private = bool(asked.get("private")) or asked.get("visibility") == "private"
    try:
        store.create(kind, repo_id, private=private)
    except Problem as problem:
        raise Problem(409, "", str(problem), url=url) from None
    return Answer.of({"url": url, "name": repo_id})


@route("DELETE", "/api/repos/delete", "delete")
def delete(store: Store, request: Request, _match: re.Match[str]) -> Answer:
    asked = request.json()
    repo_id = f"{asked.get('organization') or request.user}/{asked['name']}"
    with store.lock:
        if store.repos.pop((f"{asked.get('type') or 'model'}s", repo_id), None) is None:
            raise Problem(404, "RepoNotFound", "Repository not found")
    return Answer()


@route("POST", "/api/validate-yaml", "validate-yaml")
def validate(_store: Store, request: Request, _match: re.Match[str]) -> Answer:
    asked = request.json()
    find = space_problems if asked.get("repoType") == "space" else card_problems
    errors = [{"message": problem} for problem in find(asked["content"])]
    return Answer.of({"errors": errors, "warnings": []}, 400 if errors else 200)


@route("POST", f"{_T}/{_ID}/preupload/(?P<rev>[^/]+)", "preupload")
def preupload(store: Store, request: Request, match: re.Match[str]) -> Answer:
    files = _repo(store, request, match, write=True).at(unquote(match["rev"])).files
    answers = []
    for file in request.json()["files"]:
        large = goes_to_lfs(file["path"], base64.b64decode(file["sample"]), file["size"])
        known = files.get(file["path"])
        answers.append(
            {
                "path": file["path"],
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": False,
                "oid": known.etag if known else None,
            }
        )
    return Answer.of({"files": answers})


@route("POST", f"/(?P<t>datasets/|spaces/)?{_ID}\\.git/info/lfs/objects/batch", "lfs-batch")
def lfs_batch(store: Store, request: Request, match: re.Match[str]) -> Answer:
    _repo(store, request, match, write=True)
    objects = []
    for asked in request.json()["objects"]:
        entry = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in store.large:
            href = f"{request.origin}/_lfs/{asked['oid']}"
            entry["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        objects.append(entry)
    return Answer.of({"transfer": "basic", "objects": objects})


@route("PUT", "/_lfs/(?P<oid>[0-9a-f]{64})", "lfs-upload")
def lfs_upload(store: Store, request: Request, match: re.Match[str]) -> Answer:
    blob = Blob(request.body, lfs=True)
    if blob.sha256 != match["oid"]:
        raise Problem(400, "", "the bytes do not have that sha256")
    with store.lock:
        store.large[blob.sha256] = blob
    return Answer()


@route("POST", "/_lfs/(?P<oid>[0-9a-f]{64})/verify", "lfs-verify")
def lfs_verify(store: Store, request: Request, _match: re.Match[str]) -> Answer:
    asked = request.json()
    blob = store.large.get(asked["oid"])
    if blob is None or blob.size != asked["size"]:
        raise Problem(404, "", "no such object")
    return Answer()


@route("POST", f"{_T}/{_ID}/commit/(?P<rev>[^/]+)", "commit")
def commit(store: Store, request: Request, match: re.Match[str]) -> Answer:
    repo = _repo(store, request, match, write=True)
    header: dict[str, Any] = {}
    add: dict[str, Blob] = {}
    gone: list[str] = []
    for line in request.body.splitlines():
        item = json.loads(line)
        value = item["value"]
        if item["key"] == "header":
            header = value
        elif item["key"] == "file":
            add[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
        elif item["key"] == "lfsFile":
            if value["oid"] not in store.large:
                raise Problem(400, "", f"the large file {value['path']} was not uploaded")
            add[value["path"]] = store.large[value["oid"]]
        elif item["key"] in ("deletedFile", "deletedFolder"):
            gone.append(value["path"].rstrip("/"))
    made = store.commit(
        repo,
        unquote(match["rev"]),
        header["summary"],
        header.get("description") or "",
        add=add,
        delete=gone,
        parent=header.get("parentCommit"),
    )
    return Answer.of(
        {"success": True, "commitOid": made.sha, "commitUrl": f"{request.origin}/{repo.id}/commit/{made.sha}"}
    )


@route("GET", f"{_T}/{_ID}/tree/(?P<rev>[^/]+)(?:/(?P<path>.*))?", "tree")
def tree(store: Store, request: Request, match: re.Match[str]) -> Answer:
    files = _repo(store, request, match).at(unquote(match["rev"])).files
    root = f"{path_of(match)}/".lstrip("/")
    deep = request.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in sorted(files.items()):
        if not path.startswith(root):
            continue
        parts = path.removeprefix(root).split("/")
        for depth in range(1, len(parts)):
            if deep or depth == 1:
                folder = root + "/".join(parts[:depth])
                entries.setdefault(folder, {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40})
        if deep or len(parts) == 1:
            entries[path] = _entry(path, blob)
    if root and not entries:
        raise Problem(404, "EntryNotFound", f"no {root}")
    return Answer.of(list(entries.values()))


@route("POST", f"{_T}/{_ID}/paths-info/(?P<rev>[^/]+)", "paths-info")
def paths_info(store: Store, request: Request, match: re.Match[str]) -> Answer:
    files = _repo(store, request, match).at(unquote(match["rev"])).files
    entries: list[dict[str, Any]] = []
    for path in parse_qs(request.body.decode()).get("paths", []):
        if path in files:
            entries.append(_entry(path, files[path]))
        elif any(name.startswith(f"{path}/") for name in files):
            entries.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
    return Answer.of(entries)


@route("GET", f"{_T}/{_ID}/refs", "refs")
def refs(store: Store, request: Request, match: re.Match[str]) -> Answer:
    repo = _repo(store, request, match)

    def listed(names: dict[str, str], kind: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in names.items()]

    found = {"branches": listed(repo.branches, "heads"), "tags": listed(repo.tags, "tags")}
    return Answer.of({**found, "converts": [], "pullRequests": []})


@route("GET", f"{_T}/{_ID}/commits/(?P<rev>[^/]+)", "commits")
def commits(store: Store, request: Request, match: re.Match[str]) -> Answer:
    repo = _repo(store, request, match)

    def back() -> Iterator[dict[str, Any]]:
        found: Commit | None = repo.at(unquote(match["rev"]))
        while found is not None:
            author = [{"user": repo.id.split("/")[0]}]
            yield {
                "id": found.sha,
                "title": found.title,
                "message": found.message,
                "authors": author,
                "date": found.date,
            }
            found = repo.commits.get(found.parent or "")

    return Answer.of(list(back()))


@route("POST", f"{_T}/{_ID}/tag/(?P<rev>[^/]+)", "tag")
def tag(store: Store, request: Request, match: re.Match[str]) -> Answer:
    repo = _repo(store, request, match, write=True)
    name = request.json()["tag"]
    with store.lock:
        if name in repo.tags:
            raise Problem(409, "", "Tag already exists")
        repo.tags[name] = repo.at(unquote(match["rev"])).sha
    return Answer()


@route("POST", f"{_T}/{_ID}/branch/(?P<rev>[^/]+)", "branch")
def branch(store: Store, request: Request, match: re.Match[str]) -> Answer:
    repo = _repo(store, request, match, write=True)
    name = unquote(match["rev"])
    with store.lock:
        if name in repo.branches:
            raise Problem(409, "", "Branch already exists")
        repo.branches[name] = repo.at(request.json().get("startingPoint") or "main").sha
    return Answer()


@route("GET", _T, "list")
def list_repos(store: Store, request: Request, match: re.Match[str]) -> Answer:
    query = request.query
    wanted = {one for value in query.get("filter", []) for one in value.split(",")}
    found = []
    with store.lock:
        repos = list(store.repos.values())
    for repo in repos:
        owner = repo.id.split("/")[0]
        if repo.kind != match["t"] or (repo.private and request.user != owner):
            continue
        if query.get("author", [owner])[0] != owner or query.get("search", [""])[0].lower() not in repo.id.lower():
            continue
        if wanted <= {*repo.labels(), repo.id}:
            found.append(_shown(repo, repo.at("main")))
    order = query.get("sort", ["trendingScore"])[0]
    found.sort(key=lambda entry: entry.get(order) or 0, reverse=True)
    start = int(query.get("cursor", ["0"])[0])
    size = min(request.page_size, int(query.get("limit", [str(request.page_size)])[0]))
    expand = query.get("expand", [])
    always = {"_id", "id", "modelId"}
    plain = always | {"private", "downloads", "likes", "tags", "library_name", "createdAt"}
    if query.get("full"):
        plain |= {"sha", "lastModified", "siblings", "author", "gated", "disabled"}
    if query.get("cardData"):
        plain |= {"cardData"}
    keys = always | set(expand) if expand else plain
    headers = {}
    if start + size < len(found):
        kept = [(key, value) for key, values in query.items() if key != "cursor" for value in values]
        link = "&".join(f"{key}={quote(value, safe='')}" for key, value in [*kept, ("cursor", str(start + size))])
        headers["Link"] = f'<{request.origin}{urlsplit(request.target).path}?{link}>; rel="next"'
    page = [{key: value for key, value in entry.items() if key in keys} for entry in found[start : start + size]]
    return Answer.of(page, 200, **headers)


@route("GET", f"{_T}/{_ID}(?:/revision/(?P<rev>[^/]+))?", "info")
def info(store: Store, request: Request, match: re.Match[str]) -> Answer:
    repo = _repo(store, request, match)
    blobs = request.query.get("blobs", ["false"])[0].lower() in ("true", "1")
    found = _shown(repo, repo.at(unquote(match["rev"] or "main")), blobs=blobs)
    expand = request.query.get("expand", [])
    return Answer.of({key: value for key, value in found.items() if not expand or key in {*expand, "id", "_id"}})


def _resolve(store: Store, request: Request, match: re.Match[str]) -> Answer:
    repo = _repo(store, request, match)
    if repo.gated and request.user != repo.id.split("/")[0]:
        raise Problem(403, "GatedRepo", "Access to this repository is restricted")
    found = repo.at(unquote(match["rev"]))
    blob = found.files.get(path_of(match))
    if blob is None:
        problem = Problem(404, "EntryNotFound", f"no {path_of(match)}")
        problem.more = {"X-Repo-Commit": found.sha}
        raise problem
    repo.downloads += path_of(match) == "config.json"  # what the real Hub counts where a library has no rule of its own
    headers = {"X-Repo-Commit": found.sha, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    if blob.lfs:
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        if request.cdn is not None:
            store.large.setdefault(blob.sha256, blob)
            return Answer(302, b"", {**headers, "Location": f"{request.cdn}/cdn/{blob.sha256}"})
    return _ranged(request, blob, headers)


def _ranged(request: Request, blob: Blob, headers: dict[str, str]) -> Answer:
    headers["Content-Type"] = "application/octet-stream"
    asked = request.headers.get("range")
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked) if asked else None
    if match is None or match[0] == "bytes=-":
        return Answer(200, b"", headers, blob, (0, blob.size))
    if not match[1]:
        start, end = max(0, blob.size - int(match[2])), blob.size
    else:
        start, end = int(match[1]), min(blob.size, int(match[2]) + 1 if match[2] else blob.size)
    if start >= blob.size or start >= end:
        return Answer(416, b"", {"Content-Range": f"bytes */{blob.size}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.size}"
    return Answer(206, b"", headers, blob, (start, end))


_FILE = f"/(?P<t>datasets/|spaces/)?{_ID}/resolve/(?P<rev>[^/]+)/(?P<path>.+)"
route("HEAD", _FILE, "head")(_resolve)
route("GET", _FILE, "get")(_resolve)


def _cdn(store: Store, request: Request, match: re.Match[str]) -> Answer:
    blob = store.large.get(match["oid"])
    if blob is None:
        raise Problem(404, "EntryNotFound", "no such object")
    return _ranged(request, blob, {"ETag": f'"{blob.sha256}"', "Accept-Ranges": "bytes"})


route("HEAD", "/cdn/(?P<oid>[0-9a-f]{64})", "cdn")(_cdn)
route("GET", "/cdn/(?P<oid>[0-9a-f]{64})", "cdn")(_cdn)
