from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from persona_assets.statistics.baselines import baseline_rows, jaccard, levenshtein, surface_predictors
from persona_assets.statistics.dependent_correlations import mrr_z, steiger_z, williams_t2
from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.simulation import ANCHOR, SimulatedStudy
from persona_assets.statistics.tidy import StatisticsError

Observe = Callable[..., StudyObservations]
TESTS = (mrr_z, steiger_z, williams_t2)
words = st.text(alphabet="abcé ", max_size=9)


@pytest.mark.parametrize(("test", "value"), [(mrr_z, 4.8850), (steiger_z, 4.9691), (williams_t2, 5.4264)])
def test_known_values(test: Callable[..., object], value: float) -> None:
    assert test(0.7, 0.3, 0.5, 100).statistic == pytest.approx(value, abs=5e-5)  # type: ignore[attr-defined]


def test_mrr_limits_its_factor_to_one() -> None:
    """Predictors that oppose each other: the factor f would be above 1; at 1, h is 1."""
    r1, r2, rx, n = 0.6, -0.6, -0.7, 40
    assert (1 - rx) / (2 * (1 - (r1**2 + r2**2) / 2)) > 1
    expected = (np.arctanh(r1) - np.arctanh(r2)) * np.sqrt((n - 3) / (2 * (1 - rx)))
    assert mrr_z(r1, r2, rx, n).statistic == pytest.approx(expected)


def test_p_values_of_the_dependent_tests() -> None:
    """Two-sided; Williams' T2 on n - 3 degrees of freedom, which matters with few personas."""
    for test in (mrr_z, steiger_z):
        found = test(0.7, 0.3, 0.5, 10)
        assert found.p == pytest.approx(2 * stats.norm.sf(found.statistic))
    williams = williams_t2(0.7, 0.3, 0.5, 10)
    assert williams.p == pytest.approx(2 * stats.t.sf(williams.statistic, 7))


@pytest.mark.parametrize("test", TESTS)
@given(r1=st.floats(-0.9, 0.9), r2=st.floats(-0.9, 0.9), rx=st.floats(-0.9, 0.9), n=st.integers(4, 300))
def test_dependent_tests_are_odd_and_zero_for_equals(
    test: Callable[..., object], r1: float, r2: float, rx: float, n: int
) -> None:
    assume(1 - r1**2 - r2**2 - rx**2 + 2 * r1 * r2 * rx > 1e-3)
    one, other = test(r1, r2, rx, n), test(r2, r1, rx, n)
    assert one.statistic == pytest.approx(-other.statistic)  # type: ignore[attr-defined]
    assert one.p == pytest.approx(other.p)  # type: ignore[attr-defined]
    assert 0.0 <= one.p <= 1.0  # type: ignore[attr-defined]
    assert (one.statistic > 0) == (r1 > r2) or r1 == r2  # type: ignore[attr-defined]
    if 1 - 2 * r1**2 - rx**2 + 2 * r1**2 * rx > 1e-3:
        assert test(r1, r1, rx, n).statistic == 0.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("test", TESTS)
def test_dependent_tests_hold_their_level(test: Callable[..., object]) -> None:
    random = np.random.default_rng(0)
    cov = np.array([[1, 0.5, 0.4], [0.5, 1, 0.4], [0.4, 0.4, 1]])
    p_values = []
    for _ in range(1500):
        r = np.corrcoef(random.multivariate_normal(np.zeros(3), cov, size=60).T)
        p_values.append(test(r[0, 2], r[1, 2], r[0, 1], 60).p)  # type: ignore[attr-defined]
    rate = float(np.mean(np.array(p_values) < 0.05))
    assert abs(rate - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 1500)


@pytest.mark.parametrize("test", TESTS)
def test_dependent_tests_refuse_or_explain(test: Callable[..., object]) -> None:
    with pytest.raises(StatisticsError, match="not a correlation"):
        test(1.2, 0.1, 0.1, 50)
    with pytest.raises(StatisticsError, match="No data have"):
        test(0.9, -0.9, 0.9, 50)
    for arguments in ((0.5, 0.5, 1.0, 50), (1.0, 0.5, 0.5, 50), (0.5, 0.4, 0.1, 3)):
        result = test(*arguments)
        assert (result.statistic, result.p) == (None, None)  # type: ignore[attr-defined]
        assert result.reason.startswith("not estimable")  # type: ignore[attr-defined]


