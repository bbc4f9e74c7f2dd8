"""Load a direction set by its model id, its folder or its repository on the Hub. Imports no torch."""

import os
from pathlib import Path

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.hub.pull import find_set
from eigenbank.registry.local import people_labels
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas.errors import UnknownNameError


def load(
    model_id: str | os.PathLike[str],
    *,
    catalog: str | None = None,
    revision: str | None = None,
    repo: str | None = None,
) -> DirectionSet:
    """Load the direction set of a checkpoint by its model id; or a set by its folder or its repository on the Hub.

    Looks in the catalog, then in the Hub's cache on this machine, then on the Hub among the repositories tagged
    `eigenbank` with that base model: a trusted author's first, then the most downloaded. Logs which one it took, and
    adds it to the catalog, so that the next load returns the same. `repo` names the repository instead, `revision`
    pins a commit, branch or tag of it. With `HF_HUB_OFFLINE=1` the Hub is not asked.

    Vectors are read on first use; torch is not imported before. `catalog` is a URL or path, by default this machine's
    catalog. Raises UnknownNameError, with near matches and how to build a set, where there is none, and HubError.
    """
    model_id = _text(model_id)
    # Unlike Path.is_file, this takes names too long for a file system: they are no folder.
    if os.path.isfile(Path(model_id) / "manifest.json"):  # noqa: PTH113
        if revision is not None or repo is not None:
            message = f"{model_id} is a folder: it has no revisions, and no repository"
            raise UnknownNameError(message)
        return DirectionSet.open(Path(model_id))
    with Catalog.open(catalog) as opened:
        return with_people_labels(DirectionSet.open(find_set(model_id, opened, revision=revision, repo=repo)), opened)


def load_without_people_labels(model_id: str) -> DirectionSet:
    """Load a set as `load` does, without the labels that people added in this catalog: as it would be published."""
    with Catalog.open() as opened:
        return DirectionSet.open(find_set(_text(model_id), opened))


def with_people_labels(bank: DirectionSet, catalog: Catalog) -> DirectionSet:
    """Add the labels that people gave a set's directions in this catalog, which the set itself does not hold."""
    given = people_labels(bank.manifest, catalog)
    return bank.replaced(bank.manifest.with_more_labels(given)) if given else bank


def without_people_labels(bank: DirectionSet, catalog: Catalog) -> DirectionSet:
    """Leave out the labels that people gave in this catalog, unless the set on disk holds them."""
    people = catalog.people_labels(bank.model_id)
    stored = {} if bank.folder is None else {each.id: each.labels for each in DirectionSet.open(bank.folder).sliders}
    own = {
        each.id: tuple(
            label for label in each.labels if label not in people.get(each.id, ()) or label in stored.get(each.id, ())
        )
        for each in bank.sliders
    }
    return bank.labelled({name: labels for name, labels in own.items() if labels != bank[name].labels})


def _text(model_id: object) -> str:
    """Return the name to load as text. Raises UnknownNameError for what is no name."""
    if isinstance(model_id, (str, os.PathLike)):
        text = os.fspath(model_id)
        if isinstance(text, str) and text.strip() and "\0" not in text:
            return text
    message = f"{model_id!r} is no model id: expected one, as in load('org/name'), or the folder of a direction set"
    raise UnknownNameError(message)
