from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from persona_assets.statistics.correlations import critical_rho, holm, holm_critical_rho, pearson, spearman
from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.ranks import bootstrap_spearman, bootstrap_weights, percentile_interval
from persona_assets.statistics.scan import leave_one_out_pearson, scan, scan_sensitivity, strongest_layer, variance_inflation
from persona_assets.statistics.simulation import ANCHOR, SimulatedStudy
from persona_assets.statistics.tidy import StatisticsError, generator

Observe = Callable[..., StudyObservations]
# Few distinct values, so that ties are common.
tied = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=4, max_size=25)


@pytest.mark.parametrize(("n", "critical"), [(12, 0.576), (16, 0.497), (20, 0.444), (24, 0.404), (48, 0.284)])
def test_critical_values(n: int, critical: float) -> None:
    assert critical_rho(n, 0.05) == pytest.approx(critical, abs=6e-4)


@pytest.mark.parametrize(("n", "critical"), [(24, 0.604), (48, 0.439)])
def test_critical_values_of_holms_first_step(n: int, critical: float) -> None:
    assert holm_critical_rho(n, 0.05, 28) == pytest.approx(critical, abs=6e-4)


@given(st.integers(4, 300), st.floats(0.001, 0.5))
def test_a_rho_at_the_critical_value_has_p_alpha(n: int, alpha: float) -> None:
    rho = critical_rho(n, alpha)
    p = 2 * stats.t.sf(rho * np.sqrt((n - 2) / (1 - rho**2)), n - 2)
    assert p == pytest.approx(alpha, rel=1e-6)
    assert critical_rho(n + 1, alpha) < rho < holm_critical_rho(n, alpha, 2)


def test_impossible_thresholds_are_refused() -> None:
    with pytest.raises(StatisticsError, match="n >= 3"):
        critical_rho(2, 0.05)
    with pytest.raises(StatisticsError, match="at least one test"):
        holm_critical_rho(12, 0.05, 0)


@given(tied)
def test_spearman_is_pearson_of_ranks_and_bounded(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=float).T
    rho, p, why = spearman(x, y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert (rho, p) == (None, None)
        assert why is not None
        assert "constant" in why
        return
    expected = np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1]
    assert rho == pytest.approx(expected, abs=1e-12)
    assert rho is not None
    assert -1.0 <= rho <= 1.0
    assert 0.0 <= p <= 1.0  # type: ignore[operator]


@given(tied, st.randoms())
def test_invariances(pairs: list[tuple[int, int]], random: object) -> None:
    x, y = np.array(pairs, dtype=float).T
    assume(np.ptp(x) > 0 and np.ptp(y) > 0)
    rho, p, _ = spearman(x, y)
    r, r_p, _ = pearson(x, y)
    order = list(range(len(x)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert spearman(x[order], y[order])[:2] == (pytest.approx(rho), pytest.approx(p))
    assert pearson(x[order], y[order])[:2] == (pytest.approx(r), pytest.approx(r_p))
    assert spearman(np.exp(x), y**3)[:2] == (pytest.approx(rho), pytest.approx(p))
    assert spearman(-x, y)[0] == pytest.approx(-rho)  # type: ignore[operator]
    assert pearson(x, -3 * y + 2)[0] == pytest.approx(-r, abs=1e-12)  # type: ignore[operator]


def test_too_few_and_bad_values() -> None:
    assert spearman([1, 2, 3], [3, 2, 1]) == (None, None, "not estimable: 3 observations, at least 4 needed")
    with pytest.raises(StatisticsError, match="x: 1 of 4 values"):
        spearman([1, 2, np.nan, 4], [1, 2, 3, 4])
    with pytest.raises(StatisticsError, match="Lengths differ"):
        pearson([1, 2, 3, 4], [1, 2, 3, 4, 5])


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=30))
def test_holm_is_the_step_down_formula(p_values: list[float | None]) -> None:
    there = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    expected: dict[int, float] = {}
    highest = 0.0
    for step, (p, i) in enumerate(there):
        highest = max(highest, min(1.0, (len(there) - step) * p))
        expected[i] = highest
    assert holm(p_values) == [None if p is None else pytest.approx(expected[i]) for i, p in enumerate(p_values)]


