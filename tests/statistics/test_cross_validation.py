from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import LeaveOneOut

from persona_assets.statistics.cross_validation import (
    FOLDS,
    REPEATS,
    cross_validation,
    fold_errors,
    fold_masks,
    leave_one_out_errors,
    nested_errors,
)
from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.ranks import bootstrap_weights
from persona_assets.statistics.simulation import ANCHOR, SimulatedStudy
from persona_assets.statistics.tidy import StatisticsError

Observe = Callable[..., StudyObservations]


def data(seed: int, n: int = 23, layers: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.standard_normal((layers, n))
    return x, 0.4 - 0.2 * x[2] + 0.2 * random.standard_normal(n)


def fitted(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    model = LinearRegression().fit(x[train][:, None], y[train])
    return (y[test] - model.predict(x[test][:, None])) ** 2


@given(st.integers(5, 40), st.integers(0, 999))
def test_folds_test_everyone_once_and_evenly(n: int, seed: int) -> None:
    masks = fold_masks(n, 5, 7, seed)
    assert (masks.sum(axis=1) == 1).all()
    sizes = masks.sum(axis=2)
    assert sizes.max() - sizes.min() <= 1
    assert (masks == fold_masks(n, 5, 7, seed)).all()


def test_folds_need_enough_observations() -> None:
    with pytest.raises(StatisticsError, match="4 observations cannot be cut into 5"):
        fold_masks(4, 5, 1, 1)


def test_fold_errors_equal_scikit_learn_in_a_loop() -> None:
    x, y = data(0)
    masks = fold_masks(23, 5, 6, 1)
    expected = np.zeros((4, 23))
    for layer in range(4):
        for repeat in masks:
            for test in repeat:
                expected[layer, test] += fitted(x[layer], y, ~test, test) / 6
    assert np.allclose(fold_errors(x, y, masks), expected, atol=1e-12)


def test_leave_one_out_equals_scikit_learn() -> None:
    x, y = data(1)
    for layer in range(4):
        expected = [float(fitted(x[layer], y, train, test)[0]) for train, test in LeaveOneOut().split(y)]
        assert np.allclose(leave_one_out_errors(x, y)[layer], expected, atol=1e-12)


def test_a_lone_point_of_leverage_is_predicted_by_the_mean() -> None:
    x, y = np.array([[0.0, 0, 0, 1]]), np.array([0.1, 0.2, 0.6, 0.9])
    errors = leave_one_out_errors(x, y)[0]
    assert errors[3] == pytest.approx((0.9 - 0.3) ** 2)
    assert errors[0] == pytest.approx((0.1 - 0.4) ** 2)


def test_nested_errors_equal_a_loop_that_chooses_the_layer_inside() -> None:
    x, y = data(2)
    masks = fold_masks(23, 5, 3, 1)
    squared, baseline, chosen = np.zeros(23), np.zeros(23), []
    for repeat in masks:
        for test in repeat:
            train = np.flatnonzero(~test)
            inner = [np.mean([fitted(row, y, np.delete(train, i), train[[i]])[0] for i in range(len(train))]) for row in x]
            best = int(np.argmin(inner))
            chosen.append(best)
            squared[test] += fitted(x[best], y, train, test) / 3
            baseline[test] += (y[test] - y[train].mean()) ** 2 / 3
    result = nested_errors(x, y, masks)
    assert result.chosen.tolist() == chosen
    assert np.allclose(result.squared, squared, atol=1e-12)
    assert np.allclose(result.baseline, baseline, atol=1e-12)


@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-50, 50))
def test_errors_ignore_scale_shift_and_sign_of_the_predictor(seed: int, scale: float, shift: float) -> None:
    x, y = data(seed, n=12, layers=3)
    masks = fold_masks(12, 5, 3, 1)
    for function in (leave_one_out_errors, lambda a, b: fold_errors(a, b, masks)):
        base = function(x, y)
        assert np.allclose(function(-scale * x + shift, y), base, atol=1e-7)
        assert np.allclose(function(x, -3 * y + 1), 9 * base, atol=1e-9)


