"""`eigenbank list` and `eigenbank search`: questions to the catalog. Nothing here imports torch."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from eigenbank.cli import complete
from eigenbank.cli.output import MODEL_COLUMNS, emit, emit_page, log, model_row, output_options
from eigenbank.registry.ranking import SORTS

F = TypeVar("F", bound=Callable[..., Any])

LEAST = ("confidence", "eigenvalue", "share", "gap", "effect", "selectivity", "consistency", "linearity", "locality")
"""What a search can ask a least value of."""
MOST = ("eigenvalue", "share", "drift")
"""What a search can ask a largest value of."""
_RATES = ("confidence", "selectivity", "consistency", "linearity", "locality")

limit_option = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Most rows to print."
)


@click.command("list")
@click.option(
    "--model",
    metavar="ID",
    shell_complete=complete.models,
    help="List this model's directions; a glob may name several models.",
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="Most rows to print.")
@output_options
def list_(model: str | None, limit: int, fmt: str, quiet: bool) -> None:
    """List the models that have a direction set or, with --model, the directions and composites of one.

    \b
    Example:
      eigenbank list --model eigenbank/avatars-64
    """
    from eigenbank.registry.catalog import Catalog

    with Catalog.open() as catalog:
        if model is not None:
            asked: dict[str, Any] = {"model": model, "sort": "catalog", "limit": limit}
            again = f"eigenbank search --model {model} --sort catalog"
            emit_page(catalog.search(**asked), asked, fmt=fmt, quiet=quiet, again=again)
            return
        rows = [model_row(found) for found in catalog.sets()]
    if len(rows) > limit:
        log(f"{len(rows):,} models, of which {limit:,} are listed: more with --limit")
    emit("model", rows[:limit], MODEL_COLUMNS, fmt=fmt, quiet=quiet, key="model")


def _bounds(kind: str, known: tuple[str, ...]) -> Callable[..., dict[str, float]]:
    """Make a callback that reads `NAME=X` as the filter `min_NAME` or `max_NAME` of a search."""

    def read(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
        bounds = {}
        for value in values:
            name, equals, number = value.partition("=")
            if name not in known or not equals:
                message = f"{value!r}: expected NAME=X, where NAME is one of {', '.join(known)}"
                raise click.BadParameter(message)
            try:
                bound = float(number)
            except ValueError:
                message = f"{value!r}: {number!r} is no number"
                raise click.BadParameter(message) from None
            if name in _RATES and not 0 <= bound <= 1:
                message = f"{value!r}: {name} is between 0 and 1"
                raise click.BadParameter(message)
            bounds[f"{kind}_{name}"] = bound
        return bounds

    return read


_FILTERS = (
    click.option("--model", metavar="GLOB", shell_complete=complete.models, help="Model id, e.g. 'google/*'."),
    click.option("--layer", metavar="GLOB", shell_complete=complete.layers, help="Layer name, e.g. 'up_blocks.*'."),
    click.option("--recipe", metavar="GLOB", shell_complete=complete.recipes, help="Recipe, e.g. output-value:output."),
    click.option("--source", metavar="GLOB", help="Who gave the label: 'human', 'human:ann', 'clip:*'."),
    click.option("--labelled/--unlabelled", default=None, help="Only directions with a label, or only those without."),
    click.option(
        "--composites/--no-composites", default=None, help="Only composites and LoRAs, or only single directions."
    ),
    click.option(
        "--min", "least", multiple=True, metavar="NAME=X", callback=_bounds("min", LEAST),
        shell_complete=complete.bounds(LEAST), help=f"Least value of {', '.join(LEAST[:-1])} or {LEAST[-1]}; repeatable.",
    ),
    click.option(
        "--max", "most", multiple=True, metavar="NAME=X", callback=_bounds("max", MOST),
        shell_complete=complete.bounds(MOST), help=f"Largest value of {', '.join(MOST[:-1])} or {MOST[-1]}; repeatable.",
    ),
    click.option("--sort", type=click.Choice(SORTS), default="match", show_default=True, help="Order of the rows."),
    limit_option,
    click.option("--cursor", metavar="CURSOR", help="Print the page after the one that printed this cursor."),
)  # fmt: skip


LIKE_COLUMNS = ["id", "effect", "purity", "labels"]


def _search_like(
    text: str, without: str | None, model: str, labeler: str | None, limit: int, *, fmt: str, quiet: bool
) -> None:
    from eigenbank.naming import like

    rows = [
        {
            "id": each.direction.full_id,
            "effect": each.effect,
            "purity": each.purity,
            "labels": ", ".join(label.text for label in each.direction.labels),
        }
        for each in like(text, without=without, model=model, labeler=labeler, limit=limit, log=log)
    ]
    emit("like", rows, LIKE_COLUMNS, fmt=fmt, quiet=quiet, key="id")


def _filter_options(command: F) -> F:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


@click.command()
@click.argument("text", required=False, shell_complete=complete.words)
@click.option(
    "--like",
    metavar="TEXT",
    help="Look for any words, in what an image-text model saw when the sets were labelled; goes with --model and --limit only.",
)
@click.option("--not", "without", metavar="TEXT", help="With --like: the opposite [default: nothing].")
@click.option(
    "--labeler",
    metavar="clip:MODEL@REVISION",
    help="With --like: the image-text model [default: the checkpoint's own, else CLIP].",
)
@_filter_options
@output_options
@click.pass_context
def search(
    context: click.Context,
    /,
    text: str | None,
    like: str | None,
    without: str | None,
    labeler: str | None,
    least: Mapping[str, float],
    most: Mapping[str, float],
    fmt: str,
    quiet: bool,
    **filters: Any,
) -> None:
    """Search the directions of all models by labels, layers and model ids; the best match first.

    Words match the beginnings of words, and all must match; a phrase "in double quotes" matches as it stands. The first
    result is the direction that `steer` takes for TEXT. Without TEXT, all directions that meet the filters are listed.
    No match is an empty result, with exit code 0.

    \b
    Example:
      eigenbank search smile --model 'eigenbank/*' --format json
      eigenbank search --min selectivity=0.5 --max drift=0.2 --sort effect
      eigenbank search --like "a foggy morning" --model 'acme/*'
      eigenbank search smile -q | eigenbank labels add - grin --by ann
    """
    from eigenbank.registry.catalog import Catalog

    if like is not None:
        allowed = ("like", "without", "labeler", "model", "limit", "fmt", "quiet")
        given = [
            name for name in context.params
            if name not in allowed and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        ]  # fmt: skip
        if given:
            message = f"--like goes with --model and --limit alone, not with {', '.join(given)}"
            raise click.UsageError(message)
        _search_like(like, without, filters["model"] or "*", labeler, filters["limit"], fmt=fmt, quiet=quiet)
        return
    if without is not None or labeler is not None:
        message = "--not and --labeler go with --like"
        raise click.UsageError(message)
    filters = {**filters, **least, **most}
    with Catalog.open() as catalog:
        page = catalog.search(text, **filters)
        if text and text.count('"') % 2:
            log(
                f"the last quote in {text[:80]!r} is not closed: what follows was taken as a phrase, to match as it stands"
            )
        if text and not len(page) and filters["cursor"] is None:
            unknown_words = catalog.near(text)
            if not unknown_words and len(catalog.search(text, limit=1)):
                log(f"nothing found for {text[:80]!r} that meets the filters: without them there is something")
            elif not unknown_words:
                log(f"nothing found for {text[:80]!r}: `eigenbank search --labelled` lists what has a label")
            for word, near in unknown_words.items():
                hint = f"did you mean {' or '.join(near)}?" if near else "nothing is like it."
                log(f"no label, layer or model has a word {word!r}: {hint}")
    emit_page(page, filters, fmt=fmt, quiet=quiet)
