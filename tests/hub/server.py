"""A small Hugging Face Hub on loopback, with faults to switch on. For tests, and by hand: `make hub`.

with Hub() as hub:
    hub.put("me/faces", {"config.json": b"{}"})
    hub.fault("get", "cut", times=1)
    subprocess.run([...], env=hub.environment(home))
    assert hub.requests["commit"] == 1
"""

import json
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from hub.faults import Fault, Faults
from hub.routes import Answer, Request, find, path_of
from hub.store import Blob, Commit, Moved, Problem, Repo, Store, goes_to_lfs

TOKEN = "dummy"


class Hub:
    """The server, and the hand that fills it and breaks it. Use as a context manager."""

    def __init__(self, *, port: int = 0, users: Mapping[str, str] | None = None) -> None:
        self.store = Store()
        self.faults = Faults()
        self.users = dict(users or {TOKEN: "me"})
        self.page_size = 1000
        self.redirect_large = False
        self.cdn_saw_a_token = False
        self.log: list[tuple[str, str, int]] = []
        self._servers = [_Server(("127.0.0.1", port), self), _Server(("127.0.0.1", 0), self)]

    def __enter__(self) -> "Hub":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_address[1]}"

    @property
    def cdn_url(self) -> str:
        """Another origin, where large files are redirected to when `redirect_large` is set."""
        return f"http://127.0.0.1:{self._servers[1].server_address[1]}"

    def environment(self, home: Path, *, token: str | None = TOKEN) -> dict[str, str]:
        """The environment of a client that knows this Hub only, with a home of its own and nothing cached."""
        dropped = ("HF_", "HUGGINGFACE_", "EIGENBANK_")
        variables = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        variables |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_ETAG_TIMEOUT": "2",
            "HF_HUB_DOWNLOAD_TIMEOUT": "2",
            "NO_PROXY": "127.0.0.1,localhost",
            "EIGENBANK_HOME": str(home / "eigenbank"),
        }
        if token is not None:
            variables["HF_TOKEN"] = token
        return variables

    # Filling it

    def put(
        self,
        repo_id: str,
        files: Mapping[str, bytes | str | Path | Blob],
        *,
        kind: str = "models",
        branch: str = "main",
        private: bool = False,
        downloads: int | None = None,
        delete: list[str] | None = None,
    ) -> str:
        """Commit files to a repository, made if it is not there, as if somebody had pushed them. Returns the commit."""
        with self.store.lock:
            repo = self.store.repos.get((kind, repo_id)) or self.store.create(kind, repo_id, private=private)
            if downloads is not None:
                repo.downloads = downloads
            add = {path: _blob(path, content) for path, content in files.items()}
            return self.store.commit(repo, branch, "put", add=add, delete=delete).sha

    def repo(self, repo_id: str, kind: str = "models") -> Repo:
        return self.store.repos[kind, repo_id]

    def head(self, repo_id: str, kind: str = "models", revision: str = "main") -> Commit:
        return self.repo(repo_id, kind).at(revision)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """What a repository holds, but for what every one holds."""
        found = self.head(repo_id, revision=revision).files
        return {path: blob.read() for path, blob in sorted(found.items()) if path != ".gitattributes"}

    # Breaking it, and looking at what was asked

    def fault(self, kind: str, action: str, **more: Any) -> Fault:
        """Switch a fault on; see `hub.faults` for kinds and actions. The first that fits a request is taken."""
        fault = Fault(kind, action, **more)
        with self.faults.lock:
            self.faults.active.append(fault)
        return fault

    def mend(self) -> None:
        """Switch all faults off."""
        with self.faults.lock:
            self.faults.active.clear()

    @property
    def requests(self) -> "Counter[str]":
        """How many requests of each kind were made since `forget`."""
        return self.faults.requests

    @property
    def served(self) -> "Counter[str]":
        """How many bytes of bodies were sent, by kind of request."""
        return self.faults.served

    @property
    def received(self) -> "Counter[str]":
        """How many bytes of bodies arrived, by kind of request."""
        return self.faults.received

    def forget(self) -> None:
        """Start counting anew."""
        with self.faults.lock:
            for counter in (self.faults.requests, self.faults.served, self.faults.received):
                counter.clear()
            self.log.clear()


