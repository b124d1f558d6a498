"""Test and retest: how much of an outcome's spread between sources comes back when the same adapters are measured again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from persona_assets.conventions import BOOTSTRAP_RESAMPLES, CONFIDENCE_LEVEL
from persona_assets.statistics.correlations import pearson
from persona_assets.statistics.tidy import (
    RowTemplate,
    StatisticsError,
    TidyRow,
    finite_array,
    generator,
    is_constant,
    tidy_frame,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl
    from numpy.typing import ArrayLike

    from persona_assets.statistics.tidy import FloatArray

FAMILY = "retest"
RATE = "source_rate"
MINIMUM_SOURCES = 4
_STATISTICS = ("reliability", "pearson", "noise_sd", "source_sd", "noise_share")
_COMPARED = ("tighter", "equivalent_completions")
_USABLE_SHARE = 0.9


@dataclass(frozen=True)
class Agreement:
    """Two measurements of N sources, by one-way random effects.

    Attributes:
        noise_sd: standard error of one measurement of one source: root of the mean square within sources.
        source_sd: standard deviation of the sources' true values; None when the estimate of its square is not positive.
        reliability: share of a single measurement's variance that is the sources': ICC(1).
        low: lower end of the interval of the reliability.
        high: its upper end.
    """

    noise_sd: float
    source_sd: float | None
    reliability: float
    low: float
    high: float

    @property
    def noise_share(self) -> float | None:
        """Noise over the spread of the sources: free of the outcome's units; None without a spread."""
        return None if self.source_sd is None else self.noise_sd / self.source_sd


def agreement(values: ArrayLike, confidence: float = CONFIDENCE_LEVEL) -> Agreement:
    """Say how well measurements of the same sources agree.

    Source: Shrout and Fleiss (1979), ICC(1,1) and its interval from F. One-way, because nothing but chance tells the
    measurements apart: a shift of all sources between them counts as noise.

    Args:
        values: [measurements, sources], at least 2 x 2, not all equal.
        confidence: level of the interval.

    Raises:
        StatisticsError: another shape, NaN, or values that do not vary at all.
    """
    from scipy.stats import f

    table = finite_array(values, "values")
    if table.ndim != 2 or min(table.shape) < 2:
        raise StatisticsError(f"agreement: values {table.shape} must be [>= 2 measurements, >= 2 sources].")
    if is_constant(table.ravel()):
        raise StatisticsError("agreement: all values are equal, so there is nothing to agree about.")
    k, n = table.shape
    within, between = _mean_squares(table[None])
    msw, msb = float(within[0]), float(between[0])
    source_variance = (msb - msw) / k
    reliability = (msb - msw) / (msb + (k - 1) * msw)
    if msw <= 0.0:
        low = high = 1.0
    else:
        tail, degrees = 0.5 + confidence / 2, (n - 1, n * (k - 1))
        ratio = msb / msw
        low, high = (
            (bound - 1) / (bound + k - 1)
            for bound in (ratio / float(f.ppf(tail, *degrees)), ratio * float(f.ppf(tail, *degrees[::-1])))
        )
    return Agreement(
        float(np.sqrt(msw)), float(np.sqrt(source_variance)) if source_variance > 0 else None, reliability, low, high
    )


def tightness(rate: ArrayLike, outcome: ArrayLike) -> float | None:
    """Noise share of the rate over that of an outcome: how many times tighter the outcome is; None without a spread.

    Raises:
        StatisticsError: as `agreement`, or if the shapes differ.
    """
    a, b = finite_array(rate, "rate"), finite_array(outcome, "outcome")
    if a.shape != b.shape:
        raise StatisticsError(f"tightness: rate {a.shape} and outcome {b.shape} must be of the same sources.")
    first, second = agreement(a), agreement(b)
    if first.noise_share is None or second.noise_share is None or second.noise_share == 0.0:
        return None
    return first.noise_share / second.noise_share


