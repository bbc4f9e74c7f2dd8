"""`eigenbank show`: everything known of directions and models."""

import difflib
from typing import TYPE_CHECKING, Any

import click

from eigenbank.cli import complete
from eigenbank.cli.output import (
    NOT_OF_COMPOSITES,
    direction_row,
    echo,
    echo_parts,
    emit,
    facts,
    format_option,
    log,
    model_row,
    names_given,
    quality_facts,
)
from eigenbank.schemas.errors import EigenbankError, SetError, unknown

if TYPE_CHECKING:
    from eigenbank.registry.catalog import Catalog, DirectionRow

_APART = ("evidence", "labels", "confidence", "quality")
"""Fields that `show` prints as tables of their own."""


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete.directions)
@format_option
def show(names: tuple[str, ...], fmt: str) -> None:
    """Show everything known of directions, or of models.

    NAME is a direction, MODEL_ID#LAYER/RECIPE/RANK, a composite, MODEL_ID#composite/NAME, a LoRA, MODEL_ID#lora/NAME, or a MODEL_ID alone, which shows its
    layers, recipes and labels. `-` reads names from standard input, one a line.

    \b
    Example:
      eigenbank show 'eigenbank/avatars-64#mid_block.attentions.0.transformer_blocks.0.attn1/output-value/0'
      eigenbank show eigenbank/avatars-64
    """
    from eigenbank.registry.catalog import Catalog

    with Catalog.open() as catalog:
        given = names_given(names)
        models = set(catalog.model_ids()).intersection(given)
        if models and len(models) < len(given):
            message = "expected models or directions, not both: show them one after the other"
            raise click.UsageError(message)
        if models:
            _emit_models([_model(catalog, name) for name in given], fmt=fmt)
            return
        found = [_one(catalog, name) for name in given]
    if fmt != "table":
        rows = [direction_row(row) | _made_of(row) | {"reach": _reach(row)} for row in found]
        emit("direction", rows, list(rows[0]), fmt=fmt)
        return
    for number, row in enumerate(found):
        if number:
            echo()
        _show_direction(row)


def _show_direction(row: "DirectionRow") -> None:
    """Print a direction as tables: what it is, its parts, its quality, its labels."""
    lora = row.composite is not None and row.composite.startswith("lora/")  # its id says all that `composite` would
    apart = {
        *_APART,
        *(NOT_OF_COMPOSITES if row.composite else ()),
        *(("composite",) if lora or not row.composite else ()),
    }
    from eigenbank.registry.sets.direction_set import LEAST_REACH

    reach = _reach(row)
    known = {} if reach is None else {"reach": f"{reach:.2g}" + ("" if reach >= LEAST_REACH else ", too little to act")}
    made_of = _made_of(row)
    if made_of["branch"] not in (None, "both"):
        known["branch"] = made_of["branch"]
    facts({key: value for key, value in direction_row(row).items() if key not in apart} | known)
    if made_of["parts"]:
        echo()
        echo_parts(made_of["parts"])
    if row.quality is not None:
        echo()
        facts(quality_facts(row.quality))
    for label in row.labels:
        echo()
        shown: dict[str, Any] = {"label": label.text, "polarity": label.polarity, "confidence": label.confidence}
        shown |= {"source": label.source, "note": label.note, "created": label.created.isoformat()}
        if label.evidence:
            shown |= {
                key: (f"{value[0]}…{value[-1]} ({len(value)})" if key == "seeds" and value else value)
                for key, value in label.evidence.model_dump().items()
            }
        facts(shown)


def _reach(row: "DirectionRow") -> float | None:
    """Look up a direction's reach in its set; None where it is not known, or the set cannot be read."""
    from eigenbank.registry.hub.client import folder_of
    from eigenbank.registry.sets.direction_set import DirectionSet
    from eigenbank.registry.sets.folder import MANIFEST

    folder = folder_of(row.location)
    if row.composite is not None or not (folder / MANIFEST).is_file():
        return None
    try:
        return DirectionSet.open(folder).direction(row.id).reach
    except EigenbankError as error:
        log(str(error))
        return None


def _model(catalog: "Catalog", name: str) -> dict[str, Any]:
    """Look up a model's newest set: a row with its layers, recipes and label texts."""
    found = catalog.get_set(name)
    assert found is not None
    names = {"layers": catalog.layer_names(name), "recipes": catalog.recipe_slugs(name)}
    return model_row(found) | names | {"label_texts": catalog.label_texts(name)}


def _emit_models(rows: list[dict[str, Any]], *, fmt: str) -> None:
    if fmt != "table":
        emit("model", rows, list(rows[0]), fmt=fmt)
        return
    for number, row in enumerate(rows):
        if number:
            echo()
        facts(row)


def _one(catalog: "Catalog", name: str) -> "DirectionRow":
    """Look up a direction by name. Raises UnknownNameError, with near matches."""
    found = catalog.get_direction(name)
    if found is not None:
        return found
    models = catalog.model_ids()
    if "#" not in name and difflib.get_close_matches(name, models):
        raise unknown(kind="model or direction", name=name, known=models)
    raise catalog.unknown_direction(name)


def _made_of(row: "DirectionRow") -> dict[str, Any]:
    """A composite's `parts`, the heaviest first, and the `branch` of guidance it acts on. None for a direction; also where the set
    cannot be read, which is logged.
    """
    from eigenbank.registry.hub.client import folder_of
    from eigenbank.registry.sets.folder import MANIFEST, read_manifest

    nothing: dict[str, Any] = {"parts": None, "branch": None}
    if row.composite is None or row.composite.startswith("lora/"):
        return nothing
    folder = folder_of(row.location)
    if not (folder / MANIFEST).is_file():
        log(f"what {row.id} is made of is in its set, which is not on this machine: eigenbank pull {row.model_id}")
        return nothing
    try:
        composites = read_manifest(folder).composites
    except SetError as error:
        log(str(error))
        return nothing
    for each in composites:
        if each.name == row.composite:
            parts = sorted(each.parts, key=lambda part: -abs(part.weight))
            return {"parts": [part.model_dump() for part in parts], "branch": each.branch}
    return nothing
