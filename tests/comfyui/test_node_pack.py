"""The node pack against a stand-in of ComfyUI's patcher protocol (comfyui_standin.py), held against `eb.steer` in diffusers."""

import ast
import json
import logging
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import faces
import pytest
import torch
import zoo
from comfyui_real import call_qwen
from comfyui_standin import Base, Patcher
from PIL import Image
from torch import Tensor

import eigenbank as eb
from eigenbank.registry.local import store
from eigenbank.registry.recipes import MATRICES

ROOT = Path(__file__).parents[2]
RECIPES = ["output-value", "output-value:output", "qkv", "query-key", "query-key:output", "value.h1"]
SIGMAS = torch.tensor([1.0, 0.8, 0.6, 0.3, 0.0])
X = torch.randn(2, 4, 1, 8, 12, generator=torch.Generator().manual_seed(1))
TEXTS = [torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3)]


@pytest.fixture(scope="module")
def model() -> Any:
    return zoo.make("QwenImageTransformer2DModel")


@pytest.fixture(scope="module")
def bank(model: Any, tmp_path_factory: pytest.TempPathFactory) -> eb.DirectionSet:
    made = eb.build(model, recipes=RECIPES, top_k=3, model_id="tiny/qwen")
    return made.save(tmp_path_factory.mktemp("sets") / "qwen")


@pytest.fixture
def directions(pack: Any, bank: eb.DirectionSet) -> Any:
    return pack.nodes.load(bank.folder)


@pytest.fixture
def patcher(model: Any) -> Patcher:
    return Patcher(Base(model, call_qwen))


def expected(model: Any, steered: list[bool], edits: dict[Any, float], **options: Any) -> list[Tensor]:
    """What diffusers makes of each step: the unconditional rows, then the conditional ones, those that are `steered` edited."""
    found = []
    for sigma in SIGMAS[:-1]:
        rows = []
        for edited, text in zip(steered, reversed(TEXTS), strict=True):
            given = {"x": X, "t": sigma.expand(2), "context": text.expand(2, -1, -1)}
            with torch.no_grad():
                if edited:
                    with eb.steer(model, edits, **options):
                        rows.append(call_qwen(model, given))
                else:
                    rows.append(call_qwen(model, given))
        found.append(torch.cat(rows))
    return found


def sample(patcher: Patcher, **more: Any) -> list[Tensor]:
    with torch.no_grad():
        return patcher.sample(X, TEXTS, SIGMAS, **more)


def close(found: list[Tensor], wanted: list[Tensor], plain: list[Tensor]) -> None:
    """The same, to 1e-5 of what the edit changes."""
    for one, other, unedited in zip(found, wanted, plain, strict=True):
        assert float((one - other).abs().max()) <= 1e-5 * float((other - unedited).abs().max())


def first(bank: eb.DirectionSet, recipe: str) -> Any:
    return next(each for each in bank if each.recipe.slug == recipe)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_slider_moves_the_tokens_as_steer_does(
    pack: Any, directions: Any, bank: Any, model: Any, patcher: Any, recipe: str
) -> None:
    direction = first(bank, recipe)
    (steered,) = pack.nodes.EigenSlider().slide(patcher, directions, direction.id, 1.5)
    close(sample(steered), expected(model, [True, True], {direction: 1.5}), sample(patcher))


def test_several_nodes_on_one_site_share_its_length(
    pack: Any, directions: Any, bank: Any, model: Any, patcher: Any
) -> None:
    one, other = first(bank, "output-value"), first(bank, "qkv")
    (steered,) = pack.nodes.EigenSlider().slide(patcher, directions, one.id, 2.0)
    (steered,) = pack.nodes.SliderStack().slide(
        steered, directions, slider_1=other.id, strength_1=-1.0, slider_2="(none)", strength_2=1.0
    )
    close(sample(steered), expected(model, [True, True], {one: 2.0, other: -1.0}), sample(patcher))


@pytest.mark.parametrize("order", [(1, 0), (0, 1)])
@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_one_branch_is_told_by_the_order_of_the_batch(
    pack: Any, directions: Any, bank: Any, model: Any, patcher: Any, order: tuple[int, ...], branch: str
) -> None:
    direction = first(bank, "output-value:output")
    (steered,) = pack.nodes.EigenSlider().slide(patcher, directions, direction.id, 2.0, branch=branch)
    wanted = expected(model, [branch == "uncond", branch == "cond"], {direction: 2.0})
    found = [torch.cat(each.chunk(2)[:: 1 if order == (1, 0) else -1]) for each in sample(steered, order=order)]
    close(found, wanted, sample(patcher))


