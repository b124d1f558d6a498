"""A run that is killed loses what it was working on, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from dagster import DagsterRunStatus, job, op
from deployments import PROFILE, SMALL, Site

from persona_assets.assets.products import TABLE_PRODUCTS
from persona_assets.assets.steps import GPU_POOL
from persona_assets.cli.pools import PROCESS_TAG, end_killed_runs, wait_for_pool
from persona_assets.store import Manifest

pytestmark = pytest.mark.slow

ADAPTERS = f"{PROFILE}/adapter/"
CELLS = f"{PROFILE}/small/eval_cells/"
TABLES = tuple(TABLE_PRODUCTS)


def stop_when(site: Site, under: str, count: int, number: signal.Signals = signal.SIGKILL) -> dict[str, Manifest]:
    """Start a run, send it a signal once so many products are there, and return what is in the lake then."""
    process = site.start("run", "small")
    deadline = time.monotonic() + 240
    while len(site.data_versions(under)) < count:
        assert process.poll() is None, (site.root / "output.txt").read_text(encoding="utf-8")
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, number)
    assert process.wait(60) == (-number if number == signal.SIGKILL else 1)
    return site.manifests()


def is_kept(before: dict[str, Manifest], now: dict[str, Manifest]) -> bool:
    """Whether every product is the very one it was: same run, same time."""
    return {path: now[path] for path in before} == before


def test_killed_in_training_and_in_evaluation(base_site: Site, small_site: Site, tmp_path: Path) -> None:
    """With worker processes, as on a CPU; the end is that of a run that nothing happened to, to the last byte."""
    site = base_site.copy(tmp_path / "site")
    site.edit(f"{PROFILE}/profile.yaml", lambda content: content["runtime"].update(workers=1))

    in_training = stop_when(site, ADAPTERS, 2)
    done = {path for path in in_training if path.startswith(ADAPTERS)}
    assert 2 <= len(done) < len(SMALL)
    assert site.leftovers() != []  # what it was training
    site.verify()

    in_evaluation = stop_when(site, CELLS, 1)
    assert is_kept(in_training, in_evaluation)
    assert 1 <= len([path for path in in_evaluation if path.startswith(CELLS)]) < len(SMALL)
    assert site.leftovers() != []  # what it was measuring
    site.verify()

    with site.opened() as opened:
        opened.run("small", "personas")
        opened.run("small", "eval cells")
        opened.run("small", "analysis", *TABLES)
        statuses = [run.status for run in opened.instance.get_runs()]
        assert statuses.count(DagsterRunStatus.FAILURE) == 2
        assert set(statuses) == {DagsterRunStatus.FAILURE, DagsterRunStatus.SUCCESS}
        assert opened.instance.event_log_storage.get_concurrency_run_ids() == set()
    assert is_kept(in_evaluation, site.manifests())
    assert site.leftovers() == []
    site.verify()
    undisturbed = small_site.data_versions()
    drawn = {f"{PROFILE}/small/{name}" for name in ("figures", "clean_result", "overview")}
    assert site.data_versions() == {path: version for path, version in undisturbed.items() if path not in drawn}


def test_interrupted_by_the_keyboard(small_site: Site, tmp_path: Path) -> None:
    site = small_site.copy(tmp_path / "site")
    shutil.rmtree(site.lake / ADAPTERS)
    kept = stop_when(site, ADAPTERS, 1, signal.SIGINT)
    output = (site.root / "output.txt").read_text(encoding="utf-8")
    assert "persona-assets: The stage personas failed" in output
    assert "Interrupted." in output
    assert "Traceback" not in output
    assert site.leftovers() == []
    site.verify()
    with site.opened() as opened:
        assert [run.status for run in opened.instance.get_runs(limit=1)] == [DagsterRunStatus.FAILURE]
        opened.run("small", "personas", "adapter")
    assert is_kept(kept, site.manifests())
    assert len(site.manifests(ADAPTERS)) == len(SMALL)


class TestPlacesInThePool:
    """Nothing may wait for a place that nobody will give back."""

    @pytest.fixture
    def site(self, base_site: Site, tmp_path: Path) -> Site:
        return base_site.copy(tmp_path / "site")

    @staticmethod
    def unfinished_run(opened: object, process: str | None) -> str:
        """Create a run that works on a step in the GPU's pool, as its process left it."""

        @op
        def work() -> None: ...

        @job
        def working() -> None:
            work()

        instance = opened.instance  # type: ignore[attr-defined]
        tags = {} if process is None else {PROCESS_TAG: process}
        run = instance.create_run_for_job(working, tags=tags, status=DagsterRunStatus.STARTED)
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default(GPU_POOL)
        assert storage.claim_concurrency_slot(GPU_POOL, run.run_id, "work").is_claimed
        return str(run.run_id)

    def test_of_a_killed_process_are_freed(self, site: Site) -> None:
        with subprocess.Popen([sys.executable, "-c", ""]) as process:
            process.wait()
        with site.opened() as opened:
            run_id = self.unfinished_run(opened, f"{socket.gethostname()}:{process.pid}")
            opened.run("small", "personas", "layer_centroids")  # would wait for ever
            run = opened.instance.get_run_by_id(run_id)
        assert run is not None
        assert run.status == DagsterRunStatus.FAILURE

    def test_of_an_earlier_process_with_the_same_number_are_freed(self, site: Site) -> None:
        """As in a container, where every process has the same number."""
        with site.opened() as opened:
            run_id = self.unfinished_run(opened, f"{socket.gethostname()}:{os.getpid()}")
            end_killed_runs(opened.instance)
            run = opened.instance.get_run_by_id(run_id)
            assert opened.instance.event_log_storage.get_concurrency_run_ids() == set()
        assert run is not None
        assert run.status == DagsterRunStatus.FAILURE

    def test_of_a_run_that_ended_are_freed(self, site: Site) -> None:
        with site.opened() as opened:
            run_id = self.unfinished_run(opened, None)
            run = opened.instance.get_run_by_id(run_id)
            assert run is not None
            opened.instance.report_run_canceled(run)
            end_killed_runs(opened.instance)
            assert opened.instance.event_log_storage.get_concurrency_run_ids() == set()

    @pytest.mark.parametrize("process", [None, f"{socket.gethostname()}:{os.getppid()}", "elsewhere:1"])
    def test_of_a_run_that_may_be_alive_are_waited_for_in_the_open(self, site: Site, process: str | None) -> None:
        said: list[str] = []
        with site.opened() as opened:
            run_id = self.unfinished_run(opened, process)
            free = opened.instance.event_log_storage.free_concurrency_slots_for_run
            threading.Timer(1.5, free, [run_id]).start()
            started = time.monotonic()
            wait_for_pool(opened.instance, GPU_POOL, said.append)
            assert time.monotonic() - started > 1
            run = opened.instance.get_run_by_id(run_id)
        assert said == [f"Waiting for a place in the pool gpu, which the run {run_id} holds. It can be seen and ended in the UI."]
        assert run is not None
        assert run.status == DagsterRunStatus.STARTED
