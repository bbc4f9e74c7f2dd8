"""Family adapters: who can tell, from a checkpoint's config, which layers of its denoiser are self-attention.

An adapter is an object with a `name`, `describes(config)` and `find(config)`, announced by an entry point in the group
`eigenbank.families`. What ships is registered the same way; adapters of other packages are asked first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from eigenbank.registry.plugins import PluginError, load_plugins
from eigenbank.schemas import Layer
from eigenbank.schemas.errors import SourceError

__all__ = ["GROUP", "Discovery", "Family", "PluginError", "discover", "load_families"]

GROUP = "eigenbank.families"


@dataclass(frozen=True)
class Discovery:
    """The layers of a denoiser, their tensors named as its class names them, and the shapes of those tensors.

    `note` says in a sentence why layers are undecided, None where none is.
    """

    layers: list[Layer]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    note: str | None = None


class Family(Protocol):
    """A family adapter."""

    name: str

    def describes(self, config: Mapping[str, Any]) -> bool:
        """Whether the config is of a denoiser this adapter knows. Must be cheap: nothing is imported for it."""

    def find(self, config: Mapping[str, Any]) -> Discovery:
        """The layers. Raises SourceError where the config is none."""


def discover(config: Mapping[str, Any]) -> Discovery:
    """Ask the adapter that knows this config. Raises SourceError where none does, PluginError where two others do."""
    families, _ = load_families()
    claims = [(owner, family) for owner, family in families if family.describes(config)]
    foreign = [claim for claim in claims if claim[0] != "eigenbank"]
    if len(foreign) > 1:
        names = " and ".join(f"{family.name} (of {owner})" for owner, family in foreign)
        message = f"{config.get('_class_name')} is claimed by {names}: nothing was built. Uninstall one of them"
        raise PluginError(message)
    if not claims:
        kind = config.get("_class_name")
        message = (
            f"no denoiser eigenbank knows is called {kind}: nothing was built. Upgrade diffusers, or install a package "
            f"with a family adapter for it (entry points {GROUP})"
            if isinstance(kind, str)
            else "config.json names no _class_name: it is no diffusers denoiser. Nothing was built"
        )
        raise SourceError(message)
    return (foreign or claims)[0][1].find(config)


def load_families() -> tuple[list[tuple[str, Family]], dict[str, str]]:
    """The adapters that are installed, with the package each is of; and why others could not be loaded, by name.

    Raises PluginError when two packages give an adapter the same name.
    """
    plugins = load_plugins("families")
    loaded = [(plugin.owner, plugin.object) for plugin in plugins if plugin.problem is None]
    return loaded, {
        plugin.name: f"{plugin.owner}: {plugin.problem}" for plugin in plugins if plugin.problem is not None
    }
