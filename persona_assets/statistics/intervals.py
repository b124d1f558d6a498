"""Intervals of marker rates: Wilson, and a bootstrap over questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from persona_assets.conventions import BOOTSTRAP_RESAMPLES, CONFIDENCE_LEVEL
from persona_assets.statistics.tidy import StatisticsError, finite_array, generator

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from persona_assets.statistics.tidy import FloatArray

_CHUNK_VALUES = 1 << 23


def wilson(hits: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE_LEVEL) -> tuple[FloatArray, FloatArray]:
    """Wilson score interval of a proportion (statsmodels).

    Args:
        hits: successes, any shape.
        n: trials, same shape.
        confidence: level of the interval.

    Returns:
        Lower and upper ends, in the shape of `hits`.

    Raises:
        StatisticsError: no trials, or more hits than trials, or fewer than none.
    """
    from statsmodels.stats.proportion import proportion_confint

    count, nobs = finite_array(hits, "hits"), finite_array(n, "n")
    if (nobs < 1).any():
        raise StatisticsError("wilson: a rate without any completion has no interval; measure the cell first.")
    if (count < 0).any() or (count > nobs).any():
        raise StatisticsError("wilson: hits must lie between 0 and n.")
    low, high = proportion_confint(count, nobs, alpha=1.0 - confidence, method="wilson")
    # At 0 and n hits the exact ends are 0 and 1; the formula's rounding misses them by 1e-17.
    low, high = np.where(count == 0, 0.0, low), np.where(count == nobs, 1.0, high)
    return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)


def cluster_bootstrap(
    hits: ArrayLike, n: ArrayLike, *, seed: int, resamples: int = BOOTSTRAP_RESAMPLES, confidence: float = CONFIDENCE_LEVEL
) -> tuple[FloatArray, FloatArray]:
    """Percentile interval of cell rates from resampling questions with replacement.

    Five answers to one question are not five independent draws, so the question is the unit. The same resamples serve
    all cells with as many questions: an interval depends on its own cell, the seed and the number of questions only.

    Args:
        hits: [cells, questions] marker hits.
        n: [cells, questions] completions, each at least 1.
        seed: seed of the analysis plan.
        resamples: number of bootstrap resamples.
        confidence: level of the interval.

    Returns:
        Lower and upper ends, [cells]; NaN where every question of a cell has the same rate, because resampling equal
        questions gives an interval of width zero, which would be false certainty. Tables hold null there.

    Raises:
        StatisticsError: shapes differ, a question without completions, or hits outside 0..n.
    """
    count, nobs = finite_array(hits, "hits"), finite_array(n, "n")
    if count.ndim != 2 or count.shape != nobs.shape:
        raise StatisticsError(f"cluster_bootstrap: hits {count.shape} and n {nobs.shape} must be [cells, questions].")
    if (nobs < 1).any() or (count < 0).any() or (count > nobs).any():
        raise StatisticsError("cluster_bootstrap: each question needs completions, and hits between 0 and their number.")
    cells, questions = count.shape
    draws = generator("cluster_bootstrap", seed, questions, resamples).integers(0, questions, (resamples, questions))
    weights = np.zeros((questions, resamples))
    np.add.at(weights, (draws, np.arange(resamples)[:, None]), 1.0)
    low, high = np.full(cells, np.nan), np.full(cells, np.nan)
    rates = count / nobs
    varying = np.flatnonzero(np.ptp(rates, axis=1) > 0)
    tail = (1.0 - confidence) / 2
    step = max(1, _CHUNK_VALUES // resamples)
    for start in range(0, len(varying), step):
        part = varying[start : start + step]
        resampled = (count[part] @ weights) / (nobs[part] @ weights)
        low[part], high[part] = np.quantile(resampled, [tail, 1.0 - tail], axis=1)
    return low, high
