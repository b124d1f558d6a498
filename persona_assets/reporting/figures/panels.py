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
        f"{', '.join(map(str, layers))}, as it is, partial on the log length of the prompt, and as the "
        f"rank residuals ranked again, for the studies {', '.join(regressions)}. {told}"
        + "".join(
            f" Not drawn: {r['statistic']} of {r['study']} at layer {r['layer']} ({reason(r)})."
            for r in absent
        )
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
