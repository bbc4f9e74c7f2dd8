"""The node pack in ComfyUI itself, held against `eb.steer` in diffusers. COMFYUI=path of a checkout runs it: make test-comfyui."""

import dataclasses
import functools
import logging
import re
from pathlib import Path
from typing import Any

import comfyui_real as real
import pytest
import torch
from safetensors.torch import load_file
from textpipes import biased
from torch import Tensor

import eigenbank as eb
from eigenbank.schemas.errors import ExportError
from eigenbank.schemas.layer import TokenLength

pytestmark = pytest.mark.skipif(not real.CHECKOUT, reason="COMFYUI names no checkout of ComfyUI: make test-comfyui")

SITES = {"output-value": "projection", "output-value:output": "output", "query-key": "input"}
"""A recipe for each site: its own, and for `input` one whose directions are put there."""


@functools.cache
def family(name: str) -> real.Family:
    """A tiny model of ComfyUI and its twin in diffusers."""
    real.start()
    return real.FAMILIES[name]()


@functools.cache
def bank(name: str) -> eb.DirectionSet:
    return eb.build(family(name).theirs, recipes=list(SITES), top_k=2, model_id=f"tiny/{name}")


@functools.cache
def directions(name: str, folder: Path) -> Any:
    """The set as the node pack reads it."""
    family(name)
    return real.pack().nodes.load(bank(name).save(folder / name).folder)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sets")


def close(found: Tensor, expected: Tensor, plain: Tensor) -> None:
    """The same, to 1e-5 of what the edit changes."""
    effect = float((expected - plain).abs().max())
    assert effect > 0.01
    assert float((found - expected).abs().max()) <= 1e-5 * effect


def one_each(name: str) -> list[Any]:
    """A direction for every kind of layer and site: `down_blocks`, `single_transformer_blocks`, `attn2` …"""
    found = {}
    for each in bank(name):
        kind = re.sub(r"\d+", "", each.layer)
        found.setdefault((kind, each.recipe.slug), each)
    return list(found.values())


def steered(mine: real.Family, edits: dict[Any, float], given: dict[str, Any], **options: Any) -> Tensor:
    """What diffusers makes of a call of ComfyUI's model."""
    with eb.steer(mine.theirs, edits, **options):
        return mine.call(given)


@pytest.mark.parametrize("name", sorted(real.FAMILIES))
def test_every_site_moves_as_steer_does(name: str, folder: Path) -> None:
    mine, steering = family(name), real.pack().steering
    for direction in one_each(name):
        site = SITES[direction.recipe.slug]
        (part,) = directions(name, folder).find(direction.id).parts()
        part = dataclasses.replace(part, site="block-input") if site == "input" else part
        model = steering.Steering(direction.id, [(part, 4.0)]).attach(mine.patcher)
        _, ((given, output),) = mine.sample(model, steps=1)
        close(output, steered(mine, {direction: 4.0}, given, site=site), mine.call(given))


@pytest.mark.parametrize("name", sorted(real.FAMILIES))
def test_every_pass_of_a_run_moves_as_steer_does(name: str, folder: Path) -> None:
    mine, nodes = family(name), real.pack().nodes
    one, other, last = one_each(name)[:2] + one_each(name)[-2:-1]
    held = directions(name, folder)
    model = nodes.apply(mine.patcher, held, {one.id: 4.0}, branch="cond", window="start to end", start=0.3, end=0.7)
    model = nodes.apply(model, held, {other.id: -3.0, last.id: 2.0})
    _, calls = mine.sample(model, steps=3)
    assert len(calls) == 3
    for step, (given, output) in enumerate(calls):
        assert given["order"] == [1, 0]
        always, more = {other: -3.0, last: 2.0}, {one: 4.0} if 0.3 <= step / 3 < 0.7 else {}
        uncond, cond = steered(mine, always, given).chunk(2)[0], steered(mine, {**always, **more}, given).chunk(2)[1]
        close(output, torch.cat([uncond, cond]), mine.call(given))


