"""The cosine beside predictors that see only the text of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from persona_assets.reporting.figures import style
from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.frames import TIDY, Row, only, reason, rows, statistic, with_reason
from persona_assets.reporting.figures.output import Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WORDS = {
    "neg_levenshtein": "−Levenshtein",
    "token_jaccard": "token Jaccard",
    "bpe_jaccard": "BPE Jaccard",
}
_TESTS = {
    "mrr_z": ("MRR z", "o", style.BLUE),
    "steiger_eq14_z": ("Steiger eq. 14", "s", style.VERMILION),
    "williams_t2": ("Williams T2", "^", style.GREEN),
}
_SMALLEST_P = 1e-4  # the axis of p ends here; a smaller p is drawn at its end


def surface_baselines(regressions: pl.DataFrame, context: FigureContext) -> Drawing:
    """Draw rho of cosine and surface predictors with the source rate, and the tests of their differences.

    Above: Spearman's rho of the cosine at each primary layer and of each surface predictor. Below: the
    p-values of the three tests for dependent correlations, cosine against each predictor, at each primary
    layer.

    Args:
        regressions: Tidy table with the rows of family `baselines`, and the registered `spearman` rows of
            family `scan` at the primary layers.
        context: Provenance and plan facts.

    Raises:
        FigureError: A row is missing or occurs twice.
    """
    own = only(regressions, "regressions", family="baselines", outcome="source_rate")
    surface = [
        with_reason(r) for r in rows(only(own, "regressions", statistic="spearman"), TIDY, "regressions")
    ]
    names = [r["predictor"] for r in surface]
    cosine = [
        statistic(
            regressions,
            family="scan",
            layer=layer,
            predictor="cosine",
            outcome="source_rate",
            statistic="spearman",
            registered=True,
        )
        for layer in context.primary_layers
    ]
    tests = [
        {test: _test(own, layer, name, test) for test in _TESTS} | {"layer": layer, "predictor": name}
        for layer in context.primary_layers
        for name in names
    ]
    with style.styled():
        heights = [len(cosine) + len(surface), len(tests)]
        figure = style.new_figure(style.HALF_PAGE, 1.6 + 1.5 * style.ROW * sum(heights))
        upper, lower = figure.subplots(2, 1, height_ratios=heights)
        _draw_rhos(upper, [*cosine, *surface])
        _draw_tests(lower, tests, context)
        handles = [style.handle(words, mark, colour) for words, mark, colour in _TESTS.values()]
        style.add_legend(figure, handles)
    gone = [r for r in [*cosine, *surface] if r["estimate"] is None]
    untested = [t for t in tests if t["mrr_z"]["p"] is None]
    layers = ", ".join(map(str, context.primary_layers))
    significant = sum(t["mrr_z"]["p"] is not None and t["mrr_z"]["p"] < context.alpha for t in tests)
    caption = (
        f"Spearman correlation with the source rate of the cosine to {context.anchor} at layer {layers} "
        f"(with {context.confidence_words} bootstrap intervals) and of similarities of the prompt texts, "
        f"study {context.study}. Below: p of three tests for dependent correlations (MRR: Meng, Rosenthal "
        f"and Rubin), cosine at layer {layers} against each similarity; the dashed line is alpha "
        f"{context.alpha:g}. The MRR test is below alpha in {significant} of {len(tests)} comparisons "
        "(uncorrected)."
        + "".join(f" Not drawn: {r['predictor']} ({reason(r)})." for r in gone)
        + "".join(
            f" Not tested: {t['predictor']} at layer {t['layer']} ({reason(t['mrr_z'])})." for t in untested
        )
    )
    numbers = {"cosine": cosine, "surface": surface, "tests": tests, "alpha": context.alpha}
    return Drawing("surface_baselines", figure, caption, numbers, context)


def _test(own: pl.DataFrame, layer: int, name: str, test: str) -> Row:
    return statistic(own, layer=layer, predictor=f"cosine - {name}", outcome="source_rate", statistic=test)


def _draw_rhos(axes: Axes, taken: Sequence[Row]) -> None:
    style.name_rows(axes, [_name(r) for r in taken])
    axes.axvline(0, color=style.BLACK, linewidth=0.5)
    for y, r in enumerate(taken):
        if r["estimate"] is None:
            style.note_row(axes, y, "not estimable")
            continue
        is_cosine = r["predictor"] == "cosine"
        colour = style.BLUE if is_cosine else style.GREY
        if r["low"] is not None and r["high"] is not None:
            axes.plot([r["low"], r["high"]], [y, y], color=colour, linewidth=0.9)
        axes.plot(r["estimate"], y, marker="o" if is_cosine else "D", markersize=4, color=colour)
        text = style.p_text(r["p"])
        axes.text(1.01, y, text, va="center", transform=axes.get_yaxis_transform())
    axes.set_xlim(-1, 1)
    axes.set_xlabel("Spearman ρ with the source rate")


def _draw_tests(axes: Axes, tests: Sequence[Row], context: FigureContext) -> None:
    style.name_rows(axes, [f"L{t['layer']} vs {_WORDS.get(t['predictor'], t['predictor'])}" for t in tests])
    axes.axvline(context.alpha, color=style.BLACK, linewidth=0.7, linestyle=(0, (3, 2)))
    for y, t in enumerate(tests):
        for (test, (_, mark, colour)), shift in zip(_TESTS.items(), (-0.24, 0.0, 0.24), strict=True):
            p = t[test]["p"]
            if p is not None:
                axes.plot(
                    max(p, _SMALLEST_P), y + shift, marker=mark, markersize=3.4, color=colour, linestyle=""
                )
        if all(t[test]["p"] is None for test in _TESTS):
            style.note_row(axes, y, "not estimable")
    axes.set_xscale("log")
    axes.set_xlim(_SMALLEST_P * 0.8, 1.25)
    axes.set_xticks([1e-4, 1e-3, 1e-2, 1e-1, 1], ["≤.0001", ".001", ".01", ".1", "1"])
    axes.minorticks_off()
    axes.set_xlabel("p of the difference from the cosine")


def _name(row: Row) -> str:
    if row["predictor"] == "cosine":
        return f"cosine, layer {row['layer']}"
    return _WORDS.get(row["predictor"], str(row["predictor"]))
