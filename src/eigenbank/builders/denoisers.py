"""The family adapter for diffusers' own denoiser classes: builds the class without memory, runs it, looks at it.

What a layer is, follows from what was seen: its queries and keys come from the same image tokens.
"""

from collections.abc import Mapping
from typing import Any

from eigenbank.builders.families import Discovery
from eigenbank.schemas.errors import SourceError


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
        from eigenbank.builders.cases import CASES
        from eigenbank.builders.observe import observe

        return observe(empty_model(config), self.cases or CASES)


def empty_model(config: Mapping[str, Any]) -> Any:
    """The denoiser of a config on the meta device: its module tree, no memory, no weights. Raises SourceError."""
    import torch

    kind = denoiser_class(str(config.get("_class_name")))
    try:
        with torch.device("meta"):
            return kind.from_config({key: value for key, value in config.items() if key != "quantization_config"})
    except Exception as error:  # whatever a constructor makes of a hostile config is the config's fault
        message = f"diffusers cannot make a {kind.__name__} of this config.json ({error}): nothing was built"
        raise SourceError(message) from error


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
