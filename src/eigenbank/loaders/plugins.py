"""Loader plugins: what makes a kind of pipeline steerable. Importing this module imports no torch.

A loader is an object with a `name`, `knows(pipe)` and `open(pipe)`, announced by an entry point in the group
`eigenbank.loaders`. The loader that ships for diffusers is registered the same way; loaders of other packages are asked
first. `examples/plain_sampler` is a complete example.
"""

from typing import TYPE_CHECKING, Any, Protocol

from eigenbank.registry.plugins import claimant, load_plugins
from eigenbank.schemas.errors import SteerError

if TYPE_CHECKING:
    from eigenbank.loaders.target import Target

GROUP = "eigenbank.loaders"


class Loader(Protocol):
    """A plugin that makes pipelines of a kind steerable."""

    name: str

    def knows(self, owner: Any) -> bool:
        """Whether this loader can open the object. Must be cheap, and must not raise."""

    def open(self, owner: Any) -> "Target":
        """Return the object's denoisers, and how their layers, parameters and sites are found. Raises SteerError."""


class DiffusersLoader:
    """Opens objects that keep a denoiser under the names diffusers gives it, and bare denoisers."""

    name = "diffusers"

    def knows(self, owner: Any) -> bool:
        """Whether the object is a module, or has a module under a name of a denoiser or one that denoises."""
        from torch import nn

        from eigenbank.loaders.target import denoiser_components

        return isinstance(owner, nn.Module) or bool(denoiser_components(owner))

    def open(self, owner: Any) -> "Target":
        """Return the target of a pipeline or module."""
        from torch import nn

        from eigenbank.loaders.target import Target, denoiser_components

        return Target(owner, {"": owner} if isinstance(owner, nn.Module) else denoiser_components(owner))


LOADER = DiffusersLoader()


def target_of(owner: Any) -> "Target":
    """Open a pipeline with the loader that knows it; a Target is returned as it is.

    Raises SteerError where no loader knows it, PluginError where two of other packages do.
    """
    from eigenbank.loaders.target import Target

    if isinstance(owner, Target):
        return owner
    loader: Loader | None = claimant("loaders", lambda each: _knows(each, owner), f"a {type(owner).__name__}")
    if loader is None:
        skipped = "".join(
            f"; {each.name} was skipped ({each.problem})" for each in load_plugins("loaders") if each.problem
        )
        message = (
            f"a {type(owner).__name__} has no denoiser eigenbank knows: expected a diffusers pipeline, a denoising module, "
            f"or an object that a plugin knows (entry points {GROUP}; see `eigenbank doctor`){skipped}"
        )
        raise SteerError(message)
    return loader.open(owner)


def _knows(loader: Loader, owner: Any) -> bool:
    try:
        return bool(loader.knows(owner))
    except Exception:  # a stranger's plugin that stumbles over an object does not know it
        return False
