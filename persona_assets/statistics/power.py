"""Power of every gate and of the whole rule, computed from the plan before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from persona_assets.conventions import ALPHA, SLOPE_TOLERANCE
from persona_assets.statistics.correlations import MINIMUM_N, critical_rho, holm_critical_rho
from persona_assets.statistics.intervals import wilson
from persona_assets.statistics.observations import OCCUPATIONAL
from persona_assets.statistics.ranks import unit_scores
from persona_assets.statistics.splits import Split, split_a, split_b
from persona_assets.statistics.tidy import StatisticsError, frame_of, generator

if TYPE_CHECKING:
    from persona_assets.statistics.tidy import BoolArray, FloatArray

POWER_SCHEMA: dict[str, type[pl.DataType]] = {
    "population_rho": pl.Float64,
    "quantity": pl.String,
    "probability": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "draws": pl.Int64,
    "n": pl.Int64,
    "registered": pl.Boolean,
    "note": pl.String,
}
REGISTERED_RHOS = (-0.52, -0.40, -0.30)
RULE_RHOS = (-0.30, -0.40, -0.52, -0.70, -0.81)
_CHUNK_VALUES = 1 << 20


@dataclass(frozen=True)
class RuleDesign:
    """What the power of the rule depends on, all of it known before measuring.

    Attributes:
        splits: split A and split B over the panel.
        occupational: [N] True for personas of gate C.
        n_layers: layers of the scan, for Holm's first step.
        alpha: level.
        slope_tolerance: of gate B.
        registered_sign: -1 or 1.
    """

    splits: tuple[Split, Split]
    occupational: BoolArray
    n_layers: int
    alpha: float = ALPHA
    slope_tolerance: float = SLOPE_TOLERANCE
    registered_sign: int = -1

    @property
    def n(self) -> int:
        """Number of personas."""
        return len(self.occupational)


@dataclass(frozen=True)
class _PowerRow:
    population_rho: float
    quantity: str
    probability: float
    low: float
    high: float
    draws: int
    n: int
    registered: bool
    note: str | None


def rule_design(
    personas: Sequence[str],
    categories: Sequence[str],
    cohorts: Sequence[str],
    *,
    n_layers: int,
    seed: int,
    alpha: float = ALPHA,
    slope_tolerance: float = SLOPE_TOLERANCE,
    registered_sign: int = -1,
    within_excluded: Sequence[bool] | None = None,
) -> RuleDesign:
    """Lay out the design of a study from its file alone.

    Args:
        personas: ids in panel order.
        categories: category of each.
        cohorts: `inherited` or `new`.
        n_layers: layers of the base model.
        seed: of the analysis plan, for split B.
        alpha: level.
        slope_tolerance: of gate B.
        registered_sign: -1 or 1.
        within_excluded: personas kept out of gate C.
    """
    occupational = np.array([category == OCCUPATIONAL for category in categories], dtype=np.bool_)
    if within_excluded is not None:
        occupational &= ~np.asarray(within_excluded, dtype=np.bool_)
    return RuleDesign(
        (split_a(cohorts), split_b(personas, categories, seed)),
        occupational,
        n_layers,
        alpha,
        slope_tolerance,
        registered_sign,
    )


def power(
    design: RuleDesign,
    *,
    seed: int,
    draws: int = 10_000,
    rhos: Sequence[float] = REGISTERED_RHOS,
    rule_rhos: Sequence[float] = RULE_RHOS,
) -> pl.DataFrame:
    """Simulate the registered tests and the whole rule.

    Cosine and rate are drawn from a bivariate normal population with correlation `population_rho`, N personas at a
    time, at one layer: with several primary layers the rule has more than one chance, so its probability lies between
    this one and this one times their number. The same draws serve every rho.

    Args:
        design: from `rule_design`.
        seed: of the analysis plan.
        draws: simulated studies per rho.
        rhos: population correlations of the single tests.
        rule_rhos: population correlations of the gates and of the whole rule.

    Returns:
        Columns of `POWER_SCHEMA`. Registered, at `rhos`: `raw` (|rho| above critical), `holm` (above Holm's first
        step), `gate_A_split_A`, `gate_A_split_B`, `gate_A` (both). Sensitivity, at `rule_rhos`: `gate_B`, `gate_C`,
        `rule` (A and B on both splits and C) and `rule_signed` (in the registered direction). low, high: Wilson
        interval of the simulation.

    Raises:
        StatisticsError: fewer than 4 personas, no draws, or a rho outside (-1, 1).
    """
    every = list(dict.fromkeys([*rhos, *rule_rhos]))
    if design.n < MINIMUM_N or draws < 1 or any(not -1.0 < rho < 1.0 for rho in every):
        raise StatisticsError(
            f"power needs at least {MINIMUM_N} personas, one draw and rhos inside (-1, 1); got {design.n} "
            f"personas, {draws} draws, rhos {every}."
        )
    hits: dict[tuple[float, str], int] = {}
    random = generator("power", seed, design.n)
    step = max(1, _CHUNK_VALUES // design.n)
    for start in range(0, draws, step):
        size = (min(step, draws - start), design.n)
        x, noise = random.standard_normal(size), random.standard_normal(size)
        half = _Cosines(design, x)
        for rho in every:
            for quantity, passed in half.outcomes(rho * x + np.sqrt(1.0 - rho**2) * noise).items():
                hits[rho, quantity] = hits.get((rho, quantity), 0) + int(passed.sum())
    plan = [(rho, quantity, True) for rho in rhos for quantity in _SINGLE]
    plan += [(rho, quantity, False) for rho in rule_rhos for quantity in _JOINT if (rho, quantity, True) not in plan]
    notes = _notes(design)
    rows = []
    for rho, quantity, registered in plan:
        count = hits[rho, quantity]
        low, high = wilson(count, draws)
        rows.append(
            _PowerRow(
                rho,
                quantity,
                count / draws,
                float(low),
                float(high),
                draws,
                design.n,
                registered,
                notes.get(quantity),
            )
        )
    return frame_of(rows, POWER_SCHEMA)


_SINGLE = ("raw", "holm", "gate_A_split_A", "gate_A_split_B", "gate_A")
_JOINT = ("gate_A", "gate_B", "gate_C", "rule", "rule_signed")


def _notes(design: RuleDesign) -> dict[str, str]:
    notes: dict[str, list[str]] = {}
    for split in design.splits:
        why = _unusable(split)
        for quantity in (f"gate_A_split_{split.name}", "gate_A", "gate_B", "rule", "rule_signed"):
            if why:
                notes.setdefault(quantity, []).append(f"cannot pass: {why}")
    if design.occupational.sum() < MINIMUM_N:
        for quantity in ("gate_C", "rule", "rule_signed"):
            text = f"cannot pass: {int(design.occupational.sum())} occupational personas"
            notes.setdefault(quantity, []).append(text)
    return {quantity: "; ".join(parts) for quantity, parts in notes.items()}


def _unusable(split: Split) -> str | None:
    if split.reason:
        return split.reason
    if split.holdout.sum() < MINIMUM_N or split.calibration.sum() < 3:
        return f"split {split.name} has {int(split.calibration.sum())} and {int(split.holdout.sum())} personas"
    return None


class _Cosines:
    """Simulated cosines with what every rho shares: their ranks and moments in each part of the panel."""

    def __init__(self, design: RuleDesign, x: FloatArray) -> None:
        self.design = design
        self.x = x
        every = np.ones(design.n, dtype=np.bool_)
        self.parts: dict[str, BoolArray] = {"all": every, "occupational": design.occupational}
        for split in design.splits:
            self.parts[f"hold_{split.name}"] = split.holdout
            self.parts[f"cal_{split.name}"] = split.calibration
        ranked = ("all", "occupational", "hold_A", "hold_B")
        self.scores = {
            name: unit_scores(_continuous_ranks(x[:, self.parts[name]]))
            for name in ranked
            if self.parts[name].sum() >= MINIMUM_N
        }

    def outcomes(self, y: FloatArray) -> dict[str, BoolArray]:
        """Which simulated studies pass each test."""
        design = self.design
        full = self._rho("all", y)
        passed = {
            "raw": np.abs(full) > critical_rho(design.n, design.alpha),
            "holm": np.abs(full) > holm_critical_rho(design.n, design.alpha, design.n_layers),
        }
        gate_c, direction_c = self._rho_gate("occupational", y)
        gates_a, gates_b, directions = [], [], [direction_c]
        for split in design.splits:
            if _unusable(split):
                none = np.zeros(len(y), dtype=np.bool_)
                gate_a, direction_a, gate_b, direction_b = none, none, none, none
            else:
                gate_a, direction_a = self._rho_gate(f"hold_{split.name}", y)
                gate_b, direction_b = self._slope_gate(split, y)
            passed[f"gate_A_split_{split.name}"] = gate_a
            gates_a.append(gate_a)
            gates_b.append(gate_b)
            directions += [direction_a, direction_b]
        passed["gate_A"] = np.logical_and(*gates_a)
        passed["gate_B"] = np.logical_and(*gates_b)
        passed["gate_C"] = gate_c
        passed["rule"] = passed["gate_A"] & passed["gate_B"] & gate_c
        passed["rule_signed"] = passed["rule"] & np.logical_and.reduce(directions)
        return passed

    def _rho(self, part: str, y: FloatArray) -> FloatArray:
        ranks = _continuous_ranks(y[:, self.parts[part]])
        # The cosine's scores are centred and of length 1, so the outcome's ranks need no centring.
        n = ranks.shape[1]
        return np.asarray(np.einsum("di,di->d", self.scores[part], ranks) / np.sqrt(n * (n**2 - 1) / 12.0))

    def _rho_gate(self, part: str, y: FloatArray) -> tuple[BoolArray, BoolArray]:
        if part not in self.scores:
            none = np.zeros(len(y), dtype=np.bool_)
            return none, none
        rho = self._rho(part, y)
        critical = critical_rho(int(self.parts[part].sum()), self.design.alpha)
        return np.abs(rho) > critical, rho * self.design.registered_sign > 0

    def _slope_gate(self, split: Split, y: FloatArray) -> tuple[BoolArray, BoolArray]:
        from scipy.stats import norm

        slope_c, error_c = _slopes(self.x[:, split.calibration], y[:, split.calibration])
        slope_h, error_h = _slopes(self.x[:, split.holdout], y[:, split.holdout])
        difference = np.abs(slope_h - slope_c)
        close = difference < norm.ppf(1.0 - self.design.alpha / 2.0) * np.hypot(error_c, error_h)
        alike = difference < self.design.slope_tolerance * np.abs(slope_c)
        sign = self.design.registered_sign
        return close & alike, (slope_c * sign > 0) & (slope_h * sign > 0)


def _continuous_ranks(values: FloatArray) -> FloatArray:
    """Ranks along rows of draws from a continuous population, where ties have probability zero."""
    order = np.argsort(values, axis=1)
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, np.arange(1.0, values.shape[1] + 1.0)[None, :], axis=1)
    return ranks


def _slopes(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Least-squares slope of each row of y on the row of x, and its standard error."""
    dx, dy = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    sxx, syy = np.einsum("di,di->d", dx, dx), np.einsum("di,di->d", dy, dy)
    slope = np.einsum("di,di->d", dx, dy) / sxx
    residual = np.maximum(syy - slope**2 * sxx, 0.0)
    return slope, np.sqrt(residual / (x.shape[1] - 2) / sxx)
