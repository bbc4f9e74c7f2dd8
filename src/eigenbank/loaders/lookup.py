"""Find the direction set of a model or pipeline, and the directions that an edit names. Imports no torch."""

import contextlib
import itertools
import os
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from eigenbank.registry.catalog import Catalog, SetRow
from eigenbank.registry.files import catalog_file
from eigenbank.registry.hub.pull import folder_for, no_set
from eigenbank.registry.load import with_people_labels
from eigenbank.registry.local import sets_of_checkpoint
from eigenbank.registry.ranking import label_key
from eigenbank.registry.sets.direction_set import Composite, Direction, DirectionSet, Lora, Slider
from eigenbank.registry.sets.folder import MANIFEST, VECTORS
from eigenbank.registry.sliders import read_sliders
from eigenbank.schemas import Sliders, Window
from eigenbank.schemas.errors import EigenbankError, SteerError, UnknownNameError
from eigenbank.schemas.recipe import Branch, Site

if TYPE_CHECKING:
    from eigenbank.loaders.schedule import Scale

    # A mapping's key type is invariant: all are spelled out, so that a plain dict of words is one of them.
    Scales = (
        Mapping[str, Scale]
        | Mapping[Direction, Scale]
        | Mapping[Composite, Scale]
        | Mapping[Lora, Scale]
        | Mapping[Slider, Scale]
        | Mapping[str | Direction, Scale]
        | Mapping[str | Slider, Scale]
    )
    Edits = Scales | Sliders | str | os.PathLike[str]
    """Directions with their scales, sliders, or the path of a sliders file."""

SETTLED = 50_000_000
"""Nanoseconds after which a file's time tells its content from a later one: clocks of file systems are coarse."""
Find = Callable[[str], tuple[Slider, int]]
"""Finds a label or id: the direction or composite, and the sign that makes it more of what was asked for."""


class OtherModelWarning(UserWarning):
    """Names are looked up in the set of another model, where they may mean something else."""


@dataclass(frozen=True)
class RequestedDirection:
    """One direction or LoRA of an edit, `weight` being its share, negative where the label is against the vector.

    `window`, `branch` and `site` are None where the edit does not set them; `own_branch` is then the slider's.
    """

    key: str
    direction: Direction | Lora
    weight: float
    scale: "Scale"
    window: Window | None = None
    branch: Branch | None = None
    site: Site | None = None
    own_branch: Branch = "both"


def set_for_pipeline(pipe: Any) -> DirectionSet:
    """Find the catalog's set for a pipeline: for the model it was opened as, else the checkpoint it was loaded from, else by weights.

    Of several sets the one of the checkpoint's own id is taken, else the newest. Where the name is not known, the set of the
    same weights is taken; else the one whose directions fit best, of a model that this one is a fine-tune of, which
    OtherModelWarning says. Raises UnknownNameError where none fits.
    """
    from eigenbank.loaders.pipelines import opened_model_id, origin_of

    model_id, origin = opened_model_id(pipe), origin_of(pipe)
    try:
        if origin is None:
            message = (
                "the pipeline does not say where it was loaded from, so its directions cannot be looked up in the catalog by name: "
                "pass bank=eigenbank.load(MODEL_ID)"
            )
            raise UnknownNameError(message)
        return _set_of(model_id, origin)
    except UnknownNameError as error:
        found = _set_by_weights(pipe)
        if found is None:
            message = f"{error} No set in the catalog fits the pipeline's weights either."
            raise UnknownNameError(message) from error
        return found


_fitting: "weakref.WeakKeyDictionary[Any, tuple[object, DirectionSet]]" = weakref.WeakKeyDictionary()
"""The set that fits each denoiser, while the catalog is in the state it was in when it was found."""


