"""Threads of linear algebra."""

from __future__ import annotations

import subprocess
import sys


def test_every_blas_has_one_thread_while_an_analysis_runs() -> None:
    """In a process of its own: the test run sets the variables that would hide it."""
    code = (
        "import os, numpy, scipy.linalg; from threadpoolctl import threadpool_info\n"
        "from persona_assets.numerics import one_thread\n"
        "threads = lambda: [library['num_threads'] for library in threadpool_info()]\n"
        "before = threads(); assert len(before) >= 2 and (max(before) > 1 or os.cpu_count() == 1), before\n"
        "with one_thread(): assert set(threads()) == {1}, threads()\n"
        "assert threads() == before, threads()"
    )
    threads = {"OPENBLAS_NUM_THREADS": "3", "OMP_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=threads, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

