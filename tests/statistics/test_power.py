from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from persona_assets.statistics.correlations import critical_rho, holm_critical_rho
from persona_assets.statistics.gate_rules import gate_a, gate_b, gate_c
from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.power import POWER_SCHEMA, RuleDesign, power, rule_design
from persona_assets.statistics.tidy import StatisticsError, generator

PERSONAS = tuple(f"p{i:02d}" for i in range(48))
CATEGORIES = tuple("occupational" if i % 12 < 5 else "character" if i % 12 < 9 else "generic_helper" for i in range(48))
COHORTS = ("inherited",) * 24 + ("new",) * 24


def design(n: int = 48, **changes: object) -> RuleDesign:
    arguments: dict[str, object] = {"n_layers": 28, "seed": 42, **changes}
    cohorts = changes.pop("cohorts", COHORTS[-n:])
    arguments.pop("cohorts", None)
    return rule_design(PERSONAS[:n], CATEGORIES[:n], cohorts, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    return power(design(), seed=42)


def probability(table: pl.DataFrame, quantity: str, rho: float) -> float:
    return float(table.filter(pl.col("population_rho") == rho, pl.col("quantity") == quantity)["probability"].item())


@pytest.mark.parametrize(
    ("rho", "expected", "near"),
    [(-0.3, 0.01, 0.005), (-0.4, 0.03, 0.005), (-0.52, 0.10, 0.015), (-0.7, 0.33, 0.02), (-0.81, 0.56, 0.02)],
)
def test_joint_rule(table: pl.DataFrame, rho: float, expected: float, near: float) -> None:
    assert probability(table, "rule", rho) == pytest.approx(expected, abs=near)


def test_table(table: pl.DataFrame) -> None:
    assert dict(table.schema) == POWER_SCHEMA
    assert table.select(pl.struct("population_rho", "quantity").is_unique().all()).item()
    assert set(table["draws"]) == {10_000}
    assert ((table["low"] <= table["probability"]) & (table["probability"] <= table["high"])).all()
    assert set(table.filter("registered")["population_rho"]) == {-0.52, -0.40, -0.30}
    for quantity in ("raw", "holm", "gate_A_split_A"):
        assert probability(table, quantity, -0.52) > probability(table, quantity, -0.4) > probability(table, quantity, -0.3)
    assert power(design(), seed=42, draws=500).equals(power(design(), seed=42, draws=500))


def test_single_tests_agree_with_the_normal_approximation(table: pl.DataFrame) -> None:
    """Fieller's approximation: atanh of Spearman's rho has variance 1.06 / (n - 3) under normality."""
    for rho in (-0.52, -0.4, -0.3):
        spearman = 6 / np.pi * np.arcsin(rho / 2)
        for quantity, critical, n in (
            ("raw", critical_rho(48, 0.05), 48),
            ("holm", holm_critical_rho(48, 0.05, 28), 48),
            ("gate_A_split_A", critical_rho(24, 0.05), 24),
        ):
            scale = np.sqrt(1.06 / (n - 3))
            expected = stats.norm.cdf((-np.arctanh(critical) - np.arctanh(spearman)) / scale)
            assert probability(table, quantity, rho) == pytest.approx(expected, abs=0.03)


def gates_of(observations: StudyObservations, plan: RuleDesign, sign: int | None) -> list[list[bool]]:
    a = [gate_a(observations, split, 0, 0.05, sign).passed for split in plan.splits]
    b = [gate_b(observations, split, 0, 0.05, plan.slope_tolerance, sign).passed for split in plan.splits]
    return [a, b, [gate_c(observations, 0, 0.05, sign).passed]]


# The whole rule; and, where the standard errors of slopes decide alone, whether degrees of freedom are counted alike.
@pytest.mark.parametrize(
    ("n", "draws", "rho", "tolerance", "whole"), [(48, 60, -0.7, 0.25, "rule"), (12, 150, -0.9, 99.0, "gate_B")]
)
def test_each_simulated_study_is_judged_as_the_gates_judge_it(
    n: int, draws: int, rho: float, tolerance: float, whole: str
) -> None:
    cohorts = COHORTS[24 - n // 2 : 24 + n // 2]
    plan = design(n, cohorts=cohorts, slope_tolerance=tolerance)
    simulated = power(plan, seed=9, draws=draws, rhos=(), rule_rhos=(rho,))
    random = generator("power", 9, n)
    x, noise = random.standard_normal((draws, n)), random.standard_normal((draws, n))
    y = rho * x + np.sqrt(1 - rho**2) * noise
    passed = dict.fromkeys(("gate_A", "gate_B", "gate_C", "rule", "rule_signed"), 0)
    for cosine, rate in zip(x, y, strict=True):
        observations = StudyObservations(
            personas=PERSONAS[:n], categories=CATEGORIES[:n], cohorts=cohorts, anchor="p00", layers=(0,),
            rate=(rate - y.min()) / np.ptp(y), cosine=cosine[None], prompt_tokens=np.arange(4.0, 4.0 + n),
            seeds=(1,), rate_by_seed=((rate - y.min()) / np.ptp(y))[None], within_excluded=np.zeros(n, bool),
        )  # fmt: skip
        held = {sign: [all(gate) for gate in gates_of(observations, plan, sign)] for sign in (None, -1)}
        for gate, holds in zip("ABC", held[None], strict=True):
            passed[f"gate_{gate}"] += holds
        passed["rule"] += all(held[None])
        passed["rule_signed"] += all(held[-1])
    assert {name: round(probability(simulated, name, rho) * draws) for name in passed} == passed
    assert 0 < passed[whole] < draws


def test_a_rule_that_cannot_pass_has_probability_zero_and_says_why() -> None:
    orphan = power(design(cohorts=("new",) * 48), seed=1, draws=200)
    rule = orphan.filter(quantity="rule")
    assert (rule["probability"] == 0).all()
    assert rule["note"].str.contains("no inherited cohort").all()
    assert (orphan.filter(quantity="gate_A_split_B")["probability"] > 0).all()
    small = power(design(6, cohorts=("inherited",) * 3 + ("new",) * 3), seed=1, draws=200)
    assert (small.filter(quantity="rule")["probability"] == 0).all()
    nobody = rule_design(PERSONAS, ("character",) * 48, COHORTS, n_layers=28, seed=1)
    assert power(nobody, seed=1, draws=200).filter(quantity="gate_C")["note"].str.contains("0 occupational").all()


def test_impossible_requests_are_refused() -> None:
    for arguments in ({"draws": 0}, {"rhos": (1.0,)}):
        with pytest.raises(StatisticsError, match="power needs"):
            power(design(), seed=1, **arguments)  # type: ignore[arg-type]
    with pytest.raises(StatisticsError, match="power needs"):
        power(design(3), seed=1)
