"""Run a plan: do the remaining steps of every checkpoint, several checkpoints at once, and report on each.

Executors build, label and sample; this process alone enters their sets into the catalog and publishes, so the login that
may write stays on this machine. However a run ends, each checkpoint is as its last finished step left it, and the next run
goes on from there.
"""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from eigenbank.plans.executors import Executor
from eigenbank.plans.files import pinned
from eigenbank.plans.steps import RunOptions, StepFailure, StepResult, StepTask, remaining
from eigenbank.plans.transport import pack, retry, unpack
from eigenbank.registry.catalog import Catalog, SetRow
from eigenbank.registry.files import home
from eigenbank.registry.hub.pull import folder_for
from eigenbank.schemas.errors import PlanError
from eigenbank.schemas.plan import EntryReport, Lock, Plan, PlanEntry, Settings, Step, StepReport

PARALLEL_LOOKUPS = 8
"""How many revisions are looked up on the Hub at once."""
PUBLISH_TRIES = 10


class RunObserver(Protocol):
    """Hears what happens in a run, from several threads."""

    def step_started(self, entry_id: str, step: str) -> None: ...
    def progress(self, entry_id: str, what: str, done: int, total: int) -> None: ...
    def entry_finished(self, report: EntryReport) -> None: ...
    def log(self, message: str) -> None: ...


@dataclass
class EntryRun:
    """A checkpoint in a run: its `steps` still to do, and where its set lies so far."""

    entry: PlanEntry
    settings: Settings
    revision: str | None
    steps: list[Step] = field(default_factory=list)
    row: SetRow | None = None
    folder: Path | None = None
    reports: list[StepReport] = field(default_factory=list)


