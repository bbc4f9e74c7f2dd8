"""Export an edit as a file that other programs load: a LoRA of biases for diffusers or ComfyUI, or plain numbers.

A vector added to every token at a layer's output, in every step, is a constant in the bias of the layer's out projection.
That is all a LoRA can hold of an edit; what it cannot hold is refused, never dropped.
"""

import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from eigenbank import __version__
from eigenbank.registry.files import check_out, replacing
from eigenbank.registry.sets.card import preview_name
from eigenbank.registry.sets.direction_set import Composite, Direction, DirectionSet
from eigenbank.registry.sets.folder import open_preview, read_preview
from eigenbank.schemas.common import MAX_SCALE
from eigenbank.schemas.errors import ExportError, FuseError, explaining

if TYPE_CHECKING:
    from torch import Tensor, nn

Format = Literal["diffusers", "comfyui", "npz", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
LORA: tuple[Format, ...] = ("diffusers", "comfyui")
"""The formats that hold biases; the others hold the vectors themselves."""
SUFFIXES = {"diffusers": ".safetensors", "comfyui": ".safetensors", "npz": ".npz", "json": ".json"}

Edits = (
    Mapping[str, float]
    | Mapping[Direction, float]
    | Mapping[str | Direction, float]
    | Mapping[str | Direction | Composite, float]
)


@dataclass(frozen=True)
class ExportTerm:
    """One direction of an exported edit. `weight` is its part of what was asked for, negative where the label is against
    the vector.

    `length` is the token length at the direction's site, None where it is not known. `composite` is what was named, where
    the direction is a part of that.
    """

    key: str
    direction: Direction
    weight: float
    scale: float
    length: float | None
    composite: Composite | None = None

    @property
    def vector(self) -> "Tensor":
        """What the edit adds to every token, `(d,)` float32. The length must be known."""
        assert self.length is not None
        return (self.direction.vector.double() * (self.weight * self.scale * self.length)).float()


def choose(bank: DirectionSet, edits: Edits | Iterable[str | Direction] | None) -> list[ExportTerm]:
    """Return the terms of an edit: labels, ids or directions with their scales, or without, then 1; None is all of the bank.

    Raises UnknownNameError, with near matches, or ExportError for what is no scale.
    """
    if edits is None:
        edits = dict.fromkeys(bank, 1.0)
    elif not isinstance(edits, Mapping):
        edits = dict.fromkeys([edits] if isinstance(edits, str | Direction | Composite) else edits, 1.0)
    terms = []
    for key, scale in edits.items():
        named: Direction | Composite
        if isinstance(key, Direction | Composite):
            name, named, polarity = key.id, key, 1
        else:
            name = key
            named, polarity = bank.find(key)
        if not isinstance(scale, int | float) or not math.isfinite(scale) or abs(scale) > MAX_SCALE:
            message = (
                f"the scale of {name!r} is {scale!r}: a file holds one number per direction, of at most ±{MAX_SCALE:g}. "
                "Schedules and scales per sample are for steer"
            )
            raise ExportError(message)
        for direction, weight in named.parts:
            known = direction.bank.layers[direction.layer].lengths.get(direction.recipe.site)
            length = None if known is None else known.length
            composite = named if isinstance(named, Composite) else None
            terms.append(ExportTerm(name, direction, polarity * weight, float(scale), length, composite))
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
            name = f"{term.key!r} means {name}, which"
        component = term.direction.bank.layers[term.direction.layer].component
        main = term.direction.bank.manifest.checkpoint.component
        if component not in ("", main):
            message = (
                f"{name} is of the pipeline's {component}, and a LoRA file is for one denoiser, the {main}: nothing was written. "
                "The formats npz and json take every direction"
            )
            raise ExportError(message)
        if term.composite is not None and not _fits(term.direction):
            raise _unfit(term.composite, term.key)
        if recipe.site != "block-output":
            partner = f"{term.direction.layer}/{recipe.matrix}:output/{term.direction.rank}"
            hint = f" What it makes the layer write is {partner}." if recipe.matrix == "output-value" else ""
            message = (
                f"{name} is added to what the layer reads, and a LoRA bias only to what it writes: nothing was written."
                f"{hint} The formats npz and json take every direction"
            )
            raise ExportError(message)
        if not recipe.window.whole:
            message = (
                f"{name} acts from {recipe.window.start:g} to {recipe.window.end:g} of the run, and a LoRA acts in every "
                "step: nothing was written. Build the recipe without a window, or take the format npz or json"
            )
            raise ExportError(message)
        if term.length is None:
            message = (
                f"the token length at the output of {term.direction.layer} is not in the set, so a scale of 1 has no "
                f"length: nothing was written. Measure it once: eigenbank measure {term.direction.bank.model_id}"
            )
            raise ExportError(message)


def _fits(direction: Direction) -> bool:
    """Whether a bias can stand for a direction, its token length being known."""
    return direction.recipe.site == "block-output" and direction.recipe.window.whole


def _unfit(composite: Composite, key: str) -> ExportError:
    """Return the error for a composite that no LoRA can hold, with the directions of its name that one can."""
    bank = composite.bank
    parts = [direction for direction, _ in composite.parts]
    reading = sum(part.recipe.site != "block-output" for part in parts)
    timed = sum(part.recipe.site == "block-output" and not part.recipe.window.whole for part in parts)
    why = [f"{reading} are added to what a layer reads"] if reading else []
    why += [f"{timed} act in a part of the run only"] if timed else []
    text = next((label.text for label in composite.labels), composite.record.name)
    named = [
        f"{each.id}={label.polarity}"
        for each in bank.search(text)
        if isinstance(each, Direction) and _fits(each)
        for label in each.labels
        if label.text == text
    ]
    advice = f"a direction of that name that fits: {named[0]!r}" if named else "no direction of that name fits"
    message = (
        f"{key!r} means {composite.id}, a sum of {len(parts)} directions, of which {' and '.join(why)}; a LoRA's bias is "
        f"added to what a layer writes, in every step. Nothing was written; {advice}. All that fit and have a name: "
        f"eigenbank search --model {bank.model_id} --recipe output-value:output --labelled. The formats npz and json take "
        "every direction"
    )
    return ExportError(message)


def lora_tensors(terms: Sequence[ExportTerm], denoiser: "nn.Module", form: Format) -> "dict[str, Tensor]":
    """Return the tensors of a LoRA file, float32, whose strength 1 is the edit as given.

    diffusers: `PREFIX.MODULE.lora_A.weight` `(1, in)` and `.lora_B.weight` `(out, 1)`, zero, and `.lora_B.bias` `(out,)`.
    ComfyUI: `lora_unet_….diff_b` `(out,)`. `denoiser` may be on the meta device. Raises ExportError or MatchError.
    """
    import torch

    from eigenbank.loaders.fuse import output_bias
    from eigenbank.loaders.target import Target

    check_expressible(terms)
    kind = type(denoiser).__name__
    prefix = "unet" if kind.startswith("UNet") else "transformer"
    sums: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    target = Target(denoiser, {"": denoiser})
    for term in terms:
        try:
            found = output_bias(target, denoiser, term.direction.bank.layers[term.direction.layer])
        except FuseError as error:
            message = (
                f"no bias stands for an edit of {error.what}: {error.why}. Nothing was written. Use steer, or leave its directions "
                "out"
            )
            raise ExportError(message) from error
        sums[found.path] = sums.get(found.path, 0) + found.divisor * term.vector.double()
        bias = sums[found.path].float()
        if form == "diffusers":
            name = f"{prefix}.{found.path}"
            tensors[f"{name}.lora_A.weight"] = torch.zeros(1, found.linear.in_features)
            tensors[f"{name}.lora_B.weight"] = torch.zeros(found.linear.out_features, 1)
            tensors[f"{name}.lora_B.bias"] = bias
        elif found.linear.bias is None:
            message = (
                f"{found.path} has no bias, and ComfyUI's loader adds to biases that are there: nothing was written. "
                "The format diffusers gives it one"
            )
            raise ExportError(message)
        else:
            tensors[f"{comfyui_name(kind, found.path)}.diff_b"] = bias
    return tensors


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
                "width": term.direction.bank.layers[term.direction.layer].width,
                "frame": term.direction.bank.layers[term.direction.layer].frame,
                **term.direction.record.model_dump(mode="json"),
            }
            for term in terms
        ],
    }


