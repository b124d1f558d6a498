"""The GPU benchmark runs whole at a tiny size on the CPU: its checks pass, and its table can be read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from persona_assets.capacity.table import read_table

REPOSITORY = Path(__file__).parents[2]
TINY = "--shape tiny --device cpu --dtype float32 --copy-bytes 10000000 --matmul-size 256 --generation-batch 20 --new-tokens 8"
SHORT = "--effective-batch 8 --micro-batch 4 --answer-words 5 20 --repeats 1 --personas 2 --compare"


@pytest.mark.slow
def test_it_measures_every_stage_and_passes_its_own_checks(tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/throughput.py", "--out", str(out), *TINY.split(), *SHORT.split()],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    table = read_table(out)
    assert set(table.checks) == {"packed_training", "half_precision", "reset_adapters"}
    assert {(row.stage, row.weights) for row in table.measured} == {
        ("centroids", None),
        ("generation", "merged"),
        ("generation", "swapped"),
        ("training", None),
    }
    for row in table.measured:
        assert row.roofline is not None
        assert row.value > 0, row
    assert table.find("generation", "vllm", "merged") is None
    assert {gap.engine for gap in table.not_measured} == {"vllm"}