def test_a_window_is_counted_in_steps(pack: Any, directions: Any, bank: Any, model: Any, patcher: Any) -> None:
    direction = first(bank, "output-value")
    (steered,) = pack.nodes.EigenSlider().slide(
        patcher, directions, direction.id, 2.0, window="start to end", start=0.25, end=0.75
    )
    found, plain, full = sample(steered), sample(patcher), expected(model, [True, True], {direction: 2.0})
    assert torch.equal(found[0], plain[0])
    assert torch.equal(found[3], plain[3])
    close(found[1:3], full[1:3], plain[1:3])


def test_a_mask_limits_where_as_in_steer(pack: Any, directions: Any, bank: Any, model: Any, patcher: Any) -> None:
    direction, mask = first(bank, "output-value"), torch.rand(2, 64, 96, generator=torch.Generator().manual_seed(4))
    (steered,) = pack.nodes.EigenSlider().slide(patcher, directions, direction.id, 2.0, mask=mask)
    # diffusers' transformer gets tokens, and cannot know the latent image's shape: the mask is given for the grid of tokens.
    grid = torch.nn.functional.interpolate(mask[:, None], size=(4, 6), mode="area")[:, 0]
    close(sample(steered), expected(model, [True, True], {direction: 2.0}, mask=grid), sample(patcher))


def test_strength_0_and_a_removed_node_leave_no_trace(
    pack: Any, directions: Any, bank: Any, model: Any, patcher: Any
) -> None:
    before, plain = dict(vars(model)), sample(patcher)
    direction = first(bank, "output-value")
    assert pack.nodes.EigenSlider().slide(patcher, directions, direction.id, 0.0) == (patcher,)
    (steered,) = pack.nodes.EigenSlider().slide(patcher, directions, direction.id, 2.0)
    assert not torch.equal(sample(steered)[0], plain[0])
    assert all(torch.equal(one, other) for one, other in zip(sample(patcher), plain, strict=True))
    assert vars(model) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_error_within_a_run_takes_the_hooks_away(
    pack: Any, directions: Any, bank: Any, model: Any, patcher: Any
) -> None:
    (steered,) = pack.nodes.EigenSlider().slide(patcher, directions, first(bank, "output-value").id, 2.0)
    with pytest.raises(RuntimeError):
        steered.sample(X[:, :1], TEXTS, SIGMAS)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_window_that_no_step_meets_is_told(pack: Any, directions: Any, bank: Any, patcher: Any, caplog: Any) -> None:
    direction = first(bank, "output-value")
    (steered,) = pack.nodes.EigenSlider().slide(
        patcher, directions, direction.id, 2.0, window="start to end", start=0.8, end=0.9
    )
    with caplog.at_level(logging.WARNING):
        sample(steered)
    assert f"did nothing: {direction.id} (0.8 to 0.9 of the run)" in caplog.text


def test_progress_between_two_noise_levels_is_the_way_between_the_steps(pack: Any) -> None:
    def at(sigma: float) -> float:
        return pack.steering.progress({"sample_sigmas": SIGMAS, "sigmas": torch.tensor([sigma])})

    assert [at(float(sigma)) for sigma in SIGMAS[:-1]] == [0, 0.25, 0.5, 0.75]
    assert at(0.7) == pytest.approx(0.375)
    assert at(2.0) == 0
    assert 0.99 < at(0.0) < 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_score_is_that_of_match(
    pack: Any, directions: Any, bank: Any, model: Any, patcher: Any, recipe: str
) -> None:
    direction = first(bank, recipe)
    (part,) = directions.find(direction.id).parts()
    held = pack.steering.Held(patcher.model)
    assert pack.steering.check(patcher, held, [part], "it") == pytest.approx(1, abs=1e-5)
    changed = torch.randn(32, 32, generator=torch.Generator().manual_seed(5)) * 0.1
    names = [f"transformer_blocks.0.attn.{each}.weight" for each in ("to_q", "to_k", "to_v")]
    patcher.patches = {f"diffusion_model.{name}": [changed] for name in names}  # as a LoRA or a merge would
    other = zoo.make("QwenImageTransformer2DModel")
    for name in names:
        other.get_parameter(name).add_(changed)
    found = pack.steering.check(patcher, held, [part], "it", force=True)
    assert found == pytest.approx(_score(other, bank, direction), abs=1e-5)


def _score(model: Any, bank: Any, direction: Any) -> float:
    from eigenbank.loaders.match import match
    from eigenbank.loaders.plugins import target_of

    (found,) = match(target_of(model), model, [direction])
    assert found.score is not None
    return found.score


