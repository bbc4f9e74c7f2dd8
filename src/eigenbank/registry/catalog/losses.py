"""What a set has that another one in its place would lack: labels of labelers, composites, previews. People's labels are not
lost: they are carried over, or wait.
"""

from dataclasses import dataclass

from sqlalchemy import Connection

from eigenbank.registry.catalog import dump
from eigenbank.registry.catalog.content import SetData
from eigenbank.registry.catalog.stored import understood
from eigenbank.schemas import Manifest
from eigenbank.schemas.errors import ReplaceError, SetError


@dataclass(frozen=True)
class Losses:
    """How much would be gone; false where nothing would be."""

    labels: int = 0
    composites: int = 0
    previews: int = 0

    def __bool__(self) -> bool:
        return bool(self.labels or self.composites or self.previews)

    def __str__(self) -> str:
        counts = (("label{} by labelers", self.labels), ("composite{}", self.composites), ("preview{}", self.previews))
        words = [f"{count:,} {what.format('' if count == 1 else 's')}" for what, count in counts if count]
        return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


@understood()
def losses(connection: Connection, model_id: str, revision: str, new: Manifest | None) -> Losses:
    """What the catalog's set of a checkpoint has that `new` lacks; None is a set that has none of these, as after a build."""
    former = dump.checkpoint(connection, model_id, revision)
    return Losses() if former is None or former.set is None else _lost(former.set, new)


@understood()
def check_place(connection: Connection, model_id: str, revision: str, new: Manifest | None, outcome: str) -> None:
    """Raise ReplaceError where a set would take the place of one that has what it lacks. `outcome` is what became of it."""
    former = dump.checkpoint(connection, model_id, revision)
    if former is None or former.set is None:
        return
    lost = _lost(former.set, new)
    if lost:
        message = (
            f"the catalog's set of {model_id}, at {former.set.facts.location}, has {lost} that the new one lacks and would be "
            f"replaced by it: {outcome}, and the catalog is as it was. Build the new one under another name, as with --model-id "
            "me/middle, or give --replace"
        )
        raise ReplaceError(message)


def _lost(former: SetData, new: Manifest | None) -> Losses:
    records = () if new is None else new.sliders
    ids = {record.id for record in records}
    named = {(record.id, label.text, label.source) for record in records for label in record.labels}
    drawn = {record.id for record in records if record.preview is not None}
    return Losses(
        labels=sum(
            not label.human and (record.name, label.text, label.source) not in named
            for record in former.sliders
            for label in record.labels
        ),
        composites=sum(record.name not in ids for record in former.composites),
        previews=len(_drawn(former) - drawn),
    )


def _drawn(former: SetData) -> set[str]:
    """What a set has previews of, as its own manifest says, which the catalog does not keep; nothing where it is not here."""
    from eigenbank.registry.hub.client import folder_of
    from eigenbank.registry.sets.folder import read_manifest

    try:
        manifest = read_manifest(folder_of(former.facts.location))
    except (OSError, ValueError, SetError):
        return set()
    return {record.id for record in manifest.sliders if record.preview is not None}
