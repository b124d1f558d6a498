"""Source rates as the figures draw them: one value per persona, the mean over training seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.errors import FigureError
from persona_assets.reporting.figures.frames import Row, each_seed_once, group_by_persona, rows

_COLUMNS = (
    "persona",
    "category",
    "cohort",
    "seed",
    "hits",
    "n",
    "rate",
    "wilson_low",
    "wilson_high",
    "base_rate",
    "truncation_rate",
    "truncation_flagged",
)


def observed_rates(source_rates: pl.DataFrame, context: FigureContext) -> tuple[list[Row], list[Row]]:
    """Take the source rates in panel order.

    With one training seed, `low` and `high` are the Wilson interval; with several, the rate is their mean (as
    in the statistics) and `low` and `high` the smallest and the largest of them.

    Args:
        source_rates: Table `source_rates`, one row per persona and seed.
        context: Provenance and plan facts.

    Returns:
        Rows to draw (persona, category, cohort, rate, low, high, base_rate, truncation_flagged, seeds), and
        the personas without a rate, each with a note.

    Raises:
        FigureError: The table is empty, lacks a column, has a persona out of the panel, of another category
            than the panel's or of two cohorts, or a training seed twice.
    """
    groups = group_by_persona(rows(source_rates, _COLUMNS, "source_rates"), "source_rates", context)
    seeds = sorted({row["seed"] for own in groups.values() for row in own if row["seed"] is not None})
    drawn, absent = [], []
    for persona in context.panel:
        own = each_seed_once(groups.get(persona, []), f"table source_rates, persona {persona!r}")
        unmeasured = [row["seed"] for row in own if row["rate"] is None]
        unmeasured += [seed for seed in seeds if own and all(row["seed"] not in (seed, None) for row in own)]
        if not own or unmeasured:
            why = (
                f"no rate for training seed {unmeasured[0]}"
                if unmeasured and len(seeds) > 1
                else "no source rate"
            )
            absent.append({"persona": persona, "note": why})
            continue
        drawn.append(_mean(persona, own, context))
    return drawn, absent


def _mean(persona: str, own: Sequence[Row], context: FigureContext) -> Row:
    category = context.categories[persona]
    if any(row["category"] != category for row in own):
        raise FigureError(
            f"table source_rates calls {persona!r} {own[0]['category']!r}, the panel calls it {category!r}"
        )
    if len({row["cohort"] for row in own}) > 1:
        raise FigureError(f"table source_rates has {persona!r} in two cohorts")
    for row in own:
        if row["wilson_low"] is None or row["wilson_high"] is None:
            raise FigureError(f"table source_rates has a rate of {persona!r} with no Wilson interval: {row}")
    rates = [row["rate"] for row in own]
    bases = [row["base_rate"] for row in own if row["base_rate"] is not None]
    several = len(own) > 1
    kept = ("seed", "hits", "n", "rate", "wilson_low", "wilson_high", "truncation_rate")
    seeds: list[dict[str, Any]] = [{name: row[name] for name in kept} for row in own]
    return {
        "persona": persona,
        "category": category,
        "cohort": own[0]["cohort"],
        "rate": sum(rates) / len(rates),
        "low": min(rates) if several else own[0]["wilson_low"],
        "high": max(rates) if several else own[0]["wilson_high"],
        "base_rate": sum(bases) / len(bases) if bases else None,
        "truncation_flagged": any(row["truncation_flagged"] for row in own),
        "seeds": seeds,
    }


def bar_words(drawn: Sequence[Row], context: FigureContext) -> str:
    """Say in a caption what points and bars are, and of which training seeds."""
    seeds = sorted({s["seed"] for row in drawn for s in row["seeds"] if s["seed"] is not None})
    if len(seeds) > 1:
        return f"Points: mean over the training seeds {', '.join(map(str, seeds))}; bars: their range."
    of = f" (training seed {seeds[0]})" if seeds else ""
    return f"Bars: {context.confidence_words} Wilson intervals{of}."
