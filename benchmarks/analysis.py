"""Time the analysis of one study, and compare its resampling with the plain-loop formulation.

    python benchmarks/analysis.py [--personas 48] [--large 275] [--calibration 1000]

Prints the seconds of every family over a simulated study of 48 personas and 28 layers (10,000 power draws, 9,999 Mantel
permutations, 50 x 5-fold cross-validation with bootstrap), then of a large study, then a table of the resampling
families against loops over draws that call scipy and scikit-learn. The loops run a share of the draws, on which both
formulations must agree, and are scaled up to all of them. With --calibration, also the share of simulated studies
without an effect in which each test is below .05. The last line is the ratio of the totals.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

# As every run has it: threads cost more than they give on matrices of this size, six times the time on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy import stats
from sklearn.linear_model import LinearRegression

from persona_assets.statistics import analysis
from persona_assets.statistics.calibration import false_positive_rates
from persona_assets.statistics.cross_validation import FOLDS, REPEATS, fold_errors, fold_masks, nested_errors
from persona_assets.statistics.gate_rules import gate_a, gate_b, gate_c
from persona_assets.statistics.leakage import LeakageMatrices
from persona_assets.statistics.mantel import mantel
from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.power import RULE_RHOS, RuleDesign, power, rule_design
from persona_assets.statistics.ranks import bootstrap_spearman, bootstrap_weights
from persona_assets.statistics.simulation import ANCHOR, SimulatedStudy, simulate_study
from persona_assets.statistics.tidy import generator
from persona_assets.study import AnalysisPlan

if TYPE_CHECKING:
    from persona_assets.statistics.tidy import FloatArray, IntArray

FAMILIES = ("regressions", "off_diagonal", "power", "inherited_drift", "evaluate_gates", "attenuation", "probe")
PLAN = AnalysisPlan(primary_layers=(15, 12))
LAYERS, HIDDEN, QUESTIONS = 28, 64, 20


@dataclass(frozen=True)
class Comparison:
    """One resampling family in both formulations, over all its draws."""

    name: str
    vectorised: float
    loop: float
    looped_share: float


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--personas", type=int, default=48, help="personas of the study (default 48)")
    parser.add_argument("--large", type=int, default=275, help="personas of the large study, 0 for none (default 275)")
    parser.add_argument("--calibration", type=int, default=0, help="simulated null studies per test (default none)")
    arguments = parser.parse_args()
    study = timed_study(arguments.personas)
    full_analysis(timed_study(12), quiet=True)  # imports of the libraries are not the analysis
    full_analysis(study)
    if arguments.large:
        full_analysis(timed_study(arguments.large))
    if arguments.calibration:
        print_calibration(arguments.calibration)
    observations = study.frames.observations(ANCHOR)
    rows = [bootstrap(observations), cross_validation(observations), simulated_power(observations), permutation(study)]
    print(f"\n{'resampling':<24}{'vectorised s':>14}{'plain loop s':>14}{'ratio':>9}   loop measured on")
    for row in rows:
        print(
            f"{row.name:<24}{row.vectorised:>14.3f}{row.loop:>14.1f}{row.loop / row.vectorised:>9.0f}"
            f"   {row.looped_share:.2%} of the draws"
        )
    print(f"ratio: {sum(row.loop for row in rows) / sum(row.vectorised for row in rows):.0f}")


def print_calibration(studies: int) -> None:
    """Print the false-positive rates of all tests, with 99.9 % intervals."""
    print(f"\nfalse positives at .05 in {studies} null studies of 24 personas")
    for row in false_positive_rates(studies=studies).to_dicts():
        print(f"{row['test']:<38}{row['share']:.3f}  [{row['low']:.3f}, {row['high']:.3f}]  {row['expected']}")


def timed_study(n: int) -> SimulatedStudy:
    """Simulate a study whose second half is new."""
    return simulate_study(n, rho=-0.5, seed=1, layers=LAYERS, hidden=HIDDEN, inherited=n // 2)


def full_analysis(study: SimulatedStudy, *, quiet: bool = False) -> None:
    """Run every family over a study and print what each took."""
    n = len(study.population_rate)
    states = study.centroids[:, None] + generator("benchmark_states", n).standard_normal((n, QUESTIONS, LAYERS, HIDDEN))
    extras = analysis.Extras(token_ids=[set(range(i % 9 + 2)) for i in range(n)], states=states)
    took: dict[str, float] = {}
    started = time.perf_counter()
    with stopwatches(took):
        analysis.analyse("study", study.frames, PLAN, anchor=ANCHOR, parent=study.frames, extras=extras)
    total = time.perf_counter() - started
    if not quiet:
        parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in took.items())
        without = total - took["probe"]
        print(f"N={n}, {LAYERS} layers: everything {total:.2f} s, without the probe {without:.2f} s ({parts})")


@contextmanager
def stopwatches(took: dict[str, float]) -> Iterator[None]:
    """Record the seconds of each family while `analysis` calls it."""
    originals = {name: getattr(analysis, name) for name in FAMILIES}

    def wrap(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            took[name] = took.get(name, 0.0) + time.perf_counter() - started
            return result

        return call

    for name, function in originals.items():
        setattr(analysis, name, wrap(name, function))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(analysis, name, function)


def stopwatch(function: Callable[[], FloatArray]) -> tuple[float, FloatArray]:
    """Return the seconds a call took, and its result."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def bootstrap(observations: StudyObservations, resamples: int = 2000, looped: int = 40) -> Comparison:
    """Bootstrap of rho at every layer."""
    x, y, n = observations.cosine, observations.rate, observations.n
    seconds, fast = stopwatch(lambda: bootstrap_spearman(x, y, bootstrap_weights(n, resamples, "benchmark")))
    draws = generator("benchmark").integers(0, n, (resamples, n))[:looped]
    slow_seconds, slow = stopwatch(
        lambda: np.array([[stats.spearmanr(row[draw], y[draw]).statistic for draw in draws] for row in x])
    )
    assert np.allclose(fast[:, :looped], slow)
    return Comparison("bootstrap of rho", seconds, slow_seconds * resamples / looped, looped / resamples)


