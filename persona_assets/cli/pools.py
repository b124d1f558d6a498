"""Places in Dagster's pools: freed when the run that held them was killed, waited for in the open while another run works."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dagster import DagsterRunStatus, RunsFilter
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from persona_assets.replacing import process_alive

if TYPE_CHECKING:
    from dagster import DagsterInstance

PROCESS_TAG = "persona-assets/process"
"""Tag of a run that works in the process of a command line."""

_POLL_SECONDS = 1.0


def this_process() -> str:
    """Value of the tag for this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def end_killed_runs(instance: DagsterInstance) -> None:
    """End the runs whose process was killed, and free the places of every run that ended.

    A killed process leaves its run unfinished and its place taken. No daemon watches a command line, so the next run would wait
    for the place for ever.
    """
    unfinished = [status for status in DagsterRunStatus if status not in FINISHED_STATUSES]
    for run in instance.get_runs(RunsFilter(statuses=unfinished)):
        if _was_killed(run.tags.get(PROCESS_TAG)):
            instance.report_run_failed(run, "The process of this run was killed. What it recorded stays.")
    storage = instance.event_log_storage
    for run_id in sorted(storage.get_concurrency_run_ids() if storage.supports_global_concurrency_limits else ()):
        holder = instance.get_run_by_id(run_id)
        if holder is None or holder.is_finished:
            storage.free_concurrency_slots_for_run(run_id)


def wait_for_pool(instance: DagsterInstance, pool: str, say: Callable[[str], object]) -> None:
    """Wait until a pool has a place, and say once for which run.

    Dagster would wait as well, but silently and deaf to an interrupt.
    """
    waited = False
    while True:
        end_killed_runs(instance)
        storage = instance.event_log_storage
        if not storage.supports_global_concurrency_limits:
            return
        info = storage.get_concurrency_info(pool)
        if info.limit is None or len(info.claimed_slots) < info.limit:
            return
        if not waited:
            runs = ", ".join(sorted({slot.run_id for slot in info.claimed_slots}))
            say(f"Waiting for a place in the pool {pool}, which the run {runs} holds. It can be seen and ended in the UI.")
            waited = True
        time.sleep(_POLL_SECONDS)


def _was_killed(process: str | None) -> bool:
    if process is None:
        return False
    host, _, pid = process.rpartition(":")
    # Runs follow each other in a process: an unfinished one of this process is of an earlier process with the same number.
    return host == socket.gethostname() and (int(pid) == os.getpid() or not process_alive(int(pid)))
