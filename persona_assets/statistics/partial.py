"""Partial correlations of cosine and source rate given the prompt's covariates: descriptive, never a gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from persona_assets.conventions import PERMUTATIONS
from persona_assets.statistics.covariates import (
    ZERO_RESIDUAL,
    Covariates,
    prompt_covariates,
    rank_basis,
)
from persona_assets.statistics.ranks import average_ranks, permutations, unit_scores
from persona_assets.statistics.scan import OUTCOME
from persona_assets.statistics.tidy import (
    RowTemplate,
    StatisticsError,
    TidyRow,
    finite_vector,
    is_constant,
    same_length,
    tidy_frame,
)

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import ArrayLike

    from persona_assets.statistics.observations import StudyObservations
    from persona_assets.statistics.tidy import FloatArray

FAMILY = "partial"
_PERFECT = 1e-9


def partial_spearman(
    x: ArrayLike, y: ArrayLike, covariates: Sequence[ArrayLike]
) -> tuple[float | None, float | None, str | None]:
    """Partial Spearman correlation (pingouin), p on n - 2 - k degrees of freedom.

    Equal to the Pearson correlation of the residuals of rank(x) and rank(y) on the ranked covariates. It removes a
    covariate only as far as the ranks depend on it linearly: where one drives both sides strongly, the test is
    somewhat liberal (`calibration.false_positive_rates` gives the share).

    Args:
        x: [n].
        y: [n].
        covariates: k vectors of length n.

    Returns:
        Estimate, p, None; or None, None and the reason when not estimable.

    Raises:
        StatisticsError: NaN, an infinity, unequal lengths or no covariate.
    """
    import pandas as pd
    import pingouin

    a, b, z = _checked(x, y, covariates)
    residual_a, residual_b, reason = _rank_residuals(a, b, z)
    if reason:
        return None, None, reason
    alike = float(unit_scores(residual_a) @ unit_scores(residual_b))
    if abs(alike) > 1.0 - _PERFECT:
        # pingouin inverts a singular matrix here and returns the opposite sign.
        return float(np.sign(alike)), 0.0, None
    # Ranks go in because pingouin compares raw values with covariates and would refuse two that happen to agree.
    names = [f"z{i}" for i in range(len(z))]
    ranked = average_ranks(np.array([a, b, *z]))
    result = pingouin.partial_corr(
        pd.DataFrame(ranked.T, columns=["x", "y", *names]), x="x", y="y", covar=names, method="spearman"
    )
    return float(np.clip(result["r"].iloc[0], -1.0, 1.0)), float(result["p_val"].iloc[0]), None


def partial_reranked(
    x: ArrayLike, y: ArrayLike, covariates: Sequence[ArrayLike]
) -> tuple[float | None, float | None, str | None]:
    """Spearman correlation of the rank residuals, p on n - 2 degrees of freedom.

    What the scripts behind older published figures computed. Kept only so that those can be met: ranking residuals
    again has no definition as a partial correlation, and the degrees of freedom ignore the covariates.

    Args, returns and errors as `partial_spearman`.
    """
    from scipy.stats import spearmanr

    a, b, z = _checked(x, y, covariates)
    residual_a, residual_b, reason = _rank_residuals(a, b, z)
    if reason:
        return None, None, reason
    # Residuals that are equal on paper differ by rounding; rounding them first keeps their ties.
    result = spearmanr(np.round(residual_a, 9), np.round(residual_b, 9))
    return float(np.clip(result.statistic, -1.0, 1.0)), float(result.pvalue), None


def partial_permutation_p(
    x: FloatArray, y: ArrayLike, covariates: Sequence[ArrayLike], *, seed: int, count: int = PERMUTATIONS
) -> list[float | None]:
    """Permutation p of the partial Spearman correlation, for many predictors at once.

    Freedman and Lane (1983) on ranks: the residuals of the outcome are permuted, added back to its fit and
    residualised again; two-sided, (1 + as extreme) / (1 + permutations).

    Args:
        x: [predictors, n].
        y: [n].
        covariates: k vectors of length n.
        seed: seed of the permutations.
        count: number of permutations.

    Returns:
        One p per predictor, None where the partial correlation is not estimable.

    Raises:
        StatisticsError: as `partial_spearman`.
    """
    z = _checked(x[0], y, covariates)[2]
    n = len(z[0])
    basis = rank_basis(z)
    if n - basis.shape[1] < 2:
        return [None] * len(x)
    outcome = average_ranks(finite_vector(y, "y"))
    residual_y = outcome - basis @ (basis.T @ outcome)
    if np.linalg.norm(residual_y) < ZERO_RESIDUAL * n:
        return [None] * len(x)
    shuffled = residual_y[permutations(n, count, "partial_permutation", seed, n)]
    again = shuffled - (shuffled @ basis) @ basis.T
    lengths = np.linalg.norm(again, axis=1, keepdims=True)
    # An order that the covariates explain completely leaves rounding alone, which must not be blown up to a correlation.
    again = np.divide(again, lengths, out=np.zeros_like(again), where=lengths > ZERO_RESIDUAL * n)
    ranked = average_ranks(x)
    residual_x = ranked - (ranked @ basis) @ basis.T
    norms = np.linalg.norm(residual_x, axis=1)
    out: list[float | None] = []
    for row, norm in zip(residual_x, norms, strict=True):
        if norm < ZERO_RESIDUAL * n:
            out.append(None)
            continue
        observed = abs(row @ residual_y) / (norm * np.linalg.norm(residual_y))
        extreme = np.abs(again @ row) / norm >= observed - 1e-12
        out.append((1 + int(extreme.sum())) / (1 + count))
    return out


def partial_rows(
    observations: StudyObservations,
    *,
    seed: int,
    count: int = PERMUTATIONS,
    corpus_counts: Mapping[str, int] | None = None,
    predictor: str = "cosine",
) -> pl.DataFrame:
    """Length partial and multi-covariate partial at every layer.

    Args:
        observations: the study's personas.
        seed: seed of the permutations.
        count: number of permutations.
        corpus_counts: see `covariates.name_frequency`.
        predictor: name of the predictor in the rows.

    Returns:
        Tidy rows per layer: `partial_spearman` (registered), `partial_spearman_permutation` (same estimate,
        permutation p), `partial_reranked`, `partial_multi` and `partial_multi_permutation`; the note names the
        covariates.
    """
    length = Covariates({"length": observations.log_length})
    multi = prompt_covariates(observations, corpus_counts)
    rows = [
        *_family_rows(observations, length, "partial_spearman", predictor, seed, count, registered=True),
        *_reranked_rows(observations, length, predictor),
        *_family_rows(observations, multi, "partial_multi", predictor, seed, count, registered=True),
    ]
    return tidy_frame(sorted(rows, key=lambda row: row.layer if row.layer is not None else -1))


def _family_rows(
    observations: StudyObservations,
    covariates: Covariates,
    statistic: str,
    predictor: str,
    seed: int,
    count: int,
    *,
    registered: bool,
) -> list[TidyRow]:
    columns = list(covariates.columns.values())
    note = "; ".join([f"given {', '.join(covariates.columns) or 'nothing'}", *covariates.dropped])
    row = RowTemplate(FAMILY, observations.n, predictor, OUTCOME)
    rows = []
    permuted: list[float | None] = [None] * len(observations.layers)
    if columns:
        permuted = partial_permutation_p(observations.cosine, observations.rate, columns, seed=seed, count=count)
    for layer, x, permutation_p in zip(observations.layers, observations.cosine, permuted, strict=True):
        estimate, p, reason = (
            partial_spearman(x, observations.rate, columns) if columns else (None, None, "not estimable: no covariate left")
        )
        text = f"{reason}; {note}" if reason else note
        rows.append(row(statistic, layer, estimate, p=p, registered=registered, note=text))
        p = None if estimate is None else permutation_p
        rows.append(row(f"{statistic}_permutation", layer, estimate, p=p, note=text))
    return rows


def _reranked_rows(observations: StudyObservations, covariates: Covariates, predictor: str) -> list[TidyRow]:
    row = RowTemplate(FAMILY, observations.n, predictor, OUTCOME)
    rows = []
    for layer, x in zip(observations.layers, observations.cosine, strict=True):
        estimate, p, reason = partial_reranked(x, observations.rate, list(covariates.columns.values()))
        note = reason or "as older scripts computed it, only to meet their figures; p ignores the covariate"
        rows.append(row("partial_reranked", layer, estimate, p=p, note=note))
    return rows


def _checked(x: ArrayLike, y: ArrayLike, covariates: Sequence[ArrayLike]) -> tuple[FloatArray, FloatArray, list[FloatArray]]:
    if not len(covariates):
        raise StatisticsError("A partial correlation needs at least one covariate.")
    a, b = finite_vector(x, "x"), finite_vector(y, "y")
    z = [finite_vector(values, f"covariate {i}") for i, values in enumerate(covariates)]
    same_length(x=a, y=b, **{f"covariate_{i}": values for i, values in enumerate(z)})
    return a, b, z


def _rank_residuals(x: FloatArray, y: FloatArray, covariates: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray, str | None]:
    n, k = len(x), len(covariates)
    empty = np.empty(0)
    if n - 2 - k < 1:
        return empty, empty, f"not estimable: {n} observations and {k} covariates leave no degree of freedom"
    for name, values in [("x", x), ("y", y), *((f"covariate {i}", z) for i, z in enumerate(covariates))]:
        if is_constant(values):
            return empty, empty, f"not estimable: constant {name}"
    basis = rank_basis(covariates)
    if basis.shape[1] < k + 1:
        return empty, empty, "not estimable: the covariates are linearly dependent"
    residuals = []
    for name, values in (("x", x), ("y", y)):
        ranks = average_ranks(values)
        residual = ranks - basis @ (basis.T @ ranks)
        if np.linalg.norm(residual) < ZERO_RESIDUAL * n:
            return empty, empty, f"not estimable: the covariates explain the ranks of {name} completely"
        residuals.append(residual)
    return residuals[0], residuals[1], None
