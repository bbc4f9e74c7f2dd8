"""eigenbank: a bank of editing directions for diffusion models, read off their self-attention weights.

    import eigenbank as eb

    bank = eb.load("eigenbank/avatars-64")
    with eb.steer(pipe, {"with blond hair": 1.5}):
        images = pipe().images

Names are imported when first used, so that `import eigenbank` is instant and does not import torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eigenbank.api import build, export, match, open_pipeline
    from eigenbank.loaders.edit import edit
    from eigenbank.loaders.lengths import measure
    from eigenbank.loaders.modular import with_sliders
    from eigenbank.loaders.schedule import ramp, windowed
    from eigenbank.loaders.steer import steer
    from eigenbank.loaders.sweep import sweep
    from eigenbank.naming import find, label, like, preview
    from eigenbank.registry.load import load
    from eigenbank.registry.sets.direction_set import Direction, DirectionSet
    from eigenbank.schemas.errors import EigenbankError

__version__ = "0.1.0"
__all__ = [
    "Direction",
    "DirectionSet",
    "EigenbankError",
    "build",
    "edit",
    "export",
    "find",
    "label",
    "like",
    "load",
    "match",
    "measure",
    "open_pipeline",
    "preview",
    "ramp",
    "steer",
    "sweep",
    "windowed",
    "with_sliders",
]

_HOMES = {
    "DirectionSet": "eigenbank.registry.sets.direction_set",
    "Direction": "eigenbank.registry.sets.direction_set",
    "EigenbankError": "eigenbank.schemas.errors",
    "build": "eigenbank.api",
    "edit": "eigenbank.loaders.edit",
    "export": "eigenbank.api",
    "find": "eigenbank.naming",
    "label": "eigenbank.naming",
    "like": "eigenbank.naming",
    "load": "eigenbank.registry.load",
    "match": "eigenbank.api",
    "measure": "eigenbank.loaders.lengths",
    "open_pipeline": "eigenbank.api",
    "preview": "eigenbank.naming",
    "ramp": "eigenbank.loaders.schedule",
    "steer": "eigenbank.loaders.steer",
    "sweep": "eigenbank.loaders.sweep",
    "windowed": "eigenbank.loaders.schedule",
    "with_sliders": "eigenbank.loaders.modular",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module 'eigenbank' has no attribute {name!r}"
        raise AttributeError(message)
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
