"""The text lens: what words write into the image through text attention, in a set's directions, without a denoiser at work."""

import math
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
import torch
import zoo
from torch import Tensor

import eigenbank as eb
from eigenbank.api import open_source, source_of
from eigenbank.builders.label.composites import NORM
from eigenbank.builders.lens import LARGEST, RECIPE, Lens, _length, lens
from eigenbank.loaders.prompts import encode_prompts
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas.errors import SourceError

WITH, WITHOUT = ["a man hat"], ["a man"]


def looked(kind: str, folder: Path, **build: Any) -> tuple[Any, DirectionSet, Lens, list[Tensor]]:
    """A tiny pipeline, its set, the lens for a hat, and the mean tokens with and without it."""
    place = str(tiny_pipelines.save(kind, folder / kind))
    pipe = eb.open_pipeline(place, dtype="float32")
    bank = eb.build(place, recipes=[RECIPE.slug], **build)
    texts = encode_prompts(pipe, WITH), encode_prompts(pipe, WITHOUT)
    found = lens(bank, open_source(place)[1], "a hat", *texts)
    return pipe, bank, found, [each[0] for each in texts]


def written(bank: DirectionSet, found: Lens, layer: str) -> Tensor:
    """What the composite adds at a layer, of length 1."""
    weights = {part.direction: part.weight for part in found.record.parts}
    added = torch.stack([weights[each.id] * each.vector for each in bank if each.layer == layer and each.id in weights])
    return torch.nn.functional.normalize(added.sum(0), dim=0)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_it_is_what_text_attention_adds_for_the_words(kind: str, tmp_path: Path) -> None:
    pipe, bank, found, (tokens, without) = looked(kind, tmp_path, top_k=64)
    assert len(found.spanned) == len(bank.layers)
    strengths = []
    for name, share in found.spanned.items():
        attention = pipe.unet.get_submodule(name.replace("attn1", "attn2"))
        image = torch.randn(1, 4, bank.layers[name].width)
        with torch.no_grad():  # a text of one token: every token of the image looks at nothing else
            change, *_ = (
                attention(image, encoder_hidden_states=tokens.mean(0)[None, None])
                - attention(image, encoder_hidden_states=without.mean(0)[None, None])
            )[0]
        assert share == pytest.approx(1, abs=1e-3)  # all directions there are
        assert float(written(bank, found, name) @ change / change.norm()) == pytest.approx(1, abs=1e-2)
        weights = [part.weight for part in found.record.parts if part.direction.startswith(f"{name}/")]
        strengths.append(math.hypot(*weights) * _length(source_of(pipe)[1], bank.layers[name]) / float(change.norm()))
    norm = math.hypot(*(part.weight for part in found.record.parts))
    assert norm < LARGEST
    # What the words write, or what the shortest lens takes: in every layer alike.
    strength = 1.0 if norm > 1.01 * NORM else max(1.0, strengths[0])
    assert norm == pytest.approx(max(NORM, norm))
    assert strengths == pytest.approx([strength] * len(strengths), rel=0.02)


def test_few_directions_span_a_part_of_it(tmp_path: Path) -> None:
    _, bank, found, _ = looked("sd", tmp_path, top_k=2)
    assert all(0 < share < 0.6 for share in found.spanned.values())
    assert {part.direction for part in found.record.parts} == {each.id for each in bank}
    assert found.record.id == "composite/a-hat"


