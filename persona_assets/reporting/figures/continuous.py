"""The continuous outcome: against the cosine to the anchor, and beside the source rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from persona_assets.reporting.figures import scatter, style
from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.errors import FigureError
from persona_assets.reporting.figures.frames import Row, each_seed_once, group_by_persona, one_each, only, rows, statistic
from persona_assets.reporting.figures.output import Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WORDS = {
    "marker_log_prob": "log P(marker), nats",
    "marker_margin": "Margin, nats",
}
_CAPTION = (
    "log P(marker): log probability of the marker at the end of the stored replies, trained minus base model; margin: the same "
    "over the log probability of the end of the turn."
)


def continuous_vs_cosine(
    source_scores: pl.DataFrame, geometry: pl.DataFrame, regressions: pl.DataFrame, context: FigureContext, *, layer: int
) -> Drawing:
    """Draw both continuous outcomes of the sources against the cosine to the anchor at one layer.

    Args:
        source_scores: Table `source_scores`, not empty.
        geometry: Table `geometry`.
        regressions: Tidy table with the `spearman` rows of family `continuous` at the layer.
        context: Provenance and plan facts.
        layer: Layer to draw.

    Raises:
        FigureError: A table is empty, lacks a column, or does not have the layer; or no persona has a score and a cosine.
    """
    here = rows(only(geometry, "geometry", layer=layer, centring="panel"), ("persona", "cosine"), "geometry")
    cosines = {
        persona: row["cosine"] for persona, row in one_each(group_by_persona(here, "geometry", context), "geometry").items()
    }
    panels: dict[str, Any] = {}
    told = []
    with style.styled():
        figure = style.new_figure(style.HALF_PAGE, 4.4)
        column = figure.subplots(2, 1, sharex=True)
        for axes, (outcome, words) in zip(column, _WORDS.items(), strict=True):
            points = [
                {**point, "cosine": cosines[point["persona"]]}
                for point in _values(source_scores, outcome, context)
                if cosines.get(point["persona"]) is not None
            ]
            if not points:
                raise FigureError(f"no persona of {context.study} has both a score and a cosine at layer {layer}")
            line = scatter.fitted_line(points, context)
            rho = statistic(
                regressions, family="continuous", layer=layer, outcome=outcome, predictor="cosine", statistic="spearman"
            )
            scatter.draw_points(axes, points, line)
            _finish(axes, words, scatter.rho_text(rho))
            panels[outcome] = {"points": points, "spearman": rho, "line": line.numbers() if line else None}
            told.append(f"{outcome}: {scatter.rho_caption(rho)}")
        column[-1].set_xlabel(f"Cosine to {style.readable(context.anchor)}, layer {layer}")
        style.add_legend(figure, scatter.category_handles(points), scatter.cohort_handles(points))
    caption = (
        f"Continuous outcomes of each source persona against the cosine (panel-centred) to {context.anchor} at layer {layer}, "
        f"study {context.study}, {len(points)} personas. {_CAPTION} {_bars(points, context)} {' '.join(told)}"
    )
    return Drawing(f"continuous_vs_cosine_layer{layer}", figure, caption, {"layer": layer, "outcomes": panels}, context)


def rate_vs_log_prob(source_scores: pl.DataFrame, regressions: pl.DataFrame, context: FigureContext) -> Drawing:
    """Draw the source rate against log P(marker) of the same replies.

    Args:
        source_scores: Table `source_scores`, not empty.
        regressions: Tidy table with the `spearman` row of family `continuous` whose predictor is `source_rate`.
        context: Provenance and plan facts.

    Raises:
        FigureError: A table is empty or lacks a column, or no persona has a score.
    """
    points = [{**point, "cosine": point["source_rate"]} for point in _values(source_scores, "marker_log_prob", context)]
    if not points:
        raise FigureError(f"no persona of {context.study} has a score")
    rho = statistic(regressions, family="continuous", outcome="marker_log_prob", predictor="source_rate", statistic="spearman")
    with style.styled():
        figure = style.new_figure(style.HALF_PAGE, 2.95)
        axes = figure.subplots()
        scatter.draw_points(axes, points, None)
        _finish(axes, _WORDS["marker_log_prob"], scatter.rho_text(rho))
        axes.set_xlabel("Source rate")
        style.add_legend(figure, scatter.category_handles(points), scatter.cohort_handles(points))
    caption = (
        f"log P(marker) of each source persona against its source rate, of the same replies, study {context.study}, "
        f"{len(points)} personas. {_CAPTION} {_bars(points, context)} {scatter.rho_caption(rho)}"
    )
    return Drawing("rate_vs_log_prob", figure, caption, {"points": points, "spearman": rho}, context)


def _values(source_scores: pl.DataFrame, outcome: str, context: FigureContext) -> list[Row]:
    """One value per persona with a score: the mean over training seeds; low and high as `_bars` says."""
    columns = ("persona", "category", "cohort", "seed", "rate", outcome, f"{outcome}_low", f"{outcome}_high")
    found = []
    groups = group_by_persona(rows(source_scores, columns, "source_scores"), "source_scores", context)
    for persona, unsorted in groups.items():
        own = each_seed_once(unsorted, f"table source_scores, persona {persona!r}")
        values = [row[outcome] for row in own]
        if any(value is None for value in values):
            continue
        one = own[0] if len(own) == 1 else None
        low = min(values) if one is None or one[f"{outcome}_low"] is None else one[f"{outcome}_low"]
        high = max(values) if one is None or one[f"{outcome}_high"] is None else one[f"{outcome}_high"]
        found.append(
            {
                **{name: own[0][name] for name in ("persona", "category", "cohort")},
                "rate": sum(values) / len(values),
                "low": low,
                "high": high,
                "source_rate": sum(row["rate"] for row in own) / len(own),
                "seeds": len(own),
            }
        )
    return found


def _bars(points: list[Row], context: FigureContext) -> str:
    if max(point["seeds"] for point in points) > 1:
        return "Points: mean over training seeds; bars: their range."
    return f"Bars: {context.confidence_words} intervals, clustered by question."


def _finish(axes: Axes, words: str, corner: str) -> None:
    axes.margins(y=0.12)
    axes.set_ylabel(words)
    axes.text(0.99, 0.99, corner, transform=axes.transAxes, ha="right", va="top")
