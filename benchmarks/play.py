"""How soon does a move of a slider show its picture? Measured on the cartoon faces' checkpoint, drawing alone and end to end.

    python benchmarks/play.py --out benchmarks/results/play.json

End to end is from the request that a slider's move sends to the last byte of the picture it shows, through a server of its
own process; in a browser it is from the key that moves the slider to the picture being decoded (where there is Chromium).
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import faces
import httpx
from common import about, save, spread

LABEL = "skin tone"
LIMIT = 0.5
"""Seconds in which a move is to show its picture, on two cores."""


def drawing(moves: int, dragging: int) -> dict[str, Any]:
    """A move drawn by the playground, beside what it is made of, in turns: wall and processor seconds."""
    import torch

    from eigenbank.loaders.sample import sample
    from eigenbank.loaders.steer import steer
    from eigenbank.play.playground import Playground, Session
    from eigenbank.play.request import parse_request
    from eigenbank.schemas import SliderSetting

    torch.set_num_threads(1)
    playground, session = Playground({faces.MODEL_ID: faces.FOLDER}), Session()
    model = playground.model(faces.MODEL_ID)
    playground.prepare(session, parse_request(model=faces.MODEL_ID), dragging)

    def move(number: int) -> None:
        slider = SliderSetting(key=LABEL, scale=(number + 1) / (moves + 1))
        found = playground.sample(session, parse_request(model=faces.MODEL_ID, sliders=[slider]), dragging=dragging)
        assert found is not None
        assert found.seconds > 0

    @torch.no_grad()
    def plain(_number: int) -> None:
        with model._edited(model.pipe, None):
            sample(model.pipe, [0], dragging)

    @torch.no_grad()
    def both(number: int) -> None:
        model._edited(model.pipe, None).__enter__()
        with steer(model.pipe, {LABEL: [0.0, number / moves]}, bank=model.directions):
            sample(model.pipe, [0, 0], dragging)

    ways: dict[str, Callable[[int], None]] = {"a move": move, "an unedited picture": plain, "both in one batch": both}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    used: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(moves):
        for name, way in ways.items():
            begun, spent = time.perf_counter(), time.process_time()
            way(number)
            wall[name].append(time.perf_counter() - begun)
            used[name].append(time.process_time() - spent)
    return {
        "wall": {name: spread(times) for name, times in wall.items()},
        "processor": {name: spread(times) for name, times in used.items()},
    }


@contextmanager
def serving() -> Iterator[str]:
    """The address of a playground, served by the command in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="eigenbank-benchmark-") as home:
        environment = {
            **os.environ,
            "EIGENBANK_HOME": home,
            "GRADIO_TEMP_DIR": f"{home}/gradio",
            "OMP_NUM_THREADS": "1",
        }
        faces.add_to_catalog(Path(home) / "catalog.db")
        process = subprocess.Popen(
            [sys.executable, "-m", "eigenbank", "play", faces.MODEL_ID, "--port", str(port)],
            env=environment, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}/"
            while True:
                try:
                    httpx.get(url, timeout=60)
                    break
                except httpx.TransportError:
                    if process.poll() is not None:
                        raise
                    time.sleep(0.2)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


class Client:
    """What the page's own script says to the server, without the page."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=120)
        self.hash = uuid.uuid4().hex
        self.config = self.http.get("config").json()
        self.ids = {each["props"].get("elem_id"): each["id"] for each in self.config["components"]}

    def ask(self, trigger: tuple[str | None, str], data: list[Any]) -> list[Any]:
        """Send an event and wait for what it gives."""
        at = None if trigger[0] is None else self.ids[trigger[0]]
        target = [at, trigger[1]]
        index = next(each["id"] for each in self.config["dependencies"] if target in each["targets"])
        asked = {"data": data, "fn_index": index, "session_hash": self.hash, "event_data": None, "trigger_id": at}
        self.http.post("gradio_api/queue/join", json=asked).raise_for_status()
        with self.http.stream("GET", "gradio_api/queue/data", params={"session_hash": self.hash}) as answer:
            for line in answer.iter_lines():
                said = json.loads(line[5:]) if line.startswith("data:") else {}
                if said.get("msg") == "process_completed":
                    assert said["success"], said
                    return list(said["output"]["data"])
        message = "the server ended before it answered"
        raise RuntimeError(message)


def server(url: str, moves: int, dragging: int) -> dict[str, float]:
    """Seconds from a move's request to the last byte of its picture."""
    client = Client(url)
    load = next(
        each
        for each in client.config["dependencies"]
        if [None, "load"] in each["targets"] or each["targets"][0][1] == "load"
    )
    client.ids["page"] = load["targets"][0][0]
    place = slot(client.ask(("page", "load"), [None, faces.MODEL_ID]), LABEL)
    slots = sum(name is not None and name.startswith("slider-") for name in client.ids)
    times = []
    for number in range(-1, moves):
        values = [0.0] * slots
        values[place] = round((number + 2) / (moves + 2), 4)
        begun = time.perf_counter()
        found = client.ask(
            (f"slider-{place}", "input"), [None, faces.MODEL_ID, 0, 20, "DDIM", "", 1, dragging, *values]
        )
        picture = found[2]["value"] if found[2].get("__type__") == "update" else found[2]
        client.http.get(picture["url"]).raise_for_status()
        if number >= 0:  # the first draws the unedited picture too, which the page has had prepared
            times.append(time.perf_counter() - begun)
    return spread(times)


