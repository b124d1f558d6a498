from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from persona_assets.statistics.dependent_correlations import mrr_z
from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.probe import anchor_confusability, probe, probe_comparisons, probe_rows
from persona_assets.statistics.tidy import StatisticsError, generator


def states(separation: float, seed: int = 0, personas: int = 6, questions: int = 15) -> np.ndarray:
    """One layer of noise and one in which personas differ, under strong effects of the question."""
    random = np.random.default_rng(seed)
    own = random.standard_normal((personas, 1, 1, 12)) * np.array([0.0, separation])[:, None]
    asked = 3 * random.standard_normal((1, questions, 2, 12))
    return (own + asked + random.standard_normal((personas, questions, 2, 12))).astype(np.float32)


def test_a_readable_persona_is_read_and_noise_is_not() -> None:
    noise, signal = probe(states(12.0), seed=1)
    assert signal.accuracy > 0.9
    assert abs(noise.accuracy - 1 / 6) < 4 * np.sqrt(1 / 6 * 5 / 6 / 90)
    assert np.allclose(signal.confusion.sum(axis=1), 1.0)
    assert np.trace(signal.confusion) / 6 == pytest.approx(signal.accuracy)
    assert (signal.log_probability <= 0).all()


def test_a_held_out_question_is_new_to_everything() -> None:
    """The plain loop: scaler, components and classifier see the training questions only."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    array = states(1.0)[:, :, 1].astype(float)
    fold_of = generator("probe_folds", 7, 15, 5).permutation(np.arange(15) % 5)
    correct = 0
    for fold in range(5):
        train, test = array[:, fold_of != fold].reshape(-1, 12), array[:, fold_of == fold].reshape(-1, 12)
        scaler = StandardScaler().fit(train)
        reduce = PCA(n_components=12, whiten=True, svd_solver="full").fit(scaler.transform(train))
        model = LogisticRegression(max_iter=500).fit(reduce.transform(scaler.transform(train)), np.repeat(np.arange(6), 12))
        correct += int((model.predict(reduce.transform(scaler.transform(test))) == np.repeat(np.arange(6), 3)).sum())
    assert probe(states(1.0), seed=7)[1].accuracy == pytest.approx(correct / 90)


def test_a_twin_of_the_anchor_is_the_most_confusable() -> None:
    array = states(12.0)
    array[4] = array[0] + 0.3 * np.random.default_rng(1).standard_normal(array[4].shape)
    result = probe(array, seed=1)[1]
    confusable = anchor_confusability(result, 0)
    taken_for_it, it_taken_for = result.log_probability[:, 0], result.log_probability[0]
    assert confusable == pytest.approx((taken_for_it + it_taken_for) / 2)
    assert not np.allclose(taken_for_it, it_taken_for)
    assert int(np.argmax(confusable[1:])) + 1 == 4
    with pytest.raises(StatisticsError, match="outside the panel"):
        anchor_confusability(probe(array, seed=1)[1], 6)


def test_rows() -> None:
    results = probe(states(1.0), seed=1, layers=(10, 20))
    personas, rate = list("abcdef"), np.array([0.1, 0.5, 0.3, 0.2, 0.6, 0.4])
    table = probe_rows(results, personas, "b", rate, 15)
    accuracy = table.filter(statistic="accuracy", layer=20).row(0, named=True)
    assert (accuracy["estimate"], accuracy["n"]) == (results[1].accuracy, 90)
    assert accuracy["low"] < accuracy["estimate"] < accuracy["high"]
    row = table.filter(statistic="spearman", layer=20).row(0, named=True)
    others = np.array([0, 2, 3, 4, 5])
    expected = stats.spearmanr(anchor_confusability(results[1], 1)[others], rate[others]).statistic
    assert (row["estimate"], row["n"]) == (pytest.approx(expected), 5)
    with pytest.raises(StatisticsError, match="must fit together"):
        probe_rows(results, personas, "z", rate, 15)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4, 5)), "expected \\[personas, questions"),
        (np.zeros((1, 9, 2, 3)), "two personas"),
        (np.zeros((3, 4, 2, 3)), "4 questions in 5 folds"),
        (np.full((3, 9, 2, 3), np.nan), "not finite"),
    ],
)
def test_bad_states_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        probe(array, seed=1)


def test_confusability_is_compared_by_the_dependent_tests_without_the_anchor() -> None:
    results = probe(states(1.0, personas=8), seed=1, layers=(10, 20))
    random = np.random.default_rng(5)
    observed = StudyObservations(
        personas=tuple("abcdefgh"),
        categories=("occupational",) * 8,
        cohorts=("new",) * 8,
        anchor="b",
        layers=(10, 20),
        rate=random.random(8),
        cosine=random.uniform(-1, 1, (2, 8)),
        prompt_tokens=np.full(8, 6.0),
        seeds=(42,),
        rate_by_seed=random.random((1, 8)),
        within_excluded=np.zeros(8, dtype=bool),
    )
    surface = {"token_jaccard": random.random(8)}
    table = probe_comparisons(results, observed, surface, (20,))
    assert sorted(set(table["predictor"])) == ["anchor_confusability - token_jaccard", "cosine - anchor_confusability"]
    assert table["layer"].unique().to_list() == [20]
    assert not table["registered"].any()
    keep = np.arange(8) != 1
    confusable = anchor_confusability(results[1], 1)[keep]
    cosine, rate = observed.cosine[1][keep], observed.rate[keep]
    r = [float(stats.spearmanr(a, b).statistic) for a, b in ((cosine, rate), (confusable, rate), (cosine, confusable))]
    expected = mrr_z(*r, 7)
    row = table.filter(predictor="cosine - anchor_confusability", statistic="mrr_z").row(0, named=True)
    assert row["estimate"] == pytest.approx(expected.statistic)
    assert row["p"] == pytest.approx(expected.p)
    assert row["n"] == 7
