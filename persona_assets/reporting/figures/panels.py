"""A study beside its ancestors: correlations over panel sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from persona_assets.reporting.figures import style
from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.errors import FigureError
from persona_assets.reporting.figures.frames import TIDY, Row, only, reason, rows, with_reason
from persona_assets.reporting.figures.output import Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CORRELATIONS = {
    "spearman": ("scan", "Spearman ρ", style.BLUE, "o"),
    "partial_spearman": ("partial", "given length", style.VERMILION, "s"),
    "partial_reranked": ("partial", "as older scripts had it", style.GREEN, "^"),
}


def length_partial(regressions: Mapping[str, pl.DataFrame], context: FigureContext) -> Drawing:
    """Draw rho with and without the length of the prompt held fixed, for a study and its ancestors.

    Filled marks have p below alpha. A correlation that is not estimable, or a layer that a study does not
    have, is left out and named in the caption.

    Args:
        regressions: Name of a study -> its tidy table, the smallest panel first.
        context: Provenance and plan facts of the study that publishes the picture; its primary layers are
            drawn.

    Raises:
        FigureError: There is no study, or a table cannot be used.
    """
    if not regressions:
        raise FigureError("length_partial needs the regressions of at least one study")
    taken = [
        _row(table, study, layer, name)
        for layer in context.primary_layers
        for study, table in regressions.items()
        for name in _CORRELATIONS
    ]
    layers = context.primary_layers
    with style.styled():
        figure = style.new_figure(style.HALF_PAGE, 2.55)
        panels = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
        for axes, layer in zip(panels, layers, strict=True):
            here = [r for r in taken if r["layer"] == layer]
            _draw_layer(axes, here, list(regressions), context)
            axes.set_title(f"layer {layer}", loc="left")
        panels[0].set_ylabel("Correlation with the source rate")
        handles = [style.handle(words, mark, colour) for _, words, colour, mark in _CORRELATIONS.values()]
        handles.append(style.handle(f"p ≥ {context.alpha:g}", "D", style.GREY, face="white", size=3.6))
        style.add_legend(figure, handles[:2], handles[2:])
    told = " ".join(
        _words(r) for r in taken if r["estimate"] is not None and r["statistic"] == "partial_spearman"
    )
    absent = [r for r in taken if r["estimate"] is None]
    caption = (
        f"Spearman correlation of source rate and cosine to {context.anchor} at layer "
        f"{', '.join(map(str, layers))}, as it is, partial on the log length of the prompt, and as the rank "
        f"residuals ranked again, for the studies {', '.join(regressions)}. {told}{_not_drawn(absent)}"
    )
    return Drawing("length_partial", figure, caption, {"rows": taken, "alpha": context.alpha}, context)


def _row(table: pl.DataFrame, study: str, layer: int, name: str) -> Row:
    """Take a study's row; a layer it does not have is a row without estimate."""
    family = _CORRELATIONS[name][0]
    own = only(
        table,
        f"regressions of {study}",
        family=family,
        predictor="cosine",
        outcome="source_rate",
        statistic=name,
    )
    # A layer may stand there once as registered and never as sensitivity: the predictor's name tells those
    # apart.
    found = own.filter(layer=layer)
    if found.height > 1:
        raise FigureError(f"table regressions of {study} has {found.height} rows {name} at layer {layer}")
    if found.is_empty():
        missing: Row = dict.fromkeys(TIDY)
        return {
            **missing,
            "study": study,
            "layer": layer,
            "statistic": name,
            "note": "the study has no such layer",
        }
    return {**with_reason(rows(found, TIDY, f"regressions of {study}")[0]), "study": study}


def _draw_layer(axes: Axes, here: Sequence[Row], studies: Sequence[str], context: FigureContext) -> None:
    axes.axhline(0, color=style.BLACK, linewidth=0.5)
    for (name, (_, _, colour, mark)), shift in zip(_CORRELATIONS.items(), (-0.2, 0.0, 0.2), strict=True):
        for r in here:
            if r["statistic"] != name or r["estimate"] is None:
                continue
            x = studies.index(r["study"]) + shift
            significant = r["p"] is not None and r["p"] < context.alpha
            how: dict[str, Any] = {"color": colour, "markerfacecolor": colour if significant else "white"}
            axes.plot([x, x], [0, r["estimate"]], color=colour, linewidth=0.7, zorder=1)
            axes.plot(x, r["estimate"], linestyle="", marker=mark, markersize=4.2, zorder=2, **how)
    sizes = {r["study"]: r["n"] for r in here if r["n"] is not None}
    labels = [f"{s}\nN = {sizes[s]}" if s in sizes else s for s in studies]
    axes.set_xticks(range(len(studies)), labels)
    axes.set_xlim(-0.6, len(studies) - 0.4)
    axes.set_ylim(-1, 1)
    axes.set_yticks([-1, -0.5, 0, 0.5, 1])


def _words(row: Row) -> str:
    return (
        f"{row['study']}, layer {row['layer']}, given length: {style.caption_number(row['estimate'])}, "
        f"{style.p_text(row['p'])}."
    )


