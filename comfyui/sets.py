"""Read direction sets and exported files, with what ComfyUI has: torch and safetensors."""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

MOST_BYTES = 512 * 2**20
"""Longest manifest or exported file that is read."""
RANGE = (-2.0, 2.0)
"""The strengths offered where none was measured, as in eigenbank's playground."""
WHOLE_FILE = "(as exported)"
"""The slider of an exported file that holds all its directions, each at its scale."""
_SITES = ("block-input", "projection-input", "block-output")
_COMPONENTS = ("unet", "transformer", "transformer_2", "prior", "decoder")


class SetError(ValueError):
    """A set or an exported file that cannot be used, or that lacks what was asked for."""


@dataclass(frozen=True)
class Part:
    """One direction of a slider: a unit vector `(d,)` float32 at a site of a layer, in a window of the run.

    `layer` is the path that diffusers gives the attention. `component` is the denoiser of a pipeline with several, "" where
    the set does not say. `weight` is what a strength of 1 adds, in token lengths.
    """

    id: str
    layer: str
    component: str
    matrix: str
    side: str
    head: int | None
    site: str
    window: tuple[float, float]
    weight: float
    vector: Tensor


@dataclass(frozen=True)
class Slider:
    """A named slider: how to read its parts, and the strengths between which it was found to work, None if not measured."""

    name: str
    parts: Callable[[], list[Part]]
    measured: tuple[float, float] | None = None

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest strength to offer; 0 lies between them."""
        low, high = sorted(self.measured or RANGE)
        return (min(low, 0.0), max(high, 0.0)) if low < high else RANGE


@dataclass
class Directions:
    """What a file holds: the denoiser class of diffusers that it was computed from, and sliders by label and by id."""

    model_id: str
    denoiser: str
    labels: dict[str, Slider] = field(default_factory=dict)
    ids: dict[str, Slider] = field(default_factory=dict)

    def find(self, name: str) -> Slider:
        """Return the slider of that id (with or without `MODEL_ID#`) or label. Raises SetError, with near matches."""
        bare = name.removeprefix(f"{self.model_id}#").strip()
        labels = {_key(label): slider for label, slider in self.labels.items()}
        found = self.ids.get(bare) or self.labels.get(bare) or labels.get(_key(bare))
        if found is None:
            near = difflib.get_close_matches(bare, [*self.labels, *self.ids], 3, 0.4)
            hint = (
                f"Did you mean {', '.join(near)}?"
                if near
                else f"It has {', '.join(list(self.labels)[:20]) or 'no labels'}."
            )
            message = f"{self.model_id} has no slider {name!r}. {hint}"
            raise SetError(message)
        return found


def load(path: Path) -> Directions:
    """Read a set's folder, its manifest.json or directions.safetensors, or a json of `eigenbank export`. Raises SetError."""
    if path.name in ("manifest.json", "directions.safetensors"):
        path = path.parent
    try:
        if path.is_dir():
            return _read_set(path)
        return _read_export(path)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OSError, RecursionError) as error:
        if isinstance(error, SetError):
            raise
        message = f"{path} is no direction set and no json of `eigenbank export` ({type(error).__name__}: {error})"
        raise SetError(message) from error