@given(words, words)
def test_levenshtein_is_the_recursive_definition(a: str, b: str) -> None:
    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    assert levenshtein(a, b) == distance(len(a), len(b)) == levenshtein(b, a)


def test_surface_predictors_by_hand() -> None:
    prompts = ["You are a helpful assistant.", "You are a librarian.", "you ARE kind"]
    values = surface_predictors(prompts, prompts[0], [[1, 2, 3], [1, 2, 9], [7]])
    assert values["neg_levenshtein"][0] == 0
    assert values["neg_levenshtein"][1] == -levenshtein(prompts[0], prompts[1]) < 0
    assert values["token_jaccard"].tolist() == [1.0, 3 / 6, 2 / 6]
    assert values["bpe_jaccard"].tolist() == [1.0, 2 / 4, 0.0]
    assert "bpe_jaccard" not in surface_predictors(prompts, prompts[0])
    with pytest.raises(StatisticsError, match="not among the prompts"):
        surface_predictors(prompts, "other", [[1], [2], [3]])
    with pytest.raises(StatisticsError, match="3 prompts need"):
        surface_predictors(prompts, prompts[0], [[1]])
    with pytest.raises(StatisticsError, match="both texts are empty"):
        jaccard([], [])


def test_rows_hold_all_tests_at_each_layer(study: SimulatedStudy) -> None:
    observations = study.frames.observations(ANCHOR)
    assert observations.prompts is not None
    tokens = [sorted({ord(c) for c in prompt}) for prompt in observations.prompts]
    predictors = surface_predictors(observations.prompts, observations.prompts[0], tokens)
    table = baseline_rows(observations, predictors, (3, 2))
    main = table.filter(statistic="mrr_z")
    assert main.height == 6
    assert main["registered"].all()
    assert not table.filter(statistic="williams_t2")["registered"].any()
    row = table.filter(statistic="williams_t2", layer=2, predictor="cosine - token_jaccard").row(0, named=True)
    x, y, z = observations.at(2), observations.rate, predictors["token_jaccard"]
    r1, r2, rx = (float(stats.spearmanr(a, b).statistic) for a, b in ((x, y), (z, y), (x, z)))
    expected = williams_t2(r1, r2, rx, 24)
    assert (row["estimate"], row["p"]) == (pytest.approx(expected.statistic), pytest.approx(expected.p))
    pearson_row = table.filter(statistic="mrr_z_pearson", layer=2, predictor="cosine - token_jaccard")
    assert pearson_row["estimate"].item() != pytest.approx(
        main.filter(layer=2, predictor="cosine - token_jaccard")["estimate"].item()
    )
    corrected = multipletests(main["p"].to_numpy(), method="holm")[1]
    assert table.filter(statistic="mrr_z_holm")["p"].to_list() == pytest.approx(list(corrected))
    assert (corrected > main["p"].to_numpy()).any()


def test_rows_that_cannot_be_tested_say_why(observe: Observe, recwarn: pytest.WarningsRecorder) -> None:
    cosine = np.array([0.1, 0.5, 0.3, 0.9, 0.2])
    data = observe(cosine, [0.3, 0.2, 0.5, 0.1, 0.4])
    table = baseline_rows(data, {"same": cosine * 2, "flat": np.ones(5)}, (0, 9))
    notes = {(row["layer"], row["predictor"]): row["note"] for row in table.filter(statistic="mrr_z").to_dicts()}
    assert "same way" in notes[0, "cosine - same"]
    assert "constant" in notes[0, "cosine - flat"]
    assert "layer 9 was not measured" in notes[9, "cosine - same"]
    assert table.filter(statistic="mrr_z")["estimate"].null_count() == 4
    assert not recwarn.list
