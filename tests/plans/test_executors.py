"""Workers are processes: a killed one costs its own task a try, and a bug is one task's failure."""

import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eigenbank.plans.executors import MAX_LOST, LocalExecutor
from eigenbank.plans.steps import StepFailure, StepTask
from eigenbank.progress import no_progress
from eigenbank.schemas.plan import PlanEntry, Settings

TASK = StepTask("build", PlanEntry(id="zoo/none"), Settings(), "1" * 40)


def test_a_failure_comes_back_in_words_and_the_worker_lives_on(tmp_path: Path) -> None:
    executor = LocalExecutor(1)
    try:
        found = [executor.perform(TASK, no_progress) for _ in range(2)]
    finally:
        executor.close()
    for answer, attempts in found:
        assert isinstance(answer, StepFailure)
        assert "is not in the cache, and the client is offline" in answer.message
        assert attempts == 1


def test_a_task_that_costs_worker_after_worker_is_given_up() -> None:
    executor, thread = LocalExecutor(1), ThreadPoolExecutor(1)
    try:
        for _ in range(2):
            future = thread.submit(executor.perform, TASK, no_progress)
            while not future.done():
                for process in multiprocessing.active_children():
                    process.kill()
                time.sleep(0.02)
            answer, attempts = future.result()
            assert isinstance(answer, StepFailure)
            assert attempts == MAX_LOST
            assert "SIGKILL" in answer.message
    finally:
        executor.close()


def test_workers_leave_with_their_parent() -> None:
    code = (
        "import os, sys, time\n"
        "from eigenbank.plans.executors import LocalExecutor\n"
        "if __name__ == '__main__':\n"
        "    executor = LocalExecutor(1)\n"
        "    worker = executor._worker()\n"
        "    print(worker.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    for _ in range(600):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    raise AssertionError(pid)
