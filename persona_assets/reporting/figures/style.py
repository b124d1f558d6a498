"""One look for every figure: sizes, colours, marks and the way numbers are written.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with the common
colour deficiencies can tell apart; category is coded by the shape of the mark as well, cohort by its filling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from persona_assets.reporting.figures.fonts import font_family

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

HALF_PAGE = 3.4  # inches
FULL_PAGE = 6.9
FONT = 7.0  # points; nothing is written smaller
_LONGEST_NAME = 26
ROW = 8.8 / 72  # inches between rows of text: FONT and some air

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY, LIGHT, PALE = "#666666", "#BBBBBB", "#EBEBEB"

CATEGORY_COLOUR = {"occupational": BLUE, "character": VERMILION, "generic_helper": GREEN}
CATEGORY_MARK = {"occupational": "o", "character": "s", "generic_helper": "^"}
COHORTS = ("inherited", "new")

_RC: dict[str, Any] = {
    "font.size": FONT,
    "axes.labelsize": FONT + 0.5,
    "axes.titlesize": FONT + 0.5,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "legend.fontsize": FONT,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.0,
    "legend.borderaxespad": 0.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.0,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,
    "pdf.compression": 6,
}


@contextmanager
def styled() -> Iterator[None]:
    """Apply the style, and nothing of the user's own matplotlib settings, while it lasts."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC | {"font.family": font_family()})
        yield


def new_figure(width: float, height: float) -> Figure:
    """Make a figure of `width` x `height` inches on an Agg canvas, laid out by constrained layout."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dots_per_inch(width), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def freeze_layout(figure: Figure) -> None:
    """Lay a figure out once and for all: constrained layout moves a little with every drawing."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def dots_per_inch(width: float) -> int:
    """Resolution of the png: 850 pixels at half a page, 966 at a full one, within 600-1000."""
    return 250 if width <= 4 else 140


def readable(persona: str) -> str:
    """Write a persona id as words; a very long one is cut, its full name stands in meta.json."""
    words = persona.replace("_", " ")
    return words if len(words) <= _LONGEST_NAME else words[: _LONGEST_NAME - 1].rstrip() + "…"


def picture_number(value: float, digits: int = 2) -> str:
    """Write a number for a picture, with a real minus sign."""
    return caption_number(value, digits).replace("-", "\N{MINUS SIGN}")


def caption_number(value: float, digits: int = 3) -> str:
    """Write a number for a caption, in plain ASCII."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def p_text(p: float | None) -> str:
    """Write a p-value: `p = .014`, `p < .001`, or that there is none."""
    if p is None:
        return "p not estimable"
    if p < 0.001:
        return "p < .001"
    return "p = " + f"{p:.3f}".removeprefix("0")


def category_word(category: str) -> str:
    """Write a category as words."""
    return category.replace("_", " ")


def handle(label: str, marker: str, colour: str, *, face: str | None = None, size: float = 4.0) -> Line2D:
    """Legend entry of a mark; `face` is its filling where that differs from `colour`."""
    from matplotlib.lines import Line2D

    filling = colour if face is None else face
    return Line2D(
        [],
        [],
        linestyle="",
        marker=marker,
        markersize=size,
        color=colour,
        markerfacecolor=filling,
        label=label,
    )


def category_handle(category: str) -> Line2D:
    """Legend entry of a category."""
    return handle(category_word(category), CATEGORY_MARK[category], CATEGORY_COLOUR[category])


def cohort_handle(cohort: str) -> Line2D:
    """Legend entry of a cohort: inherited marks are filled, new ones open."""
    return handle(cohort, "D", GREY, face=None if cohort == "inherited" else "white", size=3.6)


def mark_style(category: str, cohort: str, size: float = 4.0) -> dict[str, Any]:
    """Keyword arguments of `Axes.plot` for the mark of one persona."""
    colour = CATEGORY_COLOUR[category]
    return {
        "marker": CATEGORY_MARK[category],
        "markersize": size,
        "markeredgecolor": colour,
        "markerfacecolor": colour if cohort == "inherited" else "white",
        "markeredgewidth": 0.8,
        "linestyle": "",
    }


def add_legend(figure: Figure, *rows: Sequence[Artist]) -> None:
    """Put a legend below the axes, where it can cover nothing; each argument is one row of it."""
    filled = [row for row in rows if row]
    if filled:
        columns = max(len(row) for row in filled)
        figure.legend(handles=legend_grid(filled), loc="outside lower center", ncols=columns)


def legend_grid(rows: Sequence[Sequence[Artist]]) -> list[Artist]:
    """Order handles so that matplotlib, which fills columns, shows the rows given."""
    from matplotlib.lines import Line2D

    columns = max(len(row) for row in rows)
    return [
        row[i] if i < len(row) else Line2D([], [], linestyle="", label=" ")
        for i in range(columns)
        for row in rows
    ]


def note_on(axes: Axes, text: str) -> None:
    """Write in the middle of an empty panel why it is empty."""
    import textwrap

    axes.text(
        0.5,
        0.5,
        textwrap.fill(text, 48),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=GREY,
        style="italic",
        bbox={"facecolor": "white", "linewidth": 0, "pad": 2},
        zorder=8,
    )


def note_row(axes: Axes, y: float, text: str) -> None:
    """Write in a row of a dot plot why it has no dot."""
    axes.text(0.01, y, text, va="center", style="italic", color=GREY, transform=axes.get_yaxis_transform())


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a dot plot, from the top down, and rule them."""
    for y in range(len(names)):
        axes.axhline(y, color=PALE, linewidth=0.5, zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