def slot(opened: list[Any], label: str) -> int:
    """Which slider of the page shows a label, by what the server says when a model is opened."""
    updates = [each for each in opened if isinstance(each, dict) and "label" in each and "minimum" in each]
    return [each["label"] for each in updates].index(label)


class Quiet:
    """Knows whether a page waits for anything it asked the server for. Gradio's page keeps a stream open while it does."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self._asked: set[Any] = set()
        page.on("request", lambda asked: self._asked.add(asked) if "/queue/" in asked.url else None)
        for event in ("requestfinished", "requestfailed"):
            page.on(event, self._answered)

    def _answered(self, asked: Any) -> None:
        self._asked.discard(asked)

    def wait(self, seconds: float = 0.5) -> None:
        """Return when nothing has been asked for, or is being waited for, for so long."""
        since = time.perf_counter()
        while time.perf_counter() - since < seconds:
            self.page.wait_for_timeout(20)
            if self._asked:
                since = time.perf_counter()


MOVE = """([selector, by]) => new Promise((done, failed) => {
    // Held down: the slider moves, and is not yet let go. The picture is there when its source is another one, decoded.
    const source = () => document.querySelector('#picture-edited img')?.src, before = source();
    const slider = document.querySelector(selector), begun = performance.now();
    const seen = new MutationObserver(() => {
        if (!source() || source() === before) return;
        seen.disconnect();
        document.querySelector('#picture-edited img').decode()
            .then(() => done({seconds: (performance.now() - begun) / 1000, source: source()}), failed);
    });
    seen.observe(document.body, {subtree: true, attributes: true, attributeFilter: ['src'], childList: true});
    setTimeout(() => failed(new Error('no other picture came within two minutes')), 120000);
    slider.value = Number(slider.value) + by;
    slider.dispatchEvent(new Event('input', {bubbles: true}));
})"""


def browser(url: str, moves: int, dragging: int) -> dict[str, float] | None:
    """Seconds from a key that moves a slider to its picture being decoded in Chromium; None where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        opened = running.chromium.launch(executable_path=program, args=[] if os.geteuid() else ["--no-sandbox"])
        page = opened.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        quiet = Quiet(page)
        page.goto(url)
        page.locator("#status", has_text=re.compile("20 steps")).wait_for()
        slider = page.locator(".slider-row", has_text=LABEL).first.locator("[id^=slider-]").get_attribute("id")
        selector = f"#{slider} input[type=range]"
        page.focus(selector)
        quiet.wait(2)  # the few steps of the unedited picture are prepared
        times, sources = [], {page.locator("#picture-edited img").get_attribute("src")}
        for number in range(moves):
            found = page.evaluate(MOVE, [selector, 0.05])
            times.append(found["seconds"])
            sources.add(found["source"])
            quiet.wait()
            assert len(sources) == number + 2, "a move showed a picture that was there before"
            page.locator("#status", has_text=f"{dragging} steps · while dragging").wait_for()
        opened.close()
    return spread(times)


def as_page(document: dict[str, Any]) -> str:
    """The figures of a run as Markdown."""
    wall, used = document["drawing"]["wall"], document["drawing"]["processor"]
    move = wall["a move"]["median"]
    rows = [
        ("a move, drawing alone", wall["a move"]),
        ("the same, processor time", used["a move"]),
        ("a move, through the server, picture fetched", document["server"]),
    ]
    if document["browser"] is not None:
        rows.append(("a move, in Chromium, picture decoded", document["browser"]))
    lines = [
        "# How soon the playground shows a move",
        "",
        f"Written by `python benchmarks/play.py`: the cartoon faces' checkpoint, {document['dragging']} steps while dragging, one thread, "
        f"{document['moves']} moves each. The machine: {document['about']['machine']}; its load was "
        f"{document['load'][0]} at the beginning, {document['load'][1]} at the end. Set out: at most {LIMIT:g} s on two cores.",
        "",
        "| | best, s | median, s | worst, s | median, by drawing alone |",
        "|---|---|---|---|---|",
        *[
            f"| {name} | {row['min']:.2f} | {row['median']:.2f} | {row['max']:.2f} | {row['median'] / move:.2f} |"
            for name, row in rows
        ],
        "",
        "Processor time of a move by that of an unedited picture of as many steps: "
        f"{used['a move']['median'] / used['an unedited picture']['median']:.2f}. Unedited and edited in one batch take "
        f"{used['both in one batch']['median'] / used['a move']['median']:.2f} of a move, which finds the unedited one kept.",
    ]
    return "\n".join([*lines, ""])


@click.command()
@click.option("--moves", default=15, show_default=True)
@click.option("--dragging", default=8, show_default=True, help="Steps while dragging.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/play.json"))
def main(moves: int, dragging: int, out: Path) -> None:
    """Measure, and write the figures."""
    facts = about()
    begun = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="eigenbank-benchmark-") as home:
        os.environ["EIGENBANK_HOME"] = home
        os.environ.pop("EIGENBANK_CATALOG", None)
        faces.add_to_catalog(Path(home) / "catalog.db")
        document: dict[str, Any] = {"about": facts, "drawing": drawing(moves, dragging)}
    with serving() as url:
        document["server"] = server(url, moves, dragging)
        document["browser"] = browser(url, moves, dragging)
    document |= {
        "moves": moves,
        "dragging": dragging,
        "load": [round(begun, 1), round(os.getloadavg()[0], 1)],
    }
    save(out, document)
    click.echo(as_page(document))


if __name__ == "__main__":
    main()
