from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from persona_assets.statistics.leakage import LeakageMatrices
from persona_assets.statistics.mantel import CellOutcome, mantel, mantel_tests
from persona_assets.statistics.off_diagonal import off_diagonal
from persona_assets.statistics.simulation import ANCHOR, SimulatedStudy
from persona_assets.statistics.tidy import StatisticsError, generator


def symmetric(random: np.random.Generator, layers: int, n: int) -> np.ndarray:
    values = random.standard_normal((layers, n, n))
    return (values + values.transpose(0, 2, 1)) / 2


def loop_statistic(predictor: np.ndarray, outcome: np.ndarray, use: np.ndarray, order: np.ndarray) -> float:
    """One permutation as written down: the personas of the outcome, and its cells, change places."""
    n = len(outcome)
    off = ~np.eye(n, dtype=bool)
    ranks = np.zeros((n, n))
    ranks[off] = stats.rankdata(predictor[off])
    cells = use[np.ix_(order, order)] & off
    moved = outcome[np.ix_(order, order)]
    return float(np.corrcoef(stats.rankdata(moved[cells]), ranks[cells])[0, 1])


# With four personas many permutations give the observed correlation again: equals count as extreme.
@pytest.mark.parametrize(("n", "subset"), [(8, False), (8, True), (4, False)])
def test_mantel_equals_a_loop_over_the_same_permutations(n: int, subset: bool) -> None:
    random, count = np.random.default_rng(0), 300
    predictor = symmetric(random, 3, n)
    predictor[2] = np.round(predictor[2])
    outcome = random.binomial(5, 0.3, (n, n)) / 5
    use = random.random((n, n)) < 0.6 if subset else np.ones((n, n), dtype=bool)
    result = mantel(predictor, outcome, use=use if subset else None, seed=4, count=count)
    orders = generator("mantel", 4, n).permuted(np.tile(np.arange(n), (count, 1)), axis=1)
    for layer in range(3):
        observed = loop_statistic(predictor[layer], outcome, use, np.arange(n))
        drawn = [abs(loop_statistic(predictor[layer], outcome, use, order)) for order in orders]
        assert result.statistic[layer] == pytest.approx(observed, abs=1e-10)
        assert result.p[layer] == (1 + sum(value >= abs(observed) - 1e-10 for value in drawn)) / (1 + count)


def test_the_statistic_over_all_cells_is_spearmans_rho() -> None:
    random = np.random.default_rng(1)
    predictor, outcome = symmetric(random, 2, 9), np.round(random.random((9, 9)), 1)
    off = ~np.eye(9, dtype=bool)
    expected = [stats.spearmanr(layer[off], outcome[off]).statistic for layer in predictor]
    assert np.allclose(mantel(predictor, outcome, seed=1, count=99).statistic, expected, atol=1e-10)


def test_sampled_p_approaches_the_exhaustive_one() -> None:
    random = np.random.default_rng(2)
    predictor = symmetric(random, 1, 6)
    outcome = predictor[0] + 1.2 * random.standard_normal((6, 6))
    use = np.ones((6, 6), dtype=bool)
    observed = abs(loop_statistic(predictor[0], outcome, use, np.arange(6)))
    every = [abs(loop_statistic(predictor[0], outcome, use, np.array(order))) for order in itertools.permutations(range(6))]
    exact = np.mean(np.array(every) >= observed - 1e-9)
    assert mantel(predictor, outcome, seed=1, count=9999).p[0] == pytest.approx(exact, abs=4 * np.sqrt(exact / 9999) + 2e-4)


@given(st.integers(0, 10**6))
def test_mantel_invariances(seed: int) -> None:
    random = np.random.default_rng(seed)
    predictor, outcome = symmetric(random, 1, 7), random.random((7, 7))
    base = mantel(predictor, outcome, seed=1, count=99)
    assert (np.abs(base.statistic) <= 1.0).all()
    assert ((base.p > 0) & (base.p <= 1)).all()
    monotone = mantel(np.exp(predictor), outcome**3, seed=1, count=99)
    assert np.allclose(monotone.statistic, base.statistic)
    assert (monotone.p == base.p).all()
    flipped = mantel(-predictor, outcome, seed=1, count=99)
    assert np.allclose(flipped.statistic, -base.statistic)
    order = random.permutation(7)
    moved = mantel(predictor[:, order][:, :, order], outcome[np.ix_(order, order)], seed=1, count=99)
    assert np.allclose(moved.statistic, base.statistic)


