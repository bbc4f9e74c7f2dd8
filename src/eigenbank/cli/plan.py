"""`eigenbank plan`: many checkpoints at once, from a file that lists them."""

import datetime
import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenbank.cli.live import live
from eigenbank.cli.options import catalog_option
from eigenbank.cli.output import output_options, say
from eigenbank.cli.rows import put_out

if TYPE_CHECKING:
    from eigenbank.schemas.plan import EntryReport

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
jobs_option = click.option("--jobs", type=click.IntRange(1, 256), metavar="N", help="How many at once.")


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
@catalog_option
@output_options
def run(
    file: Path | None,
    only: tuple[str, ...],
    publish: str | None,
    label: bool,
    executor: str,
    jobs: int | None,
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
    from eigenbank.plans.decide import Wish
    from eigenbank.plans.file import choose, lock_path, read_lock, read_plan, shipped_plan
    from eigenbank.plans.run import Run
    from eigenbank.registry.catalog import Catalog
    from eigenbank.schemas.plan import RunReport

    path = file or shipped_plan()
    found = read_plan(path)
    entries = choose(found, only)
    pins = read_lock(lock or lock_path(path))
    started, begun = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    with Catalog.open() as catalog, live(len(entries)) as watch:
        workers = _executor(executor, jobs, device)
        try:
            job = Run(catalog, workers, Wish(label, publish), device=device, watch=watch)
            reports = job.go(entries, found, pins)
        finally:
            workers.close()
    whole = RunReport(
        started=started,
        seconds=round(time.perf_counter() - begun, 3),
        executor=executor,
        jobs=workers.slots,
        checkpoints=tuple(reports),
    )
    if report is not None:
        _write(report, whole.model_dump(mode="json"))
    rows = [run_row(each) for each in reports]
    counts = Counter(each.status for each in reports)
    told = ", ".join(f"{counts[status]} {status}" for status in ("done", "unchanged", "failed") if counts[status])
    say(f"{len(reports)} checkpoints in {whole.seconds:,.1f} s: {told or 'nothing to do'}")
    if fmt == "table" and not quiet:
        # Thousands that did not change are no news.
        rows = [row for row in rows if row["status"] != "unchanged"]
    put_out("plan-run", rows, RUN_COLUMNS, fmt=fmt, quiet=quiet, key="id")
    return 1 if counts["failed"] else 0


def _executor(name: str, jobs: int | None, device: str) -> Any:
    from eigenbank.plans.local import LocalExecutor

    if name == "local":
        return LocalExecutor(jobs or 2)
    from eigenbank.plans.cluster import RayExecutor

    return RayExecutor(jobs, device)


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
