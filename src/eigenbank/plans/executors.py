"""Where the steps of a plan are done: in processes on this machine, or on a Ray cluster.

An executor takes a step and returns what came of it; `run.py` calls it from one thread per checkpoint in progress. A
worker that dies costs only the step it was doing, which another worker starts again.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from concurrent.futures import CancelledError
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from eigenbank.plans.steps import StepFailure, StepResult, StepTask, perform
from eigenbank.progress import Progress
from eigenbank.schemas.errors import PlanError

MAX_LOST = 3
"""How many workers a step may lose before it counts as failed."""
ENVIRONMENT = (
    "HF_ENDPOINT",
    "HF_HUB_DISABLE_XET",
    "HF_HUB_ETAG_TIMEOUT",
    "HF_HUB_DOWNLOAD_TIMEOUT",
    "SOURCE_DATE_EPOCH",
)
"""Variables that Ray's workers get from this environment. Never a token: every machine has its own login."""
OBJECT_STORE = 256 * 2**20
"""Bytes of Ray's object store where Ray is started here: a direction set takes a few megabytes."""


class Executor(Protocol):
    """Does steps. Several threads may call `perform` at once."""

    def perform(self, task: StepTask, progress: Progress) -> tuple[StepResult | StepFailure, int | None]:
        """Do a step and wait for it. Returns the outcome and how many workers it took, None where that is not known.

        Raises CancelledError once the executor is closed.
        """

    def close(self) -> None:
        """Stop the workers at once, whatever they are doing."""


class LocalExecutor:
    """Processes on this machine, one for each calling thread, so that torch is imported once in each.

    Their temporary files go to `scratch`, so that those of a killed one are found and removed.
    """

    def __init__(self, jobs: int, scratch: Path | None = None) -> None:
        self._scratch = scratch
        self._threads = max(1, (os.cpu_count() or 1) // jobs)
        self._current = threading.local()
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        self._closed = False

    def perform(self, task: StepTask, progress: Progress) -> tuple[StepResult | StepFailure, int]:
        """Do a step in this thread's process; see `Executor`."""
        how = ""
        for attempt in range(1, MAX_LOST + 1):
            worker: _Worker | None = None
            try:
                worker = self._worker()
                return worker.perform(task, progress), attempt
            except (EOFError, OSError) as error:
                how = str(error) if worker is None else worker.stop(0.5)
                if worker is not None:
                    with self._lock:
                        self._workers.discard(worker)
        message = (
            f"the worker process died {MAX_LOST} times ({how}): nothing was kept. If it ran out of memory, run fewer at "
            "once (`jobs=1`)"
        )
        return StepFailure(message), MAX_LOST

    def _worker(self) -> "_Worker":
        """This thread's process, a new one where it has none alive. Raises CancelledError when closed."""
        worker: _Worker | None = getattr(self._current, "worker", None)
        with self._lock:
            if self._closed:
                raise CancelledError
            if worker is None or worker not in self._workers:
                worker = self._current.worker = _Worker(self._threads, self._scratch)
                self._workers.add(worker)
        return worker

    def close(self) -> None:
        """Kill all processes."""
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.stop()


class _Worker:
    """A process that does one step after another."""

    def __init__(self, threads: int, scratch: Path | None) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, threads, scratch), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        """The process's id."""
        return self._process.pid

    def perform(self, task: StepTask, progress: Progress) -> StepResult | StepFailure:
        """Do a step. Raises EOFError or OSError when the process ends first."""
        self._pipe.send(task)
        while True:
            message: Any = self._pipe.recv()
            if isinstance(message, (StepResult, StepFailure)):
                return message
            progress(*message)

    def stop(self, patience: float = 0.0) -> str:
        """Kill the process if it does not end by itself within `patience` seconds. Returns how it ended."""
        self._process.join(patience)
        self._process.kill()
        self._process.join()
        with contextlib.suppress(OSError):
            self._pipe.close()
        code = self._process.exitcode or 0
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _serve(pipe: "Connection[Any, Any]", threads: int, scratch: Path | None) -> None:
    """A worker process's main function."""
    # Ctrl-C reaches every process of the terminal; the parent decides what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    tempfile.tempdir = None if scratch is None else str(scratch)

    def send_progress(what: str, done: int, total: int) -> None:
        pipe.send((what, done, total))

    with contextlib.suppress(EOFError, OSError):
        while True:
            task = pipe.recv()
            pipe.send(perform(task, send_progress))


