"""What every command prints: rows on stdout, as a table or in a machine's format; remarks and progress on stderr.

Whatever is printed goes through here, and what a terminal would obey, hide or reorder is shown as an escape.
"""

import csv
import json
import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eigenbank.schemas.errors import OutputError
from eigenbank.schemas.printable import printable, printable_json

if TYPE_CHECKING:
    from eigenbank.loaders.drawing import DrawingCost
    from eigenbank.registry.catalog import DirectionRow, Page, SetRow
    from eigenbank.schemas import Quality

FORMATS = ("table", "json", "jsonl", "csv", "tsv")
Row = Mapping[str, Any]
F = TypeVar("F", bound=Callable[..., Any])

DIRECTION_COLUMNS = ["id", "labels", "confidence", "eigenvalue", "share"]
BOUND = dict.fromkeys(("effect", "selectivity", "consistency", "linearity", "locality", "gap"), "min") | {
    "drift": "max"
}
"""The measures of a direction, and which bound a search can set for each."""
MEASURES = tuple(BOUND)
NOT_OF_COMPOSITES = ("layer", "recipe", "rank", "kind", "width", "eigenvalue", "share", "gap")
"""Fields that a composite does not have."""
MOST_PARTS = 32
"""So many parts of a composite a table lists: a fitted one has as many at most, the words' own hundreds."""
MODEL_COLUMNS = ["model", "denoiser", "directions", "labels", "location"]


format_option = click.option(
    "--format", "fmt", type=click.Choice(FORMATS), default="table", show_default=True, help="Form of the output."
)


def output_options(command: F) -> F:
    """Add `--format` and `-q` to a command; they arrive as `fmt` and `quiet`."""
    return format_option(click.option("-q", "--quiet", is_flag=True, help="Print bare ids, one a line.")(command))


@contextmanager
def printing() -> Iterator[None]:
    """Guard a block that only writes to stdout. A closed pipe is no error: the reader has seen enough.

    Raises OutputError where stdout cannot be written to.
    """
    try:
        yield
    except OSError as error:
        # The interpreter would try to flush it again at exit.
        sys.stdout = None
        if not isinstance(error, BrokenPipeError):
            message = f"the output cannot be written ({error.strerror or error}): it is cut short. Write it elsewhere"
            raise OutputError(message) from error


def emit(
    kind: str, rows: Sequence[Row], columns: Sequence[str], *, fmt: str, quiet: bool = False, key: str = ""
) -> None:
    """Print rows of a kind on stdout: all their fields for machines, the named columns in a table, the field `key` with `-q`.

    In JSON every row names its schema version, so that an empty result is still `[]`.
    """
    if sys.stdout is None:
        return
    if fmt in ("json", "jsonl"):
        rows = [{"schema": f"eigenbank/{kind}/1", **row} for row in rows]
    with printing():
        _emit(rows, columns, fmt=fmt, quiet=quiet, key=key)


def _emit(rows: Sequence[Row], columns: Sequence[str], *, fmt: str, quiet: bool, key: str) -> None:
    if quiet:
        for row in rows:
            echo(row[key])
    elif fmt == "json":
        click.echo(printable_json(json.dumps(list(rows), indent=2, ensure_ascii=False, default=str)))
    elif fmt == "jsonl":
        for row in rows:
            click.echo(printable_json(json.dumps(row, ensure_ascii=False, default=str)))
    elif fmt in ("csv", "tsv"):
        fields = list(rows[0]) if rows else list(columns)
        writer = csv.writer(sys.stdout, delimiter="," if fmt == "csv" else "\t", lineterminator="\n")
        writer.writerow(fields)
        writer.writerows([[_flat(row[field]) for field in fields] for row in rows])
    else:
        _table(rows, columns)


def echo_table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Print a table for people on stdout, as part of a longer text."""
    if sys.stdout is None:
        return
    with printing():
        _table(rows, columns)


def echo(value: object = "") -> None:
    """Print a line of data on stdout."""
    click.echo(printable(str(value)))


def log(message: str) -> None:
    """Print a line for people on stderr: what is happening, where something was written."""
    click.echo(printable(with_options(message)), err=True)


def with_options(text: str) -> str:
    """Write the arguments that the core names, as in `variant=fp16`, as the options that the command line calls them by."""

    def option(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2]
        if value in ("True", "False"):
            return f"--{name}" if value == "True" else f"--no-{name}"
        return f"--{name} {value}".rstrip()

    return re.sub(r"`([a-z][a-z_]*)=([^`]*)`", option, text)


def guard_messages() -> None:
    """Make what libraries warn of and log in this process printable, too: they quote files' names and contents."""
    shown = warnings.formatwarning
    warnings.formatwarning = lambda *found, **more: f"{printable(shown(*found, **more).rstrip())}\n"
    logging.setLogRecordFactory(_PrintableRecord)
    logging.getLogger("transformers.utils.import_utils").addFilter(_not_of_torchvision)


def _not_of_torchvision(record: logging.LogRecord) -> bool:
    """Transformers says so for each class of pipelines that can read photos, which none does here."""
    return "requires torchvision" not in record.getMessage()


class _PrintableRecord(logging.LogRecord):
    """A record of a log whose message a terminal can show."""

    def getMessage(self) -> str:  # noqa: N802 named by logging
        return printable(super().getMessage(), lines=True)


@contextmanager
def progress_bar(unit: str = "") -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar on stderr, fed with (what, done, total); off a terminal, print a line now and then.

    With a `unit`, also how many are done a second.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _now_and_then(unit)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    rate = TextColumn("{task.fields[rate]}", markup=False)
    with Progress(*columns, rate, TimeRemainingColumn(), console=console, transient=True) as bars:
        task, pace = bars.add_task("", total=None, rate=""), _Pace()

        def update(what: str, done: int, total: int) -> None:
            rate = pace.said(done, unit) if unit else ""
            bars.update(task, description=printable(what), completed=done, total=total, rate=rate)

        yield update


