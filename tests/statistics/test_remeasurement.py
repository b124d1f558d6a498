"""Drift between measurements: which are compared, by which tests, and what a change of conditions does to the verdict."""

from __future__ import annotations

import duckdb
import polars as pl
import pytest

from persona_assets.statistics.buckets import Outcome, confidence
from persona_assets.statistics.drift import drift_settings, inherited_drift
from persona_assets.statistics.remeasurement import (
    MEASURED_ONCE,
    REMEASUREMENT_DRIFT_SCHEMA,
    REMEASUREMENT_TESTS_SCHEMA,
    RemeasurementResult,
    measured_rates,
    measurement_history,
    remeasurement_drift,
)
from persona_assets.statistics.tidy import StatisticsError
from persona_assets.study import AnalysisPlan

SETTINGS = drift_settings(AnalysisPlan(primary_layers=(1,), bootstrap_resamples=200))
TWELVE = [f"p{i}" for i in range(12)]


def rates(*passes: dict[str, int], seed: int = 42) -> pl.DataFrame:
    """Hits in a hundred by persona, one mapping for each measurement."""
    rows = [(persona, seed, number, hits) for number, each in enumerate(passes, 1) for persona, hits in each.items()]
    frame = pl.DataFrame(rows, schema=["persona", "seed", "measurement", "hits"], orient="row")
    return frame.with_columns(n=pl.lit(100, pl.Int64), rate=pl.col("hits") / 100)


def measured(
    table: pl.DataFrame, adapters: dict[tuple[str, int], str] | None = None, **of_number: dict[int, object]
) -> pl.DataFrame:
    """Identity of each measurement; a condition is given by measurement number, and is the same for the numbers left out."""
    rows = []
    for persona, seed, number in table.select("persona", "seed", "measurement").rows():
        conditions = {name: values.get(number, "usual") for name, values in of_number.items()}
        digest = (adapters or {}).get((persona, number), f"adapter of {persona}")
        rows.append({"source": persona, "seed": seed, "measurement": number, "identity_digest": "-", "adapter_digest": digest})
        rows[-1] |= {"engine": "transformers", **conditions}
    return pl.DataFrame(rows)


def verdicts(result: RemeasurementResult) -> dict[str, str]:
    registered = result.remeasurement_tests.filter("registered", statistic="sign_drops")
    return dict(registered.select("compared_with", "verdict").iter_rows())


def test_now_is_compared_with_the_first_and_with_the_last_before_it() -> None:
    table = rates(dict.fromkeys(TWELVE, 60), dict.fromkeys(TWELVE, 40), dict.fromkeys(TWELVE, 43))
    result = remeasurement_drift(table, measured(table), SETTINGS)
    assert dict(result.remeasurement_drift.schema) == REMEASUREMENT_DRIFT_SCHEMA
    assert dict(result.remeasurement_tests.schema) == REMEASUREMENT_TESTS_SCHEMA
    assert result.remeasurement_drift.height == 24
    for compared, before, delta in (("first", 1, -0.17), ("last", 2, 0.03)):
        own = result.remeasurement_drift.filter(compared_with=compared)
        assert set(own["measurement_before"]) == {before}
        assert set(own["measurement_now"]) == {3}
        assert own["delta"].to_list() == pytest.approx([delta] * 12)
    assert verdicts(result) == {"first": "drift", "last": "no_drift"}
    assert result.drifted == ("first",)
    p = result.remeasurement_tests.filter(compared_with="first", statistic="sign_drops")["p"].item()
    assert p == pytest.approx(0.000244, abs=5e-7)


def test_the_tests_are_those_of_the_drift_since_the_parent() -> None:
    falls = {persona: 60 - place for place, persona in enumerate(TWELVE)}
    table = rates(dict.fromkeys(TWELVE, 55), falls)
    identity = measured(table)
    expected = inherited_drift(
        table.filter(measurement=2), table.filter(measurement=1), identity, identity, **SETTINGS
    ).drift_tests
    found = remeasurement_drift(table, identity, SETTINGS).remeasurement_tests
    for compared in ("first", "last"):
        assert found.filter(compared_with=compared).drop("compared_with").equals(expected)


@pytest.mark.parametrize(("drops", "verdict"), [(17, "no_drift"), (18, "drift")])
def test_the_trigger_fires_at_three_quarters(drops: int, verdict: str) -> None:
    panel = [f"p{i}" for i in range(24)]
    table = rates(dict.fromkeys(panel, 50), {persona: 49 if place < drops else 51 for place, persona in enumerate(panel)})
    result = remeasurement_drift(table, measured(table), SETTINGS)
    assert verdicts(result) == {"first": verdict, "last": verdict}


@pytest.mark.parametrize("condition", ["engine", "temperature", "chat_template_digest", "questions_digest", "base_digest"])
def test_under_other_conditions_no_fall_is_a_drift(condition: str) -> None:
    table = rates(dict.fromkeys(TWELVE, 60), {persona: 43 + place % 3 for place, persona in enumerate(TWELVE)})
    result = remeasurement_drift(table, measured(table, **{condition: {2: "other"}}), SETTINGS)
    assert verdicts(result) == {"first": "confounded", "last": "confounded"}
    assert set(result.remeasurement_tests["verdict"]) == {"confounded"}
    assert result.drifted == ()
    assert result.remeasurement_drift["note"].str.contains(f"different measurement identity: {condition}").all()


