"""Did unchanged adapters keep their source rates, since the parent study and since earlier measurements?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from persona_assets.reporting.figures import style
from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.errors import FigureError
from persona_assets.reporting.figures.frames import Row
from persona_assets.reporting.figures.inherited import DIRECTIONS, PARENT, Comparison, Earlier, compare
from persona_assets.reporting.figures.output import Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOUR = {"drop": style.VERMILION, "increase": style.BLUE, "tie": style.GREY}
_MARK = {"drop": "v", "increase": "^", "tie": "o"}
_HATCH = {"drop": "", "tie": "....", "increase": "////"}


def drift(
    inherited_drift: pl.DataFrame,
    drift_tests: pl.DataFrame,
    context: FigureContext,
    earlier: Earlier = PARENT,
) -> Drawing:
    """Draw every inherited source's rate in the parent study, or in an earlier measurement, and now.

    Drops, ties and increases are counted from the table, over sources whose adapter did not change, with the
    mean delta of a source over its training seeds. A `confounded` verdict is stamped on the picture, and so
    is a row of another measurement identity or of an unknown adapter.

    Args:
        inherited_drift: Table `inherited_drift`.
        drift_tests: Table `drift_tests`.
        context: Provenance and plan facts.
        earlier: What the rates of now are compared with.

    Raises:
        FigureError: A table is empty or lacks a column, a row occurs twice, or a delta is not the difference
            of its two rates.
    """
    found = compare(inherited_drift, drift_tests, context, earlier)
    drawn = found.sources
    words = dict.fromkeys(found.not_measured, f"not measured {earlier.both}")
    words |= dict.fromkeys(found.retrained, "retrained, not inherited")
    for row in drawn:
        words.pop(row["persona"], None)
    shown = [*(r["persona"] for r in drawn), *words]
    with style.styled():
        figure = style.new_figure(style.HALF_PAGE, 1.0 + 1.15 * style.ROW * len(shown))
        axes = figure.subplots()
        style.name_rows(axes, [style.readable(p) for p in shown])
        for y, persona in enumerate(shown):
            if y < len(drawn):
                _draw_source(axes, drawn[y], y)
            else:
                style.note_row(axes, y, words[persona])
        end = max([0.1, *(r[side] for r in drawn for side in ("parent_high", "now_high"))])
        axes.set_xlim(-0.02, end + 0.02)
        axes.set_xlabel("Source rate")
        marks = [style.handle(earlier.mark, "D", style.BLACK, face="white", size=3.2)]
        marks += [
            style.handle(f"now: {way}", _MARK[way], _COLOUR[way]) for way in DIRECTIONS if found.counts[way]
        ]
        style.add_legend(figure, marks[:2], marks[2:])
        if found.confounded:
            _stamp(figure, axes, found)
    several = any(len(r["seeds"]) > 1 for r in drawn)
    bars = (
        "mean over training seeds, bars: their range"
        if several
        else f"bars: {context.confidence_words} Wilson intervals"
    )
    caption = (
        f"Source rate of the adapters that study {context.study} {earlier.sources} (diamond) and "
        f"now, largest drop first ({bars}): "
        f"{found.count_words()}.{found.confounded_words()}{found.test_words()}"
        + (f" Not measured in both: {', '.join(found.not_measured)}." if found.not_measured else "")
        + (
            f" Retrained under the same name, so not inherited and not counted: {', '.join(found.retrained)}."
            if found.retrained
            else ""
        )
    )
    return Drawing(earlier.figure, figure, caption, found.numbers(), context)


def drift_counts(
    comparisons: Mapping[str, tuple[pl.DataFrame, pl.DataFrame]],
    context: FigureContext,
    measurements: Mapping[str, Earlier] | None = None,
) -> Drawing:
    """Draw the shares of drops, ties and increases of comparisons, against the registered thresholds.

    Args:
        comparisons: Name of a study, or of an earlier measurement -> its tables `inherited_drift` and
            `drift_tests`, in the order of the rows.
        context: Provenance and plan facts of the study that publishes the picture.
        measurements: What each row is compared with, by name; None where each is compared with its parent study.

    Raises:
        FigureError: There is no comparison, or as for `drift`.
    """
    if not comparisons:
        raise FigureError("drift_counts needs the tables of at least one study with a parent")
    found = {
        name: compare(*tables, context, PARENT if measurements is None else measurements[name])
        for name, tables in comparisons.items()
    }
    labels = [name if measurements is None else f"since {measurements[name].mark}" for name in found]
    thresholds = {"auto-LOW": context.drift_low_share, "match": context.drift_match_share}
    with style.styled():
        from matplotlib.patches import Patch

        figure = style.new_figure(style.HALF_PAGE, 1.25 + 0.42 * len(found))
        axes = figure.subplots()
        for y, comparison in enumerate(found.values()):
            _draw_shares(axes, comparison, y)
            if not comparison.sources:
                axes.text(
                    0.01, y, "no inherited source to compare", va="center", style="italic", color=style.GREY
                )
        axes.set_yticks(range(len(found)), labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(found) - 0.4, -0.75)
        axes.set_xlim(0, 1)
        for (name, share), across in zip(thresholds.items(), ("right", "left"), strict=True):
            axes.axvline(share, color=style.BLACK, linewidth=0.8, linestyle=(0, (3, 2)))
            offset = -0.01 if across == "right" else 0.01
            axes.text(share + offset, -0.72, f"{name} ≥ {share:g}", ha=across, va="top")
        which = "inherited" if measurements is None else "re-measured"
        axes.set_xlabel(f"Share of {which} sources, drops from the left")
        patches = [
            Patch(facecolor=_COLOUR[way], edgecolor="white", hatch=_HATCH[way], linewidth=0, label=way)
            for way in DIRECTIONS
        ]
        style.add_legend(figure, patches)
    told = " ".join(
        f"{label[:1].upper() if measurements else label[:1]}{label[1:]}: {comparison.count_words()}."
        f"{comparison.test_words()}{comparison.confounded_words()}"
        for label, comparison in zip(labels, found.values(), strict=True)
    )
    what = (
        "Inherited sources whose source rate dropped, tied or rose since the parent study"
        if measurements is None
        else f"Sources that study {context.study} measured again, whose source rate dropped, tied or rose"
    )
    caption = (
        f"{what}. {told} Dashed: "
        f"the shares of drops from which the confidence is LOW ({context.drift_low_share:g}) and from "
        f"which the previous episode is matched ({context.drift_match_share:g})."
    )
    numbers = {
        "thresholds": thresholds,
        "studies": {
            study: {"counts": c.counts, "n": len(c.sources), "confounded": c.confounded, "tests": c.tests}
            for study, c in found.items()
        },
    }
    name = "drift_counts" if measurements is None else "remeasurement_counts"
    return Drawing(name, figure, caption, numbers, context)


def _draw_source(axes: Axes, row: Row, y: int) -> None:
    colour = _COLOUR[row["direction"]]
    for when, offset, shade in (("parent", -0.18, style.LIGHT), ("now", 0.18, colour)):
        ends = [row[f"{when}_low"], row[f"{when}_high"]]
        axes.plot(ends, [y + offset] * 2, color=shade, linewidth=0.8, zorder=2)
    parent: dict[str, Any] = {"color": style.BLACK, "markerfacecolor": "white", "markeredgewidth": 0.7}
    axes.plot(row["rate_parent"], y - 0.18, linestyle="", marker="D", markersize=3, zorder=3, **parent)
    now: dict[str, Any] = {"color": colour, "markeredgewidth": 0}
    axes.plot(
        row["rate_now"], y + 0.18, linestyle="", marker=_MARK[row["direction"]], markersize=4, zorder=4, **now
    )


def _draw_shares(axes: Axes, comparison: Comparison, y: int) -> None:
    left = 0.0
    for way in DIRECTIONS:
        count = comparison.counts[way]
        if not count:
            continue
        width = count / len(comparison.sources)
        axes.barh(
            y,
            width,
            0.55,
            left,
            color=_COLOUR[way],
            hatch=_HATCH[way],
            edgecolor="white",
            linewidth=0,
            alpha=0.35 if comparison.confounded else 1.0,
        )
        box = {"facecolor": "white", "pad": 1, "linewidth": 0}
        axes.text(
            left + width / 2, y, str(count), ha="center", va="center", weight="bold", bbox=box, zorder=5
        )
        left += width
    if comparison.confounded:
        axes.text(0.02, y + 0.31, "CONFOUNDED", va="top", weight="bold", color=style.VERMILION)


def _stamp(figure: Figure, axes: Axes, found: Comparison) -> None:
    """Write across the picture that it shows no drift; the data stay visible."""
    by_adapter = found.unknown_adapter and not found.other_identity
    why = "the adapters may differ" if by_adapter else f"measured differently {found.earlier.identity}"
    figure.suptitle(f"CONFOUNDED: {why}", fontsize=style.FONT, weight="bold", color=style.VERMILION)
    axes.text(
        0.5,
        0.5,
        "CONFOUNDED",
        transform=axes.transAxes,
        rotation=35,
        ha="center",
        va="center",
        fontsize=24,
        weight="bold",
        color=style.VERMILION,
        alpha=0.22,
        zorder=1,
        in_layout=False,
        clip_on=True,
    )
