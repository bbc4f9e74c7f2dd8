"""Loading a bank by model id, and finding the bank of a pipeline."""

import os
from pathlib import Path
from typing import Any

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.hub.resolve import find_set, folder_for, no_set
from eigenbank.registry.origin import sets_of
from eigenbank.registry.own import labelled, own_labels
from eigenbank.registry.sets.direction_set import Composite, Direction, DirectionSet
from eigenbank.schemas.errors import UnknownNameError

__all__ = ["bank_for", "find", "load", "no_set", "with_own_labels"]


def load(
    model_id: str | os.PathLike[str],
    *,
    catalog: str | None = None,
    revision: str | None = None,
    repo: str | None = None,
) -> DirectionSet:
    """The bank of a checkpoint by its model id; or of a direction set, by its folder or its repository on the Hub.

    Looked for in the catalog, then in the Hub's cache on this machine, then on the Hub among the repositories tagged
    `eigenbank` with that base model: a trusted author's first, then the most downloaded. Which one was taken is said,
    and entered into the catalog, so that the next load gets the same. `repo` names the repository instead, `revision`
    pins a commit, branch or tag of it. With `HF_HUB_OFFLINE=1` nothing is asked of the Hub.

    Vectors are read when first used; torch is not imported before. `catalog` is a URL or path, by default the one of
    this machine. Raises UnknownNameError, with near matches and how to build a set, where there is none, HubError.
    """
    model_id = _text(model_id)
    # Unlike Path.is_file, this takes names too long for a file system: they are no folder.
    if os.path.isfile(Path(model_id) / "manifest.json"):  # noqa: PTH113
        return DirectionSet.open(Path(model_id))
    with Catalog.open(catalog) as opened:
        return with_own_labels(DirectionSet.open(find_set(model_id, opened, revision=revision, repo=repo)), opened)


def set_of(model_id: str) -> DirectionSet:
    """The bank that `load` gives, as its set holds it: without what people labelled in this catalog, which stays theirs."""
    with Catalog.open() as opened:
        return DirectionSet.open(find_set(_text(model_id), opened))


def bank_for(pipe: Any) -> DirectionSet:
    """The catalog's bank for the model a pipeline was opened as, else for the checkpoint it was loaded from: of several sets
    that of the checkpoint's own id, else the newest. Raises UnknownNameError where there is none.
    """
    from eigenbank.loaders.pipelines import opened_as, origin_of

    model_id, origin = opened_as(pipe), origin_of(pipe)
    if origin is None:
        message = (
            "the pipeline does not say where it was loaded from, so the catalog cannot be asked for its directions: "
            "pass bank=eigenbank.load(MODEL_ID)"
        )
        raise UnknownNameError(message)
    with Catalog.open() as opened:
        found = None if model_id is None else opened.get_set(model_id)
        if found is None:
            found = next(iter(sets_of(origin, opened)), None) or opened.get_set(origin)
        if found is None:
            raise no_set(origin, opened)
        return with_own_labels(DirectionSet.open(folder_for(found)), opened)


def bank_of(model_id: str) -> DirectionSet:
    """The catalog's bank for a model id. Nothing is asked of the Hub. Raises UnknownNameError where there is none."""
    with Catalog.open() as opened:
        found = opened.get_set(model_id)
        if found is None:
            raise no_set(model_id, opened, f"Or fetch one: eigenbank pull {model_id}.")
        return with_own_labels(DirectionSet.open(folder_for(found)), opened)


def find(bank: DirectionSet, key: str) -> tuple[Direction | Composite, int]:
    """What `bank.find` gives. Where a bank of the catalog lacks it, the error says which other set of the same checkpoint has
    it.
    """
    try:
        return bank.find(key)
    except UnknownNameError as error:
        other = _elsewhere(bank, key)
        if other is None:
            raise
        message = (
            f"{error} The set {other} of the same checkpoint has it: pass bank=eb.load({other!r}), or name that model on the "
            "command line"
        )
        raise UnknownNameError(message) from error


def _elsewhere(bank: DirectionSet, key: str) -> str | None:
    """The model id of another set of the same checkpoint that has a label or direction of that name."""
    with Catalog.open() as opened:
        row = opened.get_set(bank.model_id)
        if row is None or row.checkpoint_path is None:
            return None
        others = dict.fromkeys(each.model_id for each in sets_of(row.checkpoint_path, opened))
        for model_id in others:
            if model_id == bank.model_id:
                continue
            texts = {text.casefold() for text in opened.label_texts(model_id)}
            name = key.removeprefix(f"{model_id}#")
            if name.casefold() in texts or opened.get_direction(f"{model_id}#{name}") is not None:
                return model_id
    return None


def with_own_labels(bank: DirectionSet, catalog: Catalog) -> DirectionSet:
    """The bank with the labels that people gave its directions in this catalog, which the set itself does not hold."""
    given = own_labels(bank.manifest, catalog)
    return bank.replaced(labelled(bank.manifest, given)) if given else bank


def _text(model_id: object) -> str:
    """What is to be loaded, as text. Raises UnknownNameError for what names nothing."""
    if isinstance(model_id, (str, os.PathLike)):
        text = os.fspath(model_id)
        if isinstance(text, str) and text.strip() and "\0" not in text:
            return text
    message = f"{model_id!r} is no model id: expected one, as in load('org/name'), or the folder of a direction set"
    raise UnknownNameError(message)
