from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from scipy import stats

from persona_assets.statistics.attenuation import SUBPANEL_SIZES, Conditions, absent_studies, attenuation, subpanel_rhos
from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.partial import partial_spearman
from persona_assets.statistics.tidy import StatisticsError, generator

Observe = Callable[..., StudyObservations]


def panels(observe: Observe) -> dict[str, StudyObservations]:
    """A large panel and a prefix of it, in which the effect is stronger."""
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (2, 40))
    rate = np.clip(0.5 - 0.2 * x[0] + 0.15 * random.standard_normal(40), 0, 1)
    rate[:12] = np.clip(0.5 - 0.3 * x[0, :12] + 0.03 * random.standard_normal(12), 0, 1)
    large = observe(x, rate)
    return {"n40": large, "n12": large.subset(np.arange(40) < 12)}


def measured(*names: str, override: str | None = None, **engines: str | None) -> Conditions:
    """Conditions of studies measured alike, or by the engines named."""
    tables = {
        name: pl.DataFrame(
            {"source": ["a", "b"], "seed": [42] * 2, "measurement": [1] * 2, "adapter_digest": [name, "b"]}
        ).with_columns(engine=pl.lit(engines.get(name, "transformers"), dtype=pl.String))
        for name in names
    }
    return Conditions(tables, override)


def test_subpanels_are_random_subsets() -> None:
    random = np.random.default_rng(1)
    x, y = random.standard_normal((2, 7))
    draws = subpanel_rhos(x, y, 5, 4000, seed=1)
    possible = [stats.spearmanr(np.delete(x, [i, j]), np.delete(y, [i, j])).statistic for i in range(7) for j in range(i + 1, 7)]
    assert set(np.round(draws, 9)) == set(np.round(possible, 9))
    assert draws.mean() == pytest.approx(np.mean(possible), abs=4 * np.std(possible) / np.sqrt(4000))
    assert (draws != subpanel_rhos(x, y, 5, 4000, seed=2)).any()
    whole = subpanel_rhos(x, y, 7, 10, seed=1)
    assert whole == pytest.approx(stats.spearmanr(x, y).statistic)
    for size in (3, 8):
        with pytest.raises(StatisticsError, match="Sub-panels of"):
            subpanel_rhos(x, y, size, 10, seed=1)


def test_rows_of_studies_ratio_and_subpanels(observe: Observe) -> None:
    studies = panels(observe)
    table = attenuation(studies, (0,), measured("n12", "n40"), seed=3, resamples=500, subpanels=3000)
    rhos = {name: stats.spearmanr(data.at(0), data.rate) for name, data in studies.items()}
    for name, data in studies.items():
        row = table.filter(statistic="abs_rho", outcome=f"source_rate:{name}").row(0, named=True)
        assert (row["estimate"], row["p"]) == (pytest.approx(abs(rhos[name].statistic)), pytest.approx(rhos[name].pvalue))
        assert row["low"] < row["estimate"] < row["high"]
        assert row["note"] == "rho negative"
        partial = table.filter(statistic="length_partial", outcome=f"source_rate:{name}")["estimate"].item()
        assert partial == pytest.approx(partial_spearman(data.at(0), data.rate, [data.log_length])[0])
    ratio = table.filter(statistic="ratio_abs_rho").row(0, named=True)
    assert ratio["outcome"] == "source_rate:n40/n12"
    assert ratio["estimate"] == pytest.approx(rhos["n40"].statistic / rhos["n12"].statistic)
    assert ratio["low"] < ratio["estimate"] < 1.0
    # The personas of the smaller panel are among those of the larger one, so a resample draws both at once.
    large, small = studies["n40"], studies["n12"]
    ratios = []
    for draw in generator("attenuation_ratio", 3).integers(0, 40, (500, 40)):
        few = draw[draw < 12]
        top = stats.spearmanr(large.at(0)[draw], large.rate[draw]).statistic
        ratios.append(abs(top / stats.spearmanr(small.at(0)[few], small.rate[few]).statistic))
    assert (ratio["low"], ratio["high"]) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])))
    sizes = table.filter(statistic="subpanel_abs_rho")
    assert sizes["n"].to_list() == [12, 24]
    twelve = sizes.row(0, named=True)
    draws = np.abs(subpanel_rhos(studies["n40"].at(0), studies["n40"].rate, 12, 3000, seed=3))
    assert twelve["estimate"] == pytest.approx(np.median(draws))
    assert twelve["p"] == pytest.approx((1 + (draws >= abs(rhos["n12"].statistic) - 1e-12).sum()) / 3001)
    # The strong prefix was planted, and the judgement against sub-panels says so.
    assert twelve["p"] < 0.05
    assert sizes.row(1, named=True)["p"] is None


