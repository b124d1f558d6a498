from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from persona_assets.statistics.drift import DriftResult, inherited_drift, two_proportion_p
from persona_assets.statistics.drift_tests import DRIFT_TESTS_SCHEMA, deciding_test, drift_tests, sign_test, wilcoxon_p
from persona_assets.statistics.tidy import StatisticsError


def deltas(drops: int, n: int, ties: int = 0) -> np.ndarray:
    size = np.random.default_rng(1).uniform(0.01, 0.2, n)
    sign = np.ones(n)
    sign[:drops] = -1
    if ties:
        sign[-ties:] = 0
    return size * sign


@pytest.mark.parametrize(("drops", "n", "p"), [(18, 24, 0.0113), (20, 24, 0.000772), (9, 24, 0.924), (12, 12, 0.000244)])
def test_registered_sign_test(drops: int, n: int, p: float) -> None:
    assert sign_test(deltas(drops, n)) == (drops, n, pytest.approx(p, rel=3e-3))


def test_sensitivity_figures_of_the_sign_test() -> None:
    assert sign_test(deltas(12, 12), two_sided=True)[2] == pytest.approx(0.000488, abs=5e-7)
    tied = deltas(9, 24, ties=1)
    assert sign_test(tied)[:2] == (9, 24)
    assert sign_test(tied, drop_ties=True) == (9, 23, pytest.approx(0.895, abs=5e-4))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40))
def test_sign_test_is_the_binomial_tail(values: list[int]) -> None:
    d = np.array(values) / 100
    drops, n = int((d < 0).sum()), len(d)
    tail = sum(comb(n, k) for k in range(drops, n + 1)) / 2**n
    assert sign_test(d) == (drops, n, pytest.approx(tail))
    moved = int((d != 0).sum())
    if not moved:
        with pytest.raises(StatisticsError, match="no delta"):
            sign_test(d, drop_ties=True)
        return
    two = sum(comb(moved, k) for k in range(max(drops, moved - drops), moved + 1)) / 2 ** (moved - 1)
    assert sign_test(d, drop_ties=True, two_sided=True)[2] == pytest.approx(min(1.0, two))


@pytest.mark.parametrize(
    ("drops", "triggered", "matches"), [(17, "no_drift", "no_drift"), (18, "drift", "no_drift"), (20, "drift", "drift")]
)
def test_trigger_and_match_shares(drops: int, triggered: str, matches: str) -> None:
    table = drift_tests(deltas(drops, 24), seed=1, resamples=200)
    assert dict(table.schema) == DRIFT_TESTS_SCHEMA
    verdicts = dict(table.filter("registered").select("statistic", "verdict").iter_rows())
    assert verdicts == {"sign_drops": triggered, "match_previous": matches}
    assert table.filter(statistic="sign_drops")["estimate"].item() == pytest.approx(drops / 24)


def test_only_the_sign_test_decides_whatever_share_a_match_needs() -> None:
    """A plan may call few drops a match with the earlier episode: that must not fire the trigger."""
    table = drift_tests(deltas(12, 24), seed=1, low_share=0.9, match_share=0.5, resamples=200)
    assert table.filter(statistic="match_previous")["verdict"].item() == "drift"
    assert (deciding_test(table)["statistic"], deciding_test(table)["verdict"]) == ("sign_drops", "no_drift")


@pytest.mark.parametrize(("drops", "statistic"), [(75, "sign_drops"), (83, "match_previous")])
def test_a_share_at_its_limit_counts(drops: int, statistic: str) -> None:
    for number, verdict in ((drops, "drift"), (drops - 1, "no_drift")):
        table = drift_tests(deltas(number, 100), seed=1, resamples=100)
        assert table.filter(statistic=statistic)["verdict"].item() == verdict


