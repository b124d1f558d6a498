"""Source rate against the cosine to the anchor: at each primary layer, and split by category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from persona_assets.reporting.figures import scatter, style
from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.fit import Line
from persona_assets.reporting.figures.frames import Row, statistic
from persona_assets.reporting.figures.labels import Labelled, place_labels
from persona_assets.reporting.figures.observed import bar_words
from persona_assets.reporting.figures.output import Drawing

_RHO = {"predictor": "cosine", "statistic": "spearman", "registered": True}


def source_rate_vs_cosine(
    source_rates: pl.DataFrame,
    geometry: pl.DataFrame,
    regressions: pl.DataFrame,
    context: FigureContext,
    *,
    layer: int,
    centring: str = "panel",
) -> Drawing:
    """Draw source rate against cosine to the anchor at one layer.

    Points carry Wilson bars; the line is least squares with the confidence band of the mean; rho and p are
    those of the registered Spearman row of `regressions`.

    Args:
        source_rates: Table `source_rates`.
        geometry: Table `geometry`.
        regressions: Tidy table with the registered `spearman` row of family `scan` at the layer.
        context: Provenance and plan facts.
        layer: Layer to draw.
        centring: Which cosine of `geometry`.

    Raises:
        FigureError: A table is empty, lacks a column, or does not have the layer.
    """
    points, absent = scatter.joined_points(source_rates, geometry, context, layer, centring)
    rho = statistic(regressions, family="scan", layer=layer, outcome="source_rate", **_RHO)
    line = scatter.fitted_line(points, context)
    with style.styled():
        figure = style.new_figure(style.HALF_PAGE, 2.95)
        axes = figure.subplots()
        scatter.draw_points(axes, points, line)
        scatter.set_limits(axes, points)
        corner = scatter.write_corner(axes, scatter.rho_text(rho), points)
        axes.set_xlabel(f"Cosine to {style.readable(context.anchor)}, layer {layer}")
        axes.set_ylabel("Source rate")
        style.add_legend(figure, scatter.category_handles(points), scatter.cohort_handles(points))
        style.freeze_layout(figure)
        order = sorted(points, key=lambda p: (p["persona"] != context.anchor, -_distance(p, line, points)))
        wanted = [
            Labelled(style.readable(p["persona"]), p["cosine"], p["rate"], p["low"], p["high"]) for p in order
        ]
        path = (line.x, line.fit) if line else None
        named = place_labels(axes, wanted, [corner.get_window_extent()], path)
    fitted = (
        f"Line: least squares with the {context.confidence_words} confidence band of the mean."
        if line
        else "No line: the points have fewer than two different cosines, or are fewer than three."
    )
    flagged = [p["persona"] for p in points if p["truncation_flagged"]]
    caption = (
        f"Source rate against the cosine ({centring}-centred) between the centroid of the persona and that "
        f"of {context.anchor} at layer {layer}, study {context.study}, {len(points)} personas. "
        f"{bar_words(points, context)} {fitted} {scatter.rho_caption(rho)}{scatter.absent_words(absent)}"
        + (f" Flagged for truncated completions: {', '.join(flagged)}." if flagged else "")
    )
    numbers = {
        "layer": layer,
        "centring": centring,
        "points": points,
        "line": line.numbers() if line else None,
        "spearman": rho,
        "absent": absent,
        "named": named,
    }
    return Drawing(f"source_rate_vs_cosine_layer{layer}", figure, caption, numbers, context)


def within_category(
    source_rates: pl.DataFrame,
    geometry: pl.DataFrame,
    regressions: pl.DataFrame,
    context: FigureContext,
    *,
    layer: int,
    centring: str = "panel",
) -> Drawing:
    """Draw source rate against cosine in one panel per category, each with its own line and rho.

    Args:
        source_rates: Table `source_rates`.
        geometry: Table `geometry`.
        regressions: Tidy table; the registered `spearman` rows of family `within_category` at the layer, with
            outcome `source_rate:<category>`, and `source_rate:<category>:without_largest` where there.
        context: Provenance and plan facts.
        layer: Layer to draw.
        centring: Which cosine of `geometry`.

    Raises:
        FigureError: A table is empty, lacks a column, or does not have the layer or a category.
    """
    everyone, absent = scatter.joined_points(source_rates, geometry, context, layer, centring)
    left_out = sorted(context.not_within_category)
    points = [p for p in everyone if p["persona"] not in left_out]
    categories = context.present_categories
    panels: dict[str, dict[str, Any]] = {}
    told = []
    with style.styled():
        figure = style.new_figure(style.HALF_PAGE, 0.75 + 1.35 * len(categories))
        column = figure.subplots(len(categories), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, category in zip(column, categories, strict=True):
            own = [p for p in points if p["category"] == category]
            line = scatter.fitted_line(own, context)
            rho, without = _category_rows(regressions, layer, category)
            scatter.draw_points(axes, own, line)
            axes.set_title(f"{style.category_word(category)}: {scatter.rho_text(rho)}", loc="left")
            if not own:
                style.note_on(axes, "no persona of this category was measured")
            panels[category] = {"points": own, "spearman": rho, "spearman_without_largest": without}
            panels[category]["line"] = line.numbers() if line else None
            told.append(
                f"{style.category_word(category)}: {scatter.rho_caption(rho)}{_without_words(without)}"
            )
        if points:
            scatter.set_limits(column[0], points)
        column[-1].set_xlabel(f"Cosine to {style.readable(context.anchor)}, layer {layer}")
        figure.supylabel("Source rate", fontsize=style.FONT + 0.5)
        style.add_legend(figure, scatter.cohort_handles(everyone))
    caption = (
        f"Source rate against the cosine ({centring}-centred) to {context.anchor} at layer {layer} within "
        f"each category, study {context.study}. {bar_words(everyone, context)} Lines: least squares with "
        f"the {context.confidence_words} confidence band of the mean. {' '.join(told)}"
        + (f" Left out by the plan: {', '.join(left_out)}." if left_out else "")
        + scatter.absent_words(absent)
    )
    numbers = {
        "layer": layer,
        "centring": centring,
        "categories": panels,
        "left_out": left_out,
        "absent": absent,
    }
    return Drawing(f"within_category_layer{layer}", figure, caption, numbers, context)


def _distance(point: Row, line: Line | None, points: Sequence[Row]) -> float:
    """Say how much a point stands out: from the line, or from the mean rate where there is no line."""
    if line is None:
        return float(abs(point["rate"] - sum(p["rate"] for p in points) / len(points)))
    return float(abs(point["rate"] - line.intercept - line.slope * point["cosine"]))


def _category_rows(regressions: pl.DataFrame, layer: int, category: str) -> tuple[Row, Row | None]:
    outcome = f"source_rate:{category}"
    rho = statistic(regressions, family="within_category", layer=layer, outcome=outcome, **_RHO)
    without = f"{outcome}:without_largest"
    if regressions.filter(family="within_category", layer=layer, outcome=without).is_empty():
        return rho, None
    return rho, statistic(regressions, family="within_category", layer=layer, outcome=without, **_RHO)


def _without_words(without: Row | None) -> str:
    if without is None or without["estimate"] is None:
        return ""
    return (
        f" Without its largest source rate: {style.caption_number(without['estimate'])}, "
        f"{style.p_text(without['p'])}."
    )
