"""Running a plan: who gets the next step, what comes back, and the one hand that writes the catalog.

Workers build, label and draw; sets come back here and are entered one after the other. Asking the Hub for a revision and
publishing happen here, too, in threads: the login that may write stays on this machine. Whatever ends a run, each
checkpoint is as its last finished step left it, and the next run goes on from there.
"""

import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from eigenbank.plans.decide import Wish, remaining
from eigenbank.plans.file import pinned
from eigenbank.plans.local import Executor
from eigenbank.plans.pack import pack, unpack
from eigenbank.plans.tasks import Answer, Failure, Made, Result, Task
from eigenbank.registry.catalog import Catalog, SetRow
from eigenbank.registry.hub.resolve import folder_for
from eigenbank.registry.paths import home
from eigenbank.schemas.errors import PlanError, UnreachableError
from eigenbank.schemas.plan import Entry, EntryReport, Lock, Plan, Settings, Step, StepReport

ASKING = 8
"""Threads that ask the Hub for revisions, or publish."""
TRIES = 10
"""A publish that the network cuts short is tried so often."""


class Watch(Protocol):
    """Is told what happens, from whichever thread it happens in."""

    def begun(self, entry: str, step: str) -> None: ...
    def progress(self, entry: str, what: str, done: int, total: int) -> None: ...
    def finished(self, report: EntryReport) -> None: ...
    def say(self, message: str) -> None: ...


@dataclass
class Job:
    """A checkpoint on its way through the steps. `todo` is None as long as its revision is not known."""

    entry: Entry
    settings: Settings
    revision: str | None
    todo: deque[Step] | None = None
    made: Made | None = None
    row: SetRow | None = None
    reports: list[StepReport] = field(default_factory=list)
    commit: str | None = None


