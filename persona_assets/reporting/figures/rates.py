"""Source rates of a study, one row per persona."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import polars as pl

from persona_assets.reporting.figures import style
from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.frames import Row
from persona_assets.reporting.figures.observed import bar_words, observed_rates
from persona_assets.reporting.figures.output import Drawing
from persona_assets.reporting.figures.scatter import category_handles, cohort_handles, listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def source_rates(
    table: pl.DataFrame, context: FigureContext, *, order: Literal["panel", "rate"] = "rate"
) -> Drawing:
    """Draw every source rate with its Wilson interval, and the base model's rate beside it.

    A persona without a rate keeps its row, which says that it was not measured.

    Args:
        table: Table `source_rates`.
        context: Provenance and plan facts.
        order: Rows in panel order, or from the highest rate to the lowest.

    Raises:
        FigureError: The table is empty, lacks a column, or has a persona twice or out of the panel.
    """
    measured, absent = observed_rates(table, context)
    if order == "rate":  # the sort is stable: equal rates stay in panel order
        measured.sort(key=lambda row: -row["rate"])
        personas = [row["persona"] for row in measured] + [row["persona"] for row in absent]
    else:
        personas = list(context.panel)
    found = {row["persona"]: row for row in measured}
    without_base = [r["persona"] for r in measured if r["base_rate"] is None]
    with style.styled():
        figure = style.new_figure(style.HALF_PAGE, 0.95 + style.ROW * len(personas))
        axes = figure.subplots()
        style.name_rows(axes, [_label(p, found) for p in personas])
        for y, persona in enumerate(personas):
            if persona in found:
                _draw_rate(axes, found[persona], y)
            else:
                style.note_row(axes, y, "not measured")
        axes.set_xlim(-0.02, min(1.02, max([0.1, *(r["high"] for r in measured)]) + 0.02))
        axes.set_xlabel("Marker rate under the own persona")
        marks = cohort_handles(measured)
        if len(without_base) < len(measured):
            marks.append(style.handle("base model", "|", style.BLACK, size=6))
        style.add_legend(figure, category_handles(measured), marks)
    flagged = [r["persona"] for r in measured if r["truncation_flagged"]]
    caption = (
        f"Source rate of each persona of study {context.study}, "
        f"{'highest first' if order == 'rate' else 'in panel order'} ({len(measured)} of {len(personas)} "
        f"personas measured). {bar_words(measured, context)} Tick: rate of the base model without adapter."
        + (f" Not measured: {listed(absent)}." if absent else "")
        + (f" No base rate: {', '.join(without_base)}." if without_base else "")
        + (f" † more truncated completions than the plan allows: {', '.join(flagged)}." if flagged else "")
    )
    return Drawing("source_rates", figure, caption, {"rows": measured, "not_measured": absent}, context)


def _draw_rate(axes: Axes, row: Row, y: int) -> None:
    colour = style.CATEGORY_COLOUR[row["category"]]
    axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=0.9, zorder=2)
    axes.plot(row["rate"], y, zorder=4, **style.mark_style(row["category"], row["cohort"]))
    if row["base_rate"] is not None:
        axes.plot(row["base_rate"], y, linestyle="", marker="|", markersize=6, color=style.BLACK, zorder=3)


def _label(persona: str, found: dict[str, Row]) -> str:
    flagged = persona in found and found[persona]["truncation_flagged"]
    return style.readable(persona) + (" †" if flagged else "")
