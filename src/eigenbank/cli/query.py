"""`eigenbank list`, `search` and `show`: questions to the catalog. Nothing here imports torch."""

from typing import TYPE_CHECKING, Any

import click

from eigenbank.cli.options import catalog_option
from eigenbank.cli.output import emit, output_options, say
from eigenbank.schemas.errors import unknown

if TYPE_CHECKING:
    from eigenbank.registry.catalog import DirectionRow

COLUMNS = ["id", "labels", "confidence", "eigenvalue", "share"]


@click.command("list", short_help="List the models in the catalog, or the directions of one.")
@click.option("--model", metavar="ID", help="List this model's directions; a glob may name several models.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="Most rows to print.")
@catalog_option
@output_options
def list_(model: str | None, limit: int, fmt: str, quiet: bool) -> None:
    """List the models in the catalog, or with --model the directions of one.

    \b
    Example:
      eigenbank list --model eigenbank/cartoon-faces-32
    """
    from eigenbank.registry.catalog import Catalog

    with Catalog.open() as catalog:
        if model is not None:
            page = catalog.search(model=model, sort="catalog", limit=limit)
            emit([direction_row(row) for row in page], COLUMNS, fmt=fmt, quiet=quiet, key="id")
            _more(page.cursor, limit)
            return
        rows = [
            {
                "model": found.model_id,
                "revision": found.revision,
                "denoiser": found.denoiser,
                "directions": found.directions,
                "labels": found.labels,
                "location": found.location,
                "created": found.created.isoformat(),
            }
            for found in catalog.sets()
        ]
    emit(rows, ["model", "denoiser", "directions", "labels", "location"], fmt=fmt, quiet=quiet, key="model")


@click.command(short_help="Search the directions of all models.")
@click.argument("text", required=False)
@click.option("--model", metavar="GLOB", help="Model id, e.g. 'google/*'.")
@click.option("--layer", metavar="GLOB", help="Layer name, e.g. 'up_blocks.*'.")
@click.option("--recipe", metavar="RECIPE", help="Recipe, e.g. output-value:output.")
@click.option("--min-eigenvalue", type=float, metavar="X")
@click.option("--max-eigenvalue", type=float, metavar="X")
@click.option("--min-confidence", type=click.FloatRange(0, 1), metavar="P")
@click.option("--labelled/--unlabelled", default=None, help="Only directions with a label, or only those without.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Most rows to print.")
@catalog_option
@output_options
def search(
    text: str | None,
    model: str | None,
    layer: str | None,
    recipe: str | None,
    min_eigenvalue: float | None,
    max_eigenvalue: float | None,
    min_confidence: float | None,
    labelled: bool | None,
    limit: int,
    fmt: str,
    quiet: bool,
) -> None:
    """Search the directions of all models by label text and more; best match first.

    Words match the beginnings of words; all must be there. No match is an empty result, exit code 0.

    \b
    Example:
      eigenbank search smile --model 'eigenbank/*' --format json
    """
    from eigenbank.registry.catalog import Catalog

    with Catalog.open() as catalog:
        page = catalog.search(
            text,
            model=model,
            layer=layer,
            recipe=recipe,
            min_eigenvalue=min_eigenvalue,
            max_eigenvalue=max_eigenvalue,
            min_confidence=min_confidence,
            labelled=labelled,
            limit=limit,
        )
        if text and not len(page):
            say(str(unknown("direction labelled", text, catalog.label_texts(None))))
    emit([direction_row(row) for row in page], COLUMNS, fmt=fmt, quiet=quiet, key="id")
    _more(page.cursor, limit)


@click.command(short_help="Show one direction, with the evidence for its labels.")
@click.argument("direction")
@click.option("--model", metavar="ID", help="Model, where DIRECTION is only LAYER/RECIPE/RANK.")
@catalog_option
@output_options
def show(direction: str, model: str | None, fmt: str, quiet: bool) -> None:
    """Show everything known of one direction.

    DIRECTION is MODEL_ID#LAYER/RECIPE/RANK.

    \b
    Example:
      eigenbank show 'eigenbank/cartoon-faces-32#mid_block.attentions.0/output-value/0'
    """
    from eigenbank.registry.catalog import Catalog

    name = f"{model}#{direction}" if model and "#" not in direction else direction
    with Catalog.open() as catalog:
        found = catalog.get_direction(name)
        if found is None:
            model_id = name.partition("#")[0]
            if model_id not in catalog.model_ids():
                hint = "Names have the form MODEL_ID#LAYER/RECIPE/RANK."
                raise unknown(kind="model", name=model_id, known=catalog.model_ids(), hint=hint)
            known = [row.id for row in catalog.search(model=model_id, limit=10_000)]
            raise unknown(kind="direction", name=name, known=known)
    row = direction_row(found)
    if fmt != "table" or quiet:
        emit([row], list(row), fmt=fmt, quiet=quiet, key="id")
        return
    plain = {key: value for key, value in row.items() if key not in ("evidence", "labels", "confidence")}
    emit(
        [{"what": key, "value": value} for key, value in plain.items()],
        ["what", "value"],
        fmt=fmt,
        quiet=False,
        key="what",
    )
    for label in found.labels:
        click.echo()
        facts: dict[str, Any] = {"label": label.text, "polarity": label.polarity, "confidence": label.confidence}
        facts |= {"source": label.source, "note": label.note, "created": label.created.isoformat()}
        if label.evidence:
            facts |= {
                key: (f"{value[0]}…{value[-1]} ({len(value)})" if key == "seeds" and value else value)
                for key, value in label.evidence.model_dump().items()
            }
        emit(
            [{"what": key, "value": value} for key, value in facts.items()],
            ["what", "value"],
            fmt=fmt,
            quiet=False,
            key="what",
        )


def direction_row(row: "DirectionRow") -> dict[str, Any]:
    """A direction as the fields every machine format prints."""
    return {
        "id": row.id,
        "model": row.model_id,
        "layer": row.layer,
        "recipe": row.recipe,
        "rank": row.rank,
        "kind": row.kind,
        "width": row.width,
        "eigenvalue": row.eigenvalue,
        "share": row.share,
        "gap": row.gap,
        "labels": [label.text for label in row.labels],
        "confidence": max((label.confidence for label in row.labels if label.confidence is not None), default=None),
        "evidence": [label.model_dump(mode="json") for label in row.labels],
        "location": row.location,
    }


def _more(cursor: str | None, limit: int) -> None:
    if cursor is not None:
        say(f"the first {limit} are shown; there are more: raise --limit or narrow the search")
