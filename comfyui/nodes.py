"""The nodes: load a direction set, put a slider or several on a model."""

import logging
import os
from pathlib import Path
from typing import Any

import folder_paths

from .sets import Directions, SetError, load
from .steering import FAMILIES, steer

FOLDER = "eigenbank"
CATALOG = "catalog: "
NOTHING = "(none)"
STACK = 6
MOST = 20.0
folder_paths.folder_names_and_paths.setdefault(
    FOLDER,
    ([os.path.join(folder_paths.models_dir, FOLDER)], {".json", ".safetensors"}),  # noqa: PTH118 -- as ComfyUI has its paths
)


def installed() -> dict[str, Path]:
    """Return the sets and exported files in models/eigenbank by their paths there, and those of eigenbank's catalog, if it is installed."""
    found: dict[str, Path] = {}
    for base in map(Path, folder_paths.get_folder_paths(FOLDER)):
        for folder, folders, names in os.walk(base, followlinks=True):
            here = Path(folder)
            if "manifest.json" in names:
                found.setdefault(here.relative_to(base).as_posix(), here)
                folders.clear()
                continue
            folders.sort()
            for name in sorted(names):
                if name.endswith(".json"):
                    found.setdefault((here / name).relative_to(base).as_posix(), here / name)
    try:
        from eigenbank.registry.catalog import Catalog
        from eigenbank.registry.sets.bundled import resolve
    except ImportError:
        return found
    try:
        with Catalog.open() as catalog:
            for row in catalog.sets():
                if row.denoiser in FAMILIES.values():
                    found.setdefault(f"{CATALOG}{row.model_id}", resolve(row.location))
    except Exception as error:  # whatever is wrong with it, ComfyUI must be able to list its nodes
        logging.warning("eigenbank: the catalog's sets are not listed: %s", error)
    return found


_loaded: dict[Path, tuple[float, Directions]] = {}


def loaded(path: Path) -> Directions:
    """Read a set or an exported file, again where it has changed. Raises SetError."""
    changed = _changed(path)
    if path not in _loaded or _loaded[path][0] != changed:
        _loaded[path] = (changed, load(path))
    return _loaded[path][1]


def _changed(path: Path) -> float:
    return (path / "manifest.json" if path.is_dir() else path).stat().st_mtime


def sliders() -> list[str]:
    """Return the labels of all that is installed, then the ids of composites and of single directions."""
    labels, ids = {}, {}
    for path in installed().values():
        try:
            found = loaded(path)
        except (SetError, OSError):
            continue  # Load directions says why
        labels.update(dict.fromkeys(found.labels))
        ids.update(dict.fromkeys(found.ids))
    return [*labels, *sorted(ids, key=lambda name: not name.startswith("composite/"))]


def _options() -> dict[str, Any]:
    fraction = {"min": 0.0, "max": 1.0, "step": 0.01}
    return {
        "window": (
            ["as made", "start to end"],
            {"tooltip": "In which steps: as the directions were made, or from start to end"},
        ),
        "start": ("FLOAT", {"default": 0.0, **fraction, "tooltip": "The fraction of the steps at which it begins"}),
        "end": ("FLOAT", {"default": 1.0, **fraction, "tooltip": "The fraction of the steps at which it ends"}),
        "branch": (
            ["both", "cond", "uncond"],
            {"tooltip": "The branch of guidance: of the positive prompt, of the negative, or both"},
        ),
        "mask": ("MASK", {"tooltip": "Where in the image"}),
        "force": (
            "BOOLEAN",
            {
                "default": False,
                "tooltip": "Beyond the recommended range, and on weights that the directions are not of",
            },
        ),
    }


def _strength() -> Any:
    return (
        "FLOAT",
        {
            "default": 1.0,
            "min": -MOST,
            "max": MOST,
            "step": 0.05,
            "tooltip": "1 adds a vector as long as a typical token",
        },
    )


