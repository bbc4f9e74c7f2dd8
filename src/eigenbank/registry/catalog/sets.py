"""The sets of a catalog: their rows and manifests, and what would be lost with one."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from eigenbank.registry.catalog import index
from eigenbank.registry.catalog.database import run
from eigenbank.schemas import Manifest
from eigenbank.schemas.errors import ReplaceError

OF_REVISION = "model_id = :model_id AND revision = :revision"


@dataclass(frozen=True)
class SetRow:
    """A direction set in the catalog. `directions` and `labels` are counts; `created` is in UTC. Searches have equals in the order
    of `number`.
    """

    model_id: str
    revision: str | None
    location: str
    digest: str
    checkpoint_path: str | None
    created: datetime
    directions: int
    labels: int
    repo: str | None
    commit: str | None
    denoiser: str
    licence: str | None
    builder: str
    number: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Overwritten:
    """How much a set has that another in its place would lack; false where that is nothing. People's labels are never lost, and
    what a LoRA's author calls it goes with the LoRA.
    """

    labels: int = 0
    composites: int = 0
    loras: int = 0
    previews: int = 0

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def __str__(self) -> str:
        counts = (
            ("label{} by labelers", self.labels), ("composite{}", self.composites), ("LoRA{}", self.loras), ("preview{}", self.previews)
        )  # fmt: skip
        found = [f"{count:,} {what.format('' if count == 1 else 's')}" for what, count in counts if count]
        return " and ".join(part for part in (", ".join(found[:-1]), *found[-1:]) if part)


def select(connection: Connection, conditions: str = "1 = 1", **values: Any) -> list[SetRow]:
    """Return the sets that meet the conditions, the newest first."""
    statement = (
        "SELECT model_id, nullif(revision, ''), location, digest, checkpoint_path, created, directions, labels, repo, \"commit\", "
        f"denoiser, licence, builder, id FROM sets WHERE {conditions} ORDER BY created DESC, id DESC"
    )
    return [
        SetRow(*(*row[:5], datetime.fromisoformat(row[5]), *row[6:])) for row in run(connection, statement, **values)
    ]


def model_ids(connection: Connection) -> list[str]:
    return list(run(connection, "SELECT DISTINCT model_id FROM sets ORDER BY model_id").scalars())


def read_manifest(connection: Connection, own: str, **values: Any) -> Manifest | None:
    """Return a manifest that the catalog keeps, validated anew. Raises CatalogError for what is none."""
    packed = run(connection, f"SELECT manifest FROM sets WHERE {own}", **values).scalar()
    return None if packed is None else index.read_manifest(packed)


def overwritten(connection: Connection, model_id: str, revision: str | None, new: Manifest | None) -> Overwritten:
    former = read_manifest(connection, OF_REVISION, model_id=model_id, revision=revision or "")
    if former is None:
        return Overwritten()
    records = () if new is None else new.sliders
    named = {(record.id, label.text, label.source) for record in records for label in record.labels}
    pictured = {record.id for record in records if record.preview is not None}
    return Overwritten(
        labels=sum(
            not label.source.startswith((index.PEOPLE, "author:"))
            and (record.id, label.text, label.source) not in named
            for record in former.sliders
            for label in record.labels
        ),
        composites=len({each.id for each in former.composites} - {each.id for each in records}),
        loras=len({each.id for each in former.loras} - {each.id for each in records}),
        previews=len({record.id for record in former.sliders if record.preview is not None} - pictured),
    )


def check_overwrite(connection: Connection, model_id: str, revision: str | None, new: Manifest | None) -> None:
    lost = overwritten(connection, model_id, revision, new)
    if lost:
        (row,) = select(connection, OF_REVISION, model_id=model_id, revision=revision or "")
        problem = f"the catalog's set of {model_id}, at {row.location}, has {lost} that the new one lacks and would be replaced by it"
        advice = "Build the new one under another name, as with `model_id=me/middle`, or give `replace=True`"
        raise ReplaceError(problem, advice=advice)
