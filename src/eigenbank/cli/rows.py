"""Rows that commands print (directions, models, labels, each with a schema version), and names read from stdin."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from eigenbank.cli.output import emit, log

if TYPE_CHECKING:
    from eigenbank.registry.catalog import DirectionRow, Page, SetRow
    from eigenbank.schemas import Label, Quality

DIRECTION_COLUMNS = ["id", "labels", "confidence", "eigenvalue", "share"]
BOUND = dict.fromkeys(("effect", "selectivity", "consistency", "linearity", "locality", "gap"), "min") | {
    "drift": "max"
}
"""The measures of a direction, and which bound a search can set for each."""
MEASURES = tuple(BOUND)
NOT_OF_COMPOSITES = ("layer", "recipe", "rank", "kind", "width", "eigenvalue", "share", "gap")
"""Fields that a composite does not have."""
MODEL_COLUMNS = ["model", "denoiser", "directions", "labels", "location"]
LABEL_COLUMNS = ["text", "polarity", "confidence", "source", "note"]


def emit_rows(
    kind: str,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    fmt: str,
    quiet: bool = False,
    key: str = "",
) -> None:
    """Print rows of a kind. In JSON every row names its schema version, so that an empty result is still `[]`."""
    if fmt in ("json", "jsonl"):
        rows = [{"schema": f"eigenbank/{kind}/1", **row} for row in rows]
    emit(rows, columns, fmt=fmt, quiet=quiet, key=key)


def emit_page(page: "Page", asked: Mapping[str, Any], *, fmt: str, quiet: bool) -> None:
    """Print a page of directions and composites, and on stderr how to get the next one.

    Tables also show the measures that the search `asked` to filter or sort by.
    """
    machine = fmt != "table" and not quiet
    measures = [name for name in MEASURES if asked["sort"] == name or asked.get(f"{BOUND[name]}_{name}") is not None]
    rows = [direction_row(row) if machine else _short_row(row, measures) for row in page]
    emit_rows("direction", rows, [*DIRECTION_COLUMNS, *measures], fmt=fmt, quiet=quiet, key="id")
    limit = asked["limit"]
    if page.cursor is not None:
        log(f"the first {limit} are shown; there are more: narrow the search, raise --limit, or go on with the same")
        log(f"search and --cursor {page.cursor}")


def _short_row(row: "DirectionRow", measures: Sequence[str] = ()) -> dict[str, Any]:
    """Return the fields of a direction that a table shows, with some `measures`."""
    quality = row.quality if measures else None
    return {
        "id": row.id,
        "labels": row.label_texts,
        "confidence": row.confidence,
        "eigenvalue": row.eigenvalue,
        "share": row.share,
        **{name: row.gap if name == "gap" else getattr(quality, name, None) for name in measures},
    }


def direction_row(row: "DirectionRow") -> dict[str, Any]:
    """Return the fields of a direction that JSON and CSV print."""
    return {
        "id": row.id,
        "model": row.model_id,
        "revision": row.revision,
        "layer": row.layer,
        "recipe": row.recipe,
        "rank": row.rank,
        "kind": row.kind,
        "width": row.width,
        "eigenvalue": row.eigenvalue,
        "share": row.share,
        "gap": row.gap,
        "composite": row.composite,
        "labels": row.label_texts,
        "confidence": row.confidence,
        "evidence": [label.model_dump(mode="json") for label in row.labels],
        "quality": None if row.quality is None else row.quality.model_dump(mode="json"),
        "location": row.location,
    }


def quality_facts(quality: "Quality") -> dict[str, str]:
    """Describe a direction's quality in words, without what is unknown."""
    between = quality.recommended_range
    words = {
        "effect": (quality.effect, "{:.3g} standard deviations per unit scale"),
        "selectivity": (quality.selectivity, "{:.0%} of all that it moves is one score"),
        "consistency": (quality.consistency, "the same sign on {:.0%} of the seeds"),
        "linearity": (quality.linearity, "R² {:.2f} of a straight line"),
        "recommended range": (between and f"{between[0]:g} to {between[1]:g}", "scales {}"),
        "locality": (quality.locality, "{:.0%} of the change is in a tenth of the picture"),
        "drift": (quality.drift, "{:.3g} standard deviations, of the other scores"),
    }
    found = {what: form.format(value) for what, (value, form) in words.items() if value is not None}
    count = len(quality.seeds)
    seeds = f"{count} seed{'' if count == 1 else 's'}, {quality.steps} steps"
    return {"quality": f"by {quality.source}, at ±{quality.scale:g} on {seeds}", **found}


def model_row(found: "SetRow") -> dict[str, Any]:
    """Return the fields of a model's set that JSON and CSV print."""
    return {
        "model": found.model_id,
        "revision": found.revision,
        "denoiser": found.denoiser,
        "licence": found.licence,
        "directions": found.directions,
        "labels": found.labels,
        "location": found.location,
        "digest": found.digest,
        "repo": found.repo,
        "commit": found.commit,
        "checkpoint": found.checkpoint_path,
        "builder": found.builder,
        "created": found.created.isoformat(),
    }


def label_row(direction: str, label: "Label") -> dict[str, Any]:
    """Return the fields of a label that JSON and CSV print."""
    return {"id": direction, **label.model_dump(mode="json")}


def facts(found: Mapping[str, Any]) -> None:
    """Print one thing's fields as a table of two columns."""
    rows = [{"what": key, "value": value} for key, value in found.items()]
    emit(rows, ["what", "value"], fmt="table", quiet=False, key="what")


def names_given(names: tuple[str, ...], model: str | None = None) -> list[str]:
    """Return the directions that arguments name. `-` reads them from standard input, one a line, as `-q` prints them.

    Names without a model get `model`, if it is given.
    """
    found: list[str] = []
    for name in names:
        if name != "-":
            found.append(name)
            continue
        lines = [line.rstrip("\r\n") for line in sys.stdin]
        given = [line for line in lines if line.strip()]
        if not given:
            message = "no direction on standard input: expected one a line, as `eigenbank search WORD -q` prints them"
            raise click.UsageError(message)
        found += given
    return list(dict.fromkeys(f"{model}#{name}" if model and "#" not in name else name for name in found))
