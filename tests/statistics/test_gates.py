from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from persona_assets.statistics.correlations import critical_rho
from persona_assets.statistics.gates import GATES_SCHEMA, OUTCOME_SCHEMA, bucket_inputs, evaluate_gates
from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.partial import partial_spearman
from persona_assets.statistics.simulation import ANCHOR, SimulatedStudy
from persona_assets.statistics.splits import split_a, split_b
from persona_assets.statistics.tidy import StatisticsError

Observe = Callable[..., StudyObservations]
CATEGORIES = ("occupational", "character", "generic_helper")


@given(st.lists(st.sampled_from(CATEGORIES), min_size=2, max_size=60), st.integers(0, 999))
def test_split_b_halves_every_category_and_the_whole(categories: list[str], seed: int) -> None:
    personas = [f"p{i}" for i in range(len(categories))]
    split = split_b(personas, categories, seed)
    assert split.reason is None
    assert abs(int(split.calibration.sum()) - int(split.holdout.sum())) <= 1
    for category in CATEGORIES:
        own = np.array([c == category for c in categories])
        assert abs(int((split.calibration & own).sum()) - int((split.holdout & own).sum())) <= 1
    # The split belongs to the personas, not to their order.
    order = np.random.default_rng(seed).permutation(len(personas))
    again = split_b([personas[i] for i in order], [categories[i] for i in order], seed)
    assert (again.calibration == split.calibration[order]).all()


def test_split_b_is_pinned_and_follows_its_seed() -> None:
    personas, categories = [f"p{i}" for i in range(8)], ["occupational"] * 8
    assert split_b(personas, categories, 42).calibration.astype(int).tolist() == [0, 1, 1, 1, 0, 1, 0, 0]
    assert len({tuple(split_b(personas, categories, seed).calibration) for seed in range(20)}) > 10
    with pytest.raises(StatisticsError, match="twice"):
        split_b(["a", "a"], ["character"] * 2, 1)


def test_split_a_needs_both_cohorts() -> None:
    assert split_a(["inherited", "new"]).calibration.tolist() == [True, False]
    assert "no parent" in (split_a(["new", "new"]).reason or "")
    assert "no holdout" in (split_a(["inherited"] * 2).reason or "")


def rows_of(table: pl.DataFrame, **where: object) -> list[dict[str, object]]:
    return table.filter(**where).to_dicts()


def test_every_gate_row_by_hand(study: SimulatedStudy) -> None:
    observations = study.frames.observations(ANCHOR)
    table = evaluate_gates(observations, primary_layers=(3, 2), seed=42).gates
    assert dict(table.schema) == GATES_SCHEMA
    assert table.height == 2 * 2 * 5
    b = split_b(observations.personas, observations.categories, 42)
    a = np.array([cohort == "inherited" for cohort in observations.cohorts])
    occupational = np.array([category == "occupational" for category in observations.categories])
    for layer in (3, 2):
        x, y = observations.at(layer), observations.rate
        for name, calibration in (("A", a), ("B", b.calibration)):
            hold = ~calibration
            expected = stats.spearmanr(x[hold], y[hold])
            [row] = rows_of(table, gate="A", split=name, layer=layer, registered=True)
            assert (row["observed"], row["p"]) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
            assert row["threshold"] == pytest.approx(critical_rho(int(hold.sum()), 0.05))
            assert row["passed"] == (abs(expected.statistic) > row["threshold"])
            one, other = stats.linregress(x[calibration], y[calibration]), stats.linregress(x[hold], y[hold])
            difference = abs(other.slope - one.slope)
            z = difference / np.hypot(one.stderr, other.stderr)
            [row] = rows_of(table, gate="B", split=name, layer=layer, registered=True)
            assert row["observed"] == pytest.approx(z)
            assert row["threshold"] == pytest.approx(1.96, abs=5e-5)
            assert row["passed"] == (z < 1.96 and difference / abs(one.slope) < 0.25)
        expected = stats.spearmanr(x[occupational], y[occupational])
        [row] = rows_of(table, gate="C", layer=layer, registered=True)
        assert (row["observed"], row["n"]) == (pytest.approx(expected.statistic), int(occupational.sum()))


