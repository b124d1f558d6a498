"""Run tasks in this process or in worker processes, giving each result as it arrives.

On a GPU the work stays in one process, so that the base model is loaded once. On a CPU two workers with
one thread each beat one process with two threads, and give the same numbers whatever the machine's cores.
"""

from __future__ import annotations

import atexit
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

from persona_assets.explaining import explain
from persona_assets.numerics import choose_common_kernels
from persona_assets.processes import ChildSetup, child_context

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Outcome(Generic[ResultT]):
    """How the task of one key ended: with a result or with an error, never both."""

    key: str
    result: ResultT | None = None
    error: str | None = None
    trace: str | None = None


class WorkerPool:
    """A set of worker processes that stays warm between calls; with none, tasks run in this process."""

    def __init__(self, workers: int, threads: int = 1) -> None:
        """Prepare a pool; processes start with the first task.

        Args:
            workers: number of processes, 0 to work in this one.
            threads: numeric threads of each worker process.
        """
        self.workers = workers
        self.threads = threads
        self._executor: ProcessPoolExecutor | None = None

    def run(self, function: Callable[[TaskT], ResultT], tasks: Mapping[str, TaskT]) -> Iterator[Outcome[ResultT]]:
        """Run `function` on every task, yielding outcomes as they arrive; one failure does not stop the rest.

        Args:
            function: a module-level function (worker processes import it by name).
            tasks: task by key.
        """
        choose_common_kernels()
        if self.workers == 0:
            for key, task in tasks.items():
                yield _attempt(key, function, task)
            return
        broken = False
        futures: dict[Future[Outcome[ResultT]], str] = {}
        try:
            for key, task in tasks.items():
                futures[self._submit(key, function, task)] = key
            for future in as_completed(futures):
                try:
                    yield future.result()
                except BrokenProcessPool:
                    broken = True
                    yield Outcome(
                        futures[future],
                        error="A worker process died (killed, or out of memory) before this was done. Run again: what was "
                        "recorded stays. With little memory, lower runtime.workers in the profile.",
                    )
        finally:
            for future in futures:
                future.cancel()
            if broken:
                self.close()

    def close(self) -> None:
        """Stop the worker processes; a later call starts new ones."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    def _submit(self, key: str, function: Callable[[TaskT], ResultT], task: TaskT) -> Future[Outcome[ResultT]]:
        try:
            return self._started().submit(_attempt, key, function, task)
        except BrokenProcessPool:  # a worker died since the last call, while it had nothing to do
            self.close()
            return self._started().submit(_attempt, key, function, task)

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self.workers, mp_context=child_context(self.threads), initializer=ChildSetup(self.threads)
            )
        return self._executor


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_pools: dict[tuple[int, int], WorkerPool] = {}


def shared_pool(workers: int, threads: int = 1) -> WorkerPool:
    """Return this process's pool of that shape; it is kept, since a worker's imports take seconds."""
    shape = (workers, threads)
    if shape not in _pools:
        _pools[shape] = WorkerPool(workers, threads)
        atexit.register(_pools[shape].close)
    return _pools[shape]


def _attempt(key: str, function: Callable[[TaskT], ResultT], task: TaskT) -> Outcome[ResultT]:
    # Whatever a task raises belongs to its key: it is handed on and reported, and the other keys go on.
    try:
        return Outcome(key, result=function(task))
    except Exception as error:  # noqa: BLE001
        return Outcome(key, error=explain(error), trace=traceback.format_exc())
