"""Gates A, B and C, one decision at a time: a gate on one split at one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from persona_assets.statistics.correlations import critical_rho, spearman
from persona_assets.statistics.observations import OCCUPATIONAL
from persona_assets.statistics.scan import OUTCOME
from persona_assets.statistics.splits import Split
from persona_assets.statistics.tidy import RowTemplate, TidyRow, why_not_estimable

if TYPE_CHECKING:
    from persona_assets.statistics.observations import StudyObservations
    from persona_assets.statistics.tidy import BoolArray, FloatArray

GATES_SCHEMA: dict[str, type[pl.DataType]] = {
    "gate": pl.String,
    "split": pl.String,
    "layer": pl.Int64,
    "observed": pl.Float64,
    "threshold": pl.Float64,
    "p": pl.Float64,
    "n": pl.Int64,
    "passed": pl.Boolean,
    "registered": pl.Boolean,
    "note": pl.String,
}


@dataclass(frozen=True)
class GateRow:
    """One decision: a gate on one split at one layer. `observed` is compared with `threshold`."""

    gate: str
    split: str | None
    layer: int
    observed: float | None
    threshold: float | None
    p: float | None
    n: int
    passed: bool
    registered: bool
    note: str


@dataclass(frozen=True)
class Slope:
    """Least-squares slope of rate on cosine with its standard error (scipy linregress)."""

    slope: float
    stderr: float
    n: int


def slope(x: FloatArray, y: FloatArray) -> tuple[Slope | None, str | None]:
    """Slope of rate on cosine, or None and the reason; needs 3 personas and a cosine that varies."""
    from scipy.stats import linregress

    reason = why_not_estimable(3, cosine=x)
    if reason:
        return None, reason
    if np.ptp(y) == 0.0:  # every rate equal: the line is flat and exact, where linregress divides by zero
        return Slope(0.0, 0.0, len(x)), None
    fit = linregress(x, y)
    return Slope(float(fit.slope), float(fit.stderr), len(x)), None


def _unavailable(observations: StudyObservations, layer: int, split: Split | None) -> str | None:
    if not observations.has_layer(layer):
        return f"layer {layer} was not measured"
    return split.reason if split is not None else None


def _rho_gate(
    gate: str,
    split: Split | None,
    layer: int,
    observations: StudyObservations,
    keep: BoolArray,
    alpha: float,
    sign: int | None,
) -> GateRow:
    n = int(keep.sum())
    registered = sign is None
    name = None if split is None else split.name
    why = _unavailable(observations, layer, split)
    if why is None:
        rho, p, why = spearman(observations.at(layer)[keep], observations.rate[keep])
    if why is not None or rho is None or p is None:
        return GateRow(gate, name, layer, None, None, None, n, False, registered, f"not passed: {why}")
    threshold = critical_rho(n, alpha)
    passed = abs(rho) > threshold and p < alpha
    note = f"|rho| must exceed the critical value for n={n}, and p stay below {alpha:g}"
    if sign is not None:
        passed = passed and rho * sign > 0
        note += f"; the registered direction ({'positive' if sign > 0 else 'negative'}) is required"
    return GateRow(gate, name, layer, rho, threshold, p, n, passed, registered, note)


def gate_a(observations: StudyObservations, split: Split, layer: int, alpha: float, sign: int | None) -> GateRow:
    """Gate A: the holdout alone shows the correlation, raw-significant; with a sign, in that direction."""
    return _rho_gate("A", split, layer, observations, split.holdout, alpha, sign)


def gate_c(observations: StudyObservations, layer: int, alpha: float, sign: int | None) -> GateRow:
    """Gate C: the correlation holds within the occupational category; with a sign, in that direction."""
    keep = np.array([c == OCCUPATIONAL for c in observations.categories], dtype=np.bool_) & ~observations.within_excluded
    return _rho_gate("C", None, layer, observations, keep, alpha, sign)


def _slopes(observations: StudyObservations, split: Split, layer: int) -> tuple[Slope | None, Slope | None, str | None]:
    why = _unavailable(observations, layer, split)
    if why is not None:
        return None, None, why
    x, y = observations.at(layer), observations.rate
    calibration, why_calibration = slope(x[split.calibration], y[split.calibration])
    holdout, why_holdout = slope(x[split.holdout], y[split.holdout])
    reasons = [f"{part}: {why}" for part, why in (("calibration", why_calibration), ("holdout", why_holdout)) if why]
    return calibration, holdout, "; ".join(reasons) or None


def gate_b(
    observations: StudyObservations,
    split: Split,
    layer: int,
    alpha: float,
    tolerance: float,
    sign: int | None,
) -> GateRow:
    """Gate B: calibration and holdout slopes agree.

    Their difference is within the two-sided normal quantile of its standard error, and its relative change within the
    tolerance. `observed`, `threshold` and `p` belong to the first condition; the note gives the second.
    """
    from scipy.stats import norm

    registered = sign is None
    calibration, holdout, why = _slopes(observations, split, layer)
    if why is None and calibration is not None and holdout is not None:
        error = float(np.hypot(calibration.stderr, holdout.stderr))
        if error == 0.0:
            why = "both fits are exact, the slopes have no standard error"
        elif calibration.slope == 0.0:
            why = "the calibration slope is 0, a relative change from it does not exist"
    if why is not None or calibration is None or holdout is None:
        return GateRow("B", split.name, layer, None, None, None, observations.n, False, registered, f"not passed: {why}")
    difference = abs(holdout.slope - calibration.slope)
    z, relative = difference / error, difference / abs(calibration.slope)
    threshold = float(norm.ppf(1.0 - alpha / 2.0))
    passed = z < threshold and relative < tolerance
    note = f"z must stay below the threshold, and the relative change {relative:.4g} below {tolerance:g}"
    if sign is not None:
        passed = passed and calibration.slope * sign > 0 and holdout.slope * sign > 0
        note += "; both slopes must have the registered direction"
    p = float(2.0 * norm.sf(z))
    return GateRow("B", split.name, layer, z, threshold, p, observations.n, passed, registered, note)


def slope_rows(observations: StudyObservations, split: Split, layer: int) -> list[TidyRow]:
    """Slopes of both halves of a split and their relative change, as tidy rows."""
    calibration, holdout, why = _slopes(observations, split, layer)
    row = RowTemplate("gates", observations.n, "cosine", OUTCOME, registered=True)
    rows = []
    for part, fit in (("calibration", calibration), ("holdout", holdout)):
        name = f"slope_{part}_{split.name}"
        if fit is None:
            rows.append(row(name, layer, note=f"not estimable: {why}"))
        else:
            low, high = fit.slope - fit.stderr, fit.slope + fit.stderr
            rows.append(
                row(
                    name,
                    layer,
                    fit.slope,
                    n=fit.n,
                    low=low,
                    high=high,
                    note="low and high: one standard error",
                )
            )
    change = None
    if calibration is not None and holdout is not None and calibration.slope != 0.0:
        change = abs(holdout.slope - calibration.slope) / abs(calibration.slope)
    note = None if change is not None else f"not estimable: {why or 'the calibration slope is 0'}"
    rows.append(row(f"slope_relative_change_{split.name}", layer, change, note=note))
    return rows