class Run:
    """One run of a plan. `device` is where pictures are drawn; weights are decomposed on the CPU unless it is `cuda`."""

    def __init__(self, catalog: Catalog, executor: Executor, wish: Wish, *, device: str = "auto", watch: Watch) -> None:
        self.catalog = catalog
        self.executor = executor
        self.wish = wish
        self.device = device
        self.watch = watch
        self._hand = ThreadPoolExecutor(ASKING, thread_name_prefix="hub")
        self._running: dict[Future[Any], tuple[Job, str]] = {}
        self._at_work = 0
        self._waiting: deque[Job] = deque()
        self._reports: dict[str, EntryReport] = {}
        self._staging = Path()

    def go(self, entries: Sequence[Entry], plan: Plan, lock: Lock | None) -> list[EntryReport]:
        """Do what is to be done with the entries. Returns what became of each, in their order.

        Raises only what concerns all of them: CatalogError, PlanError where nothing can be written at home.
        """
        rows = {(row.model_id, row.revision): row for row in self.catalog.sets()}
        for entry in entries:
            job = Job(entry, entry.settings(plan.defaults), pinned(entry, lock))
            if job.revision is None:
                self._running[self._hand.submit(_asked, entry)] = (job, "revision")
            else:
                self._decide(job, rows)
        try:
            if self._waiting or self._running:
                with staging_folder() as self._staging:
                    self._loop(rows)
        finally:
            self._hand.shutdown(wait=False, cancel_futures=True)
        return [self._reports[entry.id] for entry in entries]

    def _loop(self, rows: dict[tuple[str, str | None], SetRow]) -> None:
        while self._waiting or self._running:
            self._hand_out()
            finished, _ = wait(self._running, return_when=FIRST_COMPLETED)
            for future in finished:
                job, what = self._running.pop(future)
                if what == "revision":
                    self._take_revision(job, future.result(), rows)
                elif what == "publish":
                    self._take_publication(job, future.result())
                else:
                    self._at_work -= 1
                    self._take_set(job, *future.result())

    def _decide(self, job: Job, rows: dict[tuple[str, str | None], SetRow]) -> None:
        job.row = rows.get((job.entry.id, job.revision))
        job.todo = deque(remaining(job.entry, job.settings, job.row, self.wish))
        steps = self.wish.steps(job.settings)
        job.reports += [
            StepReport(step=step, outcome="there", attempts=0) for step in steps[: len(steps) - len(job.todo)]
        ]
        if job.row is not None:
            job.commit = job.row.commit
        if job.todo:
            self._waiting.append(job)
        else:
            self._finish(job, "unchanged")

    def _hand_out(self) -> None:
        """Give waiting jobs their next step, as long as somebody is free to take it."""
        held: list[Job] = []
        while self._waiting:
            job = self._waiting.popleft()
            assert job.todo
            step = job.todo[0]
            if step != "publish" and self._at_work >= self.executor.slots:
                held.append(job)
                if all(each.todo and each.todo[0] != "publish" for each in self._waiting):
                    break
                continue
            self.watch.begun(job.entry.id, step)
            try:
                future: Future[Any] = self._published(job) if step == "publish" else self._submitted(job, step)
            except Exception as error:
                self._fail(job, step, Failure.of(error, time.perf_counter()))
                continue
            self._running[future] = (job, step)
        self._waiting.extendleft(reversed(held))

    def _submitted(self, job: Job, step: Step) -> "Future[tuple[Answer, int | None]]":
        """The step, handed to a worker with what it needs."""
        made: Made | None = None
        if step != "build":
            folder = self._folder(job)
            made = pack(folder) if self.executor.ships else folder
        assert job.revision is not None
        device = self.device if step != "build" or self.device == "cuda" else "cpu"
        staging = None if self.executor.ships else self._staging
        task = Task(step, job.entry, job.settings, job.revision, device, made, staging)
        name = job.entry.id
        future = self.executor.submit(task, lambda what, done, total: self.watch.progress(name, what, done, total))
        self._at_work += 1
        return future

    def _folder(self, job: Job) -> Path:
        """Where the set the job has so far lies; fetched, if it is published and not on this machine."""
        if isinstance(job.made, Path):
            return job.made
        assert job.row is not None
        return folder_for(job.row, say=self.watch.say)

    def _published(self, job: Job) -> "Future[tuple[str | None, float, int] | Failure]":
        repo = self.wish.repo(job.entry)
        assert repo is not None
        return self._hand.submit(self._publish, job, str(self._folder(job)), repo)

    def _publish(self, job: Job, folder: str, repo: str) -> "tuple[str | None, float, int] | Failure":
        """Publish, in a thread, as often as the network asks for. Returns commit, seconds and attempts."""
        from eigenbank.registry.hub.jobs import publish_set

        begun = time.perf_counter()
        for attempt in range(1, TRIES + 1):
            try:
                outcome = publish_set(folder, repo, self.catalog, say=self.watch.say)
            except UnreachableError as error:
                if attempt == TRIES:
                    return Failure.of(error, begun)
                time.sleep(min(8.0, 0.1 * 2**attempt))
            except Exception as error:
                return Failure.of(error, begun)
            else:
                return outcome.commit, time.perf_counter() - begun, attempt
        raise AssertionError

    # What comes back

    def _take_revision(self, job: Job, found: "str | Failure", rows: dict[tuple[str, str | None], SetRow]) -> None:
        if isinstance(found, Failure):
            self._fail(job, None, found)
        else:
            job.revision = found
            self._decide(job, rows)

    def _take_set(self, job: Job, answer: Answer, attempts: int | None) -> None:
        """Enter what a worker made into the catalog; this is the only place where that happens."""
        assert job.todo
        step = job.todo.popleft()
        if isinstance(answer, Result):
            begun = time.perf_counter()
            for message in answer.said:
                self.watch.say(f"{job.entry.id}: {message}")
            try:
                self._enter(job, answer.made)
            except Exception as error:
                answer = Failure.of(error, begun)
        if isinstance(answer, Failure):
            job.todo.appendleft(step)
            self._fail(job, step, answer, attempts)
            return
        report = StepReport(
            step=step, outcome="done", seconds=round(answer.seconds, 3), bytes_read=answer.bytes_read, attempts=attempts
        )
        job.reports.append(report)
        self._go_on(job)

    def _enter(self, job: Job, made: Made) -> None:
        from eigenbank.api import adopt

        written = made if isinstance(made, Path) else unpack(made, self._staging / f"{len(job.reports)}-{id(job)}")
        try:
            job.made = adopt(written, self.catalog)
        finally:
            shutil.rmtree(written, ignore_errors=True)

    def _take_publication(self, job: Job, found: "tuple[str | None, float, int] | Failure") -> None:
        assert job.todo
        if isinstance(found, Failure):
            self._fail(job, "publish", found)
            return
        job.todo.popleft()
        job.commit, seconds, attempts = found
        job.reports.append(StepReport(step="publish", outcome="done", seconds=round(seconds, 3), attempts=attempts))
        self._go_on(job)

    def _go_on(self, job: Job) -> None:
        if job.todo and job.todo[0] == "preview" and self._drawn(job):
            job.todo.popleft()
            job.reports.append(StepReport(step="preview", outcome="done", seconds=0.0))
        if job.todo:
            # What was begun is finished before something new is.
            self._waiting.appendleft(job)
        else:
            self._finish(job, "done")

    def _drawn(self, job: Job) -> bool:
        """Whether labelling found nothing to draw, and said so."""
        row = self.catalog.get_set(job.entry.id, job.revision)
        return row is not None and "preview" not in remaining(job.entry, job.settings, row, Wish(label=True))

    def _fail(self, job: Job, step: Step | None, failure: Failure, attempts: int | None = 1) -> None:
        if step is not None:
            report = StepReport(step=step, outcome="failed", seconds=round(failure.seconds, 3), attempts=attempts)
            job.reports.append(report)
        rest = list(job.todo or self.wish.steps(job.settings))[0 if step is None else 1 :]
        job.reports += [StepReport(step=each, outcome="not reached", attempts=0) for each in rest]
        self._finish(job, "failed", failure)

    def _finish(self, job: Job, status: Any, failure: Failure | None = None) -> None:
        # What did not change is as it was read at the start: no question for each of thousands.
        row = job.row if status == "unchanged" else self.catalog.get_set(job.entry.id, job.revision)
        if job.revision is None:
            row = None
        report = EntryReport(
            id=job.entry.id,
            repo=job.entry.source,
            revision=job.revision,
            status=status,
            steps=tuple(job.reports),
            directions=None if row is None else row.directions,
            labels=None if row is None else row.labels,
            location=None if row is None else row.location,
            published=None if row is None else row.repo,
            commit=None if row is None else row.commit,
            error=None if failure is None else failure.message,
            traceback=None if failure is None else failure.traceback,
        )
        self._reports[job.entry.id] = report
        self.watch.finished(report)