def apply(
    model: Any, directions: Directions, wanted: dict[str, float], *, window: str = "as made", start: float = 0.0, end: float = 1.0,
    branch: str = "both", mask: Any = None, force: bool = False,
) -> Any:  # fmt: skip
    """Put sliders on a model. Raises ValueError for a strength out of the recommended range, unless `force`, and as `steer` does."""
    for name, strength in wanted.items():
        if not abs(strength) <= MOST:
            message = f"the strength of {name} is {strength!r}: expected a number of at most ±{MOST:g}"
            raise ValueError(message)
        low, high = directions.find(name).range
        if directions.find(name).measured and not low <= strength <= high and not force:
            message = f"{name} was found to work from {low:g} to {high:g}, and its strength is {strength:g}: stay within, or set force"
            raise ValueError(message)
    return steer(
        model, directions, wanted, window=None if window == "as made" else (start, end),
        branch=None if branch == "both" else branch, mask=mask, force=force,
    )  # fmt: skip


class LoadDirections:
    """Load a direction set or an exported json."""

    CATEGORY = "eigenbank"
    FUNCTION = "load"
    RETURN_TYPES = ("EIGENBANK", "STRING")
    RETURN_NAMES = ("directions", "sliders")
    DESCRIPTION = "A set's folder or a json of `eigenbank export` in models/eigenbank; with eigenbank installed, also the sets of your catalog."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 -- ComfyUI's name
        return {"required": {"name": (list(installed()) or ["put a direction set into models/eigenbank"],)}}

    @classmethod
    def IS_CHANGED(cls, name: str) -> Any:  # noqa: N802
        path = installed().get(name)
        return None if path is None else _changed(path)

    def load(self, name: str) -> tuple[Directions, str]:
        """Return the set, and a line for each of its labels with the recommended strengths."""
        path = installed().get(name)
        if path is None:
            message = f"{name!r} is not in models/eigenbank: refresh the list (R)"
            raise SetError(message)
        found = loaded(path)
        ranges = {label: slider.range if slider.measured else None for label, slider in found.labels.items()}
        lines = [
            label if between is None else f"{label}: {between[0]:g} to {between[1]:g}"
            for label, between in ranges.items()
        ]
        return found, "\n".join(lines or list(found.ids))


class EigenSlider:
    """Put one slider on a model."""

    CATEGORY = "eigenbank"
    FUNCTION = "slide"
    RETURN_TYPES = ("MODEL",)
    DESCRIPTION = "Adds directions to what the model's self-attention reads or writes, in every step. Nothing is loaded or trained; 0 is no edit."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        needed = {
            "model": ("MODEL",),
            "directions": ("EIGENBANK",),
            "slider": (sliders() or [NOTHING],),
            "strength": _strength(),
        }
        return {"required": needed, "optional": _options()}

    @classmethod
    def VALIDATE_INPUTS(cls, slider: str) -> bool:  # noqa: N802
        """Take any name: which there are depends on the set."""
        return True

    def slide(self, model: Any, directions: Directions, slider: str, strength: float, **options: Any) -> tuple[Any]:
        """Return the model with the slider."""
        return (apply(model, directions, {slider: strength}, **options),)


class SliderStack:
    """Put several sliders of one set on a model."""

    CATEGORY = "eigenbank"
    FUNCTION = "slide"
    RETURN_TYPES = ("MODEL",)
    DESCRIPTION = "Several sliders of one set at once, with the same options."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        needed: dict[str, Any] = {"model": ("MODEL",), "directions": ("EIGENBANK",)}
        for number in range(1, STACK + 1):
            needed[f"slider_{number}"] = ([NOTHING, *sliders()],)
            needed[f"strength_{number}"] = _strength()
        return {"required": needed, "optional": _options()}

    @classmethod
    def VALIDATE_INPUTS(cls, **named: Any) -> bool:  # noqa: N802
        """Take any name: which there are depends on the set."""
        return True

    def slide(self, model: Any, directions: Directions, **inputs: Any) -> tuple[Any]:
        """Return the model with the sliders; one that is named twice acts with both strengths."""
        wanted: dict[str, float] = {}
        for number in range(1, STACK + 1):
            name, strength = inputs.pop(f"slider_{number}", NOTHING), inputs.pop(f"strength_{number}", 0.0)
            if name != NOTHING:
                wanted[name] = wanted.get(name, 0.0) + strength
        return (apply(model, directions, wanted, **inputs),)


NODE_CLASS_MAPPINGS = {
    "EigenbankLoadDirections": LoadDirections,
    "EigenbankSlider": EigenSlider,
    "EigenbankSliderStack": SliderStack,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "EigenbankLoadDirections": "Load directions (eigenbank)",
    "EigenbankSlider": "Eigen slider",
    "EigenbankSliderStack": "Slider stack (eigenbank)",
}
