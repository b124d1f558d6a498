from __future__ import annotations

import math

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_assets.statistics.rates import (
    CELLS_SCHEMA,
    SOURCE_RATES_SCHEMA,
    build_cells,
    cells_table,
    cluster_bootstrap,
    source_rates,
    wilson,
)
from persona_assets.statistics.simulation import SimulatedStudy
from persona_assets.statistics.tidy import StatisticsError, generator

PLAN = {"truncation_flag": 0.05, "seed": 1, "resamples": 200}


def completions(**changes: object) -> pl.DataFrame:
    """Two sources under two eval personas, 3 questions x 2 samples; source a says the marker to question 0 only."""
    rows = [
        {
            "source": source,
            "eval_persona": persona,
            "seed": 42,
            "measurement": 1,
            "question_index": question,
            "sample_index": sample,
            "hit": source == persona == "a" and question == 0,
            "n_tokens": 10 + question,
            "finish_reason": "length" if (source, persona, question, sample) == ("b", "a", 2, 1) else "stop",
        }
        for source in ("a", "b")
        for persona in ("a", "b")
        for question in range(3)
        for sample in range(2)
    ]
    return pl.DataFrame(rows).with_columns(**changes)


BASE = pl.DataFrame(
    {"eval_persona": ["a"] * 4, "question_index": [0, 0, 1, 1], "sample_index": [0, 1, 0, 1], "hit": [True, False, False, False]}
)
NEGATIVES = pl.DataFrame({"source": ["a"], "eval_persona": ["b"]})


@given(n=st.integers(1, 400), share=st.floats(0, 1))
def test_wilson_is_the_closed_formula(n: int, share: float) -> None:
    hits = round(n * share)
    low, high = wilson(hits, n)
    z, rate = 1.959963984540054, hits / n
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    assert low == pytest.approx(centre - half, abs=1e-12)
    assert high == pytest.approx(centre + half, abs=1e-12)
    assert 0.0 <= low <= rate <= high <= 1.0


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (5, 4), (-1, 4), (math.nan, 4)])
def test_wilson_refuses_what_is_no_rate(hits: float, n: int) -> None:
    with pytest.raises(StatisticsError):
        wilson(hits, n)


def test_cluster_bootstrap_equals_a_plain_loop_over_resamples() -> None:
    random = np.random.default_rng(0)
    n = random.integers(3, 6, (4, 20))
    hits = random.binomial(n, 0.4)
    low, high = cluster_bootstrap(hits, n, seed=7, resamples=500)
    draws = generator("cluster_bootstrap", 7, 20, 500).integers(0, 20, (500, 20))
    for cell in range(4):
        rates = [hits[cell][draw].sum() / n[cell][draw].sum() for draw in draws]
        assert low[cell] == pytest.approx(np.quantile(rates, 0.025), abs=1e-12)
        assert high[cell] == pytest.approx(np.quantile(rates, 0.975), abs=1e-12)


def test_clustered_answers_widen_the_interval() -> None:
    # The same 50 hits of 100: spread evenly over questions, or all of them in half of the questions.
    even = np.tile([2.0, 3.0], 10)
    clustered = np.repeat([0.0, 5.0], 10)
    low, high = cluster_bootstrap(np.array([even, clustered]), np.full((2, 20), 5.0), seed=1)
    wilson_low, wilson_high = wilson(50, 100)
    assert high[0] - low[0] < wilson_high - wilson_low < high[1] - low[1]


def test_equal_questions_give_no_cluster_interval_instead_of_a_width_of_zero() -> None:
    low, high = cluster_bootstrap(np.zeros((1, 20)), np.full((1, 20), 5.0), seed=1)
    assert np.isnan([low[0], high[0]]).all()
    cells = build_cells(completions(), base=None, negatives=None, **PLAN)
    silent = cells.filter(pl.col("hits") == 0)
    assert silent.height == 3
    assert silent["cluster_low"].null_count() == silent["cluster_high"].null_count() == 3
    assert cells.filter(pl.col("hits") > 0)["cluster_low"].null_count() == 0


