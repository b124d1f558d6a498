"""The straight line of a scatter plot and its confidence band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Line:
    """A least-squares line, with the confidence band of the mean on a grid of `x`."""

    slope: float
    intercept: float
    x: list[float]
    fit: list[float]
    low: list[float]
    high: list[float]

    def numbers(self) -> dict[str, object]:
        """Everything drawn, for meta.json."""
        grid = zip(self.x, self.fit, self.low, self.high, strict=True)
        band = [{"x": x, "fit": fit, "low": low, "high": high} for x, fit, low, high in grid]
        return {"slope": self.slope, "intercept": self.intercept, "band": band}


def least_squares(
    x: Sequence[float], y: Sequence[float], confidence_level: float, points: int = 41
) -> Line | None:
    """Fit y on x by ordinary least squares.

    The band is the confidence interval of the conditional mean (statsmodels `get_prediction`).

    Args:
        x: Predictor.
        y: Outcome, same length.
        confidence_level: Level of the band.
        points: Size of the grid, from the smallest to the largest x.

    Returns:
        The line, or None where there is none: fewer than three points, or one value of x only.
    """
    if len(x) < 3 or min(x) == max(x):
        return None
    import statsmodels.api as sm

    result = sm.OLS(np.asarray(y, dtype=float), sm.add_constant(np.asarray(x, dtype=float))).fit()
    grid = np.linspace(min(x), max(x), points)
    mean = result.get_prediction(sm.add_constant(grid))
    low, high = mean.conf_int(alpha=1 - confidence_level).T
    intercept, slope = result.params
    return Line(
        float(slope),
        float(intercept),
        grid.tolist(),
        mean.predicted_mean.tolist(),
        low.tolist(),
        high.tolist(),
    )