def tightness_interval(
    rate: FloatArray,
    outcome: FloatArray,
    *,
    seed: int,
    resamples: int = BOOTSTRAP_RESAMPLES,
    confidence: float = CONFIDENCE_LEVEL,
) -> tuple[float, float] | None:
    """Percentile interval of `tightness` from resampling sources, both outcomes of a source together.

    Returns:
        Its ends; None when more than a tenth of the resamples has no spread between sources.
    """
    sources = rate.shape[1]
    draws = generator("retest", seed, sources, resamples).integers(0, sources, (resamples, sources))
    ratios = []
    for table in (rate, outcome):
        within, between = _mean_squares(table[:, draws].transpose(1, 0, 2))
        spread = (between - within) / len(table)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append(np.where((spread > 0) & (within > 0), np.sqrt(within / spread), np.nan))
    ratio = ratios[0] / ratios[1]
    usable = ratio[np.isfinite(ratio)]
    if len(usable) < _USABLE_SHARE * resamples:
        return None
    low, high = np.quantile(usable, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _mean_squares(tables: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean squares within and between the columns of [many, measurements, sources]."""
    k, n = tables.shape[1:]
    means = tables.mean(axis=1)
    within = ((tables - means[:, None]) ** 2).sum(axis=(1, 2)) / (n * (k - 1))
    between = k * means.var(axis=1, ddof=1)
    return within, between


def retest_rows(
    outcomes: Mapping[str, ArrayLike | None],
    completions: float,
    *,
    seed: int,
    resamples: int = BOOTSTRAP_RESAMPLES,
    confidence: float = CONFIDENCE_LEVEL,
    why_missing: str = "not estimable: not measured twice",
) -> pl.DataFrame:
    """Compare outcomes of the same sources, measured twice under the same conditions.

    Args:
        outcomes: by name, [2, N] with the sources in the same order; None where there are no two measurements. One of
            them is `source_rate`, which the others are compared with.
        completions: behind a rate, on the average.
        seed: seed of the bootstrap.
        resamples: its resamples.
        confidence: level of the intervals.
        why_missing: note of the rows of a missing outcome.

    Returns:
        Tidy rows, none registered, for each outcome: `reliability` (ICC(1) of a single measurement, with its F
        interval), `pearson` of the two measurements, `noise_sd` (standard error of one measurement of one source) and
        `source_sd` (spread of the true values) in the units of the outcome, `noise_share` (the first over the second).
        For each but the rate: `tighter` (noise share of the rate over its own; low, high: bootstrap over sources) and
        `equivalent_completions` (how many completions a rate would need for the same noise share, by the inverse
        square law; low, high likewise).

    Raises:
        StatisticsError: `source_rate` is not among the outcomes, shapes differ, or values are not finite.
    """
    if RATE not in outcomes:
        raise StatisticsError(f"retest_rows: {RATE} is not among the outcomes {list(outcomes)}.")
    tables = {name: None if values is None else finite_array(values, name) for name, values in outcomes.items()}
    shapes = {name: table.shape for name, table in tables.items() if table is not None}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 or shape[0] != 2 for shape in shapes.values()):
        raise StatisticsError(f"retest_rows: {shapes} must all be [2 measurements, the same sources].")
    rows: list[TidyRow] = []
    for name, table in tables.items():
        row = RowTemplate(FAMILY, None if table is None else table.shape[1], None, name)
        rows += _own_rows(row, table, confidence, why_missing)
        if name != RATE:
            rows += _compared_rows(row, tables[RATE], table, completions, seed, resamples, confidence, why_missing)
    return tidy_frame(rows)


def _unusable(table: FloatArray | None, why_missing: str) -> str | None:
    if table is None:
        return why_missing
    if table.shape[1] < MINIMUM_SOURCES:
        return f"not estimable: {table.shape[1]} sources, at least {MINIMUM_SOURCES} needed"
    return "not estimable: all values are equal" if is_constant(table.ravel()) else None


def _own_rows(row: RowTemplate, table: FloatArray | None, confidence: float, why_missing: str) -> list[TidyRow]:
    why = _unusable(table, why_missing)
    if why is not None or table is None:
        return [row(statistic, note=why) for statistic in _STATISTICS]
    found = agreement(table, confidence)
    r, p, r_note = pearson(*table)
    spread = None if found.source_sd is not None else "not estimable: the sources do not differ beyond noise"
    return [
        row("reliability", None, found.reliability, low=found.low, high=found.high),
        row("pearson", None, r, p=p, note=r_note),
        row("noise_sd", None, found.noise_sd),
        row("source_sd", None, found.source_sd, note=spread),
        row("noise_share", None, found.noise_share, note=spread),
    ]


def _compared_rows(
    row: RowTemplate,
    rate: FloatArray | None,
    table: FloatArray | None,
    completions: float,
    seed: int,
    resamples: int,
    confidence: float,
    why_missing: str,
) -> Sequence[TidyRow]:
    why = _unusable(rate, why_missing) or _unusable(table, why_missing)
    if why is not None or rate is None or table is None:
        return [row(statistic, note=why) for statistic in _COMPARED]
    ratio = tightness(rate, table)
    if ratio is None:
        return [row(name, note="not estimable: sources do not differ beyond noise, or there is no noise") for name in _COMPARED]
    interval = tightness_interval(rate, table, seed=seed, resamples=resamples, confidence=confidence)
    low, high = interval or (None, None)
    note = None if interval else "no bootstrap interval: too many resamples without a spread between sources"
    squares = [None if value is None else completions * value**2 for value in (ratio, low, high)]
    return [
        row("tighter", None, ratio, low=low, high=high, note=note),
        row("equivalent_completions", None, squares[0], low=squares[1], high=squares[2], note=note),
    ]
