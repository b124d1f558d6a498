from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.seeds import seed_rows, variance_parts
from persona_assets.statistics.tidy import StatisticsError

Observe = Callable[..., StudyObservations]


def simulated(random: np.random.Generator, persona_sd: float, seed_sd: float, seeds: int = 3, personas: int = 4000) -> np.ndarray:
    chance = 0.5 + persona_sd * random.standard_normal(personas) + seed_sd * random.standard_normal((seeds, personas))
    return random.binomial(100, np.clip(chance, 0, 1)) / 100


@pytest.mark.parametrize(("persona_sd", "seed_sd"), [(0.1, 0.05), (0.1, 0.0), (0.0, 0.08)])
def test_planted_variances_come_back(persona_sd: float, seed_sd: float) -> None:
    parts = variance_parts(simulated(np.random.default_rng(1), persona_sd, seed_sd), np.full((3, 4000), 100))
    expected_sampling = (0.25 - persona_sd**2 - seed_sd**2) / 100
    assert parts.sampling == pytest.approx(expected_sampling, rel=0.03)
    assert parts.seed == pytest.approx(seed_sd**2, abs=0.0006)
    assert parts.persona == pytest.approx(persona_sd**2, abs=0.001)


def test_reliabilities_are_pingouins_intraclass_correlations() -> None:
    import pingouin

    rates = simulated(np.random.default_rng(2), 0.1, 0.06, seeds=4, personas=25)
    parts = variance_parts(rates, np.full((4, 25), 100))
    long = pd.DataFrame({"persona": np.tile(np.arange(25), 4), "seed": np.repeat(np.arange(4), 25), "rate": rates.ravel()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        icc = pingouin.intraclass_corr(long, targets="persona", raters="seed", ratings="rate")
    one_way = icc["ICC"].to_numpy()[[0, 3]]
    assert [parts.reliability_one, parts.reliability_mean] == pytest.approx(list(one_way), abs=1e-9)


def test_spearman_brown_links_the_two_reliabilities() -> None:
    parts = variance_parts(simulated(np.random.default_rng(3), 0.1, 0.05), np.full((3, 4000), 100))
    one = parts.reliability_one
    assert one is not None
    assert parts.reliability_mean == pytest.approx(3 * one / (1 + 2 * one))


@pytest.mark.parametrize(
    ("rates", "n"),
    [([[0.1, 0.2]], [[9, 9]]), ([[0.1], [0.2]], [[9], [9]]), ([[0.1, 0.2]] * 2, [[9, 1]] * 2), ([[0.1, 1.2]] * 2, [[9, 9]] * 2)],
)
def test_unusable_tables_are_refused(rates: list[list[float]], n: list[list[int]]) -> None:
    with pytest.raises(StatisticsError, match="variance_parts"):
        variance_parts(rates, n)


def test_rounding_is_no_variance() -> None:
    """The mean of three equal rates is not always that rate in floating point."""
    equal = variance_parts(np.full((3, 4), 0.1), np.full((3, 4), 100))
    assert (equal.seed, equal.persona, equal.reliability_one, equal.reliability_mean) == (0.0, 0.0, None, None)
    same_means = variance_parts([[0.1, 0.3], [0.2, 0.2], [0.3, 0.1]], np.full((3, 2), 100))
    assert np.ptp(np.mean([[0.1, 0.3], [0.2, 0.2], [0.3, 0.1]], axis=0)) > 0
    assert (same_means.persona, same_means.reliability_mean) == (0.0, None)


def test_sampling_variance_is_estimated_without_bias() -> None:
    rates = np.array([[0.2, 0.5], [0.4, 0.9]])
    parts = variance_parts(rates, np.full((2, 2), 5))
    assert parts.sampling == pytest.approx((0.16 + 0.25 + 0.24 + 0.09) / 4 / 4)


def test_rows_with_several_seeds(observe: Observe) -> None:
    random = np.random.default_rng(4)
    by_seed = simulated(random, 0.1, 0.05, personas=30)
    data = observe(-by_seed.mean(axis=0) + 0.05 * random.standard_normal(30), by_seed.mean(axis=0), rate_by_seed=by_seed)
    table = seed_rows(data, np.full((3, 30), 100), (0, 4))
    parts = variance_parts(by_seed, np.full((3, 30), 100))
    assert table.filter(statistic="variance_seed")["estimate"].item() == pytest.approx(parts.seed)
    rho = stats.spearmanr(data.at(0), data.rate).statistic
    corrected = table.filter(statistic="spearman_corrected", layer=0)["estimate"].item()
    assert corrected == pytest.approx(rho / np.sqrt(parts.reliability_mean))
    assert abs(corrected) > abs(rho)
    per_seed = [stats.spearmanr(data.at(0), rates).statistic for rates in by_seed]
    assert [table.filter(statistic=f"spearman_seed_{k}")["estimate"].item() for k in range(3)] == pytest.approx(per_seed)
    spread = table.filter(statistic="spearman_over_seeds", layer=0).row(0, named=True)
    interval = stats.ttest_1samp(np.arctanh(per_seed), 0).confidence_interval(0.95)
    assert (spread["low"], spread["high"]) == pytest.approx((np.tanh(interval.low), np.tanh(interval.high)))
    assert table.filter(layer=4)["note"].str.contains("layer 4 was not measured").all()
    assert not table["registered"].any()


def test_one_seed_says_what_is_missing(observe: Observe) -> None:
    table = seed_rows(observe(np.arange(6) / 7, np.arange(6) / 9), np.full((1, 6), 100), (0,))
    assert table["estimate"].null_count() == table.height == 7
    assert table["note"].str.contains("a second is needed").all()


def test_noise_alone_has_no_corrected_correlation(observe: Observe, recwarn: pytest.WarningsRecorder) -> None:
    by_seed = np.array([[0.4, 0.5, 0.6, 0.5, 0.4], [0.6, 0.5, 0.4, 0.5, 0.6]])
    table = seed_rows(observe(np.arange(5) / 5, [0.1, 0.2, 0.3, 0.2, 0.4], rate_by_seed=by_seed), np.full((2, 5), 100), (0,))
    row = table.filter(statistic="spearman_corrected").row(0, named=True)
    assert (row["estimate"], row["note"]) == (None, "not estimable: no reliable persona variance")
    assert table.filter(statistic="reliability_mean")["note"].item().endswith("the mean rates of all personas are equal")
    assert table.filter(statistic="reliability_one_seed")["estimate"].item() == pytest.approx(-1.0)
    equal = seed_rows(observe(np.arange(5) / 5, [0.5] * 5, rate_by_seed=[[0.5] * 5] * 2), np.full((2, 5), 100), (0,))
    assert equal.filter(statistic="reliability_one_seed")["note"].item() == "not estimable: all rates are equal"
    assert not recwarn.list
