"""Workers on this machine: processes, each with a thread here that hands it a task and waits for the answer.

A worker that dies takes nothing with it but the task it was at, which another one gets.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, Protocol

from eigenbank.plans.tasks import Answer, Failure, Task, perform
from eigenbank.progress import Progress

LOST = 3
"""A task that has cost so many workers their life is given up."""


class Executor(Protocol):
    """Who does the tasks. `ships`: sets travel as bytes, since workers may be elsewhere."""

    name: str
    ships: bool

    @property
    def slots(self) -> int:
        """How many tasks at once."""

    def submit(self, task: Task, progress: Progress) -> "Future[tuple[Answer, int | None]]":
        """Have a task done: its answer, and how many workers it took, None where that is not known. The future raises nothing but what is a bug."""

    def close(self) -> None:
        """Stop at once; tasks that are not done are dropped."""


class LocalExecutor:
    """So many processes, started when they are first needed and kept, so that torch is imported once in each."""

    name = "local"
    ships = False

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._threads = ThreadPoolExecutor(jobs, thread_name_prefix="worker")
        self._own = threading.local()
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        self._closed = False

    @property
    def slots(self) -> int:
        """As many as were asked for."""
        return self._jobs

    def submit(self, task: Task, progress: Progress) -> "Future[tuple[Answer, int | None]]":
        """As `Executor` says."""
        return self._threads.submit(self._run, task, progress)

    def _run(self, task: Task, progress: Progress) -> tuple[Answer, int]:
        how = ""
        for attempt in range(1, LOST + 1):
            worker: _Worker | None = None
            try:
                worker = self._worker()
                if worker is None:
                    return Failure("the run was ended: nothing was kept"), attempt
                return worker.ask(task, progress), attempt
            except (EOFError, OSError) as error:
                how = str(error) if worker is None else worker.end(0.5)
                if worker is not None:
                    with self._lock:
                        self._workers.discard(worker)
        message = (
            f"the process at work was lost {LOST} times ({how}): nothing was kept. If it was out of memory, run fewer at "
            "once (--jobs 1); to see what happens, run the step by itself"
        )
        return Failure(message), LOST

    def _worker(self) -> "_Worker | None":
        """This thread's worker, a new one where it has none that lives; None when the run was ended."""
        worker: _Worker | None = getattr(self._own, "worker", None)
        with self._lock:
            if self._closed:
                return None
            if worker is None or worker not in self._workers:
                worker = self._own.worker = _Worker(max(1, (os.cpu_count() or 1) // self._jobs))
                self._workers.add(worker)
        return worker

    def close(self) -> None:
        """As `Executor` says."""
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.end()
        self._threads.shutdown(cancel_futures=True)


class _Worker:
    """A process that does one task after the other."""

    def __init__(self, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, threads), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, task: Task, progress: Progress) -> Answer:
        """Have a task done. Raises EOFError or OSError when the process ends before."""
        self._pipe.send(task)
        while True:
            message: Any = self._pipe.recv()
            if not isinstance(message, tuple):
                answer: Answer = message
                return answer
            progress(*message)

    def end(self, patience: float = 0.0) -> str:
        """Kill it, if it does not end by itself in so many seconds. Returns how it ended."""
        self._process.join(patience)
        self._process.kill()
        self._process.join()
        with contextlib.suppress(OSError):
            self._pipe.close()
        code = self._process.exitcode or 0
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _serve(pipe: "Connection[Any, Any]", threads: int) -> None:
    """The worker's own main."""
    # Ctrl-C reaches every process of the terminal: it is the parent's to act on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with contextlib.suppress(EOFError, OSError):
        while True:
            task = pipe.recv()
            pipe.send(perform(task, _sender(pipe)))


def _sender(pipe: "Connection[Any, Any]") -> Callable[[str, int, int], None]:
    def send(what: str, done: int, total: int) -> None:
        pipe.send((what, done, total))

    return send


def _end_with_parent() -> None:
    """Leave when the parent is gone, however it went: what is half done is of no use to anybody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