def test_a_study_without_a_parent_passes_no_gate_on_split_a(observe: Observe) -> None:
    x = np.linspace(-0.9, 0.9, 24)
    result = evaluate_gates(observe(x, 0.5 - 0.3 * x + 0.001 * np.sin(40 * x)), primary_layers=(0,), seed=1)
    on_a = rows_of(result.gates, split="A", registered=True)
    assert len(on_a) == 2
    for row in on_a:
        assert (row["passed"], row["observed"]) == (False, None)
        assert "no parent" in str(row["note"])
    assert all(row["passed"] for row in rows_of(result.gates, split="B", registered=True))
    assert [row["passed"] for row in rows_of(result.gates, gate="C", registered=True)] == [True]
    # Gate C alone holds on everything it needs, so neither consistent nor weakly consistent.
    assert result.result.bucket == "H_indeterminate"


def test_a_clean_effect_is_consistent_and_confident_only_with_seeds(observe: Observe) -> None:
    x = np.linspace(-0.9, 0.9, 40)
    rate = 0.5 - 0.3 * x + 0.002 * np.sin(40 * x)
    cohorts = ("inherited", "new") * 20
    one = evaluate_gates(observe(x, rate, cohorts=cohorts), primary_layers=(0,), seed=1, drift_triggered=False)
    assert (one.result.bucket, one.confidence.level) == ("H_consistent", "LOW")
    assert one.confidence.reasons == ("only one seed was trained",)
    several = observe(x, rate, cohorts=cohorts, rate_by_seed=[rate - 0.01, rate, rate + 0.01])
    assert evaluate_gates(several, primary_layers=(0,), seed=1, drift_triggered=False).confidence.level == "HIGH"
    drifted = evaluate_gates(several, primary_layers=(0,), seed=1, drift_triggered=True)
    assert drifted.confidence.level == "LOW"
    confounded = evaluate_gates(several, primary_layers=(0,), seed=1, drift_confounded=True)
    assert confounded.confidence.level == "MODERATE"
    untold = evaluate_gates(several, primary_layers=(0,), seed=1, drift_triggered=False, truncation_unknown=40)
    assert untold.confidence.reasons == ("of 40 source rates it is not recorded whether completions were truncated",)
    untested = evaluate_gates(several, primary_layers=(0,), seed=1)
    assert (untested.confidence.level, untested.confidence.reasons[0][:21]) == ("MODERATE", "drift was not tested:")
    outcome = one.outcome.row(0, named=True)
    assert dict(one.outcome.schema) == OUTCOME_SCHEMA
    assert (outcome["bucket"], outcome["n"], outcome["n_seeds"], outcome["strongest_layer"]) == ("H_consistent", 40, 1, 0)
    assert outcome["strongest_rho"] == pytest.approx(stats.spearmanr(x, rate).statistic)


def test_the_wrong_direction_passes_the_registered_gates_but_not_the_signed_ones(observe: Observe) -> None:
    x = np.linspace(-0.9, 0.9, 40)
    result = evaluate_gates(
        observe(x, 0.5 + 0.3 * x + 0.002 * np.sin(40 * x), cohorts=("inherited", "new") * 20), primary_layers=(0,), seed=1
    )
    passed = Counter((row["registered"], row["passed"]) for row in result.gates.to_dicts())
    assert passed == {(True, True): 5, (False, False): 5}
    assert result.result.bucket == "H_anti_correlated"


def test_layers_that_were_not_measured_and_marked_personas(observe: Observe) -> None:
    x = np.linspace(-0.9, 0.9, 20)
    excluded = np.arange(20) < 4
    data = observe(x, 0.5 - 0.3 * x + 0.01 * np.sin(40 * x), excluded=excluded, cohorts=("inherited", "new") * 10)
    result = evaluate_gates(data, primary_layers=(0, 7), seed=1)
    assert all(row["note"] == "not passed: layer 7 was not measured" for row in rows_of(result.gates, layer=7))
    assert [row["n"] for row in rows_of(result.gates, gate="C", layer=0)] == [16, 16]
    assert result.result.bucket == "H_consistent"
    assert "layer 7: rho not estimable" in result.result.conditions