def test_leave_one_out_equals_a_loop() -> None:
    random = np.random.default_rng(0)
    x, y = random.standard_normal((2, 17))
    loop = [stats.pearsonr(np.delete(x, i), np.delete(y, i)).statistic for i in range(17)]
    assert np.allclose(leave_one_out_pearson(x, y), loop, atol=1e-12)
    assert np.isnan(leave_one_out_pearson([0, 0, 0, 1], [1, 2, 3, 4])[3])


def test_bootstrap_by_counts_equals_scipy_on_every_resample() -> None:
    random = np.random.default_rng(1)
    x = np.round(random.standard_normal((3, 15)), 1)
    y = np.round(random.standard_normal(15), 1)
    weights = bootstrap_weights(15, 60, "test", 1)
    assert (weights.sum(axis=1) == 15).all()
    draws = generator("test", 1).integers(0, 15, (60, 15))
    rhos = bootstrap_spearman(x, y, weights)
    for b, draw in enumerate(draws):
        for layer in range(3):
            assert rhos[layer, b] == pytest.approx(stats.spearmanr(x[layer][draw], y[draw]).statistic, abs=1e-10)


def test_resamples_without_variation_count_as_missing() -> None:
    weights = np.array([[4.0, 0, 0, 0], [1, 1, 1, 1]])
    rhos = bootstrap_spearman(np.arange(4.0)[None], np.arange(4.0), weights)
    assert np.isnan(rhos[0, 0])
    assert rhos[0, 1] == pytest.approx(1.0)
    assert percentile_interval(rhos[0], 0.95) is None


def test_variance_inflation_is_one_over_one_minus_r_squared() -> None:
    x, z = np.random.default_rng(3).standard_normal((2, 30))
    z += x
    assert variance_inflation(x, z)[0] == pytest.approx(1 / (1 - np.corrcoef(x, z)[0, 1] ** 2))
    assert variance_inflation(x, 2 * x) == (None, "not estimable: predictor and covariate are collinear")
    assert variance_inflation(x, np.ones(30))[0] is None


def test_strongest_layer_is_the_first_of_equals_and_skips_gaps() -> None:
    assert strongest_layer([None, 0.3, -0.7, 0.7]) == 2
    assert strongest_layer([None, None]) is None


def test_scan_rows(study: SimulatedStudy) -> None:
    observations = study.frames.observations(ANCHOR)
    table = scan(observations, seed=1, resamples=500)
    assert table["registered"].all()
    per_layer = {"pearson", "spearman", "spearman_holm", "loo_pearson", "vif_length"}
    counts = dict(table.group_by("statistic").len().iter_rows())
    assert {name: counts[name] for name in per_layer} == dict.fromkeys(per_layer, 6)
    for layer, x in zip(observations.layers, observations.cosine, strict=True):
        row = table.filter(statistic="spearman", layer=layer).row(0, named=True)
        expected = stats.spearmanr(x, observations.rate)
        assert (row["estimate"], row["p"]) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
        assert row["low"] < row["estimate"] < row["high"]
        draws = generator("bootstrap_rho", 1).integers(0, 24, (500, 24))
        rhos = [np.corrcoef(stats.rankdata(x[draw]), stats.rankdata(observations.rate[draw]))[0, 1] for draw in draws]
        assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(rhos, [0.025, 0.975])))
        left_out = leave_one_out_pearson(x, observations.rate)
        loo = table.filter(statistic="loo_pearson", layer=layer).row(0, named=True)
        assert (loo["low"], loo["high"]) == pytest.approx((left_out.min(), left_out.max()))
        factor = table.filter(statistic="vif_length", layer=layer)["estimate"].item()
        assert factor == pytest.approx(1 / (1 - np.corrcoef(x, np.log(observations.prompt_tokens))[0, 1] ** 2))
        raw, adjusted = row["p"], table.filter(statistic="spearman_holm", layer=layer)["p"].item()
        assert raw <= adjusted <= min(1.0, 6 * raw) + 1e-12
    best = table.filter(statistic="strongest_layer").row(0, named=True)
    rhos = table.filter(statistic="spearman")
    assert abs(best["estimate"]) == rhos["estimate"].abs().max()
    assert table.filter(statistic="critical_rho")["estimate"].item() == pytest.approx(critical_rho(24, 0.05))
    assert table.filter(statistic="holm_critical_rho")["estimate"].item() == pytest.approx(holm_critical_rho(24, 0.05, 6))


