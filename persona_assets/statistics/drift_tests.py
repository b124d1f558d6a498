"""Tests on the drift deltas of inherited sources: the registered sign test and its sensitivity versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from persona_assets.conventions import ALPHA, BOOTSTRAP_RESAMPLES, CONFIDENCE_LEVEL, DRIFT_LOW_SHARE, DRIFT_MATCH_SHARE
from persona_assets.statistics.ranks import bootstrap_weights, percentile_interval
from persona_assets.statistics.tidy import StatisticsError, finite_vector, frame_of

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
    low_share: float = DRIFT_LOW_SHARE,
    match_share: float = DRIFT_MATCH_SHARE,
    alpha: float = ALPHA,
    resamples: int = BOOTSTRAP_RESAMPLES,
    confidence: float = CONFIDENCE_LEVEL,
) -> pl.DataFrame:
    """Run the registered and the sensitivity tests on deltas alone.

    Args:
        deltas: rate now minus rate in the parent study, one of each source.
        seed: seed of the bootstrap.
        confounded: whether the rates of the two sides have different or unknown measurement identities.
        low_share: share of drops from which the trigger fires.
        match_share: share of drops that matches the previous episode.
        alpha: level at which the sensitivity tests speak of drift.
        resamples: bootstrap resamples of the mean delta.
        confidence: level of its interval.

    Returns:
        Columns of `DRIFT_TESTS_SCHEMA`: `sign_drops` (registered; estimate: share of drops), `match_previous`
        (registered), `sign_two_sided_ties_dropped`, `sign_one_sided_ties_dropped`, `wilcoxon`, `mean_delta`.

    Raises:
        StatisticsError: a delta is missing or not finite.
    """
    d = finite_vector(deltas, "deltas")
    rows, _ = delta_tests(d, Reading(confounded, (), alpha), seed, low_share, match_share, resamples, confidence)
    return frame_of(rows, DRIFT_TESTS_SCHEMA)


def deciding_test(tests: pl.DataFrame) -> dict[str, Any]:
    """Take the row that decides whether rates drifted out of the tests of one comparison: the registered sign test.

    The other registered row, `match_previous`, describes a drift and decides none: its share may be lower than the trigger's.
    """
    return tests.filter("registered", statistic="sign_drops").row(0, named=True)


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
        _wilcoxon(d, reading),
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


def wilcoxon_p(deltas: ArrayLike) -> tuple[int, float]:
    """Exact two-sided Wilcoxon signed-rank test, zero deltas dropped and tied sizes given their average rank.

    scipy's exact distribution knows no tied ranks, and rates in steps of 0.01 always tie. Here the distribution of
    the positive rank sum is built sign by sign, over doubled ranks so that averages stay whole numbers.

    Args:
        deltas: rate now minus rate in the parent study.

    Returns:
        Number of deltas that are not ties, and p.

    Raises:
        StatisticsError: every delta is a tie, or one is not finite.
    """
    from scipy.stats import rankdata

    d = finite_vector(deltas, "deltas")
    # Rounded, because equal differences of count ratios must have equal ranks.
    moved = np.round(d[np.abs(d) > _TIE], 12)
    if not len(moved):
        raise StatisticsError("wilcoxon_p: every delta is a tie.")
    ranks = np.rint(2 * rankdata(np.abs(moved))).astype(np.int64)
    chance = np.zeros(int(ranks.sum()) + 1)
    chance[0] = 1.0
    for rank in ranks:
        chance[rank:] = (chance[rank:] + chance[: len(chance) - rank]) / 2
        chance[:rank] /= 2
    positive = int(ranks[moved > 0].sum())
    tail = min(chance[: positive + 1].sum(), chance[positive:].sum())
    return len(moved), min(1.0, 2.0 * float(tail))


def _wilcoxon(d: FloatArray, reading: Reading) -> DriftTest:
    if (np.abs(d) <= _TIE).all():
        return reading.row("wilcoxon", None, None, 0, None, "not estimable: every delta is a tie")
    n, p = wilcoxon_p(d)
    note = "estimate: median delta; exact, two-sided, zero deltas dropped"
    return reading.row("wilcoxon", float(np.median(d)), p, n, p < reading.alpha, note)


def _mean_delta(d: FloatArray, seed: int, resamples: int, confidence: float, reading: Reading) -> DriftTest:
    mean, n = float(d.mean()), len(d)
    if n < 2 or np.ptp(d) <= _TIE:
        return reading.row("mean_delta", mean, None, n, None, "no interval: fewer than two different deltas")
    weights = bootstrap_weights(n, resamples, "drift_mean_delta", seed)
    interval = percentile_interval(weights @ d / n, confidence)
    found = interval is not None and not interval[0] <= 0.0 <= interval[1]
    return reading.row("mean_delta", mean, None, n, found, "percentile bootstrap over sources", interval=interval)
