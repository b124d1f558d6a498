"""A throughput table of a device that does not exist."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from persona_assets.capacity.shape import QWEN2_5_7B
from persona_assets.capacity.table import Measured, NotMeasured, ThroughputTable


@pytest.fixture
def table() -> ThroughputTable:
    def row(stage: str, engine: str, weights: str | None, value: float, roofline: float, batch: int | None = None) -> Measured:
        return Measured.model_validate(
            {
                "stage": stage,
                "engine": engine,
                "weights": weights,
                "value": value,
                "unit": "tokens/s",
                "roofline": roofline,
                "repeats": [value],
                "settings": {} if batch is None else {"batch": batch},
            }
        )

    return ThroughputTable(
        made_on="2026-01-02",
        command="python benchmarks/throughput.py",
        device="Imagined 80GB",
        device_bytes=80 * 2**30,
        driver="1.2",
        versions={"torch": "2.13.0"},
        shape=asdict(QWEN2_5_7B),
        dtype="bfloat16",
        bandwidth=3e12,
        matmul_rate=8e14,
        checks={"packed_training": "the same"},
        measured=(
            row("training", "trainer", None, 10_000.0, 25_000.0),
            row("generation", "transformers", "merged", 5_000.0, 50_000.0, 320),
            row("generation", "transformers", "merged", 8_000.0, 50_000.0, 1280),
            row("generation", "transformers", "swapped", 8_000.0, 50_000.0, 960),
            row("centroids", "transformers", None, 20_000.0, 60_000.0),
        ),
        not_measured=(NotMeasured(stage="generation", engine="vllm", weights="merged", why="vllm is not installed"),),
    )
