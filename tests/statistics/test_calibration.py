"""False-positive rates under simulated nulls, and the naive off-diagonal p that does not hold its level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from persona_assets.statistics.correlations import pearson, spearman
from persona_assets.statistics.drift_tests import drift_tests, sign_test
from persona_assets.statistics.mantel import CellOutcome, mantel_tests
from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.partial import partial_permutation_p, partial_spearman
from persona_assets.statistics.scan import scan

Observe = Callable[..., StudyObservations]
ALPHA = 0.05
pytestmark = pytest.mark.slow


def assert_level(p_values: list[float], *, at_most: bool = False) -> None:
    """The share below alpha must lie within four standard errors of alpha (or not above, for discrete tests)."""
    share, margin = float(np.mean(np.array(p_values) < ALPHA)), 4 * np.sqrt(ALPHA * (1 - ALPHA) / len(p_values))
    assert share < ALPHA + margin
    assert at_most or share > ALPHA - margin


@pytest.mark.parametrize("function", [spearman, pearson])
@pytest.mark.parametrize("n", [12, 24, 48])
def test_plain_correlations(function: Callable[..., tuple[float, float, None]], n: int) -> None:
    random = np.random.default_rng(n)
    # Rates are multiples of 1/100, so ties are as common as they are in a study.
    draws = ((random.standard_normal(n), random.binomial(100, 0.4, n) / 100) for _ in range(4000))
    assert_level([function(x, y)[1] for x, y in draws])


def test_partial_correlations_with_a_confounding_length() -> None:
    random = np.random.default_rng(1)
    analytic, permuted, plain = [], [], []
    for i in range(1200):
        length = np.log(random.integers(4, 30, 24))
        x, y = -length + 0.3 * random.standard_normal((2, 24))
        y = np.round(y, 1)
        analytic.append(partial_spearman(x, y, [length])[1])
        permuted.append(partial_permutation_p(x[None], y, [length], seed=i, count=399)[0])
        plain.append(spearman(x, y)[1])
    assert_level(analytic)  # type: ignore[arg-type]
    assert_level(permuted)  # type: ignore[arg-type]
    assert np.mean(np.array(plain) < ALPHA) > 0.9


def test_holm_holds_the_family_level_over_layers(observe: Observe) -> None:
    random = np.random.default_rng(2)
    smallest = []
    for _ in range(300):
        table = scan(observe(random.uniform(-1, 1, (10, 24)), random.uniform(0.2, 0.6, 24)), seed=1, resamples=100)
        smallest.append(float(table.filter(statistic="spearman_holm")["p"].min()))  # type: ignore[arg-type]
    assert_level(smallest)


def test_sign_tests() -> None:
    random = np.random.default_rng(3)
    deltas = random.normal(0, 0.05, (4000, 24)).round(2)
    # Discrete, and in the registered test ties count as no drop: the level is at most alpha.
    assert_level([sign_test(d)[2] for d in deltas], at_most=True)
    assert_level([sign_test(d, drop_ties=True, two_sided=True)[2] for d in deltas], at_most=True)


@pytest.mark.parametrize(("decimals", "studies"), [(8, 1500), (2, 1500)])
def test_wilcoxon_with_and_without_ties(decimals: int, studies: int) -> None:
    random = np.random.default_rng(4)
    tables = (drift_tests(random.normal(0, 0.05, 24).round(decimals), seed=1, resamples=100) for _ in range(studies))
    assert_level([table.filter(statistic="wilcoxon")["p"].item() for table in tables])


def leaky_null(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines from real positions and rates with row and column effects, but no tie between the two."""
    positions = random.standard_normal((n, 3)) + 1.0  # off centre, so that some personas are close to everyone
    unit = positions / np.linalg.norm(positions, axis=1, keepdims=True)
    chance = stats.norm.cdf(-1.5 + 0.8 * random.standard_normal((n, 1)) + 0.5 * random.standard_normal((1, n)))
    own = random.standard_normal((n, 2))
    chance = np.clip(chance + 0.05 * own @ own.T, 0, 1)
    return (unit @ unit.T)[None], random.binomial(100, chance) / 100


def test_mantel_holds_its_level_where_the_naive_p_does_not() -> None:
    random = np.random.default_rng(4)
    n, off = 20, ~np.eye(20, dtype=bool)
    whole, strong, without, naive = [], [], [], []
    for i in range(600):
        cosine, rate = leaky_null(random, n)
        emitters = rate.mean(axis=1) > np.median(rate.mean(axis=1))
        negatives = np.zeros((n, n), dtype=bool)
        negatives[np.arange(n), (np.arange(n) + 1) % n] = True
        outcomes = [CellOutcome(rate), CellOutcome(rate, off & emitters[:, None]), CellOutcome(rate, ~negatives)]
        results = mantel_tests(cosine, outcomes, seed=i, count=499)
        for p_values, result in zip((whole, strong, without), results, strict=True):
            p_values.append(float(result.p[0]))
        naive.append(float(stats.spearmanr(cosine[0][off], rate[off]).pvalue))
    for p_values in (whole, strong, without):
        assert_level(p_values)
    assert np.mean(np.array(naive) < ALPHA) > 0.15