def write(
    terms: Sequence[ExportTerm], bank: DirectionSet, out: Path, form: Format, denoiser: "nn.Module | None" = None
) -> list[Path]:
    """Write the file, and for ComfyUI the preview beside it where the set has one; each whole or not at all.

    Returns the files written. Raises ExportError, MatchError or SetError; then nothing has changed.
    """
    check_format(out, form)
    pictures: dict[Path, bytes] = {}
    if form in LORA:
        from safetensors.torch import save

        if denoiser is None:
            message = (
                f"the format {form} asks the checkpoint how its layers are made: give the pipeline or the checkpoint"
            )
            raise ExportError(message)
        # One key: safetensors writes several in any order, and equal edits are to be equal files.
        head = {"eigenbank": json.dumps(describe(terms, bank), ensure_ascii=False)}
        data = save({name: tensor.contiguous() for name, tensor in lora_tensors(terms, denoiser, form).items()}, head)
        if form == "comfyui":
            picture = preview_png(terms[0].direction) if len(terms) == 1 else None
            if picture is not None:
                pictures[out.with_suffix(".png")] = picture
    else:
        data = _npz(terms, bank) if form == "npz" else _json(terms, bank)
    try:
        for path, content in {**pictures, out: data}.items():
            with replacing(path) as work:
                work.write_bytes(content)
    except OSError as error:
        message = f"{out} cannot be written ({error.strerror or error}): choose another name"
        raise ExportError(message) from error
    return [out, *pictures]


