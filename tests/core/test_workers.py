from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import worker_tasks

from persona_assets.numerics import COMMON_KERNELS_VARIABLE
from persona_assets.workers import WorkerPool, shared_pool

NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}


@pytest.fixture(scope="module")
def warm_pool() -> Iterator[WorkerPool]:
    """One pool for the tests of this module: a worker starts in half a second."""
    pool = WorkerPool(1)
    yield pool
    pool.close()


@pytest.fixture(params=["in this process", "in a worker"])
def pool(request: pytest.FixtureRequest, warm_pool: WorkerPool) -> WorkerPool:
    return WorkerPool(0) if request.param == "in this process" else warm_pool


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)


def test_each_key_has_its_outcome(pool: WorkerPool) -> None:
    outcomes = {outcome.key: outcome for outcome in pool.run(worker_tasks.double, NUMBERS)}
    assert {key: outcome.result for key, outcome in outcomes.items()} == {"one": 2, "two": 4, "three": 6, "four": 8}
    assert all(outcome.error is None and outcome.trace is None for outcome in outcomes.values())


def test_a_failing_key_does_not_stop_the_others(pool: WorkerPool) -> None:
    outcomes = {outcome.key: outcome for outcome in pool.run(worker_tasks.double_or_fail, NUMBERS)}
    failed = outcomes.pop("three")
    assert {key: outcome.result for key, outcome in outcomes.items()} == {"one": 2, "two": 4, "four": 8}
    assert failed.result is None
    assert failed.error == "ValueError: 3 cannot be doubled"
    assert failed.trace is not None
    assert "double_or_fail" in failed.trace


def test_no_task_no_outcome(pool: WorkerPool) -> None:
    assert list(pool.run(worker_tasks.double, {})) == []


def test_outcomes_arrive_one_by_one() -> None:
    done: list[int] = []

    def note(number: int) -> int:
        done.append(number)
        return number

    outcomes = WorkerPool(0).run(note, {"a": 1, "b": 2})
    next(outcomes)
    assert done == [1]


def test_workers_stay_and_have_the_threads_they_were_given() -> None:
    pool = WorkerPool(1, threads=3)
    try:
        (first,), (second,) = ([each.result for each in pool.run(worker_tasks.process_and_threads, {"x": 0})] for _ in range(2))
    finally:
        pool.close()
    assert first is not None
    assert first == second
    assert first[0] != os.getpid()
    assert first[1] == "3"


@pytest.mark.slow
def test_workers_use_the_kernels_that_every_x86_processor_has_when_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ATEN_CPU_CAPABILITY", "MKL_CBWR"):
        monkeypatch.setenv(name, "")  # so that the variables are as they were at the end
        monkeypatch.delenv(name)
    monkeypatch.setenv(COMMON_KERNELS_VARIABLE, "1")
    pool = WorkerPool(1)
    try:
        ((found, mkl),) = [outcome.result for outcome in pool.run(worker_tasks.kernels, {"x": 0})]
    finally:
        pool.close()
    assert mkl == "COMPATIBLE"
    assert found in ("AVX2", "DEFAULT", "NO AVX")  # never AVX512, whatever the machine


def test_one_pool_of_each_shape() -> None:
    assert shared_pool(0) is shared_pool(0, 1)
    assert shared_pool(0) is not shared_pool(0, 2)


def test_a_killed_worker_is_an_error_and_the_pool_works_again(warm_pool: WorkerPool) -> None:
    outcomes = {outcome.key: outcome for outcome in warm_pool.run(worker_tasks.double_or_die, NUMBERS)}
    assert list(outcomes) and set(outcomes) == set(NUMBERS)
    assert outcomes["three"].result is None
    assert "A worker process died" in str(outcomes["three"].error)
    assert outcomes["one"].result == 2  # done before
    assert [outcome.result for outcome in warm_pool.run(worker_tasks.double, {"x": 21})] == [42]


def test_a_worker_that_was_killed_while_idle_costs_nothing(warm_pool: WorkerPool) -> None:
    ((pid, _),) = [outcome.result for outcome in warm_pool.run(worker_tasks.process_and_threads, {"x": 0})]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), 10, "the worker ended")
    executor = warm_pool._executor
    wait_until(lambda: executor._broken, 10, "the pool noticed")  # type: ignore[union-attr]
    outcomes = list(warm_pool.run(worker_tasks.double, {"x": 21, "y": 4}))
    assert {outcome.key: (outcome.result, outcome.error) for outcome in outcomes} == {"x": (42, None), "y": (8, None)}


@pytest.mark.parametrize("served", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_workers_end_with_a_run_that_was_killed(tmp_path: Path, served: bool) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "    sys.path.insert(0, sys.argv[1])\n"
        "    import worker_tasks; from persona_assets.processes import preload_model_libraries\n"
        "    from persona_assets.workers import WorkerPool\n"
        f"    {served} and preload_model_libraries(1)\n"
        "    list(WorkerPool(2).run(worker_tasks.announce_and_wait, {n: Path(sys.argv[2]) / n for n in 'ab'}))\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code, encoding="utf-8")
    run = subprocess.Popen([sys.executable, str(script), str(Path(worker_tasks.__file__).parent), str(tmp_path)])
    try:
        files = [tmp_path / "a", tmp_path / "b"]
        wait_until(lambda: all(file.exists() and file.read_text(encoding="utf-8") for file in files), 60, "both workers work")
        started = [process.pid for process in psutil.Process(run.pid).children(recursive=True)]
        assert {int(file.read_text(encoding="utf-8")) for file in files} < set(started)
    finally:
        run.kill()
        run.wait()
    wait_until(lambda: not any(alive(pid) for pid in started), 15, "workers, and what forked them, ended")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux are workers forked from a server")
def test_forked_workers_have_the_libraries_and_all_else_from_now(tmp_path: Path) -> None:
    """A process of its own, since a server lives as long as the process that started it."""
    code = (
        "import os, sys\n"
        "if __name__ == '__main__':\n"
        "    sys.path.insert(0, sys.argv[1])\n"
        "    import worker_tasks; from persona_assets.processes import preload_model_libraries\n"
        "    from persona_assets.workers import WorkerPool\n"
        "    preload_model_libraries(1)\n"
        "    os.environ['SET_AFTERWARDS'] = 'yes'\n"
        "    os.dup2(os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT), 1)\n"
        "    def told(threads):\n"
        "        return [outcome.result for outcome in WorkerPool(1, threads).run(worker_tasks.tell, {'x': 'SET_AFTERWARDS'})]\n"
        "    own, other = told(1), told(2)\n"
        "    os.environ['MKL_CBWR'] = 'COMPATIBLE'\n"
        "    print(own, other, told(1), file=sys.stderr)\n"
    )
    script, output = tmp_path / "run.py", tmp_path / "output"
    script.write_text(code, encoding="utf-8")
    arguments = [sys.executable, str(script), str(Path(worker_tasks.__file__).parent), str(output)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
    # Neither two threads nor other kernels can be had from libraries that are loaded already.
    assert done.stderr.strip() == "[(True, 'yes', '1')] [(False, 'yes', '2')] [(False, 'yes', '1')]"
    assert output.read_text(encoding="utf-8").count("told") == 3
    assert done.stdout == ""
