"""From a model id to a set on this machine: the catalog, the Hub's cache, the Hub."""

from pathlib import Path

from eigenbank.registry.catalog import Catalog, SetRow
from eigenbank.registry.hub.discover import cached, candidates, told_choice
from eigenbank.registry.hub.errors import offline
from eigenbank.registry.hub.location import Published, folder_of, is_commit, is_repo_id, parse
from eigenbank.registry.hub.pull import Pulled, bring, enter
from eigenbank.registry.hub.remote import look
from eigenbank.registry.hub.say import Say, announce
from eigenbank.registry.sets.folder import MANIFEST, VECTORS, manifest_digest
from eigenbank.schemas.errors import CatalogError, HubError, OfflineError, UnknownNameError, UnreachableError, unknown


def find_set(
    model: str, catalog: Catalog, *, revision: str | None = None, repo: str | None = None, say: Say = announce
) -> Path:
    """The folder of the set of a checkpoint, given by model id; or by the repository the set is published in.

    Looks in the catalog, then in the Hub's cache, then on the Hub; what came from the latter two is entered into the
    catalog. `revision` pins a commit, branch or tag of the set's repository, `repo` the repository. Raises
    UnknownNameError where there is none, HubError.
    """
    if repo is not None:
        known = catalog.get_set(model)
        if known is not None and known.repo == repo and is_commit(known.commit) and revision in (None, known.commit):
            return folder_for(known, say=say)
        return _record(catalog, bring(repo, revision, model=None if repo == model else model, say=say), revision, say)
    known = catalog.get_set(model) or next((row for row in catalog.sets() if row.repo == model), None)
    if known is not None and revision in (None, known.commit):
        return folder_for(known, say=say)
    if known is not None and known.repo is not None:
        return _record(catalog, bring(known.repo, revision, model=known.model_id, say=say), revision, say)
    for found in cached(model, say=say):
        if revision in (None, found.at.commit):
            say(f"directions of {found.manifest.checkpoint.model_id}: the copy in the Hub's cache, {found.at.short}")
            return _record(catalog, found, revision, say)
    return _load_from_hub(model, catalog, revision, say)


def folder_for(known: SetRow, *, say: Say = announce) -> Path:
    """The folder of a set in the catalog; fetched at its commit, if only its entry is on this machine. Raises HubError.

    A cached set that is no longer what the catalog says is fetched again.
    """
    at = parse(known.location)
    if at is None:
        return folder_of(known.location)
    folder = at.folder
    if (folder / MANIFEST).is_file() and (folder / VECTORS).is_file() and manifest_digest(folder) == known.digest:
        return folder
    if not offline():
        say(f"directions of {known.model_id}: fetching {at.short}")
    return bring(at.repo, at.commit, model=known.model_id, say=say).folder


def no_set(model: str, catalog: Catalog, remark: str = "") -> UnknownNameError:
    """The error for a model of which there is no set, with near matches and how to build one."""
    # `local/NAME` is what a folder without a set is called: it cannot be built by that name.
    advice = (
        "Build one: eigenbank build FOLDER; or take the directions of a model above, with --checkpoint FOLDER"
        if model.startswith("local/")
        else f"Build one: eigenbank build {model}"
    )
    hint = f"{remark}{' ' if remark else ''}{advice}"
    return unknown(kind="direction set of", name=model, known=catalog.model_ids(), hint=hint)


def from_hub(name: str, revision: str | None = None, *, say: Say) -> Pulled | None:
    """Fetch the set of the repository of that name, else one for the checkpoint of that name; None if there is none.

    Of several the preferred is taken, and said; one that is refused is said to be, and the next tried. Raises HubError.
    """
    # One cheap question first: it also tells at once whether there is a Hub to ask.
    at = _as_repository(name, revision)
    if at is not None:
        return bring(at.repo, revision, say=say)
    offered = candidates(name)
    for number, chosen in enumerate(offered):
        try:
            pulled = bring(chosen.repo, revision, model=name, say=say)
        except (OfflineError, UnreachableError):
            raise
        except HubError as error:
            if number + 1 == len(offered):
                raise
            say(f"{error}. The next repository is tried")
            continue
        say(told_choice(chosen, [other for other in offered if other is not chosen], name))
        return pulled
    return None


def _load_from_hub(model: str, catalog: Catalog, revision: str | None, say: Say) -> Path:
    if not is_repo_id(model) or "/" not in model:
        raise no_set(model, catalog)
    if offline():
        raise no_set(model, catalog, "Offline mode is on, so the Hub was not asked.")
    try:
        pulled = from_hub(model, revision, say=say)
    except UnreachableError as error:
        raise no_set(model, catalog, f"The Hub was not of help: {error}.") from error
    if pulled is None:
        raise no_set(model, catalog, "The Hub has none either.")
    return _record(catalog, pulled, revision, say)


def _as_repository(model: str, revision: str | None) -> Published | None:
    """The repository of that very name, if it holds directions."""
    try:
        remote = look(model, revision)
    except (OfflineError, UnreachableError):
        raise
    except HubError:
        return None
    # By its files, not its tags: the tags are those of the main branch.
    return remote.at if MANIFEST in remote.files and VECTORS in remote.files else None


def _record(catalog: Catalog, pulled: Pulled, revision: str | None, say: Say) -> Path:
    """Enter what was got into the catalog: it is what the next load gets. A pinned one never displaces another."""
    checkpoint = pulled.manifest.checkpoint
    known = catalog.get_set(checkpoint.model_id, checkpoint.revision or "")
    if revision is None or known is None:
        try:
            enter(catalog, pulled, revision)
        except CatalogError as error:
            say(f"{pulled.at.short} is used, but could not be entered into the catalog: {error}")
    return pulled.folder
