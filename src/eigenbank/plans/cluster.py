"""Workers of a Ray cluster: one task for each step of each checkpoint, sets carried as bytes, both ways.

No file and no database is shared. Ray runs a task again when its worker or its machine is lost.
"""

import contextlib
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

from eigenbank.plans.local import LOST
from eigenbank.plans.tasks import Answer, Failure, Task, perform
from eigenbank.progress import Progress
from eigenbank.schemas.errors import PlanError

PASSED_ON = ("HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT", "SOURCE_DATE_EPOCH")
"""What workers take over of this environment. Never a token: every machine has its own login."""
STORE = 256 * 2**20
"""Bytes of the object store, where Ray is started here: sets are megabytes."""


class RayExecutor:
    """A cluster: the one RAY_ADDRESS names or that runs on this machine, else one that is started here for this run."""

    name = "ray"
    ships = True

    def __init__(self, jobs: int, device: str) -> None:
        try:
            import ray
        except ImportError as error:
            message = (
                "the executor ray needs Ray, which is not installed: pip install 'eigenbank[ray]'. Nothing was done"
            )
            raise PlanError(message) from error
        self._ray = ray
        self._jobs = jobs
        self._device = device
        self._aside = contextlib.ExitStack()

    @cached_property
    def slots(self) -> int:
        """How many tasks at once. The cluster is joined when this is first asked."""
        # Ray prints what befalls its workers on stdout, which is for data.
        self._aside.enter_context(contextlib.redirect_stdout(sys.stderr))
        _connect(self._ray, self._jobs)
        resources: dict[str, float] = self._ray.cluster_resources()  # type: ignore[no-untyped-call]
        self._gpus = resources.get("GPU", 0.0)
        if self._device == "cuda" and not self._gpus:
            self.close()
            message = "no machine of the Ray cluster has a GPU: nothing was done. Use --device auto or cpu"
            raise PlanError(message)
        self._perform = self._ray.remote(perform)
        self._threads = ThreadPoolExecutor(self._jobs, thread_name_prefix="ray")
        return self._jobs

    def submit(self, task: Task, progress: Progress) -> "Future[tuple[Answer, int | None]]":
        """As `Executor` says; Ray tells of no progress inside a task."""
        return self._threads.submit(self._run, task)

    def _run(self, task: Task) -> tuple[Answer, int | None]:
        # A build reads by the network and solves in seconds: a GPU is asked for only where pictures are drawn.
        gpus = 1 if self._gpus and (task.device == "cuda" or (task.device == "auto" and task.step != "build")) else 0
        options: dict[str, Any] = {"name": f"{task.entry.id} {task.step}", "num_cpus": 1, "num_gpus": gpus}
        call = self._perform.options(**options, max_retries=LOST - 1).remote(task)
        try:
            answer: Answer = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:300]
            message = (
                f"the workers at it were lost, or Ray failed ({type(error).__name__}: {reason}): nothing was kept. If they "
                "were out of memory, run fewer at once (--jobs); `ray status` shows what is left of the cluster"
            )
            return Failure(message), LOST
        return answer, None

    def close(self) -> None:
        """Disconnect; a Ray that was started here is stopped."""
        self._ray.shutdown()
        self._aside.close()
        if hasattr(self, "_threads"):
            self._threads.shutdown(wait=False, cancel_futures=True)


def _connect(ray: Any, jobs: int) -> None:
    """Connect to a running cluster, or start one of this machine. Raises PlanError."""
    quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
    passed = {"env_vars": {name: os.environ[name] for name in PASSED_ON if name in os.environ}}
    try:
        try:
            ray.init(address="auto", runtime_env=passed, **quiet)
        except ConnectionError:
            if os.environ.get("RAY_ADDRESS"):
                raise
            # By itself Ray gives its workers what the machine has left, which on a busy one is nothing.
            os.environ.setdefault("RAY_worker_niceness", "0")
            ray.init(
                address="local",
                num_cpus=jobs,
                object_store_memory=STORE,
                include_dashboard=False,
                runtime_env=passed,
                **quiet,
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = os.environ.get("RAY_ADDRESS")
        what = f"the Ray cluster at {where} cannot be joined" if where else "Ray cannot be started here"
        message = f"{what} ({error}): nothing was done. Look at `ray status`, or use --executor local"
        raise PlanError(message) from error
