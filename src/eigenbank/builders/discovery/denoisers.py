"""The family adapter for diffusers' own denoiser classes: builds the class without memory, runs it, looks at it.

What a layer is, follows from what was seen: its queries and keys come from the same image tokens.
"""

from collections.abc import Mapping
from typing import Any

from eigenbank.builders.discovery.families import Discovery
from eigenbank.schemas.errors import SourceError

MAX_CALLS = 200_000
"""Most torch calls that constructing a denoiser may take; the largest of diffusers takes a twentieth."""
MAX_EXTENT = 2**20
"""Longest side a parameter of a denoiser may have."""


class DiffusersFamily:
    """Denoiser classes that `diffusers` exports. `cases` as in `cases.py`, for classes with arguments of their own."""

    def __init__(self, name: str = "diffusers", cases: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.name = name
        self.cases = cases

    def describes(self, config: Mapping[str, Any]) -> bool:
        """Whether the config names a class, as every config of diffusers does."""
        return isinstance(config.get("_class_name"), str)

    def find(self, config: Mapping[str, Any]) -> Discovery:
        """The self-attention layers of the class the config names. Raises SourceError."""
        from eigenbank.builders.discovery.cases import CASES
        from eigenbank.builders.discovery.observe import observe

        return observe(empty_model(config), self.cases or CASES)


def empty_model(config: Mapping[str, Any]) -> Any:
    """The denoiser of a config on the meta device: its module tree, no memory, no weights. Raises SourceError."""
    import torch

    kind = denoiser_class(str(config.get("_class_name")))
    try:
        with torch.device("meta"), _bounded():
            model = kind.from_config({key: value for key, value in config.items() if key != "quantization_config"})
    except Exception as error:  # whatever a constructor makes of a hostile config is the config's fault
        message = f"diffusers cannot make a {kind.__name__} of this config.json ({error}): nothing was built"
        raise SourceError(message) from error
    widest = max((max(parameter.shape, default=0) for parameter in model.parameters()), default=0)
    if widest > MAX_EXTENT:
        message = (
            f"this config.json asks for a {kind.__name__} with a parameter {widest} long, and {MAX_EXTENT} is the most "
            "a denoiser may have: nothing was built"
        )
        raise SourceError(message)
    return model


def _bounded() -> Any:
    """A torch function mode that raises ValueError when a module tree grows past all reason, before memory is gone."""
    from torch.overrides import TorchFunctionMode

    class Bounded(TorchFunctionMode):
        calls = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.calls += 1
            if self.calls > MAX_CALLS:
                message = f"it has more layers than any denoiser: {MAX_CALLS} tensors are made, and no end in sight"
                raise ValueError(message)
            return func(*args, **(kwargs or {}))

    return Bounded()


def denoiser_class(name: str) -> Any:
    """The class of that name among diffusers' models. Raises SourceError for what is none."""
    import diffusers
    from torch import nn

    found = getattr(diffusers, name, None) if name.isidentifier() and not name.startswith("_") else None
    if not (isinstance(found, type) and issubclass(found, nn.Module) and hasattr(found, "from_config")):
        message = (
            f"the checkpoint is a {name}, which diffusers {diffusers.__version__} does not have: nothing was built. "
            "Upgrade diffusers, or install a package with a family adapter for it"
        )
        raise SourceError(message)
    return found


FAMILY = DiffusersFamily()