class Run:
    """One run of a plan, `jobs` checkpoints at once. `open_executor` takes a folder for its workers' temporary files.

    `device` is where images are sampled; weights are decomposed on the CPU unless it is `cuda`. Every thread opens the
    catalog for itself.
    """

    def __init__(
        self,
        open_executor: Callable[[Path], Executor],
        options: RunOptions,
        *,
        jobs: int,
        device: str = "auto",
        observer: RunObserver,
    ) -> None:
        self.open_executor = open_executor
        self.options = options
        self.jobs = jobs
        self.device = device
        self.observer = observer
        self._writing = threading.Lock()

    def go(self, entries: Sequence[PlanEntry], plan: Plan, lock: Lock | None) -> list[EntryReport]:
        """Do the entries' remaining steps. Returns a report on each, in their order; one that fails stops no other.

        Raises only what concerns all of them: CatalogError, and PlanError where nothing can be written or no worker
        started.
        """
        with Catalog.open() as catalog:
            rows = {(row.model_id, row.revision): row for row in catalog.sets()}
        runs = [EntryRun(entry, entry.settings(plan.defaults), pinned(entry, lock)) for entry in entries]
        reports: dict[str, EntryReport] = {}
        with ThreadPoolExecutor(PARALLEL_LOOKUPS, thread_name_prefix="hub") as pool:
            for run, failure in zip(runs, pool.map(_look_up_revision, runs), strict=True):
                if failure is not None:
                    run.steps = list(self.options.steps(run.settings))
                    reports[run.entry.id] = self._failed(run, None, failure)
                    continue
                self._decide(run, rows.get((run.entry.id, run.revision)))
                if not run.steps:
                    reports[run.entry.id] = self._finished(run, "unchanged")
        pending = [run for run in runs if run.entry.id not in reports]
        if pending:
            with staging_folder() as staging, closing(self.open_executor(staging)) as executor:
                pool = ThreadPoolExecutor(self.jobs, thread_name_prefix="checkpoint")
                try:
                    for report in pool.map(lambda run: self._do_steps(run, executor, staging), pending):
                        reports[report.id] = report
                finally:
                    # Threads that wait for workers go on when the executor is closed.
                    pool.shutdown(wait=False, cancel_futures=True)
        return [reports[entry.id] for entry in entries]

    def _decide(self, run: EntryRun, row: SetRow | None) -> None:
        run.row = row
        run.steps = list(remaining(run.entry, run.settings, row, self.options))
        steps = self.options.steps(run.settings)
        done = steps[: len(steps) - len(run.steps)]
        run.reports = [StepReport(step=step, outcome="there", attempts=0) for step in done]

    def _do_steps(self, run: EntryRun, executor: Executor, staging: Path) -> EntryReport:
        """Do a checkpoint's steps, one after another. Raises CancelledError where the run was ended."""
        while run.steps:
            step = run.steps[0]
            self.observer.step_started(run.entry.id, step)
            started = time.perf_counter()
            attempts: int | None = 1
            bytes_read = None
            try:
                if step == "publish":
                    attempts = self._publish(run)
                    seconds = time.perf_counter() - started
                else:
                    outcome, attempts = executor.perform(
                        self._task(run, step), partial(self.observer.progress, run.entry.id)
                    )
                    if isinstance(outcome, StepFailure):
                        return self._failed(run, step, outcome, attempts)
                    seconds, bytes_read = outcome.seconds, outcome.bytes_read
                    self._enter(run, outcome, staging)
            except CancelledError:
                raise
            except Exception as error:
                return self._failed(run, step, StepFailure.of(error, started), attempts)
            self._step_done(run, StepReport(
                step=step, outcome="done", seconds=round(seconds, 3), bytes_read=bytes_read, attempts=attempts
            ))  # fmt: skip
            if step == "label" and run.steps[:1] == ["preview"] and self._has_nothing_to_preview(run):
                self._step_done(run, StepReport(step="preview", outcome="done", seconds=0.0))
        return self._finished(run, "done")

    def _step_done(self, run: EntryRun, report: StepReport) -> None:
        run.reports.append(report)
        run.steps.pop(0)

    def _task(self, run: EntryRun, step: Step) -> StepTask:
        """Return the step with everything a worker needs for it."""
        assert run.revision is not None
        files = None if step == "build" else pack(self._folder(run))
        device = self.device if step != "build" or self.device == "cuda" else "cpu"
        return StepTask(step, run.entry, run.settings, run.revision, device, files)

    def _folder(self, run: EntryRun) -> Path:
        """Return where the checkpoint's set lies; fetched first, if it is published and not on this machine."""
        if run.folder is None:
            assert run.row is not None
            run.folder = folder_for(run.row, log=self.observer.log)
        return run.folder

    def _enter(self, run: EntryRun, result: StepResult, staging: Path) -> None:
        """Write a worker's set to disk and enter it into the catalog; no other place does."""
        from eigenbank.registry.local import store_folder

        for message in result.messages:
            self.observer.log(f"{run.entry.id}: {message}")
        with tempfile.TemporaryDirectory(dir=staging, ignore_cleanup_errors=True) as folder:
            written = unpack(result.files, Path(folder) / "set")
            with self._writing, Catalog.open() as catalog:
                run.folder = store_folder(written, catalog)

    def _publish(self, run: EntryRun) -> int:
        """Publish a checkpoint's set. Returns how many tries the network took."""
        from eigenbank.registry.hub.publish import publish_set

        folder, repo = str(self._folder(run)), self.options.repo(run.entry)
        assert repo is not None
        with Catalog.open() as catalog:
            return retry(lambda: publish_set(folder, repo, catalog, log=self.observer.log), PUBLISH_TRIES)[1]

    def _has_nothing_to_preview(self, run: EntryRun) -> bool:
        """Whether labelling found no label, and so marked previews as done."""
        row = _catalog_row(run)
        return row is not None and "preview" not in remaining(run.entry, run.settings, row, RunOptions(label=True))

    def _failed(self, run: EntryRun, step: Step | None, failure: StepFailure, attempts: int | None = 1) -> EntryReport:
        if step is not None:
            report = StepReport(step=step, outcome="failed", seconds=round(failure.seconds, 3), attempts=attempts)
            self._step_done(run, report)
        run.reports += [StepReport(step=each, outcome="not reached", attempts=0) for each in run.steps]
        return self._finished(run, "failed", failure)

    def _finished(self, run: EntryRun, status: Any, failure: StepFailure | None = None) -> EntryReport:
        row = run.row
        # Unchanged checkpoints, of which there may be thousands, are not looked up once more.
        if status != "unchanged" and run.revision is not None:
            row = _catalog_row(run)
        report = EntryReport(
            id=run.entry.id,
            repo=run.entry.source,
            revision=run.revision,
            status=status,
            steps=tuple(run.reports),
            directions=None if row is None else row.directions,
            labels=None if row is None else row.labels,
            location=None if row is None else row.location,
            published=None if row is None else row.repo,
            commit=None if row is None else row.commit,
            error=None if failure is None else failure.message,
            traceback=None if failure is None else failure.traceback,
        )
        self.observer.entry_finished(report)
        return report


def _catalog_row(run: EntryRun) -> SetRow | None:
    with Catalog.open() as catalog:
        return catalog.get_set(run.entry.id, run.revision)


def _look_up_revision(run: EntryRun) -> StepFailure | None:
    """Ask the Hub for the commit to build at, where the plan and its lock do not say. Returns why that failed."""
    from eigenbank.builders.checkpoints.hub import resolve
    from eigenbank.registry.hub.client import check_online

    started = time.perf_counter()
    try:
        if run.revision is None:
            check_online(f"finding the revision of {run.entry.source}", "nothing was built")
            run.revision = resolve(run.entry.source, run.entry.revision)[0]
    except Exception as error:
        return StepFailure.of(error, started)
    return None


@contextmanager
def staging_folder() -> Iterator[Path]:
    """A folder for sets on their way into the catalog, on the same disk as its sets; leftovers of killed runs are removed.

    Raises PlanError where it cannot be created, or while another run with the same home has it.
    """
    from filelock import FileLock, Timeout

    root = home() / "staging"
    with ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(home() / "staging.lock", timeout=0))
            for leftover in root.iterdir():
                shutil.rmtree(leftover, ignore_errors=True)
            made = tempfile.TemporaryDirectory(prefix="run-", dir=root, ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
        except Timeout:
            message = f"another plan is running with the same home, {home()}: nothing was done. Wait for it, or set EIGENBANK_HOME"
            raise PlanError(message) from None
        except OSError as error:
            message = (
                f"{root} cannot be written ({error.strerror}): nothing was built. Make room, or set EIGENBANK_HOME"
            )
            raise PlanError(message) from error
        yield folder
