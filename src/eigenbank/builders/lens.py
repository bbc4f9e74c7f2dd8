"""The text lens: a slider from words alone, through the weights with which a denoiser's blocks read text. Nothing is drawn.

A block's text attention adds W_O·W_V·e to the image's tokens, for each token e of the text that they look at. So words add
u = W_O·W_V·(e(with them) − e(without)), in the stream that the same block's self-attention writes into. The set's output-side
directions of that layer are a basis of a part of it: their coefficients in u, layer by layer, make a composite.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eigenbank.builders.label.composites import NORM, name_for
from eigenbank.registry.recipes import form
from eigenbank.schemas import CompositeRecord, Layer, Part, Recipe, Weighted
from eigenbank.schemas.errors import SourceError

if TYPE_CHECKING:
    from eigenbank.builders.checkpoints.source import WeightSource
    from eigenbank.registry.sets.direction_set import DirectionSet
    from eigenbank.schemas.layer import Role

RECIPE = Recipe.parse("output-value:output")
"""The recipe whose directions are what a layer writes most, an orthonormal basis."""
PARTS = 1000
"""Most directions in a lens."""
LARGEST = 6.0
"""Root of the sum of the squared weights of a lens at most."""
SAME = 1e-4
"""Difference of two texts, of the length of their tokens, below which they are one to a text encoder."""


@dataclass(frozen=True)
class Lens:
    """What words write: the composite `record`, and for each of its layers the share of it that the set's directions span
    (squared length); the rest is left out.
    """

    record: CompositeRecord
    spanned: dict[str, float]


def lens(
    directions: "DirectionSet",
    source: "WeightSource",
    text: str,
    positive: Sequence[Tensor],
    neutral: Sequence[Tensor],
) -> Lens:
    """Make the composite for a text of what its prompts write into the image: `positive` are their tokens `(n, e)`, as the
    pipeline's text encoders give them to the denoiser, `neutral` those of the same prompts without it.

    Reads the text weights of the set's layers, and what they write tokens with. Layers take part by how much the words write, beside
    what the layer itself does; the composite adds as much as they write on average, where every token of the image looks at all of
    the text alike. It has a norm of `NORM` to `LARGEST`, and at most `PARTS` parts. Like words in a prompt it acts on the conditional
    branch of guidance. Raises SourceError where the texts are one to the text encoder, where the set has no directions of what layers
    write, or where it is not known how the denoiser's text gets into its image.
    """
    before, after = (torch.stack([each.mean(0) for each in texts]).mean(0) for texts in (neutral, positive))
    if not float((after - before).norm()) > SAME * float(before.norm()):
        problem = f"{text[:60]!r} makes no difference to what this checkpoint's text encoder reads"
        raise SourceError(problem, advice="Word it differently")
    held: dict[str, list[str]] = {}
    for record in directions.manifest.directions:
        if record.recipe == RECIPE:
            held.setdefault(record.layer, []).append(record.id)
    if not held:
        problem = f"the set of {directions.model_id} has no directions of what layers write ({RECIPE.slug})"
        raise SourceError(problem, advice=f"Build it with the recipe {RECIPE.slug}")
    coefficients: dict[str, Tensor] = {}
    spanned: dict[str, float] = {}
    changes: dict[tuple[str, bool], Tensor] = {}
    for name, ids in held.items():
        layer = directions.layers[name]
        own = source.of(layer.component) or source
        path = text_path(own, layer)
        if path is None:
            continue
        key = own.component, path.normalised
        if key not in changes:
            seen, unseen = (_seen(own, texts, normalised=path.normalised) for texts in (positive, neutral))
            changes[key] = seen - unseen
        value, output = (each.double() for each in own.read([path.value, path.output]))
        if len(changes[key]) != value.shape[1]:
            problem = f"text tokens are {len(changes[key])} wide, and {path.value.tensor} reads {value.shape[1]}: it is not known what lies between"
            raise SourceError(problem, advice="Draw to find the slider")
        written = output @ (value @ changes[key])
        found = torch.stack([directions.direction(each).vector for each in ids]).double() @ written
        if bool(found.any()):
            coefficients[name] = found / _length(own, layer)
            spanned[name] = float(found.square().sum() / written.square().sum())
    if not coefficients:
        problem = f"it is not known how text gets into the image of this {source.config.get('_class_name')}"
        raise SourceError(problem, advice="Draw to find the slider")
    return Lens(_composite(text, coefficients, held, directions), spanned)


def _composite(
    text: str, coefficients: dict[str, Tensor], held: dict[str, list[str]], directions: "DirectionSet"
) -> CompositeRecord:
    """The composite of these coefficients, the largest `PARTS` of them; one that is there already keeps its name."""
    flat = sorted(
        ((name, value) for layer, found in coefficients.items() for name, value in zip(held[layer], found.tolist(), strict=True)),
        key=lambda each: -abs(each[1]),
    )[:PARTS]  # fmt: skip
    norm = sum(value**2 for _, value in flat) ** 0.5
    strength = min(max(norm, NORM), LARGEST) / norm
    kept = {name: strength * value for name, value in flat}
    parts = tuple(Weighted(direction=each, weight=kept[each]) for ids in held.values() for each in ids if each in kept)
    there = next(
        (each.name for each in directions.manifest.composites if (each.parts, each.branch) == (parts, "cond")), None
    )
    name = there or name_for(text, {each.name for each in directions.manifest.composites})
    return CompositeRecord(name=name, parts=parts, branch="cond")


def _length(source: "WeightSource", layer: Layer) -> float:
    """The length of W_O·W_V·x for an x fresh from the norm: that of a token that a layer writes, but for what attention averages out. By
    the weights alone, whether the set knows measured lengths or not, so that the same words are the same slider.
    """
    roles: list[Role] = [role for role in ("value", "output", "norm") if role in layer.tensors]
    read = source.read([layer.tensors[role] for role in roles])
    weights = {role: tensor.double() for role, tensor in zip(roles, read, strict=True)}
    matrix = form(RECIPE, weights, layer)
    return float((matrix * weights.get("norm", 1.0)).norm())


@dataclass(frozen=True)
class TextPath:
    """The weights that a block's text goes through into its image, and whether it is normalised before."""

    value: Part
    output: Part
    normalised: bool


