"""Vectorised rank arithmetic for resampling, where a library call per draw would be too slow.

Point estimates and their p-values come from scipy; what stands here only serves bootstrap, permutation and
simulation, and is checked against scipy draw by draw in the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from persona_assets.statistics.tidy import generator

if TYPE_CHECKING:
    from persona_assets.statistics.tidy import FloatArray, IntArray

NO_INTERVAL = "no bootstrap interval: too many resamples without variation"
"""What a row says where `percentile_interval` gives none."""


def average_ranks(values: FloatArray) -> FloatArray:
    """Ranks along the last axis, ties averaged."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values, axis=-1), dtype=np.float64)


def unit_scores(values: FloatArray) -> FloatArray:
    """Centre and scale the last axis to length 1; a row without variation becomes zeros.

    The dot product of two such rows is their Pearson correlation.
    """
    deviations = values - values.mean(axis=-1, keepdims=True)
    norms = np.linalg.norm(deviations, axis=-1, keepdims=True)
    return np.asarray(np.divide(deviations, norms, out=np.zeros_like(deviations), where=norms > 0))


def bootstrap_weights(n: int, resamples: int, *purpose: str | int) -> FloatArray:
    """Draw how often each of n observations stands in each bootstrap resample.

    Args:
        n: number of observations.
        resamples: number of resamples.
        purpose: names of the draw, see `tidy.generator`.

    Returns:
        [resamples, n] counts, each row summing to n.
    """
    draws = generator(*purpose).integers(0, n, (resamples, n))
    flat = draws + np.arange(resamples)[:, None] * n
    return np.bincount(flat.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def permutations(n: int, count: int, *purpose: str | int) -> IntArray:
    """Draw random permutations.

    Returns:
        [count, n] positions; each row is a permutation of 0..n-1.
    """
    rows = np.tile(np.arange(n), (count, 1))
    return generator(*purpose).permuted(rows, axis=1)


def weighted_ranks(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Average ranks that the observations have in resamples given by counts.

    Sorting once and summing counts replaces sorting every resample.

    Args:
        values: [n] observations.
        weights: [resamples, n] counts of each observation.

    Returns:
        [resamples, n] rank of each observation in each resample; meaningless where its count is 0.
    """
    distinct, group = np.unique(values, return_inverse=True)
    by_group = weights if len(distinct) == len(values) else np.zeros((len(weights), len(distinct)))
    if len(distinct) == len(values):
        by_group = weights[:, np.argsort(values)]
    else:
        np.add.at(by_group.T, group, weights.T)
    ranks = np.cumsum(by_group, axis=1)
    ranks -= by_group / 2
    ranks += 0.5
    return np.asarray(ranks[:, group])


def bootstrap_spearman(x: FloatArray, y: FloatArray, weights: FloatArray) -> FloatArray:
    """Spearman rho of one predictor table with an outcome in each bootstrap resample.

    Args:
        x: [layers, n] predictors.
        y: [n] outcome.
        weights: [resamples, n] counts from `bootstrap_weights`.

    Returns:
        [layers, resamples]; NaN where a resample has no variation in x or y.
    """
    n = weights.sum(axis=1, keepdims=True)
    centre = (n + 1) / 2
    root = np.sqrt(weights)
    y_scores = (weighted_ranks(y, weights) - centre) * root
    y_square = np.einsum("bi,bi->b", y_scores, y_scores)
    out = np.full((len(x), len(weights)), np.nan)
    for layer, row in enumerate(x):
        x_scores = (weighted_ranks(row, weights) - centre) * root
        norm = np.sqrt(np.einsum("bi,bi->b", x_scores, x_scores) * y_square)
        np.divide(np.einsum("bi,bi->b", x_scores, y_scores), norm, out=out[layer], where=norm > 1e-9)
    return out


def percentile_interval(draws: FloatArray, confidence: float) -> tuple[float, float] | None:
    """Percentile interval of the draws that exist, or None when more than one in twenty does not."""
    there = draws[np.isfinite(draws)]
    if there.size == 0 or there.size < 0.95 * draws.size:
        return None
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(there, [tail, 1.0 - tail])
    return float(low), float(high)
