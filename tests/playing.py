"""Helpers for tests of the playground: tiny labelled models, a served playground, and a visitor without a browser."""

import json
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import forks
import httpx
import pytest
from making import make_checkpoint

from eigenbank.play.request import MAX_SLIDERS

AUDIT = """
import os, sys

def audit(event, args):
    # Writes down everything that this process tries to reach outside this machine.
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        address = args[1] if event != "socket.getaddrinfo" else args[:1]
        host = address[0] if isinstance(address, tuple) else address
        if host not in (None, "", "127.0.0.1", "localhost", "::1", "0.0.0.0") and not isinstance(host, int):
            with open(os.environ["REACHED"], "a") as file:
                file.write(f"{event} {host!r}\\n")

sys.addaudithook(audit)
"""
SERVE = f"""{AUDIT}
from eigenbank.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answers(host: str, url: str) -> bool:
    """Whether the server of that address answers to another host name, too."""
    with socket.socket() as asked:
        return asked.connect_ex((host, int(url.rstrip("/").rpartition(":")[2]))) == 0


def named(
    home: Path,
    labels: Mapping[str, tuple[Literal[-1, 1], tuple[float, float] | None]],
    make: Callable[[Path], object] = make_checkpoint,
) -> tuple[str, Path]:
    """A tiny checkpoint in the catalog of `home`, a direction for each label, its polarity and recommended range.

    `make` saves it into a folder. Returns its id and folder.
    """
    import eigenbank as eb
    from eigenbank.registry.local import store
    from eigenbank.schemas import Label, Quality

    folder = home / "checkpoint"
    make(folder)
    bank = eb.build(str(folder), recipes=["output-value"])
    records = list(bank.manifest.directions)
    for number, (text, (polarity, found)) in enumerate(labels.items()):
        label = Label(
            text=text, polarity=polarity, source="human:tester", created=datetime(2026, 1, 1, tzinfo=timezone.utc)
        )
        quality = (
            None
            if found is None
            else Quality(source="statistics", recommended_range=found, scale=1.0, seeds=(0,), steps=1)
        )
        records[number] = records[number].model_copy(update={"labels": (label,), "quality": quality})
    manifest = bank.manifest.model_copy(update={"directions": tuple(records)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EIGENBANK_HOME", str(home))
        kept = store(bank.replaced(manifest), checkpoint=folder)
        assert kept.folder is not None
    return kept.model_id, folder


@dataclass
class Served:
    """A playground that is being served by a process of its own."""

    url: str
    process: "subprocess.Popen[bytes]"
    reached: Path
    log: Path

    @property
    def outside(self) -> str:
        """What the process tried to reach besides this machine."""
        return self.reached.read_text(encoding="utf-8") if self.reached.exists() else ""


def start(folder: Path, *args: str, **environment: str) -> Served:
    """Serve a playground whose catalog is in `folder`, and wait until it answers."""
    pytest.importorskip("gradio", reason="no playground: Gradio is not installed (pip install 'eigenbank[play]')")
    folder.mkdir(exist_ok=True)
    port = free_port()
    own = {name: value for name, value in os.environ.items() if not name.startswith(("EIGENBANK", "GRADIO"))}
    own |= {
        "EIGENBANK_HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "REACHED": str(folder / "reached"),
        **environment,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [forks.python(), "-c", SERVE, "play", "--port", str(port), *args],
            env=own, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}/"
    for _ in range(1500):
        if "the playground is on" in (folder / "log").read_text(encoding="utf-8"):
            return Served(url, process, folder / "reached", folder / "log")
        if process.poll() is not None:
            break
        time.sleep(0.2)
    process.kill()
    raise AssertionError((folder / "log").read_text(encoding="utf-8"))


class Visitor:
    """One tab."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=120, limits=httpx.Limits(max_keepalive_connections=0))
        self.hash = uuid.uuid4().hex
        self.config = self.http.get("config").raise_for_status().json()
        self.ids = {each["props"].get("elem_id"): each["id"] for each in self.config["components"]}

    def close(self) -> None:
        self.http.close()

    def event(self, name: str, what: str) -> int:
        """The number of the event that a control (by its elem_id, or empty for the page) begins."""
        for each in self.config["dependencies"]:
            if any(kind == what and (at == self.ids[name] if name else True) for at, kind in each["targets"]):
                return int(each["id"])
        raise KeyError((name, what))

    def post(self, data: Any, event: Any, **more: Any) -> httpx.Response:
        """Ask for an event, whatever it is."""
        said = {"data": data, "fn_index": event, "session_hash": self.hash, "event_data": None, **more}
        text = json.dumps(said, allow_nan=True)
        return self.http.post("gradio_api/queue/join", content=text, headers={"content-type": "application/json"})

    def ask(self, name: str, what: str, data: Any) -> dict[str, Any]:
        """Send an event and wait for its end: `success`, and the `output` with its `data`."""
        asked = self.post(data, self.event(name, what), trigger_id=self.ids.get(name))
        if asked.status_code != 200:
            return {"success": False, "output": asked.json()}
        with self.http.stream("GET", "gradio_api/queue/data", params={"session_hash": self.hash}) as answer:
            for line in answer.iter_lines():
                said = json.loads(line[5:]) if line.startswith("data:") else {}
                if said.get("msg") == "process_completed":
                    return dict(said)
        message = "the server ended before it answered"
        raise RuntimeError(message)

    def open(self, model: Any) -> dict[str, Any]:
        """What the page asks for first."""
        return self.ask("", "load", [None, model])

    def upload(self, file: Path | tuple[str, bytes]) -> httpx.Response:
        """Send a file."""
        content = (file.name, file.read_bytes()) if isinstance(file, Path) else file
        return self.http.post("gradio_api/upload", files={"files": content})


def controls(model: str, /, **changes: Any) -> list[Any]:
    """What the controls send: session, the named ones, and every slider at zero, but for `changes`."""
    values = {
        "session": None, "model": model, "seed": 0, "steps": 1, "sampler": "DDIM", "prompt": "", "negative_prompt": "",
        "guidance": 1, "width": 0, "height": 0, "dragging": 1,
    }  # fmt: skip
    sliders = changes.pop("sliders", [0.0] * MAX_SLIDERS)
    return [*(values | changes).values(), *sliders]
