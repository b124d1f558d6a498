"""Mantel / QAP permutation test of two persona-by-persona matrices, for many layers at once.

Cells of such matrices share rows and columns, so a correlation over cells has no valid ordinary p-value. Under the
null hypothesis the personas of one matrix are exchangeable: rows and columns are permuted together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from persona_assets.conventions import PERMUTATIONS
from persona_assets.statistics.ranks import average_ranks, permutations
from persona_assets.statistics.tidy import StatisticsError, finite_array

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from persona_assets.statistics.tidy import BoolArray, FloatArray, IntArray

_CHUNK_VALUES = 1 << 22
_MINIMUM_CELLS = 6
# Sums over cells in another order differ by less than this; such a difference counts as a tie.
_ROUNDING = 1e-10


@dataclass(frozen=True)
class MantelResult:
    """Correlation over cells at each layer, with its permutation p.

    Attributes:
        statistic: [layers] correlation that was permuted: Pearson between the outcome's ranks among the cells used
            and the predictor's ranks among all cells off the diagonal. With all cells used this is Spearman's rho.
        p: [layers] two-sided, (1 + as extreme) / (1 + permutations).
        cells: number of cells used.
        reason: why there is no result, None when there is.
    """

    statistic: FloatArray
    p: FloatArray
    cells: int
    reason: str | None = None


@dataclass(frozen=True)
class CellOutcome:
    """An outcome over cells, and which of them to use.

    Attributes:
        values: [N, N] rows sources, columns eval personas; may be NaN where not used.
        use: [N, N] cells to use, None for all off the diagonal; the diagonal is never used.
    """

    values: FloatArray
    use: BoolArray | None = None


def mantel(
    predictor: FloatArray, outcome: FloatArray, *, use: BoolArray | None = None, seed: int, count: int = PERMUTATIONS
) -> MantelResult:
    """Test one outcome; see `mantel_tests`."""
    return mantel_tests(predictor, [CellOutcome(outcome, use)], seed=seed, count=count)[0]


def mantel_tests(
    predictor: FloatArray, outcomes: Sequence[CellOutcome], *, seed: int, count: int = PERMUTATIONS
) -> list[MantelResult]:
    """Test the correlation of a matrix with several others over cells off the diagonal, at every layer.

    The cells used belong to the outcome and move with its personas when they are permuted, so a choice of cells by
    source or by outcome keeps its meaning under the null hypothesis. All outcomes share the permutations.

    Args:
        predictor: [layers, N, N], symmetric.
        outcomes: matrices of the same N.
        seed: seed of the permutations.
        count: number of permutations.

    Returns:
        One result per outcome, in order.

    Raises:
        StatisticsError: shapes differ, the predictor is not symmetric, or a value is not finite where it is used.
    """
    array = finite_array(predictor, "predictor")
    if array.ndim != 3 or array.shape[1] != array.shape[2]:
        raise StatisticsError(f"mantel: predictor has shape {array.shape}, expected [layers, N, N].")
    if not np.allclose(array, array.transpose(0, 2, 1), rtol=0.0, atol=1e-9):
        raise StatisticsError("mantel: the predictor is not symmetric.")
    n = array.shape[1]
    first, second = np.triu_indices(n, 1)
    # The predictor is symmetric, so both directions of a pair meet the same value and can be added up first.
    scores = _standard(average_ranks(array[:, first, second]))
    tables = [_Table.of(outcome, n) for outcome in outcomes]
    used = [table for table in tables if table.reason is None]
    products = np.ascontiguousarray(scores.T)
    moments = np.ascontiguousarray(np.concatenate([scores, scores**2]).T)
    identity = (first * n + second)[None, :].astype(np.int32)
    observed = [table.correlations(identity, products, moments)[0] for table in used]
    extreme = [np.zeros(len(array), dtype=np.int64) for _ in used]
    orders = permutations(n, count, "mantel", seed, n).astype(np.int32)
    scratch: FloatArray | None = None
    for at in _cells_of(orders, first, second, n):
        if scratch is None:
            scratch = np.empty(at.shape)  # the first piece is the largest
        for table, target, tally in zip(used, observed, extreme, strict=True):
            found = table.correlations(at, products, moments, scratch)
            tally[:] += (np.abs(found) >= np.abs(target) - _ROUNDING).sum(axis=0)
    flat = np.ptp(scores, axis=1) == 0
    results = iter(zip(observed, extreme, strict=True))
    return [table.result(flat, count, *(next(results) if table.reason is None else (None, None))) for table in tables]


@dataclass(frozen=True)
class _Table:
    """An outcome prepared for permutation: both directions of each pair added up, and flattened."""

    ranks: FloatArray
    weights: FloatArray | None
    cells: int
    reason: str | None = None

    @classmethod
    def of(cls, outcome: CellOutcome, n: int) -> _Table:
        """Rank the cells used.

        Raises:
            StatisticsError: the shape is not [N, N], or a cell used is not finite.
        """
        off = ~np.eye(n, dtype=np.bool_)
        if outcome.values.shape != (n, n) or (outcome.use is not None and outcome.use.shape != (n, n)):
            raise StatisticsError(f"mantel: outcome and its choice of cells must be [{n}, {n}].")
        used = off if outcome.use is None else off & outcome.use
        cells = int(used.sum())
        empty = np.empty(0)
        if cells < _MINIMUM_CELLS:
            return cls(empty, None, cells, reason=f"not estimable: {cells} cells, at least {_MINIMUM_CELLS} needed")
        values = finite_array(outcome.values[used], "outcome")
        if np.ptp(values) == 0:
            return cls(empty, None, cells, reason="not estimable: constant outcome")
        ranks = np.zeros((n, n))
        ranks[used] = _standard(average_ranks(values))
        both = (ranks + ranks.T).ravel()
        if cells == n * (n - 1):
            return cls(both, None, cells)
        return cls(both, (used.astype(np.float64) + used.T).ravel(), cells)

    def correlations(
        self,
        at: NDArray[np.int32],
        products: FloatArray,
        moments: FloatArray,
        scratch: FloatArray | None = None,
    ) -> FloatArray:
        """Pearson correlation over the used cells for each order of personas and layer, [orders, layers]."""
        met = np.empty(at.shape) if scratch is None else scratch[: len(at)]
        np.take(self.ranks, at, mode="clip", out=met)
        means = np.asarray(met @ products / self.cells)
        if self.weights is None:
            return means  # both sides are standardised over all cells
        np.take(self.weights, at, mode="clip", out=met)
        sums = met @ moments / self.cells
        mean, square = np.split(sums, 2, axis=1)
        spread = np.sqrt(np.maximum(square - mean**2, 0.0))
        # The ranks have mean 0 and variance 1 over the used cells, so only the predictor needs scaling here.
        return np.divide(means, spread, out=np.zeros(means.shape), where=spread > 1e-6)

    def result(self, flat: BoolArray, count: int, observed: FloatArray | None, extreme: IntArray | None) -> MantelResult:
        """Turn counts into p-values; a layer whose predictor is constant has none."""
        if observed is None or extreme is None:
            return MantelResult(np.full(len(flat), np.nan), np.full(len(flat), np.nan), self.cells, self.reason)
        p = (1.0 + extreme) / (1.0 + count)
        return MantelResult(np.where(flat, np.nan, observed), np.where(flat, np.nan, p), self.cells)


def _cells_of(orders: NDArray[np.int32], first: IntArray, second: IntArray, n: int) -> Iterator[NDArray[np.int32]]:
    """Flat positions of the pairs under each order of personas, in pieces; the buffer is reused."""
    step = max(1, min(len(orders), _CHUNK_VALUES // len(first)))
    buffer, other = np.empty((2, step, len(first)), dtype=np.int32)
    scaled = orders * np.int32(n)
    for start in range(0, len(orders), step):
        size = min(step, len(orders) - start)
        np.take(scaled[start : start + size], first, axis=1, out=buffer[:size], mode="clip")
        np.take(orders[start : start + size], second, axis=1, out=other[:size], mode="clip")
        buffer[:size] += other[:size]
        yield buffer[:size]


def _standard(values: FloatArray) -> FloatArray:
    deviations = values - values.mean(axis=-1, keepdims=True)
    scale = np.sqrt((deviations**2).mean(axis=-1, keepdims=True))
    return np.asarray(np.divide(deviations, scale, out=np.zeros_like(deviations), where=scale > 0))