def test_directions_of_other_weights_are_refused_with_their_score(
    pack: Any, directions: Any, bank: Any, patcher: Any
) -> None:
    direction = first(bank, "output-value")
    for name in ("to_v", "to_out.0"):
        noise = torch.randn(32, 32, generator=torch.Generator().manual_seed(6))
        patcher.patches[f"diffusion_model.transformer_blocks.0.attn.{name}.weight"] = [noise]
    with pytest.raises(ValueError, match=r"with a score of 0\.\d+, at least 0\.9 expected"):
        pack.nodes.EigenSlider().slide(patcher, directions, direction.id, 1.0)
    pack.nodes.EigenSlider().slide(patcher, directions, direction.id, 1.0, force=True)


def test_a_model_that_is_not_known_is_refused_by_name(pack: Any, directions: Any) -> None:
    other = Patcher(Base(zoo.make("Flux2Transformer2DModel"), call_qwen))
    with pytest.raises(ValueError, match="Flux2Transformer2DModel"):
        pack.nodes.EigenSlider().slide(other, directions, next(iter(directions.ids)), 1.0)


def test_a_set_of_another_class_is_refused_by_name(pack: Any, patcher: Any) -> None:
    found = pack.nodes.load(faces.SET)
    with pytest.raises(ValueError, match="UNet2DModel"):
        pack.nodes.EigenSlider().slide(patcher, found, "smile", 0.5)


def test_the_shipped_set_reads_as_eigenbank_reads_it(pack: Any) -> None:
    folder = faces.SET
    found, bank = pack.nodes.load(folder), eb.DirectionSet.open(folder)
    assert [*found.ids] == [each.id for each in bank.sliders]
    assert sorted(found.labels) == sorted(bank.labels)
    for key in [*bank.labels, *list(found.ids)[::40], *(each.id for each in bank.composites)]:
        named, polarity = bank.find(key)
        parts = found.find(key).parts()
        assert [part.id for part in parts] == [direction.id for direction, _ in named.parts]
        for part, (direction, weight) in zip(parts, named.parts, strict=True):
            assert torch.equal(part.vector, direction.vector)
            assert part.weight == polarity * weight
            assert (part.site, part.layer) == (direction.recipe.site, direction.layer)
            assert part.window == (direction.recipe.window.start, direction.recipe.window.end)
        between = None if named.quality is None else named.quality.recommended_range
        assert found.find(key).measured == (None if between is None else (polarity * between[0], polarity * between[1]))


def test_an_exported_json_holds_the_same_sliders(pack: Any, tmp_path: Path) -> None:
    bank = eb.DirectionSet.open(faces.SET)
    eb.export(bank, {"smile": 0.5, "hair length": -1.0}, tmp_path / "two.json", format="json")
    found, whole = pack.nodes.load(tmp_path / "two.json"), pack.nodes.load(bank.folder)
    for key in ("smile", "hair length"):
        for one, other in zip(found.find(key).parts(), whole.find(key).parts(), strict=True):
            assert (one.id, one.site, one.window) == (other.id, other.site, other.window)
            assert one.weight == pytest.approx(other.weight)
            assert torch.allclose(one.vector, other.vector)
    everything = found.find("(as exported)").parts()
    assert math.isclose(everything[0].weight, 0.5 * found.find("smile").parts()[0].weight)


def test_a_name_that_is_not_there_is_refused_with_near_ones(pack: Any) -> None:
    found = pack.nodes.load(faces.SET)
    with pytest.raises(ValueError, match="Did you mean smile"):
        found.find("smil")


def test_a_strength_out_of_the_recommended_range_is_refused(pack: Any) -> None:
    found = pack.nodes.load(faces.SET)
    low, high = found.find("smile").range
    with pytest.raises(ValueError, match=f"smile was found to work from {low:g} to {high:g}"):
        pack.nodes.apply(None, found, {"smile": high + 0.5})


@pytest.mark.parametrize("damage", ["vectors", "format", "manifest", "layer", "nothing"])
def test_a_damaged_set_is_refused(pack: Any, bank: Any, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(bank.folder, tmp_path / "set")
    manifest = json.loads((folder / "manifest.json").read_text())
    if damage == "vectors":
        (folder / "directions.safetensors").write_bytes(
            (folder / "directions.safetensors").read_bytes()[:-8] + b"\0" * 8
        )
    elif damage == "format":
        manifest["format"] = 2
    elif damage == "manifest":
        del manifest["directions"][0]["recipe"]
    elif damage == "layer":
        manifest["directions"][0]["layer"] = "../x"
    else:
        manifest = []
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=str(tmp_path) if damage != "layer" else "fetch or export it again"):
        next(iter(pack.nodes.load(folder).ids.values())).parts()


