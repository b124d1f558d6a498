"""Statistics drawn by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from persona_assets.reporting.figures import style
from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.errors import FigureError
from persona_assets.reporting.figures.frames import TIDY, Row, only, reason, rows, with_reason
from persona_assets.reporting.figures.output import Drawing

_BANDS = (("critical_rho", "raw", style.PALE), ("holm_critical_rho", "Holm", "#D8E4EC"))

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes


def spearman_by_layer(regressions: pl.DataFrame, context: FigureContext) -> Drawing:
    """Draw Spearman's rho of source rate and cosine by layer, with its bootstrap interval.

    The bands are the table's critical values of |rho|: raw, and the first step of Holm's procedure over the
    layers. A layer that is not estimable is left out and named in the caption.

    Args:
        regressions: Tidy table with the registered rows of family `scan`: `spearman` by layer and, where
            there, `spearman_holm` by layer, `critical_rho` and `holm_critical_rho`.
        context: Provenance and plan facts.

    Raises:
        FigureError: There is no `spearman` row, or a layer occurs twice.
    """
    own = only(
        regressions, "regressions", family="scan", predictor="cosine", outcome="source_rate", registered=True
    )
    scan = layer_rows(own, statistic="spearman")
    drawn = [r for r in scan if r["estimate"] is not None]
    found = {name: once(own, name) for name, *_ in _BANDS}
    critical = {name: None if row is None else row["estimate"] for name, row in found.items()}
    holm = _holm(own)
    significant = [layer for layer, p in holm.items() if p is not None and p < context.alpha]
    with style.styled():
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch
        from matplotlib.ticker import MultipleLocator

        figure = style.new_figure(style.HALF_PAGE, 2.75)
        axes = figure.subplots()
        bands = []
        for order, (name, word, colour) in enumerate(_BANDS):
            bound = critical[name]
            if bound is not None:
                bands.append(Patch(color=colour, label=f"|ρ| > {style.picture_number(bound)} ({word})"))
                for sign in (-1, 1):
                    axes.axhspan(sign * bound, sign, color=colour, linewidth=0, zorder=0.1 * order)
        axes.axhline(0, color=style.BLACK, linewidth=0.5, zorder=1)
        mark_layers(axes, scan, context)
        for r in drawn:
            if r["low"] is not None and r["high"] is not None:
                axes.plot([r["layer"]] * 2, [r["low"], r["high"]], color=style.SKY, linewidth=1.0, zorder=2)
        draw_gapped(axes, scan, "estimate", color=style.BLUE, linewidth=0.7, zorder=3)
        for r in drawn:
            axes.plot(
                r["layer"],
                r["estimate"],
                linestyle="",
                marker="o",
                markersize=3.2,
                markeredgecolor=style.BLUE,
                markerfacecolor=style.BLUE if r["layer"] in significant else "white",
                markeredgewidth=0.8,
                zorder=4,
            )
        if not drawn:
            style.note_on(axes, f"not estimable at any layer: {reason(scan[0])}")
        axes.set_ylim(-1, 1)
        axes.yaxis.set_major_locator(MultipleLocator(0.5))
        axes.set_xlabel("Layer")
        axes.set_ylabel("Spearman ρ, rate and cosine")
        marks = [Line2D([], [], color=style.ORANGE, linewidth=3, alpha=0.5, label="primary layer")]
        if holm:
            marks.append(
                Line2D([], [], linestyle="", marker="o", markersize=3.2, color=style.BLUE, label="Holm p < α")
            )
        style.add_legend(figure, bands, marks)
    caption = (
        f"Spearman correlation of source rate and cosine to {context.anchor} at the layers {span(scan)}, "
        f"study {context.study}, with {context.confidence_words} bootstrap intervals; primary layers "
        f"{', '.join(map(str, context.primary_layers))}."
    )
    if critical["critical_rho"] is not None:
        caption += (
            f" Grey: |rho| above the raw critical value {style.caption_number(critical['critical_rho'])}"
        )
        caption += f" (two-sided, alpha {context.alpha:g})."
    if critical["holm_critical_rho"] is not None:
        caption += (
            f" Blue: above that of Holm's first step, {style.caption_number(critical['holm_critical_rho'])}."
        )
    if holm:
        caption += f" Filled: Holm-adjusted p below alpha ({len(significant)} of {len(holm)} layers)."
    caption += absent_layers(scan)
    numbers = {
        "layers": scan,
        "critical": critical,
        "holm_p": [{"layer": k, "p": p} for k, p in holm.items()],
        "primary_layers": list(context.primary_layers),
    }
    return Drawing("spearman_by_layer", figure, caption, numbers, context)


def layer_rows(regressions: pl.DataFrame, **equals: object) -> list[Row]:
    """Take one row per layer, sorted by layer.

    Raises:
        FigureError: There is none, a layer occurs twice, or a row has no layer.
    """
    found = [with_reason(r) for r in rows(only(regressions, "regressions", **equals), TIDY, "regressions")]
    layers = [r["layer"] for r in found]
    if None in layers or len(set(layers)) != len(layers):
        raise FigureError(
            f"table regressions needs one row per layer for {equals}; it has the layers {layers}"
        )
    return sorted(found, key=lambda r: r["layer"])


def draw_gapped(axes: Axes, scan: Sequence[Row], column: str, **how: object) -> None:
    """Draw a line over layers that breaks where a value is missing."""
    values = [float("nan") if r[column] is None else r[column] for r in scan]
    axes.plot([r["layer"] for r in scan], values, **how)  # type: ignore[arg-type]


def mark_layers(axes: Axes, scan: Sequence[Row], context: FigureContext) -> None:
    """Mark the primary layers, and hatch those at which nothing could be estimated."""
    from matplotlib.ticker import MaxNLocator

    for layer in context.primary_layers:
        axes.axvspan(layer - 0.35, layer + 0.35, color=style.ORANGE, alpha=0.35, linewidth=0, zorder=0.5)
    for r in scan:
        if r["estimate"] is None:
            axes.axvspan(
                r["layer"] - 0.5,
                r["layer"] + 0.5,
                facecolor="none",
                edgecolor=style.LIGHT,
                hatch="////",
                linewidth=0,
                zorder=0.6,
            )
    axes.set_xlim(scan[0]["layer"] - 0.7, scan[-1]["layer"] + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def absent_layers(scan: Sequence[Row]) -> str:
    """Say in a caption which layers are not drawn, and why."""
    reasons: dict[str, list[str]] = {}
    for r in scan:
        if r["estimate"] is None:
            reasons.setdefault(reason(r), []).append(str(r["layer"]))
    told = ""
    for note, layers in reasons.items():
        where = "every layer" if len(layers) == len(scan) else f"layer {', '.join(layers)}"
        told += f" Not estimable (hatched) at {where}: {note}."
    return told


def _holm(own: pl.DataFrame) -> dict[int, float | None]:
    chosen = own.filter(statistic="spearman_holm")
    return {} if chosen.is_empty() else {r["layer"]: r["p"] for r in layer_rows(chosen)}


def once(own: pl.DataFrame, name: str) -> Row | None:
    """Take the row of a statistic that is there once, not by layer; None where it is not there.

    Raises:
        FigureError: There are several.
    """
    found = own.filter(statistic=name)
    if found.height > 1:
        raise FigureError(f"table regressions has {found.height} rows {name!r}, one is needed")
    return None if found.is_empty() else with_reason(rows(found, TIDY, "regressions")[0])


def span(scan: Sequence[Row]) -> str:
    """Write the layers of a caption: the first and the last, or each where there are gaps between them."""
    layers = [row["layer"] for row in scan]
    if layers != list(range(layers[0], layers[-1] + 1)):
        return ", ".join(map(str, layers))
    return f"{layers[0]} to {layers[-1]}"
