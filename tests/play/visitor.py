"""A visitor without a browser: says to the server what the page's script says, or anything else."""

import json
import uuid
from pathlib import Path
from typing import Any

import httpx

from eigenbank.play.request import MAX_SLIDERS


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
        "session": None, "model": model, "seed": 0, "steps": 1, "sampler": "DDIM", "prompt": "", "guidance": 1, "dragging": 1,
    }  # fmt: skip
    sliders = changes.pop("sliders", [0.0] * MAX_SLIDERS)
    return [*(values | changes).values(), *sliders]
