"""`eigenbank plan`: many checkpoints at once, from a file that lists them."""

import datetime
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenbank.cli.output import CheckpointBars, log, output_options, progress_bar
from eigenbank.cli.rows import emit_rows

if TYPE_CHECKING:
    from eigenbank.plans.check import Estimate
    from eigenbank.plans.executors import Executor
    from eigenbank.schemas.plan import EntryReport, PlanEntry

RUN_COLUMNS = ["id", "status", "steps", "directions", "labels", "seconds", "published", "error"]


@click.group(short_help="Build, label and publish many checkpoints.")
def plan() -> None:
    """Build, label and publish the checkpoints that a plan lists, checked and pinned beforehand.

    A plan is a TOML file, see docs/plans.md. Without one, the plan that comes with eigenbank is used.

    \b
    Example:
      eigenbank plan estimate --only 'google/ddpm-*'
    """


file_argument = click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
only_option = click.option(
    "--only", multiple=True, metavar="GLOB", help="Only checkpoints whose id matches; repeatable."
)
lock_option = click.option(
    "--lock", type=click.Path(path_type=Path, dir_okay=False), help="Lock file [default: FILE's name with .lock]."
)
jobs_option = click.option(
    "--jobs", type=click.IntRange(1, 1024), metavar="N", default=2, show_default=True, help="How many at once."
)


@plan.command(short_help="Do what a plan asks for and is not done yet.")
@file_argument
@only_option
@click.option("--publish", metavar="ORG", help="Publish each set under this user or organisation.")
@click.option("--label", is_flag=True, help="Label the directions, and draw previews of the labelled ones.")
@click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Who works.")
@jobs_option
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to draw."
)
@lock_option
@click.option(
    "--report", type=click.Path(path_type=Path, dir_okay=False), help="Write what was done to this file, as JSON."
)
@output_options
def run(
    file: Path | None,
    only: tuple[str, ...],
    publish: str | None,
    label: bool,
    executor: str,
    jobs: int,
    device: str,
    lock: Path | None,
    report: Path | None,
    fmt: str,
    quiet: bool,
) -> int:
    """Build, label, preview and publish the checkpoints of a plan; what is done already is skipped.

    FILE is a plan; without it the one that comes with eigenbank. A checkpoint that fails does not stop the others: exit
    code 1 says that one did. Cut short at any moment and run again, it goes on.

    \b
    Example:
      eigenbank plan run --only 'google/ddpm-*' --jobs 2 --publish my-name
    """
    from eigenbank.plans.files import choose, lock_path, read_lock, read_plan, shipped_plan
    from eigenbank.plans.run import Run
    from eigenbank.plans.steps import RunOptions
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.hub.client import is_repo_id
    from eigenbank.schemas.plan import RunReport

    if publish is not None and ("/" in publish or not is_repo_id(publish)):
        message = f"{publish!r}: expected the name of a user or organisation on the Hub"
        raise click.BadParameter(message, param_hint="--publish")
    path = file or shipped_plan()
    found = read_plan(path)
    entries = choose(found, only)
    pins = read_lock(lock or lock_path(path))
    started, begun = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    with Catalog.open() as catalog, CheckpointBars(len(entries)) as bars:
        workers, options = _executor(executor, jobs, device), RunOptions(label, publish)
        reports = Run(catalog, workers, options, jobs=jobs, device=device, observer=bars).go(entries, found, pins)
    whole = RunReport(
        started=started,
        seconds=round(time.perf_counter() - begun, 3),
        executor=executor,
        jobs=jobs,
        checkpoints=tuple(reports),
    )
    rows = [run_row(each) for each in reports]
    counts = Counter(each.status for each in reports)
    told = ", ".join(f"{counts[status]} {status}" for status in ("done", "unchanged", "failed") if counts[status])
    log(
        f"{len(reports)} checkpoint{'' if len(reports) == 1 else 's'} in {whole.seconds:,.1f} s: {told or 'nothing to do'}"
    )
    if fmt == "table" and not quiet:
        # Thousands that did not change are no news.
        rows = [row for row in rows if row["status"] != "unchanged"]
    emit_rows("plan-run", rows, RUN_COLUMNS, fmt=fmt, quiet=quiet, key="id")
    if report is not None:
        _write(report, whole.model_dump(mode="json"))
    return 1 if counts["failed"] else 0


CHECK_COLUMNS = ["id", "status", "revision", "problems"]


