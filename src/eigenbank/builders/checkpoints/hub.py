"""Checkpoints on the Hub, read by HTTP ranges: the headers of their files, then the rows that are wanted.

The revision is resolved to a commit once; everything after is read from that commit, through the client's own session,
token and endpoint. Small JSON files come through the client's cache.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from eigenbank.builders.checkpoints.folder import PARALLEL, StoredFiles, open_folder, open_stored
from eigenbank.builders.checkpoints.source import Span, TensorFile, WeightSource
from eigenbank.registry.hub.client import explain_error
from eigenbank.registry.sets.tensors import header_length, parse_header
from eigenbank.schemas.errors import HubError, SourceError, UnreachableError

GAP = 32 * 2**10
"""Neighbouring ranges this close are fetched as one: less than a request costs."""
CHUNK = 16 * 2**20
"""Most bytes of one request, so that several run side by side and a cut costs little."""
ATTEMPTS = 6
FIRST_LOOK = 64 * 2**10
T = TypeVar("T")


def open_hub(
    repo: str, *, revision: str | None = None, variant: str | None = None, subfolder: str | None = None
) -> WeightSource:
    """Open the denoiser of a repository on the Hub. Reads its JSON files and tensor headers, no weights.

    `variant` and `subfolder` are as in `open_folder`. Raises SourceError where there is no such repository, revision or
    denoiser, or it cannot be reached.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _from_cache(repo, revision, variant, subfolder)
    commit, names = resolve(repo, revision)
    stored = StoredFiles(
        where=f"{repo} at {commit[:12]}",
        names=names,
        small=lambda name: small_file(repo, name, commit),
        tensors=lambda name: remote_file(repo, name, commit),
        revision=commit,
    )
    return open_stored(stored, lambda name: f"{name}/config.json" in names, variant, subfolder)


def remote_file(repo: str, name: str, commit: str) -> TensorFile:
    """A safetensors file of a repository, its header read and checked."""
    from huggingface_hub import hf_hub_url

    where = f"{repo}/{name}"
    reader = RangeReader(hf_hub_url(repo, name, revision=commit), where)
    start = reader.start(FIRST_LOOK)
    assert reader.size is not None
    length = header_length(bytes(start[:256]), reader.size, where)
    text = start[8 : 8 + length]
    if len(text) < length:
        (rest,) = reader.read([(len(start), 8 + length)])
        text += rest
    return TensorFile(reader, parse_header(bytes(text), reader.size - 8 - length, where), 8 + length)


class RangeReader:
    """Reads byte ranges of a file on a server: neighbours in one request, a few requests at once, retried where they fail.

    `received` counts the bytes that came, `requests` the requests. A file whose ETag or size changes is refused.
    """

    def __init__(self, url: str, where: str) -> None:
        self.url = url
        self.where = where
        self.size: int | None = None
        self.etag: str | None = None
        self.received = 0
        self.requests = 0
        self._counting = threading.Lock()

    def start(self, count: int) -> bytearray:
        """The first `count` bytes, or all of a shorter file. Learns the file's size and ETag."""
        return self._fetch((0, count), short=True)

    def read(self, spans: Sequence[Span]) -> list[bytes | bytearray]:
        """As `ByteReader` says. Raises SourceError when the network fails for good, or the file is another one by now."""
        # Each group is filled in place: there are never two copies of it.
        buffers = {group: bytearray(group[1] - group[0]) for group in merged(spans)}
        blocks = [(group, (low, min(low + CHUNK, group[1]))) for group in buffers for low in range(*group, CHUNK)]

        def fill(item: tuple[Span, Span]) -> None:
            group, (low, high) = item
            buffers[group][low - group[0] : high - group[0]] = self._fetch((low, high))

        with ThreadPoolExecutor(PARALLEL) as pool:
            for _ in pool.map(fill, blocks):
                pass
        found: list[bytes | bytearray] = []
        for start, end in spans:
            group = next(group for group in buffers if group[0] <= start and end <= group[1])
            found.append(buffers[group] if group == (start, end) else buffers[group][start - group[0] : end - group[0]])
        return found

    def _fetch(self, span: Span, *, short: bool = False) -> bytearray:
        """One range, resumed where a connection breaks, asked for again with growing pauses."""
        data = bytearray()
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(min(8.0, 0.2 * 2**attempt) * random.uniform(0.5, 1.0))
            before = len(data)
            try:
                done, problem = self._attempt(span, data, short)
            except SourceError:
                raise
            except Exception as error:  # the client's transport raises errors of its own, of many classes
                done, problem = False, f"{type(error).__name__}: {error}"
            with self._counting:
                self.received += len(data) - before
            if done:
                return data
        message = f"{self.where}: bytes {span[0]} to {span[1]} could not be read in {ATTEMPTS} attempts ({problem})"
        raise SourceError(message, advice="Try again later")

    def _attempt(self, span: Span, data: bytearray, short: bool) -> tuple[bool, str]:
        """Add to `data` what one request gives. Returns whether all is there, and what went wrong if not."""
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        with self._counting:
            self.requests += 1
        headers = {
            **build_hf_headers(),
            "Range": f"bytes={span[0] + len(data)}-{span[1] - 1}",
            "Accept-Encoding": "identity",
        }
        with get_session().stream("GET", self.url, headers=headers, follow_redirects=True, timeout=20) as answer:
            if answer.status_code in (408, 429) or answer.status_code >= 500:
                _wait(answer.headers.get("Retry-After"))
                return False, f"HTTP {answer.status_code}"
            if answer.status_code != 206:
                problem = f"{self.where} cannot be read by ranges (HTTP {answer.status_code})"
                private = "It is private or gated: accept its terms on the Hub and log in with `hf auth login`"
                raise SourceError(problem, advice=private if answer.status_code in (401, 403) else "")
            self._check(answer, span[0] + len(data))
            wanted = min(span[1], self.size or span[1]) - span[0] if short else span[1] - span[0]
            for block in answer.iter_bytes(2**20):
                data += block
                if len(data) > wanted:
                    problem = f"{self.where}: the server sent more than was asked for"
                    raise SourceError(problem)
            return len(data) == wanted, f"{len(data)} of {wanted} bytes came"

    def _check(self, answer: Any, expected: int) -> None:
        described = answer.headers.get("Content-Range", "")
        start, _, size = described.removeprefix("bytes ").partition("/")
        if not size.isdecimal() or start.partition("-")[0] != str(expected):
            problem = f"{self.where}: the server answered a range with {described or 'no Content-Range'}"
            raise SourceError(problem)
        etag = answer.headers.get("ETag")
        if self.size is not None and (int(size) != self.size or etag != self.etag):
            problem = f"{self.where} was changed while it was read"
            raise SourceError(problem, advice="Build again")
        self.size, self.etag = int(size), etag


