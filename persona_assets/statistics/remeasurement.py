"""Drift over the measurements of one study: the same adapters, measured again at a later time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import polars as pl

from persona_assets.conventions import CONFIDENCE_LEVEL
from persona_assets.statistics.drift import INHERITED_DRIFT_SCHEMA, DriftResult, DriftSettings, inherited_drift
from persona_assets.statistics.drift_tests import DRIFT_TESTS_SCHEMA
from persona_assets.statistics.identity import UNKNOWN
from persona_assets.statistics.intervals import wilson
from persona_assets.statistics.tidy import StatisticsError, require_columns

if TYPE_CHECKING:
    import duckdb

Compared = Literal["first", "last"]
COMPARED: tuple[Compared, ...] = ("first", "last")
"""What the latest measurement is compared with: the adapter's first one, and the last one before it."""

# In the tables of drift since the parent study the earlier side is the parent's.
_RENAMED = {"rate_parent": "rate_before", "n_parent": "n_before"}
_MEASURED = {"measurement_before": pl.Int64, "measurement_now": pl.Int64}
_COMPARISON = {_RENAMED.get(name, name): dtype for name, dtype in INHERITED_DRIFT_SCHEMA.items()}
_KEYS = ("persona", "seed")
REMEASUREMENT_DRIFT_SCHEMA: dict[str, type[pl.DataType]] = {
    "compared_with": pl.String,
    **{name: _COMPARISON[name] for name in _KEYS},
    **_MEASURED,
    **{name: dtype for name, dtype in _COMPARISON.items() if name not in _KEYS},
}
REMEASUREMENT_TESTS_SCHEMA: dict[str, type[pl.DataType]] = {"compared_with": pl.String, **DRIFT_TESTS_SCHEMA}
MEASURED_ONCE = "not estimable: no source was measured more than once"


@dataclass(frozen=True)
class RemeasurementResult:
    """Drift between measurements.

    Attributes:
        remeasurement_drift: one row per comparison and re-measured (persona, seed).
        remeasurement_tests: the tests of each comparison.
        drifted: comparisons whose registered trigger fired; one that is confounded never did.
    """

    remeasurement_drift: pl.DataFrame
    remeasurement_tests: pl.DataFrame
    drifted: tuple[Compared, ...]


def measured_rates(connection: duckdb.DuckDBPyConnection, completions: str = "completions") -> pl.DataFrame:
    """Count the source rate of every measurement in DuckDB.

    Args:
        connection: on which the relation is a table, a view or a registered frame.
        completions: relation with source, eval_persona, seed, measurement and hit; one row per completion.

    Returns:
        Columns persona, seed, measurement, hits, n and rate; ordered by the first three.

    Raises:
        StatisticsError: of a completion it is not known whether it is a hit.
    """
    counted: pl.DataFrame = connection.sql(
        f"""
        SELECT source AS persona, seed, measurement, count(*) FILTER (hit) AS hits, count(*) AS n, hits / n AS rate,
               count(*) FILTER (hit IS NULL) AS unknown
        FROM {completions} WHERE eval_persona = source GROUP BY ALL ORDER BY persona, seed, measurement
        """
    ).pl()
    for row in counted.filter(pl.col("unknown") > 0).head(1).to_dicts():
        raise StatisticsError(
            f"{completions}: {row['unknown']} completions of {row['persona']} (seed {row['seed']}, measurement "
            f"{row['measurement']}) do not say whether they are a hit."
        )
    return counted.drop("unknown")


def measurement_history(rates: pl.DataFrame, measurements: pl.DataFrame, confidence: float = CONFIDENCE_LEVEL) -> pl.DataFrame:
    """List every measurement: its source rate with a Wilson interval, and the identity it was made under.

    Args:
        rates: of `measured_rates`.
        measurements: table `measurements`, a row for each rate.
        confidence: level of the interval.

    Raises:
        StatisticsError: a rate has no row in `measurements`.
    """
    low, high = wilson(rates["hits"].to_numpy(), rates["n"].to_numpy(), confidence)
    listed = rates.with_columns(wilson_low=pl.Series(low, dtype=pl.Float64), wilson_high=pl.Series(high, dtype=pl.Float64))
    identities = measurements.rename({"source": "persona"})
    joined = listed.join(identities, on=[*_KEYS, "measurement"], how="left", maintain_order="left")
    if unknown := joined.filter(pl.col("identity_digest").is_null())["persona"].unique(maintain_order=True).to_list():
        raise StatisticsError(f"measurements: no row for a measurement of {', '.join(unknown)}.")
    return joined


