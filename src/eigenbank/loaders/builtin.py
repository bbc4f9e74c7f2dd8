"""The loader that ships: diffusers' pipelines, and any module that denoises. Importing it imports no torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eigenbank.loaders.target import Target


class DiffusersLoader:
    """Knows objects that keep a denoiser under the names diffusers gives it, and bare denoisers."""

    name = "diffusers"

    def knows(self, owner: Any) -> bool:
        """Whether the object is a module, or has a module under a name of a denoiser or one that denoises."""
        from torch import nn

        from eigenbank.loaders.target import components

        return isinstance(owner, nn.Module) or bool(components(owner))

    def open(self, owner: Any) -> "Target":
        """The target of a pipeline or module."""
        from torch import nn

        from eigenbank.loaders.target import Target, components

        return Target(owner, {"": owner} if isinstance(owner, nn.Module) else components(owner))


LOADER = DiffusersLoader()