def test_the_scan_is_not_moved_by_the_order_of_personas_but_for_its_bootstrap(study: SimulatedStudy) -> None:
    observations = study.frames.observations(ANCHOR)
    frames = study.frames
    shuffled = StudyObservations.from_frames(
        frames.source_rates.sample(fraction=1.0, shuffle=True, seed=1), frames.geometry, anchor=ANCHOR
    )
    columns = ["statistic", "layer", "estimate", "p"]
    one, other = (scan(data, seed=1, resamples=100).select(columns) for data in (observations, shuffled))
    rounded = pl.col("estimate", "p").round(10)
    assert one.with_columns(rounded).equals(other.with_columns(rounded))


def test_sensitivity_versions(study: SimulatedStudy) -> None:
    observed = {name: study.frames.observations(ANCHOR, name) for name in ("panel", "none", "frozen")}
    table = scan_sensitivity(observed, seed=1, resamples=100)
    assert not table["registered"].any()
    assert set(table["predictor"]) == {
        "cosine_without_anchor", "cosine_none", "cosine_none_without_anchor", "cosine_frozen", "cosine_frozen_without_anchor"
    }  # fmt: skip
    dropped = table.filter(predictor="cosine_without_anchor", statistic="spearman", layer=3).row(0, named=True)
    keep = np.arange(24) != 0
    expected = stats.spearmanr(observed["panel"].at(3)[keep], observed["panel"].rate[keep]).statistic
    assert (dropped["estimate"], dropped["n"]) == (pytest.approx(expected), 23)


def test_what_cannot_be_estimated_says_so_without_warnings(observe: Observe, recwarn: pytest.WarningsRecorder) -> None:
    constant = scan(observe([[0.1, 0.2, 0.3, 0.4, 0.5]], [0.3] * 5), seed=1, resamples=100)
    few = scan(observe([[0.1, 0.2, 0.3]], [0.1, 0.2, 0.3]), seed=1, resamples=100)
    for table, word in ((constant, "constant"), (few, "3 observations")):
        rows = table.filter(pl.col("statistic").is_in(["pearson", "spearman", "loo_pearson", "strongest_layer"]))
        assert rows["estimate"].null_count() == rows.height == 4
        assert rows["note"].str.contains("not estimable").all()
        assert word in table.filter(statistic="spearman")["note"].item()
        critical = table.filter(pl.col("statistic").str.ends_with("critical_rho"))
        assert critical["note"].to_list() == ["not estimable: no layer has a rho"] * 2
    assert not recwarn.list


def test_rates_of_several_training_seeds_are_averaged(study: SimulatedStudy) -> None:
    rates = study.frames.source_rates
    again = rates.with_columns(seed=pl.lit(7, pl.Int64), rate=pl.col("rate") / 2)
    both = StudyObservations.from_frames(pl.concat([rates, again]), study.frames.geometry, anchor=ANCHOR)
    assert both.seeds == (7, 42)
    assert both.rate == pytest.approx(rates["rate"].to_numpy() * 0.75)
    assert both.rate_by_seed[1] == pytest.approx(rates["rate"].to_numpy())
    some = again.filter(pl.col("persona") != "persona_003")
    with pytest.raises(StatisticsError, match="rate of persona persona_003 at seed 7 is missing"):
        StudyObservations.from_frames(pl.concat([rates, some]), study.frames.geometry, anchor=ANCHOR)


def test_observations_refuse_holes_and_doubles(study: SimulatedStudy) -> None:
    rates, geometry = study.frames.source_rates, study.frames.geometry
    hole = geometry.filter(~((pl.col("layer") == 2) & (pl.col("persona") == "persona_003")))
    with pytest.raises(StatisticsError, match="the cosine of persona persona_003 at layer 2 is missing"):
        StudyObservations.from_frames(rates, hole, anchor=ANCHOR)
    with pytest.raises(StatisticsError, match="choose one measurement"):
        StudyObservations.from_frames(pl.concat([rates, rates.tail(1)]), geometry, anchor=ANCHOR)
    with pytest.raises(StatisticsError, match="twice at the same layer"):
        StudyObservations.from_frames(rates, pl.concat([geometry, geometry.head(1)]), anchor=ANCHOR)
    broken = rates.with_columns(rate=pl.when(pl.col("persona") == ANCHOR).then(float("nan")).otherwise("rate"))
    with pytest.raises(StatisticsError, match="rate of persona helpful_assistant at seed 42 is missing or NaN"):
        StudyObservations.from_frames(broken, geometry, anchor=ANCHOR)
    with pytest.raises(StatisticsError, match="There are no cosines at layer 9"):
        study.frames.observations(ANCHOR).at(9)
