"""False-positive rates under simulated nulls, and the p-values that do not hold their level."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from persona_assets.statistics.calibration import CALIBRATION_SCHEMA, false_positive_rates
from persona_assets.statistics.correlations import critical_rho, holm_critical_rho
from persona_assets.statistics.power import power, rule_design

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("n", "studies"), [(24, 1500), (48, 700)])
def test_every_test_holds_its_level_or_is_known_not_to(n: int, studies: int) -> None:
    table = false_positive_rates(n=n, studies=studies, seed=1)
    assert dict(table.schema) == CALIBRATION_SCHEMA
    assert (table["studies"] == studies).all()
    outside = {
        "level": (pl.col("low") > 0.05) | (pl.col("high") < 0.05),
        "at most": pl.col("low") > 0.05,
        "close": (pl.col("low") > 0.10) | (pl.col("high") < 0.05),
        "not held": pl.col("low") < 0.15,
    }
    assert set(table["expected"]) == set(outside)
    for expected, wrong in outside.items():
        assert table.filter(pl.col("expected") == expected).filter(wrong).is_empty(), (expected, table)


def test_planted_effects_are_found_as_often_as_the_power_table_says() -> None:
    """Studies drawn and tested one by one with scipy, against the vectorised table."""
    n, studies, rho = 48, 1500, -0.4
    cohorts = ("inherited",) * 24 + ("new",) * 24
    table = power(rule_design([f"p{i}" for i in range(n)], ("occupational",) * n, cohorts, n_layers=28, seed=1), seed=1)
    random = np.random.default_rng(5)
    found = {"raw": 0, "holm": 0, "gate_A_split_A": 0}
    for _ in range(studies):
        x, y = random.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=n).T
        found["raw"] += abs(stats.spearmanr(x, y).statistic) > critical_rho(n, 0.05)
        found["holm"] += abs(stats.spearmanr(x, y).statistic) > holm_critical_rho(n, 0.05, 28)
        found["gate_A_split_A"] += stats.spearmanr(x[24:], y[24:]).pvalue < 0.05
    for quantity, count in found.items():
        share = table.filter(pl.col("quantity") == quantity, pl.col("population_rho") == rho)["probability"].item()
        assert count / studies == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / studies) + 0.01)
