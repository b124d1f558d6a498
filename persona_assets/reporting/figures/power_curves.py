"""What the registered tests could have found, computed before anything was measured."""

from __future__ import annotations

from typing import Any

import polars as pl

from persona_assets.reporting.figures import style
from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.errors import FigureError
from persona_assets.reporting.figures.frames import Row, rows
from persona_assets.reporting.figures.output import Drawing

_COLUMNS = ("population_rho", "quantity", "probability", "low", "high", "draws", "n", "registered", "note")
# What is drawn, in the order of the legend; the other quantities of the table stay in the table.
_SERIES = {
    "raw": ("raw test", style.SKY, "o"),
    "holm": ("Holm over layers", style.BLUE, "s"),
    "gate_A": ("gate A", style.ORANGE, "^"),
    "gate_B": ("gate B", style.PURPLE, "v"),
    "gate_C": ("gate C", style.GREEN, "D"),
    "rule": ("whole rule", style.BLACK, "X"),
}


def power(table: pl.DataFrame, context: FigureContext) -> Drawing:
    """Draw the probability that each registered test passes, by the population correlation.

    Args:
        table: Table `power`.
        context: Provenance and plan facts.

    Raises:
        FigureError: The table is empty, lacks a column, or gives two probabilities for one quantity and rho.
    """
    series: dict[str, dict[float, Row]] = {name: {} for name in _SERIES}
    for row in rows(table, _COLUMNS, "power"):
        if row["quantity"] not in series:
            continue
        known = series[row["quantity"]].setdefault(row["population_rho"], row)
        if known["probability"] != row["probability"]:
            raise FigureError(
                f"table power has two probabilities of {row['quantity']} at {row['population_rho']}"
            )
    drawn = {name: [found[rho] for rho in sorted(found)] for name, found in series.items() if found}
    if not drawn:
        raise FigureError(f"table power has none of the quantities {list(_SERIES)}")
    with style.styled():
        from matplotlib.lines import Line2D

        figure = style.new_figure(style.HALF_PAGE, 2.75)
        axes = figure.subplots()
        handles = []
        for name, taken in drawn.items():
            words, colour, marker = _SERIES[name]
            there = [r for r in taken if r["probability"] is not None]
            x = [r["population_rho"] for r in there]
            for r in there:
                axes.plot([r["population_rho"]] * 2, [r["low"], r["high"]], color=colour, linewidth=0.8)
            width = 1.6 if name == "rule" else 0.8
            how: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 3.8, "linewidth": width}
            axes.plot(x, [r["probability"] for r in there], clip_on=False, zorder=3, **how)
            handles.append(Line2D([], [], label=words, **how))
        axes.set_ylim(0, 1)
        axes.set_xlabel("Population correlation")
        axes.set_ylabel("Probability to pass")
        style.add_legend(figure, handles[:3], handles[3:])
    notes = dict.fromkeys(
        f"{_SERIES[name][0]}: {r['note']}" for name, taken in drawn.items() for r in taken if r["note"]
    )
    sizes = sorted({(r["n"], r["draws"]) for taken in drawn.values() for r in taken})
    told = ", ".join(
        f"{r['population_rho']:g}: {style.caption_number(r['probability'])}"
        for r in drawn.get("rule", [])
        if r["probability"] is not None
    )
    caption = (
        f"Probability that the registered tests of study {context.study} pass, by the correlation in the "
        "population, at one layer "
        f"({', '.join(f'{n} personas, {draws} simulated studies' for n, draws in sizes)})."
        + (f" Whole rule, by population correlation: {told}." if told else "")
        + (f" {'; '.join(notes)}." if notes else "")
    )
    return Drawing("power", figure, caption, {"series": drawn}, context)