def _asked(entry: Entry) -> "str | Failure":
    """The commit of an entry's revision, as the Hub says now."""
    from eigenbank.builders.checkpoints.hub import resolve
    from eigenbank.registry.hub.errors import check_online

    begun = time.perf_counter()
    try:
        check_online(f"finding the revision of {entry.source}", "nothing was built")
        return resolve(entry.source, entry.revision)[0]
    except Exception as error:
        return Failure.of(error, begun)


@contextmanager
def staging_folder() -> Iterator[Path]:
    """A folder for sets on their way into the catalog, on the same disk as they will be; what killed runs left is removed.

    Raises PlanError where it cannot be made, or another run with the same home has it.
    """
    from filelock import FileLock, Timeout

    root, lock = home() / "staging", FileLock(home() / "staging.lock", timeout=0)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with lock.acquire():
            for former in root.iterdir():
                shutil.rmtree(former, ignore_errors=True)
            place = Path(tempfile.mkdtemp(prefix="run-", dir=root))
            # Held on to for as long as the run lasts.
            lock.acquire()
    except Timeout:
        message = f"another plan is being run with the same home, {home()}: nothing was done. Wait for it, or set EIGENBANK_HOME"
        raise PlanError(message) from None
    except OSError as error:
        message = f"{root} cannot be written to ({error.strerror}): nothing was built. Make room, or set EIGENBANK_HOME"
        raise PlanError(message) from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        lock.release()
