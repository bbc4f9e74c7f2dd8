"""A recipe of another package: built, steered with, and missed politely; one that fails changes nothing."""

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from plugging import install

import eigenbank as eb
from eigenbank.loaders.match import match
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.plugins import target_of
from eigenbank.registry.plugins import PluginError
from eigenbank.registry.recipes import MATRICES
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas.errors import UnknownNameError

KEY = """
import torch
from eigenbank.registry.recipes import Matrix
KEY = Matrix("key", ("key",), lambda w: {made}, ("input",), "W_K")
"""
Offer = Callable[[str], None]


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Offer]:
    """Installs a package whose recipe `key` makes what the expression says of the weights `w`."""
    module = "strange_" + hashlib.sha256(request.node.name.encode()).hexdigest()[:8]  # loaded plugins are remembered
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def offered(made: str) -> None:
        (site / f"{module}.py").write_text(KEY.format(made=made))
        install(site, "strange_recipes", f"key = {module}:KEY", "eigenbank.recipes")

    yield offered
    sys.modules.pop(module, None)


def test_a_recipe_of_another_package_is_built_and_steered_with(
    offer: Offer, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    offer('w["key"]')
    bank = eb.build(str(tiny_checkpoint), recipes=["key@0-0.5"], top_k=2)
    first = next(iter(bank))
    assert first.recipe.slug == "key@0-0.5"
    weight = dict(open_pipeline(tiny_checkpoint).unet.named_modules())[first.layer].to_k.weight.detach().double()
    assert first.eigenvalue == pytest.approx(float(torch.linalg.matrix_norm(weight, 2)) ** 2, rel=1e-4)
    bank.save(tmp_path / "set")
    with eb.steer(open_pipeline(tiny_checkpoint), {DirectionSet.open(tmp_path / "set")[first.id]: 1.0}):
        pass


def test_a_set_of_a_recipe_that_is_not_installed_is_for_its_own_weights(
    offer: Offer, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer('w["key"]')
    eb.build(str(tiny_checkpoint), recipes=["key"], top_k=1).save(tmp_path / "set")
    monkeypatch.setattr(sys, "path", [each for each in sys.path if not each.startswith(str(tmp_path))])
    bank = DirectionSet.open(tmp_path / "set")
    pipe = open_pipeline(tiny_checkpoint)
    target = target_of(pipe)
    assert {each.verdict for each in match(target, pipe.unet, bank)} == {"exact"}
    with torch.no_grad():
        for name, weight in pipe.unet.named_parameters():
            if ".attentions." in name:
                weight.add_(0.01 * torch.randn_like(weight))
    found = match(target, pipe.unet, bank)
    assert {each.verdict for each in found} == {"structure"}
    assert all("no recipe 'key'" in str(each.reason) for each in found)
    with pytest.raises(UnknownNameError, match="package may not be installed"):
        eb.build(str(tiny_checkpoint), recipes=["key"])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ('w["key"] * float("nan")', "not finite"),
        ('w["key"].flatten()', "no matrix"),
        ('"a text"', "it gave str"),
        ('w["norm"][0, 0]', "KeyError"),
    ],
)
def test_a_recipe_that_makes_no_matrix_is_named_and_nothing_is_built(
    offer: Offer, tiny_checkpoint: Path, made: str, said: str
) -> None:
    offer(made)
    with pytest.raises(PluginError, match=f"recipe 'key' failed on .*{said}.*nothing was built"):
        eb.build(str(tiny_checkpoint), recipes=["key"])


def test_a_recipe_too_wide_for_the_layer_is_refused(offer: Offer, tiny_checkpoint: Path) -> None:
    offer('torch.cat([w["key"], w["key"]], dim=1)')
    with pytest.raises(UnknownNameError, match="wide; nothing was built"):
        eb.build(str(tiny_checkpoint), recipes=["key"])


def test_a_package_that_does_not_import_says_so(offer: Offer, tiny_checkpoint: Path) -> None:
    offer("1)(")
    with pytest.raises(PluginError, match="recipe 'key' of strange_recipes cannot be used: SyntaxError"):
        eb.build(str(tiny_checkpoint), recipes=["key"])


def test_the_recipes_that_ship_are_registered_the_same_way() -> None:
    from eigenbank.registry.plugins import load_plugins

    assert {found.name: found.object for found in load_plugins("recipes")} == MATRICES
