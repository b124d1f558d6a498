"""Off the diagonal: does a marker leak to eval personas that lie close to the source persona?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from persona_assets.conventions import PERMUTATIONS
from persona_assets.statistics.correlations import spearman
from persona_assets.statistics.mantel import CellOutcome, mantel_tests
from persona_assets.statistics.tidy import RowTemplate, StatisticsError, TidyRow, settled, tidy_frame

if TYPE_CHECKING:
    import polars as pl

    from persona_assets.statistics.leakage import LeakageMatrices
    from persona_assets.statistics.mantel import MantelResult
    from persona_assets.statistics.tidy import BoolArray, FloatArray

FAMILY = "off_diagonal"
PREDICTOR = "pairwise_cosine"
OUTCOME = "bystander_rate"
STRONG_ABOVE = 0.30
_NAIVE = "naive p treats cells that share rows and columns as independent and is not valid; read the Mantel p"
_SUBSET = "permuted with the cosine's ranks among all cells, so that every permutation is judged alike"


def off_diagonal(
    matrices: LeakageMatrices,
    *,
    seed: int,
    permutations: int = PERMUTATIONS,
    strong_above: float = STRONG_ABOVE,
    capability_loss: Mapping[str, float] | None = None,
) -> pl.DataFrame:
    """Correlate pairwise cosine and bystander rate over cells, with Mantel p-values.

    Args:
        matrices: rates and cosines of the panel.
        seed: seed of the permutations.
        permutations: number of them.
        strong_above: source rate above which a source is a strong emitter.
        capability_loss: by persona, how much of a capability its adapter cost; None when it was not measured.

    Returns:
        Tidy rows with predictor `pairwise_cosine`. For outcome `bystander_rate:<cells>` at every layer `spearman`
        (Spearman's rho over the cells, Mantel p) and `spearman_naive` (same rho, ordinary p, as registered); cells
        are `all`, `strong`, `weak`, `without_trained_negatives`, `without_anchor`. The post-mortem candidates:
        outcome `off_floor` (whether a cell has any hit), `bystander_rate:off_floor` (cells with a hit),
        `floor_share`; `bystander_residual:all` (base rate subtracted) and base rate against mean rate of each eval
        persona; and capability loss, or completion length where that is all there is, against mean bystander rate of
        each source.

    Raises:
        StatisticsError: from the matrices.
    """
    choices = _choices(matrices, strong_above)
    rows: list[TidyRow] = []
    outcomes: dict[str, tuple[CellOutcome, str | None]] = {
        f"{OUTCOME}:{name}": (CellOutcome(matrices.rate, use), note) for name, (use, note) in choices.items()
    }
    outcomes |= _floor_outcomes(matrices)
    outcomes |= _residual_outcome(matrices)
    results = mantel_tests(matrices.cosine, [outcome for outcome, _ in outcomes.values()], seed=seed, count=permutations)
    for (name, (outcome, note)), result in zip(outcomes.items(), results, strict=True):
        rows += _rows(matrices, name, outcome, result, note)
    if matrices.anchor in matrices.personas and matrices.n > 2:
        smaller = matrices.without(matrices.anchor)
        outcome = CellOutcome(smaller.rate, smaller.measured)
        [result] = mantel_tests(smaller.cosine, [outcome], seed=seed, count=permutations)
        rows += _rows(smaller, f"{OUTCOME}:without_anchor", outcome, result, f"without {matrices.anchor}")
    rows += _floor_share(matrices)
    rows += _base_rate_rows(matrices)
    rows += _capability_rows(matrices, capability_loss)
    return tidy_frame(rows)


def _choices(matrices: LeakageMatrices, strong_above: float) -> dict[str, tuple[BoolArray, str | None]]:
    measured = matrices.measured
    own = matrices.source_rate
    known = np.isfinite(own)
    strong = known & (np.nan_to_num(own) > strong_above)
    weak = known & ~strong
    missing = int((~known).sum())
    tail = f"; {missing} sources without a source rate are in neither" if missing else ""
    choices: dict[str, tuple[BoolArray, str | None]] = {
        "all": (measured, None),
        "strong": (
            measured & strong[:, None],
            f"{int(strong.sum())} sources with rate above {strong_above:g}{tail}",
        ),
        "weak": (
            measured & weak[:, None],
            f"{int(weak.sum())} sources with rate up to {strong_above:g}{tail}",
        ),
    }
    negatives = int((measured & matrices.trained_negative).sum())
    if (measured & ~matrices.kind_known).any():
        note = "not estimable: the trained negatives of some sources are not recorded"
        choices["without_trained_negatives"] = (np.zeros_like(measured), note)
    else:
        note = f"{negatives} trained negatives left out"
        choices["without_trained_negatives"] = (measured & ~matrices.trained_negative, note)
    return choices


def _rows(matrices: LeakageMatrices, name: str, outcome: CellOutcome, result: MantelResult, note: str | None) -> list[TidyRow]:
    row = RowTemplate(FAMILY, result.cells, PREDICTOR, name)
    registered = name in {f"{OUTCOME}:{part}" for part in ("all", "strong", "weak")}
    use = ~np.eye(matrices.n, dtype=np.bool_) if outcome.use is None else outcome.use
    rows = []
    for layer, x, p in zip(matrices.layers, matrices.cosine, result.p, strict=True):
        rho, naive_p, why = spearman(x[use], outcome.values[use])
        why = (note if note and note.startswith("not estimable") else None) or result.reason or why
        if why is not None:
            text = "; ".join(dict.fromkeys(part for part in (why, note) if part))
            rows.append(row("spearman", layer, note=text))
            rows.append(row("spearman_naive", layer, registered=registered, note=text))
            continue
        whole = result.cells == matrices.n * (matrices.n - 1)
        text = "; ".join(part for part in ("Mantel p", note, None if whole else _SUBSET) if part)
        rows.append(row("spearman", layer, rho, p=float(p), note=text))
        text = "; ".join(part for part in (_NAIVE, note) if part)
        rows.append(row("spearman_naive", layer, rho, p=naive_p, registered=registered, note=text))
    return rows


def _floor_outcomes(matrices: LeakageMatrices) -> dict[str, tuple[CellOutcome, str | None]]:
    measured = matrices.measured
    hit = np.where(np.isfinite(matrices.rate), matrices.rate > 0, np.nan)
    return {
        "off_floor": (CellOutcome(hit, measured), "floor effects: whether a cell has any hit at all"),
        f"{OUTCOME}:off_floor": (
            CellOutcome(matrices.rate, measured & (np.nan_to_num(matrices.rate) > 0)),
            "floor effects: cells with at least one hit, a choice by outcome",
        ),
    }


def _residual_outcome(matrices: LeakageMatrices) -> dict[str, tuple[CellOutcome, str | None]]:
    use = matrices.measured & np.isfinite(matrices.residual)
    note = "base-rate calibration: rate minus the base model's under the same eval persona"
    if not use.any():
        note = "not estimable: the base model was not evaluated"
    return {"bystander_residual:all": (CellOutcome(matrices.residual, use), note)}


def _floor_share(matrices: LeakageMatrices) -> list[TidyRow]:
    values = matrices.rate[matrices.measured]
    row = RowTemplate(FAMILY, values.size, None, OUTCOME)
    if not values.size:
        return [row("floor_share", note="not estimable: no cell off the diagonal was measured")]
    share = float((values == 0).mean())
    return [row("floor_share", None, share, note="share of bystander cells without a single hit")]


def _base_rate_rows(matrices: LeakageMatrices) -> list[TidyRow]:
    row = RowTemplate(FAMILY, None, "base_rate", "mean_rate_of_eval_persona")
    means = _means(matrices.rate, matrices.measured, axis=0)
    use = np.isfinite(means) & np.isfinite(matrices.base_rate)
    if not use.any():
        return [row("spearman", n=0, note="not estimable: the base model was not evaluated")]
    rho, p, why = spearman(matrices.base_rate[use], means[use])
    note = why or "base-rate calibration: one point per eval persona"
    return [row("spearman", None, rho, p=p, n=int(use.sum()), note=note)]


def _capability_rows(matrices: LeakageMatrices, capability_loss: Mapping[str, float] | None) -> list[TidyRow]:
    outcome = "mean_bystander_rate_of_source"
    means = _means(matrices.rate, matrices.measured, axis=1)
    lengths = _means(matrices.mean_tokens, matrices.measured, axis=1)
    rows = [_source_row(lengths, means, "completion_length", outcome, "capability loss, proxy: mean tokens per completion")]
    if capability_loss is None:
        row = RowTemplate(FAMILY, 0, "capability_loss", outcome)
        rows.append(row("spearman", note="not estimable: no capability was measured for the adapters"))
        return rows
    if unknown := sorted(set(capability_loss) - set(matrices.personas)):
        raise StatisticsError(f"capability_loss: {', '.join(unknown)} are not in the panel.")
    loss = np.array([capability_loss.get(persona, np.nan) for persona in matrices.personas], dtype=np.float64)
    rows.append(_source_row(loss, means, "capability_loss", outcome, "one point per source"))
    rows.append(_source_row(loss, matrices.source_rate, "capability_loss", "source_rate", "one point per source"))
    return rows


def _source_row(x: FloatArray, y: FloatArray, predictor: str, outcome: str, note: str) -> TidyRow:
    use = np.isfinite(x) & np.isfinite(y)
    row = RowTemplate(FAMILY, int(use.sum()), predictor, outcome)
    rho, p, why = spearman(x[use], y[use])
    return row("spearman", None, rho, p=p, note=f"{why}; {note}" if why else note)


def _means(matrix: FloatArray, use: BoolArray, axis: int) -> FloatArray:
    """Mean of the used cells along an axis, NaN where there is none."""
    there = use & np.isfinite(matrix)
    count = there.sum(axis=axis)
    total = np.where(there, matrix, 0.0).sum(axis=axis)
    return settled(np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0))
