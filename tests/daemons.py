"""The real dagster-daemon on a test's deployment: started, given schedules and sensors, and waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRun, RunsFilter
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from deployments import Opened, Site

from resources.lake import REPOSITORY

LOCATION = "definitions"
PATIENCE_SECONDS = 300.0
_TICK_SECONDS = 10.0  # twice what the daemon waits between its turns


def switch_on(instance: DagsterInstance, name: str, cron: str | None = None, since: datetime | None = None) -> None:
    """Switch a sensor or, with a cron, a schedule on, as the UI does; a schedule from a moment in the past.

    A sensor that was just switched on is asked at the daemon's next turn, whatever its interval.
    """
    target = LoadableTargetOrigin(executable_path=sys.executable, module_name=LOCATION, working_directory=str(REPOSITORY))
    origin = RemoteInstigatorOrigin(
        RemoteRepositoryOrigin(ManagedGrpcPythonEnvCodeLocationOrigin(target, LOCATION), "__repository__"), name
    )
    if cron is None:
        state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData())
    else:
        data = ScheduleInstigatorData(cron, start_timestamp=None if since is None else since.timestamp())
        state = InstigatorState(origin, InstigatorType.SCHEDULE, InstigatorStatus.RUNNING, data)
    known = instance.get_instigator_state(state.instigator_origin_id, state.selector_id)
    (instance.add_instigator_state if known is None else instance.update_instigator_state)(state)


def switch_off(instance: DagsterInstance, name: str) -> None:
    """Switch a sensor off that was switched on."""
    (state,) = [state for state in instance.all_instigator_state() if state.instigator_name == name]
    instance.update_instigator_state(state.with_status(InstigatorStatus.STOPPED))


@dataclass(frozen=True)
class Daemon:
    """A running daemon.

    Attributes:
        site: its deployment.
        opened: the same deployment in this process.
        log: file of its output.
    """

    site: Site
    opened: Opened
    log: Path

    @property
    def instance(self) -> DagsterInstance:
        """Where its runs are recorded."""
        return self.opened.instance

    def wait(self, what: str, done: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: not within {seconds:.0f} s; the daemon said:\n{self.said}")
            time.sleep(0.5)

    @property
    def said(self) -> str:
        """The end of its output."""
        return self.log.read_text(encoding="utf-8")[-6000:]

    def runs(self, job: str) -> list[DagsterRun]:
        """Runs of a job, the earliest first."""
        return list(reversed(self.instance.get_runs(RunsFilter(job_name=job))))

    def finished(self, job: str, number: int = 1) -> DagsterRun:
        """Wait for the n-th run of a job; it must succeed."""

        def done() -> bool:
            runs = self.runs(job)
            return len(runs) >= number and runs[number - 1].is_finished

        self.wait(f"run {number} of {job}", done)
        run = self.runs(job)[number - 1]
        assert run.is_success, self.said
        return run

    def requested(self, sensor: str, job: str) -> DagsterRun:
        """Switch a sensor on until it has requested one more run of a job; wait for the run, which must succeed.

        A sensor that finds a run in progress waits for its next interval: it is switched on anew instead.
        """
        before = len(self.runs(job))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.runs(job)) == before and time.monotonic() < deadline:
            switch_on(self.instance, sensor)
            until = time.monotonic() + _TICK_SECONDS
            while len(self.runs(job)) == before and time.monotonic() < until:
                time.sleep(0.5)
        return self.finished(job, before + 1)


@contextmanager
def daemon(site: Site, opened: Opened, more: Mapping[str, str]) -> Iterator[Daemon]:
    """Run dagster-daemon on the site's instance."""
    log = site.root / "daemon.txt"
    command = [str(Path(sys.executable).with_name("dagster-daemon")), "run", "-m", LOCATION, "-d", str(REPOSITORY)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**site.environment(more), "OMP_NUM_THREADS": "1"},
            cwd=site.root,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Daemon(site, opened, log)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