def _read_set(folder: Path) -> Directions:
    manifest = _json(folder / "manifest.json")
    if manifest.get("format") != 1:
        message = f"{folder} is of format {manifest.get('format')!r}, this node pack reads format 1: update it"
        raise SetError(message)
    checkpoint, tensors = manifest["checkpoint"], folder / "directions.safetensors"
    known = manifest.get("files", {}).get(tensors.name)
    digest = hashlib.sha256()
    with tensors.open("rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    if known and digest.hexdigest() != known["sha256"]:
        message = f"{tensors} is not the file its manifest describes (another SHA-256): fetch the set again"
        raise SetError(message)
    found = Directions(str(checkpoint["model_id"]), str(checkpoint["denoiser"]))
    records = {}
    for record in manifest["directions"]:
        recipe = record["recipe"]
        basis = recipe["matrix"] + ("" if recipe["head"] is None else f".h{recipe['head']}")
        basis += "" if recipe["side"] == "input" else f":{recipe['side']}"
        start, end = recipe["window"]["start"], recipe["window"]["end"]
        window = "" if (start, end) == (0, 1) else f"@{_plain(start)}-{_plain(end)}"
        records[f"{record['layer']}/{basis}{window}/{record['rank']}"] = (record, f"{record['layer']}/{basis}")
    best: dict[str, float] = {}

    def part(name: str, weight: float) -> Part:
        record, tensor = records[name]
        try:
            with safe_open(tensors, framework="pt") as file:
                vector = file.get_slice(tensor)[record["rank"]]
        except (SafetensorError, IndexError) as error:
            message = f"{tensors} does not hold {name} ({error}): fetch or export it again"
            raise SetError(message) from error
        return _part(name, record, None, weight, vector)

    def add(name: str, record: dict[str, Any], parts: list[tuple[str, float]]) -> None:
        between = (record.get("quality") or {}).get("recommended_range")
        for polarity, text, worth in [
            (1, None, 0.0),
            *((each["polarity"], each["text"], _worth(each)) for each in record["labels"]),
        ]:
            measured = between and (polarity * between[0], polarity * between[1])
            slider = Slider(
                text or name, lambda p=polarity: [part(each, p * weight) for each, weight in parts], measured
            )
            if text is None:
                found.ids[name] = slider
            elif worth > best.get(_key(text), -1.0):
                best[_key(text)] = worth
                for old in [label for label in found.labels if _key(label) == _key(text)]:
                    del found.labels[old]
                found.labels[text] = slider

    for name, (record, _) in records.items():
        add(name, record, [(name, 1.0)])
    for record in manifest.get("composites", []):
        add(f"composite/{record['name']}", record, [(each["direction"], each["weight"]) for each in record["parts"]])
    found.labels = dict(sorted(found.labels.items(), key=lambda pair: -best[_key(pair[0])]))
    return found


def _read_export(path: Path) -> Directions:
    content = _json(path)
    checkpoint = content["checkpoint"]
    found = Directions(str(checkpoint["model_id"]), str(checkpoint["denoiser"]))
    entries: dict[str, list[dict[str, Any]]] = {}
    for entry in content["directions"]:
        entries.setdefault(str(entry["name"]), []).append(entry)

    def parts(mine: list[dict[str, Any]], scaled: bool) -> list[Part]:
        return [
            _part(
                each["id"],
                each,
                each["site"],
                each["weight"] * (each["scale"] if scaled else 1.0),
                torch.tensor(each["vector"]),
            )
            for each in mine
        ]

    for name, mine in entries.items():
        between = (mine[0].get("quality") or {}).get("recommended_range") if len(mine) == 1 else None
        measured = between and (mine[0]["weight"] * between[0], mine[0]["weight"] * between[1])
        where = found.ids if name in (mine[0]["id"], mine[0]["full_id"]) else found.labels
        where[mine[0]["id"] if where is found.ids else name] = Slider(name, lambda m=mine: parts(m, False), measured)
    found.labels[WHOLE_FILE] = Slider(WHOLE_FILE, lambda: parts(content["directions"], True))
    return found


def _part(name: str, record: dict[str, Any], site: str | None, weight: float, vector: Tensor) -> Part:
    """Check a direction's record and vector, and put them together. Raises SetError."""
    recipe, layer = record["recipe"], str(record["layer"])
    if site is None:
        writes = recipe["side"] == "output" and recipe["matrix"] != "query-key"
        site = "block-output" if writes else "projection-input"
    vector = vector.float()
    if site not in _SITES or vector.ndim != 1 or not abs(float(torch.linalg.vector_norm(vector)) - 1) < 1e-3:
        message = f"{name} is no unit vector at one of {', '.join(_SITES)}: fetch or export it again"
        raise SetError(message)
    if not math.isfinite(weight) or not re.fullmatch(r"[\w.]+", layer):
        message = f"{name} has weight {weight!r} in layer {layer!r}: fetch or export it again"
        raise SetError(message)
    component, _, path = layer.partition(".")
    inside = component in _COMPONENTS
    window = (float(recipe["window"]["start"]), float(recipe["window"]["end"]))
    return Part(
        name, path if inside else layer, component if inside else "", recipe["matrix"], recipe["side"], recipe["head"],
        site, window, float(weight), vector,
    )  # fmt: skip


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MOST_BYTES:
        message = f"{path} is larger than {MOST_BYTES >> 20} MB: that is no manifest and no exported slider"
        raise SetError(message)
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        message = f"{path} holds no object"
        raise SetError(message)
    return found


def _worth(label: dict[str, Any]) -> float:
    """Rank labels of one text as eigenbank does: a person's word first, then evidence, then confidence."""
    trust, evidence = label.get("confidence") or 0.0, label.get("evidence")
    if label["source"].startswith("human:"):
        return 2 + trust
    if evidence is None:
        return trust
    odd = 1 / (1 + (evidence.get("asymmetry") or 0.0))
    return round(1 + trust * float(evidence["selectivity"]) * min(1.0, abs(float(evidence["effect"]))) * odd, 6)


def _key(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold())) or text.strip()


def _plain(fraction: float) -> str:
    return f"{fraction:.4f}".rstrip("0").rstrip(".")