def test_in_pixart_text_goes_through_the_caption_projection(tmp_path: Path) -> None:
    pipe, bank, found, texts = looked("pixart", tmp_path, top_k=64)
    name = "transformer_blocks.1.attn1"
    attention = pipe.transformer.transformer_blocks[1].attn2
    with torch.no_grad():
        after, before = (
            attention.to_out[0](attention.to_v(pipe.transformer.caption_projection(text).mean(0))) for text in texts
        )
    change = after - before
    assert float(written(bank, found, name) @ change / change.norm()) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_in_joint_blocks_text_goes_through_the_image_s_own_projection(kind: str, tmp_path: Path) -> None:
    pipe, bank, found, texts = looked(kind, tmp_path, top_k=64)
    name = "transformer_blocks.0.attn"
    assert all(layer.endswith(".attn") and not layer.startswith("single") for layer in found.spanned)
    attention = pipe.transformer.transformer_blocks[0].attn
    with torch.no_grad():
        after, before = (
            attention.to_out[0](
                attention.add_v_proj(
                    torch.nn.functional.layer_norm(
                        stream := pipe.transformer.context_embedder(text), stream.shape[1:]
                    ).mean(0)
                )
            )
            for text in texts
        )
    change = after - before
    assert float(written(bank, found, name) @ change / change.norm()) == pytest.approx(1, abs=1e-2)


def test_in_qwen_image_text_is_normalised_before_it_is_projected() -> None:
    model = zoo.make("QwenImageTransformer2DModel")
    with torch.no_grad():
        model.txt_norm.weight.uniform_(0.5, 2.0)
    bank = eb.build(model, recipes=[RECIPE.slug], top_k=64)
    texts = [torch.randn(5, 16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    found = lens(bank, source_of(model)[1], "a hat", *([each] for each in texts))
    attention = model.transformer_blocks[0].attn
    with torch.no_grad():
        streams = [model.txt_in(model.txt_norm(each)) for each in texts]
        after, before = (
            attention.to_out[0](attention.add_v_proj(torch.nn.functional.layer_norm(each, each.shape[1:]).mean(0)))
            for each in streams
        )
    change = after - before
    assert float(written(bank, found, "transformer_blocks.0.attn") @ change / change.norm()) == pytest.approx(
        1, abs=1e-2
    )


def test_layers_take_part_by_how_much_the_words_write_there(tmp_path: Path) -> None:
    place = str(tiny_pipelines.save("sd", tmp_path / "sd"))
    pipe, bank = eb.open_pipeline(place), eb.build(place, recipes=[RECIPE.slug], top_k=2)
    name = next(iter(bank.layers))
    texts = encode_prompts(pipe, WITH), encode_prompts(pipe, WITHOUT)

    def share() -> float:
        found = lens(bank, source_of(pipe)[1], "a hat", *texts).record.parts
        return sum(part.weight**2 for part in found if part.direction.startswith(f"{name}/")) / NORM**2

    before = share()
    with torch.no_grad():
        pipe.unet.get_submodule(name.replace("attn1", "attn2")).to_v.weight *= 100
    assert before < 0.9 < share()


def test_it_reads_the_text_weights_and_what_the_layers_write(tmp_path: Path) -> None:
    place = str(tiny_pipelines.save("sd", tmp_path / "sd"))
    bank, source = eb.build(place, recipes=[RECIPE.slug], top_k=2), open_source(place)[1]
    texts = [torch.randn(5, 16)], [torch.randn(5, 16)]
    before = source.bytes_read
    lens(bank, source, "a hat", *texts)
    assert 0 < source.bytes_read - before < source.total / 8


def test_what_it_cannot_be_made_of_is_said(tmp_path: Path, tiny_checkpoint: Path) -> None:
    place = str(tiny_pipelines.save("sd", tmp_path / "sd"))
    source, bank = open_source(place)[1], eb.build(place, recipes=[RECIPE.slug], top_k=2)
    tokens = [torch.randn(5, 16)]
    with pytest.raises(SourceError, match="makes no difference"):
        lens(bank, source, "a man", tokens, tokens)
    with pytest.raises(SourceError, match="no directions of what layers write"):
        lens(eb.build(place, recipes=["value"], top_k=2), source, "a hat", tokens, [torch.randn(5, 16)])
    with pytest.raises(SourceError, match="20 wide"):
        lens(bank, source, "a hat", [torch.randn(5, 20)], [torch.randn(5, 20)])
    faces = eb.build(str(tiny_checkpoint), recipes=[RECIPE.slug], top_k=2)
    with pytest.raises(SourceError, match="not known how text gets into"):
        lens(faces, open_source(str(tiny_checkpoint))[1], "a hat", tokens, [torch.randn(5, 16)])
