"""Tests of the difference of two correlations that share a variable. No maintained library has all three."""

from __future__ import annotations

import math
from dataclasses import dataclass

from persona_assets.statistics.tidy import StatisticsError

_MINIMUM_N = 4


@dataclass(frozen=True)
class DependentTest:
    """A statistic and its two-sided p; both None with a reason when the test does not exist for the input."""

    statistic: float | None
    p: float | None
    reason: str | None = None


def mrr_z(r1: float, r2: float, rx: float, n: int) -> DependentTest:
    """Meng, Rosenthal and Rubin's z for two correlations with a common variable.

    Source: Meng, Rosenthal & Rubin (1992), Psychological Bulletin 111, equations 1 to 3: z = (z1 - z2) sqrt((n - 3) /
    (2 (1 - rx) h)), h = (1 - f m) / (1 - m), f = (1 - rx) / (2 (1 - m)) at most 1, m = (r1^2 + r2^2) / 2.

    Args:
        r1: correlation of the first predictor with the outcome.
        r2: correlation of the second predictor with the outcome.
        rx: correlation of the predictors.
        n: observations.

    Raises:
        StatisticsError: the three cannot be correlations of the same data.
    """
    reason = _why_not(r1, r2, rx, n)
    if reason:
        return DependentTest(None, None, reason)
    mean_square = (r1**2 + r2**2) / 2
    f = min(1.0, (1 - rx) / (2 * (1 - mean_square)))
    h = (1 - f * mean_square) / (1 - mean_square)
    z = (math.atanh(r1) - math.atanh(r2)) * math.sqrt((n - 3) / (2 * (1 - rx) * h))
    return DependentTest(z, _normal_p(z))


def steiger_z(r1: float, r2: float, rx: float, n: int) -> DependentTest:
    """Steiger's Z1* with pooled correlation.

    Source: Steiger (1980), Psychological Bulletin 87, equation 14: z = (z1 - z2) sqrt(n - 3) / sqrt(2 - 2 s), with
    the covariance s = (rx (1 - 2 r^2) - r^2 (1 - 2 r^2 - rx^2) / 2) / (1 - r^2)^2 at the pooled r = (r1 + r2) / 2.

    Args and errors as `mrr_z`.
    """
    reason = _why_not(r1, r2, rx, n)
    if reason:
        return DependentTest(None, None, reason)
    square = ((r1 + r2) / 2) ** 2
    covariance = (rx * (1 - 2 * square) - square * (1 - 2 * square - rx**2) / 2) / (1 - square) ** 2
    if covariance >= 1.0:
        return DependentTest(None, None, "not estimable: the pooled covariance leaves no variance")
    z = (math.atanh(r1) - math.atanh(r2)) * math.sqrt(n - 3) / math.sqrt(2 - 2 * covariance)
    return DependentTest(z, _normal_p(z))


def williams_t2(r1: float, r2: float, rx: float, n: int) -> DependentTest:
    """Williams' T2, t-distributed with n - 3 degrees of freedom.

    Source: Steiger (1980), equation 7, after Williams (1959).

    Args and errors as `mrr_z`.
    """
    from scipy.stats import t

    reason = _why_not(r1, r2, rx, n)
    if reason:
        return DependentTest(None, None, reason)
    determinant = _determinant(r1, r2, rx)
    mean = (r1 + r2) / 2
    variance = 2 * (n - 1) / (n - 3) * determinant + mean**2 * (1 - rx) ** 3
    if variance <= 0.0:
        return DependentTest(None, None, "not estimable: the three correlations leave no variance")
    statistic = (r1 - r2) * math.sqrt((n - 1) * (1 + rx) / variance)
    return DependentTest(statistic, float(2 * t.sf(abs(statistic), n - 3)))


def _determinant(r1: float, r2: float, rx: float) -> float:
    return 1 - r1**2 - r2**2 - rx**2 + 2 * r1 * r2 * rx


def _why_not(r1: float, r2: float, rx: float, n: int) -> str | None:
    for name, value in (("r1", r1), ("r2", r2), ("rx", rx)):
        if not math.isfinite(value) or abs(value) > 1.0:
            raise StatisticsError(f"{name} = {value} is not a correlation.")
    if _determinant(r1, r2, rx) < -1e-9:
        raise StatisticsError(f"No data have the correlations {r1}, {r2} and {rx} at once.")
    if n < _MINIMUM_N:
        return f"not estimable: {n} observations, at least {_MINIMUM_N} needed"
    if max(abs(r1), abs(r2)) > 1.0 - 1e-12:
        return "not estimable: a correlation with the outcome is exactly 1 or -1"
    if rx > 1.0 - 1e-12:
        return "not estimable: the two predictors order the personas in the same way"
    return None


def _normal_p(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2.0))
