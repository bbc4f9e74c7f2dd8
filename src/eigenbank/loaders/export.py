"""Export an edit as a file that other programs load: a LoRA of biases (see `lora`), or plain numbers.

Beside a LoRA lie what user interfaces look for under its name: a preview, and a JSON with the strength to begin with.
"""

import io
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from eigenbank import __version__
from eigenbank.registry.files import check_out, replacing
from eigenbank.registry.sets.card import preview_name
from eigenbank.registry.sets.direction_set import Direction, DirectionSet, Lora, Slider
from eigenbank.registry.sets.folder import open_preview, read_preview
from eigenbank.schemas import Layer
from eigenbank.schemas.common import MAX_SCALE
from eigenbank.schemas.errors import ExportError, explaining

if TYPE_CHECKING:
    from torch import Tensor, nn

    from eigenbank.loaders.lora import LoraFormat, ReadWeight

Format = Literal["diffusers", "comfyui", "lycoris", "npz", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
LORA: tuple[Format, ...] = ("diffusers", "comfyui", "lycoris")
"""The formats that hold biases; the others hold the vectors themselves."""
SUFFIXES = {**dict.fromkeys(LORA, ".safetensors"), "npz": ".npz", "json": ".json"}
Precision = Literal["float16", "float32"]

Edits = Mapping[str, float] | Mapping[Direction, float] | Mapping[str | Direction, float] | Mapping[str | Slider, float]
Meanings = Mapping[str, tuple[Slider, int]]


@dataclass(frozen=True)
class ExportTerm:
    """One direction of an exported edit. `weight` is its part of what was asked for, negative where the label is against
    the vector.

    `named` is the direction or composite that `key` stands for, with `polarity` 1 or -1.
    """

    key: str
    direction: Direction
    weight: float
    scale: float
    named: Slider
    polarity: int = 1

    @property
    def layer(self) -> Layer:
        """The direction's layer."""
        return self.direction.bank.layers[self.direction.layer]

    @property
    def length(self) -> float | None:
        """The token length at the direction's site, None where it is not known."""
        known = self.layer.lengths.get(self.direction.recipe.site)
        return None if known is None else known.length

    @property
    def vector(self) -> "Tensor":
        """What the edit adds to every token, `(d,)` float32. The length must be known."""
        assert self.length is not None
        return (self.direction.vector.double() * (self.weight * self.scale * self.length)).float()


def choose(
    bank: DirectionSet, edits: Edits | Iterable[str | Direction] | None, meanings: Meanings | None = None
) -> list[ExportTerm]:
    """Return the terms of an edit: labels, ids or directions with their scales, or without, then 1; None is all of the bank.

    `meanings` says what some labels stand for, and the sign; the others what `bank.find` says. Raises UnknownNameError, with near matches, or ExportError for what is no scale.
    """
    if edits is None:
        edits = dict.fromkeys(bank, 1.0)
    elif not isinstance(edits, Mapping):
        edits = dict.fromkeys([edits] if isinstance(edits, str | Slider) else edits, 1.0)
    terms = []
    for key, scale in edits.items():
        named: Slider
        if isinstance(key, Slider):
            name, named, polarity = key.id, bank.own(key), 1
        else:
            name = key
            named, polarity = (meanings or {}).get(key) or bank.find(key)
        if isinstance(named, Lora):
            message = (
                f"{named.id} is a LoRA file already ({named.record.origin}): nothing was written. Use that file itself"
            )
            raise ExportError(message)
        if named.branch != "both":
            message = (
                f"{named.id} acts on one branch of guidance, {named.branch}, and what a file adds acts on both: nothing was written. "
                "Steer with it in diffusers"
            )
            raise ExportError(message)
        if not isinstance(scale, int | float) or not math.isfinite(scale) or abs(scale) > MAX_SCALE:
            message = (
                f"the scale of {name!r} is {scale!r}: a file holds one number per direction, of at most ±{MAX_SCALE:g}. "
                "Schedules and scales per sample are for steer"
            )
            raise ExportError(message)
        for direction, weight in named.parts:
            terms.append(ExportTerm(name, direction, polarity * weight, float(scale), named, polarity))
    if not terms:
        message = "there is no direction to export: nothing was written"
        raise ExportError(message)
    return terms


def check_expressible(terms: Sequence[ExportTerm]) -> None:
    """Raise ExportError for the first direction that no bias can stand for."""
    if all(term.scale == 0 for term in terms):
        message = "every scale is 0, and the file would do nothing: it was not written"
        raise ExportError(message)
    for term in terms:
        recipe, name = term.direction.recipe, term.direction.id
        if term.key not in (name, term.direction.full_id):
            name = f"{term.key!r} means {term.named.id}, which" if isinstance(term.named, Direction) else name
        component = term.layer.component
        main = term.direction.bank.manifest.checkpoint.component
        if component not in ("", main):
            message = (
                f"{name} is of the pipeline's {component}, and a LoRA file is for one denoiser, the {main}: nothing was written. "
                "The formats npz and json take every direction"
            )
            raise ExportError(message)
        if not recipe.window.whole:
            raise _timed(term, name)
        if term.length is None:
            message = (
                f"the token length at {term.direction.layer} is not in the set, so a scale of 1 has no length: nothing was "
                f"written. Measure it once: eigenbank measure {term.direction.bank.model_id}"
            )
            raise ExportError(message)


def _timed(term: ExportTerm, name: str) -> ExportError:
    """Return the error for what acts in a part of the run, with what does the same for the whole run, and how to use it as it is."""
    window = term.direction.recipe.window
    if isinstance(term.named, Direction):
        problem = f"{name} acts from {window.start:g} to {window.end:g} of the run, and a LoRA acts in every step"
    else:
        parts = [direction for direction, _ in term.named.parts]
        timed = sum(not part.recipe.window.whole for part in parts)
        problem = (
            f"{term.key!r} means {term.named.id}, a sum of {len(parts)} directions, of which {timed} act in a part of the run "
            "only, and a LoRA acts in every step"
        )
    bank = term.named.bank
    texts = {label.text for label in term.named.labels}
    whole = [
        f"{each.id}={label.polarity}"
        for each in bank.sliders
        if each.parts and each.branch == "both" and all(direction.recipe.window.whole for direction, _ in each.parts)
        for label in each.labels
        if label.text in texts
    ]
    advice = f"Of that name this one fits: {whole[0]!r}" if whole else "Nothing else of that name fits"
    message = (
        f"{problem}: nothing was written. {advice}. As it is, use it in Python, eigenbank.steer(pipe, {{{term.key!r}: "
        f"{term.scale:g}}}), or by eigenbank's ComfyUI node from a file of the format json"
    )
    return ExportError(message)


def describe(terms: Sequence[ExportTerm], bank: DirectionSet) -> dict[str, Any]:
    """Describe an edit, all but its numbers, as plain data."""
    return {
        "eigenbank": __version__,
        "checkpoint": bank.manifest.checkpoint.model_dump(mode="json"),
        "licence": bank.manifest.licence,
        "directions": [
            {
                "id": term.direction.id,
                "full_id": term.direction.full_id,
                "name": term.key,
                "scale": term.scale,
                "weight": term.weight,
                "token_length": term.length,
                "site": term.direction.recipe.site,
                "width": term.layer.width,
                "frame": term.layer.frame,
                **term.direction.record.model_dump(mode="json"),
            }
            for term in terms
        ],
    }


def write(
    terms: Sequence[ExportTerm],
    bank: DirectionSet,
    out: Path,
    form: Format,
    denoiser: "nn.Module | None" = None,
    *,
    read: "ReadWeight | None" = None,
    dtype: Precision = "float16",
) -> list[Path]:
    """Write the file, and beside a LoRA of one slider its preview, if the set has one, and its JSON; each whole or not at all.

    `read` reads the checkpoint's weights, by default those of `denoiser`. `dtype` is that of a LoRA's tensors. What lies beside
    already is somebody's, and stays as it is. Returns the files written. Raises ExportError, MatchError or SetError; then nothing has changed.
    """
    check_format(out, form)
    beside: dict[Path, bytes] = {}
    if form in LORA:
        if denoiser is None:
            message = (
                f"the format {form} asks the checkpoint how its layers are made: give the pipeline or the checkpoint"
            )
            raise ExportError(message)
        from eigenbank.loaders.lora import architecture, lora_tensors, safetensors_bytes

        tensors = lora_tensors(terms, denoiser, cast("LoraFormat", form), read)
        if dtype == "float16":
            tensors = {name: _halved(tensor, name) for name, tensor in tensors.items()}
        base = architecture(denoiser)
        sliders = {term.key: term for term in terms}
        title = ", ".join(_name(term) for term in sliders.values())
        head = {"eigenbank": json.dumps(describe(terms, bank), ensure_ascii=False), "modelspec.sai_model_spec": "1.0.0"}
        head["modelspec.title"] = title
        head["modelspec.usage_hint"] = _hint(list(sliders.values()))
        if base is not None:
            head["modelspec.architecture"] = f"{base[0]}/lora"
        if bank.manifest.licence is not None:
            head["modelspec.license"] = bank.manifest.licence
        data = safetensors_bytes(tensors, head)
        picture = preview_png(terms[0].named) if len(sliders) == 1 else None
        if picture is not None:
            beside[out.with_suffix(".png")] = picture
        beside[out.with_suffix(".json")] = _sidecar(title, list(sliders.values()), None if base is None else base[1])
        beside = {path: content for path, content in beside.items() if not path.exists()}
    else:
        data = _npz(terms, bank) if form == "npz" else _json(terms, bank)
    try:
        for path, content in {**beside, out: data}.items():
            with replacing(path) as work:
                work.write_bytes(content)
    except OSError as error:
        message = f"{out} cannot be written ({error.strerror or error}): choose another name"
        raise ExportError(message) from error
    return [out, *beside]


def _halved(tensor: "Tensor", name: str) -> "Tensor":
    import torch

    half = tensor.half()
    if not bool(torch.isfinite(half).all()):
        message = f"{name} holds values that float16 cannot: nothing was written. Write float32, or a smaller scale"
        raise ExportError(message)
    return half


def _name(term: ExportTerm) -> str:
    """A slider's name for people: its label, else what was asked for."""
    label = next(iter(term.named.labels), None)
    return term.key if label is None else label.text


def strength_range(term: ExportTerm) -> tuple[float, float] | None:
    """Return between which strengths of a file a slider was measured to work, None where it was not, or at none, or the scale is 0."""
    quality = term.named.quality
    if quality is None or quality.recommended_range is None or not term.scale:
        return None
    low, high = sorted(bound * term.polarity / term.scale for bound in quality.recommended_range)
    return (low, high) if low < high else None


def _hint(sliders: Sequence[ExportTerm]) -> str:
    """How strong to make a file, in words."""
    if len(sliders) > 1:
        scales = ", ".join(f"{_name(term)} {term.scale:+g}" for term in sliders)
        return f"Several sliders in one file, at strength 1: {scales}. No trigger words."
    found = strength_range(sliders[0])
    measured = "none is known" if found is None else f"{found[0]:.2g} to {found[1]:.2g}"
    return f"A slider: negative strengths turn it round. Recommended range: {measured}. No trigger words."


def _sidecar(title: str, sliders: Sequence[ExportTerm], version: str | None) -> bytes:
    """Return the JSON that A1111, Forge and SwarmUI read beside a LoRA of its name."""
    found: dict[str, Any] = {
        "description": title,
        "activation text": "",
        "preferred weight": 1.0,
        "notes": _hint(sliders),
    }
    span = strength_range(sliders[0]) if len(sliders) == 1 else None
    if span is not None:
        found["preferred weight"] = round(min(1.0, span[1]) if span[1] > 0 else max(-1.0, span[0]), 2)
        found["recommended range"] = [round(bound, 3) for bound in span]
    if version is not None:
        found["sd version"] = version
    return (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode()


def file_names(bank: DirectionSet) -> dict[str, str]:
    """Return a file's name, without a suffix, for every label of a set: its letters and digits, and a number where two are alike."""
    found: dict[str, str] = {}
    for each in bank.sliders:
        for label in each.labels:
            stem = re.sub(r"[^\w-]+", "-", label.text).strip("-")[:80] or "slider"
            taken = {name.casefold() for name in found.values()}
            number = next(n for n in itertools.count(1) if (stem if n == 1 else f"{stem}-{n}").casefold() not in taken)
            found.setdefault(label.text, stem if number == 1 else f"{stem}-{number}")
    return found


def check_format(out: Path, form: Format) -> None:
    """Raise ExportError where the file could not be written, or would have a misleading suffix."""
    if form not in FORMATS:
        message = f"{form!r} is no format: expected one of {', '.join(FORMATS)}"
        raise ExportError(message)
    with explaining(outcome="nothing was written", advice="Choose another name"):
        check_out(out, (SUFFIXES[form],), form, ExportError)


def preview_png(direction: Slider) -> bytes | None:
    """Read the set's preview of a direction as PNG bytes; None where it has none. Raises SetError for a damaged one."""
    bank, name = direction.bank, preview_name(direction.record)
    if bank.folder is None or name not in bank.manifest.files:
        return None
    file = io.BytesIO()
    with open_preview(read_preview(bank.folder, bank.manifest, name), name) as image:
        image.convert("RGB").save(file, format="PNG")
    return file.getvalue()


def _npz(terms: Sequence[ExportTerm], bank: DirectionSet) -> bytes:
    import numpy as np

    arrays: dict[str, Any] = {term.direction.id: term.direction.vector.numpy() for term in terms}
    file = io.BytesIO()
    np.savez(file, metadata=np.array(json.dumps(describe(terms, bank))), **arrays)
    return file.getvalue()


def _json(terms: Sequence[ExportTerm], bank: DirectionSet) -> bytes:
    found = describe(terms, bank)
    for entry, term in zip(found["directions"], terms, strict=True):
        # Nine digits are enough to get the same float32 back.
        entry["vector"] = [float(f"{value:.9g}") for value in term.direction.vector.tolist()]
    return (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode()
