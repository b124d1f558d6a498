"""Cross-validated prediction of source rate from cosine, per layer and with the layer chosen inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from persona_assets.conventions import BOOTSTRAP_RESAMPLES, CONFIDENCE_LEVEL
from persona_assets.statistics.ranks import bootstrap_weights, percentile_interval
from persona_assets.statistics.scan import OUTCOME
from persona_assets.statistics.tidy import (
    RowTemplate,
    StatisticsError,
    TidyRow,
    generator,
    is_constant,
    tidy_frame,
)

if TYPE_CHECKING:
    import polars as pl

    from persona_assets.statistics.observations import StudyObservations
    from persona_assets.statistics.tidy import BoolArray, FloatArray, IntArray

FAMILY = "cross_validation"
FOLDS = 5
REPEATS = 50
_CHUNK_VALUES = 1 << 22


@dataclass(frozen=True)
class NestedErrors:
    """Out-of-fold errors when the layer is chosen inside each training set.

    Attributes:
        squared: [N] squared error of each persona, mean over repeats.
        baseline: [N] squared error of predicting the training mean, on the same folds.
        chosen: [repeats * folds] position of the layer chosen.
    """

    squared: FloatArray
    baseline: FloatArray
    chosen: IntArray


def fold_masks(n: int, folds: int, repeats: int, seed: int) -> BoolArray:
    """Draw the test sets of repeated k-fold cross-validation.

    Returns:
        [repeats, folds, n] True where an observation is tested; in each repeat every observation exactly once, and
        fold sizes differ by at most one.

    Raises:
        StatisticsError: fewer observations than folds.
    """
    if n < folds:
        raise StatisticsError(f"{n} observations cannot be cut into {folds} folds.")
    labels = np.tile(np.arange(n) % folds, (repeats, 1))
    labels = generator("cross_validation_folds", seed, n, folds).permuted(labels, axis=1)
    return np.asarray(labels[:, None, :] == np.arange(folds)[None, :, None])


def fold_errors(x: FloatArray, y: FloatArray, masks: BoolArray) -> FloatArray:
    """Out-of-fold squared errors of least squares on one predictor, for all layers and folds at once.

    Args:
        x: [layers, n].
        y: [n].
        masks: [repeats, folds, n] test sets.

    Returns:
        [layers, n] mean over repeats. Where a training predictor has no variation the slope is 0, as the least-norm
        solution has it.
    """
    train = (~masks).astype(np.float64)
    intercept, slope = _fits(x, y, train.reshape(-1, train.shape[-1]))
    shape = (len(x), *masks.shape[:2])
    predicted = intercept.reshape(shape)[..., None] + slope.reshape(shape)[..., None] * x[:, None, None, :]
    squared = np.where(masks, (y - predicted) ** 2, 0.0)
    return np.asarray(squared.sum(axis=2).mean(axis=1))


def leave_one_out_errors(x: FloatArray, y: FloatArray) -> FloatArray:
    """Leave-one-out squared errors of least squares of y on one predictor: (residual / (1 - leverage))^2.

    Args:
        x: [layers, n].
        y: [n].

    Returns:
        [layers, n]. An observation that alone gives the predictor its variation is predicted by the others' mean.
    """
    return _loo(x, y, np.ones((1, len(y))))[:, 0]


def nested_errors(x: FloatArray, y: FloatArray, masks: BoolArray) -> NestedErrors:
    """Cross-validate with the layer of smallest leave-one-out error chosen inside each training set.

    Args:
        x: [layers, n].
        y: [n].
        masks: [repeats, folds, n] test sets.
    """
    repeats, folds, n = masks.shape
    tests = masks.reshape(-1, n)
    train = (~tests).astype(np.float64)
    chosen = np.empty(len(train), dtype=np.int64)
    step = max(1, _CHUNK_VALUES // x.size)
    for start in range(0, len(train), step):
        part = train[start : start + step]
        chosen[start : start + step] = np.argmin((_loo(x, y, part) * part).sum(axis=2), axis=0)
    intercept, slope = _fits(x, y, train)
    rows = np.arange(len(train))
    predicted = intercept[chosen, rows][:, None] + slope[chosen, rows][:, None] * x[chosen]
    means = (train @ y) / train.sum(axis=1)

    def per_persona(errors: FloatArray) -> FloatArray:
        return np.asarray(np.where(tests, errors, 0.0).reshape(repeats, folds, n).sum(axis=1).mean(axis=0))

    return NestedErrors(per_persona((y - predicted) ** 2), per_persona((y - means[:, None]) ** 2), chosen)


def cross_validation(
    observations: StudyObservations,
    *,
    seed: int,
    folds: int = FOLDS,
    repeats: int = REPEATS,
    resamples: int = BOOTSTRAP_RESAMPLES,
    confidence: float = CONFIDENCE_LEVEL,
) -> pl.DataFrame:
    """Cross-validate every layer.

    Args:
        observations: the study's personas.
        seed: seed of the folds and of the bootstrap.
        folds: folds of a repeat.
        repeats: repeats of the k-fold.
        resamples: bootstrap resamples of the mean squared error, over personas.
        confidence: level of its interval.

    Returns:
        Tidy rows. Per layer: `kfold_mse`, `loo_mse` (registered, with bootstrap interval). Once:
        `kfold_argmin_layer`, `loo_argmin_layer` (layer and its error), and as sensitivity `nested_mse` and
        `nested_r2`, where the layer is chosen inside the loop; R2 is against predicting the training mean on the same
        folds.
    """
    n, y = observations.n, observations.rate
    row = RowTemplate(FAMILY, n, "cosine", OUTCOME)
    minimum = 2 * folds
    if n < minimum or is_constant(y):
        why = f"{n} personas, at least {minimum} needed" if n < minimum else "constant source rate"
        names = ("kfold_mse", "loo_mse", "nested_mse", "nested_r2")
        return tidy_frame(row(name, registered=i < 2, note=f"not estimable: {why}") for i, name in enumerate(names))
    usable = np.array([not is_constant(x) for x in observations.cosine])
    masks = fold_masks(n, folds, repeats, seed)
    weights = bootstrap_weights(n, resamples, "cross_validation_bootstrap", seed)
    x = observations.cosine[usable]
    layers = [layer for layer, ok in zip(observations.layers, usable, strict=True) if ok]
    rows: list[TidyRow] = [
        row("kfold_mse", layer, registered=True, note="not estimable: constant cosine")
        for layer, ok in zip(observations.layers, usable, strict=True)
        if not ok
    ]
    if not layers:
        return tidy_frame(rows)
    errors = {"kfold": fold_errors(x, y, masks), "loo": leave_one_out_errors(x, y)}
    for kind, table in errors.items():
        draws = table @ weights.T / n
        for layer, values, resampled in zip(layers, table, draws, strict=True):
            low, high = percentile_interval(resampled, confidence) or (None, None)
            rows.append(row(f"{kind}_mse", layer, float(values.mean()), low=low, high=high, registered=True))
        best = int(np.argmin(table.mean(axis=1)))
        note = f"smallest of {len(layers)} layers; optimistic, because the layer is chosen on the same errors"
        rows.append(row(f"{kind}_argmin_layer", layers[best], float(table[best].mean()), registered=True, note=note))
    return tidy_frame([*rows, *_nested_rows(row, nested_errors(x, y, masks), layers, weights, confidence)])


def _nested_rows(
    row: RowTemplate, nested: NestedErrors, layers: list[int], weights: FloatArray, confidence: float
) -> list[TidyRow]:
    counts = np.bincount(nested.chosen, minlength=len(layers))
    often = int(np.argmax(counts))
    share = f"{counts[often]} of {len(nested.chosen)}"
    note = f"layer chosen inside the loop; most often layer {layers[often]} ({share})"
    n = len(nested.squared)
    model, base = weights @ nested.squared / n, weights @ nested.baseline / n
    low, high = percentile_interval(model, confidence) or (None, None)
    rows = [row("nested_mse", None, float(nested.squared.mean()), low=low, high=high, note=note)]
    ratio = np.divide(model, base, out=np.full(len(model), np.nan), where=base > 0)
    low, high = percentile_interval(1.0 - ratio, confidence) or (None, None)
    r2 = 1.0 - float(nested.squared.mean() / nested.baseline.mean())
    rows.append(row("nested_r2", None, r2, low=low, high=high, note=f"{note}; negative: worse than the mean"))
    return rows


def _moments(x: FloatArray, y: FloatArray, train: FloatArray) -> tuple[FloatArray, ...]:
    """Weighted means and centred sums, [layers, sets]; x and y are centred first against cancellation."""
    size = train.sum(axis=1)
    mean_x, mean_y = x @ train.T / size, train @ y / size
    sum_xx = (x**2) @ train.T - size * mean_x**2
    sum_xy = (x * y) @ train.T - size * mean_x * mean_y
    return size, mean_x, mean_y, sum_xx, sum_xy


def _fits(x: FloatArray, y: FloatArray, train: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Intercept and slope per layer and training set, [layers, sets]."""
    centre_x, centre_y = x.mean(axis=1, keepdims=True), y.mean()
    _, mean_x, mean_y, sum_xx, sum_xy = _moments(x - centre_x, y - centre_y, train)
    slope = np.divide(sum_xy, sum_xx, out=np.zeros_like(sum_xy), where=sum_xx > _floor(x))
    return centre_y + mean_y - slope * (mean_x + centre_x), slope