def merged(spans: Sequence[Span]) -> list[Span]:
    """The spans in order, those with less than GAP between them as one."""
    groups: list[Span] = []
    for start, end in sorted(set(spans)):
        if groups and start - groups[-1][1] <= GAP:
            groups[-1] = (groups[-1][0], max(end, groups[-1][1]))
        else:
            groups.append((start, end))
    return groups


def _wait(seconds: str | None) -> None:
    if seconds and seconds.isdecimal():
        time.sleep(min(30, int(seconds)))


def resolve(repo: str, revision: str | None) -> tuple[str, list[str]]:
    """The commit of a revision, and the names of its files. Raises SourceError."""
    from huggingface_hub import HfApi

    info = _asked(f"{repo}@{revision}" if revision else repo, lambda: HfApi().model_info(repo, revision=revision))
    return str(info.sha), [sibling.rfilename for sibling in info.siblings or []]


def small_file(repo: str, name: str, commit: str) -> Path:
    """A small file of the repository, through the client's cache. Raises SourceError."""
    from huggingface_hub import hf_hub_download

    return Path(_asked(f"{repo}/{name}", lambda: hf_hub_download(repo, name, revision=commit)))


def _asked(what: str, request: Callable[[], T]) -> T:
    """What a request of the client gives, tried again while the Hub does not answer. Raises SourceError."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return request()
        except Exception as error:
            kind, reason, advice = explain_error(error) or (HubError, f"{type(error).__name__}: {error}", "")
            if kind is not UnreachableError or attempt == ATTEMPTS:
                problem = f"{what} cannot be fetched: {reason}"
                raise SourceError(problem, advice=advice) from error
            time.sleep(min(4.0, 0.2 * 2**attempt))
    raise AssertionError


def _from_cache(repo: str, revision: str | None, variant: str | None, subfolder: str | None) -> WeightSource:
    """The repository as the client's cache holds it, when there is no network."""
    from huggingface_hub import snapshot_download

    advice = f"A build online reads parts and caches none: fetch it with `hf download {repo}`"
    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
        source = open_folder(folder, variant=variant, subfolder=subfolder)
    except SourceError as error:
        problem = f"the client is offline (HF_HUB_OFFLINE), and the cache does not hold all of {repo} that is needed"
        raise SourceError(problem, advice=f"{advice} ({error})") from error
    except Exception as error:
        problem = f"{repo} is not in the cache, and the client is offline (HF_HUB_OFFLINE)"
        raise SourceError(problem, advice=advice) from error
    for each in source.all:
        each.revision = folder.name
    return source


def received(source: WeightSource) -> int:
    """Bytes that came over the network for a source, its headers included; 0 for a local one."""
    files = [file for each in source.all for file in getattr(each, "files", {}).values()]
    return sum(getattr(file.reader, "received", 0) for file in files)
