from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from persona_assets.statistics.covariates import corpus_counts, name_frequency, prompt_covariates, token_bucket
from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.partial import partial_permutation_p, partial_reranked, partial_rows, partial_spearman
from persona_assets.statistics.simulation import ANCHOR, SimulatedStudy
from persona_assets.statistics.tidy import StatisticsError, generator

Observe = Callable[..., StudyObservations]


def rank_residuals(x: np.ndarray, covariates: list[np.ndarray]) -> np.ndarray:
    design = np.column_stack([np.ones(len(x)), *(stats.rankdata(z) for z in covariates)])
    ranks = stats.rankdata(x)
    return ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]


def sample(seed: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    random = np.random.default_rng(seed)
    z = [np.round(random.standard_normal(n), 1) for _ in range(k)]
    return random.standard_normal(n) + z[0], np.round(random.standard_normal(n) - z[0], 1), z


@given(st.integers(0, 10**6), st.integers(9, 40), st.integers(1, 3))
def test_partial_spearman_is_pearson_of_rank_residuals(seed: int, n: int, k: int) -> None:
    x, y, z = sample(seed, n, k)
    estimate, p, _ = partial_spearman(x, y, z)
    expected = np.corrcoef(rank_residuals(x, z), rank_residuals(y, z))[0, 1]
    assert estimate == pytest.approx(expected, abs=1e-9)
    df = n - 2 - k
    assert p == pytest.approx(2 * stats.t.sf(abs(expected) * np.sqrt(df / (1 - expected**2)), df), abs=1e-9)


@given(st.integers(0, 10**6))
def test_monotone_transforms_and_order_leave_it_alone(seed: int) -> None:
    x, y, z = sample(seed, 15, 2)
    estimate, p, _ = partial_spearman(x, y, z)
    order = np.random.default_rng(seed).permutation(15)
    assert partial_spearman(np.exp(x), y**3, [np.exp(z[0]), z[1]])[:2] == (pytest.approx(estimate), pytest.approx(p))
    assert partial_spearman(x[order], y[order], [v[order] for v in z])[0] == pytest.approx(estimate)
    assert partial_spearman(-x, y, z)[0] == pytest.approx(-estimate)  # type: ignore[operator]
    # With one covariate every rank can be mirrored without touching the model.
    assert partial_spearman(x, y, [-z[0], z[1]])[0] == pytest.approx(estimate)


@given(st.integers(0, 10**6))
def test_reranked_is_spearman_of_the_residuals(seed: int) -> None:
    x, y, z = sample(seed, 14, 1)
    expected = stats.spearmanr(np.round(rank_residuals(x, z), 9), np.round(rank_residuals(y, z), 9))
    assert partial_reranked(x, y, z)[:2] == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))


def test_permutation_p_equals_a_loop_of_freedman_and_lane() -> None:
    x, y, z = sample(3, 12, 1)
    count = 400
    [p] = partial_permutation_p(x[None], y, z, seed=5, count=count)
    observed = abs(np.corrcoef(rank_residuals(x, z), rank_residuals(y, z))[0, 1])
    design = np.column_stack([np.ones(12), stats.rankdata(z[0])])
    residual_x, residual_y = rank_residuals(x, z), rank_residuals(y, z)
    fitted = stats.rankdata(y) - residual_y
    orders = generator("partial_permutation", 5, 12).permuted(np.tile(np.arange(12), (count, 1)), axis=1)
    extreme = 0
    for order in orders:
        outcome = fitted + residual_y[order]
        again = outcome - design @ np.linalg.lstsq(design, outcome, rcond=None)[0]
        extreme += abs(np.corrcoef(residual_x, again)[0, 1]) >= observed - 1e-12
    assert p == (1 + extreme) / (1 + count)


