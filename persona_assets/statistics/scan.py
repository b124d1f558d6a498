"""Per-layer scan: how the cosine with the anchor goes with the source rate at every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from persona_assets.conventions import ALPHA, BOOTSTRAP_RESAMPLES, CONFIDENCE_LEVEL
from persona_assets.statistics.correlations import (
    MINIMUM_N,
    critical_rho,
    holm,
    holm_critical_rho,
    pearson,
    spearman,
)
from persona_assets.statistics.ranks import NO_INTERVAL, bootstrap_spearman, bootstrap_weights, percentile_interval
from persona_assets.statistics.tidy import (
    RowTemplate,
    StatisticsError,
    TidyRow,
    finite_vector,
    is_constant,
    same_length,
    tidy_frame,
    why_not_estimable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import ArrayLike

    from persona_assets.statistics.observations import StudyObservations
    from persona_assets.statistics.tidy import FloatArray

FAMILY = "scan"
OUTCOME = "source_rate"


def leave_one_out_pearson(x: ArrayLike, y: ArrayLike) -> FloatArray:
    """Pearson r with each observation left out in turn.

    Args:
        x: [n].
        y: [n].

    Returns:
        [n]; NaN where leaving one out leaves a constant column.

    Raises:
        StatisticsError: fewer than 4 observations, NaN or unequal lengths.
    """
    a, b = finite_vector(x, "x"), finite_vector(y, "y")
    n = same_length(x=a, y=b)
    if n < MINIMUM_N:
        raise StatisticsError(f"Leaving one of {n} observations out leaves too few for a correlation.")
    others = np.array([np.delete(np.arange(n), i) for i in range(n)])
    left_a, left_b = a[others], b[others]
    da, db = left_a - left_a.mean(axis=1, keepdims=True), left_b - left_b.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(da, axis=1) * np.linalg.norm(db, axis=1)
    constant = np.array([is_constant(u) or is_constant(v) for u, v in zip(left_a, left_b, strict=True)])
    out = np.full(n, np.nan)
    np.divide((da * db).sum(axis=1), norm, out=out, where=~constant & (norm > 0))
    return np.asarray(np.clip(out, -1.0, 1.0))


def variance_inflation(x: ArrayLike, covariate: ArrayLike) -> tuple[float | None, str | None]:
    """Variance inflation factor of a covariate beside the predictor (statsmodels): 1 / (1 - r^2).

    Returns:
        The factor (at least 1) and None, or None and the reason.

    Raises:
        StatisticsError: NaN, an infinity or unequal lengths.
    """
    from statsmodels.stats.outliers_influence import variance_inflation_factor

    a, b = finite_vector(x, "x"), finite_vector(covariate, "covariate")
    reason = why_not_estimable(MINIMUM_N, x=a, covariate=b)
    if reason:
        return None, reason
    r = float(np.corrcoef(a, b)[0, 1])
    if 1.0 - r**2 < 1e-10:
        return None, "not estimable: predictor and covariate are collinear"
    return float(variance_inflation_factor(np.column_stack([np.ones(len(a)), a, b]), 2)), None


def scan(
    observations: StudyObservations,
    *,
    seed: int,
    alpha: float = ALPHA,
    resamples: int = BOOTSTRAP_RESAMPLES,
    confidence: float = CONFIDENCE_LEVEL,
    predictor: str = "cosine",
    registered: bool = True,
) -> pl.DataFrame:
    """Scan all layers.

    Args:
        observations: the study's personas.
        seed: seed of the bootstrap.
        alpha: level of the critical values.
        resamples: bootstrap resamples of rho.
        confidence: level of its interval.
        predictor: name of the predictor in the rows.
        registered: whether these are preregistered rows.

    Returns:
        Tidy rows. Per layer: `pearson`, `spearman` (low, high: bootstrap interval), `spearman_holm` (p adjusted over
        the layers), `loo_pearson` (low, high: range over left-out personas; estimate: their mean), `vif_length`.
        Once: `critical_rho`, `holm_critical_rho`, and `strongest_layer`: the layer of largest |rho|, its rho and raw
        p.

    Raises:
        StatisticsError: from the observations.
    """
    y, n = observations.rate, observations.n
    intervals = _intervals(observations, seed, resamples, confidence)
    rows: list[TidyRow] = []
    rhos: list[float | None] = []
    p_values: list[float | None] = []
    row = RowTemplate(FAMILY, n, predictor, OUTCOME, registered)

    for layer, x in zip(observations.layers, observations.cosine, strict=True):
        r, r_p, r_note = pearson(x, y)
        rho, rho_p, rho_note = spearman(x, y)
        interval = intervals.get(layer)
        low, high = interval or (None, None)
        if rho is not None and interval is None:
            rho_note = NO_INTERVAL
        rows += [
            row("pearson", layer, r, p=r_p, note=r_note),
            row("spearman", layer, rho, p=rho_p, low=low, high=high, note=rho_note),
            _leave_one_out_row(row, layer, x, y, r_note),
        ]
        factor, factor_note = variance_inflation(x, observations.log_length)
        rows.append(row("vif_length", layer, factor, note=factor_note))
        rhos.append(rho)
        p_values.append(rho_p)

    for layer, rho, p in zip(observations.layers, rhos, holm(p_values), strict=True):
        rows.append(
            row(
                "spearman_holm",
                layer,
                rho,
                p=p,
                note=None if p is not None else "not estimable: see spearman",
            )
        )
    tests = sum(p is not None for p in p_values)
    if tests:
        rows.append(row("critical_rho", None, critical_rho(n, alpha), note=f"raw, two-sided, alpha {alpha:g}"))
        note = f"first Holm step of {tests} tests"
        rows.append(row("holm_critical_rho", None, holm_critical_rho(n, alpha, tests), note=note))
    else:
        note = "not estimable: no layer has a rho"
        rows += [row(name, note=note) for name in ("critical_rho", "holm_critical_rho")]
    strongest = strongest_layer(rhos)
    if strongest is None:
        rows.append(row("strongest_layer", None, None, note="not estimable: no layer has a rho"))
    else:
        rows.append(
            row(
                "strongest_layer",
                observations.layers[strongest],
                rhos[strongest],
                p=p_values[strongest],
                note=f"largest |rho| of {tests} layers; p is not corrected for the choice",
            )
        )
    return tidy_frame(rows)


def strongest_layer(rhos: Sequence[float | None]) -> int | None:
    """Position of the largest |rho|, the first of equals; None when there is none."""
    there = [(abs(rho), -i) for i, rho in enumerate(rhos) if rho is not None]
    return -max(there)[1] if there else None


def scan_sensitivity(
    observations: dict[str, StudyObservations],
    *,
    seed: int,
    alpha: float = ALPHA,
    resamples: int = BOOTSTRAP_RESAMPLES,
    confidence: float = CONFIDENCE_LEVEL,
) -> pl.DataFrame:
    """Repeat the scan on other versions of the predictor.

    Args:
        observations: by centring (`panel`, `none`, `frozen`).
        seed: see `scan`.
        alpha: see `scan`.
        resamples: see `scan`.
        confidence: see `scan`.

    Returns:
        Rows of `scan`, registered False: each centring but the registered one under `cosine_<centring>`, and each, the
        registered one included, without the anchor under `<name>_without_anchor`.
    """
    import polars as pl

    parts = []
    for centring, data in observations.items():
        name = "cosine" if centring == "panel" else f"cosine_{centring}"
        versions = [(name, data)] if centring != "panel" else []
        if data.n > 1 and data.anchor in data.personas:
            versions.append((f"{name}_without_anchor", data.without_anchor()))
        parts += [
            scan(
                version,
                seed=seed,
                alpha=alpha,
                resamples=resamples,
                confidence=confidence,
                predictor=predictor,
                registered=False,
            )
            for predictor, version in versions
        ]
    return pl.concat(parts) if parts else tidy_frame([])


def _intervals(observations: StudyObservations, seed: int, resamples: int, confidence: float) -> dict[int, tuple[float, float]]:
    if observations.n < MINIMUM_N:
        return {}
    weights = bootstrap_weights(observations.n, resamples, "bootstrap_rho", seed)
    draws = bootstrap_spearman(observations.cosine, observations.rate, weights)
    pairs = zip(observations.layers, draws, strict=True)
    return {layer: interval for layer, row in pairs if (interval := percentile_interval(row, confidence)) is not None}


def _leave_one_out_row(row: RowTemplate, layer: int, x: FloatArray, y: FloatArray, note: str | None) -> TidyRow:
    if note:
        return row("loo_pearson", layer, None, note=note)
    values = leave_one_out_pearson(x, y)
    if not np.isfinite(values).all():
        return row("loo_pearson", layer, None, note="not estimable: without one persona a column is constant")
    return row(
        "loo_pearson",
        layer,
        float(values.mean()),
        low=float(values.min()),
        high=float(values.max()),
        note="low and high: range over left-out personas",
    )