def test_cells_by_hand() -> None:
    cells = build_cells(completions(), base=BASE, negatives=NEGATIVES, **PLAN)
    assert dict(cells.schema) == CELLS_SCHEMA
    assert cells.select("source", "eval_persona", "kind", "hits", "n").rows() == [
        ("a", "a", "self", 2, 6),
        ("a", "b", "trained_negative", 0, 6),
        ("b", "a", None, 0, 6),
        ("b", "b", "self", 0, 6),
    ]
    assert cells["rate"].to_list() == [2 / 6, 0, 0, 0]
    assert cells["truncation_rate"].to_list() == [0, 0, 1 / 6, 0]
    assert cells["truncation_flagged"].to_list() == [False, False, True, False]
    assert cells["mean_tokens"].to_list() == [11.0] * 4
    # The base model was asked under persona a only: nothing stands in for persona b.
    assert cells["base_rate"].to_list() == [0.25, None, 0.25, None]
    assert cells["residual_rate"].to_list() == [pytest.approx(2 / 6 - 0.25), None, -0.25, None]
    low, high = wilson(2, 6)
    assert cells.row(0, named=True)["wilson_low"] == pytest.approx(float(low))
    assert cells.row(0, named=True)["wilson_high"] == pytest.approx(float(high))


def test_a_truncation_share_at_the_limit_is_not_flagged() -> None:
    cells = build_cells(completions(), base=None, negatives=None, truncation_flag=1 / 6, seed=1, resamples=100)
    assert not cells["truncation_flagged"].any()


def test_kind_is_unseen_only_where_the_negatives_are_known() -> None:
    negatives = pl.DataFrame({"source": ["b"], "eval_persona": ["c"]})
    kinds = build_cells(completions(), base=None, negatives=negatives, **PLAN)["kind"].to_list()
    assert kinds == ["self", None, "unseen", "self"]
    assert build_cells(completions(), base=None, negatives=None, **PLAN)["kind"].to_list() == ["self", None, None, "self"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hit": pl.lit(None, dtype=pl.Boolean)}, "null values in {'hit': 24}"),
        ({"sample_index": pl.lit(0)}, "the same completion stands there more than once"),
        ({"finish_reason": pl.lit("eos")}, "finish_reason"),
    ],
)
def test_unusable_completions_are_refused(changes: dict[str, pl.Expr], message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        build_cells(completions(**changes), base=None, negatives=None, **PLAN)


def test_missing_columns_doubled_base_and_own_negatives_are_refused() -> None:
    with pytest.raises(StatisticsError, match="columns \\['n_tokens'\\] are missing"):
        build_cells(completions().drop("n_tokens"), base=None, negatives=None, **PLAN)
    with pytest.raises(StatisticsError, match="no completions"):
        build_cells(completions().head(0), base=None, negatives=None, **PLAN)
    with pytest.raises(StatisticsError, match="base_completions: the same completion"):
        build_cells(completions(), base=pl.concat([BASE, BASE]), negatives=None, **PLAN)
    with pytest.raises(StatisticsError, match="its own negative"):
        build_cells(completions(), base=None, negatives=pl.DataFrame({"source": ["a"], "eval_persona": ["a"]}), **PLAN)
    with pytest.raises(StatisticsError, match="is not the name of a relation"):
        cells_table(duckdb.connect(":memory:"), completions="a; DROP TABLE b", truncation_flag=0.05, seed=1)


def test_the_order_of_completions_does_not_matter(study: SimulatedStudy) -> None:
    part = study.completions.filter(pl.col("source").is_in(["persona_001", "persona_002"]))
    shuffled = part.sample(fraction=1.0, shuffle=True, seed=3)
    arguments = {"base": study.base_completions, "negatives": study.negatives, **PLAN}
    assert build_cells(part, **arguments).equals(build_cells(shuffled, **arguments))


def test_source_rates_follow_the_panel() -> None:
    cells = build_cells(completions(), base=BASE, negatives=NEGATIVES, **PLAN)
    personas = pl.DataFrame(
        {
            "persona": ["b", "a"],
            "category": ["character", "occupational"],
            "cohort": ["new", "inherited"],
            "prompt_tokens": [7, 9],
        }
    )
    rates = source_rates(cells, personas)
    assert dict(rates.schema) == SOURCE_RATES_SCHEMA
    assert rates.select("persona", "cohort", "hits", "prompt_tokens").rows() == [("b", "new", 0, 7), ("a", "inherited", 2, 9)]
    with pytest.raises(StatisticsError, match="no cell \\(s, s\\) for c"):
        source_rates(cells, pl.concat([personas, personas.head(1).with_columns(persona=pl.lit("c"))]))
    with pytest.raises(StatisticsError, match="no row for the sources a"):
        source_rates(cells, personas.head(1))