def _set_by_weights(pipe: Any) -> DirectionSet | None:
    """Find the catalog's set that fits a pipeline's weights, None where none does. Warns OtherModelWarning of a fine-tune."""
    from eigenbank.loaders.match import closest_set, layer_digest
    from eigenbank.loaders.plugins import target_of

    target, state = target_of(pipe), _catalog_state()
    denoiser = next(iter(target.denoisers.values()))
    known = _fitting.get(denoiser)
    if known is not None and state is not None and known[0] == state:
        return known[1]
    kinds = {type(each).__name__ for each in target.denoisers.values()}
    with Catalog.open() as catalog:
        rows = [row for row in catalog.sets() if row.denoiser in kinds]
        banks = _opened_sets(rows)
        first = next(banks, None)
        if first is None:
            return None
        digest = layer_digest(target, first)
        same = [] if digest is None else catalog.sets_with_layer(digest)
        found = closest_set(target, itertools.chain(_opened_sets(same), [first], banks))
        if found is None:
            return None
        bank = with_people_labels(found[0], catalog)
    if state is not None:
        _fitting[denoiser] = (state, bank)
    if found[1].verdict != "exact":
        text = (
            f"the catalog has no set of this model's own: that of {bank.model_id} is taken, whose directions fit its weights "
            f"({found[1]}), as a fine-tune's do. A name may do something else here"
        )
        warnings.warn(text, OtherModelWarning, stacklevel=5)  # of whoever calls steer
    return bank


def _opened_sets(rows: Iterable[SetRow]) -> Iterator[DirectionSet]:
    """Open sets one after another; those whose files are not on this machine, or damaged, are left out."""
    for row in rows:
        with contextlib.suppress(EigenbankError):
            yield _open_cached(folder_for(row))


def set_in_catalog(model_id: str) -> DirectionSet:
    """Open the catalog's set for a model id without asking the Hub. Raises UnknownNameError where there is none."""
    return _set_of(model_id, None)


def find_direction(bank: DirectionSet, key: str) -> tuple[Slider, int]:
    """Find a label or id as `DirectionSet.find` does; the error names another set of the same checkpoint that has it."""
    try:
        return bank.find(key)
    except UnknownNameError as error:
        other = _other_set_with(bank, key)
        if other is None:
            raise
        message = (
            f"{error} The set {other} of the same checkpoint has it: pass bank=eb.load({other!r}), or name that model on the "
            "command line"
        )
        raise UnknownNameError(message) from error


def _other_set_with(bank: DirectionSet, key: str) -> str | None:
    """Find the model id of another set of the same checkpoint that has a label or direction of that name."""
    with Catalog.open() as opened:
        row = opened.get_set(bank.model_id)
        if row is None or row.checkpoint_path is None:
            return None
        others = dict.fromkeys(each.model_id for each in sets_of_checkpoint(row.checkpoint_path, opened))
        for model_id in others:
            if model_id == bank.model_id:
                continue
            texts = set(map(label_key, opened.label_texts(model_id)))
            name = key.removeprefix(f"{model_id}#")
            if label_key(name) in texts or opened.get_direction(f"{model_id}#{name}") is not None:
                return model_id
    return None


@dataclass(frozen=True)
class _FoundSet:
    """What the catalog answered: where a set lies, the set as it lies there, and with people's labels."""

    folder: Path
    stored: DirectionSet
    labelled: DirectionSet


def _set_of(model_id: str | None, origin: str | None) -> DirectionSet:
    """Return the catalog's set for a model id, else for the checkpoint at `origin`.

    Neither the catalog nor the set is read again while their files are as they were. Raises UnknownNameError.
    """
    state = _catalog_state()
    if state is not None:
        found = _ask_once(state, model_id, origin)
        if _open_cached(found.folder) is found.stored:
            return found.labelled
    return _ask_catalog(model_id, origin).labelled


def _ask_catalog(model_id: str | None, origin: str | None) -> _FoundSet:
    with Catalog.open() as catalog:
        row = None if model_id is None else catalog.get_set(model_id)
        if row is None and origin is not None:
            row = next(iter(sets_of_checkpoint(origin, catalog)), None) or catalog.get_set(origin)
        if row is None and origin is not None:
            raise no_set(origin, catalog)
        if row is None:
            raise no_set(str(model_id), catalog, f"Or fetch one: eigenbank pull {model_id}.")
        folder = folder_for(row)
        stored = _open_cached(folder)
        return _FoundSet(folder, stored, with_people_labels(stored, catalog))


@lru_cache(maxsize=16)
def _ask_once(_state: object, model_id: str | None, origin: str | None) -> _FoundSet:
    return _ask_catalog(model_id, origin)


def _catalog_state() -> object | None:
    """Identify what this machine's catalog holds now; None where only asking it would tell: on a server, or just changed."""
    file = catalog_file()
    return None if file is None else _signature((file,))


