"""What every command prints: rows on stdout, as a table or in a machine's format; remarks and progress on stderr.

Whatever is printed goes through here, and what a terminal would obey, hide or reorder is shown as an escape.
"""

import csv
import json
import logging
import sys
import threading
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
    from eigenbank.schemas.plan import EntryReport

FORMATS = ("table", "json", "jsonl", "csv", "tsv")
Row = Mapping[str, Any]
F = TypeVar("F", bound=Callable[..., Any])


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


def emit(rows: Sequence[Row], columns: Sequence[str], *, fmt: str, quiet: bool = False, key: str = "") -> None:
    """Print rows on stdout: all their fields for machines, the named columns in a table, the field `key` with `-q`."""
    if sys.stdout is None:
        return
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
    click.echo(printable(message), err=True)


def guard_messages() -> None:
    """Make what libraries warn of and log in this process printable, too: they quote files' names and contents."""
    shown = warnings.formatwarning
    warnings.formatwarning = lambda *found, **more: f"{printable(shown(*found, **more).rstrip())}\n"
    logging.setLogRecordFactory(_PrintableRecord)


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
            bars.update(task, description=what, completed=done, total=total, rate=rate)

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


class CheckpointBars:
    """Progress of many checkpoints on stderr: a bar for all, one for each in work; off a terminal, a line for each that is done.

    Safe to call from several threads. Use as a context manager.
    """

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        text = TextColumn("{task.description}", markup=False)
        console = Console(stderr=True)
        self._bars = Progress(
            text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._tasks: dict[str, Any] = {}
        self._all = self._bars.add_task("checkpoints", total=total)

    def __enter__(self) -> "CheckpointBars":
        self._bars.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._bars.stop()

    def step_started(self, entry: str, step: str) -> None:
        """A checkpoint's step begins."""
        with self._lock:
            if entry not in self._tasks:
                self._tasks[entry] = self._bars.add_task("", total=None)
            self._bars.reset(self._tasks[entry], description=printable(f"{entry}: {step}"), total=None)

    def progress(self, entry: str, what: str, done: int, total: int) -> None:
        """A checkpoint's step gets on."""
        with self._lock:
            if entry in self._tasks:
                self._bars.update(
                    self._tasks[entry], description=printable(f"{entry}: {what}"), completed=done, total=total
                )

    def entry_finished(self, report: "EntryReport") -> None:
        """A checkpoint is done, or failed. One that did not change is only counted."""
        with self._lock:
            self._done += 1
            task = self._tasks.pop(report.id, None)
            if task is not None:
                self._bars.remove_task(task)
            self._bars.update(self._all, completed=self._done)
            if report.status != "unchanged":
                steps = ", ".join(step.step for step in report.steps if step.outcome == "done") or "nothing"
                text = f"failed: {report.error.partition(chr(10))[0]}" if report.error else f"{steps} done"
                self.log(f"[{self._done}/{self._total}] {report.id}: {text}")

    def log(self, message: str) -> None:
        """Print a remark above the bars."""
        if self._bars.disable:
            log(message)
        else:
            self._bars.console.print(printable(message), markup=False, highlight=False)


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
    return printable(text, lines=True)


def _flat(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, (list, tuple, dict)):
        return printable_json(json.dumps(value, ensure_ascii=False, default=str))
    return printable(value, lines=True) if isinstance(value, str) else value
