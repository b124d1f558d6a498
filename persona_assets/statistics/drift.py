"""Drift of inherited sources: does the same adapter still emit the marker as often as in the parent study?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import polars as pl

from persona_assets.conventions import ALPHA, BOOTSTRAP_RESAMPLES, CONFIDENCE_LEVEL, DRIFT_LOW_SHARE, DRIFT_MATCH_SHARE
from persona_assets.statistics.drift_tests import DRIFT_TESTS_SCHEMA, Reading, Verdict, delta_tests
from persona_assets.statistics.identity import UNKNOWN, condition_columns, same_conditions
from persona_assets.statistics.tidy import StatisticsError, frame_of, require_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from persona_assets.statistics.tidy import FloatArray
    from persona_assets.study import AnalysisPlan

INHERITED_DRIFT_SCHEMA: dict[str, type[pl.DataType]] = {
    "persona": pl.String,
    "seed": pl.Int64,
    "rate_parent": pl.Float64,
    "n_parent": pl.Int64,
    "rate_now": pl.Float64,
    "n_now": pl.Int64,
    "delta": pl.Float64,
    "p_two_proportion": pl.Float64,
    "same_adapter": pl.Boolean,
    "same_identity": pl.Boolean,
    "differing": pl.String,
    "note": pl.String,
}


@dataclass(frozen=True)
class DriftResult:
    """Everything the drift family gives.

    Attributes:
        inherited_drift: one row per inherited (persona, seed), retrained ones included and marked; `differing` names the
            conditions of measurement that differ or that one side does not know.
        drift_tests: the tests over the adapters that did not change.
        triggered: whether the registered auto-LOW trigger fired; None without a source to test, and across measurement
            identities, where no fall of rates is a drift.
        confounded: whether any tested pair crosses measurement identities.
        verdict: `drift`, `no_drift`, `confounded` or `not_tested`.
    """

    inherited_drift: pl.DataFrame
    drift_tests: pl.DataFrame
    triggered: bool | None
    confounded: bool
    verdict: Verdict


class DriftSettings(TypedDict):
    """What a plan registers about drift, under the names of `inherited_drift`."""

    seed: int
    low_share: float
    match_share: float
    alpha: float
    resamples: int
    confidence: float


def drift_settings(plan: AnalysisPlan) -> DriftSettings:
    """Take what is about drift out of a plan."""
    return {
        "seed": plan.seed,
        "low_share": plan.drift_low_share,
        "match_share": plan.drift_match_share,
        "alpha": plan.alpha,
        "resamples": plan.bootstrap_resamples,
        "confidence": plan.confidence_level,
    }


@dataclass(frozen=True)
class _Pair:
    persona: str
    seed: int
    rate_parent: float
    n_parent: int
    rate_now: float
    n_now: int
    delta: float
    p_two_proportion: float | None
    same_adapter: bool | None
    same_identity: bool
    differing: str | None
    note: str | None


def two_proportion_p(hits_a: int, n_a: int, hits_b: int, n_b: int) -> float | None:
    """Two-sided pooled z-test of two proportions (statsmodels); 1 when both are 0 or both are 1.

    Raises:
        StatisticsError: counts that are no proportions.
    """
    from statsmodels.stats.proportion import proportions_ztest

    if min(n_a, n_b) < 1 or not (0 <= hits_a <= n_a and 0 <= hits_b <= n_b):
        raise StatisticsError(f"two_proportion_p: {hits_a}/{n_a} and {hits_b}/{n_b} are not proportions.")
    if hits_a + hits_b in (0, n_a + n_b):
        return 1.0
    return float(proportions_ztest([hits_a, hits_b], [n_a, n_b])[1])


def inherited_drift(
    rates_now: pl.DataFrame,
    rates_parent: pl.DataFrame | None,
    measurements_now: pl.DataFrame,
    measurements_parent: pl.DataFrame | None,
    *,
    seed: int,
    low_share: float = DRIFT_LOW_SHARE,
    match_share: float = DRIFT_MATCH_SHARE,
    alpha: float = ALPHA,
    resamples: int = BOOTSTRAP_RESAMPLES,
    confidence: float = CONFIDENCE_LEVEL,
    ignore: Sequence[str] = (),
) -> DriftResult:
    """Compare the inherited sources of a study with the same sources in its parent.

    Args:
        rates_now: table `source_rates` of the study.
        rates_parent: table `source_rates` of the parent; None for a study without one, which has no inherited source.
        measurements_now: table `measurements` of the study, a row for each rate.
        measurements_parent: table `measurements` of the parent, or None likewise.
        seed: seed of the bootstrap.
        low_share: share of drops from which the trigger fires.
        match_share: share of drops that the plan calls a match with the previous episode.
        alpha: level at which the sensitivity tests speak of drift.
        resamples: bootstrap resamples of the mean delta.
        confidence: level of its interval.
        ignore: columns of `measurements` that carry no condition.

    Returns:
        Tables and the verdict. Adapters whose digest differs between the studies were retrained under the same name:
        they stand in the table with same_adapter False and enter no test. Where a source has several seeds, its mean
        delta enters. A comparison of different (or unknown) adapters' or measurements' identities gives verdict
        `confounded` everywhere, never drift and never its absence.

    Raises:
        StatisticsError: columns or measurements are missing, or a (persona, seed) stands twice in a table.
    """
    if rates_parent is None or measurements_parent is None:
        rates_parent, measurements_parent = rates_now.clear(), measurements_now.clear()
    pairs = _pairs(rates_now, rates_parent, measurements_now, measurements_parent, ignore)
    tested = [pair for pair in pairs if pair.same_adapter is not False]
    confounded = any(not pair.same_identity or pair.same_adapter is None for pair in tested)
    left_out = sorted({pair.persona for pair in pairs if pair.same_adapter is False})
    tests, triggered = delta_tests(
        _per_source(tested),
        Reading(confounded, tuple(left_out), alpha),
        seed,
        low_share,
        match_share,
        resamples,
        confidence,
    )
    verdict: Verdict = "not_tested"
    if tested:
        verdict = "confounded" if confounded else ("drift" if triggered else "no_drift")
    return DriftResult(
        frame_of(pairs, INHERITED_DRIFT_SCHEMA),
        frame_of(tests, DRIFT_TESTS_SCHEMA),
        None if confounded else triggered,
        confounded,
        verdict,
    )


def _per_source(pairs: Sequence[_Pair]) -> FloatArray:
    """Mean delta of each source over its seeds: the source is the unit, its seeds are no further sources."""
    by_source: dict[str, list[float]] = {}
    for pair in pairs:
        by_source.setdefault(pair.persona, []).append(pair.delta)
    return np.array([float(np.mean(deltas)) for deltas in by_source.values()], dtype=np.float64)


def _pairs(
    rates_now: pl.DataFrame,
    rates_parent: pl.DataFrame,
    measurements_now: pl.DataFrame,
    measurements_parent: pl.DataFrame,
    ignore: Sequence[str],
) -> list[_Pair]:
    now, parent = _by_key(rates_now, "source_rates"), _by_key(rates_parent, "source_rates of the parent")
    about_now = _measurements(measurements_now, "measurements")
    about_parent = _measurements(measurements_parent, "measurements of the parent")
    columns = sorted({*condition_columns(measurements_now, ignore), *condition_columns(measurements_parent, ignore)})
    pairs = []
    for key, row in now.items():
        if key not in parent:
            continue
        before = parent[key]
        mine = _measurement(about_now, row, "measurements")
        theirs = _measurement(about_parent, before, "measurements of the parent")
        digests = (mine.get("adapter_digest"), theirs.get("adapter_digest"))
        same_adapter = None if None in digests or UNKNOWN in digests else digests[0] == digests[1]
        same, different = same_conditions(mine, theirs, columns)
        notes = []
        if same_adapter is None:
            notes.append("adapter digest unknown: whether it is the same adapter cannot be shown")
        elif not same_adapter:
            notes.append("retrained under the same name: not inherited, enters no test")
        if not same:
            notes.append(f"different measurement identity: {', '.join(different)}")
        rate_now, rate_before = float(row["rate"]), float(before["rate"])  # type: ignore[arg-type]
        counts = [int(value) for value in (before["hits"], before["n"], row["hits"], row["n"])]  # type: ignore[call-overload]
        pairs.append(
            _Pair(
                str(key[0]),
                int(key[1]),
                rate_before,
                counts[1],
                rate_now,
                counts[3],
                rate_now - rate_before,
                two_proportion_p(*counts),
                same_adapter,
                same,
                ", ".join(different) or None,
                "; ".join(notes) or None,
            )
        )
    return pairs


def _by_key(rates: pl.DataFrame, name: str) -> dict[tuple[str, int], dict[str, object]]:
    require_columns(rates, ["persona", "seed", "measurement", "hits", "n", "rate"], name)
    rows: dict[tuple[str, int], dict[str, object]] = {}
    for row in rates.to_dicts():
        key = (row["persona"], row["seed"])
        if key in rows:
            raise StatisticsError(f"{name}: {key[0]} (seed {key[1]}) stands there twice; choose one measurement.")
        rows[key] = row
    return rows


def _measurements(frame: pl.DataFrame, name: str) -> dict[tuple[str, int, int], dict[str, object]]:
    require_columns(frame, ["source", "seed", "measurement", "adapter_digest"], name)
    return {(row["source"], row["seed"], row["measurement"]): row for row in frame.to_dicts()}


def _measurement(frame: dict[tuple[str, int, int], dict[str, object]], rate: dict[str, object], name: str) -> dict[str, object]:
    key = (rate["persona"], rate["seed"], rate["measurement"])
    if key not in frame:
        raise StatisticsError(f"{name}: no row for source {key[0]}, seed {key[1]}, measurement {key[2]}.")
    return frame[key]
