"""An estimate is work over measured speed, stage by stage; what was not measured stays unknown and is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona_assets.capacity.estimate import MeasuredHere, estimate
from persona_assets.capacity.table import ThroughputTable
from persona_assets.catalog import load_catalog
from persona_assets.study import Study

STUDIES = Path(__file__).parents[2] / "studies"
ALL = {
    (None, "base_model"): 1,
    (None, "training_answers"): 48,
    (None, "training_dataset"): 48,
    (None, "adapter"): 48,
    (None, "merged_model"): 48,
    (None, "layer_centroids"): 48,
    (None, "base_cells"): 48,
    ("n12", "eval_cells"): 12,
    ("n24", "eval_cells"): 24,
    ("n48", "eval_cells"): 48,
}


@pytest.fixture(scope="module", name="n48")
def study() -> Study:
    return load_catalog(STUDIES, "qwen2.5-7b").study("n48")


def test_work_over_speed(n48: Study, table: ThroughputTable) -> None:
    found = estimate(n48, ALL, {}, table, answer_tokens=200)
    rows = {(row.study, row.asset): row for row in found.stages}
    assert list(rows) == list(ALL)
    cells = rows["n48", "eval_cells"]
    assert cells.tokens == 48 * 48 * 20 * 5 * 200
    assert cells.device_seconds == pytest.approx(48 * 48 * 100 * 200 / 8_000)
    assert cells.least_seconds == pytest.approx(48 * 48 * 100 * 200 / 50_000)
    assert rows["n12", "eval_cells"].tokens == 12 * 12 * 100 * 200
    assert rows[None, "training_answers"].tokens == 48 * 200 * 200
    trained = rows[None, "adapter"]
    assert trained.tokens is not None
    prompt = trained.tokens / (48 * 600 * 3) - 200
    assert 25 < prompt < 80  # a persona, a question and the template around them
    assert trained.device_seconds == pytest.approx(trained.tokens / 10_000)
    assert trained.disk == 48 * 4 * 80_740_352
    assert "Imagined 80GB, 2026-01-02" in trained.source
    assert any("Imagined 80GB" in sentence for sentence in found.assumptions)


def test_what_was_not_measured_is_named_and_not_made_up(n48: Study, table: ThroughputTable) -> None:
    found = estimate(n48, ALL, {}, table)
    assert found.answer_tokens == 256
    assert any("256 tokens assumed" in sentence for sentence in found.assumptions)
    assert found.not_measured == ("base_model", "merged_model")
    nothing = estimate(n48, ALL, {}, None)
    assert set(nothing.not_measured) == {asset for _, asset in ALL} - {"training_dataset"}
    assert nothing.total("device_seconds") == 0.0
    assert all(row.least_seconds is None for row in nothing.stages)


def test_an_engine_that_was_not_measured_has_a_least_time_alone(n48: Study, table: ThroughputTable) -> None:
    runtime = n48.profile.runtime.model_copy(update={"engine": "vllm"})
    study = Study(**{**vars(n48), "profile": n48.profile.model_copy(update={"runtime": runtime})})
    cells = estimate(study, {("n48", "eval_cells"): 48}, {}, table).stages[0]
    assert cells.device_seconds is None
    assert cells.source == "not measured: vllm is not installed"
    assert cells.least_seconds is not None
    assert cells.least_seconds > 48 * 48 * 100 * 256 / 100_000


def test_a_table_of_another_model_is_not_used(n48: Study, table: ThroughputTable) -> None:
    other = table.model_copy(update={"shape": {**table.shape, "layers": 3}})
    found = estimate(n48, ALL, {}, other)
    assert "adapter" in found.not_measured
    assert any("another shape" in sentence for sentence in found.assumptions)


def test_what_this_machine_measured_comes_before_the_table(n48: Study, table: ThroughputTable) -> None:
    here = {
        "training_answers": MeasuredHere(keys=2, tokens=40_000, seconds=10.0, bytes=200_000, mean_tokens=100.0),
        "adapter": MeasuredHere(keys=3, tokens=0, seconds=90.0, bytes=3_000, mean_tokens=None),
    }
    found = estimate(n48, {(None, "training_answers"): 46, (None, "adapter"): 45}, here, table)
    answers, adapters = found.stages
    assert found.answer_tokens == 100.0
    assert answers.device_seconds == pytest.approx(46 * 200 * 100 / 4_000)
    assert answers.disk == pytest.approx(46 * 200 * 100 * 5)
    assert adapters.device_seconds == pytest.approx(45 * 30.0)
    assert adapters.disk == 45_000
    assert answers.source == "measured here on 2 of the lake's products"


def test_what_is_done_costs_nothing(n48: Study, table: ThroughputTable) -> None:
    (row,) = estimate(n48, {(None, "adapter"): 0}, {}, table).stages
    assert (row.device_seconds, row.disk, row.keys) == (0.0, 0, 48)
    assert estimate(n48, {(None, "adapter"): 0}, {}, table).not_measured == ()


def test_workers_share_the_wall_time() -> None:
    n12 = load_catalog(STUDIES, "embedded").study("n12")
    here = {"adapter": MeasuredHere(keys=4, tokens=0, seconds=8.0, bytes=4_000, mean_tokens=None)}
    (row,) = estimate(n12, {(None, "adapter"): 8}, here, None, answer_tokens=20).stages
    assert row.device_seconds == pytest.approx(16.0)
    assert row.wall_seconds == pytest.approx(8.0)
