"""The cosine against the continuous outcome, and that registered rows do not notice it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from persona_assets.statistics.analysis import Extras, completions_of, regressions
from persona_assets.statistics.continuous import continuous_rows
from persona_assets.statistics.partial import partial_spearman
from persona_assets.statistics.simulation import ANCHOR, SimulatedStudy
from persona_assets.study import AnalysisPlan

PLAN = AnalysisPlan(primary_layers=(3, 2), bootstrap_resamples=100, permutations=999)


def scores_for(study: SimulatedStudy, *, without: str | None = None) -> pl.DataFrame:
    rates = study.frames.source_rates.filter(pl.col("persona") != (without or ""))
    noise = np.random.default_rng(3).normal(0, 0.02, rates.height)
    values = pl.Series(np.log(rates["rate"].to_numpy() + 0.1) + noise)
    return rates.select("persona", "seed").with_columns(
        marker_log_prob=values,
        marker_margin=values * 2,
        marker_log_prob_trained=values - 1,
        marker_margin_trained=values * 3,
        marker_prob=pl.Series(rates["rate"]),
    )


def test_rows_are_plain_correlations_and_none_is_registered(study: SimulatedStudy) -> None:
    observed = study.frames.observations(ANCHOR)
    scores = scores_for(study)
    rows = continuous_rows(observed, scores, seed=1, resamples=200)
    assert not rows["registered"].any()
    assert set(rows["family"]) == {"continuous"}
    ordered = {row["persona"]: row for row in scores.to_dicts()}
    for outcome in ("marker_log_prob", "marker_margin"):
        y = np.array([ordered[persona][outcome] for persona in observed.personas])
        own = rows.filter(outcome=outcome, predictor="cosine")
        p_values = []
        for layer in observed.layers:
            wanted = stats.spearmanr(observed.at(layer), y)
            row = own.filter(layer=layer, statistic="spearman").row(0, named=True)
            assert (row["estimate"], row["p"]) == pytest.approx((wanted.statistic, wanted.pvalue))
            assert row["low"] < row["estimate"] < row["high"]
            p_values.append(wanted.pvalue)
            pearson = own.filter(layer=layer, statistic="pearson").row(0, named=True)
            assert pearson["estimate"] == pytest.approx(stats.pearsonr(observed.at(layer), y).statistic)
            partial = own.filter(layer=layer, statistic="partial_spearman").row(0, named=True)
            length = [np.log(observed.prompt_tokens)]
            assert (partial["estimate"], partial["p"]) == pytest.approx(partial_spearman(observed.at(layer), y, length)[:2])
        holm = own.filter(statistic="spearman_holm")["p"].to_numpy()
        assert holm.min() == pytest.approx(min(1.0, len(p_values) * min(p_values)))
        with_rate = rows.filter(outcome=outcome, predictor="source_rate", statistic="spearman").row(0, named=True)
        assert with_rate["estimate"] == pytest.approx(stats.spearmanr(observed.rate, y).statistic)
    assert rows["outcome"].n_unique() == 5


def test_a_source_without_score_makes_the_rows_not_estimable(study: SimulatedStudy) -> None:
    observed = study.frames.observations(ANCHOR)
    rows = continuous_rows(observed, scores_for(study, without=observed.personas[2]), seed=1, resamples=100)
    assert rows["estimate"].null_count() == rows.height > 0
    assert set(rows["note"]) == {f"not estimable: no score of {observed.personas[2]}"}
    assert continuous_rows(observed, scores_for(study)[:0], seed=1).is_empty()


def test_few_personas_and_constant_scores_are_not_estimable(study: SimulatedStudy) -> None:
    observed = study.frames.observations(ANCHOR)
    few = observed.subset(np.arange(observed.n) < 3)
    notes = continuous_rows(few, scores_for(study), seed=1, resamples=100).filter(statistic="spearman")["note"].to_list()
    assert all("at least 4 needed" in note for note in notes)
    flat = scores_for(study).with_columns(marker_log_prob=pl.lit(-2.0))
    rows = continuous_rows(observed, flat, seed=1, resamples=100).filter(outcome="marker_log_prob")
    assert rows["estimate"].null_count() == rows.height
    assert all("constant" in note for note in rows["note"])


def test_no_other_row_changes_when_scores_are_there(study: SimulatedStudy) -> None:
    observed = {"panel": study.frames.observations(ANCHOR)}
    completions = completions_of(study.frames, observed["panel"])
    without = regressions(observed, PLAN, completions=completions)
    having = regressions(observed, PLAN, completions=completions, extras=Extras(scores=scores_for(study)))
    assert having[: without.height].equals(without)
    assert set(having[without.height :]["family"]) == {"continuous"}
    empty = regressions(observed, PLAN, completions=completions, extras=Extras(scores=scores_for(study)[:0]))
    assert empty.equals(without)
