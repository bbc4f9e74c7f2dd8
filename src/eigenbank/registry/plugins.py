"""Load plugins from entry points, and report which package offers what, what could not be loaded, and why.

A plugin of another package that fails to import is skipped and reported, never fatal; two packages that offer one name are an
error that names both.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from eigenbank.schemas.errors import EigenbankError

KINDS = {
    "families": ("name", "describes", "find"),
    "labelers": ("name", "applies", "open"),
    "recipes": ("name", "needs", "form", "sides", "summary"),
    "loaders": ("name", "knows", "open"),
}
"""The kinds of plugins, each the end of a group's name, and the attributes they must have."""


class PluginError(EigenbankError):
    """Two installed packages offer the same plugin, or one that cannot be used is needed."""


@dataclass(frozen=True)
class Plugin:
    """A plugin: the name it is registered under, the package it is of, and the object, or why there is none."""

    name: str
    owner: str
    object: Any = None
    problem: str | None = None


def load_plugins(kind: str) -> list[Plugin]:
    """Load the installed plugins of a kind, those announced in the group `eigenbank.KIND`.

    Packages are searched once for each `sys.path`: what is installed later is seen by the next process. A plugin that does
    not import, or lacks an attribute it must have, carries a `problem`. Raises PluginError when two packages offer one name.
    """
    return _loaded(kind, _announced(kind, tuple(sys.path)))


def claimant(kind: str, knows: Callable[[Any], bool], what: str) -> Any:
    """Return the plugin that `knows` `what` is to be opened, one of another package before our own; None where none does.

    Raises PluginError where two of other packages do.
    """
    claims = [each for each in load_plugins(kind) if each.problem is None and knows(each.object)]
    foreign = [each for each in claims if each.owner != "eigenbank"]
    if len(foreign) > 1:
        names = " and ".join(f"{each.name} (of {each.owner})" for each in foreign)
        problem = f"{what} is claimed by {names}"
        raise PluginError(problem, advice="Uninstall one of them")
    return next((each.object for each in foreign or claims), None)


@cache
def _announced(kind: str, _path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"eigenbank.{kind}"))


@cache
def _loaded(kind: str, points: tuple[EntryPoint, ...]) -> list[Plugin]:
    group = f"eigenbank.{kind}"
    found: dict[str, Plugin] = {}
    for point in points:
        owner = point.dist.name if point.dist else "an unknown package"
        if point.name in found:
            if found[point.name].owner == owner:
                continue  # the same package, installed twice over
            clash = f"two packages offer {point.name!r} in {group}: {found[point.name].owner} and {owner}"
            raise PluginError(clash, advice="Uninstall one of them")
        loaded, problem = None, None
        try:
            loaded = point.load()
            missing = [name for name in KINDS[kind] if not hasattr(loaded, name)]
            problem = f"it lacks {', '.join(missing)}" if missing else None
        except Exception as error:  # another package's plugin must not take the program down
            problem = f"{type(error).__name__}: {error}"
        found[point.name] = Plugin(point.name, owner, None if problem else loaded, problem)
    return list(found.values())
