"""Pytest fixtures: a Hub of the test's own, and clients that know no other. Every test can ask for them.

def test_something(hub: Hub, client: Client) -> None:
    hub.put("me/faces", {"config.json": b"{}"})
    done = client.python("import huggingface_hub as h; print(h.hf_hub_download('me/faces', 'config.json'))")
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import forks
import pytest
from hub.server import TOKEN, Hub


@dataclass
class Client:
    """Runs programs in processes of their own, since huggingface_hub reads its environment when it is imported."""

    hub: Hub
    home: Path
    token: str | None = TOKEN
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {**self.hub.environment(self.home, token=self.token), **self.extra}

    def start(self, *args: str) -> "subprocess.Popen[str]":
        """Start `python ARGS` and do not wait."""
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, *args], stdout=pipe, stderr=pipe, text=True, env=self.environment)

    def python(self, code: str, *args: str) -> "subprocess.CompletedProcess[str]":
        """Run Python code to its end, in a fork that has torch already; the caller looks at `returncode`."""
        return self._run("-c", code, *args)

    def run(self, *args: str) -> "subprocess.CompletedProcess[str]":
        """Run `eigenbank ARGS` to its end; the caller looks at `returncode`."""
        return self._run("-m", "eigenbank", *args)

    def _run(self, *args: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [forks.python(), *args], capture_output=True, text=True, env=self.environment, check=False, timeout=300
        )


@dataclass
class Done:
    """What a command did. `code` is -1 for an exception that was not turned into a message."""

    code: int
    out: str
    err: str


class Worker:
    """Runs a client's commands; a context manager. `empty` gives it an empty home."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_error: object) -> None: ...

    def run(self, *args: str) -> Done:
        done = self.client.run(*args)
        return Done(-1 if "Traceback (most" in done.stderr else done.returncode, done.stdout, done.stderr)

    def empty(self) -> None:
        shutil.rmtree(self.client.home, ignore_errors=True)
        self.client.home.mkdir(parents=True)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub with nothing in it; the token `dummy` is the user `me`, who may write to `me/…` and to `org…/…`."""
    with Hub() as served:
        yield served


@pytest.fixture
def make_client(hub: Hub, tmp_path: Path) -> Callable[..., Client]:
    """Make clients with empty homes: `make_client("second", token=None)`."""

    def make(name: str = "client", **more: object) -> Client:
        home = tmp_path / "homes" / name
        home.mkdir(parents=True, exist_ok=True)
        return Client(hub, home, **more)  # type: ignore[arg-type]

    return make


@pytest.fixture
def client(make_client: Callable[..., Client]) -> Client:
    """A client with an empty home, logged in as `me`."""
    return make_client()