def _open_cached(folder: Path) -> DirectionSet:
    """Open a set, or return it as it was opened before, if its files have not changed since. Raises SetError."""
    signature = _signature((folder / MANIFEST, folder / VECTORS))
    return DirectionSet.open(folder) if signature is None else _opened(folder, signature)


@lru_cache(maxsize=4)
def _opened(folder: Path, _signature: object) -> DirectionSet:
    return DirectionSet.open(folder)


def _signature(paths: tuple[Path, ...]) -> object | None:
    """Identify the content of files, some of which may be missing; None where one changed so lately that its time cannot tell."""
    found: list[object] = list(paths)
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            found.append(None)
            continue
        if time.time_ns() - stat.st_mtime_ns < SETTLED:
            return None
        found.append((stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_size))
    return tuple(found)


def parse_edits(edits: "Edits") -> "Scales | Sliders":
    """Read an edit where it is the path of a sliders file, and check its type. Raises SteerError for what is no edit."""
    if isinstance(edits, (str, os.PathLike)):
        return read_sliders(edits)
    if not isinstance(edits, (Mapping, Sliders)):
        message = (
            f"an edit is a mapping of directions to scales, as in steer(pipe, {{'label': 1.5}}), sliders, or a sliders file; "
            f"a {type(edits).__name__} is none of them"
        )
        raise SteerError(message)
    if isinstance(edits, Mapping) and not edits:
        message = "an edit needs at least one direction: steer(pipe, {'label': scale})"
        raise SteerError(message)
    return edits


def requested_directions(pipe: Any, edits: "Scales | Sliders", bank: DirectionSet | None) -> list[RequestedDirection]:
    """List the directions and LoRAs of an edit, composites taken apart.

    Labels and ids are looked up in `bank`, else in the catalog's set for the model the sliders name, else in the set that
    `set_for_pipeline` finds. Raises UnknownNameError or SteerError.
    """
    model = edits.model if isinstance(edits, Sliders) else None
    if bank is not None and model not in (None, bank.model_id):
        text = (
            f"these sliders were made for {model}, and are looked up among the directions of {bank.model_id}: the "
            "same name may do something else there"
        )
        warnings.warn(text, OtherModelWarning, stacklevel=3)  # of whoever calls steer
    asked: list[tuple[Any, Any, tuple[Any, Any, Any]]]
    if isinstance(edits, Sliders):
        asked = [(each.key, each.scale, (each.window, each.branch, each.site)) for each in edits.sliders]
    else:
        asked = [(key, scale, (None, None, None)) for key, scale in edits.items()]
    found: list[RequestedDirection] = []
    find: Find | None = None if bank is None else bank.find
    for key, scale, where in asked:
        polarity = 1
        if isinstance(key, Slider):
            name, named = key.id, key if bank is None else bank.own(key)
        elif isinstance(key, str):
            if find is None:
                own = set_for_pipeline(pipe) if model is None else set_in_catalog(model)
                find = partial(find_direction, own)
            name, (named, polarity) = key, find(key)
        else:
            message = f"an edit's keys are labels, ids or directions, {key!r} is none of them"
            raise SteerError(message)
        parts: Iterable[tuple[Direction | Lora, float]] = [(named, 1.0)] if isinstance(named, Lora) else named.parts
        found.extend(
            RequestedDirection(name, part, polarity * weight, scale, *where, named.branch) for part, weight in parts
        )
    return found


def edit_name(edits: "Scales | Sliders") -> str:
    """Describe an edit in words: its directions, with their scales where those are one number."""
    pairs: list[tuple[Any, Any]] = (
        [(slider.key, slider.scale) for slider in edits.sliders] if isinstance(edits, Sliders) else list(edits.items())
    )
    return ", ".join(
        f"{getattr(key, 'id', key)} {scale:+g}" if isinstance(scale, int | float) else str(getattr(key, "id", key))
        for key, scale in pairs
    )


def check_branch(branch: object) -> None:
    """Raise SteerError for what is no branch of guidance."""
    if branch not in (None, *get_args(Branch)):
        message = f"branch={branch!r}: expected 'both', 'cond' or 'uncond'"
        raise SteerError(message)
