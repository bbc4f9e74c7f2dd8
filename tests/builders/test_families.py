"""Family adapters are plugins: a stranger's is asked first, two of one name are an error, a broken one is skipped."""

from importlib.metadata import Distribution, EntryPoint
from pathlib import Path

import pytest

from eigenbank.builders.discovery import families
from eigenbank.builders.discovery.families import GROUP, Discovery, discover
from eigenbank.registry.plugins import PluginError, load_plugins
from eigenbank.schemas.errors import SourceError


def package(folder: Path, name: str, entry: str, code: str) -> EntryPoint:
    """An installed package with one family adapter."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry} = {name}:FAMILY\n")
    (folder / f"{name}.py").write_text(code)
    return next(iter(Distribution.at(info).entry_points))


CODE = """
from eigenbank.builders.discovery.families import Discovery
class Family:
    name = "mine"
    def describes(self, config): return config.get("_class_name") == "MyNet"
    def find(self, config): return Discovery([], {}, "found by me")
FAMILY = Family()
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_adapter_that_ships_is_registered_like_any_other() -> None:
    found = load_plugins("families")
    assert ("eigenbank", "diffusers") in [(plugin.owner, plugin.object.name) for plugin in found]
    assert all(plugin.problem is None for plugin in found)


def test_a_strangers_adapter_is_found_and_asked_first(site: Path) -> None:
    package(site, "mynet_family", "mynet", CODE)
    assert discover({"_class_name": "MyNet"}) == Discovery([], {}, "found by me")


def test_two_packages_that_offer_the_same_name_are_both_named(site: Path) -> None:
    package(site, "first_family", "same", CODE)
    package(site, "second_family", "same", CODE)
    with pytest.raises(PluginError, match=r"first.family and second.family|second.family and first.family"):
        discover({"_class_name": "MyNet"})


def test_two_packages_that_claim_the_same_denoiser_are_both_named(site: Path) -> None:
    package(site, "third_family", "third", CODE)
    package(site, "fourth_family", "fourth", CODE)
    with pytest.raises(PluginError, match="MyNet is claimed by"):
        discover({"_class_name": "MyNet"})


def test_an_adapter_that_fails_to_import_is_skipped_and_says_why(site: Path) -> None:
    package(site, "broken_family", "broken", "raise RuntimeError('no such thing')")
    found = {plugin.name: plugin for plugin in load_plugins("families")}
    assert "no such thing" in str(found["broken"].problem)
    assert found["diffusers"].problem is None
    assert discover({"_class_name": "PriorTransformer", "num_layers": 1}).layers


@pytest.mark.parametrize("name", ["NoSuchModel", "__builtins__", "torch", "DDPMScheduler", ""])
def test_a_class_diffusers_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(SourceError, match="does not have"):
        discover({"_class_name": name})


def test_a_config_without_a_class_is_refused() -> None:
    with pytest.raises(SourceError, match="names no _class_name"):
        families.discover({"in_channels": 3})