@plan.command(short_help="Hold a plan against the Hub, and pin its revisions.")
@file_argument
@only_option
@lock_option
@click.option("--dry-run", is_flag=True, help="Check only; write no lock file.")
@output_options
def check(file: Path | None, only: tuple[str, ...], lock: Path | None, dry_run: bool, fmt: str, quiet: bool) -> int:
    """Hold every line of a plan against the Hub, and pin what was found in a lock file.

    Is the repository there under that name, is it gated, what licence does its card state, where is the denoiser, of
    which class, can its weights be read? Headers are read, no weights. `plan run` builds at the commits of the lock file
    and asks the Hub nothing about them. Exit code 1 says that something is not as the plan has it.

    \b
    Example:
      eigenbank plan check --only 'google/*' --dry-run
    """
    from eigenbank.plans.check import check_entries, update_lock
    from eigenbank.plans.files import choose, lock_path, read_lock, read_plan, shipped_plan, write_lock

    path = file or shipped_plan()
    entries = choose(read_plan(path), only)
    place = lock or lock_path(path)
    before = read_lock(place)
    with progress_bar() as progress:
        found = check_entries(entries, progress)
    pins = update_lock(found, before)
    if not dry_run:
        write_lock(place, pins)
        log(f"{sum(one.revision is not None for one in found)} of {len(found)} checkpoints are pinned in {place}")
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
    emit_rows("plan-check", rows, CHECK_COLUMNS, fmt=fmt, quiet=quiet, key="id")
    wrong = sum(bool(one.problems) for one in found)
    log(f"{len(found)} checkpoints: {len(found) - wrong} as the plan says, {wrong} not")
    return 1 if wrong else 0


ESTIMATE_COLUMNS = ["id", "layers", "widths", "read", "weights", "seconds", "memory", "error"]


@plan.command(short_help="Say what building a plan would cost.")
@file_argument
@only_option
@lock_option
@click.option(
    "--mbit",
    type=click.FloatRange(0.001, 1e6),
    default=100.0,
    show_default=True,
    help="Megabits a second that the network brings.",
)
@output_options
def estimate(file: Path | None, only: tuple[str, ...], lock: Path | None, mbit: float, fmt: str, quiet: bool) -> int:
    """Say what building a plan would cost: bytes to read, seconds, memory; from headers alone.

    Solving is timed here, once for every width, on a random matrix. Labels and previews, which need the whole pipeline
    and a GPU for all but the smallest, are not part of it. Exit code 1 says that a checkpoint could not be looked at.

    \b
    Example:
      eigenbank plan estimate --only 'google/*' --mbit 50
    """
    from eigenbank.plans.check import estimate_entries
    from eigenbank.plans.files import choose, lock_path, read_lock, read_plan, shipped_plan

    path = file or shipped_plan()
    whole = read_plan(path)
    entries = choose(whole, only)
    pins = read_lock(lock or lock_path(path))
    with progress_bar() as progress:
        asked = estimate_entries(entries, whole, pins, bytes_per_second=mbit * 125_000, progress=progress)
        rows = [estimate_row(entry, one) for entry, one in asked]
    emit_rows("plan-estimate", rows, ESTIMATE_COLUMNS, fmt=fmt, quiet=quiet, key="id")
    known_rows = [row for row in rows if row["error"] is None]
    read, seconds = sum(row["bytes_to_read"] for row in known_rows), sum(row["seconds"] for row in known_rows)
    log(
        f"{len(known_rows)} of {len(rows)} checkpoints: {megabytes(read)} to read, {seconds:,.0f} s at {mbit:g} Mbit/s, one by one"
    )
    return 1 if len(known_rows) < len(rows) else 0


def estimate_row(entry: "PlanEntry", found: "Estimate | str") -> dict[str, Any]:
    """What a checkpoint costs, as the fields every machine format prints; or why that is not known."""
    fields = (
        "layers", "widths", "bytes_to_read", "bytes_of_weights", "seconds_to_read", "seconds_to_solve", "bytes_of_memory",
        "read", "weights", "seconds", "memory",
    )  # fmt: skip
    if isinstance(found, str):
        return {"id": entry.id, **dict.fromkeys(fields), "widths": [], "error": found}
    seconds = (found.read_seconds, found.solve_seconds)
    sizes = (found.read, found.total, found.memory)
    values = (
        found.layers, list(found.widths), found.read, found.total, round(seconds[0], 2), round(seconds[1], 2), found.memory,
        megabytes(sizes[0]), megabytes(sizes[1]), round(max(seconds), 1), megabytes(sizes[2]),
    )  # fmt: skip
    return {"id": entry.id, **dict(zip(fields, values, strict=True)), "error": None}


def megabytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _executor(name: str, jobs: int, device: str) -> "Callable[[Path], Executor]":
    """What starts the workers once there is something to do."""
    from eigenbank.plans.executors import LocalExecutor, RayExecutor

    if name == "local":
        return lambda scratch: LocalExecutor(jobs, scratch)
    return lambda _scratch: RayExecutor(jobs, device)


def run_row(report: "EntryReport") -> dict[str, Any]:
    """What was done with a checkpoint, as the fields every machine format prints."""
    told = {"done": "", "failed": " failed"}
    steps = [f"{step.step}{told[step.outcome]}" for step in report.steps if step.outcome in told]
    return {
        **report.model_dump(mode="json", exclude={"steps", "traceback"}),
        "steps": steps,
        "seconds": round(sum(step.seconds or 0.0 for step in report.steps), 3),
        "step_reports": [step.model_dump(mode="json") for step in report.steps],
        "traceback": report.traceback,
    }


def _write(path: Path, value: Any) -> None:
    from eigenbank.registry.files import replacing
    from eigenbank.schemas.errors import PlanError

    try:
        with replacing(path) as work:
            work.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        message = (
            f"the report {path} cannot be written ({error.strerror}); what the plan asked for was done all the same"
        )
        raise PlanError(message) from error
