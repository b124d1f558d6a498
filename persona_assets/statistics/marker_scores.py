"""The continuous outcome: from the scores of single replies to cells and sources, with intervals over questions.

For each reply that was scored there are four log probabilities, in nats: of the marker at its end and of the end of the
turn at the same place, under the trained and under the base model. The outcomes are differences between the models:

- `marker_log_prob`: log P(marker), trained minus base;
- `marker_margin`: log P(marker) - log P(end of turn), trained minus base.

Beside them stand the trained model's own values, and `marker_prob`: P(marker) under the trained model, the mean of
probabilities and not of logarithms. It is in the units of the rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from persona_assets.statistics.tidy import StatisticsError, finite_array, require_columns

if TYPE_CHECKING:
    from persona_assets.statistics.tidy import FloatArray

OUTCOMES = ("marker_log_prob", "marker_margin")
MARKER_PROB = "marker_prob"
TRAINED = ("marker_log_prob_trained", "marker_margin_trained", MARKER_PROB)
"""What the trained model says by itself: without the base model's part, which has noise of its own."""
_CELL = ("source", "eval_persona", "seed", "measurement")
_PARTS = ("marker_log_prob_trained", "end_log_prob_trained", "marker_log_prob_base", "end_log_prob_base")
_SCORED = "scored"

CELL_COLUMNS: dict[str, type[pl.DataType]] = {
    "n_scored": pl.Int64,
    "n_not_scored": pl.Int64,
    **{f"{name}{part}": pl.Float64 for name in OUTCOMES for part in ("", "_sd", "_se")},
    MARKER_PROB: pl.Float64,
    f"{MARKER_PROB}_se": pl.Float64,
}
"""What the scores add to the table `cells`; null in cells without scores."""

SOURCE_SCORES_SCHEMA: dict[str, type[pl.DataType]] = {
    "persona": pl.String,
    "category": pl.String,
    "cohort": pl.String,
    "seed": pl.Int64,
    "measurement": pl.Int64,
    "n_scored": pl.Int64,
    "n_not_scored": pl.Int64,
    **{
        f"{name}{part}": pl.Float64
        for name in OUTCOMES
        for part in ("_trained", "_trained_se", "_base", "", "_sd", "_se", "_low", "_high")
    },
    **{f"{MARKER_PROB}{part}": pl.Float64 for part in ("", "_se", "_low", "_high")},
    "rate": pl.Float64,
}


def score_rows(scores: pl.DataFrame, confidence: float) -> pl.DataFrame:
    """Summarise the scores of each cell.

    Args:
        scores: files `scores.parquet` on top of each other: a row for each reply looked at.
        confidence: level of the intervals (t, with one degree of freedom less than there are questions).

    Returns:
        A row for each cell of `scores`, ordered by source, eval_persona, seed, measurement: n_scored, n_not_scored
        (truncated or too long); of both outcomes and their trained and base parts the mean; of the outcomes also `_sd`
        over replies, and of the outcomes and the P(marker) `_se`, `_low`, `_high`, clustered by question. What
        cannot be estimated is null.

    Raises:
        StatisticsError: columns are missing, a reply stands there twice, or a scored one has no value.
    """
    require_columns(scores, (*_CELL, "question_index", "sample_index", "status", *_PARTS), "scores")
    if scores.select(*_CELL, "question_index", "sample_index").is_duplicated().any():
        raise StatisticsError("scores: a reply stands there twice; choose one measurement of each source.")
    scored = scores.filter(pl.col("status") == _SCORED)
    for name in _PARTS:
        finite_array(scored[name].fill_null(float("nan")).to_numpy(), f"scores: {name}")
    marker, end, marker_base, end_base = (pl.col(name) for name in _PARTS)
    valued = scored.select(
        *_CELL,
        "question_index",
        marker_log_prob_trained=marker,
        marker_log_prob_base=marker_base,
        marker_log_prob=marker - marker_base,
        marker_margin_trained=marker - end,
        marker_margin_base=marker_base - end_base,
        marker_margin=(marker - end) - (marker_base - end_base),
        marker_prob=marker.exp(),
    )
    # In order everywhere: sums of floats in another order have other last bits, and tables other data versions.
    bases = [pl.col(f"{name}_base").mean() for name in OUTCOMES]
    means = valued.group_by(_CELL, maintain_order=True).agg(bases)
    spread = [_spread(valued, name, confidence) for name in (*OUTCOMES, *TRAINED)]
    counts = scores.group_by(_CELL, maintain_order=True).agg(
        n_scored=(pl.col("status") == _SCORED).sum(), n_not_scored=(pl.col("status") != _SCORED).sum()
    )
    for part in (means, *spread):
        counts = counts.join(part, on=_CELL, how="left")
    return counts.sort(_CELL)


