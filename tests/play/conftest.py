"""The playground of the demo checkpoint: as an object, and served, with a browser that looks at it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from browser import Watch
from making import make_checkpoint

from eigenbank.registry.sets.bundled import DEMO_MODEL_ID, shipped_checkpoint

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from eigenbank.play.playground import Playground

SERVE = """
import socket, sys

def told(event, args):
    # Everything that this process tries to reach, as the interpreter tells it.
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        address = args[1] if event != "socket.getaddrinfo" else args[:1]
        host = address[0] if isinstance(address, tuple) else address
        if host not in (None, "", "127.0.0.1", "localhost", "::1", "0.0.0.0") and not isinstance(host, int):
            with open(sys.argv[1], "a") as file:
                file.write(f"{event} {host!r}\\n")

sys.addaudithook(told)
from eigenbank.cli.main import run
sys.exit(run(sys.argv[2:]))
"""


@pytest.fixture(scope="session")
def playground() -> "Playground":
    """The demo's, without a page. Its models stay loaded over all tests."""
    from eigenbank.play.playground import Playground

    folder = shipped_checkpoint(DEMO_MODEL_ID)
    assert folder is not None
    return Playground({DEMO_MODEL_ID: folder})


def named(
    home: Path,
    labels: Mapping[str, tuple[Literal[-1, 1], tuple[float, float] | None]],
    make: Callable[[Path], object] = make_checkpoint,
) -> tuple[str, Path]:
    """A tiny checkpoint in the catalog of `home`, a direction for each label, its polarity and recommended range.

    `make` saves it into a folder. Returns its id and folder.
    """
    import eigenbank as eb
    from eigenbank.api import keep
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
        kept = keep(bank.replaced(manifest), checkpoint=folder)
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("EIGENBANK", "GRADIO"))}
    own |= {
        "EIGENBANK_HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        **environment,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(folder / "reached"), "play", "--port", str(port), *args],
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


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo's playground, served by the command. It is not to reach for anything outside, whatever the tests do."""
    found = start(tmp_path_factory.mktemp("served"), DEMO_MODEL_ID)
    yield found
    found.process.terminate()
    found.process.wait(timeout=30)
    assert found.outside == ""


@pytest.fixture
def visit(browser: "Browser") -> "Iterator[Callable[..., Page]]":
    """Open a playground in a tab of a new window. What it complains about, or asks of the outside, is an error."""
    contexts = []
    watched: list[Watch] = []

    def opened(served: Served, **more: Any) -> "Page":
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **more})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        watched.append(Watch(page, served.url))
        page.goto(served.url)
        page.locator("#picture-edited img").wait_for()
        page.locator("#status", has_text="20 steps").wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [each.wrong for each in watched] == [[] for _ in watched]
