"""In every denoiser class: the vector reaches every image token of the site, no text token, and leaves no trace.

Where the image tokens are is found out by a witness that knows nothing of ours: with attention switched off tokens do
not mix, and those that change with the image are the image's.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pipelines
import pytest
import torch
import zoo
from textpipes import biased
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import eigenbank as eb
from eigenbank.builders.discovery.families import discover
from eigenbank.builders.discovery.inputs import attempts
from eigenbank.loaders.export import ExportTerm
from eigenbank.loaders.fuse import input_projections
from eigenbank.loaders.lora import lora_tensors
from eigenbank.loaders.plugins import target_of
from eigenbank.registry.sets.direction_set import Direction
from eigenbank.schemas import Layer
from eigenbank.schemas.errors import ExportError, FuseError, SourceError
from eigenbank.schemas.recipe import Recipe, Site

SCALE = 0.75
KINDS = [pytest.param(kind, marks=() if kind in zoo.FAST else pytest.mark.slow) for kind in zoo.CONFIGS]


class Reading(TorchFunctionMode):
    """Keeps what the first call of each watched linear weight reads; with `mute`, every token attends to itself alone.

    Where there are keys of others too, `own` says whether a token's own ones are the first or the last; without, there are none.
    """

    def __init__(self, weights: dict[int, str], *, mute: bool = False, own: str = "") -> None:
        super().__init__()
        self.weights = weights
        self.mute = mute
        self.own = own
        self.read: dict[str, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "linear" and (role := self.weights.get(id(args[1]))):
            self.read.setdefault(role, args[0].clone())
        if self.mute and name == "scaled_dot_product_attention":
            query, value = (args[i] if len(args) > i else kwargs[key] for i, key in ((0, "query"), (2, "value")))
            if self.own and value.shape[-2] > (tokens := query.shape[-2]):
                value = value[..., :tokens, :] if self.own == "first" else value[..., -tokens:, :]
            if value.shape[-2] != query.shape[-2]:
                return query.new_zeros((*query.shape[:-1], value.shape[-1]))
            return value.repeat_interleave(query.shape[1] // value.shape[1], 1)  # one key may serve several queries
        return func(*args, **(kwargs or {}))


OWN_KEYS = {
    "StableCascadeUNet": "first",
    "QwenImage21Transformer2DModel": "last",
    "Cosmos3OmniTransformer": "last",
}


class Seen:
    """What one call of a model shows of one layer: what its projections read, its module's output, the block's input."""

    def __init__(self, model: nn.Module, layer: Layer, arguments: dict[str, Any], *, mute: bool = False) -> None:
        weights = {
            id(model.get_parameter(part.tensor)): role
            for role, part in layer.tensors.items()
            if role in ("query", "key", "value")
        }
        self.outputs: list[Tensor] = []
        listening = model.get_submodule(layer.name).register_forward_hook(self._out)
        self.entering: list[Tensor] = []
        entering = layer.sites.get("block-input")
        block = model.get_submodule(entering.modules[0] if entering else layer.name)
        inside = block.register_forward_pre_hook(self._entering, with_kwargs=True)  # after the edit's
        try:
            own = OWN_KEYS.get(type(model).__name__, "")
            with torch.no_grad(), Reading(weights, mute=mute, own=own) as reading:
                self.result = model(**{name: _copied(value) for name, value in arguments.items()}, return_dict=False)
        finally:
            listening.remove()
            inside.remove()
        self.sites = {
            "projection-input": list(reading.read.values()),
            "block-output": self.outputs,
            "block-input": self.entering,
        }

    def _entering(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self.entering:
            self.entering = [each.clone() for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]

    def _out(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if not self.outputs:
            values = output if isinstance(output, tuple) else (output,)
            self.outputs = [value.clone() for value in values if isinstance(value, Tensor)]


def _copied(value: Any) -> Any:
    return (
        value.clone()
        if isinstance(value, Tensor)
        else [_copied(v) for v in value]
        if isinstance(value, list)
        else value
    )


def pick(model: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first arguments the model takes, and the same with another image."""
    for arguments, other in zip(zoo.calls(model, 0), zoo.calls(model, 7), strict=True):
        try:
            with torch.no_grad():
                model(**{name: _copied(value) for name, value in arguments.items()})
        except Exception:  # arguments of another layout
            continue
        return arguments, other
    raise AssertionError(type(model).__name__)


def rows_of(arguments: dict[str, Any]) -> int:
    """How many samples a call is for."""
    first = next(iter(arguments.values()))
    return 1 if isinstance(first, Tensor) and first.ndim == 1 else len(first)


