"""Attenuation over panels: is |rho| of a smaller panel larger than sub-panels of the largest would have?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from persona_assets.conventions import BOOTSTRAP_RESAMPLES, CONFIDENCE_LEVEL
from persona_assets.statistics.correlations import MINIMUM_N, spearman
from persona_assets.statistics.identity import conditions_apart
from persona_assets.statistics.partial import partial_spearman
from persona_assets.statistics.ranks import (
    NO_INTERVAL,
    average_ranks,
    bootstrap_spearman,
    bootstrap_weights,
    percentile_interval,
    unit_scores,
)
from persona_assets.statistics.scan import OUTCOME
from persona_assets.statistics.tidy import RowTemplate, StatisticsError, TidyRow, generator, tidy_frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from persona_assets.statistics.observations import StudyObservations
    from persona_assets.statistics.tidy import FloatArray

FAMILY = "attenuation"
SUBPANEL_SIZES = (12, 24)


@dataclass(frozen=True)
class Conditions:
    """Which studies may be compared.

    Attributes:
        measurements: table `measurements` of each study by name.
        override: the plan's reason for comparing measurements of different identity.
    """

    measurements: Mapping[str, pl.DataFrame]
    override: str | None = None

    def between(self, one: str, other: str) -> tuple[str | None, str | None]:
        """Return why two studies are not compared, and what is to be said if they are; None for neither.

        Raises:
            StatisticsError: there is no table of one of them.
        """
        if missing := [name for name in (one, other) if name not in self.measurements]:
            raise StatisticsError(f"attenuation: no measurements of {', '.join(missing)}.")
        apart = ", ".join(conditions_apart(self.measurements[one], self.measurements[other]))
        if not apart:
            return None, None
        if self.override is None:
            return f"confounded: {one} and {other} differ in conditions of measurement, or do not say them: {apart}", None
        return None, f"compared although {apart} differ or are not known, by explicit override: {self.override}"


def attenuation(
    studies: Mapping[str, StudyObservations],
    primary_layers: Sequence[int],
    conditions: Conditions,
    *,
    seed: int,
    resamples: int = BOOTSTRAP_RESAMPLES,
    subpanels: int = 10_000,
    sizes: Sequence[int] = SUBPANEL_SIZES,
    confidence: float = CONFIDENCE_LEVEL,
) -> pl.DataFrame:
    """Compare |rho| over a study and its ancestors.

    Args:
        studies: observations by study name, this study and every ancestor; in any order.
        primary_layers: layers to compare at.
        conditions: under which each study was measured.
        seed: seed of bootstrap and sub-panels.
        resamples: bootstrap resamples.
        subpanels: random sub-panels of each size.
        sizes: sizes of sub-panels beside the ancestors' own.
        confidence: level of every interval.

    Returns:
        Tidy rows, outcome `source_rate:<study>`. Per layer and study: `abs_rho` (p of rho; bootstrap interval),
        `length_partial` (registered). Per layer and pair of studies: `ratio_abs_rho` of the larger panel to the
        smaller, interval from resampling personas of both together where one panel contains the other. Per layer and
        size: `subpanel_abs_rho`: median and interval of |rho| over random sub-panels of the largest panel, n the
        size; where an ancestor has that size, p is the share of sub-panels with at least its |rho|. Between studies
        measured under different or unknown conditions there is neither ratio nor p: the note says `confounded`.

    Raises:
        StatisticsError: there is no study, or one without measurements.
    """
    if not studies:
        raise StatisticsError("attenuation: no study was given.")
    ordered = dict(sorted(studies.items(), key=lambda item: (item[1].n, item[0])))
    rows: list[TidyRow] = []
    for layer in primary_layers:
        for name, data in ordered.items():
            rows += _study_rows(name, data, layer, seed, resamples, confidence)
        names = list(ordered)
        for i, smaller in enumerate(names):
            for larger in names[i + 1 :]:
                rows.append(_ratio_row(smaller, larger, ordered, conditions, layer, seed, resamples, confidence))
        rows += _subpanel_rows(ordered, conditions, layer, seed, subpanels, sizes, confidence)
    return tidy_frame(rows)


def absent_studies(names: Sequence[str], primary_layers: Sequence[int]) -> pl.DataFrame:
    """Rows of ancestors that were imported without what a correlation needs: null, with the reason."""
    note = "not estimable: imported without cosines or prompt lengths"
    return tidy_frame(
        [
            RowTemplate(FAMILY, None, "cosine", f"{OUTCOME}:{name}", registered=True)(statistic, layer, note=note)
            for layer in primary_layers
            for name in names
            for statistic in ("abs_rho", "length_partial")
        ]
    )


def subpanel_rhos(x: FloatArray, y: FloatArray, size: int, count: int, seed: int) -> FloatArray:
    """Spearman rho in random sub-panels drawn without replacement.

    Args:
        x: [n].
        y: [n].
        size: personas of a sub-panel, at most n.
        count: number of sub-panels.
        seed: seed of the draw.

    Returns:
        [count]; NaN where a sub-panel has no variation.

    Raises:
        StatisticsError: size below `MINIMUM_N` or above n.
    """
    n = len(y)
    if not MINIMUM_N <= size <= n:
        raise StatisticsError(f"Sub-panels of {size} personas cannot be drawn from {n}; at least {MINIMUM_N} are needed.")
    random = generator("subpanels", seed, n, size)
    members = np.argpartition(random.random((count, n)), size - 1, axis=1)[:, :size]
    a, b = unit_scores(average_ranks(x[members])), unit_scores(average_ranks(y[members]))
    rho = np.einsum("ci,ci->c", a, b)
    flat = ~(a.any(axis=1) & b.any(axis=1))
    return np.where(flat, np.nan, rho)


def _rho(data: StudyObservations, layer: int) -> tuple[float | None, float | None, str | None]:
    if not data.has_layer(layer):
        return None, None, f"not estimable: layer {layer} was not measured"
    return spearman(data.at(layer), data.rate)


def _study_rows(name: str, data: StudyObservations, layer: int, seed: int, resamples: int, confidence: float) -> list[TidyRow]:
    row = RowTemplate(FAMILY, data.n, "cosine", f"{OUTCOME}:{name}", registered=True)
    rho, p, why = _rho(data, layer)
    if rho is None:
        return [row("abs_rho", layer, note=why), row("length_partial", layer, note=why)]
    weights = bootstrap_weights(data.n, resamples, "attenuation", seed)
    draws = np.abs(bootstrap_spearman(data.at(layer)[None], data.rate, weights)[0])
    interval = percentile_interval(draws, confidence)
    low, high = interval or (None, None)
    partial, partial_p, partial_why = partial_spearman(data.at(layer), data.rate, [data.log_length])
    note = _joined(f"rho {'negative' if rho < 0 else 'positive'}", NO_INTERVAL if interval is None else None)
    return [
        row("abs_rho", layer, abs(rho), p=p, low=low, high=high, note=note),
        row("length_partial", layer, partial, p=partial_p, note=partial_why),
    ]


def _ratio_row(
    smaller: str,
    larger: str,
    studies: Mapping[str, StudyObservations],
    conditions: Conditions,
    layer: int,
    seed: int,
    resamples: int,
    confidence: float,
) -> TidyRow:
    few, many = studies[smaller], studies[larger]
    row = RowTemplate(FAMILY, many.n, "cosine", f"{OUTCOME}:{larger}/{smaller}")
    (rho_few, _, why_few), (rho_many, _, why_many) = _rho(few, layer), _rho(many, layer)
    if rho_few is None or rho_many is None:
        return row("ratio_abs_rho", layer, note=why_few or why_many)
    if rho_few == 0.0:
        return row("ratio_abs_rho", layer, note=f"not estimable: rho of {smaller} is 0")
    confounded, remark = conditions.between(smaller, larger)
    if confounded:
        return row("ratio_abs_rho", layer, note=confounded)
    ratio = abs(rho_many) / abs(rho_few)
    places = {persona: i for i, persona in enumerate(many.personas)}
    if not all(persona in places for persona in few.personas):
        return row("ratio_abs_rho", layer, ratio, note=_joined("no interval: neither panel contains the other", remark))
    weights = bootstrap_weights(many.n, resamples, "attenuation_ratio", seed)
    shared = weights[:, [places[persona] for persona in few.personas]]
    top = np.abs(bootstrap_spearman(many.at(layer)[None], many.rate, weights)[0])
    bottom = np.abs(bootstrap_spearman(few.at(layer)[None], few.rate, shared)[0])
    draws = np.divide(top, bottom, out=np.full(resamples, np.nan), where=bottom > 0)
    interval = percentile_interval(draws, confidence)
    low, high = interval or (None, None)
    note = _joined(NO_INTERVAL if interval is None else "personas of both panels resampled together", remark)
    return row("ratio_abs_rho", layer, ratio, low=low, high=high, note=note)


def _subpanel_rows(
    studies: Mapping[str, StudyObservations],
    conditions: Conditions,
    layer: int,
    seed: int,
    subpanels: int,
    sizes: Sequence[int],
    confidence: float,
) -> list[TidyRow]:
    largest = list(studies)[-1]
    data = studies[largest]
    row = RowTemplate(FAMILY, None, "cosine", f"{OUTCOME}:{largest}")
    wanted = sorted({*sizes, *(study.n for study in studies.values() if study.n < data.n)})
    rows = []
    for size in wanted:
        if not data.has_layer(layer):
            rows.append(row("subpanel_abs_rho", layer, n=size, note=f"not estimable: layer {layer} was not measured"))
            continue
        if not MINIMUM_N <= size < data.n:
            note = f"not estimable: no sub-panels of {size} personas in {largest}, which has {data.n}"
            rows.append(row("subpanel_abs_rho", layer, n=size, note=note))
            continue
        draws = np.abs(subpanel_rhos(data.at(layer), data.rate, size, subpanels, seed))
        draws = draws[np.isfinite(draws)]
        if not draws.size:
            rows.append(row("subpanel_abs_rho", layer, n=size, note="not estimable: no variation"))
            continue
        low, high = percentile_interval(draws, confidence) or (None, None)
        rows += _judged(row, studies, conditions, layer, size, draws, low, high, largest)
    return rows


def _judged(
    row: RowTemplate,
    studies: Mapping[str, StudyObservations],
    conditions: Conditions,
    layer: int,
    size: int,
    draws: FloatArray,
    low: float | None,
    high: float | None,
    largest: str,
) -> list[TidyRow]:
    median = float(np.median(draws))
    base = f"{draws.size} sub-panels of {size} from {largest}"
    same_size = [(name, rho) for name, data in studies.items() if data.n == size and (rho := _rho(data, layer)[0]) is not None]
    if not same_size:
        return [row("subpanel_abs_rho", layer, median, n=size, low=low, high=high, note=base)]
    rows = []
    for name, rho in same_size:
        confounded, remark = conditions.between(name, largest)
        share = None if confounded else (1 + int((draws >= abs(rho) - 1e-12).sum())) / (1 + draws.size)
        note = f"{base}; p: share with at least the |rho| {abs(rho):.4f} of {name}"
        note = f"{base}; no p: {confounded}" if confounded else _joined(note, remark)
        rows.append(row("subpanel_abs_rho", layer, median, p=share, n=size, low=low, high=high, note=note))
    return rows


def _joined(*parts: str | None) -> str:
    return "; ".join(part for part in parts if part)