def remeasurement_drift(rates: pl.DataFrame, measurements: pl.DataFrame, settings: DriftSettings) -> RemeasurementResult:
    """Compare the latest measurement of every re-measured source with its first and with the last before it.

    The first measurement is the first one of the adapter that is measured now: an adapter retrained under the same name
    is another one and begins a history of its own. Its first measurement is compared with the earlier adapter's, marked
    as retrained, and enters no test.

    Args:
        rates: of `measured_rates`.
        measurements: table `measurements`, a row for each rate.
        settings: what the plan registers about drift.

    Returns:
        Tables and the comparisons that found drift; without a source measured twice, rows that say so.

    Raises:
        StatisticsError: as `inherited_drift`.
    """
    require_columns(rates, [*_KEYS, "measurement", "hits", "n", "rate"], "rates")
    pairs = _pairs(rates, measurements)
    parts: list[pl.DataFrame] = []
    tests: list[pl.DataFrame] = []
    drifted: list[Compared] = []
    for compared in COMPARED:
        chosen = pairs.filter(compared_with=compared)
        result = _compare(rates, measurements, chosen, settings)
        parts.append(_labelled(result, chosen, compared))
        tests.append(_tests(result, compared))
        if result.verdict == "drift":
            drifted.append(compared)
    return RemeasurementResult(pl.concat(parts), pl.concat(tests), tuple(drifted))


def comparisons(
    remeasurement_drift: pl.DataFrame, remeasurement_tests: pl.DataFrame
) -> dict[str, tuple[pl.DataFrame, pl.DataFrame]]:
    """Take the comparisons apart, each as tables with the columns of `inherited_drift` and `drift_tests`.

    Where every source has two measurements, the first one is the last before the latest: that comparison is given once,
    as `first`. Without a source measured twice there is none.
    """
    original = {name: parent for parent, name in _RENAMED.items()}
    found: dict[str, tuple[pl.DataFrame, pl.DataFrame]] = {}
    for compared in COMPARED:
        rows = remeasurement_drift.filter(compared_with=compared).drop("compared_with")
        seen = [remeasurement_drift.filter(compared_with=other).drop("compared_with") for other in found]
        if rows.height and not any(rows.equals(other) for other in seen):
            tests = remeasurement_tests.filter(compared_with=compared).drop("compared_with")
            found[compared] = (rows.rename(original).drop(*_MEASURED), tests)
    return found


def _pairs(rates: pl.DataFrame, measurements: pl.DataFrame) -> pl.DataFrame:
    """Which measurement each latest one is compared with, by comparison and (persona, seed)."""
    digests = {(row["source"], row["seed"], row["measurement"]): row["adapter_digest"] for row in measurements.to_dicts()}
    rows: list[tuple[str, str, int, int, int]] = []
    numbers: dict[tuple[str, int], list[int]] = {}
    for row in rates.to_dicts():
        numbers.setdefault((row["persona"], row["seed"]), []).append(row["measurement"])
    for (persona, seed), own in numbers.items():
        *earlier, now = sorted(own)
        if not earlier:
            continue
        adapter = digests.get((persona, seed, now))
        known = adapter not in (None, UNKNOWN)
        same = [number for number in earlier if known and digests.get((persona, seed, number)) == adapter]
        rows += [("first", persona, seed, (same or earlier)[0], now), ("last", persona, seed, earlier[-1], now)]
    schema = {"compared_with": pl.String, "persona": pl.String, "seed": pl.Int64, **_MEASURED}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _compare(rates: pl.DataFrame, measurements: pl.DataFrame, pairs: pl.DataFrame, settings: DriftSettings) -> DriftResult:
    now, before = (
        pairs.select(*_KEYS, measurement=f"measurement_{when}").join(
            rates, on=[*_KEYS, "measurement"], how="inner", maintain_order="left"
        )
        for when in ("now", "before")
    )
    return inherited_drift(now, before, measurements, measurements, **settings)


def _labelled(result: DriftResult, pairs: pl.DataFrame, compared: Compared) -> pl.DataFrame:
    told = result.inherited_drift.rename(_RENAMED).join(
        pairs.drop("compared_with"), on=list(_KEYS), how="left", maintain_order="left"
    )
    return told.select(pl.lit(compared).alias("compared_with"), *list(REMEASUREMENT_DRIFT_SCHEMA)[1:])


def _tests(result: DriftResult, compared: Compared) -> pl.DataFrame:
    tests = result.drift_tests
    if result.inherited_drift.is_empty():
        tests = tests.with_columns(note=pl.lit(MEASURED_ONCE))
    return tests.select(pl.lit(compared).alias("compared_with"), *DRIFT_TESTS_SCHEMA)