def lengths(tokens: Tensor, image: Tensor, samples: int) -> Tensor:
    """The root mean square length of each sample's image tokens, as often as there are tokens of it."""
    square = torch.where(image, tokens.double().square().sum(-1), 0.0).unflatten(0, (samples, -1)).flatten(1)
    length = (square.sum(1) / image.unflatten(0, (samples, -1)).flatten(1).sum(1)).sqrt().float()
    return length.repeat_interleave(len(tokens) // samples).reshape(-1, *[1] * (image.ndim - 1)).expand(image.shape)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    return all(same(a, b) for a, b in zip(first, second, strict=True))


def moved_exactly(
    model: nn.Module,
    layer: Layer,
    site: Any,
    direction: Any,
    arguments: dict[str, Any],
    plain: Seen,
    images: list[Seen],
) -> tuple[Seen, bool]:
    """What an edited call shows, after a look at whether every image token and nothing else moved; whether text was there."""
    text_was_there = False
    with eb.steer(model, {direction: SCALE}, site=site) as handle:
        assert handle.terms[0].match == "exact"
        edited = Seen(model, layer, arguments)
    moved = 0
    for plain_tokens, edited_tokens, one, two in zip(
        plain.sites[site], edited.sites[site], images[0].sites[site], images[1].sites[site], strict=True
    ):
        if torch.equal(plain_tokens, edited_tokens):
            continue
        moved += 1
        axis = layer.sites[site].axis if site != "projection-input" else -1
        image = (one != two).movedim(axis, -1).any(-1)
        text_was_there |= not bool(image.all())
        before, after = plain_tokens.movedim(axis, -1), edited_tokens.movedim(axis, -1)
        assert torch.equal(after[~image], before[~image]), (layer.name, site)
        delta = SCALE * lengths(before, image, rows_of(arguments))[..., None] * direction.vector
        torch.testing.assert_close(after[image], (before + delta)[image], atol=1e-5, rtol=1e-5)
    # All that the projections read is moved; of an output or an input, the one tensor of image tokens.
    assert moved == (len(plain.sites[site]) if site == "projection-input" else 1), (layer.name, site)
    return edited, text_was_there


@pytest.mark.filterwarnings("ignore:In CPU autocast")
@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_vector_reaches_every_image_token_and_no_text(kind: str) -> None:
    model = zoo.make(kind)
    layers = {
        (layer.kind, layer.name.split(".")[0], layer.name.split(".")[-1]): layer for layer in zoo.layers_of(model)
    }
    bank = zoo.bank_of(model, zoo.layers_of(model))
    arguments, other = pick(model)
    text_was_there = False
    for layer in layers.values():
        assert set(layer.sites) == {"projection-input", "block-output", "block-input"}
        direction = bank[f"{layer.name}/value/0"]
        plain = Seen(model, layer, arguments)
        images = [Seen(model, layer, each, mute=True) for each in (arguments, other)]
        for site in layer.sites:
            edited, seen = moved_exactly(model, layer, site, direction, arguments, plain, images)
            text_was_there |= seen
            assert not same(edited.result, plain.result)
            with eb.steer(model, {direction: 0.0}, site=site):
                assert same(Seen(model, layer, arguments).result, plain.result)
            assert same(Seen(model, layer, arguments).result, plain.result)
    if any(layer.sites[site].image != "all" for layer in layers.values() for site in layer.sites):
        assert text_was_there
    assert not [name for name, module in model.named_modules() if {"_diffusers_hook", "forward"} & set(module.__dict__)]
    assert target_of(model).owner is model


@contextlib.contextmanager
def as_biases(model: nn.Module, direction: Direction, site: Site) -> Iterator[None]:
    """The direction as it is fused, or added to queries, keys and values. Raises FuseError."""
    if site == "block-output":
        with eb.steer(model, {direction: 0.5}, site="output", fuse=True):
            yield
        return
    maps = input_projections(target_of(model), model, direction.bank.layers[direction.layer])
    with contextlib.ExitStack() as stack:
        for linear in maps.values():
            added = linear.weight @ direction.vector
            stack.callback(linear.register_forward_hook(lambda _each, _args, out, added=added: out + added).remove)
        yield


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("site", ["block-output", "projection-input"])
@pytest.mark.parametrize("kind", KINDS)
def test_where_a_bias_is_taken_for_the_edit_it_is_the_edit(kind: str, site: Site) -> None:
    model = zoo.make(kind)
    call = pick(model)[0]
    with torch.no_grad():
        for direction in zoo.bank_of(model, zoo.layers_of(model)):
            try:
                with as_biases(model, direction, site):
                    found = model(**call, return_dict=False)[0]
            except FuseError:
                continue
            with biased(model, {direction: 0.5}, site):
                expected = model(**call, return_dict=False)[0]
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


# Of docs/export.md: how many of a tiny model's layers go into a file, by their output and by their input side, and whether ComfyUI takes them.
EXPORTED = {
    "UNet2DConditionModel": (1.0, 1.0, True), "SD3Transformer2DModel": (1.0, 1.0, True), "FluxTransformer2DModel": (0.5, 0.5, True),
    "ChromaTransformer2DModel": (0.5, 0.5, True), "HunyuanVideoTransformer3DModel": (0.5, 0.5, True), "WanTransformer3DModel": (1.0, 1.0, True),
    "QwenImageTransformer2DModel": (1.0, 1.0, True), "Flux2Transformer2DModel": (0.5, 0.5, False),
    "Lumina2Transformer2DModel": (0.5, 0.5, False), "ZImageTransformer2DModel": (0.5, 0.5, False),
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPORTED)
def test_the_families_of_the_export_page_are_exported_as_it_says(kind: str) -> None:
    model = zoo.make(kind)
    bank = zoo.bank_of(model, zoo.layers_of(model))
    sides: dict[Any, list[bool]] = {"output": [], "input": []}
    comfyui: list[bool] = []
    for side in sides:
        for direction in bank:
            recipe = Recipe(matrix="output-value", side=side)
            bank.vectors[f"{direction.layer}/{recipe.basis}"] = direction.vector[None]
            same = Direction(bank, direction.record.model_copy(update={"recipe": recipe}))
            term = ExportTerm("x", same, 1.0, 1.0, same)
            try:
                lora_tensors([term], model, "diffusers")
            except ExportError:
                sides[side].append(False)
                continue
            sides[side].append(True)
            try:
                comfyui.append(bool(lora_tensors([term], model, "comfyui")))
            except ExportError:
                comfyui.append(False)
    shares = [sum(each) / len(each) for each in sides.values()]
    assert (*shares, all(comfyui)) == EXPORTED[kind]


JOINT = (
    "FluxTransformer2DModel", "ZImageTransformer2DModel", "Lumina2Transformer2DModel", "HunyuanVideoTransformer3DModel",
    "SD3Transformer2DModel", "Flux2Transformer2DModel", "QwenImageTransformer2DModel", "HunyuanVideoFramepackTransformer3DModel",
    "ChromaTransformer2DModel", "AuraFlowTransformer2DModel", "CogView4Transformer2DModel",
    "BriaTransformer2DModel", "BriaFiboTransformer2DModel", "CogVideoXTransformer3DModel", "CogView3PlusTransformer2DModel",
    "HunyuanImageTransformer2DModel", "HunyuanVideo15Transformer3DModel", "OmniGenTransformer2DModel",
    "OvisImageTransformer2DModel", "LongCatImageTransformer2DModel", "MotifVideoTransformer3DModel", "Krea2Transformer2DModel",
    "GlmImageTransformer2DModel", "NucleusMoEImageTransformer2DModel", "PRXTransformer2DModel", "JoyImageEditTransformer3DModel",
    "HiDreamImageTransformer2DModel", "MochiTransformer3DModel", "ConsisIDTransformer3DModel", "EasyAnimateTransformer3DModel",
    "ErnieImageTransformer2DModel", "StableCascadeUNet", "BriaFibo2Transformer2DModel", "Cosmos3OmniTransformer",
    "Flux3Transformer2DModel", "JoyImageEditPlusTransformer3DModel", "QwenImage21Transformer2DModel",
)  # fmt: skip
"""Denoisers that have text and image tokens in one sequence; the first few always run."""


@pytest.mark.filterwarnings("ignore:In CPU autocast")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if place > 3 else ()) for place, kind in enumerate(JOINT)]
)
def test_exactly_the_images_tokens_move_whatever_the_sizes_of_image_and_text(kind: str) -> None:
    model = zoo.make(kind, pipelines.CONFIGS[kind])
    found = discover({"_class_name": kind, **pipelines.CONFIGS[kind]}).layers
    mixed = [layer for layer in found if any(point.image != "all" for point in layer.sites.values())]
    layers = mixed or found  # Mochi's text comes in an argument of its own
    bank, tried = zoo.bank_of(model, found), 0
    for arguments, other in sizes(model):
        for layer in layers[:1] + layers[-1:]:
            plain = Seen(model, layer, arguments)
            images = [Seen(model, layer, each, mute=True) for each in (arguments, other)]
            for site, point in layer.sites.items():
                if point.image != "all" or not mixed:
                    moved_exactly(model, layer, site, bank[f"{layer.name}/value/0"], arguments, plain, images)
        tried += 1
    assert tried >= 2


def sizes(model: nn.Module) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Arguments the model takes, and the same with another image: in one size, and in those others that it takes."""
    for attempt in attempts(model):
        found = []
        for each in (attempt, *attempt.others()):
            pair = tuple(zoo.filled(each.arguments(), seed) for seed in (0, 7))
            try:
                with torch.no_grad():
                    model(**{name: _copied(value) for name, value in pair[0].items()})
            except Exception:  # arguments of another layout, or a size it does not take
                if not found:
                    break
                continue
            found.append(pair)
        if found:
            yield from found
            return


@pytest.mark.parametrize("kind", ["Ideogram4Transformer2DModel", "PriorTransformer"])
def test_a_denoiser_whose_pass_shows_no_image_tokens_apart_from_text_is_refused(kind: str, tmp_path: Path) -> None:
    zoo.make(kind, pipelines.CONFIGS[kind]).save_pretrained(tmp_path)
    with pytest.raises(SourceError, match="does not show where the image's tokens are"):
        eb.build(str(tmp_path))
