"""Tests on the drift deltas of inherited sources: the registered sign test and its sensitivity versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from persona_assets.statistics.ranks import bootstrap_weights, percentile_interval
from persona_assets.statistics.tidy import StatisticsError, finite_vector, frame_of, generator

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from persona_assets.statistics.tidy import FloatArray

Verdict = Literal["drift", "no_drift", "confounded", "not_tested"]
DRIFT_TESTS_SCHEMA: dict[str, type[pl.DataType]] = {
    "statistic": pl.String,
    "estimate": pl.Float64,
    "p": pl.Float64,
    "n": pl.Int64,
    "low": pl.Float64,
    "high": pl.Float64,
    "verdict": pl.String,
    "registered": pl.Boolean,
    "note": pl.String,
}
_ALL_SIGNS = 14  # up to here all 2^n sign patterns are cheap
_TIE = 1e-12  # rates are ratios of counts; a smaller difference is rounding


@dataclass(frozen=True)
class DriftTest:
    """One row of `drift_tests`."""

    statistic: str
    estimate: float | None
    p: float | None
    n: int
    low: float | None
    high: float | None
    verdict: str
    registered: bool
    note: str | None


@dataclass(frozen=True)
class Reading:
    """How the tests of one comparison are to be read.

    Attributes:
        confounded: the two sides were measured under different or unknown identities.
        left_out: personas whose adapter was retrained.
        alpha: level at which the sensitivity tests speak of drift.
    """

    confounded: bool
    left_out: tuple[str, ...]
    alpha: float

    def row(
        self,
        statistic: str,
        estimate: float | None,
        p: float | None,
        n: int,
        found: bool | None,
        note: str,
        *,
        registered: bool = False,
        interval: tuple[float, float] | None = None,
    ) -> DriftTest:
        """Make a row; `found` says whether it found drift, None that it could not be computed."""
        verdict: Verdict = "not_tested" if found is None else "drift" if found else "no_drift"
        if self.confounded and found is not None:
            verdict = "confounded"
        if self.left_out:
            note = f"{note}; left out as retrained under the same name: {', '.join(self.left_out)}"
        low, high = interval or (None, None)
        return DriftTest(statistic, estimate, p, n, low, high, verdict, registered, note)


def sign_test(deltas: ArrayLike, *, drop_ties: bool = False, two_sided: bool = False) -> tuple[int, int, float]:
    """Binomial test on the number of drops (scipy).

    Args:
        deltas: rate now minus rate in the parent study.
        drop_ties: leave ties out of n; the registered test counts them as not-drops.
        two_sided: two-sided instead of one-sided for more drops than half.

    Returns:
        Drops, n and p.

    Raises:
        StatisticsError: no delta, or none but ties to drop.
    """
    from scipy.stats import binomtest

    d = finite_vector(deltas, "deltas")
    drops = int((d < -_TIE).sum())
    n = int((np.abs(d) > _TIE).sum()) if drop_ties else len(d)
    if n == 0:
        raise StatisticsError("sign_test: there is no delta to count.")
    return (
        drops,
        n,
        float(binomtest(drops, n, 0.5, alternative="two-sided" if two_sided else "greater").pvalue),
    )


def drift_tests(
    deltas: ArrayLike,
    *,
    seed: int,
    confounded: bool = False,
    low_share: float = 0.75,
    match_share: float = 0.83,
    alpha: float = 0.05,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Run the registered and the sensitivity tests on deltas alone (rate now minus rate in the parent).

    Returns:
        Columns of `DRIFT_TESTS_SCHEMA`: `sign_drops` (registered; estimate: share of drops), `match_previous`
            (registered),
        `sign_two_sided_ties_dropped`, `sign_one_sided_ties_dropped`, `wilcoxon`, `mean_delta`.
    """
    d = finite_vector(deltas, "deltas")
    rows, _ = delta_tests(d, Reading(confounded, (), alpha), seed, low_share, match_share, resamples, confidence)
    return frame_of(rows, DRIFT_TESTS_SCHEMA)


def delta_tests(
    d: FloatArray,
    reading: Reading,
    seed: int,
    low_share: float,
    match_share: float,
    resamples: int,
    confidence: float,
) -> tuple[list[DriftTest], bool | None]:
    """Rows of `drift_tests` and whether the registered trigger fired (None when there is no delta)."""
    if not len(d):
        note = "not estimable: no inherited source whose adapter is unchanged"
        return [reading.row("sign_drops", None, None, 0, None, note, registered=True)], None
    drops, n, p = sign_test(d)
    share = drops / n
    triggered = share >= low_share
    counted = f"{drops} of {n} sources drop"
    rows = [
        reading.row(
            "sign_drops",
            share,
            p,
            n,
            triggered,
            f"{counted}; triggers LOW from a share of {low_share:g}",
            registered=True,
        ),
        reading.row(
            "match_previous",
            share,
            p,
            n,
            share >= match_share,
            f"{counted}; matches the previous episode from a share of {match_share:g}",
            registered=True,
        ),
        *_without_ties(d, reading),
        _wilcoxon(d, seed, reading),
        _mean_delta(d, seed, resamples, confidence, reading),
    ]
    return rows, triggered


def _without_ties(d: FloatArray, reading: Reading) -> list[DriftTest]:
    names = {"sign_two_sided_ties_dropped": True, "sign_one_sided_ties_dropped": False}
    ties = int((np.abs(d) <= _TIE).sum())
    if ties == len(d):
        return [reading.row(name, None, None, 0, None, "not estimable: every delta is a tie") for name in names]
    rows = []
    for name, two_sided in names.items():
        drops, n, p = sign_test(d, drop_ties=True, two_sided=two_sided)
        rows.append(reading.row(name, drops / n, p, n, p < reading.alpha, f"{drops} of {n} sources drop, {ties} ties dropped"))
    return rows


def _wilcoxon(d: FloatArray, seed: int, reading: Reading) -> DriftTest:
    from scipy.stats import PermutationMethod, wilcoxon

    # Rounded, because equal differences of count ratios must stay ties.
    moved = np.round(d[np.abs(d) > _TIE], 12)
    n = len(moved)
    if n == 0:
        return reading.row("wilcoxon", None, None, 0, None, "not estimable: every delta is a tie")
    note = "estimate: median delta; two-sided, zero deltas dropped, "
    if len(np.unique(np.abs(moved))) == n and n <= 50:
        result, method = wilcoxon(moved, method="exact"), "exact"
    elif n <= _ALL_SIGNS:
        result, method = wilcoxon(moved, method=PermutationMethod(n_resamples=1 << n)), "exact over all signs"
    else:
        # scipy's exact distribution knows no tied ranks; random signs do.
        draws = PermutationMethod(n_resamples=9999, rng=generator("drift_wilcoxon", seed, n))
        result, method = wilcoxon(moved, method=draws), "9999 random sign flips"
    p = float(result.pvalue)
    return reading.row("wilcoxon", float(np.median(d)), p, n, p < reading.alpha, note + method)


def _mean_delta(d: FloatArray, seed: int, resamples: int, confidence: float, reading: Reading) -> DriftTest:
    mean, n = float(d.mean()), len(d)
    if n < 2 or np.ptp(d) <= _TIE:
        return reading.row("mean_delta", mean, None, n, None, "no interval: fewer than two different deltas")
    weights = bootstrap_weights(n, resamples, "drift_mean_delta", seed)
    interval = percentile_interval(weights @ d / n, confidence)
    found = interval is not None and not interval[0] <= 0.0 <= interval[1]
    return reading.row("mean_delta", mean, None, n, found, "percentile bootstrap over sources", interval=interval)