def test_rows(study: SimulatedStudy) -> None:
    observations = study.frames.observations(ANCHOR)
    table = cross_validation(observations, seed=1, resamples=500)
    for kind in ("kfold", "loo"):
        rows = table.filter(statistic=f"{kind}_mse")
        assert rows.height == 6
        assert rows["registered"].all()
        assert (rows["low"] < rows["estimate"]).all()
        assert (rows["estimate"] < rows["high"]).all()
        best = table.filter(statistic=f"{kind}_argmin_layer").row(0, named=True)
        assert best["estimate"] == rows["estimate"].min() == rows.filter(layer=best["layer"])["estimate"].item()
    r2 = table.filter(statistic="nested_r2").row(0, named=True)
    assert not r2["registered"]
    assert 0.1 < r2["estimate"] < 1
    assert r2["low"] < r2["estimate"] < r2["high"]
    smallest = table.filter(statistic="kfold_mse")["estimate"].min()
    assert table.filter(statistic="nested_mse")["estimate"].item() >= smallest  # type: ignore[operator]


def test_the_registered_folds_and_repeats() -> None:
    assert (FOLDS, REPEATS) == (5, 50)


def test_intervals_resample_personas(study: SimulatedStudy) -> None:
    data = study.frames.observations(ANCHOR)
    table = cross_validation(data, seed=4, repeats=3, resamples=300)
    masks = fold_masks(24, FOLDS, 3, 4)
    draws = bootstrap_weights(24, 300, "cross_validation_bootstrap", 4) / 24
    errors = {"kfold_mse": fold_errors(data.cosine, data.rate, masks), "loo_mse": leave_one_out_errors(data.cosine, data.rate)}
    for statistic, found in errors.items():
        row = table.filter(statistic=statistic, layer=2).row(0, named=True)
        assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(draws @ found[2], [0.025, 0.975])))
    nested = nested_errors(data.cosine, data.rate, masks)
    ratios = 1 - (draws @ nested.squared) / (draws @ nested.baseline)
    row = table.filter(statistic="nested_r2").row(0, named=True)
    assert row["estimate"] == pytest.approx(1 - nested.squared.mean() / nested.baseline.mean())
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])))


def test_choosing_the_layer_outside_is_optimistic_under_the_null(observe: Observe) -> None:
    random = np.random.default_rng(0)
    gains, nested = [], []
    for seed in range(40):
        data = observe(random.uniform(-1, 1, (28, 24)), random.uniform(0.2, 0.6, 24))
        table = cross_validation(data, seed=seed, repeats=4, resamples=100)
        gains.append(1 - table.filter(statistic="loo_argmin_layer")["estimate"].item() / (data.rate.var(ddof=1) * 24 / 23))
        nested.append(table.filter(statistic="nested_r2")["estimate"].item())
    assert np.mean(gains) > 0.02
    assert np.mean(nested) < 0


def test_not_estimable(observe: Observe, recwarn: pytest.WarningsRecorder) -> None:
    few = cross_validation(observe(np.arange(9) / 9, np.arange(9) / 9), seed=1, resamples=100)
    flat = cross_validation(observe(np.arange(12) / 12, [0.3] * 12), seed=1, resamples=100)
    for table, word in ((few, "9 personas, at least 10"), (flat, "constant source rate")):
        assert table["estimate"].null_count() == table.height == 4
        assert table["note"].str.contains(word).all()
    one = cross_validation(observe([[0.2] * 12, np.arange(12) / 12], np.arange(12) / 12), seed=1, resamples=100)
    assert one.filter(pl.col("estimate").is_null()).select("layer", "note").rows() == [(0, "not estimable: constant cosine")]
    assert set(one.filter(statistic="kfold_mse")["layer"]) == {0, 1}
    assert not recwarn.list
