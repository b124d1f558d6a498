"""Plain correlations, their critical values and Holm's correction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from persona_assets.statistics.tidy import StatisticsError, finite_vector, why_not_estimable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

MINIMUM_N = 4  # the t approximation needs n - 2 > 0, and leave-one-out one more


def critical_rho(n: int, alpha: float) -> float:
    """Smallest |rho| that is two-sided significant at alpha, by the t approximation.

    Source: with n - 2 degrees of freedom, t = rho sqrt((n-2)/(1-rho^2)), solved for rho.

    Raises:
        StatisticsError: n below 3 or alpha outside (0, 1).
    """
    from scipy.stats import t

    if n < 3 or not 0.0 < alpha < 1.0:
        raise StatisticsError(f"critical_rho needs n >= 3 and 0 < alpha < 1, got n={n}, alpha={alpha}.")
    quantile = float(t.ppf(1.0 - alpha / 2.0, n - 2))
    return quantile / math.sqrt(n - 2 + quantile**2)


def holm_critical_rho(n: int, alpha: float, tests: int) -> float:
    """Smallest |rho| that passes the first step of Holm's procedure: `critical_rho` at alpha / tests.

    Raises:
        StatisticsError: as `critical_rho`, or tests below 1.
    """
    if tests < 1:
        raise StatisticsError(f"holm_critical_rho needs at least one test, got {tests}.")
    return critical_rho(n, alpha / tests)


def spearman(x: ArrayLike, y: ArrayLike, *, minimum: int = MINIMUM_N) -> tuple[float | None, float | None, str | None]:
    """Spearman rho and its two-sided p (scipy, t approximation).

    Args:
        x: [n].
        y: [n].
        minimum: smallest n to estimate from.

    Returns:
        rho, p, None; or None, None and the reason when not estimable.

    Raises:
        StatisticsError: NaN, an infinity or unequal lengths.
    """
    return _correlation("spearman", x, y, minimum)


def pearson(x: ArrayLike, y: ArrayLike, *, minimum: int = MINIMUM_N) -> tuple[float | None, float | None, str | None]:
    """Pearson r and its two-sided p (scipy); arguments and results as `spearman`."""
    return _correlation("pearson", x, y, minimum)


def _correlation(kind: str, x: ArrayLike, y: ArrayLike, minimum: int) -> tuple[float | None, float | None, str | None]:
    from scipy.stats import pearsonr, spearmanr

    a, b = finite_vector(x, "x"), finite_vector(y, "y")
    reason = why_not_estimable(minimum, x=a, y=b)
    if reason:
        return None, None, reason
    result = spearmanr(a, b) if kind == "spearman" else pearsonr(a, b)
    # Ranks in exactly the same or opposite order give 1 + 1e-16.
    return float(np.clip(result.statistic, -1.0, 1.0)), float(result.pvalue), None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm-adjusted p-values (pingouin), at most 1; a missing p stays missing and does not count as a test."""
    # statsmodels has Holm too, but collects garbage on every call, which costs more than the whole scan.
    from pingouin import multicomp

    there = [p for p in p_values if p is not None]
    if not there:
        return [None] * len(p_values)
    adjusted = iter(multicomp(there, method="holm")[1])
    return [None if p is None else min(1.0, float(next(adjusted))) for p in p_values]
