"""The real daemon: a schedule that is due measures again, the results follow, the drift check fails, a webhook is called."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import polars as pl
import pytest
from dagster import AssetCheckKey, AssetKey, DagsterInstance, RunsFilter
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from deployments import PROFILE, SMALL, Opened, Site

from resources.lake import REPOSITORY

pytestmark = pytest.mark.slow

LOCATION = "definitions"
SCHEDULE = "measure_inherited_adapters_of_embedded_large_again"
SENSOR = "report_drift_of_embedded"
DRIFT = AssetKey([PROFILE, "large", "remeasurement_drift"])
PATIENCE_SECONDS = 300.0


def measurement(persona: str, number: int) -> str:
    return f"{PROFILE}/large/eval_cells/source={persona}/seed=42/measurement={number}"


def measured_long_ago(site: Site, persona: str) -> None:
    """Make the first measurement one of last year's engine: neither is part of a manifest's digest."""
    file = site.store.directory(measurement(persona, 1)) / "manifest.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["facts"]["identity"]["engine_version"] = "4.0.0"
    content["made_at"] = "2025-01-01T00:00:00+00:00"
    file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def switch_on(instance: DagsterInstance, name: str, cron: str | None, since: datetime) -> None:
    """Switch a schedule (with a cron) or a sensor on, as the UI does; a schedule from a moment in the past."""
    target = LoadableTargetOrigin(executable_path=sys.executable, module_name=LOCATION, working_directory=str(REPOSITORY))
    origin = RemoteInstigatorOrigin(
        RemoteRepositoryOrigin(ManagedGrpcPythonEnvCodeLocationOrigin(target, LOCATION), "__repository__"), name
    )
    data = (
        SensorInstigatorData(min_interval=30) if cron is None else ScheduleInstigatorData(cron, start_timestamp=since.timestamp())
    )
    kind = InstigatorType.SENSOR if cron is None else InstigatorType.SCHEDULE
    instance.add_instigator_state(InstigatorState(origin, kind, InstigatorStatus.RUNNING, data))


@contextmanager
def webhook() -> Iterator[tuple[str, Queue[Any]]]:
    calls: Queue[Any] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            calls.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alerts", calls
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def daemon(site: Site, **more: str) -> Iterator[Path]:
    """Run dagster-daemon on the site's instance; gives the file of its output."""
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
        yield log
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def called(calls: Queue[Any], log: Path) -> Any:
    try:
        return calls.get(timeout=PATIENCE_SECONDS)
    except Empty:
        pytest.fail(f"the webhook was not called; the daemon said:\n{log.read_text(encoding='utf-8')[-6000:]}")


def test_a_re_evaluation_by_the_daemon(large_site: Site, tmp_path: Path) -> None:
    site = large_site.copy(tmp_path / "site")
    for persona in SMALL:
        measured_long_ago(site, persona)
    due = datetime.now(UTC) - timedelta(minutes=1)
    cron = f"{due.minute} {due.hour} * * *"
    site.edit(f"{PROFILE}/large.yaml", lambda content: content.update(re_evaluation_cron=cron))
    before = site.manifests(f"{PROFILE}/large/eval_cells/")
    with site.opened() as opened, webhook() as (url, calls):
        switch_on(opened.instance, SCHEDULE, cron, due - timedelta(minutes=2))
        switch_on(opened.instance, SENSOR, None, due)
        with daemon(site, PERSONA_ALERT_WEBHOOK=url) as log:
            message = called(calls, log)
            wait_for_results(opened, log)
            wait_for_the_event(opened, log)
        after_the_call(opened, site, message, before)


def wait_for_results(opened: Opened, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        runs = opened.instance.get_runs(RunsFilter(job_name="results_of_embedded_large"))
        if runs and runs[0].is_finished:
            assert runs[0].is_success, log.read_text(encoding="utf-8")[-6000:]
            return
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")[-6000:]
        time.sleep(1)


def wait_for_the_event(opened: Opened, log: Path) -> None:
    """Wait for what the sensor tells the UI; the daemon stores it after the message has gone out."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not opened.instance.fetch_observations(DRIFT, limit=1).records:
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")[-6000:]
        time.sleep(1)


def after_the_call(opened: Opened, site: Site, message: Any, before: dict[str, Any]) -> None:
    # Measurement 2 stands beside measurement 1, of the inherited adapters alone, and one run made them all.
    now = site.manifests(f"{PROFILE}/large/eval_cells/")
    assert {path: now[path] for path in before} == before
    assert set(now) - set(before) == {measurement(persona, 2) for persona in SMALL}
    assert len({now[measurement(persona, 2)].run_id for persona in SMALL}) == 1
    measuring = opened.instance.get_runs(RunsFilter(job_name="measure_embedded_large"))
    assert [run.is_success for run in measuring] == [True]
    assert now[measurement(SMALL[0], 2)].run_id == measuring[0].run_id

    # The verdict: the first measurement was made by another version of the engine.
    tables = site.store.open(f"{PROFILE}/large/tables/remeasurement_drift")
    drift = pl.read_parquet(tables / "remeasurement_drift.parquet")
    assert drift.select("compared_with", "persona").rows() == [(c, p) for c in ("first", "last") for p in sorted(SMALL)]
    assert not drift["same_identity"].any() and drift["same_adapter"].all()
    assert set(pl.read_parquet(tables / "remeasurement_tests.parquet").filter("registered")["verdict"]) == {"confounded"}
    report = (site.lake / PROFILE / "large" / "clean_result" / "report.md").read_text(encoding="utf-8")
    assert "Measured again, against the first measurement" in report and "the comparison is confounded" in report

    # The check, the event that the UI shows, and the message.
    keys = [AssetCheckKey(DRIFT, f"no_drift_since_{each}_measurement") for each in ("first", "last")]
    records = opened.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    assert [records[key].status.value for key in keys] == ["FAILED", "FAILED"]
    observed = opened.instance.fetch_observations(DRIFT, limit=10).records
    events = [record.event_log_entry.asset_observation for record in observed]
    assert {event.metadata["verdict"].value for event in events if event is not None} == {"confounded"}
    assert {event.metadata["message_by_webhook"].value for event in events if event is not None} == {"delivered"}
    assert "large" in message["text"]
    assert {(alert["study"], alert["verdict"]) for alert in message["alerts"]} == {("large", "confounded")}
