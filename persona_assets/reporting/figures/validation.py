"""Cross-validated error of predicting the source rate from the cosine, by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from persona_assets.reporting.figures import style
from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.frames import Row, only, reason
from persona_assets.reporting.figures.layers import (
    absent_layers,
    draw_gapped,
    layer_rows,
    mark_layers,
    once,
    span,
)
from persona_assets.reporting.figures.output import Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_KINDS = {"kfold": ("repeated 5-fold", style.BLUE, "o"), "loo": ("leave-one-out", style.VERMILION, "s")}


def cv_error_by_layer(regressions: pl.DataFrame, context: FigureContext) -> Drawing:
    """Draw the mean squared error of both cross-validations by layer, with their bootstrap intervals.

    The layer of smallest error is marked. It was chosen on the same errors, so the nested error, whose layer
    is chosen inside the loop, is drawn as a line across.

    Args:
        regressions: Tidy table with the rows of family `cross_validation`.
        context: Provenance and plan facts.

    Raises:
        FigureError: There is no such row, or a layer occurs twice.
    """
    own = only(
        regressions, "regressions", family="cross_validation", predictor="cosine", outcome="source_rate"
    )
    series = {kind: _by_layer(own, f"{kind}_mse") for kind in _KINDS}
    everything = [r for taken in series.values() for r in taken]
    drawn = [r for r in everything if r["estimate"] is not None]
    best = {kind: once(own, f"{kind}_argmin_layer") for kind in _KINDS} if drawn else {}
    nested = {name: once(own, name) for name in ("nested_mse", "nested_r2")}
    with style.styled():
        figure = style.new_figure(style.HALF_PAGE, 2.75)
        axes = figure.subplots()
        if drawn:
            mark_layers(axes, series["kfold"] or series["loo"], context)
            for kind, taken in series.items():
                _draw_series(axes, kind, taken, best.get(kind))
            _draw_nested(axes, nested["nested_mse"])
            axes.set_ylim(0, 1.05 * max(r["high"] or r["estimate"] for r in drawn))
            style.add_legend(figure, *_legend(series, nested["nested_mse"]))
        else:
            style.note_on(axes, f"not estimable: {reason(own.head(1).to_dicts()[0])}")
        axes.set_xlabel("Layer")
        axes.set_ylabel("Mean squared error")
    layers = {_layer(row): row for row in everything}  # several kinds of error at each
    where = f"at the layers {span([layers[layer] for layer in sorted(layers)])}" if layers else "at no layer"
    caption = (
        "Cross-validated mean squared error of the source rate predicted from its cosine to "
        f"{context.anchor} {where}, study {context.study}, with {context.confidence_words} bootstrap "
        "intervals; primary layers "
        f"{', '.join(map(str, context.primary_layers))}.{_best_words(best)}{_nested_words(nested, context)}"
        + ("" if drawn else f" Not estimable: {reason(own.head(1).to_dicts()[0])}.")
        + absent_layers(series["kfold"])
    )
    numbers = {
        "series": series,
        "best": best,
        "nested": nested,
        "primary_layers": list(context.primary_layers),
    }
    return Drawing("cv_error_by_layer", figure, caption, numbers, context)


def _layer(row: Row) -> int:
    return int(row["layer"])


def _by_layer(own: pl.DataFrame, statistic: str) -> list[Row]:
    found = own.filter(pl.col("statistic") == statistic, pl.col("layer").is_not_null())
    return [] if found.is_empty() else layer_rows(found)


def _draw_series(axes: Axes, kind: str, taken: Sequence[Row], best: Row | None) -> None:
    _, colour, marker = _KINDS[kind]
    shift = -0.12 if kind == "kfold" else 0.12  # so that the two intervals of a layer do not hide each other
    for r in taken:
        if r["low"] is not None and r["high"] is not None:
            ends = [r["low"], r["high"]]
            axes.plot([r["layer"] + shift] * 2, ends, color=colour, alpha=0.4, linewidth=0.9, zorder=2)
    shifted = [{**r, "layer": r["layer"] + shift} for r in taken]
    draw_gapped(
        axes, shifted, "estimate", color=colour, linewidth=0.7, marker=marker, markersize=2.2, zorder=3
    )
    if best is not None and best["estimate"] is not None:
        ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": colour, "markeredgewidth": 1.0}
        axes.plot(best["layer"] + shift, best["estimate"], marker="o", markersize=7, zorder=4, **ring)


def _draw_nested(axes: Axes, nested: Row | None) -> None:
    if nested is not None and nested["estimate"] is not None:
        axes.axhline(nested["estimate"], color=style.BLACK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)


def _legend(series: dict[str, list[Row]], nested: Row | None) -> tuple[list[Line2D], list[Line2D]]:
    from matplotlib.lines import Line2D

    kinds = [
        Line2D([], [], color=colour, marker=marker, markersize=2.6, linewidth=0.7, label=words)
        for kind, (words, colour, marker) in _KINDS.items()
        if series[kind]
    ]
    other = [style.handle("smallest", "o", style.GREY, face="none", size=6)]
    other.append(Line2D([], [], color=style.ORANGE, linewidth=3, alpha=0.5, label="primary layer"))
    if nested is not None and nested["estimate"] is not None:
        dashed = Line2D([], [], color=style.BLACK, linewidth=0.9, linestyle=(0, (4, 2)), label="nested")
        kinds.append(dashed)
    return kinds, other


def _best_words(best: dict[str, Row | None]) -> str:
    return "".join(
        f" Smallest {_KINDS[kind][0]} error (ring): {style.caption_number(row['estimate'], 4)} at layer "
        f"{row['layer']}."
        for kind, row in best.items()
        if row is not None and row["estimate"] is not None
    )


def _nested_words(nested: dict[str, Row | None], context: FigureContext) -> str:
    error, r2 = nested["nested_mse"], nested["nested_r2"]
    if error is None or error["estimate"] is None:
        return "" if error is None else f" Nested error: not estimable, {reason(error)}."
    told = (
        f" Dashed: error with the layer chosen inside the loop, {style.caption_number(error['estimate'], 4)}"
    )
    if r2 is None or r2["estimate"] is None:
        return told + "."
    told += f", R2 = {style.caption_number(r2['estimate'])}"
    if r2["low"] is None or r2["high"] is None:
        return told + "."
    low, high = style.caption_number(r2["low"]), style.caption_number(r2["high"])
    return f"{told} ({context.confidence_words} interval {low} to {high})."