def _exit_with_parent() -> None:
    """Exit when the parent process is gone, however it ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class RayExecutor:
    """A Ray cluster: the one RAY_ADDRESS names or that runs on this machine, else one started here for this run.

    Machines share no file and no database. Ray starts a step again when its worker or its machine is lost.
    """

    def __init__(self, jobs: int, device: str) -> None:
        """Connect. Raises PlanError where Ray is not installed, cannot be reached, or has no GPU for `cuda`."""
        try:
            import ray
        except ImportError as error:
            message = "the executor ray needs Ray: pip install 'eigenbank[ray]'. Nothing was done"
            raise PlanError(message) from error
        self._ray = ray
        self._closed = False
        self._redirected = contextlib.ExitStack()
        # Ray reports on its workers on stdout, which is for data.
        self._redirected.enter_context(contextlib.redirect_stdout(sys.stderr))
        _connect(ray, jobs)
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        self._gpus = resources.get("GPU", 0.0)
        if device == "cuda" and not self._gpus:
            self.close()
            message = "no machine of the Ray cluster has a GPU: nothing was done. Use `device=auto` or `device=cpu`"
            raise PlanError(message)
        self._perform = ray.remote(perform)

    def perform(self, task: StepTask, progress: Progress) -> tuple[StepResult | StepFailure, int | None]:
        """Do a step on the cluster; see `Executor`. Ray reports no progress within a step."""
        # A build reads from the network and solves in seconds: only steps that sample images ask for a GPU.
        gpus = 1 if self._gpus and (task.device == "cuda" or (task.device == "auto" and task.step != "build")) else 0
        options: dict[str, Any] = {"name": f"{task.entry.id} {task.step}", "num_cpus": 1, "num_gpus": gpus}
        call = self._perform.options(**options, max_retries=MAX_LOST - 1).remote(task)
        try:
            outcome: StepResult | StepFailure = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            if self._closed:
                raise CancelledError from error
            reason = " ".join(str(error).split())[:300]
            message = (
                f"Ray lost the workers or failed ({type(error).__name__}: {reason}): nothing was kept. If they ran out of "
                "memory, run fewer at once (`jobs=`); `ray status` shows what is left of the cluster"
            )
            return StepFailure(message), MAX_LOST
        return outcome, None

    def close(self) -> None:
        """Disconnect; a Ray that was started here is stopped."""
        self._closed = True
        self._ray.shutdown()
        self._redirected.close()


def _connect(ray: Any, jobs: int) -> None:
    """Connect to a running cluster, or start one on this machine. Raises PlanError."""
    quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
    environment = {"env_vars": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}}
    try:
        try:
            ray.init(address="auto", runtime_env=environment, **quiet)
        except ConnectionError:
            if os.environ.get("RAY_ADDRESS"):
                raise
            # Ray lowers its workers' priority by default, which on a busy machine leaves them nothing.
            os.environ.setdefault("RAY_worker_niceness", "0")
            ray.init(
                address="local",
                num_cpus=jobs,
                object_store_memory=OBJECT_STORE,
                include_dashboard=False,
                runtime_env=environment,
                **quiet,
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = os.environ.get("RAY_ADDRESS")
        what = f"the Ray cluster at {where} cannot be reached" if where else "Ray cannot be started here"
        message = f"{what} ({error}): nothing was done. Look at `ray status`, or use `executor=local`"
        raise PlanError(message) from error