def test_wilcoxon_is_exact_with_and_without_ties() -> None:
    plain = deltas(4, 11)
    p = drift_tests(plain, seed=1, resamples=100).filter(statistic="wilcoxon")["p"].item()
    assert p == pytest.approx(stats.wilcoxon(plain, method="exact").pvalue)
    tied = np.array([-0.1, -0.1, 0.1, -0.2, 0.3, -0.3, -0.3, 0.0])
    moved = tied[tied != 0]
    ranks = stats.rankdata(np.abs(moved))
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(moved))).reshape(len(moved), -1).T
    null = (signs * ranks).sum(axis=1)
    exact = (np.abs(null) >= abs((np.sign(moved) * ranks).sum()) - 1e-9).mean()
    row = drift_tests(tied, seed=1, resamples=100).filter(statistic="wilcoxon").row(0, named=True)
    assert (row["p"], row["n"]) == (pytest.approx(exact), 7)
    many = np.round(np.random.default_rng(2).normal(-0.02, 0.1, 40), 2)
    flips = stats.PermutationMethod(n_resamples=9999, rng=np.random.default_rng(0))
    sampled = stats.wilcoxon(many[many != 0], method=flips).pvalue
    assert wilcoxon_p(many) == ((many != 0).sum(), pytest.approx(sampled, abs=4 * np.sqrt(sampled / 9999)))
    with pytest.raises(StatisticsError, match="every delta is a tie"):
        wilcoxon_p(np.zeros(3))


def test_mean_delta_has_a_bootstrap_interval() -> None:
    d = np.random.default_rng(3).normal(-0.1, 0.05, 30)
    row = drift_tests(d, seed=1, resamples=4000).filter(statistic="mean_delta").row(0, named=True)
    expected = stats.bootstrap((d,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(0))
    assert row["estimate"] == pytest.approx(d.mean())
    assert row["low"] == pytest.approx(expected.confidence_interval.low, abs=0.003)
    assert row["high"] == pytest.approx(expected.confidence_interval.high, abs=0.003)
    assert row["verdict"] == "drift"


def test_only_ties_are_neither_drift_nor_an_error() -> None:
    table = drift_tests(np.zeros(5), seed=1, resamples=100)
    assert table.filter("registered")["verdict"].to_list() == ["no_drift", "no_drift"]
    assert set(table.filter(~pl.col("registered"))["verdict"]) == {"not_tested"}


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_two_proportions_is_the_pooled_z_test(n_a: int, n_b: int, data: st.DataObject) -> None:
    a, b = data.draw(st.integers(0, n_a)), data.draw(st.integers(0, n_b))
    pooled = (a + b) / (n_a + n_b)
    p = two_proportion_p(a, n_a, b, n_b)
    if pooled in (0, 1):
        assert p == 1.0
        return
    z = (a / n_a - b / n_b) / np.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    assert p == pytest.approx(2 * stats.norm.sf(abs(z)))
    assert p == pytest.approx(two_proportion_p(b, n_b, a, n_a))


def rates(values: dict[str, float], seed: int = 42, measurement: int = 1) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"persona": persona, "seed": seed, "measurement": measurement, "hits": round(100 * rate), "n": 100, "rate": rate}
            for persona, rate in values.items()
        ]
    )


def measurements(table: pl.DataFrame, adapters: dict[str, str | None] | None = None, **conditions: object) -> pl.DataFrame:
    columns = {"engine": "transformers", "engine_version": "5", "temperature": 1.0, **conditions}
    return table.select("seed", "measurement", source="persona").with_columns(
        adapter_digest=pl.Series([(adapters or {}).get(persona, persona) for persona in table["persona"]], dtype=pl.String),
        **{name: pl.lit(value) for name, value in columns.items()},
    )


PARENT = rates({f"p{i}": 0.6 for i in range(8)})
DROPPED = rates({**{f"p{i}": 0.4 for i in range(7)}, "p7": 0.65, "new": 0.9})
Compare = Callable[..., DriftResult]


def compare(now: pl.DataFrame = DROPPED, *, mine: pl.DataFrame | None = None, theirs: pl.DataFrame | None = None) -> DriftResult:
    mine = measurements(now) if mine is None else mine
    theirs = measurements(PARENT) if theirs is None else theirs
    return inherited_drift(now, PARENT, mine, theirs, seed=1, resamples=200)


def test_drift_of_unchanged_adapters_under_one_identity() -> None:
    result = compare()
    assert (result.verdict, result.triggered, result.confounded) == ("drift", True, False)
    assert result.inherited_drift["persona"].to_list() == [f"p{i}" for i in range(8)]
    assert result.inherited_drift["delta"].to_list() == pytest.approx([-0.2] * 7 + [0.05])
    assert result.inherited_drift["same_adapter"].all()
    assert result.inherited_drift["p_two_proportion"][0] == pytest.approx(two_proportion_p(60, 100, 40, 100))


