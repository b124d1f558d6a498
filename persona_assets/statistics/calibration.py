"""Calibration: how often each test speaks at level alpha when there is nothing to find."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from persona_assets.conventions import ALPHA
from persona_assets.statistics.correlations import holm, pearson, spearman
from persona_assets.statistics.dependent_correlations import mrr_z, steiger_z, williams_t2
from persona_assets.statistics.drift import two_proportion_p
from persona_assets.statistics.drift_tests import sign_test, wilcoxon_p
from persona_assets.statistics.intervals import wilson
from persona_assets.statistics.mantel import CellOutcome, mantel_tests
from persona_assets.statistics.partial import partial_permutation_p, partial_spearman
from persona_assets.statistics.tidy import generator

if TYPE_CHECKING:
    from persona_assets.statistics.tidy import BoolArray, FloatArray

CALIBRATION_SCHEMA: dict[str, type[pl.DataType]] = {
    "test": pl.String,
    "share": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "studies": pl.Int64,
    "alpha": pl.Float64,
    "expected": pl.String,
}
_COMPLETIONS = 100
_PERMUTATIONS = 499
_LAYERS = 10
Study = Callable[[np.random.Generator, int, int], dict[str, float | None]]


def false_positive_rates(
    *, n: int = 24, studies: int = 1000, seed: int = 0, alpha: float = ALPHA, confidence: float = 0.999
) -> pl.DataFrame:
    """Simulate studies without an effect and count how often each test is below alpha.

    Args:
        n: personas of a study.
        studies: simulated studies per test.
        seed: of every draw.
        alpha: level.
        confidence: of the interval of the share.

    Returns:
        Columns of `CALIBRATION_SCHEMA`. `expected` is `level` (the share should be alpha), `at most` (discrete tests
        and Holm), `close` (a partial rank correlation removes a covariate only as far as ranks depend on it linearly:
        up to twice alpha), or `not held`: the ordinary p-value of the correlation over cells off the diagonal, and of
        a correlation that both sides owe to the prompt's length.
    """
    rows = []
    for study, tests in _STUDIES.items():
        random = generator("calibration", study.__name__, seed, n)
        counted = dict.fromkeys(tests, 0)
        done = dict.fromkeys(tests, 0)
        for number in range(studies):
            for test, p in study(random, n, number).items():
                done[test] += p is not None
                counted[test] += p is not None and p < alpha
        for test, expected in tests.items():
            low, high = wilson(counted[test], done[test], confidence)
            rows.append((test, counted[test] / done[test], float(low), float(high), done[test], alpha, expected))
    return pl.DataFrame(rows, schema=CALIBRATION_SCHEMA, orient="row")


def _rates(random: np.random.Generator, n: int) -> FloatArray:
    """Rates in steps of 1/100, so that ties are as common as they are in a study."""
    return random.binomial(_COMPLETIONS, 0.4, n) / _COMPLETIONS


def _plain(random: np.random.Generator, n: int, number: int) -> dict[str, float | None]:
    x, y = random.standard_normal((_LAYERS, n)), _rates(random, n)
    adjusted = [p for p in holm([spearman(row, y)[1] for row in x]) if p is not None]
    return {"spearman": spearman(x[0], y)[1], "pearson": pearson(x[0], y)[1], "holm over layers": min(adjusted)}


def _length(random: np.random.Generator, n: int, number: int) -> dict[str, float | None]:
    """Length drives the cosine alone, or the rate as well."""
    length = np.log(random.integers(4, 30, n))
    x = -length + 0.5 * random.standard_normal(n)
    y, z = _rates(random, n), np.round(-length + 0.5 * random.standard_normal(n), 1)
    [permuted] = partial_permutation_p(x[None], y, [length], seed=number, count=_PERMUTATIONS)
    return {
        "partial spearman": partial_spearman(x, y, [length])[1],
        "partial permutation": permuted,
        "partial spearman, length drives both": partial_spearman(x, z, [length])[1],
        "spearman, length drives both": spearman(x, z)[1],
    }


def _dependent(random: np.random.Generator, n: int, number: int) -> dict[str, float | None]:
    shared = random.standard_normal(n)
    x, z = 0.6 * shared + random.standard_normal((2, n))
    y = 0.5 * (x + z) + random.standard_normal(n)
    r = np.corrcoef([x, z, y])
    arguments = (float(r[0, 2]), float(r[1, 2]), float(r[0, 1]), n)
    return {
        "MRR z": mrr_z(*arguments).p,
        "Steiger eq. 14": steiger_z(*arguments).p,
        "Williams T2": williams_t2(*arguments).p,
    }


def _drift(random: np.random.Generator, n: int, number: int) -> dict[str, float | None]:
    before, now = random.binomial(_COMPLETIONS, 0.4, (2, n))
    deltas = (now - before) / _COMPLETIONS
    return {
        "sign test, registered": sign_test(deltas)[2],
        "sign test, ties dropped": sign_test(deltas, drop_ties=True, two_sided=True)[2],
        "wilcoxon": wilcoxon_p(deltas)[1],
        "two proportions": two_proportion_p(int(before[0]), _COMPLETIONS, int(now[0]), _COMPLETIONS),
    }


def _cells(random: np.random.Generator, n: int, number: int) -> dict[str, float | None]:
    """Cosines of real positions, some close to everyone; rates with strong sources and easy eval personas; no tie."""
    positions = random.standard_normal((n, 3)) + 1.0
    unit = positions / np.linalg.norm(positions, axis=1, keepdims=True)
    cosine = unit @ unit.T
    lift = 0.8 * random.standard_normal((n, 1)) + 0.5 * random.standard_normal((1, n))
    own = random.standard_normal((n, 2))
    chance = 1.0 / (1.0 + np.exp(2.5 - 1.6 * lift - 0.4 * own @ own.T))
    rate = random.binomial(_COMPLETIONS, chance) / _COMPLETIONS
    off: BoolArray = ~np.eye(n, dtype=np.bool_)
    strong = rate.mean(axis=1) > np.median(rate.mean(axis=1))
    negatives = np.zeros((n, n), dtype=np.bool_)
    negatives[np.arange(n), (np.arange(n) + 1) % n] = True
    choices = {"all cells": off, "strong emitters": off & strong[:, None], "without negatives": off & ~negatives}
    outcomes = [CellOutcome(rate, use) for use in choices.values()]
    results = mantel_tests(cosine[None], outcomes, seed=number, count=_PERMUTATIONS)
    p_values: dict[str, float | None] = {
        f"Mantel, {name}": float(result.p[0]) for name, result in zip(choices, results, strict=True)
    }
    return {**p_values, "naive spearman over cells": spearman(cosine[off], rate[off])[1]}


_STUDIES: dict[Study, dict[str, str]] = {
    _plain: {"spearman": "level", "pearson": "level", "holm over layers": "at most"},
    _length: {
        "partial spearman": "level",
        "partial permutation": "level",
        "partial spearman, length drives both": "close",
        "spearman, length drives both": "not held",
    },
    _dependent: {"MRR z": "level", "Steiger eq. 14": "level", "Williams T2": "level"},
    _drift: {
        "sign test, registered": "at most",
        "sign test, ties dropped": "at most",
        "wilcoxon": "level",
        "two proportions": "level",
    },
    _cells: {
        "Mantel, all cells": "level",
        "Mantel, strong emitters": "level",
        "Mantel, without negatives": "level",
        "naive spearman over cells": "not held",
    },
}
