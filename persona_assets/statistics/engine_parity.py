"""Do two ways of drawing completions give the same tokens and the same rates? The tests of `engine_parity`.

Sampled completions of different engines are different draws, so their rates are compared as two binomials (Fisher's
exact test in each cell, and over all cells together the test of Mantel and Haenszel), Holm-adjusted over all engines.
Greedy completions have no draw in them: they are compared token by token, up to the first that differs.
Controls are ways that are known to be wrong; the comparison counts only if it tells them from the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from persona_assets.integrity import Verdict
from persona_assets.statistics.correlations import holm

FAMILY_ALPHA = 0.01
"""Chance that ways which are the same are said to differ in a rate, over all comparisons together."""

LEAST_AGREEMENT = {"float32": 0.98, "bfloat16": 0.5}
"""Least share of greedy tokens in common. Rounding decides near ties between tokens, the more often the shorter the type."""

Role = Literal["engine", "control"]

ENGINE_PARITY_SCHEMA: dict[str, type[pl.DataType]] = {
    "way": pl.String,
    "reference": pl.String,
    "role": pl.String,
    "measure": pl.String,
    "source": pl.String,
    "eval_persona": pl.String,
    "observed": pl.Float64,
    "expected": pl.Float64,
    "n": pl.Int64,
    "p": pl.Float64,
    "p_adjusted": pl.Float64,
    "threshold": pl.Float64,
    "agrees": pl.Boolean,
    "note": pl.String,
}


@dataclass(frozen=True)
class Cell:
    """What one way drew in one cell.

    Attributes:
        greedy: token ids of the most probable completion of each question.
        hits: sampled completions with the marker.
        n: sampled completions.
    """

    greedy: tuple[tuple[int, ...], ...]
    hits: int
    n: int


@dataclass(frozen=True)
class Way:
    """One way of drawing completions: its name, its role, and its cells by (source, eval persona)."""

    name: str
    role: Role
    cells: Mapping[tuple[str, str], Cell]


def token_agreement(one: Sequence[int], other: Sequence[int]) -> float:
    """Share of tokens before the first difference, of the longer of two completions; 1 when they are equal."""
    if tuple(one) == tuple(other):
        return 1.0
    shorter = min(len(one), len(other))
    differs = np.flatnonzero(np.asarray(one[:shorter]) != np.asarray(other[:shorter]))
    common = int(differs[0]) if differs.size else shorter
    return common / max(len(one), len(other))


def engine_parity(reference: Way, ways: Sequence[Way], missing: Mapping[str, str], dtype: str) -> pl.DataFrame:
    """Compare ways with a reference: engines are one family of Holm's adjustment, controls another.

    Args:
        reference: what the others are compared with.
        ways: engines and controls, over the same cells.
        missing: ways that could not be compared, with the reason; each gets a row that says so.
        dtype: precision, which decides how many greedy tokens must agree.

    Returns:
        One row for each way and measure: `greedy tokens` and `rate` in each cell, `rate, all cells` once. `agrees` is
        null where nothing was compared.
    """
    rows = [row for way in ways for row in _compare(reference, way, dtype)]
    for role in ("engine", "control"):
        family = [row for row in rows if row["role"] == role]
        for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
            if adjusted is not None:
                row |= {"p_adjusted": adjusted, "threshold": FAMILY_ALPHA, "agrees": adjusted >= FAMILY_ALPHA}
    rows += [
        {"way": name, "reference": reference.name, "role": "engine", "measure": "not compared", "note": reason}
        for name, reason in missing.items()
    ]
    return pl.DataFrame(rows, schema=ENGINE_PARITY_SCHEMA)


def _compare(reference: Way, way: Way, dtype: str) -> list[dict[str, Any]]:
    from scipy.stats import fisher_exact

    named: dict[str, object] = {"way": way.name, "reference": reference.name, "role": way.role}
    rows = []
    for (source, eval_persona), expected in reference.cells.items():
        found = way.cells[source, eval_persona]
        cell = {**named, "source": source, "eval_persona": eval_persona}
        pairs = list(zip(found.greedy, expected.greedy, strict=True))
        agreement = float(np.mean([token_agreement(one, other) for one, other in pairs]))
        least = LEAST_AGREEMENT[dtype]
        greedy = {"measure": "greedy tokens", "observed": agreement, "expected": 1.0, "n": len(pairs)}
        rows.append({**cell, **greedy, "threshold": least, "agrees": agreement >= least})
        table = _two_by_two(found, expected)
        rate = {"observed": found.hits / found.n, "expected": expected.hits / expected.n, "n": found.n}
        rows.append({**cell, "measure": "rate", **rate, "p": float(fisher_exact(table).pvalue)})
    rows.append({**named, **_together(reference, way)})
    return [{**dict.fromkeys(ENGINE_PARITY_SCHEMA), **row} for row in rows]


def _together(reference: Way, way: Way) -> dict[str, object]:
    from statsmodels.stats.contingency_tables import StratifiedTable

    pairs = [(way.cells[key], expected) for key, expected in reference.cells.items()]
    n = sum(found.n for found, _ in pairs)
    row: dict[str, object] = {
        "measure": "rate, all cells",
        "observed": sum(found.hits for found, _ in pairs) / n,
        "expected": sum(expected.hits for _, expected in pairs) / sum(expected.n for _, expected in pairs),
        "n": n,
    }
    # A cell where both say the marker never, or both always, says nothing about a difference.
    telling = [(one, other) for one, other in pairs if 0 < one.hits + other.hits < one.n + other.n]
    if not telling:
        return {**row, "note": "no cell in which the marker appears in some completions and not in others"}
    return {**row, "p": float(StratifiedTable([_two_by_two(*pair) for pair in telling]).test_null_odds(correction=False).pvalue)}


def _two_by_two(one: Cell, other: Cell) -> npt.NDArray[np.int64]:
    return np.array([[one.hits, one.n - one.hits], [other.hits, other.n - other.hits]])


def judge_parity(table: pl.DataFrame) -> Verdict:
    """Judge the table `engine_parity`: every engine agrees in everything, and every control is told apart.

    Args:
        table: as `engine_parity` gives it.
    """
    compared = table.filter(pl.col("agrees").is_not_null())
    engines = compared.filter(pl.col("role") == "engine")
    wrong = engines.filter(~pl.col("agrees"))
    controls = compared.filter(pl.col("role") == "control").group_by("way", maintain_order=True).agg(pl.col("agrees").all())
    unnoticed = controls.filter("agrees")["way"].to_list()
    missing = table.filter(pl.col("measure") == "not compared")
    names = engines["way"].unique(maintain_order=True).to_list()
    reference = table["reference"][0]
    differing = wrong["way"].unique(maintain_order=True).to_list()
    parts = [f"{way} differs from {reference} in {_first(wrong, way)}." for way in differing]
    if names and not parts:
        parts.append(f"{', '.join(names)}: same greedy tokens and same rates as {reference}.")
    if not names:
        parts.append("Nothing was compared.")
    parts += [f"{way}: not told from {reference}, so that such a fault would pass: draw more completions." for way in unnoticed]
    parts += [f"Not compared: {row['way']} ({row['note']})." for row in missing.to_dicts()]
    parts.append(f"Family-wise alpha of the rates: {FAMILY_ALPHA}.")
    numbers = {"compared": engines.height, "different": wrong.height, "not_compared": missing.height}
    passed = bool(names) and wrong.is_empty() and not unnoticed
    return Verdict(passed, " ".join(parts), {**numbers, "family_alpha": FAMILY_ALPHA})


def _first(wrong: pl.DataFrame, way: str) -> str:
    rows = wrong.filter(pl.col("way") == way)
    row = rows.row(0, named=True)
    where = f" of {row['source']} under {row['eval_persona']}" if row["source"] else ""
    more = f" and {rows.height - 1} more" if rows.height > 1 else ""
    return f"{row['measure']}{where} ({row['observed']:.3f}, expected {row['expected']:.3f}){more}"