def test_mantel_refuses_or_explains() -> None:
    predictor, outcome = symmetric(np.random.default_rng(3), 1, 5), np.random.default_rng(4).random((5, 5))
    with pytest.raises(StatisticsError, match="not symmetric"):
        mantel(predictor + np.triu(np.ones((5, 5))), outcome, seed=1, count=9)
    with pytest.raises(StatisticsError, match=r"must be \[5, 5\]"):
        mantel(predictor, outcome[:4], seed=1, count=9)
    with pytest.raises(StatisticsError, match="outcome: 20 of 20 values"):
        mantel(predictor, outcome * np.nan, seed=1, count=9)
    flat, few = mantel_tests(predictor, [CellOutcome(outcome * 0), CellOutcome(outcome, outcome > 0.95)], seed=1, count=9)
    assert flat.reason == "not estimable: constant outcome"
    assert "at least 6 needed" in (few.reason or "")
    assert np.isnan(flat.p).all()
    constant = mantel(predictor * 0, outcome, seed=1, count=9)
    assert np.isnan(constant.p).all()


@pytest.fixture(scope="module")
def matrices(study: SimulatedStudy) -> LeakageMatrices:
    frames = study.frames
    assert frames.cells is not None
    assert frames.pairwise_cosines is not None
    ids = frames.personas["persona"].to_list()
    return LeakageMatrices.from_frames(frames.cells, frames.pairwise_cosines, personas=ids, anchor=ANCHOR)


def test_matrices_hold_the_tables(matrices: LeakageMatrices, study: SimulatedStudy) -> None:
    cells, pairs = study.frames.cells, study.frames.pairwise_cosines
    assert cells is not None
    assert pairs is not None
    a, b = matrices.personas[3], matrices.personas[7]
    cell = cells.filter(source=a, eval_persona=b).row(0, named=True)
    assert matrices.rate[3, 7] == cell["rate"]
    assert matrices.residual[3, 7] == pytest.approx(cell["residual_rate"])
    assert matrices.cosine[2, 3, 7] == pairs.filter(layer=2, persona_a=a, persona_b=b)["cosine"].item()
    assert matrices.trained_negative.sum() == study.negatives.height
    assert matrices.measured.sum() == 24 * 23
    with pytest.raises(StatisticsError, match="choose one measurement"):
        LeakageMatrices.from_frames(pl.concat([cells, cells.head(1)]), pairs, personas=matrices.personas, anchor=ANCHOR)
    with pytest.raises(StatisticsError, match="expected each ordered pair"):
        LeakageMatrices.from_frames(cells, pairs.tail(-1), personas=matrices.personas, anchor=ANCHOR)


def test_rows_over_every_choice_of_cells(matrices: LeakageMatrices) -> None:
    table = off_diagonal(matrices, seed=1, permutations=199)
    off = matrices.measured
    strong = np.diag(matrices.rate) > 0.30
    choices = {
        "all": off,
        "strong": off & strong[:, None],
        "weak": off & ~strong[:, None],
        "without_trained_negatives": off & ~matrices.trained_negative,
        "off_floor": off & (matrices.rate > 0),
    }
    for name, use in choices.items():
        for layer in matrices.layers:
            rows = table.filter(outcome=f"bystander_rate:{name}", layer=layer)
            mantel_row = rows.filter(statistic="spearman").row(0, named=True)
            naive = rows.filter(statistic="spearman_naive").row(0, named=True)
            if use.sum() < 6:
                assert "not estimable" in mantel_row["note"]
                continue
            expected = stats.spearmanr(matrices.cosine[layer][use], matrices.rate[use])
            assert mantel_row["estimate"] == naive["estimate"] == pytest.approx(expected.statistic)
            assert naive["p"] == pytest.approx(expected.pvalue)
            assert mantel_row["n"] == use.sum()
            assert mantel_row["p"] * 200 == pytest.approx(round(mantel_row["p"] * 200))
    assert not table.filter(statistic="spearman", predictor="pairwise_cosine")["registered"].any()
    registered = set(table.filter("registered")["outcome"])
    assert registered == {f"bystander_rate:{part}" for part in ("all", "strong", "weak")}
    without = table.filter(outcome="bystander_rate:without_anchor", statistic="spearman", layer=0).row(0, named=True)
    assert without["n"] == 23 * 22


def test_a_source_at_the_limit_is_a_weak_emitter(matrices: LeakageMatrices) -> None:
    rate = matrices.rate.copy()
    np.fill_diagonal(rate, [0.30, 0.31, *[0.1] * 22])
    table = off_diagonal(replace(matrices, rate=rate), seed=1, permutations=9)
    counts = {name: table.filter(outcome=f"bystander_rate:{name}", layer=0)["n"].unique().item() for name in ("strong", "weak")}
    assert counts == {"strong": 23, "weak": 23 * 23}


