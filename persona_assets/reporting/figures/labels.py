"""Names beside points, where they fit; a name that would cover something is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from persona_assets.reporting.figures.style import FONT, freeze_layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

_BARS_CROSSED = 1  # bars are pale: a name may lie on one of another point, but not where it hides more
_CLEARER = 1.8  # how much farther the next mark must be than the own one
# Offsets in points from the centre of the mark, with the alignment of the text; tried in this order.
_PLACES = (
    (4.5, 0.0, "left", "center"),
    (-4.5, 0.0, "right", "center"),
    (3.0, 3.5, "left", "bottom"),
    (3.0, -3.5, "left", "top"),
    (-3.0, 3.5, "right", "bottom"),
    (-3.0, -3.5, "right", "top"),
    (0.0, 5.0, "center", "bottom"),
    (0.0, -5.0, "center", "top"),
)


@dataclass(frozen=True)
class Labelled:
    """A point that wants a name; `low` and `high` are the ends of its vertical interval bar."""

    text: str
    x: float
    y: float
    low: float
    high: float


def place_labels(
    axes: Axes,
    points: Sequence[Labelled],
    taken: Sequence[Bbox] = (),
    line: tuple[Sequence[float], Sequence[float]] | None = None,
    mark: float = 4.0,
) -> list[str]:
    """Write the names of points where they cover no mark, name or text, and point at no other mark.

    The layout is frozen first, because a name that fits now must fit in the file.

    Args:
        axes: Axes that hold everything else already.
        points: In order of importance: an early point gets its place first.
        taken: Boxes in pixels that are occupied already.
        line: x and y of a line that names keep off where they can.
        mark: Diameter of a mark in points.

    Returns:
        The names written, in the order of `points`.
    """
    from matplotlib.transforms import Bbox

    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("labels need axes that belong to a figure")
    freeze_layout(figure)
    pixel = figure.dpi / 72
    centres = [tuple(axes.transData.transform((p.x, p.y))) for p in points]
    radius = mark / 2 * pixel
    marks = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in centres]
    path: list[tuple[float, float]] = (
        axes.transData.transform(list(zip(*line, strict=True))).tolist() if line else []
    )
    soft = [Bbox.from_extents(x - radius, y - pixel, x + radius, y + pixel) for x, y in path]
    bars = []
    for point, (x, _) in zip(points, centres, strict=True):
        (low, high) = (axes.transData.transform((point.x, end))[1] for end in (point.low, point.high))
        bars.append(Bbox.from_extents(x - pixel / 2, low, x + pixel / 2, high))
    blocked = [*taken, *marks]
    written = []
    for number, point in enumerate(points):
        # First a place that touches nothing at all, then one on the fitted line or on a pale bar of another
        # point.
        for bars_crossed, kept_free in ((0, [*blocked, *soft]), (_BARS_CROSSED, blocked)):
            box = _try_places(axes, point, number, centres, bars, kept_free, bars_crossed)
            if box is not None:
                blocked.append(box)
                written.append(point.text)
                break
    return written


def _try_places(
    axes: Axes,
    point: Labelled,
    number: int,
    centres: Sequence[tuple[float, float]],
    bars: Sequence[Bbox],
    kept_free: Sequence[Bbox],
    bars_crossed: int,
) -> Bbox | None:
    """Write one name at the first place that fits; give its box, or None where there is no such place."""
    frame = axes.get_window_extent()
    for dx, dy, across, along in _PLACES:
        text = axes.annotate(
            point.text,
            (point.x, point.y),
            (dx, dy),
            textcoords="offset points",
            ha=across,
            va=along,
            fontsize=FONT,
            color="#333333",
        )
        box = text.get_window_extent()
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        covers = any(box.overlaps(b) for b in kept_free) or box.overlaps(bars[number])
        crossed = sum(box.overlaps(bar) for bar in bars)
        distances = [_distance(box, x, y) for x, y in centres]
        others = [d for k, d in enumerate(distances) if k != number]
        ambiguous = bool(others) and min(others) < _CLEARER * distances[number]
        if inside and not covers and crossed <= bars_crossed and not ambiguous:
            return box
        text.remove()
    return None


def _distance(box: Bbox, x: float, y: float) -> float:
    """Distance in pixels from a point to the nearest edge of a box."""
    return math.hypot(max(box.x0 - x, 0.0, x - box.x1), max(box.y0 - y, 0.0, y - box.y1))