def test_the_order_of_studies_does_not_matter(observe: Observe) -> None:
    studies = panels(observe)
    backwards = dict(reversed(studies.items()))
    alike = measured(*studies)
    one, other = (attenuation(data, (0, 1), alike, seed=3, resamples=100, subpanels=100) for data in (studies, backwards))
    assert one.equals(other)


def test_what_is_missing_is_said(observe: Observe, recwarn: pytest.WarningsRecorder) -> None:
    studies = panels(observe)
    table = attenuation(studies, (5,), measured(*studies), seed=1, resamples=100, subpanels=100)
    assert table["estimate"].null_count() == table.height
    assert table["note"].str.contains("layer 5 was not measured").all()
    alone = attenuation({"n12": studies["n12"]}, (0,), measured("n12"), seed=1, resamples=100, subpanels=100)
    notes = alone.filter(statistic="subpanel_abs_rho")["note"].to_list()
    assert all("no sub-panels of" in note for note in notes)
    strangers = observe(np.linspace(-1, 1, 8), np.linspace(0.9, 0.2, 8) ** 2, personas=tuple("abcdefgh"))
    row = attenuation({"other": strangers, **studies}, (0,), measured("other", *studies), seed=1, resamples=100, subpanels=100)
    ratio = row.filter(statistic="ratio_abs_rho", outcome="source_rate:n12/other").row(0, named=True)
    assert ratio["low"] is None
    assert "neither panel contains the other" in ratio["note"]
    with pytest.raises(StatisticsError, match="no study"):
        attenuation({}, (0,), measured(), seed=1)
    with pytest.raises(StatisticsError, match="no measurements of n40"):
        attenuation(studies, (0,), measured("n12"), seed=1, resamples=100, subpanels=100)
    assert not recwarn.list


@pytest.mark.parametrize("engines", [{"n12": "vllm"}, {"n12": None}, {"n12": None, "n40": None}])
def test_panels_measured_under_other_or_unknown_conditions_are_not_compared(
    observe: Observe, engines: dict[str, str | None]
) -> None:
    """A change of engine between two panels must not pass for a halving of the correlation."""
    studies = panels(observe)
    alike = attenuation(studies, (0,), measured(*studies), seed=3, resamples=100, subpanels=500)
    table = attenuation(studies, (0,), measured(*studies, **engines), seed=3, resamples=100, subpanels=500)
    kept = ["abs_rho", "length_partial"]
    assert table.filter(pl.col("statistic").is_in(kept)).equals(alike.filter(pl.col("statistic").is_in(kept)))
    ratio = table.filter(statistic="ratio_abs_rho").row(0, named=True)
    assert (ratio["estimate"], ratio["low"], ratio["high"]) == (None, None, None)
    assert ratio["note"].startswith("confounded: n12 and n40 differ in conditions of measurement")
    assert ratio["note"].endswith(": engine")
    [judged, plain] = table.filter(statistic="subpanel_abs_rho").to_dicts()
    [before, unjudged] = alike.filter(statistic="subpanel_abs_rho").to_dicts()
    assert (judged["p"], judged["estimate"], judged["low"]) == (None, before["estimate"], before["low"])
    assert "no p: confounded" in judged["note"]
    assert plain == unjudged

    overridden = measured(*studies, **engines, override="same weights, checked by hand")
    table = attenuation(studies, (0,), overridden, seed=3, resamples=100, subpanels=500)
    numbers = ["statistic", "estimate", "p", "low", "high"]
    assert table.select(numbers).equals(alike.select(numbers))
    compared = table.filter(pl.col("note").str.contains("engine differ or are not known, by explicit override: same weights"))
    assert compared["statistic"].to_list() == ["ratio_abs_rho", "subpanel_abs_rho"]


def test_intervals_that_resampling_cannot_give_are_said_to_be_missing(observe: Observe) -> None:
    one_apart = observe([0.1] * 29 + [0.9], np.linspace(0.2, 0.7, 30))
    small = one_apart.subset(np.arange(30) >= 24)
    table = attenuation({"n30": one_apart, "n6": small}, (0,), measured("n30", "n6"), seed=1, resamples=400, subpanels=100)
    for statistic in ("abs_rho", "ratio_abs_rho"):
        rows = table.filter(statistic=statistic)
        assert rows["estimate"].null_count() == 0
        assert rows["low"].null_count() == rows.height
        assert rows["note"].str.contains("no bootstrap interval").all()


def test_the_sizes_of_subpanels_are_those_of_the_earlier_panels() -> None:
    assert SUBPANEL_SIZES == (12, 24)


def test_ancestors_without_cosines_have_rows_that_say_so() -> None:
    rows = absent_studies(["earlier"], (15, 12))
    assert rows["estimate"].null_count() == rows.height == 4
    assert set(rows["outcome"]) == {"source_rate:earlier"}
    assert set(rows["note"]) == {"not estimable: imported without cosines or prompt lengths"}
    assert absent_studies([], (15,)).is_empty()
