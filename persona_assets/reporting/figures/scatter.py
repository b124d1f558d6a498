"""What every scatter plot of source rate and cosine shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from persona_assets.panel import CATEGORIES
from persona_assets.reporting.figures import style
from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.errors import FigureError
from persona_assets.reporting.figures.fit import Line, least_squares
from persona_assets.reporting.figures.frames import Row, group_by_persona, one_each, only, reason, rows
from persona_assets.reporting.figures.observed import observed_rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.text import Text


def joined_points(
    source_rates: pl.DataFrame, geometry: pl.DataFrame, context: FigureContext, layer: int, centring: str
) -> tuple[list[Row], list[Row]]:
    """Join rates and cosines of one layer in panel order.

    Returns:
        Rows of `observed_rates` with a `cosine`, and the personas that have only one of the two, with a note.

    Raises:
        FigureError: A table cannot be used, or no persona has both.
    """
    rates, absent = observed_rates(source_rates, context)
    here = rows(only(geometry, "geometry", layer=layer, centring=centring), ("persona", "cosine"), "geometry")
    cosines = one_each(group_by_persona(here, "geometry", context), "geometry")
    points = []
    for rate in rates:
        cosine = cosines.get(rate["persona"])
        if cosine is None or cosine["cosine"] is None:
            absent.append({"persona": rate["persona"], "note": f"no cosine at layer {layer}"})
        else:
            points.append({**rate, "cosine": cosine["cosine"]})
    if not points:
        raise FigureError(f"no persona of {context.study} has both a rate and a cosine at layer {layer}")
    return points, absent


def fitted_line(points: Sequence[Row], context: FigureContext) -> Line | None:
    """Fit the rate on the cosine; None where there is no line."""
    x, y = [p["cosine"] for p in points], [p["rate"] for p in points]
    return least_squares(x, y, context.confidence_level)


def draw_points(axes: Axes, points: Sequence[Row], line: Line | None) -> None:
    """Draw line, band, bars and marks, from the back to the front."""
    if line:
        axes.fill_between(line.x, line.low, line.high, color=style.PALE, linewidth=0, zorder=0)
        axes.plot(line.x, line.fit, color=style.GREY, zorder=1)
    for p in points:
        axes.plot([p["cosine"]] * 2, [p["low"], p["high"]], color=style.LIGHT, linewidth=0.7, zorder=2)
    for p in points:
        axes.plot(p["cosine"], p["rate"], zorder=3, **style.mark_style(p["category"], p["cohort"]))


def set_limits(axes: Axes, points: Sequence[Row]) -> None:
    """Leave room around the points and above them; a band that is wider is cut."""
    low, high = min(p["low"] for p in points), max(p["high"] for p in points)
    room = max(high - low, 0.05)
    axes.set_ylim(max(low - 0.06 * room, -0.03), high + 0.16 * room)
    left, right = min(p["cosine"] for p in points), max(p["cosine"] for p in points)
    wide = max(right - left, 0.05)
    axes.set_xlim(left - 0.08 * wide, right + 0.08 * wide)


def write_corner(axes: Axes, text: str, points: Sequence[Row]) -> Text:
    """Write a text in the upper corner with fewer points under it."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    above = [p for p in points if p["high"] > high - 0.2 * (high - low)]
    on_the_right = sum(p["cosine"] > (left + right) / 2 for p in above)
    if on_the_right <= len(above) - on_the_right:
        return axes.text(0.99, 0.99, text, transform=axes.transAxes, ha="right", va="top")
    return axes.text(0.01, 0.99, text, transform=axes.transAxes, ha="left", va="top")


def category_handles(points: Sequence[Row]) -> list[Line2D]:
    """Legend entries of the categories there are."""
    return [style.category_handle(c) for c in CATEGORIES if any(p["category"] == c for p in points)]


def cohort_handles(points: Sequence[Row]) -> list[Line2D]:
    """Legend entries of the cohorts there are."""
    return [style.cohort_handle(c) for c in style.COHORTS if any(p["cohort"] == c for p in points)]


def rho_text(rho: Row) -> str:
    """Write rho, p and n in a picture."""
    if rho["estimate"] is None:
        return "ρ not estimable"
    return f"ρ = {style.picture_number(rho['estimate'])}, {style.p_text(rho['p'])}, n = {rho['n']}"


def rho_caption(rho: Row) -> str:
    """Write rho, p and n in a caption, or why there is none."""
    if rho["estimate"] is None:
        return f"Spearman rho is not estimable: {reason(rho)}."
    estimate = style.caption_number(rho["estimate"])
    return f"Spearman rho = {estimate}, {style.p_text(rho['p'])} (n = {rho['n']})."


def absent_words(absent: Sequence[Row]) -> str:
    """Name in a caption the personas that are not drawn."""
    return f" Not drawn: {listed(absent)}." if absent else ""


def listed(absent: Sequence[Row]) -> str:
    """List personas with the note of each."""
    return "; ".join(f"{a['persona']} ({a['note']})" for a in absent)