def test_rates_are_means_over_training_seeds() -> None:
    cells, pairs = (
        pl.DataFrame(
            {
                "source": ["a", "a", "a", "a", "b"],
                "eval_persona": ["b", "b", "a", "a", "a"],
                "seed": [1, 2, 1, 2, 1],
                "kind": ["unseen", "unseen", "self", "self", "trained_negative"],
                "rate": [0.1, 0.3, 0.5, 0.8, 0.2],
                "residual_rate": [0.0, 0.2, 0.4, 0.7, 0.1],
                "base_rate": [0.1] * 5,
                "mean_tokens": [10.0, 20.0, 30.0, 30.0, 5.0],
            }
        ),
        pl.DataFrame(
            {"layer": [0] * 4, "persona_a": list("aabb"), "persona_b": list("abab"), "cosine": [1.0, 0.5, 0.5, 1.0]}
        ).with_columns(centring=pl.lit("panel")),
    )
    found = LeakageMatrices.from_frames(cells, pairs, personas=["a", "b"], anchor="a")
    assert found.rate[0].tolist() == pytest.approx([0.65, 0.2])
    assert (found.residual[0, 1], found.mean_tokens[0, 1], found.rate[1, 0]) == pytest.approx((0.1, 15.0, 0.2))
    assert np.isnan(found.rate[1, 1])
    assert found.trained_negative.tolist() == [[False, False], [True, False]]


def test_a_planted_leak_is_found_and_the_anchor_is_not_the_reason(matrices: LeakageMatrices) -> None:
    table = off_diagonal(matrices, seed=1, permutations=999).filter(statistic="spearman", layer=3)
    for name in ("all", "without_anchor", "without_trained_negatives"):
        row = table.filter(outcome=f"bystander_rate:{name}").row(0, named=True)
        assert row["estimate"] > 0.3
        assert row["p"] == 0.001


def test_post_mortem_candidates_are_tested_where_the_data_exist(matrices: LeakageMatrices) -> None:
    loss = {persona: float(i % 5) for i, persona in enumerate(matrices.personas)}
    table = off_diagonal(matrices, seed=1, permutations=99, capability_loss=loss)
    share = table.filter(statistic="floor_share")["estimate"].item()
    assert share == pytest.approx((matrices.rate[matrices.measured] == 0).mean())
    capability = table.filter(predictor="capability_loss", outcome="mean_bystander_rate_of_source").row(0, named=True)
    means = np.array([matrices.rate[i][matrices.measured[i]].mean() for i in range(24)]).round(12)
    assert capability["estimate"] == pytest.approx(stats.spearmanr(list(loss.values()), means).statistic)
    residual = table.filter(outcome="bystander_residual:all", statistic="spearman", layer=3).row(0, named=True)
    off = matrices.measured
    assert residual["estimate"] == pytest.approx(stats.spearmanr(matrices.cosine[3][off], matrices.residual[off]).statistic)
    base = table.filter(predictor="base_rate").row(0, named=True)
    columns = np.array([matrices.rate[:, i][matrices.measured[:, i]].mean() for i in range(24)]).round(12)
    assert base["estimate"] == pytest.approx(stats.spearmanr(matrices.base_rate, columns).statistic)
    length = table.filter(predictor="completion_length").row(0, named=True)
    tokens = np.array([matrices.mean_tokens[i][matrices.measured[i]].mean() for i in range(24)]).round(12)
    assert length["estimate"] == pytest.approx(stats.spearmanr(tokens, means).statistic)
    floor = table.filter(outcome="off_floor", statistic="spearman", layer=3).row(0, named=True)
    assert floor["estimate"] == pytest.approx(stats.spearmanr(matrices.cosine[3][off], matrices.rate[off] > 0).statistic)
    with pytest.raises(StatisticsError, match="nobody"):
        off_diagonal(matrices, seed=1, permutations=9, capability_loss={"nobody": 1.0})


def test_what_was_not_measured_is_said(matrices: LeakageMatrices, recwarn: pytest.WarningsRecorder) -> None:
    nothing = np.full((24, 24), np.nan)
    rate = matrices.rate.copy()
    rate[2, 5] = rate[4, 4] = np.nan
    poorer = replace(matrices, rate=rate, residual=nothing, base_rate=nothing[0], kind_known=np.zeros((24, 24), bool))
    table = off_diagonal(poorer, seed=1, permutations=99)
    notes = {
        "bystander_residual:all": "the base model was not evaluated",
        "bystander_rate:without_trained_negatives": "trained negatives of some sources are not recorded",
    }
    for outcome, note in notes.items():
        rows = table.filter(outcome=outcome)
        assert rows["estimate"].null_count() == rows.height > 0
        assert rows["note"].str.contains(note).all()
    assert table.filter(predictor="capability_loss")["note"].item().startswith("not estimable: no capability")
    assert table.filter(outcome="bystander_rate:all", statistic="spearman")["n"].unique().to_list() == [24 * 23 - 1]
    assert table.filter(outcome="bystander_rate:strong")["note"].str.contains("1 sources without a source rate").all()
    assert not recwarn.list