@pytest.mark.parametrize(
    ("calibration", "holdout", "passes"), [(-0.3, -0.23, True), (-0.3, -0.22, False), (-0.3, -0.37, True), (-0.3, -0.38, False)]
)
def test_gate_b_wants_slopes_within_a_quarter_of_the_calibration_slope(
    observe: Observe, calibration: float, holdout: float, passes: bool
) -> None:
    """Slopes that no test tells apart, because the points scatter: the relative change alone decides."""
    x = np.linspace(-1, 1, 12)
    scatter = 0.08 * np.array([1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1])  # leaves the slopes as they are
    rate = np.concatenate([0.5 + calibration * x + scatter, 0.5 + holdout * x + scatter])
    data = observe(np.tile(x, 2), rate, cohorts=("inherited",) * 12 + ("new",) * 12)
    table = evaluate_gates(data, primary_layers=(0,), seed=1).gates
    [row] = rows_of(table, gate="B", split="A", registered=True)
    error = stats.linregress(x, rate[:12]).stderr * np.sqrt(2)
    z = abs(holdout - calibration) / error
    assert z < 1.96
    assert (row["observed"], row["p"]) == (pytest.approx(z), pytest.approx(2 * stats.norm.sf(z)))
    assert row["passed"] is passes


def test_gate_b_also_wants_slopes_that_a_test_does_not_tell_apart(observe: Observe) -> None:
    x = np.linspace(-1, 1, 12)
    scatter = 0.001 * np.array([1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1])
    rate = np.concatenate([0.5 - 0.3 * x + scatter, 0.5 - 0.25 * x + scatter])
    data = observe(np.tile(x, 2), rate, cohorts=("inherited",) * 12 + ("new",) * 12)
    [row] = rows_of(evaluate_gates(data, primary_layers=(0,), seed=1).gates, gate="B", split="A", registered=True)
    assert row["observed"] > row["threshold"]  # type: ignore[operator]
    assert not row["passed"]


def test_the_bucket_looks_at_raw_corrected_and_partial_p_of_each_layer(observe: Observe) -> None:
    random = np.random.default_rng(3)
    rate = random.uniform(0.2, 0.7, 24)
    cosine = np.clip(-0.5 * (rate - 0.45) + 0.12 * random.standard_normal((8, 24)), -1, 1)
    data = observe(cosine, rate)
    found = bucket_inputs(data, [], (2, 5), 0.05, -1, registered=True)
    raw = [stats.spearmanr(x, rate).pvalue for x in cosine]
    corrected = multipletests(raw, method="holm")[1]
    assert [found.p[layer] for layer in range(8)] == pytest.approx(raw)
    assert [found.p_holm[layer] for layer in range(8)] == pytest.approx(list(corrected))
    partial = [partial_spearman(cosine[layer], rate, [np.log(data.prompt_tokens)])[1] for layer in (2, 5)]
    assert [found.length_partial_p[layer] for layer in (2, 5)] == pytest.approx(partial)
    outcome = evaluate_gates(data, primary_layers=(2, 5), seed=1).outcome.row(0, named=True)
    assert outcome["n_layers_raw"] == sum(p < 0.05 for p in raw) > sum(p < 0.05 for p in corrected) == outcome["n_layers_holm"]


def test_slopes_behind_gate_b_are_published(study: SimulatedStudy) -> None:
    observations = study.frames.observations(ANCHOR)
    details = evaluate_gates(observations, primary_layers=(3,), seed=42).details
    a = np.array([cohort == "inherited" for cohort in observations.cohorts])
    fit = stats.linregress(observations.at(3)[~a], observations.rate[~a])
    row = details.filter(statistic="slope_holdout_A").row(0, named=True)
    assert row["estimate"] == pytest.approx(fit.slope)
    assert row["high"] - row["low"] == pytest.approx(2 * fit.stderr)


def test_degenerate_studies_pass_nothing_and_warn_nothing(observe: Observe, recwarn: pytest.WarningsRecorder) -> None:
    cases = {
        "constant rate": observe(np.linspace(-1, 1, 12), [0.4] * 12, cohorts=("inherited", "new") * 6),
        "constant cosine": observe([0.1] * 12, np.linspace(0.1, 0.9, 12), cohorts=("inherited", "new") * 6),
        "three personas": observe([0.1, 0.2, 0.4], [0.3, 0.1, 0.2], cohorts=("inherited", "new", "new")),
        "one persona": observe([0.5], [0.5]),
    }
    for name, data in cases.items():
        result = evaluate_gates(data, primary_layers=(0,), seed=1)
        assert not result.gates["passed"].any(), name
        assert result.gates["note"].str.starts_with("not passed: ").all(), name
    line = observe(np.arange(12) / 16, 0.75 - np.arange(12) / 32, cohorts=("inherited", "new") * 6)
    exact = evaluate_gates(line, primary_layers=(0,), seed=1).gates
    assert all("the slopes have no standard error" in str(row["note"]) for row in rows_of(exact, gate="B"))
    assert not recwarn.list
