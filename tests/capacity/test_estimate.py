"""An estimate is work over measured speed, stage by stage; what was not measured stays unknown and is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona_assets.capacity.estimate import PULLED, Keys, MeasuredHere, estimate
from persona_assets.capacity.needs import asset_needs, scored_replies
from persona_assets.capacity.table import ThroughputTable
from persona_assets.catalog import load_catalog
from persona_assets.study import Study

STUDIES = Path(__file__).parents[2] / "studies"
ALL = {
    (None, "base_model"): Keys(1, 1),
    (None, "training_answers"): Keys(48, 48),
    (None, "training_dataset"): Keys(48, 48),
    (None, "adapter"): Keys(48, 48),
    (None, "merged_model"): Keys(48, 48),
    (None, "layer_centroids"): Keys(48, 48),
    (None, "base_cells"): Keys(48, 48),
    ("n12", "eval_cells"): Keys(12, 12),
    ("n24", "eval_cells"): Keys(24, 24),
    ("n48", "eval_cells"): Keys(48, 48),
    ("n48", "marker_scores"): Keys(48, 48),
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
    assert found.not_measured == ("base_model", "merged_model", "marker_scores")
    nothing = estimate(n48, ALL, {}, None)
    assert set(nothing.not_measured) == {asset for _, asset in ALL} - {"training_dataset"}
    assert nothing.total("device_seconds") == 0.0
    assert all(row.least_seconds is None for row in nothing.stages)


def test_an_engine_that_was_not_measured_has_a_least_time_alone(n48: Study, table: ThroughputTable) -> None:
    runtime = n48.profile.runtime.model_copy(update={"engine": "vllm"})
    study = Study(**{**vars(n48), "profile": n48.profile.model_copy(update={"runtime": runtime})})
    cells = estimate(study, {("n48", "eval_cells"): Keys(48, 48)}, {}, table).stages[0]
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
    found = estimate(n48, {(None, "training_answers"): Keys(48, 46), (None, "adapter"): Keys(48, 45)}, here, table)
    answers, adapters = found.stages
    assert found.answer_tokens == 100.0
    assert answers.device_seconds == pytest.approx(46 * 200 * 100 / 4_000)
    assert answers.disk == pytest.approx(46 * 200 * 100 * 5)
    assert adapters.device_seconds == pytest.approx(45 * 30.0)
    assert adapters.disk == 45_000
    assert answers.source == "measured here on 2 of the lake's products"


def test_what_is_done_costs_nothing(n48: Study, table: ThroughputTable) -> None:
    (row,) = estimate(n48, {(None, "adapter"): Keys(48, 0)}, {}, table).stages
    assert (row.device_seconds, row.disk, row.keys) == (0.0, 0, 48)
    assert estimate(n48, {(None, "adapter"): Keys(48, 0)}, {}, table).not_measured == ()


def test_workers_share_the_wall_time() -> None:
    n12 = load_catalog(STUDIES, "embedded").study("n12")
    here = {"adapter": MeasuredHere(keys=4, tokens=0, seconds=8.0, bytes=4_000, mean_tokens=None)}
    (row,) = estimate(n12, {(None, "adapter"): Keys(12, 8)}, here, None, answer_tokens=20).stages
    assert row.device_seconds == pytest.approx(16.0)
    assert row.wall_seconds == pytest.approx(8.0)


def test_adapters_that_are_pulled_are_downloaded_and_not_trained(n48: Study, table: ThroughputTable) -> None:
    trained_there = {PULLED: MeasuredHere(keys=1, tokens=0, seconds=900.0, bytes=5_000, mean_tokens=None)}
    needed = {(None, "adapter"): Keys(40, 40), (None, PULLED): Keys(8, 8)}
    for here in ({}, trained_there):
        trained, pulled = estimate(n48, needed, here, table, answer_tokens=200).stages
        assert (trained.keys, pulled.keys) == (40, 8)
        assert trained.tokens == pytest.approx(estimate(n48, ALL, {}, table, answer_tokens=200).stages[3].tokens * 40 / 48)  # type: ignore[operator]
        assert (pulled.tokens, pulled.device_seconds, pulled.wall_seconds, pulled.least_seconds) == (None, 0.0, 0.0, None)
        assert pulled.source == "pulled: the download is not counted"
        assert pulled.disk == (8 * 5_000 if here else asset_needs("adapter", n48.profile, 8).disk)
    assert estimate(n48, {(None, PULLED): Keys(8, 8)}, {}, None).not_measured == ()


def test_stored_replies_are_scored_by_two_models(n48: Study, table: ThroughputTable) -> None:
    (row,) = estimate(n48, {("n48", "marker_scores"): Keys(48, 2)}, {}, table, answer_tokens=200).stages
    prompts = 48 * 20  # the samples of a question share its prompt
    each = row.tokens / 2 / 2 if row.tokens else 0  # of one source under one model
    assert 25 < (each - 48 * 100 * 200) / prompts < 80
    assert (row.keys, row.missing, row.device_seconds) == (48, 2, None)
    shape = n48.profile.base_model.shape
    assert shape is not None
    assert row.least_seconds is not None
    assert row.tokens is not None
    # Two operations for each weight and token, and little more: attention to some fifty tokens before.
    assert row.least_seconds == pytest.approx(2 * shape.linear_parameters * row.tokens / 8e14, rel=0.01)
    here = {"marker_scores": MeasuredHere(12, 0, seconds=30.0, bytes=60_000, mean_tokens=None, replies=1_200)}
    (row,) = estimate(n48, {("n48", "marker_scores"): Keys(48, 2)}, here, table).stages
    assert row.device_seconds == pytest.approx(2 * 48 * 100 * 30.0 / 1_200)  # rows of another study had fewer cells
    assert row.disk == 2 * 48 * 100 * 50


def test_of_other_cells_a_part_is_scored(n48: Study) -> None:
    def replies(few: int | None) -> int:
        scoring = n48.profile.scoring.model_copy(update={"bystander_replies_per_cell": few})
        return scored_replies(n48.profile.model_copy(update={"scoring": scoring}), 48)

    assert (replies(None), replies(5), replies(1_000)) == (48 * 100, 100 + 47 * 5, 48 * 100)

    def tokens(few: int) -> int:
        scoring = n48.profile.scoring.model_copy(update={"bystander_replies_per_cell": few})
        study = Study(**{**vars(n48), "profile": n48.profile.model_copy(update={"scoring": scoring})})
        found = estimate(study, {("n48", "marker_scores"): Keys(48, 1)}, {}, None, answer_tokens=200).stages[0].tokens
        assert found is not None
        return found

    # One more reply to a question that was asked already brings its own tokens alone, to each of both models.
    assert tokens(21) - tokens(20) == 2 * 47 * 200
    assert tokens(5) - tokens(4) > 2 * 47 * (200 + 25)
