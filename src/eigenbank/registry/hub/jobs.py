"""What a command does as a whole: publish a set by name, pull one by name."""

from pathlib import Path

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.hub.discover import cached
from eigenbank.registry.hub.errors import check_online, offline
from eigenbank.registry.hub.location import parse
from eigenbank.registry.hub.publish import publish
from eigenbank.registry.hub.pull import Pulled, bring, enter
from eigenbank.registry.hub.resolve import folder_for, from_hub, no_set
from eigenbank.registry.hub.say import Say
from eigenbank.registry.hub.upload import NOTHING, Outcome
from eigenbank.registry.own import own_labels
from eigenbank.registry.sets.folder import MANIFEST, manifest_digest, read_manifest
from eigenbank.schemas.errors import OfflineError, UnreachableError


def publish_set(
    target: str,
    repo: str,
    catalog: Catalog,
    *,
    with_labels: bool = False,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    parent: str | None = None,
    dry_run: bool = False,
    say: Say,
) -> Outcome:
    """Publish a set, given by its folder or by a model id of the catalog, and note in the catalog where it is.

    `with_labels` publishes the labels that people gave its directions in this catalog, too, under their names.

    Raises UnknownNameError, SetError, HubError.
    """
    folder = Path(target).expanduser()
    if not (folder / MANIFEST).is_file():
        known = catalog.get_set(target)
        if known is None:
            raise no_set(target, catalog)
        folder = folder_for(known, say=say)
    check_online("publishing", NOTHING)
    digest = manifest_digest(folder)
    own = own_labels(read_manifest(folder), catalog)
    if own and not with_labels:
        count = sum(len(labels) for labels in own.values())
        say(
            f"{count} labels that people gave in this catalog stay here (--with-labels publishes them, with their names)"
        )
    outcome = publish(
        folder,
        repo,
        labels=own if with_labels else None,
        private=private,
        revision=revision,
        message=message,
        parent=parent,
        dry_run=dry_run,
        say=say,
    )
    if not dry_run and outcome.commit is not None:
        catalog.set_published(digest, repo, outcome.commit)
    return outcome


def pull_set(name: str, catalog: Catalog, *, revision: str | None = None, say: Say) -> Pulled:
    """Fetch a set, given by its repository or by the model id of its checkpoint, and enter it into the catalog.

    For a checkpoint whose set came from a repository before, that repository is asked again. Raises UnknownNameError,
    HubError; the catalog is as it was then.
    """
    pulled = _pull(name, catalog, revision, say)
    checkpoint = pulled.manifest.checkpoint
    before = catalog.get_set(checkpoint.model_id, checkpoint.revision or "")
    enter(catalog, pulled, revision)
    if before is not None and parse(before.location) is None:
        say(f"the catalog had a set of {before.model_id} at {before.location}; it now has {pulled.at.short}")
    return pulled


def _pull(name: str, catalog: Catalog, revision: str | None, say: Say) -> Pulled:
    known = catalog.get_set(name)
    if known is not None and known.repo is not None:
        return bring(known.repo, revision, model=name, say=say)
    if not offline():
        try:
            pulled = from_hub(name, revision, say=say)
        except UnreachableError as error:
            found = _cached(name, revision, say)
            if found is None:
                raise
            say(f"{error}. The copy in the cache is used, {found.at.short}, which may not be the newest")
            return found
        if pulled is None:
            raise no_set(
                name, catalog, "The Hub has no repository of that name, and none with directions for such a checkpoint."
            )
        return pulled
    found = _cached(name, revision, say)
    if found is None:
        message = (
            f"no directions of {name}{f'@{revision}' if revision else ''} are in the Hub's cache on this machine, and "
            "offline mode is on (HF_HUB_OFFLINE or --offline): nothing was fetched. Switch it off to fetch them"
        )
        raise OfflineError(message)
    return found


def _cached(name: str, revision: str | None, say: Say) -> Pulled | None:
    return next((found for found in cached(name, say=say) if revision in (None, found.at.commit)), None)