@pytest.mark.parametrize(("sampler", "inside"), [("heun", [0, 1, 1, 1, 1, 0, 0]), ("dpm_2", [0, 0, 1, 1, 1, 1, 0])])
def test_samplers_that_call_between_the_steps(sampler: str, inside: list[int], folder: Path) -> None:
    mine, nodes = family("sd"), real.pack().nodes
    direction = one_each("sd")[0]
    model = nodes.apply(
        mine.patcher, directions("sd", folder), {direction.id: 4.0}, window="start to end", start=0.25, end=0.75
    )
    _, calls = mine.sample(model, steps=4, sampler=sampler)
    found = []
    for given, output in calls:
        plain, full = mine.call(given), steered(mine, {direction: 4.0}, given)
        found.append(int((output - full).abs().max() < (output - plain).abs().max()))
        close(output, full if found[-1] else plain, full if not found[-1] else plain)
    assert found == inside


@pytest.mark.parametrize("name", ["sd", "flux", "wan"])
def test_a_mask_acts_where_it_does_in_steer(name: str, folder: Path) -> None:
    mine, nodes = family(name), real.pack().nodes
    direction = one_each(name)[0]
    mask = torch.rand(2, 64, 96, generator=torch.Generator().manual_seed(1))
    _, ((given, output),) = mine.sample(
        nodes.apply(mine.patcher, directions(name, folder), {direction.id: 4.0}, mask=mask), steps=1
    )
    if name == "flux":  # its tokens do not show diffusers the latent image's shape
        mask = torch.nn.functional.interpolate(mask[:, None], size=(4, 6), mode="area")[:, 0]
    close(output, steered(mine, {direction: 4.0}, given, mask=mask), mine.call(given))


def test_a_mask_beside_an_area_is_refused(folder: Path) -> None:
    mine, nodes = family("sd"), real.pack().nodes
    model = nodes.apply(mine.patcher, directions("sd", folder), {one_each("sd")[0].id: 1.0}, mask=torch.ones(1, 8, 8))
    text, said = mine.positive[0]
    with_area = dataclasses.replace(mine, positive=[[text, {**said, "area": (4, 6, 0, 0)}]])
    with pytest.raises(ValueError, match="part of the image"):
        with_area.sample(model, steps=1)


def test_a_run_leaves_the_model_bit_for_bit(folder: Path) -> None:
    mine, nodes = family("sd"), real.pack().nodes
    before, _ = mine.sample(mine.patcher, steps=2)
    weights = {name: value.clone() for name, value in mine.patcher.model.state_dict().items()}
    direction = one_each("sd")[0].id
    assert nodes.apply(mine.patcher, directions("sd", folder), {direction: 0.0}) is mine.patcher
    edited, _ = mine.sample(nodes.apply(mine.patcher, directions("sd", folder), {direction: 4.0}), steps=2)
    after, _ = mine.sample(mine.patcher, steps=2)
    assert not torch.equal(before, edited)
    assert torch.equal(before, after)
    assert all(torch.equal(value, weights[name]) for name, value in mine.patcher.model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in mine.patcher.model.modules())


