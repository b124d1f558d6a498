"""The cosine against the continuous outcome at every layer: sensitivity rows beside the registered scan of the rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from persona_assets.conventions import BOOTSTRAP_RESAMPLES, CONFIDENCE_LEVEL
from persona_assets.statistics.correlations import MINIMUM_N, holm, pearson, spearman
from persona_assets.statistics.marker_scores import OUTCOMES, TRAINED, outcome_by_seed
from persona_assets.statistics.partial import partial_spearman
from persona_assets.statistics.ranks import NO_INTERVAL, bootstrap_spearman, bootstrap_weights, percentile_interval
from persona_assets.statistics.scan import OUTCOME
from persona_assets.statistics.tidy import RowTemplate, TidyRow, settled, tidy_frame

if TYPE_CHECKING:
    from persona_assets.statistics.observations import StudyObservations
    from persona_assets.statistics.tidy import FloatArray

FAMILY = "continuous"
_LAYERED = ("pearson", "spearman", "spearman_holm", "partial_spearman")


def continuous_rows(
    observations: StudyObservations,
    scores: pl.DataFrame,
    *,
    seed: int,
    resamples: int = BOOTSTRAP_RESAMPLES,
    confidence: float = CONFIDENCE_LEVEL,
    predictor: str = "cosine",
) -> pl.DataFrame:
    """Correlate the continuous outcomes of the sources with the cosine, and with the rate.

    Args:
        observations: the study's personas; their rates are what the outcomes are compared with.
        scores: table `source_scores`. Outcomes are means over training seeds, as rates are.
        seed: seed of the bootstrap: with the resamples of the registered scan.
        resamples: bootstrap resamples of rho.
        confidence: level of its interval.
        predictor: name of the predictor in the rows.

    Returns:
        Tidy rows, none registered; none at all for a study without scores. For each of `OUTCOMES` (trained minus base) and
        `TRAINED` (the trained model alone) per layer: `pearson`, `spearman` (low, high: bootstrap interval),
        `spearman_holm` (p adjusted over the layers), `partial_spearman` (given prompt length). Once, with `source_rate` as
        the predictor: `spearman` and `pearson`. A source without a score makes the rows of the outcome not estimable.

    Raises:
        StatisticsError: from the inputs.
    """
    if scores.is_empty():
        return tidy_frame([])
    rows: list[TidyRow] = []
    for outcome in (*OUTCOMES, *TRAINED):
        row = RowTemplate(FAMILY, observations.n, predictor, outcome)
        by_seed, missing = outcome_by_seed(scores, outcome, observations.personas, observations.seeds)
        values = None if missing else settled(by_seed.mean(axis=0))
        rows += (
            _missing(row, observations, missing)
            if values is None
            else _layers(row, observations, values, seed, resamples, confidence)
        )
        for statistic, correlate in (("spearman", spearman), ("pearson", pearson)):
            estimate, p, note = (None, None, missing) if values is None else correlate(observations.rate, values)
            rows.append(row(statistic, None, estimate, p=p, predictor=OUTCOME, note=note))
    return tidy_frame(rows)


def _missing(row: RowTemplate, observations: StudyObservations, why: str | None) -> list[TidyRow]:
    return [row(statistic, layer, note=why) for layer in observations.layers for statistic in _LAYERED]


def _layers(
    row: RowTemplate,
    observations: StudyObservations,
    values: FloatArray,
    seed: int,
    resamples: int,
    confidence: float,
) -> list[TidyRow]:
    n = observations.n
    draws = None
    if n >= MINIMUM_N:
        weights = bootstrap_weights(n, resamples, "bootstrap_rho", seed)
        draws = bootstrap_spearman(observations.cosine, values, weights)
    rhos = [spearman(x, values) for x in observations.cosine]
    adjusted = holm([p for _, p, _ in rhos])
    rows = []
    for index, (layer, x) in enumerate(zip(observations.layers, observations.cosine, strict=True)):
        r, r_p, r_note = pearson(x, values)
        rho, p, note = rhos[index]
        interval = None if draws is None or rho is None else percentile_interval(draws[index], confidence)
        if rho is not None and interval is None:
            note = NO_INTERVAL
        low, high = interval or (None, None)
        partial, partial_p, partial_note = partial_spearman(x, values, [observations.log_length])
        rows += [
            row("pearson", layer, r, p=r_p, note=r_note),
            row("spearman", layer, rho, p=p, low=low, high=high, note=note),
            row("spearman_holm", layer, rho, p=adjusted[index], note=note if rho is None else None),
            row("partial_spearman", layer, partial, p=partial_p, note=partial_note or "given length"),
        ]
    return rows