def cross_validation(observations: StudyObservations, looped: int = 1) -> Comparison:
    """Repeated 5-fold and nested cross-validation at every layer."""
    x, y = observations.cosine, observations.rate
    masks = fold_masks(observations.n, FOLDS, REPEATS, 1)
    seconds, _ = stopwatch(lambda: np.concatenate([fold_errors(x, y, masks), nested_errors(x, y, masks).squared[None]]))

    def predicted(row: FloatArray, train: IntArray, test: IntArray) -> FloatArray:
        return np.asarray(LinearRegression().fit(row[train][:, None], y[train]).predict(row[test][:, None]))

    def loop() -> FloatArray:
        errors, nested = np.zeros(x.shape), np.zeros(len(y))
        for repeat in masks[:looped]:
            for mask in repeat:
                train, test = np.flatnonzero(~mask), np.flatnonzero(mask)
                inner = []
                for layer, row in enumerate(x):
                    errors[layer, test] += (y[test] - predicted(row, train, test)) ** 2 / looped
                    left = [y[i] - predicted(row, train[train != i], np.array([i]))[0] for i in train]
                    inner.append(np.mean(np.square(left)))
                nested[test] += (y[test] - predicted(x[int(np.argmin(inner))], train, test)) ** 2 / looped
        return np.concatenate([errors, nested[None]])

    slow_seconds, slow = stopwatch(loop)
    few = masks[:looped]
    assert np.allclose(slow, np.concatenate([fold_errors(x, y, few), nested_errors(x, y, few).squared[None]]))
    return Comparison("cross-validation", seconds, slow_seconds * REPEATS / looped, looped / REPEATS)


def simulated_power(observations: StudyObservations, draws: int = 10_000, looped: int = 40) -> Comparison:
    """Power of the gates and of the whole rule."""
    design = rule_design(observations.personas, observations.categories, observations.cohorts, n_layers=LAYERS, seed=PLAN.seed)

    def rule(count: int) -> FloatArray:
        table = power(design, seed=1, draws=count, rhos=(), rule_rhos=RULE_RHOS)
        return table.filter(quantity="rule")["probability"].to_numpy()

    seconds, _ = stopwatch(lambda: rule(draws))

    def loop() -> FloatArray:
        random = generator("power", 1, observations.n)
        x, noise = (random.standard_normal((looped, observations.n)) for _ in range(2))
        shares = []
        for rho in RULE_RHOS:
            y = rho * x + np.sqrt(1.0 - rho**2) * noise
            shares.append(np.mean([judged(observations, design, *pair) for pair in zip(x, y, strict=True)]))
        return np.array(shares)

    slow_seconds, slow = stopwatch(loop)
    assert np.allclose(slow, rule(looped))
    return Comparison("power of the rule", seconds, slow_seconds * draws / looped, looped / draws)


def judged(observations: StudyObservations, design: RuleDesign, x: FloatArray, y: FloatArray) -> bool:
    """Judge one simulated study by the gates themselves."""
    rate = (y - y.min()) / np.ptp(y)
    one = replace(observations, layers=(0,), cosine=x[None], rate=rate, rate_by_seed=rate[None])
    gates = [gate_a(one, split, 0, PLAN.alpha, None) for split in design.splits]
    gates += [gate_b(one, split, 0, PLAN.alpha, PLAN.slope_tolerance, None) for split in design.splits]
    return all(row.passed for row in [*gates, gate_c(one, 0, PLAN.alpha, None)])


def permutation(study: SimulatedStudy, count: int = 9999, looped: int = 20) -> Comparison:
    """Mantel test at every layer over all cells."""
    frames = study.frames
    assert frames.cells is not None
    assert frames.pairwise_cosines is not None
    ids = frames.personas["persona"].to_list()
    matrices = LeakageMatrices.from_frames(frames.cells, frames.pairwise_cosines, personas=ids, anchor=ANCHOR)
    cosine, rate, off = matrices.cosine, matrices.rate, matrices.measured
    seconds, _ = stopwatch(lambda: mantel(cosine, rate, seed=1, count=count).p)
    orders = generator("mantel", 1, len(ids)).permuted(np.tile(np.arange(len(ids)), (looped, 1)), axis=1)

    def loop() -> FloatArray:
        p_values = []
        for layer in cosine:
            observed = abs(stats.spearmanr(layer[off], rate[off]).statistic)
            drawn = [abs(stats.spearmanr(layer[off], rate[np.ix_(order, order)][off]).statistic) for order in orders]
            p_values.append((1 + sum(value >= observed for value in drawn)) / (1 + looped))
        return np.array(p_values)

    slow_seconds, slow = stopwatch(loop)
    assert np.allclose(slow, mantel(cosine, rate, seed=1, count=looped).p)
    return Comparison("Mantel permutations", seconds, slow_seconds * count / looped, looped / count)


if __name__ == "__main__":
    main()