def _spread(valued: pl.DataFrame, name: str, confidence: float) -> pl.DataFrame:
    """Mean, sd, clustered standard error and interval of one column in each cell.

    The error of the mean is the usual cluster-robust one with its correction for few clusters: G / (G - 1) times the sum
    over the G questions of the squared sum of deviations from the mean, over n squared (Cameron and Miller, 2015, section
    II). It is null with one question, or where nothing varies: equal values from few draws are no certainty.
    """
    from scipy.stats import t

    value = pl.col(name)
    # NaN-free by now, so that a cell varies exactly when its extremes differ.
    centred = valued.with_columns(deviation=value - value.mean().over(_CELL))
    cells = (
        centred.group_by(*_CELL, "question_index", maintain_order=True)
        .agg(
            pl.col("deviation").sum(),
            n=pl.len(),
            total=value.sum(),
            squares=(pl.col("deviation") ** 2).sum(),
            high=value.max(),
            low=value.min(),
        )
        .group_by(_CELL, maintain_order=True)
        .agg(
            groups=pl.len(),
            n=pl.col("n").sum(),
            mean=pl.col("total").sum() / pl.col("n").sum(),
            squares=pl.col("squares").sum(),
            sums=(pl.col("deviation") ** 2).sum(),
            varies=pl.col("high").max() > pl.col("low").min(),
        )
    )
    enough = pl.col("varies") & (pl.col("groups") > 1)
    error = ((pl.col("groups") / (pl.col("groups") - 1)) * pl.col("sums")).sqrt() / pl.col("n")
    cells = cells.with_columns(
        se=pl.when(enough).then(error), sd=pl.when("varies").then((pl.col("squares") / (pl.col("n") - 1)).sqrt())
    )
    half = cells["se"] * pl.Series(t.ppf(0.5 + confidence / 2, np.maximum(cells["groups"].to_numpy() - 1, 1)))
    return cells.select(
        *_CELL,
        pl.col("mean").alias(name),
        pl.col("sd").alias(f"{name}_sd"),
        pl.col("se").alias(f"{name}_se"),
        (pl.col("mean") - half).alias(f"{name}_low"),
        (pl.col("mean") + half).alias(f"{name}_high"),
    )


def with_scores(cells: pl.DataFrame, rows: pl.DataFrame | None) -> pl.DataFrame:
    """Add the columns of `CELL_COLUMNS` to the table `cells`.

    Args:
        cells: table `cells`; none of its columns or rows changes.
        rows: result of `score_rows`, of some or all of the cells; None for a study without scores.

    Raises:
        StatisticsError: there are scores of a cell that is not in the table.
    """
    if rows is None:
        return cells.with_columns(pl.lit(None, dtype=dtype).alias(name) for name, dtype in CELL_COLUMNS.items())
    stray = rows.join(cells, on=_CELL, how="anti")
    if stray.height:
        raise StatisticsError(f"scores: no such cell in the table cells: {stray.select(_CELL).row(0, named=True)}.")
    added = rows.select(*_CELL, *(pl.col(name).cast(dtype) for name, dtype in CELL_COLUMNS.items()))
    return cells.join(added, on=_CELL, how="left", maintain_order="left")


def source_scores(rates: pl.DataFrame, rows: pl.DataFrame | None) -> pl.DataFrame:
    """Take the sources' own cells: a row for each source persona and training seed that was scored.

    Args:
        rates: table `source_rates`.
        rows: result of `score_rows`; None for a study without scores.

    Returns:
        Columns of `SOURCE_SCORES_SCHEMA`, in the order of `rates`; no rows without scores. Where no reply of a source
        could be scored its values are null.
    """
    if rows is None:
        return pl.DataFrame(schema=SOURCE_SCORES_SCHEMA)
    own = rows.filter(pl.col("source") == pl.col("eval_persona")).rename({"source": "persona"}).drop("eval_persona")
    facts = rates.select("persona", "category", "cohort", "seed", "measurement", "rate")
    joined = facts.join(own, on=["persona", "seed", "measurement"], how="inner", maintain_order="left")
    return joined.select(pl.col(name).cast(dtype) for name, dtype in SOURCE_SCORES_SCHEMA.items())


def outcome_by_seed(
    scores: pl.DataFrame, outcome: str, personas: tuple[str, ...], seeds: tuple[int, ...]
) -> tuple[FloatArray, str | None]:
    """Take an outcome of every source from the table `source_scores`, as [seeds, N].

    Returns:
        The values and None, or an empty array and the reason.
    """
    there = {(row["seed"], row["persona"]): row[outcome] for row in scores.to_dicts()}
    missing = sorted({persona for persona in personas for seed in seeds if there.get((seed, persona)) is None})
    if missing:
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        return np.empty(0), f"not estimable: no score of {listed}"
    return np.array([[there[seed, persona] for persona in personas] for seed in seeds], dtype=np.float64), None