def _blob(path: str, content: bytes | str | Path | Blob) -> Blob:
    if isinstance(content, Blob):
        return content
    data = content.encode() if isinstance(content, str) else content
    blob = Blob(data, lfs=False)
    return Blob(data, lfs=goes_to_lfs(path, blob.read(0, min(512, blob.size)), blob.size))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], hub: Hub) -> None:
        super().__init__(address, _Handler)
        self.hub = hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is a bug of the server and to be seen."""
        import sys

        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 0
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _serve(self) -> None:
        hub = self.server.hub
        body = self._body()
        found = find(self.command, self.path)
        kind, match, function = found or ("unknown", None, None)
        fault = hub.faults.take(kind, path_of(match) if match else "")
        with hub.faults.lock:
            hub.faults.received[kind] += len(body)
        if fault and fault.action == "slow":
            time.sleep(fault.seconds)
        if fault and fault.action == "refuse":
            self._hang_up(reset=False)
            return
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        if kind == "cdn" and token:
            hub.cdn_saw_a_token = True
        try:
            if fault and fault.action == "status":
                raise Problem(fault.status, fault.code, "a fault of the test's")
            if token and token not in hub.users:
                raise Problem(401, "", "Invalid credentials in Authorization header")
            if match is None or function is None:
                raise Problem(404, "", f"no endpoint {self.command} {urlsplit(self.path).path}")
            new = hub.store.renamed.get(match.groupdict().get("id", ""))
            if new is not None:
                raise Moved(f"{hub.url}{self.path.replace(match['id'], new, 1)}")
            if fault and fault.action == "stale-parent" and kind == "commit":
                self._push_before(match["id"])
            request = Request(
                method=self.command,
                target=self.path,
                headers={name.lower(): value for name, value in self.headers.items()},
                body=body,
                origin=hub.url,
                cdn=hub.cdn_url if hub.redirect_large else None,
                user=hub.users.get(token),
                page_size=hub.page_size,
            )
            answer = function(hub.store, request, match)
        except Moved as moved:
            answer = Answer(307, b"", {"Location": str(moved)})
        except Problem as problem:
            headers = {"X-Error-Message": str(problem)}
            if problem.code:
                headers["X-Error-Code"] = problem.code
            if "X-Repo-Commit" in problem.more:
                headers["X-Repo-Commit"] = problem.more.pop("X-Repo-Commit")
            answer = Answer.of({"error": str(problem), **problem.more}, problem.status, **headers)
        hub.log.append((self.command, self.path, answer.status))
        self._send(kind, answer, fault)

    def _push_before(self, repo_id: str) -> None:
        """Somebody else's commit, which leaves the files of a set alone."""
        self.server.hub.put(repo_id, {"NOTES.md": f"somebody else was here at {time.time_ns()}"})

    def _send(self, kind: str, answer: Answer, fault: Fault | None) -> None:
        action = fault.action if fault else ""
        if action == "lost":
            self._hang_up(reset=False)
            return
        if fault and fault.garble is not None and not answer.blob:
            answer.body = fault.garble(answer.body)
        start, end = answer.span if answer.blob else (0, len(answer.body))
        length = end - start + (action == "wrong-size")
        lines = [f"HTTP/1.1 {answer.status} {self.responses.get(answer.status, ('',))[0]}"]
        lines += [f"{name}: {value}" for name, value in {**answer.headers, "Content-Length": str(length)}.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        if self.command == "HEAD":
            self.wfile.write(head)
            if action in ("cut", "reset"):
                self._hang_up(reset=action == "reset")
            return
        self.wfile.write(head)
        stop = start + (end - start) // 2 if action in ("cut", "reset") else end
        for at in range(start, stop, 2**20):
            part = (
                answer.blob.read(at, min(at + 2**20, stop)) if answer.blob else answer.body[at : min(at + 2**20, stop)]
            )
            if action == "other-bytes" and at == start and part:
                # The last byte: of a safetensors file that is a number, of a text a character.
                part = part[:-1] + bytes([part[-1] ^ 1])
            self.wfile.write(part)
            with self.server.hub.faults.lock:
                self.server.hub.faults.served[kind] += len(part)
        if action == "wrong-size":
            self.wfile.write(b"\0")
        if action in ("cut", "reset"):
            self._hang_up(reset=action == "reset")

    def _hang_up(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:
            # The client is to read what was sent before the reset overtakes it.
            time.sleep(0.05)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


def main() -> None:
    """Serve until interrupted; print the environment a client needs."""
    import argparse

    parser = argparse.ArgumentParser(prog="make hub", description="A Hugging Face Hub on loopback, kept in memory.")
    parser.add_argument("--port", type=int, default=8700)
    parser.add_argument("--home", type=Path, default=Path("/tmp/eigenbank-hub"), help="for HF_HOME and EIGENBANK_HOME")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="KIND=ACTION", help="e.g. commit=503 or get=cut"
    )
    chosen = parser.parse_args()
    with Hub(port=chosen.port) as hub:
        hub.faults.active.extend(Fault.parse(text) for text in chosen.fault)
        wanted = {
            name: value
            for name, value in hub.environment(chosen.home).items()
            if name.startswith(("HF_", "EIGENBANK_", "NO_PROXY"))
        }
        print(f"A Hub at {hub.url}, kept in memory until Ctrl-C. In another terminal:\n")
        home = wanted.pop("EIGENBANK_HOME")
        print("\n".join(f"export {name}={json.dumps(value)}" for name, value in wanted.items()))
        print("\nWhat you built stays in your own home. To pull as another machine would, with an empty one:\n")
        print(f"export EIGENBANK_HOME={json.dumps(home)}")
        print("\nThen for example: eigenbank publish MODEL --repo me/directions", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("\nstopped; what it held is gone")


if __name__ == "__main__":
    main()