def test_the_lists_show_what_lies_in_the_models_folder_and_the_catalog(pack: Any, bank: Any, tmp_path: Path) -> None:
    shutil.copytree(bank.folder, tmp_path / "models" / "eigenbank" / "me" / "qwen")
    (names,) = pack.nodes.LoadDirections.INPUT_TYPES()["required"]["name"]
    assert "me/qwen" in names
    loaded, text = pack.nodes.LoadDirections().load("me/qwen")
    assert loaded.model_id == "tiny/qwen"
    assert text.splitlines()[0] in bank
    store(bank)
    assert "catalog: tiny/qwen" in pack.nodes.installed()
    choices = pack.nodes.EigenSlider.INPUT_TYPES()["required"]["slider"][0]
    assert bank.direction(text.splitlines()[0]).id in choices
    with pytest.raises(ValueError, match="not in models/eigenbank"):
        pack.nodes.LoadDirections().load("../../etc")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "comfyui" / "example_workflows").glob("*.json")), ids=lambda path: path.stem
)
def test_the_example_workflows_fit_the_nodes(pack: Any, path: Path) -> None:
    workflow = json.loads(path.read_text())
    with Image.open(
        path.with_suffix(".png")
    ) as picture:  # `python docs/tools/workflows.py comfyui/example_workflows` draws it
        assert json.loads(picture.info["workflow"]) == workflow
    nodes = {node["id"]: node for node in workflow["nodes"]}
    ours = [node for node in nodes.values() if node["type"] in pack.NODE_CLASS_MAPPINGS]
    assert len(ours) >= 2
    for node in ours:
        kind = pack.NODE_CLASS_MAPPINGS[node["type"]]
        inputs = {name: each for group in kind.INPUT_TYPES().values() for name, each in group.items()}
        wired = {name: each[0] for name, each in inputs.items() if each[0] in ("MODEL", "EIGENBANK", "MASK")}
        assert {each["name"]: each["type"] for each in node["inputs"]} == wired
        widgets = {name: each for name, each in inputs.items() if name not in wired}
        assert len(node["widgets_values"]) == len(widgets)
        for value, (name, (choices, *_)) in zip(node["widgets_values"], widgets.items(), strict=True):
            free = name == "name" or name.startswith("slider")  # which sets and labels there are, the user knows
            assert free or isinstance(value, {"FLOAT": float, "BOOLEAN": bool}.get(str(choices), str))
            assert free or isinstance(choices, str) or value in choices
        assert [each["type"] for each in node["outputs"]] == list(kind.RETURN_TYPES)
    for number, source, output, target, entry, kind in workflow["links"]:
        assert nodes[source]["outputs"][output]["type"] == nodes[target]["inputs"][entry]["type"] == kind
        assert nodes[target]["inputs"][entry]["link"] == number


@pytest.mark.parametrize("strength", [math.nan, math.inf, 21.0])
def test_a_strength_that_is_none_is_refused(pack: Any, directions: Any, patcher: Any, strength: float) -> None:
    with pytest.raises(ValueError, match="at most ±20"):
        pack.nodes.EigenSlider().slide(patcher, directions, next(iter(directions.ids)), strength)


def test_a_broken_catalog_leaves_the_models_folder_listed(
    pack: Any, bank: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    shutil.copytree(bank.folder, tmp_path / "models" / "eigenbank" / "qwen")
    (tmp_path / "broken.db").write_bytes(b"no database" * 1000)
    monkeypatch.setenv("EIGENBANK_CATALOG", str(tmp_path / "broken.db"))
    assert list(pack.nodes.installed()) == ["qwen"]
    assert "the catalog's sets are not listed" in caplog.text


def test_every_shipped_matrix_has_a_score(pack: Any) -> None:
    """The pack writes eigenbank's matrices down once more: a new one fails here first."""
    assert set(MATRICES) == {"value", "output-value", "query-key", "qkv"}


def test_the_pack_applies_without_eigenbank_and_diffusers() -> None:
    allowed = {*sys.stdlib_module_names, "torch", "safetensors", "comfy", "folder_paths"}
    for path in (ROOT / "comfyui").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                optional = path.name == "nodes.py" and str(name).startswith("eigenbank.registry.") and node.col_offset
                assert optional or str(name).partition(".")[0] in allowed, f"{path.name} imports {name}"