def _loo(x: FloatArray, y: FloatArray, train: FloatArray) -> FloatArray:
    """Leave-one-out squared errors within each set, [layers, sets, n]; meaningful inside the set only."""
    cx, cy = x - x.mean(axis=1, keepdims=True), y - y.mean()
    size, mean_x, mean_y, sum_xx, sum_xy = _moments(cx, cy, train)
    floor = _floor(x)
    slope = np.divide(sum_xy, sum_xx, out=np.zeros_like(sum_xy), where=sum_xx > floor)
    deviation = cx[:, None, :] - mean_x[..., None]
    residual = (cy - mean_y[:, None])[None] - slope[..., None] * deviation
    share = np.divide(deviation**2, sum_xx[..., None], out=np.zeros_like(deviation), where=sum_xx[..., None] > floor)
    left = 1.0 - 1.0 / size[:, None] - share
    mean_only = (cy - mean_y[:, None])[None] / (1.0 - 1.0 / size[:, None])
    error = np.divide(residual, left, out=np.broadcast_to(mean_only, residual.shape).copy(), where=left > 1e-9)
    return np.asarray(error**2)


def _floor(x: FloatArray) -> float:
    return float(1e-24 * np.max(np.abs(x)) ** 2 * x.shape[1] + 1e-300)