@pytest.mark.parametrize("change", [{"engine": "vllm"}, {"temperature": 0.7}, {"engine_version": None}])
def test_different_or_unknown_identity_is_confounded(change: dict[str, object]) -> None:
    result = compare(mine=measurements(DROPPED, **change))
    assert (result.verdict, result.confounded, result.triggered) == ("confounded", True, None)
    assert set(result.drift_tests["verdict"]) == {"confounded"}
    [column] = change
    assert result.inherited_drift["note"].str.contains(f"different measurement identity: {column}").all()


def test_no_drift_is_not_claimed_across_identities_either() -> None:
    steady = rates({f"p{i}": 0.6 + (-1) ** i * 0.01 for i in range(8)})
    assert compare(steady).verdict == "no_drift"
    assert compare(steady, mine=measurements(steady, engine="vllm")).verdict == "confounded"


def test_unknown_on_both_sides_is_not_the_same() -> None:
    unknown = {"engine": "unknown", "engine_version": "unknown"}
    result = compare(mine=measurements(DROPPED, **unknown), theirs=measurements(PARENT, **unknown))
    assert result.verdict == "confounded"


def test_a_condition_recorded_on_one_side_only_is_a_difference() -> None:
    assert compare(mine=measurements(DROPPED, dtype="bfloat16")).verdict == "confounded"


def test_retrained_adapters_are_left_out_and_named() -> None:
    retrained = dict.fromkeys(["p0", "p1"], "other")
    result = compare(mine=measurements(DROPPED, retrained))
    assert result.inherited_drift["same_adapter"].to_list() == [False, False, *[True] * 6]
    assert set(result.drift_tests.filter("registered")["n"]) == {6}
    assert result.drift_tests["note"].str.contains("left out as retrained under the same name: p0, p1").all()
    everyone = compare(mine=measurements(DROPPED, {f"p{i}": "other" for i in range(8)}))
    assert (everyone.verdict, everyone.triggered) == ("not_tested", None)
    assert everyone.drift_tests["estimate"].null_count() == 1


def test_an_unknown_adapter_confounds() -> None:
    result = compare(theirs=measurements(PARENT, {"p3": None}))
    assert (result.verdict, result.inherited_drift["same_adapter"].null_count()) == ("confounded", 1)


def test_seeds_of_a_source_are_one_source() -> None:
    now = pl.concat([rates({"p0": 0.3, "p1": 0.7}), rates({"p0": 0.8, "p1": 0.7}, seed=43)])
    parent = pl.concat([rates({"p0": 0.5, "p1": 0.5}), rates({"p0": 0.5, "p1": 0.5}, seed=43)])
    result = inherited_drift(now, parent, measurements(now), measurements(parent), seed=1, resamples=100)
    assert result.inherited_drift.height == 4
    row = result.drift_tests.filter(statistic="sign_drops").row(0, named=True)
    assert (row["n"], row["estimate"]) == (2, 0.0)


def test_a_study_without_a_parent_and_incomplete_tables() -> None:
    empty = inherited_drift(DROPPED, PARENT.head(0), measurements(DROPPED), measurements(PARENT).head(0), seed=1)
    assert (empty.verdict, empty.triggered, empty.inherited_drift.height) == ("not_tested", None, 0)
    alone = inherited_drift(DROPPED, None, measurements(DROPPED), None, seed=1)
    assert alone.drift_tests.equals(empty.drift_tests)
    assert alone.verdict == "not_tested"
    with pytest.raises(StatisticsError, match="no row for source p0, seed 42, measurement 1"):
        compare(mine=measurements(DROPPED).filter(pl.col("source") != "p0"))
    with pytest.raises(StatisticsError, match="choose one measurement"):
        compare(pl.concat([DROPPED, DROPPED.head(1)]))
    with pytest.raises(StatisticsError, match="adapter_digest"):
        compare(mine=measurements(DROPPED).drop("adapter_digest"))