def check_format(out: Path, form: Format) -> None:
    """Raise ExportError where the file could not be written, or would have a misleading suffix."""
    if form not in FORMATS:
        message = f"{form!r} is no format: expected one of {', '.join(FORMATS)}"
        raise ExportError(message)
    with explaining(outcome="nothing was written", advice="Choose another name"):
        check_out(out, (SUFFIXES[form],), form, ExportError)


def preview_png(direction: Direction | Composite) -> bytes | None:
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


_COMFYUI_PATHS: dict[str, tuple[str, str]] = {
    "UNet2DConditionModel": (r"(.+\.attn\d\.to_out\.0)", r"\1"),
    "SD3Transformer2DModel": (r"transformer_blocks\.(\d+)\.(attn2?)\.to_out\.0", r"joint_blocks.\1.x_block.\2.proj"),
    "FluxTransformer2DModel": (r"transformer_blocks\.(\d+)\.attn\.to_out\.0", r"double_blocks.\1.img_attn.proj"),
    "WanTransformer3DModel": (r"blocks\.(\d+)\.attn1\.to_out\.0", r"blocks.\1.self_attn.o"),
}
"""Denoiser class → the module's path in diffusers, and in the model as ComfyUI holds it.

ComfyUI's loader (comfy/lora.py) takes, for every weight of the model, the tensor `NAME.diff_b` of a file and adds it, times
the LoRA's strength, to that layer's bias. NAME is `lora_unet_` and the weight's path with dots as underscores: diffusers'
path for U-Nets with text, the path in the original checkpoint for the others.
"""


def comfyui_name(denoiser: str, module: str) -> str:
    """Return ComfyUI's name, without `.diff_b`, of a denoiser class's module. Raises ExportError where it is not known."""
    if denoiser not in _COMFYUI_PATHS:
        message = (
            f"under which names ComfyUI holds a {denoiser} is not known here: nothing was written. "
            f"Known: {', '.join(sorted(_COMFYUI_PATHS))}. The formats npz and json take every direction"
        )
        raise ExportError(message)
    pattern, theirs = _COMFYUI_PATHS[denoiser]
    found = re.fullmatch(pattern, module)
    if found is None:
        message = f"under which name ComfyUI holds {module} of a {denoiser} is not known here: nothing was written"
        raise ExportError(message)
    return "lora_unet_" + found.expand(theirs).replace(".", "_")
