"""What a run of many checkpoints shows while it lasts: bars on a terminal, a line for each one that is finished elsewhere."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from eigenbank.cli.output import say

if TYPE_CHECKING:
    from eigenbank.schemas.plan import EntryReport


@contextmanager
def live(total: int) -> Iterator["Live"]:
    """Show the progress of so many checkpoints on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        yield Live(bars, total)


class Live:
    """Bars: one for the whole, one for each checkpoint that is being worked on. Safe between threads."""

    def __init__(self, bars: Any, total: int) -> None:
        self._bars = bars
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._tasks: dict[str, Any] = {}
        self._whole = bars.add_task("checkpoints", total=total)

    def begun(self, entry: str, step: str) -> None:
        """A step is handed out."""
        with self._lock:
            if entry not in self._tasks:
                self._tasks[entry] = self._bars.add_task("", total=None)
            self._bars.reset(self._tasks[entry], description=f"{entry}: {step}", total=None)

    def progress(self, entry: str, what: str, done: int, total: int) -> None:
        """A step gets on."""
        with self._lock:
            if entry in self._tasks:
                self._bars.update(self._tasks[entry], description=f"{entry}: {what}", completed=done, total=total)

    def finished(self, report: "EntryReport") -> None:
        """A checkpoint is done with, in one way or another. What did not change is only counted."""
        with self._lock:
            self._done += 1
            task = self._tasks.pop(report.id, None)
            if task is not None:
                self._bars.remove_task(task)
            self._bars.update(self._whole, completed=self._done)
            if report.status != "unchanged":
                steps = ", ".join(step.step for step in report.steps if step.outcome == "done") or "nothing"
                text = report.error.partition("\n")[0] if report.error else f"{steps} done"
                self._print(f"[{self._done}/{self._total}] {report.id}: {'failed: ' if report.error else ''}{text}")

    def say(self, message: str) -> None:
        """A remark of a step's."""
        self._print(message)

    def _print(self, message: str) -> None:
        if self._bars.disable:
            say(message)
        else:
            self._bars.console.print(message, markup=False, highlight=False)
