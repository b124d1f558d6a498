"""The N x N matrix of marker rates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from persona_assets.reporting.figures import style
from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.errors import FigureError
from persona_assets.reporting.figures.measured import measured_cells
from persona_assets.reporting.figures.output import Drawing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PITCH = 1.05 * style.FONT / 72  # inches that a name needs across its direction
_PAD = 0.06  # inches
_BAR = 0.1  # inches, width of the colour bar
_TICKS = (0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1)
_NO_RATE: dict[str, Any] = {
    "facecolor": style.PALE,
    "edgecolor": style.GREY,
    "hatch": "//////",
    "linewidth": 0,
}


def rate_heatmap(cells: pl.DataFrame, context: FigureContext) -> Drawing:
    """Draw the marker rate of every source adapter (row) under every eval persona (column).

    Personas are ordered by category. Self cells are framed, trained negatives carry a dot, cells that were
    not measured are hatched. A rate is the mean over training seeds. The colour scale follows the square root
    of the rate, so that weak leakage can be told from none. The picture is half a page wide where the names
    can be read at that width, and a full page otherwise.

    Args:
        cells: Table `cells`.
        context: Provenance and plan facts.

    Raises:
        FigureError: The table is empty, lacks a column, has a cell twice for a seed, or a persona out of the
            panel.
    """
    order = context.by_category
    index = {persona: i for i, persona in enumerate(order)}
    drawn = measured_cells(cells, context)
    drawn.sort(key=lambda c: (index[c["source"]], index[c["eval_persona"]]))
    size = len(order)
    matrix = np.full((size, size), np.nan)
    for cell in drawn:
        if cell["rate"] is not None:
            matrix[index[cell["source"]], index[cell["eval_persona"]]] = cell["rate"]
    missing = [
        {"source": order[i], "eval_persona": order[j]} for i, j in np.argwhere(np.isnan(matrix)).tolist()
    ]
    if len(missing) == size * size:
        raise FigureError(f"table cells has no rate in any of its {len(drawn)} cells")
    top = max(0.1, math.ceil(10 * float(np.nanmax(matrix)) - 1e-9) / 10)
    unknown = sum(cell["kind"] is None for cell in drawn)
    negatives = [cell for cell in drawn if cell["kind"] == "trained_negative"]
    with style.styled():
        from matplotlib.colors import PowerNorm
        from matplotlib.patches import Rectangle

        figure, axes, bar_axes, cell_side = _frame(order)
        image = axes.imshow(
            np.ma.masked_invalid(matrix),
            cmap="Blues",
            norm=PowerNorm(0.5, 0, top),
            aspect="auto",
            interpolation="nearest",
            zorder=2,
        )
        for gap in missing:
            corner = (index[gap["eval_persona"]] - 0.5, index[gap["source"]] - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, zorder=3, **_NO_RATE))
        for i in range(size):
            axes.add_patch(
                Rectangle(
                    (i - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=style.BLACK, linewidth=0.7, zorder=5
                )
            )
        axes.plot(
            [index[c["eval_persona"]] for c in negatives],
            [index[c["source"]] for c in negatives],
            zorder=6,
            **_dot(cell_side),
        )
        _category_lines(axes, order, context)
        bar = figure.colorbar(
            image, cax=bar_axes, ticks=[tick for tick in _TICKS if tick <= top], format="%g"
        )
        bar.set_label("Marker rate (√ scale)")
        bar_axes.tick_params(length=2)
        for axis in (axes.get_xticklabels(), axes.get_yticklabels()):
            for persona, name in zip(order, axis, strict=True):
                name.set_color(style.CATEGORY_COLOUR[context.categories[persona]])
        legend_rows = _legend_rows(context, cell_side, bool(missing))
        figure.legend(
            handles=style.legend_grid(legend_rows), loc="lower center", ncols=max(map(len, legend_rows))
        )
    caption = (
        "Marker rate of every source adapter (rows) under every eval persona (columns), study "
        f"{context.study}, {size} x {size} cells, personas ordered and coloured by category "
        f"({', '.join(map(style.category_word, context.present_categories))}). Colour scale 0 to {top:g}, by the "
        f"square root of the rate. Framed: the own persona; dots: the {len(negatives)} cells whose eval "
        "persona was one of the source's trained negatives."
        + (f" Of {unknown} cells it is not recorded whether they are trained negatives." if unknown else "")
        + (f" Hatched: {len(missing)} cells without a rate." if missing else "")
    )
    numbers = {"order": list(order), "scale_top": top, "cells": drawn, "not_measured": missing}
    return Drawing("rate_heatmap", figure, caption, numbers, context)


def _dot(cell: float) -> dict[str, Any]:
    """Mark of a trained negative in a cell of so many inches."""
    return {
        "linestyle": "",
        "marker": "o",
        "markersize": min(3.2, 0.35 * 72 * cell),
        "color": style.ORANGE,
        "markeredgewidth": 0.3,
        "markeredgecolor": style.BLACK,
    }


def _frame(order: Sequence[str]) -> tuple[Figure, Axes, Axes, float]:
    """Lay a square matrix out by hand: constrained layout leaves wide margins around axes of fixed aspect.

    The names decide the margins, so they are measured first.

    Returns:
        The figure, the axes of the matrix and of the colour bar, and the side of a cell in inches.
    """
    size = len(order)
    names = [style.readable(p) for p in order]
    probe = style.new_figure(style.HALF_PAGE, style.HALF_PAGE)
    longest = max(probe.text(0, 0, name).get_window_extent().width for name in names) / probe.dpi
    line = 1.4 * style.FONT / 72
    left, bottom, right = (
        longest + line + 2 * _PAD,
        longest + 4 * line + 2 * _PAD,
        _BAR + 3.4 * line + 2 * _PAD,
    )
    fits = (style.HALF_PAGE - left - right) / size >= _PITCH
    width = style.HALF_PAGE if fits else style.FULL_PAGE
    side = width - left - right
    height = bottom + side + _PAD
    figure = style.new_figure(width, height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    bar_axes = figure.add_axes(
        (
            (left + side + 1.5 * _PAD) / width,
            (bottom + 0.15 * side) / height,
            _BAR / width,
            0.7 * side / height,
        )
    )
    axes.set_yticks(range(size), names)
    axes.set_xticks(range(size), names, rotation=90)
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)
    figure.text(
        _PAD / 2 / width,
        (bottom + side / 2) / height,
        "Source persona",
        rotation=90,
        va="center",
        fontsize=style.FONT + 0.5,
    )
    figure.text(
        (left + side / 2) / width, 2.9 * line / height, "Eval persona", ha="center", fontsize=style.FONT + 0.5
    )
    return figure, axes, bar_axes, side / size


def _legend_rows(context: FigureContext, cell_side: float, gaps: bool) -> list[list[Artist]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    cells: list[Artist] = [
        Patch(facecolor="white", edgecolor=style.BLACK, linewidth=0.7, label="self"),
        Line2D([], [], label="trained negative", **_dot(cell_side)),
    ]
    if gaps:
        cells.append(Patch(label="not measured", **_NO_RATE))
    names: list[Artist] = [
        Patch(color=style.CATEGORY_COLOUR[c], label=style.category_word(c)) for c in context.present_categories
    ]
    return [names, cells]


def _category_lines(axes: Axes, order: Sequence[str], context: FigureContext) -> None:
    for i in range(1, len(order)):
        if context.categories[order[i]] != context.categories[order[i - 1]]:
            axes.axhline(i - 0.5, color=style.GREY, linewidth=0.7, zorder=4)
            axes.axvline(i - 0.5, color=style.GREY, linewidth=0.7, zorder=4)