def attenuation(table: pl.DataFrame, context: FigureContext) -> Drawing:
    """Draw |rho| over panel sizes, of a study with its ancestors and of random sub-panels of the largest.

    Args:
        table: Tidy table with the rows of family `attenuation`: `abs_rho` (outcome `source_rate:<study>`),
            `subpanel_abs_rho` (n is the size) and `ratio_abs_rho` (outcome `source_rate:<larger>/<smaller>`).
        context: Provenance and plan facts; its primary layers are drawn.

    Raises:
        FigureError: The table is empty, or lacks a column or a primary layer.
    """
    own = rows(only(table, "attenuation", family="attenuation"), TIDY, "attenuation")
    layers = context.primary_layers
    here = [with_reason(r) for r in own if r["layer"] in layers]
    by_kind = {
        kind: [
            {**r, "study": r["outcome"].removeprefix("source_rate:")} for r in here if r["statistic"] == kind
        ]
        for kind in ("abs_rho", "subpanel_abs_rho", "ratio_abs_rho")
    }
    lacking = [layer for layer in layers if not any(r["layer"] == layer for r in by_kind["abs_rho"])]
    if lacking:
        raise FigureError(f"table attenuation has no abs_rho at the primary layers {lacking}")
    drawn = [
        r for kind in ("abs_rho", "subpanel_abs_rho") for r in by_kind[kind] if r["estimate"] is not None
    ]
    sizes = sorted({r["n"] for r in drawn})
    with style.styled():
        from matplotlib.patches import Patch

        figure = style.new_figure(style.HALF_PAGE, 2.45)
        panels = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
        if not drawn:
            style.note_on(panels[0], "not estimable in any study")
        for axes, layer in zip(panels, layers, strict=True):
            at_layer = {kind: [r for r in found if r["layer"] == layer] for kind, found in by_kind.items()}
            _draw_sizes(axes, at_layer, sizes)
            axes.set_title(f"layer {layer}", loc="left")
        panels[0].set_ylabel("|Spearman ρ|")
        patch = Patch(color=style.LIGHT, label="random sub-panels of the largest")
        style.add_legend(figure, [style.handle("study", "o", style.BLUE), patch])
    absent = [r for found in by_kind.values() for r in found if r["estimate"] is None]
    judged = "".join(map(_size_words, by_kind["subpanel_abs_rho"]))
    ratios = "".join(_ratio_words(r, context) for r in by_kind["ratio_abs_rho"])
    caption = (
        f"|rho| of source rate and cosine to {context.anchor} at layer {', '.join(map(str, layers))} over "
        f"the size of the panel, with {context.confidence_words} bootstrap intervals; grey: median and "
        f"central {context.confidence_words} of |rho| in random sub-panels of the largest panel."
        f"{judged}{ratios}{_not_drawn(absent)}"
    )
    return Drawing("attenuation", figure, caption, by_kind, context)


def _draw_sizes(axes: Axes, at_layer: Mapping[str, Sequence[Row]], sizes: Sequence[int]) -> None:
    places = {size: i for i, size in enumerate(sizes)}
    for r in at_layer["subpanel_abs_rho"]:
        if r["estimate"] is None:
            continue
        x = places[r["n"]] + 0.17
        if r["low"] is not None and r["high"] is not None:
            axes.bar(x, r["high"] - r["low"], 0.22, r["low"], color=style.LIGHT, linewidth=0)
        axes.plot([x - 0.11, x + 0.11], [r["estimate"]] * 2, color=style.BLACK, linewidth=1.2)
    taken: dict[int, int] = {}
    for r in at_layer["abs_rho"]:
        if r["estimate"] is None:
            continue
        x = places[r["n"]] - 0.17 - 0.12 * taken.get(r["n"], 0)  # two studies of one size stand side by side
        taken[r["n"]] = taken.get(r["n"], 0) + 1
        if r["low"] is not None and r["high"] is not None:
            axes.plot([x, x], [r["low"], r["high"]], color=style.BLUE, linewidth=1.0)
        axes.plot(x, r["estimate"], linestyle="", marker="o", markersize=4.2, color=style.BLUE)
    axes.set_xticks(range(len(sizes)), [f"N = {size}" for size in sizes])
    axes.set_xlim(-0.6, max(len(sizes), 1) - 0.4)
    axes.set_ylim(0, 1)


def _size_words(row: Row) -> str:
    if row["estimate"] is None or row["p"] is None:
        return ""
    where = f" Layer {row['layer']}, sub-panels of {row['n']} with at least the |rho| measured"
    return f"{where}: {style.p_text(row['p'])}."


def _ratio_words(row: Row, context: FigureContext) -> str:
    if row["estimate"] is None:
        return ""
    told = f" Layer {row['layer']}, |rho| of {row['study'].replace('/', ' over ')}"
    told += f": {style.caption_number(row['estimate'])}"
    if row["low"] is None or row["high"] is None:
        return f"{told}."
    low, high = style.caption_number(row["low"]), style.caption_number(row["high"])
    return f"{told} ({context.confidence_words} interval {low} to {high})."


def _not_drawn(absent: Sequence[Row]) -> str:
    return "".join(
        f" Not drawn: {r['statistic']} of {r['study']} at layer {r['layer']} ({reason(r)})." for r in absent
    )
