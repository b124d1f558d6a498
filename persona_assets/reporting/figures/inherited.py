"""The comparison of sources with an earlier measurement of theirs, as the drift figures draw and count it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from persona_assets.reporting.figures.context import FigureContext
from persona_assets.reporting.figures.errors import FigureError
from persona_assets.reporting.figures.frames import Row, group_by_persona, reason, rows
from persona_assets.reporting.figures.style import p_text
from persona_assets.statistics.rates import wilson

DIRECTIONS = ("drop", "tie", "increase")
_COLUMNS = (
    "persona",
    "seed",
    "rate_parent",
    "n_parent",
    "rate_now",
    "n_now",
    "delta",
    "same_adapter",
    "same_identity",
)
_TEST_COLUMNS = ("statistic", "estimate", "p", "n", "low", "high", "verdict", "registered", "note")
_TIE = 1e-12  # rates are ratios of counts; a smaller difference is rounding, as in the statistics


@dataclass(frozen=True)
class Earlier:
    """What the rates of now are compared with, in the words of the pictures.

    Attributes:
        figure: Name of the figure that draws the sources.
        mark: What the legend calls it.
        sources: Which adapters those are and where their earlier rates come from, after the name of the study.
        identity: Where another measurement identity was found.
        both: What the two sides are called together.
    """

    figure: str
    mark: str
    sources: str
    identity: str
    both: str


PARENT = Earlier(
    "inherited_drift", "parent study", "inherited, in its parent", "in the parent study", "in both studies"
)
MEASUREMENTS: dict[str, Earlier] = {
    "first": Earlier(
        "remeasurement_drift_first",
        "first measurement",
        "measured again, in their first measurement",
        "in the first measurement",
        "in both measurements",
    ),
    "last": Earlier(
        "remeasurement_drift_last",
        "measurement before",
        "measured again, in the measurement before the latest",
        "in the measurement before",
        "in both measurements",
    ),
}
"""Earlier measurements of the same study, by what the table `remeasurement_drift` calls them."""


@dataclass(frozen=True)
class Comparison:
    """Sources in an earlier measurement and now.

    Attributes:
        earlier: What they are compared with.
        sources: One row per source whose adapter did not change, largest drop first: rates, bars, delta,
            direction, and the table's rows by training seed.
        counts: Sources by direction.
        tests: Rows of `drift_tests`.
        not_measured: Sources without a rate on one of the two sides.
        retrained: Sources whose adapter was trained again under the same name.
        other_identity: Sources measured under another measurement identity than earlier.
        unknown_adapter: Sources whose adapter cannot be shown to be the same.
        confounded: Whether the comparison says nothing about drift.
    """

    earlier: Earlier
    sources: list[Row]
    counts: dict[str, int]
    tests: list[Row]
    not_measured: list[str]
    retrained: list[str]
    other_identity: list[str]
    unknown_adapter: list[str]
    confounded: bool

    def count_words(self) -> str:
        """Write the counts: `9 drops, 1 tie, 14 increases among 24`."""
        parts = [f"{n} {way}{'' if n == 1 else 's'}" for way, n in self.counts.items()]
        return f"{', '.join(parts)} among {len(self.sources)}"

    def confounded_words(self) -> str:
        """Say why the comparison is confounded; empty where it is not."""
        if not self.confounded:
            return ""
        told = []
        if self.other_identity:
            told.append(
                f"{len(self.other_identity)} sources were measured under another measurement identity than "
                f"{self.earlier.identity}"
            )
        if self.unknown_adapter:
            told.append(f"of {len(self.unknown_adapter)} sources the adapter cannot be shown to be the same")
        why = "; ".join(told) or "the table of tests says so"
        return f" Confounded, neither drift nor its absence: {why}."

    def test_words(self) -> str:
        """Write the registered sign test, or why there is none."""
        for test in self.tests:
            if test["statistic"] == "sign_drops" and test["registered"]:
                if test["p"] is None:
                    return f" Sign test: not estimable, {reason(test)}."
                return f" One-sided sign test on the drops: {p_text(test['p'])} (n = {test['n']})."
        return ""

    def numbers(self) -> dict[str, object]:
        """Everything drawn, for meta.json."""
        return {name: value for name, value in vars(self).items() if name != "earlier"}


def compare(
    inherited_drift: pl.DataFrame,
    drift_tests: pl.DataFrame,
    context: FigureContext,
    earlier: Earlier = PARENT,
) -> Comparison:
    """Read the tables `inherited_drift` and `drift_tests`, or what `comparisons` takes out of those of measurements.

    Raises:
        FigureError: A table is empty or lacks a column, a row occurs twice, or a delta is not the difference
            of its two rates.
    """
    taken = _checked(rows(inherited_drift, _COLUMNS, "inherited_drift"), context)
    tests = rows(drift_tests, _TEST_COLUMNS, "drift_tests")
    tested = [r for r in taken if r["same_adapter"] is not False]
    sources = _sources([r for r in tested if r["delta"] is not None])
    position = {persona: i for i, persona in enumerate(context.panel)}
    sources.sort(key=lambda r: (r["delta"], position[r["persona"]]))
    other_identity = _named(r for r in tested if r["same_identity"] is False)
    unknown_adapter = _named(r for r in tested if r["same_adapter"] is None)
    return Comparison(
        earlier=earlier,
        sources=sources,
        counts={way: sum(r["direction"] == way for r in sources) for way in DIRECTIONS},
        tests=tests,
        not_measured=_named(r for r in tested if r["delta"] is None),
        retrained=_named(r for r in taken if r["same_adapter"] is False),
        other_identity=other_identity,
        unknown_adapter=unknown_adapter,
        confounded=bool(other_identity or unknown_adapter)
        or any(t["verdict"] == "confounded" for t in tests),
    )


def _named(found: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(r["persona"] for r in found))


def _checked(taken: Sequence[Row], context: FigureContext) -> list[Row]:
    """Check every row by itself, and add the Wilson intervals of its two rates."""
    keys = [(r["persona"], r["seed"]) for r in taken]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise FigureError(
            f"table inherited_drift has {twice[0]} twice: each persona and training seed needs one row"
        )
    group_by_persona(taken, "inherited_drift", context)
    checked = []
    for r in taken:
        both = r["rate_parent"] is not None and r["rate_now"] is not None
        wrong = both and r["delta"] is not None and abs(r["rate_now"] - r["rate_parent"] - r["delta"]) > _TIE
        if wrong or both != (r["delta"] is not None):
            raise FigureError(
                f"table inherited_drift: delta of {r['persona']} is not rate_now - rate_parent: {r}"
            )
        checked.append(_with_intervals(r, context) if both else r)
    return checked


def _with_intervals(row: Row, context: FigureContext) -> Row:
    ends: dict[str, float] = {}
    for when in ("parent", "now"):
        rate, n = row[f"rate_{when}"], row[f"n_{when}"]
        hits = round(rate * n)
        if abs(hits / n - rate) > 1e-6:
            raise FigureError(
                f"table inherited_drift: rate_{when} of {row['persona']}, {rate}, is no number of hits in {n}"
            )
        low, high = wilson(hits, n, context.confidence_level)
        ends |= {f"{when}_low": float(low), f"{when}_high": float(high)}
    return {**row, **ends}


def _sources(tested: Sequence[Row]) -> list[Row]:
    """Average over training seeds, because the tests count sources; bars become the range of the seeds."""
    groups: dict[str, list[Row]] = {}
    for row in tested:
        groups.setdefault(row["persona"], []).append(row)
    sources = []
    for persona, own in groups.items():
        delta = sum(r["delta"] for r in own) / len(own)
        direction = "tie" if abs(delta) <= _TIE else "drop" if delta < 0 else "increase"
        source: Row = {"persona": persona, "delta": delta, "direction": direction, "seeds": own}
        for when in ("parent", "now"):
            rates = [r[f"rate_{when}"] for r in own]
            source[f"rate_{when}"] = sum(rates) / len(rates)
            source[f"{when}_low"] = own[0][f"{when}_low"] if len(own) == 1 else min(rates)
            source[f"{when}_high"] = own[0][f"{when}_high"] if len(own) == 1 else max(rates)
        sources.append(source)
    return sources
