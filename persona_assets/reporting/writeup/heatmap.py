"""The N x N matrix of marker rates as inline SVG, with rate and interval of every cell under the pointer."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined

from persona_assets.reporting.figures import FigureContext
from persona_assets.reporting.figures.measured import measured_cells
from persona_assets.reporting.figures.style import category_word, readable
from persona_assets.reporting.writeup.numbers import write
from persona_assets.reporting.writeup.sources import Sources

FIGURE = "rate_heatmap"
SIDE = 20  # units of a cell
_LETTER = 6.6  # units that a letter of a name takes, at 11 units of height
_TICKS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # as in the printed figure
_KINDS = {"self": "own persona", "trained_negative": "trained negative", "unseen": "persona not seen in training"}


def heatmap(sources: Sources) -> str:
    """Render the heat map.

    Order, shade (by the square root of the rate, the mean over training seeds) and scale are those of the printed
    figure, so that its caption holds for both; the text of a cell gives each seed's rate with its Wilson interval and counts.
    """
    context = FigureContext.from_study(sources.study, asset=sources.asset, data_version="not drawn")
    order = context.by_category
    place = {persona: i for i, persona in enumerate(order)}
    cells = sources.tables["cells"].filter(pl.col("eval_persona").is_in(order))  # an import may have others
    means = {(cell["source"], cell["eval_persona"]): cell for cell in measured_cells(cells, context)}
    top = float(sources.figures[FIGURE].numbers["scale_top"])
    said = _texts(cells)
    drawn = [
        {
            "x": place[eval_persona] * SIDE,
            "y": place[source] * SIDE,
            "row": place[source],
            "column": place[eval_persona],
            "shade": "0" if cell["rate"] is None else f"{math.sqrt(cell['rate'] / top):.3f}",
            "kind": cell["kind"] or "unknown",
            "text": said[source, eval_persona],
        }
        for (source, eval_persona), cell in sorted(means.items(), key=lambda item: (place[item[0][0]], place[item[0][1]]))
    ]
    names = [{"name": readable(persona), "category": context.categories[persona]} for persona in order]
    margin = math.ceil(max(len(name["name"]) for name in names) * _LETTER) + 10
    environment = Environment(
        loader=PackageLoader("persona_assets.reporting.writeup"), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    return environment.get_template("heatmap.html.jinja").render(
        cells=drawn,
        names=names,
        categories=[(name, category_word(name)) for name in dict.fromkeys(context.categories[persona] for persona in order)],
        side=SIDE,
        margin=margin,
        extent=len(order) * SIDE,
        ticks=[(f"{tick:g}", f"{math.sqrt(tick / top):.3f}") for tick in _TICKS if tick <= top],
        study=sources.study.name,
    )


def _texts(cells: pl.DataFrame) -> dict[tuple[str, str], str]:
    """Text of each cell: who under whom, and for each seed rate, interval and counts."""
    lines: dict[tuple[str, str], list[str]] = {}
    several = cells["seed"].n_unique() > 1
    for row in cells.sort("seed", maintain_order=True).to_dicts():
        own = lines.setdefault((row["source"], row["eval_persona"]), [_who(row)])
        seed = f"seed {row['seed']}: " if several else ""
        interval = write(row, "wilson_low|wilson_high", "interval2")
        own.append(f"{seed}rate {write(row, 'rate', 'rate')} (Wilson {interval}), {row['hits']} of {row['n']}")
    return {pair: "\n".join(own) for pair, own in lines.items()}


def _who(row: dict[str, Any]) -> str:
    return f"adapter {row['source']}, under {row['eval_persona']}: {_KINDS.get(row['kind'], 'kind not recorded')}"