def test_after_the_conditions_changed_the_last_measurement_can_be_compared_again() -> None:
    table = rates(dict.fromkeys(TWELVE, 60), dict.fromkeys(TWELVE, 43), dict.fromkeys(TWELVE, 44))
    result = remeasurement_drift(table, measured(table, engine={1: "another"}), SETTINGS)
    assert verdicts(result) == {"first": "confounded", "last": "no_drift"}


def test_a_retrained_adapter_begins_a_history_of_its_own() -> None:
    table = rates({"a": 90, "b": 50}, {"a": 60, "b": 50}, {"a": 50, "b": 40}, {"a": 40, "b": 45})
    retrained = {("a", number): "second adapter of a" for number in (2, 3, 4)}
    result = remeasurement_drift(table, measured(table, retrained), SETTINGS)
    before = {(row["compared_with"], row["persona"]): row for row in result.remeasurement_drift.to_dicts()}
    assert before["first", "a"]["measurement_before"] == 2
    assert before["first", "a"]["rate_before"] == 0.6
    assert before["first", "b"]["measurement_before"] == 1
    assert all(row["same_adapter"] for row in before.values())

    just = table.filter(pl.col("measurement") <= 2)
    result = remeasurement_drift(just, measured(just, retrained), SETTINGS)
    marked = result.remeasurement_drift.filter(persona="a")
    assert set(marked["same_adapter"]) == {False}
    assert marked["note"].str.contains("retrained under the same name").all()
    assert set(result.remeasurement_tests.filter("registered")["n"]) == {1}


def test_an_unknown_adapter_confounds() -> None:
    table = rates({"a": 60, "b": 60}, {"a": 40, "b": 40})
    result = remeasurement_drift(table, measured(table, {("a", 1): "unknown"}), SETTINGS)
    assert verdicts(result) == {"first": "confounded", "last": "confounded"}
    both = remeasurement_drift(table, measured(table, {("a", 1): "unknown", ("a", 2): "unknown"}), SETTINGS)
    assert verdicts(both) == {"first": "confounded", "last": "confounded"}


def test_sources_measured_once_are_not_compared() -> None:
    table = rates({"a": 60, "b": 60, "c": 10}, {"b": 50})
    result = remeasurement_drift(table, measured(table), SETTINGS)
    assert set(result.remeasurement_drift["persona"]) == {"b"}
    once = rates({"a": 60, "b": 60})
    for nothing in (once, once.head(0)):
        result = remeasurement_drift(nothing, measured(once), SETTINGS)
        assert result.remeasurement_drift.is_empty()
        assert dict(result.remeasurement_drift.schema) == REMEASUREMENT_DRIFT_SCHEMA
        assert verdicts(result) == {"first": "not_tested", "last": "not_tested"}
        assert set(result.remeasurement_tests["note"]) == {MEASURED_ONCE}


def test_seeds_of_a_source_are_one_source() -> None:
    table = pl.concat([rates({"a": 60, "b": 50}, {"a": 30, "b": 60}), rates({"a": 60, "b": 50}, {"a": 70, "b": 60}, seed=43)])
    result = remeasurement_drift(table, measured(table), SETTINGS)
    row = result.remeasurement_tests.filter(compared_with="first", statistic="sign_drops").row(0, named=True)
    assert (row["n"], row["estimate"]) == (2, 0.5)


def test_rates_are_counted_for_each_measurement() -> None:
    rows = [("a", "a", 1, True), ("a", "a", 1, False), ("a", "b", 1, True), ("a", "a", 2, True), ("b", "b", 1, False)]
    completions = pl.DataFrame(rows, schema=["source", "eval_persona", "measurement", "hit"], orient="row")
    with duckdb.connect() as connection:
        connection.register("completions", completions.with_columns(seed=pl.lit(42, pl.Int64)))
        found = measured_rates(connection)
        connection.register("doubtful", completions.with_columns(seed=pl.lit(42, pl.Int64), hit=pl.lit(None, pl.Boolean)))
        with pytest.raises(StatisticsError, match=r"doubtful: 2 completions of a \(seed 42, measurement 1\) do not say"):
            measured_rates(connection, "doubtful")
    assert found.rows() == [("a", 42, 1, 1, 2, 0.5), ("a", 42, 2, 1, 1, 1.0), ("b", 42, 1, 0, 1, 0.0)]
    history = measurement_history(found, measured(found))
    assert history["wilson_low"][1] == pytest.approx(0.2065, abs=1e-4)
    assert history.columns[-1] == "engine"
    with pytest.raises(StatisticsError, match="no row for a measurement of b"):
        measurement_history(found, measured(found).filter(source="a"))


def test_a_fired_trigger_makes_the_confidence_low() -> None:
    held = Outcome("H_consistent", ())
    trust = confidence(held, signed_bucket="H_consistent", n_seeds=3, drift_triggered=False, drifted_since=["last"])
    assert (trust.level, trust.reasons) == ("LOW", ("the drift trigger fired against the last measurement",))
    steady = confidence(held, signed_bucket="H_consistent", n_seeds=3, drift_triggered=False)
    assert steady.level == "HIGH"
    declined = confidence(held, signed_bucket="H_consistent", n_seeds=3, drift_triggered=True, drift_confounded=True)
    assert declined.level == "MODERATE"
