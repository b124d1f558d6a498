"""Test and retest: known answers, plain loops, and simulated studies whose reliability is known."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pingouin
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_assets.statistics.retest import agreement, retest_rows, tightness, tightness_interval
from persona_assets.statistics.tidy import StatisticsError

# Shrout and Fleiss (1979), table 2: four judges, six targets.
SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float).T


def simulated(seed: int, *, sources: int, noise: float, scale: float = 1.0) -> np.ndarray:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    return scale * (rng.normal(size=sources) + noise * rng.normal(size=(2, sources)))


def test_the_published_example() -> None:
    found = agreement(SHROUT_FLEISS)
    assert round(found.reliability, 2) == 0.17
    assert (round(found.low, 2), round(found.high, 2)) == (-0.13, 0.72)
    assert found.noise_sd**2 == pytest.approx(6.26, abs=0.005)  # their mean square within targets
    assert found.source_sd is not None
    assert found.source_sd**2 == pytest.approx((11.24 - 6.26) / 4, abs=0.005)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_reliability_is_pingouins(seed: int) -> None:
    import pandas as pd

    table = simulated(seed, sources=9, noise=0.6)
    long = pd.DataFrame(
        [(source, number, table[number, source]) for number in range(2) for source in range(9)],
        columns=["source", "number", "value"],
    )
    wanted = pingouin.intraclass_corr(long, targets="source", raters="number", ratings="value").iloc[0]
    found = agreement(table)
    assert found.reliability == pytest.approx(float(wanted["ICC"]))
    interval = next(wanted[name] for name in wanted.index if "CI95" in name.replace("%", ""))
    assert (found.low, found.high) == pytest.approx(tuple(interval), abs=0.0051)


def test_mean_squares_are_those_of_a_plain_loop() -> None:
    table = simulated(5, sources=7, noise=0.5)
    within = sum((x - column.mean()) ** 2 for column in table.T for x in column) / 7
    grand = table.mean()
    between = 2 * sum((column.mean() - grand) ** 2 for column in table.T) / 6
    found = agreement(table)
    assert found.noise_sd == pytest.approx(math.sqrt(within))
    assert found.noise_sd == pytest.approx(math.sqrt(np.mean((table[0] - table[1]) ** 2) / 2))
    assert found.source_sd == pytest.approx(math.sqrt((between - within) / 2))


def test_estimates_approach_what_was_simulated() -> None:
    found = agreement(simulated(6, sources=20_000, noise=0.5))
    assert found.noise_sd == pytest.approx(0.5, rel=0.02)
    assert found.source_sd == pytest.approx(1.0, rel=0.02)
    assert found.reliability == pytest.approx(0.8, abs=0.01)


@given(st.integers(0, 500), st.floats(0.1, 50.0), st.floats(-20.0, 20.0))
def test_reliability_has_no_units_and_swapping_measurements_changes_nothing(seed: int, scale: float, shift: float) -> None:
    table = simulated(seed, sources=6, noise=0.7)
    one, other = agreement(table), agreement(scale * table[::-1] + shift)
    assert other.reliability == pytest.approx(one.reliability, abs=1e-8)
    assert other.noise_sd == pytest.approx(scale * one.noise_sd, rel=1e-6)
    assert one.low <= one.reliability <= one.high
    assert (one.source_sd is None) == (one.reliability <= 0)
    assert tightness(table, 3 * table + shift) == (None if one.source_sd is None else pytest.approx(1.0, rel=1e-6))


def test_tightness_is_the_ratio_of_noise() -> None:
    rng = np.random.default_rng(8)
    true = rng.normal(size=30_000)
    coarse, fine = (true + noise * rng.normal(size=(2, 30_000)) for noise in (0.8, 0.2))
    assert tightness(coarse, fine * 7) == pytest.approx(4.0, rel=0.03)


def test_the_interval_covers_the_true_ratio_as_often_as_it_says() -> None:
    covered, usable = 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        true = rng.normal(size=40)
        coarse, fine = (true + noise * rng.normal(size=(2, 40)) for noise in (0.4, 0.2))
        interval = tightness_interval(coarse, fine, seed=seed, resamples=300, confidence=0.9)
        if interval is not None:
            usable += 1
            covered += interval[0] <= 2.0 <= interval[1]
    assert usable >= 58
    assert 0.78 <= covered / usable <= 0.99


def test_rows_say_everything_for_each_outcome() -> None:
    rng = np.random.default_rng(9)
    true = rng.normal(size=12)
    outcomes = {"source_rate": true + 0.5 * rng.normal(size=(2, 12)), "marker_margin": 4 * true + 0.4 * rng.normal(size=(2, 12))}
    rows = retest_rows(outcomes, 100, seed=1, resamples=200)
    again = retest_rows(outcomes, 100, seed=1, resamples=200)
    assert rows.equals(again)
    assert not rows["registered"].any()
    by = {(row["outcome"], row["statistic"]): row for row in rows.to_dicts()}
    found = agreement(outcomes["marker_margin"])
    assert by["marker_margin", "reliability"]["estimate"] == found.reliability
    assert by["marker_margin", "noise_share"]["estimate"] == pytest.approx(found.noise_sd / found.source_sd)  # type: ignore[operator]
    assert by["marker_margin", "pearson"]["estimate"] == pytest.approx(np.corrcoef(*outcomes["marker_margin"])[0, 1])
    tighter, equivalent = by["marker_margin", "tighter"], by["marker_margin", "equivalent_completions"]
    assert tighter["estimate"] == pytest.approx(
        by["source_rate", "noise_share"]["estimate"] / by["marker_margin", "noise_share"]["estimate"]
    )
    assert [equivalent[name] for name in ("estimate", "low", "high")] == pytest.approx(
        [100 * tighter[name] ** 2 for name in ("estimate", "low", "high")]
    )
    assert ("source_rate", "tighter") not in by


@pytest.mark.parametrize(
    ("rate", "outcome", "said"),
    [
        (None, None, "only once"),
        (np.ones((2, 3)) * [1, 2, 3], np.ones((2, 3)) * [1, 2, 3], "at least 4 needed"),
        (np.ones((2, 5)), np.ones((2, 5)), "all values are equal"),
        # Sources that swap places between measurements do not differ beyond noise.
        (np.array([[1.0, 2, 3, 4], [4, 3, 2, 1]]), np.array([[1.0, 2, 3, 4], [1.1, 2.1, 3.1, 4]]), "beyond noise"),
    ],
)
def test_what_cannot_be_estimated_says_why(rate: object, outcome: object, said: str) -> None:
    rows = retest_rows({"source_rate": rate, "marker_margin": outcome}, 100, seed=1, resamples=100, why_missing="only once")  # type: ignore[dict-item]
    tighter = rows.filter(statistic="tighter").row(0, named=True)
    assert tighter["estimate"] is None
    assert said in tighter["note"]
    assert rows.filter(pl.col("estimate").is_null(), pl.col("note").is_null()).is_empty()


def test_perfect_agreement_has_no_interval_and_no_infinity() -> None:
    table = np.vstack([np.arange(5.0)] * 2)
    found = agreement(table)
    assert (found.reliability, found.low, found.high, found.noise_sd) == (1.0, 1.0, 1.0, 0.0)
    rows = retest_rows({"source_rate": simulated(1, sources=5, noise=0.3), "marker_margin": table}, 100, seed=1, resamples=100)
    assert rows.filter(statistic="tighter")["estimate"].item() is None


@pytest.mark.parametrize("values", [np.ones((1, 5)), np.ones((2, 1)), np.full((2, 4), np.nan), np.ones((2, 4)), np.ones(4)])
def test_bad_tables_are_refused(values: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(StatisticsError):
        agreement(values)


def test_bad_outcomes_are_refused() -> None:
    table = simulated(1, sources=6, noise=0.5)
    with pytest.raises(StatisticsError, match="source_rate is not among"):
        retest_rows({"marker_margin": table}, 100, seed=1)
    with pytest.raises(StatisticsError, match="the same sources"):
        retest_rows({"source_rate": table, "marker_margin": table[:, :5]}, 100, seed=1)
    with pytest.raises(StatisticsError, match="same sources"):
        tightness(table, table[:, :4])


def test_less_noise_never_gives_less_reliability() -> None:
    rng = np.random.default_rng(2)
    true, error = rng.normal(size=50), rng.normal(size=(2, 50))
    found = [agreement(true + noise * error).reliability for noise in (2.0, 1.0, 0.5, 0.1)]
    assert all(a < b for a, b in pairwise(found))
