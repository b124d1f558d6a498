"""Data integrity: what must hold of the rows before anyone looks at a statistic. Each gives a verdict with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Verdict:
    """Whether something holds, in a sentence and in numbers."""

    passed: bool
    sentence: str
    numbers: Mapping[str, float | int]


def dataset_rows(counts: Mapping[str, tuple[int, int]], *, rows: int, marked: int) -> Verdict:
    """Check that every training dataset has as many rows, and as many with the marker, as the profile says.

    Args:
        counts: (rows, rows with the marker) by source persona.
        rows: how many there must be.
        marked: how many of them must carry the marker.
    """
    wrong = {persona: found for persona, found in counts.items() if found != (rows, marked)}
    named = ", ".join(f"{persona} {found[0]} rows, {found[1]} marked" for persona, found in sorted(wrong.items())[:5])
    sentence = f"{named}; expected {rows} and {marked}." if wrong else f"{len(counts)} datasets of {rows} rows, {marked} marked."
    return Verdict(
        bool(counts) and not wrong,
        sentence if counts else "There is no dataset yet.",
        {"datasets": len(counts), "wrong": len(wrong)},
    )


def missing_cells(cells: pl.DataFrame, panel: Sequence[str], seeds: Sequence[int], completions: int) -> Verdict:
    """Check that every source was measured under every eval persona with every completion.

    Args:
        cells: table `cells`.
        panel: persona ids.
        seeds: training seeds.
        completions: completions that each cell must have.
    """
    grid = pl.DataFrame({"source": panel}).join(pl.DataFrame({"eval_persona": panel}), how="cross")
    grid = grid.join(pl.DataFrame({"seed": seeds}, schema={"seed": pl.Int64}), how="cross")
    found = grid.join(cells, on=["source", "eval_persona", "seed"], how="left")
    missing = found.filter(pl.col("n").is_null())
    short = found.filter(pl.col("n") != completions)
    doubled = found.height - grid.height
    parts = [
        f"{count} cells {what}, first {_cell(frame)}"
        for count, what, frame in (
            (missing.height, "missing", missing),
            (short.height, f"without {completions} completions", short),
        )
        if count
    ]
    if doubled:
        parts.append(f"{doubled} cells measured twice in the table")
    sentence = "; ".join(parts) + "." if parts else f"All {grid.height} cells have {completions} completions."
    return Verdict(not parts, sentence, {"cells": grid.height, "missing": missing.height, "short": short.height})


def imported_cells(cells: pl.DataFrame, panel: Sequence[str], seeds: Sequence[int]) -> Verdict:
    """Say how much of the matrix of an imported study there is; every source needs its own cell.

    Args:
        cells: table `cells`.
        panel: the sources.
        seeds: training seeds.
    """
    whole = len(panel) ** 2 * len(seeds)
    within = cells.filter(pl.col("eval_persona").is_in(list(panel)))
    own = within.filter(pl.col("source") == pl.col("eval_persona")).height
    outside = cells.height - within.height
    sentence = f"{within.height} of the {whole} cells between the {len(panel)} sources were imported, {own} of them own cells"
    sentence += f", and {outside} under personas that are no source." if outside else "."
    return Verdict(own == len(panel) * len(seeds) and within.height == whole, sentence, {"cells": within.height, "whole": whole})


def not_finite(tables: Mapping[str, pl.DataFrame], *, imported_only: bool = False) -> Verdict:
    """Check that no rate or interval is NaN or null where there must be a number.

    Args:
        tables: `cells` and `source_rates`.
        imported_only: of an imported study, which need not have truncation, base rates and prompt lengths.
    """
    required = {
        "cells": ("hits", "n", "rate", "wilson_low", "wilson_high", "truncation_rate", "base_rate"),
        "source_rates": ("rate", "wilson_low", "wilson_high", "base_rate", "prompt_tokens"),
    }
    if imported_only:
        required = dict.fromkeys(required, ("hits", "n", "rate", "wilson_low", "wilson_high"))
    faults = []
    for table, columns in required.items():
        for column in columns:
            values = tables[table][column]
            bad = values.null_count() + (int(values.is_nan().sum()) if values.dtype.is_float() else 0)
            if bad:
                faults.append(f"{table}.{column}: {bad} of {len(values)} are null or NaN")
    return Verdict(not faults, "; ".join(faults) or "No rate or interval is null or NaN.", {"faults": len(faults)})


def base_rates(cells: pl.DataFrame, limit: float) -> Verdict:
    """Check that the base model without adapter does not emit the marker.

    Args:
        cells: table `cells`.
        limit: largest base rate that the analysis plan accepts.
    """
    rates = cells.select("eval_persona", "base_rate").drop_nulls().unique().sort("base_rate", "eval_persona", descending=True)
    top = rates.row(0, named=True)
    over = rates.filter(pl.col("base_rate") > limit)
    sentence = f"Largest base rate {top['base_rate']:.3f} ({top['eval_persona']}), limit {limit:g}."
    return Verdict(over.is_empty(), sentence, {"max_base_rate": float(top["base_rate"]), "over_limit": over.height})


def degenerate_rates(source_rates: pl.DataFrame) -> Verdict:
    """Check that source rates can carry a correlation: neither all near 0, nor all near 1, nor all equal.

    A changed library or learning rate moves every rate at once; this says so before anyone reads a rho.
    """
    rates = source_rates["rate"]
    low, high, mean = (float(value) for value in (rates.min(), rates.max(), rates.mean()))  # type: ignore[arg-type]
    inside = int(((rates > 0.02) & (rates < 0.98)).sum())
    passed = inside >= len(rates) / 2 and high > low
    sentence = f"Source rates {low:.2f} to {high:.2f}, mean {mean:.2f}; {inside} of {len(rates)} strictly inside 0.02 to 0.98."
    return Verdict(passed, sentence, {"min": low, "max": high, "mean": mean, "inside": inside})


def writeup(findings: Sequence[str]) -> Verdict:
    """Check that the lint has nothing to say about a write-up.

    Args:
        findings: what it says, one sentence each.
    """
    shown = " ".join(findings[:5]) + (f" And {len(findings) - 5} more." if len(findings) > 5 else "")
    return Verdict(not findings, shown or "Every number, sample, figure and section is in order.", {"findings": len(findings)})


def one_identity(measurements: pl.DataFrame, override: str | None = None) -> Verdict:
    """Check that every measurement of a study was made under the same conditions.

    Args:
        measurements: table `measurements`.
        override: the plan's reason for analysing different conditions together.
    """
    from persona_assets.statistics.identity import MixedIdentityError, check_identity

    try:
        check = check_identity(measurements, override=override)
    except MixedIdentityError as error:
        return Verdict(False, str(error), {"measurements": measurements.height})
    shared = "are analysed together" if check.differing else "share one identity"
    sentence = f"All {measurements.height} measurements {shared}" + (f" ({check.note})." if check.note else ".")
    return Verdict(not check.unknown, sentence, {"measurements": measurements.height})


def _cell(frame: pl.DataFrame) -> str:
    row = frame.row(0, named=True)
    return f"{row['source']} under {row['eval_persona']} (seed {row['seed']})"