def text_path(source: "WeightSource", layer: Layer) -> TextPath | None:
    """Find the way of text into a self-attention layer's block, by diffusers' names; None where there is none.

    Cross-attention blocks have an attention of its own, `attn2`. In joint blocks (SD3, FLUX, Qwen-Image) text has values of its own,
    `add_v_proj`, and goes through the same attention and projection. PixArt's gate, which scales what self-attention
    writes and not what text does, is passed over: it depends on the step.
    """
    joint, crossed = f"{layer.path}.add_v_proj.weight", f"{layer.path.removesuffix('1')}2"
    if source.stored(joint) is not None and "output" in layer.tensors and layer.kv_heads is None:
        return TextPath(Part(tensor=joint), layer.tensors["output"], normalised=True)
    names = f"{crossed}.to_v.weight", f"{crossed}.to_out.0.weight"
    if layer.path.endswith("attn1") and all(source.stored(name) is not None for name in names):
        return TextPath(Part(tensor=names[0]), Part(tensor=names[1]), normalised=False)
    return None


def _seen(source: "WeightSource", texts: Sequence[Tensor], *, normalised: bool) -> Tensor:
    """Texts as blocks see them, `(e,)` float64: the mean over their tokens, and over the texts.

    A joint block's text changes from block to block; here it is what enters the first, normalised without the block's modulation.
    """
    streams = [_entered(source, text.double()) for text in texts]
    if normalised:
        streams = [torch.nn.functional.layer_norm(each, each.shape[1:]) for each in streams]
    return torch.stack([each.mean(0) for each in streams]).mean(0)


def _entered(source: "WeightSource", tokens: Tensor) -> Tensor:
    """Text tokens `(n, e)` as the denoiser's blocks see them: through the projection that it begins with, if it has one."""

    def linear(name: str, given: Tensor) -> Tensor:
        parts = [Part(tensor=f"{name}.{each}") for each in ("weight", "bias")]
        weight, *bias = (each.double() for each in source.read([each for each in parts if source.stored(each.tensor)]))
        return torch.nn.functional.linear(given, weight, *bias)

    if source.stored("txt_norm.weight"):
        (scale,) = source.read([Part(tensor="txt_norm.weight")])
        tokens = torch.nn.functional.rms_norm(tokens, tokens.shape[1:], scale.double().flatten(), 1e-6)
    for name in ("context_embedder", "txt_in", "encoder_hid_proj"):
        if source.stored(f"{name}.weight"):
            return linear(name, tokens)
    if source.stored("caption_projection.linear_1.weight"):
        hidden = torch.nn.functional.gelu(linear("caption_projection.linear_1", tokens), approximate="tanh")
        return linear("caption_projection.linear_2", hidden)
    return tokens
