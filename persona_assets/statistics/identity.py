"""Measurement identity: which rates may be pooled, compared or regressed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from persona_assets.hashing import sha256_json
from persona_assets.statistics.tidy import StatisticsError, require_columns

# Columns of `measurements` that say which row it is, not under which conditions it was measured. The adapter differs
# between sources by design, so it is compared on its own where the same source is compared with itself.
KEY_COLUMNS = ("source", "seed", "measurement", "identity_digest", "adapter_digest")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class IdentityCheck:
    """Whether rates were measured under one set of conditions.

    Attributes:
        digests: digest of the conditions of each measurement, in the order of the rows.
        differing: columns in which they differ.
        unknown: columns in which some say nothing.
        note: sentence for the report, None when everything is known and equal.
    """

    digests: tuple[str, ...]
    differing: tuple[str, ...]
    unknown: tuple[str, ...]
    note: str | None


class MixedIdentityError(StatisticsError):
    """Rates of different measurement identity would be treated as one."""


def condition_columns(measurements: pl.DataFrame, ignore: Sequence[str] = ()) -> list[str]:
    """Columns of `measurements` that describe conditions: all but the keys and those to ignore."""
    return [column for column in measurements.columns if column not in (*KEY_COLUMNS, *ignore)]


def conditions_of(row: dict[str, object], columns: Sequence[str]) -> dict[str, str]:
    """Conditions of one measurement as texts; null and empty become `unknown`."""
    return {name: UNKNOWN if row.get(name) in (None, "", UNKNOWN) else str(row[name]) for name in columns}


def check_identity(measurements: pl.DataFrame, *, override: str | None = None, ignore: Sequence[str] = ()) -> IdentityCheck:
    """Check that measurements may be analysed together.

    Args:
        measurements: table `measurements`, the rows that a statistic would use.
        override: the user's reason for pooling different identities; the returned note prints it.
        ignore: columns that carry no condition (a date, a remark).

    Returns:
        The check; its note is to stand in the report.

    Raises:
        MixedIdentityError: conditions differ and there is no override.
        StatisticsError: there are no measurements, or the key columns are missing.
    """
    require_columns(measurements, ["source", "seed", "measurement"], "measurements")
    if measurements.is_empty():
        raise StatisticsError("measurements is empty: there is nothing to check.")
    columns = condition_columns(measurements, ignore)
    rows = [conditions_of(row, columns) for row in measurements.to_dicts()]
    differing = tuple(name for name in columns if len({row[name] for row in rows}) > 1)
    unknown = tuple(name for name in columns if any(row[name] == UNKNOWN for row in rows))
    digests = tuple(sha256_json(row) for row in rows)
    if differing and override is None:
        examples = "; ".join(f"{name}: {', '.join(sorted({row[name] for row in rows}))}" for name in differing)
        raise MixedIdentityError(
            f"These measurements were not made under the same conditions ({examples}). Re-evaluate the older "
            f"ones, or give an override with a reason, which the report will print."
        )
    notes = []
    if differing:
        notes.append(f"pooled although {', '.join(differing)} differ, by explicit override: {override}")
    if unknown:
        notes.append(f"not recorded for every measurement: {', '.join(unknown)}")
    return IdentityCheck(digests, differing, unknown, "; ".join(notes) or None)


def same_conditions(row: dict[str, object], other: dict[str, object], columns: Sequence[str]) -> tuple[bool, tuple[str, ...]]:
    """Compare the conditions of two measurements; what is unknown on either side is never equal.

    Returns:
        Whether all are known and equal, and the columns in which they are not.
    """
    mine, theirs = conditions_of(row, columns), conditions_of(other, columns)
    different = tuple(n for n in columns if mine[n] != theirs[n] or mine[n] == UNKNOWN)
    return not different, different


def conditions_apart(one: pl.DataFrame, other: pl.DataFrame, ignore: Sequence[str] = ()) -> tuple[str, ...]:
    """Conditions under which two studies were not measured alike: they differ, or some measurement does not say.

    Args:
        one: table `measurements` of a study.
        other: table `measurements` of another.
        ignore: columns that carry no condition.

    Returns:
        Their columns in alphabetical order; empty where all measurements of both share one known identity.
    """
    columns = sorted({*condition_columns(one, ignore), *condition_columns(other, ignore)})
    rows = [conditions_of(row, columns) for row in (*one.to_dicts(), *other.to_dicts())]
    return tuple(name for name in columns if len({row[name] for row in rows}) > 1 or any(row[name] == UNKNOWN for row in rows))