class _Pace:
    """How fast work goes on since it was first reported: what was done before took no time."""

    def __init__(self) -> None:
        self.begun: tuple[float, int] | None = None

    def rate(self, done: int) -> float:
        """Units a second, 0 while unknown."""
        now = time.monotonic()
        self.begun = self.begun or (now, done)
        seconds = now - self.begun[0]
        return (done - self.begun[1]) / seconds if seconds > 0 else 0.0

    def said(self, done: int, unit: str) -> str:
        """The rate in words."""
        rate = self.rate(done)
        return f"{rate:.3g} {unit}/s" if rate else ""


def _now_and_then(unit: str, seconds: float = 30.0) -> Callable[[str, int, int], None]:
    """Print how far the work is, at most once in so many seconds; with a unit also once when its pace is known."""
    last, pace, known = time.monotonic(), _Pace(), not unit

    def update(what: str, done: int, total: int) -> None:
        nonlocal last, known
        rate = pace.rate(done)
        first = not known and rate > 0 and done < total
        if first or time.monotonic() - last >= seconds:
            last, known = time.monotonic(), True
            left = f", {pace.said(done, unit)}, {duration((total - done) / rate)} left" if unit and rate else ""
            log(f"{what}: {done:,} of {total:,}{left}")

    return update


def duration(seconds: float) -> str:
    """Write a time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def drawing_bar(cost: "DrawingCost") -> Iterator[Callable[[int], None]]:
    """Say what generating takes, then show its progress, fed with how many images were just made."""
    log(str(cost))
    done = 0
    with progress_bar("images") as progress:

        def drawn(count: int) -> None:
            nonlocal done
            done += count
            progress("images", done, cost.images)

        progress("images", 0, cost.images)
        yield drawn


def _table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        number = all(isinstance(row[column], (int, float)) or row[column] is None for row in rows)
        table.add_column(column.replace("_", " "), justify="right" if number else "left", overflow="fold")
    for row in rows:
        # Text, not markup: what comes from a set or a catalog is shown as it is.
        table.add_row(*[Text(_shown(row[column])) for column in columns])
    # Off a terminal a line is as long as it must be, so that a row stays a row.
    if sys.stdout.isatty():
        Console().print(table)
        return
    console = Console(width=400, no_color=True)
    with console.capture() as written:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in written.get().splitlines()))


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if text.isascii() and text.isprintable() and len(text) < 1000 else printable(text, lines=True)


def _flat(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, (list, tuple, dict)):
        return printable_json(json.dumps(value, ensure_ascii=False, default=str))
    return printable(value, lines=True) if isinstance(value, str) else value


# What the rows hold


def emit_page(
    page: "Page", asked: Mapping[str, Any], *, fmt: str, quiet: bool, again: str = "the same search and"
) -> None:
    """Print a page of directions and composites, and on stderr how to get the next one: by the search `again`.

    Tables also show the measures that the search `asked` to filter or sort by.
    """
    machine = fmt != "table" and not quiet
    measures = [name for name in MEASURES if asked["sort"] == name or asked.get(f"{BOUND[name]}_{name}") is not None]
    rows = [direction_row(row) if machine else _short_row(row, measures) for row in page]
    emit("direction", rows, [*DIRECTION_COLUMNS, *measures], fmt=fmt, quiet=quiet, key="id")
    limit = asked["limit"]
    if page.cursor is not None:
        log(f"the first {limit} are shown; there are more: narrow the search, raise --limit, or go on with")
        log(f"{again} --cursor {page.cursor}")


def _short_row(row: "DirectionRow", measures: Sequence[str] = ()) -> dict[str, Any]:
    """Return the fields of a direction that a table shows, with some `measures`."""
    return {
        "id": row.id,
        "labels": row.label_texts,
        "confidence": row.confidence,
        "eigenvalue": row.eigenvalue,
        "share": row.share,
        **{name: getattr(row, name) for name in measures},
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


def _scales(low: float, high: float) -> str:
    """A recommended range in words: it may be empty."""
    return f"scales {low:g} to {high:g}" if low < high else "none: it acts unevenly at every scale that was tried"


def quality_facts(quality: "Quality") -> dict[str, str]:
    """Describe a direction's quality in words, without what is unknown."""
    between = quality.recommended_range
    words = {
        "effect": (quality.effect, "{:.3g} standard deviations per unit scale"),
        "selectivity": (quality.selectivity, "{:.0%} of all that it moves is one score"),
        "consistency": (quality.consistency, "the same sign on {:.0%} of the seeds"),
        "linearity": (quality.linearity, "R² {:.2f} of a straight line"),
        "recommended range": (between and _scales(*between), "{}"),
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


def echo_parts(parts: Sequence[Row]) -> None:
    """Print what a composite is made of, heaviest first, as a table: of many parts the first."""
    echo_table(parts[:MOST_PARTS], ["direction", "weight"])
    if len(parts) > MOST_PARTS:
        log(f"the {MOST_PARTS} heaviest of {len(parts):,} directions are listed: all with --format json")


def facts(found: Mapping[str, Any]) -> None:
    """Print one thing's fields as a table of two columns."""
    rows = [{"what": key, "value": value} for key, value in found.items()]
    echo_table(rows, ["what", "value"])


def names_given(names: tuple[str, ...]) -> list[str]:
    """Return the directions that arguments name. `-` reads them from standard input, one a line, as `-q` prints them."""
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
    return list(dict.fromkeys(found))
