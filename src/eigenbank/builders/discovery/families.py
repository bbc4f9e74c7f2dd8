"""Which layers of a checkpoint can be built: asked of the family adapter for its denoiser, checked against what it stores.

A family adapter tells from a checkpoint's config which layers of its denoiser are self-attention. It is an object with a
`name`, `describes(config)` and `find(config)`, registered as an entry point in the group `eigenbank.families`. The adapter
for diffusers' own classes, which ships, is registered the same way; those of other packages are asked first.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Protocol

from eigenbank.registry.plugins import claimant
from eigenbank.schemas import Layer
from eigenbank.schemas.errors import SourceError, first_problem, unknown

if TYPE_CHECKING:
    from eigenbank.builders.checkpoints.source import WeightSource

GROUP = "eigenbank.families"


@dataclass(frozen=True)
class Discovery:
    """The layers of a denoiser, their tensors named as its class names them, and the shapes of those tensors.

    `note` says in a sentence why layers are undecided; None where none is.
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
        """Find the layers. Raises SourceError for a config that is not valid."""


class DiffusersFamily:
    """Finds the layers of the denoiser classes that `diffusers` exports, by tracing their forward pass."""

    name = "diffusers"

    def describes(self, config: Mapping[str, Any]) -> bool:
        """Whether the config names a class, as every config of diffusers does."""
        return isinstance(config.get("_class_name"), str)

    def find(self, config: Mapping[str, Any]) -> Discovery:
        """Find the self-attention layers of the class the config names. Raises SourceError."""
        from pydantic import ValidationError

        from eigenbank.builders.discovery.fake_weights import empty_model
        from eigenbank.builders.discovery.layers import trace_layers

        try:
            return trace_layers(empty_model(config))
        except ValidationError as error:  # a layer beyond what a set may describe
            problem = f"this config.json asks for {first_problem(error, 'layers')}"
            raise SourceError(problem) from error


FAMILY = DiffusersFamily()


def discover(config: Mapping[str, Any]) -> Discovery:
    """Ask the adapter that knows this config. Raises SourceError where none does, PluginError where two others do."""
    kind = config.get("_class_name")
    family: Family | None = claimant("families", lambda each: bool(each.describes(config)), str(kind))
    if family is None:
        if not isinstance(kind, str):
            problem = "config.json names no _class_name: it is no diffusers denoiser"
            raise SourceError(problem)
        problem = f"no denoiser eigenbank knows is called {kind}"
        advice = f"Upgrade diffusers, or install a package with a family adapter for it (entry points {GROUP})"
        raise SourceError(problem, advice=advice)
    return family.find(config)


def find_layers(source: "WeightSource") -> Discovery:
    """Find the self-attention layers of a checkpoint's denoiser, in the order of its modules.

    Raises SourceError when its class is unknown, has no self-attention, or the checkpoint does not fit it.
    """
    found = discover(source.config)
    if not found.layers and found.note:
        problem = found.note
        raise SourceError(problem, advice=f"A family adapter can name its layers (entry points {GROUP})")
    if not found.layers:
        problem = f"this {source.config['_class_name']} has no self-attention: there is nothing to decompose"
        raise SourceError(problem)
    for layer in found.layers:
        for part in layer.tensors.values():
            _check_shape(part.tensor, source.shape(part.tensor), found.shapes[part.tensor])
    return found


def find_all_layers(source: "WeightSource", *, values: bool = False) -> "tuple[Discovery, WeightSource]":
    """Find the self-attention layers of all the denoisers of a pipeline, and the source of the first that has some.

    Where several have, each layer says which it belongs to. `values`: weights that are quantised cannot be used. Warns of a
    denoiser that is left out; raises SourceError, that of the first, where all are.
    """
    found: list[tuple[WeightSource, Discovery]] = []
    problems: dict[str, SourceError] = {}
    for each in source.all:
        try:
            if values and each.quantised is not None:
                problem = f"{each.where} is quantised by {each.quantised}, which cannot be decomposed as it is"
                raise SourceError(problem, advice="Give the checkpoint it was made from")
            found.append((each, find_layers(each)))
        except SourceError as error:
            problems[each.component] = error
    if not found:
        raise next(iter(problems.values()))
    for component, why in problems.items():
        warnings.warn(f"the pipeline's {component} is left out: {why.problem}", stacklevel=3)
    first, *others = (each for each, _ in found)
    if not others and first is source:
        return found[0][1], source
    first.others = tuple(others)
    if not others:
        return found[0][1], first
    layers: list[Layer] = []
    for each, discovery in found:
        name = each.component
        mine = [
            layer.model_copy(update={"name": f"{name}.{layer.name}", "component": name}) for layer in discovery.layers
        ]
        if all(layer.kind == "undecided" for layer in mine):
            warnings.warn(
                f"the pipeline's {name} is left out, unless you name its layers: {discovery.note}", stacklevel=3
            )
        layers += mine
    return Discovery(layers, note="; ".join(d.note for _, d in found if d.note) or None), first


def choose_layers(layers: list[Layer], patterns: Sequence[str]) -> list[Layer]:
    """The layers whose names match any of the globs, in order; undecided ones only where a glob matches no others.

    Raises UnknownNameError for a glob that matches none.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        matched = [layer for layer in layers if fnmatchcase(layer.name, pattern)]
        if not matched:
            raise unknown(kind="layer", name=pattern, known=[layer.name for layer in layers])
        decided = [layer for layer in matched if layer.kind != "undecided"]
        # An undecided layer is built only when somebody names it: `*` names none.
        if not decided and pattern.strip("*.") == "":
            problem = "it could not be decided which layers are self-attention over image tokens"
            advice = f"See `eigenbank build --dry-run`, and name those you want, e.g. `layers={matched[0].name}`"
            raise SourceError(problem, advice=advice)
        chosen.update(layer.name for layer in decided or matched)
    return [layer for layer in layers if layer.name in chosen]


def _check_shape(parameter: str, found: tuple[int, ...] | None, expected: tuple[int, ...]) -> None:
    if found is None:
        problem = f"the checkpoint lacks {parameter}, which its config.json asks for"
        raise SourceError(problem)
    # Old checkpoints store the projections as 1×1 convolutions.
    if [extent for extent in found if extent != 1] != [extent for extent in expected if extent != 1]:
        problem = f"{parameter} has shape {list(found)}, its config.json asks for {list(expected)}"
        raise SourceError(problem, advice="The config belongs to another checkpoint, or the file is damaged")