def test_permutations_that_the_covariate_explains_count_as_no_correlation(recwarn: pytest.WarningsRecorder) -> None:
    """With few personas and a covariate of two values some orders leave no residual: no correlation, and no noise either."""
    x, y, z = np.array([1.0, 4.0, 3.0, 2.0]), np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 0.0, 1.0, 1.0])
    [p] = partial_permutation_p(x[None], y, [z], seed=1, count=999)
    residual_x, residual_y = rank_residuals(x, [z]), rank_residuals(y, [z])
    observed = abs(np.corrcoef(residual_x, residual_y)[0, 1])
    extreme = 0
    for order in generator("partial_permutation", 1, 4).permuted(np.tile(np.arange(4), (999, 1)), axis=1):
        shuffled = residual_y[order]
        again = shuffled - np.where(z == 0, shuffled[:2].mean(), shuffled[2:].mean())
        extreme += np.ptp(again) > 0 and abs(np.corrcoef(residual_x, again)[0, 1]) >= observed - 1e-12
    assert 0 < extreme < 999
    assert p == (1 + extreme) / 1000
    assert not recwarn.list


def test_permutation_and_analytic_p_agree() -> None:
    x, y, z = sample(8, 60, 1)
    [p] = partial_permutation_p(x[None], y, z, seed=1, count=9999)
    assert p == pytest.approx(partial_spearman(x, y, z)[1], abs=0.02)


@pytest.mark.parametrize(
    ("x", "y", "z", "why"),
    [
        ([1, 2, 3], [2, 1, 3], [[3, 1, 2]], "no degree of freedom"),
        ([1, 1, 1, 1, 1], [2, 1, 3, 4, 5], [[3, 1, 2, 5, 4]], "constant x"),
        ([5, 3, 4, 1, 2], [2, 1, 3, 4, 5], [[1, 1, 1, 1, 1]], "constant covariate 0"),
        ([1, 2, 3, 4, 5], [2, 1, 3, 4, 5], [[10, 20, 30, 40, 50]], "explain the ranks of x"),
        ([5, 3, 4, 1, 2, 6], [2, 1, 3, 4, 5, 6], [[1, 2, 4, 3, 5, 6], [2, 4, 8, 6, 10, 12]], "linearly dependent"),
    ],
)
def test_not_estimable_says_why(x: list[float], y: list[float], z: list[list[float]], why: str) -> None:
    for function in (partial_spearman, partial_reranked):
        estimate, p, reason = function(x, y, z)
        assert (estimate, p) == (None, None)
        assert reason is not None
        assert why in reason


@pytest.mark.parametrize("sign", [1, -1])
def test_perfect_agreement_keeps_its_sign(sign: int, recwarn: pytest.WarningsRecorder) -> None:
    x, _, z = sample(4, 12, 1)
    assert partial_spearman(x, sign * x**3, z)[:2] == (sign, 0.0)
    assert partial_reranked(x, sign * x**3, z)[0] == pytest.approx(sign)
    assert not recwarn.list


def test_bad_input_is_refused() -> None:
    with pytest.raises(StatisticsError, match="at least one covariate"):
        partial_spearman([1, 2, 3, 4], [1, 2, 3, 4], [])
    with pytest.raises(StatisticsError, match="covariate 0"):
        partial_spearman([1, 2, 3, 4], [1, 2, 3, 4], [[1, np.nan, 2, 3]])
    with pytest.raises(StatisticsError, match="Lengths differ"):
        partial_spearman([1, 2, 3, 4], [1, 2, 3, 4], [[1, 2, 3]])


def test_token_buckets_have_the_registered_edges() -> None:
    assert token_bucket(np.array([1.0, 5, 6, 10, 11, 20, 21, 300])).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_template_is_how_a_prompt_begins(observe: Observe) -> None:
    prompts = ("You are a chef.", "Now you: You are a chef.", "you are a chef.", "You are.")
    columns = prompt_covariates(observe([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], prompts=prompts, tokens=[4, 8, 9, 7])).columns
    assert columns["template"].tolist() == [1.0, 0.0, 0.0, 1.0]


