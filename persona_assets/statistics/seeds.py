"""Several training seeds: how much of the spread of source rates is sampling, seed and persona."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from persona_assets.conventions import CONFIDENCE_LEVEL
from persona_assets.statistics.correlations import spearman
from persona_assets.statistics.scan import OUTCOME
from persona_assets.statistics.tidy import RowTemplate, StatisticsError, TidyRow, finite_array, settled, tidy_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import ArrayLike

    from persona_assets.statistics.observations import StudyObservations
    from persona_assets.statistics.tidy import FloatArray

FAMILY = "seeds"
_ONE_SEED = "not estimable: one training seed; a second is needed to tell seed variance from persona variance"


@dataclass(frozen=True)
class VarianceParts:
    """Variance components of a single rate, and reliabilities.

    Attributes:
        sampling: binomial variance of a measured rate.
        seed: variance between seeds of one persona beyond sampling, at least 0.
        persona: variance between personas, at least 0.
        reliability_one: share of a single seed's variance that is persona; None where all rates are equal.
        reliability_mean: share of the variance of the mean over seeds that is persona; None where the personas' mean rates
            are equal.
    """

    sampling: float
    seed: float
    persona: float
    reliability_one: float | None
    reliability_mean: float | None


def variance_parts(rates: ArrayLike, n: ArrayLike) -> VarianceParts:
    """Split the variance of rates, by one-way random effects with known sampling variance.

    Source: Searle, Casella & McCulloch (1992), Variance Components, section 3.6. Mean squares within personas
    estimate sampling + seed, between personas sampling + seed + K persona; the reliabilities are ICC(1) and ICC(1,K)
    of Shrout & Fleiss (1979). Sampling variance of a rate r of n completions is estimated without bias by r (1 - r) /
    (n - 1).

    Args:
        rates: [seeds, personas].
        n: [seeds, personas] completions behind each rate.

    Returns:
        The components. With the questions fixed the binomial variance is an upper bound of the sampling part, because
        it counts differences between questions as chance; the seed part is then a lower bound.

    Raises:
        StatisticsError: fewer than two seeds or personas, shapes differ, fewer than two completions, or values
            outside 0..1.
    """
    table, counts = finite_array(rates, "rates"), finite_array(n, "n")
    if table.ndim != 2 or table.shape != counts.shape or min(table.shape) < 2:
        raise StatisticsError(f"variance_parts: rates {table.shape} and n {counts.shape} must be [>= 2 seeds, >= 2 personas].")
    if (counts < 2).any() or (table < 0).any() or (table > 1).any():
        raise StatisticsError("variance_parts: rates must lie in 0..1 and rest on at least two completions each.")
    seeds = len(table)
    # Rounding must not pass for variance where there is none: a reliability is a ratio of such numbers.
    within = float(np.where(np.ptp(table, axis=0) > 0, table.var(axis=0, ddof=1), 0.0).mean())
    means = settled(table.mean(axis=0))
    between = 0.0 if np.ptp(means) == 0 else float(seeds * means.var(ddof=1))
    sampling = float((table * (1 - table) / (counts - 1)).mean())
    persona = max(0.0, (between - within) / seeds)
    total_one = between + (seeds - 1) * within
    return VarianceParts(
        sampling=sampling,
        seed=max(0.0, within - sampling),
        persona=persona,
        reliability_one=None if total_one <= 0 else (between - within) / total_one,
        reliability_mean=None if between <= 0 else (between - within) / between,
    )


def seed_rows(
    observations: StudyObservations,
    completions: ArrayLike,
    primary_layers: Sequence[int],
    *,
    confidence: float = CONFIDENCE_LEVEL,
) -> pl.DataFrame:
    """Variance parts, reliability, corrected correlation and the spread of rho over seeds.

    Args:
        observations: the study's personas, with rates by seed.
        completions: [seeds, N] completions behind each rate, in the order of the observations.
        primary_layers: layers of the correlations.
        confidence: level of the interval of rho over seeds.

    Returns:
        Tidy rows, none registered. Once: `variance_sampling`, `variance_seed`, `variance_persona`,
        `reliability_one_seed`, `reliability_mean`. Per layer: `spearman_corrected` (rho of the mean rates over the
        root of their reliability; the cosine is taken as exact), `spearman_over_seeds` (mean of rho per seed on
        Fisher's z; low, high: t interval over seeds), and `spearman_seed_<seed>`. With one seed the rows say what is
        missing.

    Raises:
        StatisticsError: from the inputs.
    """
    n = observations.n
    row = RowTemplate(FAMILY, n, "cosine", OUTCOME)
    names = (
        "variance_sampling",
        "variance_seed",
        "variance_persona",
        "reliability_one_seed",
        "reliability_mean",
    )
    layered = ("spearman_corrected", "spearman_over_seeds")
    if len(observations.seeds) < 2 or n < 2:
        why = _ONE_SEED if n >= 2 else "not estimable: one persona"
        rows = [row(name, note=why) for name in names]
        return tidy_frame([*rows, *(row(name, layer, note=why) for layer in primary_layers for name in layered)])
    parts = variance_parts(observations.rate_by_seed, completions)
    values = (parts.sampling, parts.seed, parts.persona, parts.reliability_one, parts.reliability_mean)
    remark = "binomial: with fixed questions an upper bound of sampling, and so a lower bound of the seed part"
    absent = {"reliability_one_seed": "all rates are equal", "reliability_mean": "the mean rates of all personas are equal"}
    rows = [
        row(name, None, value, note=remark if value is not None else f"not estimable: {absent[name]}")
        for name, value in zip(names, values, strict=True)
    ]
    for layer in primary_layers:
        rows += _layer_rows(row, observations, layer, parts, confidence)
    return tidy_frame(rows)


def _layer_rows(
    row: RowTemplate, observations: StudyObservations, layer: int, parts: VarianceParts, confidence: float
) -> list[TidyRow]:
    if not observations.has_layer(layer):
        why = f"not estimable: layer {layer} was not measured"
        return [row(name, layer, note=why) for name in ("spearman_corrected", "spearman_over_seeds")]
    x = observations.at(layer)
    rho, _, why_rho = spearman(x, observations.rate)
    if rho is None or parts.reliability_mean is None or parts.reliability_mean <= 0:
        rows = [row("spearman_corrected", layer, note=why_rho or "not estimable: no reliable persona variance")]
    else:
        corrected = rho / float(np.sqrt(parts.reliability_mean))
        note = f"rho {rho:.4f} over the root of reliability {parts.reliability_mean:.4f}"
        if abs(corrected) > 1.0:
            note += "; beyond 1, so the reliability is underestimated: not a correlation"
        rows = [row("spearman_corrected", layer, corrected, note=note)]
    per_seed = [spearman(x, rates) for rates in observations.rate_by_seed]
    for seed, (value, p, why_seed) in zip(observations.seeds, per_seed, strict=True):
        rows.append(row(f"spearman_seed_{seed}", layer, value, p=p, note=why_seed))
    there = np.array([value for value, _, _ in per_seed if value is not None])
    rows.append(_over_seeds(row, layer, there, confidence))
    return rows


def _over_seeds(row: RowTemplate, layer: int, rhos: FloatArray, confidence: float) -> TidyRow:
    from scipy.stats import t

    k = len(rhos)
    if k < 2:
        return row("spearman_over_seeds", layer, note="not estimable: fewer than two seeds have a rho")
    if np.abs(rhos).max() > 1.0 - 1e-12:
        return row("spearman_over_seeds", layer, float(rhos.mean()), note=f"{k} seeds; no interval: a rho is 1 or -1")
    z = np.arctanh(rhos)
    half = float(t.ppf(0.5 + confidence / 2, k - 1)) * float(z.std(ddof=1)) / np.sqrt(k)
    low, high = np.tanh(z.mean() - half), np.tanh(z.mean() + half)
    note = f"{k} seeds on the same personas: the interval is about seeds, not about other personas"
    return row("spearman_over_seeds", layer, float(np.tanh(z.mean())), low=float(low), high=float(high), note=note)
