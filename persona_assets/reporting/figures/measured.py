"""Eval cells as the figures draw them: one value per pair of personas, the mean over training seeds."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.errors import FigureError
from persona_assets.reporting.figures.frames import Row, each_seed_once, rows

_COLUMNS = ("source", "eval_persona", "seed", "kind", "rate", "hits", "n")


def measured_cells(cells: pl.DataFrame, context: FigureContext) -> list[Row]:
    """Average every cell over training seeds.

    Args:
        cells: Table `cells`, one row per source, eval persona and seed.
        context: Provenance and plan facts.

    Returns:
        Rows with source, eval_persona, kind (None where it is not recorded whether the eval persona was a
        trained negative), rate (None where a seed has none), hits and n (sums), in the order of the table.

    Raises:
        FigureError: The table is empty, lacks a column, has a persona out of the panel, a cell twice for a
            seed, or a kind that contradicts the cell.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows(cells, _COLUMNS, "cells"):
        for key in ("source", "eval_persona"):
            if row[key] not in context.categories:
                raise FigureError(
                    f"table cells has {key} {row[key]!r}, which is not in the panel of {context.study}"
                )
        groups.setdefault((row["source"], row["eval_persona"]), []).append(row)
    return [_mean(source, eval_persona, own) for (source, eval_persona), own in groups.items()]


def _mean(source: str, eval_persona: str, own: Sequence[Row]) -> Row:
    name = f"table cells, source {source!r} under {eval_persona!r}"
    own = each_seed_once(own, name)
    kinds = sorted({row["kind"] for row in own if row["kind"] is not None})
    if len(kinds) > 1:
        raise FigureError(f"{name} is called {kinds} at once")
    kind = kinds[0] if kinds else None
    if (kind == "self") != (source == eval_persona):
        raise FigureError(f"{name} is called a cell of kind {kind!r}")
    rates = [row["rate"] for row in own]
    cell: Row = {
        "source": source,
        "eval_persona": eval_persona,
        "kind": kind,
        "rate": None,
        "hits": None,
        "n": None,
    }
    if None not in rates:
        cell |= {name: sum(row[name] for row in own) for name in ("hits", "n")}
        cell["rate"] = sum(rates) / len(rates)
    return cell
