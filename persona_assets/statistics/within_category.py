"""The scan within each category of personas, and without the persona of the largest source rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from persona_assets.conventions import ALPHA
from persona_assets.statistics.correlations import MINIMUM_N, critical_rho, pearson, spearman
from persona_assets.statistics.scan import OUTCOME
from persona_assets.statistics.tidy import RowTemplate, TidyRow, tidy_frame

if TYPE_CHECKING:
    import polars as pl

    from persona_assets.statistics.observations import StudyObservations
    from persona_assets.statistics.tidy import BoolArray

FAMILY = "within_category"
CATEGORIES = ("occupational", "character", "generic_helper")
ALL = "all"


def within_category(observations: StudyObservations, *, alpha: float = ALPHA) -> pl.DataFrame:
    """Correlate cosine and source rate within each category, at every layer.

    Args:
        observations: the study's personas; those marked `exclude_from_within_category` stay out of every category.
        alpha: level of the critical values.

    Returns:
        Tidy rows with outcome `source_rate:<category>` and, without the persona of the largest source rate (the first
        in panel order of equals), `source_rate:<category>:without_largest`; category `all` is the whole panel, given
        only without its largest. Statistics `spearman`, `pearson` per layer and `critical_rho` once.
    """
    rows: list[TidyRow] = []
    for category in (*CATEGORIES, ALL):
        if category == ALL:
            keep = np.ones(observations.n, dtype=np.bool_)
        else:
            own = np.array([c == category for c in observations.categories], dtype=np.bool_)
            keep = own & ~observations.within_excluded
            left_out = [observations.personas[i] for i in np.flatnonzero(own & observations.within_excluded)]
            note = f"without {', '.join(left_out)}, marked in the panel" if left_out else None
            rows += _rows(observations, keep, f"{OUTCOME}:{category}", alpha, note, registered=True)
        largest = _largest(observations, keep)
        if largest is not None:
            keep = keep.copy()
            keep[largest] = False
            note = f"without {observations.personas[largest]}, the largest source rate"
            rows += _rows(observations, keep, f"{OUTCOME}:{category}:without_largest", alpha, note, registered=True)
    return tidy_frame(rows)


def _largest(observations: StudyObservations, keep: BoolArray) -> int | None:
    if not keep.any():
        return None
    return int(np.argmax(np.where(keep, observations.rate, -1.0)))


def _rows(
    observations: StudyObservations,
    keep: BoolArray,
    outcome: str,
    alpha: float,
    note: str | None,
    *,
    registered: bool,
) -> list[TidyRow]:
    n = int(keep.sum())
    row = RowTemplate(FAMILY, n, "cosine", outcome, registered)
    rows = []
    for layer, x in zip(observations.layers, observations.cosine, strict=True):
        for statistic, function in (("spearman", spearman), ("pearson", pearson)):
            estimate, p, why = function(x[keep], observations.rate[keep])
            text = "; ".join(part for part in (why, note) if part) or None
            rows.append(row(statistic, layer, estimate, p=p, note=text))
    if n >= MINIMUM_N:
        rows.append(row("critical_rho", None, critical_rho(n, alpha), note=f"raw, two-sided, alpha {alpha:g}"))
    else:
        rows.append(row("critical_rho", None, note=f"not estimable: {n} personas"))
    return rows
