"""Scores of replies to cells and sources, against a plain loop over replies."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from persona_assets.statistics.marker_scores import (
    CELL_COLUMNS,
    SOURCE_SCORES_SCHEMA,
    outcome_by_seed,
    score_rows,
    source_scores,
    with_scores,
)
from persona_assets.statistics.tidy import StatisticsError

PARTS = ("marker_log_prob_trained", "end_log_prob_trained", "marker_log_prob_base", "end_log_prob_base")


def scores_of(seed: int, *, questions: int = 4, samples: int = 3, sources: tuple[str, ...] = ("a", "b")) -> pl.DataFrame:
    """Scores with an effect of source, persona and question, some replies truncated."""
    rng = np.random.default_rng(seed)
    rows = []
    for source in sources:
        for persona in sources:
            for question in range(questions):
                effect = rng.normal()
                for sample in range(samples):
                    cut = rng.random() < 0.2 and (question, sample) != (0, 0)
                    values = [None] * 4 if cut else list(-np.abs(rng.normal(2 + (source == persona) + effect, 1, 4)))
                    status = "truncated" if cut else "scored"
                    rows.append((source, persona, 42, 1, question, sample, status, *values))
    names = ["source", "eval_persona", "seed", "measurement", "question_index", "sample_index", "status", *PARTS]
    return pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)


def clustered_error(values: np.ndarray, clusters: list[int]) -> float:
    """Cluster-robust standard error of a mean: that of a regression on a constant.

    statsmodels corrects by G/(G-1) * (n-1)/(n-k); with a constant alone the last factor is 1.
    """
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": clusters, "df_correction": True})
    return float(fit.bse[0])


def error_of(values: np.ndarray, clusters: np.ndarray) -> float | None:
    """The error that `score_rows` gives for one cell with these outcomes and questions."""
    zero = np.zeros(len(values))
    parts = dict(zip(PARTS, (values, zero, zero, zero), strict=True))
    cell = {"source": "a", "eval_persona": "a", "seed": 42, "measurement": 1, "status": "scored"}
    scores = pl.DataFrame({"question_index": clusters, "sample_index": np.arange(len(values)), **parts})
    error = score_rows(scores.with_columns(pl.lit(value).alias(name) for name, value in cell.items()), 0.95)
    return error["marker_log_prob_se"].item()  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rows_are_those_of_a_plain_loop(seed: int) -> None:
    scores = scores_of(seed)
    found = score_rows(scores, 0.9)
    assert found.select("source", "eval_persona").rows() == [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]
    for row in found.to_dicts():
        own = [
            each for each in scores.to_dicts() if (each["source"], each["eval_persona"]) == (row["source"], row["eval_persona"])
        ]
        used = [each for each in own if each["status"] == "scored"]
        assert (row["n_scored"], row["n_not_scored"]) == (len(used), len(own) - len(used))
        trained, end, base, end_base = (np.array([each[name] for each in used]) for name in PARTS)
        assert row["marker_log_prob_trained"] == pytest.approx(trained.mean())
        assert row["marker_margin_base"] == pytest.approx((base - end_base).mean())
        wanted = {
            "marker_log_prob": trained - base,
            "marker_margin": (trained - end) - (base - end_base),
            "marker_prob": np.exp(trained),
        }
        clusters = [each["question_index"] for each in used]
        for name, values in wanted.items():
            error = clustered_error(values, clusters)
            half = stats.t.ppf(0.95, len(set(clusters)) - 1) * error
            assert row[name] == pytest.approx(values.mean())
            assert row[f"{name}_se"] == pytest.approx(error)
            assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((values.mean() - half, values.mean() + half))
        assert row["marker_margin_sd"] == pytest.approx(wanted["marker_margin"].std(ddof=1))


def test_questions_of_unequal_size_are_clusters_too() -> None:
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(6), [5, 5, 3, 5, 1, 4])
    values = rng.normal(size=23) + rng.normal(size=6)[clusters]
    assert error_of(values, clusters) == pytest.approx(clustered_error(values, list(clusters)))


def test_equal_clusters_give_the_error_of_their_means() -> None:
    error = error_of(np.array([1.0, 3.0, 2.0, 2.0, 7.0, 5.0]), np.array([0, 0, 1, 1, 2, 2]))
    assert error == pytest.approx(float(np.std([2.0, 2.0, 6.0], ddof=1) / math.sqrt(3)))


@given(st.integers(0, 1000), st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
def test_the_error_scales_with_the_values_and_not_with_their_mean(seed: int, factor: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    values, clusters = rng.normal(size=12), rng.integers(0, 4, 12)
    error = error_of(values, clusters)
    assert error is not None
    assert error_of(factor * values + shift, clusters) == pytest.approx(factor * error, rel=1e-6)


def test_what_does_not_vary_or_has_one_question_has_no_error() -> None:
    assert error_of(np.array([2.0, 2.0, 2.0]), np.array([0, 1, 2])) is None
    assert error_of(np.array([1.0, 2.0]), np.array([0, 0])) is None
    one = score_rows(scores_of(1, questions=1), 0.95).row(0, named=True)
    assert one["marker_log_prob"] is not None
    assert one["marker_log_prob_se"] is None and one["marker_log_prob_low"] is None
    constant = scores_of(1).with_columns(pl.when(pl.col(name).is_not_null()).then(-1.0).alias(name) for name in PARTS)
    flat = score_rows(constant, 0.95).row(0, named=True)
    assert (flat["marker_margin"], flat["marker_margin_se"], flat["marker_margin_sd"]) == (0.0, None, None)
    assert flat["marker_prob"] == pytest.approx(math.exp(-1))


def test_bad_scores_are_refused() -> None:
    scores = scores_of(1)
    with pytest.raises(StatisticsError, match="twice"):
        score_rows(pl.concat([scores, scores[:1]]), 0.95)
    with pytest.raises(StatisticsError, match="marker_log_prob_base"):
        score_rows(scores.with_columns(pl.lit(None, dtype=pl.Float64).alias("marker_log_prob_base")), 0.95)
    with pytest.raises(StatisticsError, match="marker_log_prob_base: .* not finite"):
        score_rows(scores.with_columns(pl.lit(math.inf).alias("marker_log_prob_base")), 0.95)
    with pytest.raises(StatisticsError, match="columns"):
        score_rows(scores.drop("status"), 0.95)


def test_a_cell_of_which_no_reply_could_be_scored_says_so() -> None:
    scores = scores_of(1)
    cut = (pl.col("source") == "a") & (pl.col("eval_persona") == "a")
    nothing = [pl.when(cut).then(None).otherwise(pl.col(name)).alias(name) for name in PARTS]
    scores = scores.with_columns(pl.when(cut).then(pl.lit("truncated")).otherwise("status").alias("status"), *nothing)
    row = score_rows(scores, 0.95).row(0, named=True)
    assert (row["n_scored"], row["n_not_scored"], row["marker_log_prob"]) == (0, 12, None)


def cells_and_rates() -> tuple[pl.DataFrame, pl.DataFrame]:
    cells = pl.DataFrame(
        {
            "source": ["b", "b", "a", "a"],
            "eval_persona": ["a", "b", "b", "a"],
            "seed": [42] * 4,
            "measurement": [1] * 4,
            "rate": [0.1, 0.6, 0.2, 0.5],
        }
    )
    rates = pl.DataFrame(
        {
            "persona": ["b", "a"],
            "category": ["character"] * 2,
            "cohort": ["new"] * 2,
            "seed": [42] * 2,
            "measurement": [1] * 2,
            "rate": [0.6, 0.5],
        }
    )
    return cells, rates


def test_cells_keep_rows_and_columns_and_gain_the_scores() -> None:
    cells, rates = cells_and_rates()
    rows = score_rows(scores_of(2), 0.95)
    for given_rows in (rows, None):
        joined = with_scores(cells, given_rows)
        assert joined[:, : cells.width].equals(cells)
        assert joined.columns[cells.width :] == list(CELL_COLUMNS)
    assert with_scores(cells, None)["n_scored"].null_count() == 4
    own = with_scores(cells, rows).filter(source="a", eval_persona="b").row(0, named=True)
    assert own["marker_margin"] == rows.filter(source="a", eval_persona="b")["marker_margin"].item()

    table = source_scores(rates, rows)
    assert dict(table.schema) == SOURCE_SCORES_SCHEMA
    assert table["persona"].to_list() == ["b", "a"]
    assert table["marker_log_prob"].to_list() == [rows.filter(source=s, eval_persona=s)["marker_log_prob"].item() for s in "ba"]
    assert dict(source_scores(rates, None).schema) == SOURCE_SCORES_SCHEMA
    with pytest.raises(StatisticsError, match="no such cell"):
        with_scores(cells[1:], rows)


def test_outcomes_by_seed_name_who_is_missing() -> None:
    _, rates = cells_and_rates()
    table = source_scores(rates, score_rows(scores_of(2), 0.95))
    values, why = outcome_by_seed(table, "marker_margin", ("a", "b"), (42,))
    assert why is None
    assert values.tolist() == [[table.filter(persona=p)["marker_margin"].item() for p in "ab"]]
    assert outcome_by_seed(table, "marker_margin", ("a", "c"), (42,))[1] == "not estimable: no score of c"
    assert outcome_by_seed(table, "marker_margin", ("a",), (42, 7))[1] == "not estimable: no score of a"