def test_name_frequency_takes_the_most_common_token() -> None:
    values = name_frequency(["data_scientist", "zelthari_scholar", "unseen"], {"data": 90, "scientist": 9, "scholar": 1})
    assert values == pytest.approx(np.log([91 / 103, 2 / 103, 1 / 103]))
    with pytest.raises(StatisticsError, match="no counts"):
        name_frequency(["a"], {})


def test_words_of_a_reference_corpus_are_counted(tmp_path: Path) -> None:
    text, table = tmp_path / "corpus.txt", tmp_path / "corpus.tsv"
    text.write_text("The librarian_s hat.\nTHE chef, the 2 chefs: café!\n", encoding="utf-8")
    assert corpus_counts(text) == {"the": 3, "librarian": 1, "s": 1, "hat": 1, "chef": 1, "2": 1, "chefs": 1, "café": 1}
    table.write_text("The\t10\nthe\t5\n\nchef\t2\n", encoding="utf-8")
    assert corpus_counts(table) == {"the": 15, "chef": 2}
    table.write_text("the\t10\nchef\n", encoding="utf-8")
    with pytest.raises(StatisticsError, match=r"corpus.tsv, line 2: 'chef' is not a word"):
        corpus_counts(table)
    text.write_text(" ... \n", encoding="utf-8")
    with pytest.raises(StatisticsError, match="no words"):
        corpus_counts(text)


def test_covariates_that_say_nothing_are_dropped_by_name(observe: Observe) -> None:
    n = 8
    cosine, rate = np.arange(n) / 10, np.array([3, 1, 4, 1, 5, 9, 2, 6]) / 10
    covariates = prompt_covariates(observe(cosine, rate, tokens=[4, 6, 4, 6, 4, 6, 4, 6], prompts=("You are one.",) * n))
    assert list(covariates.columns) == ["length"]
    assert covariates.dropped == (
        "name frequency dropped: no reference corpus was named",
        "template dropped: the same for every persona",
        "token_bucket dropped: a linear function of length in ranks",
    )
    assert "template dropped: the prompts are not known" in prompt_covariates(observe(cosine, rate)).dropped


def test_partial_rows(study: SimulatedStudy) -> None:
    observations = study.frames.observations(ANCHOR)
    counts = {"helpful": 500, "assistant": 80, **{f"{i:03d}": 3 * i + 1 for i in range(24)}}
    table = partial_rows(observations, seed=1, count=199, corpus_counts=counts)
    assert set(table["statistic"]) == {
        "partial_spearman", "partial_spearman_permutation", "partial_reranked", "partial_multi", "partial_multi_permutation"
    }  # fmt: skip
    assert set(table.filter("registered")["statistic"]) == {"partial_spearman", "partial_multi"}
    for layer in observations.layers:
        rows = {row["statistic"]: row for row in table.filter(layer=layer).to_dicts()}
        assert rows["partial_spearman"]["estimate"] == rows["partial_spearman_permutation"]["estimate"]
        assert rows["partial_spearman"]["note"] == "given length"
        assert rows["partial_multi"]["note"] == "given length, template, token_bucket, name_frequency"
        expected = partial_spearman(observations.at(layer), observations.rate, [observations.log_length])
        assert (rows["partial_spearman"]["estimate"], rows["partial_spearman"]["p"]) == expected[:2]
    without = partial_rows(observations, seed=1, count=199)
    assert without.filter(statistic="partial_multi")["note"].str.contains("name frequency dropped").all()


def test_partial_rows_of_a_constant_length_say_so(observe: Observe, recwarn: pytest.WarningsRecorder) -> None:
    table = partial_rows(observe(np.arange(6) / 7, [0.1, 0.4, 0.2, 0.9, 0.3, 0.5], tokens=[9] * 6), seed=1, count=99)
    assert table["estimate"].null_count() == table["p"].null_count() == table.height == 5
    assert table["note"].str.contains("not estimable").all()
    assert not recwarn.list
    assert table.filter(pl.col("note").str.contains("no covariate left")).height == 2
