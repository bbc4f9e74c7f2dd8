"""`eigenbank plan`: many checkpoints at once, from a file that lists them."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenbank.cli.output import emit, format_option, log, progress_bar
from eigenbank.schemas.printable import printable

if TYPE_CHECKING:
    from eigenbank.plans.check import Estimate
    from eigenbank.plans.executors import Executor
    from eigenbank.schemas.plan import EntryReport, Lock, Plan, PlanEntry

RUN_COLUMNS = ["id", "status", "steps", "directions", "labels", "seconds", "published", "error"]
CHECK_COLUMNS = ["id", "status", "revision", "problems"]
ESTIMATE_COLUMNS = ["id", "layers", "widths", "read", "weights", "seconds", "memory", "images", "passes", "error"]

MBIT = 100
"""Speed of the network that --dry-run assumes, in megabits a second."""


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


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--only", multiple=True, metavar="GLOB", help="Only checkpoints whose id matches; repeatable.")
@click.option("--check", is_flag=True, help="Compare the plan with the Hub and pin its revisions; build nothing.")
@click.option("--dry-run", is_flag=True, help="Tell what it would take; with --check, write no lock file.")
@click.option("--publish", metavar="ORG", help="Publish each set under this user or organisation.")
@click.option("--label", is_flag=True, help="Label the directions, and generate previews of the labelled ones.")
@click.option(
    "--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where jobs run."
)
@click.option(
    "--jobs", type=click.IntRange(1, 1024), metavar="N", default=2, show_default=True, help="Checkpoints at once."
)
@click.option("--device", default="auto", show_default=True, help="Where to generate [auto: as the plan says].")
@click.option(
    "--lock", type=click.Path(path_type=Path, dir_okay=False), help="Lock file [default: FILE's name with .lock]."
)
@format_option
def plan(
    file: Path | None,
    only: tuple[str, ...],
    check: bool,
    dry_run: bool,
    publish: str | None,
    label: bool,
    executor: str,
    jobs: int,
    device: str,
    lock: Path | None,
    fmt: str,
) -> int:
    """Build, label, preview and publish the checkpoints of a plan, and skip what is done already.

    FILE is a TOML file, see docs/plans.md [default: the plan that ships with eigenbank]. A checkpoint that fails does
    not stop the others. If you interrupt the command, run it again to continue.

    --check compares each checkpoint with the Hub (repository, licence, gated or not, class of the denoiser, readable
    weights, whether its pipeline needs a prompt) and pins its commit in the lock file. --dry-run tells what it would
    take: bytes, seconds and memory to build; images and denoiser passes, at most, to label and preview (only to screen,
    for labelers that have to be opened to know their scores).

    Exits with 1 if a checkpoint failed or differs from the plan.

    \b
    Example:
      eigenbank plan --only 'google/ddpm-*' --dry-run
      eigenbank plan --only 'google/ddpm-*' --jobs 2 --publish my-name
    """
    from eigenbank.plans.files import choose, lock_path, read_lock, read_plan, shipped_plan
    from eigenbank.registry.hub.client import is_repo_id

    if (check or dry_run) and (publish or label):
        message = f"{'--check' if check else '--dry-run'} builds nothing: leave out --publish and --label"
        raise click.UsageError(message)
    if publish is not None and ("/" in publish or not is_repo_id(publish)):
        message = f"{publish!r}: expected the name of a user or organisation on the Hub"
        raise click.BadParameter(message, param_hint="--publish")
    path = file or shipped_plan()
    whole = read_plan(path)
    entries = choose(whole, only)
    lock = lock or lock_path(path)
    pins = read_lock(lock)
    if check:
        rows, ok = _check(entries, whole, pins, None if dry_run else lock)
        emit("plan-check", rows, CHECK_COLUMNS, fmt=fmt)
        return 0 if ok else 1
    if dry_run:
        rows, ok = _estimate(entries, whole, pins)
        emit("plan-estimate", rows, ESTIMATE_COLUMNS, fmt=fmt)
        return 0 if ok else 1
    done = _run(entries, whole, pins, label=label, publish=publish, executor=executor, jobs=jobs, device=device)
    rows = [run_row(each) for each in done]
    if fmt == "table":
        # Thousands that did not change are no news.
        rows = [row for row in rows if row["status"] != "unchanged"]
    emit("plan-run", rows, RUN_COLUMNS, fmt=fmt)
    return 1 if any(each.status == "failed" for each in done) else 0


def _run(
    entries: "Sequence[PlanEntry]", whole: "Plan", pins: "Lock | None", *, label: bool, publish: str | None, executor: str,
    jobs: int, device: str,
) -> "list[EntryReport]":  # fmt: skip
    from eigenbank.plans.run import Run
    from eigenbank.plans.steps import RunOptions

    begun = time.perf_counter()
    with CheckpointBars(len(entries)) as bars:
        workers, options = _executor(executor, jobs, device), RunOptions(label, publish)
        reports = Run(workers, options, jobs=jobs, device=device, observer=bars).go(entries, whole, pins)
    seconds = time.perf_counter() - begun
    counts = Counter(each.status for each in reports)
    parts = ", ".join(f"{counts[status]} {status}" for status in ("done", "unchanged", "failed") if counts[status])
    plural = "" if len(reports) == 1 else "s"
    log(f"{len(reports)} checkpoint{plural} in {seconds:,.1f} s: {parts or 'nothing to do'}")
    return reports


def _check(
    entries: "Sequence[PlanEntry]", whole: "Plan", pins: "Lock | None", lock: Path | None
) -> tuple[list[dict[str, Any]], bool]:
    """Compare the entries with the Hub, and write the lock file if one is given. Returns rows, and whether all is right."""
    from eigenbank.plans.check import check_entries, update_lock
    from eigenbank.plans.files import write_lock

    with progress_bar() as progress:
        found = check_entries(entries, whole, progress)
    if lock is not None:
        write_lock(lock, update_lock(found, pins))
        log(f"{sum(one.revision is not None for one in found)} of {len(found)} checkpoints are pinned in {lock}")
    wrong = sum(bool(one.problems) for one in found)
    log(f"{len(found)} checkpoints: {len(found) - wrong} as the plan says, {wrong} not")
    rows = [
        {
            "id": one.entry.id,
            "repo": one.entry.source,
            "status": "gone" if one.gone else "wrong" if one.problems else "right",
            "revision": one.revision,
            "problems": list(one.problems),
            "notes": list(one.notes),
            "unchecked": list(one.entry.unchecked),
        }
        for one in found
    ]
    return rows, not wrong


def _estimate(entries: "Sequence[PlanEntry]", whole: "Plan", pins: "Lock | None") -> tuple[list[dict[str, Any]], bool]:
    """Estimate what the entries cost, with a network of `MBIT`. Returns rows, and whether all are known."""
    from eigenbank.plans.check import estimate_entries

    with progress_bar() as progress:
        found = estimate_entries(entries, whole, pins, bytes_per_second=MBIT * 125_000, progress=progress)
        rows = [estimate_row(entry, one) for entry, one in found]
    known = [row for row in rows if row["error"] is None]
    read, seconds = sum(row["bytes_to_read"] for row in known), sum(row["seconds"] for row in known)
    log(
        f"{len(known)} of {len(rows)} checkpoints: {megabytes(read)} to read, {seconds:,.0f} s at {MBIT} Mbit/s, one by one"
    )
    return rows, len(known) == len(rows)


def estimate_row(entry: "PlanEntry", found: "Estimate | str") -> dict[str, Any]:
    """Turn an estimate, or the reason why there is none, into a row."""
    fields = (
        "layers", "widths", "bytes_to_read", "bytes_of_weights", "seconds_to_read", "seconds_to_solve", "bytes_of_memory",
        "read", "weights", "seconds", "memory", "images", "images_to_screen", "images_to_label", "images_of_previews", "passes",
    )  # fmt: skip
    if isinstance(found, str):
        return {"id": entry.id, **dict.fromkeys(fields), "widths": [], "error": found}
    seconds = (found.read_seconds, found.solve_seconds)
    sizes = (found.read, found.total, found.memory)
    values = (
        found.layers, list(found.widths), found.read, found.total, round(seconds[0], 2), round(seconds[1], 2), found.memory,
        megabytes(sizes[0]), megabytes(sizes[1]), round(max(seconds), 1), megabytes(sizes[2]),
        (found.screening if found.images is None else found.images) + found.previews, found.screening, found.images, found.previews,
        found.passes,
    )  # fmt: skip
    return {"id": entry.id, **dict(zip(fields, values, strict=True)), "error": None}


def megabytes(count: int) -> str:
    """Write a number of bytes in MB or GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _executor(name: str, jobs: int, device: str) -> "Callable[[Path], Executor]":
    """Return what starts the workers, once there is something to do."""
    from eigenbank.plans.executors import LocalExecutor, RayExecutor

    if name == "local":
        return lambda scratch: LocalExecutor(jobs, scratch)
    return lambda _scratch: RayExecutor(jobs, device)


def run_row(report: "EntryReport") -> dict[str, Any]:
    """Turn a report on a checkpoint into a row."""
    suffix = {"done": "", "failed": " failed"}
    steps = [f"{step.step}{suffix[step.outcome]}" for step in report.steps if step.outcome in suffix]
    return {
        **report.model_dump(mode="json", exclude={"steps", "traceback"}),
        "steps": steps,
        "seconds": round(sum(step.seconds or 0.0 for step in report.steps), 3),
        "step_reports": [step.model_dump(mode="json") for step in report.steps],
        "traceback": report.traceback,
    }
