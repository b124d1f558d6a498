"""Does a marker leak to eval personas that lie close to the source persona?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from persona_assets.reporting.figures import style
from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.errors import FigureError
from persona_assets.reporting.figures.frames import Row, only, rows, statistic
from persona_assets.reporting.figures.measured import measured_cells
from persona_assets.reporting.figures.output import Drawing
from persona_assets.reporting.figures.scatter import rho_caption, rho_text
from persona_assets.statistics.off_diagonal import STRONG_ABOVE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 10
_EMITTERS = ("strong", "weak")


def off_diagonal(
    cells: pl.DataFrame,
    pairwise_cosines: pl.DataFrame,
    tests: pl.DataFrame,
    context: FigureContext,
    *,
    layer: int,
    centring: str = "panel",
) -> Drawing:
    """Draw bystander rate against the cosine of source and eval persona, for strong and for weak emitters.

    Each point is a cell off the diagonal; trained negatives have a mark of their own. The line is the mean
    rate in ten bins of equally many cells. Rho and the Mantel p are those of the table.

    Args:
        cells: Table `cells`.
        pairwise_cosines: Table `pairwise_cosines`.
        tests: Tidy table with the `spearman` and `spearman_naive` rows of family `off_diagonal` at the layer,
            with the outcomes `bystander_rate:strong` and `bystander_rate:weak`.
        context: Provenance and plan facts.
        layer: Layer to draw.
        centring: Which cosine of `pairwise_cosines`.

    Raises:
        FigureError: A table is empty, lacks a column or the layer, or a measured pair has no cosine.
    """
    measured = measured_cells(cells, context)
    own_rate = {c["source"]: c["rate"] for c in measured if c["kind"] == "self"}
    cosine = _cosines(pairwise_cosines, layer, centring)
    groups: dict[str, list[Row]] = {name: [] for name in _EMITTERS}
    unplaced = set()
    for cell in measured:
        if cell["kind"] == "self" or cell["rate"] is None:
            continue
        strength = own_rate.get(cell["source"])
        if strength is None:
            unplaced.add(cell["source"])
            continue
        pair = (cell["source"], cell["eval_persona"])
        if pair not in cosine:
            raise FigureError(f"table pairwise_cosines has no cosine of {pair} at layer {layer}")
        groups["strong" if strength > STRONG_ABOVE else "weak"].append({**cell, "cosine": cosine[pair]})
    if not any(groups.values()):
        raise FigureError("table cells has no measured cell off the diagonal whose source has a source rate")
    found = {
        name: {kind: _test(tests, layer, name, kind) for kind in ("spearman", "spearman_naive")}
        for name in _EMITTERS
    }
    trends = {name: _bins(taken) for name, taken in groups.items()}
    with style.styled():
        figure = style.new_figure(style.HALF_PAGE, 4.1)
        panels = figure.subplots(2, 1, sharex=True, sharey=True)
        for axes, (name, taken) in zip(panels, groups.items(), strict=True):
            _draw_cells(axes, taken, trends[name])
            sources = len({c["source"] for c in taken})
            axes.set_title(f"{name} emitters ({sources}): {rho_text(found[name]['spearman'])}", loc="left")
            if not taken:
                style.note_on(axes, "no such source")
        panels[-1].set_xlabel(f"Cosine of source and eval persona, layer {layer}")
        figure.supylabel("Bystander rate", fontsize=style.FONT + 0.5)
        handles = [
            style.handle("cell", "o", style.BLUE, size=2.5),
            style.handle("trained negative", "x", style.ORANGE),
            style.handle("mean of a bin", "s", style.BLACK, size=3),
        ]
        style.add_legend(figure, handles)
    drawn = sum(map(len, groups.values()))
    naive = "; ".join(f"{name} {style.p_text(found[name]['spearman_naive']['p'])}" for name in _EMITTERS)
    caption = (
        f"Bystander rate of {drawn} cells against the cosine ({centring}-centred) of source and eval "
        f"persona at layer {layer}, study {context.study}, for sources with a rate above {STRONG_ABOVE:g} "
        f"(strong) and the others (weak); p is the Mantel permutation p. Squares: mean rate in {_BINS} "
        f"bins of equally many cells. Strong: {rho_caption(found['strong']['spearman'])} Weak: "
        f"{rho_caption(found['weak']['spearman'])} The ordinary p, invalid because cells share personas: "
        f"{naive}."
        + (f" Without a source rate, so in neither: {', '.join(sorted(unplaced))}." if unplaced else "")
    )
    numbers = {
        "layer": layer,
        "centring": centring,
        "strong_above": STRONG_ABOVE,
        "cells": groups,
        "bins": trends,
        "tests": found,
        "without_source_rate": sorted(unplaced),
    }
    return Drawing(f"off_diagonal_layer{layer}", figure, caption, numbers, context)


def _cosines(table: pl.DataFrame, layer: int, centring: str) -> dict[tuple[str, str], float]:
    """Index the cosines of a layer by ordered pair; a null one is as good as absent."""
    here = only(table, "pairwise_cosines", layer=layer, centring=centring)
    found: dict[tuple[str, str], float] = {}
    for row in rows(here, ("persona_a", "persona_b", "cosine"), "pairwise_cosines"):
        pair = (row["persona_a"], row["persona_b"])
        if pair in found:
            raise FigureError(f"table pairwise_cosines has {pair} twice at layer {layer}")
        if row["cosine"] is not None:
            found[pair] = row["cosine"]
    return found


def _test(tests: pl.DataFrame, layer: int, emitters: str, kind: str) -> Row:
    return statistic(
        tests, family="off_diagonal", layer=layer, outcome=f"bystander_rate:{emitters}", statistic=kind
    )


def _bins(taken: Sequence[Row]) -> list[Row]:
    """Average cosine and rate in bins of equally many cells along the cosine; none for very few cells."""
    if len(taken) < 2 * _BINS:
        return []
    ordered = sorted(taken, key=lambda c: (c["cosine"], c["source"], c["eval_persona"]))
    bins = []
    for part in np.array_split(np.arange(len(ordered)), _BINS):
        own = [ordered[i] for i in part]
        means = {name: float(np.mean([c[name] for c in own])) for name in ("cosine", "rate")}
        bins.append({**means, "n": len(own)})
    return bins


def _draw_cells(axes: Axes, taken: Sequence[Row], trend: Sequence[Row]) -> None:
    plain: dict[str, Any] = {"s": 5, "color": style.BLUE, "alpha": 0.35, "linewidths": 0, "zorder": 1}
    trained: dict[str, Any] = {"s": 9, "color": style.ORANGE, "marker": "x", "linewidths": 0.8, "zorder": 2}
    for negatives, how in ((False, plain), (True, trained)):
        own = [c for c in taken if (c["kind"] == "trained_negative") == negatives]
        axes.scatter([c["cosine"] for c in own], [c["rate"] for c in own], **how)
    line: dict[str, Any] = {"color": style.BLACK, "marker": "s", "markersize": 3, "linewidth": 0.9}
    axes.plot([b["cosine"] for b in trend], [b["rate"] for b in trend], zorder=3, **line)