def test_a_lora_and_a_merge_beside_a_slider(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine, nodes = family("sd"), real.pack().nodes
    direction, held = one_each("sd")[0], directions("sd", folder)
    name = "input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight"
    twin = mine.theirs.get_parameter("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q.weight")
    change = torch.randn(twin.shape, generator=torch.Generator().manual_seed(2)) * 0.1
    with_lora = mine.patcher.clone()
    with_lora.add_patches({f"diffusion_model.{name}": ("diff", (change,))}, 0.5)
    behind = nodes.apply(mine.patcher, held, {direction.id: 4.0}).clone()
    behind.add_patches({f"diffusion_model.{name}": ("diff", (change,))}, 0.5)
    for model in (nodes.apply(with_lora, held, {direction.id: 4.0}), behind):
        _, ((given, output),) = mine.sample(model, steps=1)
        kept = twin.clone()
        try:
            twin.add_(change, alpha=0.5)
            close(output, steered(mine, {direction: 4.0}, given), mine.call(given))
        finally:
            twin.copy_(kept)
    # A merge with a model of other weights, as ModelMergeSimple makes it: what is refused is told by the weights that result.
    foreign = mine.patcher.clone()
    state = mine.patcher.model.state_dict()
    noise = {
        key: (torch.randn(value.shape, generator=torch.Generator().manual_seed(3)),) for key, value in state.items()
    }
    foreign.add_patches({key: ("diff", value) for key, value in noise.items() if ".attn1.to_" in key}, 1.0)
    merged = mine.patcher.clone()
    for key, value in foreign.get_key_patches("diffusion_model.").items():
        merged.add_patches({key: value}, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"score of 0\.\d+"):
        nodes.apply(merged, held, {direction.id: 1.0})
    with caplog.at_level(logging.WARNING):
        nodes.apply(merged, held, {direction.id: 1.0}, force=True)
    assert "score of 0." in caplog.text


def test_a_compiled_model_is_steered(folder: Path) -> None:
    mine, nodes = family("sd"), real.pack().nodes
    direction = one_each("sd")[0]
    model = nodes.apply(mine.patcher, directions("sd", folder), {direction.id: 4.0})
    model.add_object_patch("diffusion_model", torch.compile(mine.patcher.model.diffusion_model, backend="eager"))
    _, calls = mine.sample(model, steps=1)
    for given, output in calls:
        close(output, steered(mine, {direction: 4.0}, given), mine.call(given))
    assert calls


def test_a_set_of_two_denoisers_acts_on_each_with_its_own(folder: Path) -> None:
    mine, nodes = family("wan"), real.pack().nodes
    held = directions("wan", folder)
    direction = next(each for each in bank("wan") if each.recipe.slug == "output-value")
    (part,) = held.find(direction.id).parts()
    other = torch.nn.functional.normalize(
        torch.randn(part.vector.shape, generator=torch.Generator().manual_seed(4)), dim=0
    )
    parts = [
        dataclasses.replace(part, component="transformer"),
        dataclasses.replace(part, component="transformer_2", vector=other),
    ]
    both = dataclasses.replace(held, labels={"both": dataclasses.replace(held.find(direction.id), parts=lambda: parts)})
    _, ((given, output),) = mine.sample(nodes.apply(mine.patcher, both, {"both": 4.0}), steps=1)
    close(output, steered(mine, {direction: 4.0}, given), mine.call(given))


@pytest.mark.parametrize("form", ["comfyui", "lycoris"])
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux", "qwen", "wan"])
def test_exported_files_are_taken_whole_by_its_own_loader(
    name: str, form: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As its node *LoraLoader* does: every key is used, the effect is that of the biases, linear in strength, and gone when unpatched."""
    mine, own = family(name), bank(name)
    import comfy.sd  # found once `family` has started ComfyUI

    layers = tuple(
        each.model_copy(
            update={"lengths": {site: TokenLength(length=4.0, source="calibration") for site in each.sites}}
        )
        for each in own.manifest.layers
    )
    measured = own.replaced(own.manifest.model_copy(update={"layers": layers}))
    terms, refused = [], []
    for each in (one for one in measured if one.recipe.slug != "query-key"):
        try:
            terms.append(each)
            eb.export(measured, [each], tmp_path / "one.safetensors", format=form, pipe=mine.theirs)
        except ExportError as error:
            refused.append((terms.pop().id, str(error)))
    if form == "lycoris" and name not in ("sd", "sdxl"):
        assert not terms
        return
    # Single blocks of FLUX, and Qwen-Image's and Wan's layers whose names or biases ComfyUI has not.
    assert not refused or name == "flux", refused
    file = eb.export(
        measured,
        dict.fromkeys(terms, 1.0),
        tmp_path / "all.safetensors",
        format=form,
        pipe=mine.theirs,
        dtype="float32",
    )[0]
    plain = mine.patcher
    weights = {key: value.clone() for key, value in plain.model.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        loaded, _ = comfy.sd.load_lora_for_models(plain, None, load_file(file), 0.5, 0)
    assert not [line for line in caplog.messages if "not loaded" in line]
    _, ((given, output),) = mine.sample(loaded, steps=1)
    with biased(mine.theirs, dict.fromkeys(terms, 0.5)):
        expected = mine.call(given)
    effect = float((expected - mine.call(given)).abs().max())
    assert effect > 0.01
    assert float((output - expected).abs().max()) <= 1e-4 * effect
    loaded.unpatch_model()
    assert all(torch.equal(value, weights[key]) for key, value in plain.model.state_dict().items())
