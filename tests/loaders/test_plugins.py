"""Loaders are plugins: the worked example steers a sampler that is not diffusers', a broken one is skipped and shown."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from plugging import install

import eigenbank as eb
from eigenbank.cli.main import run
from eigenbank.loaders.plugins import target_of
from eigenbank.registry.plugins import PluginError, load_plugins
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas import Checkpoint, DirectionRecord, Layer, Manifest, Norm, Part, Recipe, TokenLength
from eigenbank.schemas.errors import MatchError, SteerError

EXAMPLE = Path(__file__).parents[2] / "examples" / "plain_sampler"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def sampler(site: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, entry),) = project["entry-points"]["eigenbank.loaders"].items()
    install(site, "plain_sampler", f"{name} = {entry}")
    import plain_sampler

    torch.manual_seed(0)
    yield plain_sampler.PlainSampler(plain_sampler.PlainNet())
    for module in ("plain_sampler", "plain_sampler_eigenbank"):
        sys.modules.pop(module, None)


def bank_of(net: Any) -> DirectionSet:
    """Directions of the second mixer, built from its weights as diffusers would name them."""
    from eigenbank.registry.recipes import weights_digest

    q, k, v = net.mixers[1].fused.weight.detach().chunk(3)
    weights: dict[Any, Any] = {"query": q, "key": k, "value": v, "output": net.mixers[1].merge.weight.detach()}
    name = "blocks.1.attn1"
    paths = {"query": "to_q", "key": "to_k", "value": "to_v", "output": "to_out.0"}
    layer = Layer(
        name=name,
        kind="spatial",
        width=32,
        heads=4,
        norm=Norm(module="blocks.1.norm1", position="before"),
        tensors={role: Part(tensor=f"{name}.{paths[role]}.weight") for role in weights},
        lengths={
            site: TokenLength(length=3.0, source="calibration")
            for site in ("projection-input", "block-output", "block-input")
        },
        digests={"float32": weights_digest(weights, "float32")},
    )
    vectors, records = {}, []
    for slug in ("value", "output-value:output"):
        matrix = v if slug == "value" else (weights["output"] @ v).T
        vectors[f"{name}/{slug}"] = torch.linalg.eigh((matrix.T @ matrix).double()).eigenvectors.T.flip(0)[:2].float()
        records += [
            DirectionRecord(layer=name, recipe=Recipe.parse(slug), rank=r, eigenvalue=1, share=0.1, gap=None)
            for r in (0, 1)
        ]
    manifest = Manifest(
        checkpoint=Checkpoint(model_id="me/plain", denoiser="PlainNet"),
        created="2026-01-01T00:00:00Z",  # type: ignore[arg-type]
        builder="a test",
        layers=(layer,),
        directions=tuple(records),
    )
    return DirectionSet(manifest, vectors=vectors)


def test_the_example_steers_a_sampler_that_is_not_diffusers(sampler: Any) -> None:
    bank = bank_of(sampler.net)
    before = sampler.draw(0, n=2)
    for direction in bank:
        for site in ("input", "projection", "output"):
            with eb.steer(sampler, {direction: 1.0}, site=site) as handle:  # type: ignore[arg-type]
                assert handle.terms[0].match == "exact"
                assert not torch.equal(sampler.draw(0, n=2), before)
                handle.set_scale(0.0)
                assert torch.equal(sampler.draw(0, n=2), before)
            assert torch.equal(sampler.draw(0, n=2), before)


def test_in_the_example_exactly_the_vector_is_added(sampler: Any) -> None:
    direction = bank_of(sampler.net)["blocks.1.attn1/output-value:output/0"]
    seen: list[torch.Tensor] = []
    listening = sampler.net.mixers[1].register_forward_hook(lambda _m, _a, out: seen.append(out))
    pixels, sigma = torch.randn(1, 3, 8, 8), torch.ones(1)
    with torch.no_grad():
        sampler.net(pixels, sigma)
        with eb.steer(sampler, {direction: 0.5}):
            sampler.net(pixels, sigma)
    listening.remove()
    length = seen[0].square().sum(-1).mean().sqrt()
    torch.testing.assert_close(seen[1], seen[0] + 0.5 * length * direction.vector, atol=1e-6, rtol=0)


def test_what_follows_the_run_works_in_the_example_too(sampler: Any) -> None:
    direction = bank_of(sampler.net)["blocks.1.attn1/value/0"]
    with eb.steer(sampler, {direction: 1.0}):
        whole = sampler.draw(0)
    with eb.steer(sampler, {direction: lambda done: 1.0}):
        assert torch.equal(sampler.draw(0), whole)
    with eb.steer(sampler, {direction: 1.0}, window=(0.5, 1)):
        assert not torch.equal(sampler.draw(0), whole)


def test_other_weights_are_told_apart_in_the_example(sampler: Any) -> None:
    bank = bank_of(sampler.net)
    torch.manual_seed(1)
    sampler.net.__init__()
    with pytest.raises(MatchError, match="no direction of this pipeline's weights"):
        eb.steer(sampler, {next(iter(bank)): 1.0})


def test_a_bare_object_that_nobody_knows_is_refused_with_what_was_skipped(site: Path) -> None:
    install(site, "broken_loader", "broken = no_such_module:LOADER")
    with pytest.raises(SteerError, match=r"broken was skipped \(ModuleNotFoundError"):
        target_of(object())


def test_a_loader_that_stumbles_does_not_stop_the_others(site: Path, tiny_checkpoint: Path) -> None:
    from eigenbank.loaders.pipelines import open_pipeline

    install(site, "stumbling_loader", "stumbling = stumbling:LOADER")
    (site / "stumbling.py").write_text(
        "class L:\n    name = 'stumbling'\n    def knows(self, owner): raise RuntimeError\n    open = None\nLOADER = L()\n"
    )
    assert target_of(open_pipeline(tiny_checkpoint)).kind == "DDIMPipeline"


def test_two_loaders_that_know_the_same_object_are_both_named(site: Path, tiny_checkpoint: Path) -> None:
    from eigenbank.loaders.pipelines import open_pipeline

    code = "class L:\n    name = 'x'\n    def knows(self, owner): return True\n    open = None\nLOADER = L()\n"
    for name in ("greedy_one", "greedy_two"):
        install(site, name, f"{name} = {name}:LOADER")
        (site / f"{name}.py").write_text(code)
    with pytest.raises(PluginError, match=r"greedy_(one|two) .* and greedy_(one|two)"):
        target_of(open_pipeline(tiny_checkpoint))


def test_the_command_shows_what_is_loaded_and_what_is_skipped_and_why(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "broken_loader", "broken = broken_code:LOADER")
    (site / "broken_code.py").write_text("raise RuntimeError('not today')")
    install(site, "partial_family", "partial = partial_code:FAMILY", "eigenbank.families")
    (site / "partial_code.py").write_text("FAMILY = object()")
    assert run(["doctor", "--format", "json"]) == 0
    rows = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["loaders/broken"]["status"] == "warning"
    assert "not today" in rows["loaders/broken"]["found"]
    assert "it lacks name, describes, find" in rows["families/partial"]["found"]
    for kind in ("loaders", "families"):
        assert "diffusers (eigenbank)" in rows[kind]["found"]
    assert {plugin.name for plugin in load_plugins("loaders")} == {"diffusers", "broken"}
