"""Reading the tables that figures draw: what is missing is an error or None, never a zero."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.errors import FigureError

Row = dict[str, Any]
NO_NOTE = "the table gives no reason"


def rows(frame: pl.DataFrame, columns: Sequence[str], table: str) -> list[Row]:
    """Take columns of a table as rows; NaN counts as missing (None).

    Args:
        frame: The table.
        columns: Columns to take.
        table: Its name, for messages.

    Raises:
        FigureError: The table has no rows, lacks a column, or holds an infinite number.
    """
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise FigureError(f"table {table} lacks the columns {missing}; it has {frame.columns}")
    if frame.is_empty():
        raise FigureError(f"table {table} has no rows to draw: materialize what it is computed from first")
    taken = [dict(zip(columns, values, strict=True)) for values in frame.select(columns).iter_rows()]
    for row in taken:
        for column, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                if not math.isnan(value):
                    raise FigureError(f"table {table}, column {column} holds {value} in the row {row}")
                row[column] = None
    return taken


def only(frame: pl.DataFrame, table: str, **equals: object) -> pl.DataFrame:
    """Keep the rows in which every named column has the given value (None: is null).

    Raises:
        FigureError: No row is left; the message lists the values there are.
    """
    missing = [c for c in equals if c not in frame.columns]
    if missing:
        raise FigureError(f"table {table} lacks the columns {missing}; it has {frame.columns}")
    if frame.is_empty():
        raise FigureError(f"table {table} has no rows to draw: materialize what it is computed from first")
    kept = frame
    for column, value in equals.items():
        there = kept[column].unique().sort().to_list()
        kept = kept.filter(pl.col(column).is_null() if value is None else pl.col(column) == pl.lit(value))
        if kept.is_empty():
            raise FigureError(
                f"table {table} has no row with {column} = {value!r} (of {equals}); there are {there[:40]}"
            )
    return kept


def group_by_persona(
    taken: Iterable[Row], table: str, context: FigureContext, key: str = "persona"
) -> dict[str, list[Row]]:
    """Group rows by persona, in order of appearance.

    Raises:
        FigureError: A persona is not in the study's panel.
    """
    found: dict[str, list[Row]] = {}
    for row in taken:
        persona = row[key]
        if persona not in context.categories:
            raise FigureError(
                f"table {table} has {key} {persona!r}, which is not in the panel of {context.study}"
            )
        found.setdefault(persona, []).append(row)
    return found


def one_each(groups: dict[str, list[Row]], table: str) -> dict[str, Row]:
    """Take the single row of every persona.

    Raises:
        FigureError: A persona has several.
    """
    twice = [persona for persona, own in groups.items() if len(own) > 1]
    if twice:
        raise FigureError(f"table {table} has {twice[0]!r} {len(groups[twice[0]])} times, one row is needed")
    return {persona: own[0] for persona, own in groups.items()}


def each_seed_once(own: Sequence[Row], what: str) -> list[Row]:
    """Sort rows by training seed.

    Raises:
        FigureError: A seed occurs twice: two measurements of one adapter are not two adapters.
    """
    seeds = [row["seed"] for row in own]
    if len(set(seeds)) != len(seeds):
        raise FigureError(f"{what} has seed {seeds} twice: choose one measurement of each training seed")
    return sorted(own, key=lambda row: (row["seed"] is not None, row["seed"]))


def statistic(regressions: pl.DataFrame, **equals: object) -> Row:
    """Find the one row of a tidy table of statistics that has the given values.

    Returns:
        The row: estimate, p, n, low, high, note. A null estimate comes with a note in words.

    Raises:
        FigureError: No row, or more than one.
    """
    found = rows(only(regressions, "regressions", **equals), TIDY, "regressions")
    if len(found) > 1:
        raise FigureError(f"table regressions has {len(found)} rows for {equals}, one is needed: {found[:3]}")
    return with_reason(found[0])


TIDY = (
    "family",
    "layer",
    "predictor",
    "outcome",
    "statistic",
    "estimate",
    "p",
    "n",
    "low",
    "high",
    "registered",
    "note",
)


def with_reason(row: Row) -> Row:
    """Give a row that holds neither estimate nor p a note, where the table forgot it."""
    if row["estimate"] is None and row["p"] is None and not row["note"]:
        return {**row, "note": NO_NOTE}
    return row


def reason(row: Row) -> str:
    """Say why the estimate of a row is missing, for a sentence that says already that it is."""
    return str(row["note"] or NO_NOTE).removeprefix("not estimable: ")
