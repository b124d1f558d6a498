"""Linear probe: is the persona readable from one question's hidden state, and taken for the anchor?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from persona_assets.hashing import derive_seed
from persona_assets.statistics.baselines import compare_predictors
from persona_assets.statistics.correlations import spearman
from persona_assets.statistics.intervals import wilson
from persona_assets.statistics.scan import OUTCOME
from persona_assets.statistics.tidy import RowTemplate, StatisticsError, TidyRow, generator, tidy_frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl
    from numpy.typing import ArrayLike

    from persona_assets.statistics.observations import StudyObservations
    from persona_assets.statistics.tidy import FloatArray, IntArray

FAMILY = "probe"
FOLDS = 5
COMPONENTS = 64
_ITERATIONS = 500


@dataclass(frozen=True)
class ProbeResult:
    """Held-out predictions of the probe at one layer.

    Attributes:
        layer: layer number.
        accuracy: share of held-out states given to their own persona.
        confusion: [N, N] share of the true persona's (row) states given to each persona (column).
        log_probability: [N, N] mean held-out log probability, rows the true persona.
    """

    layer: int
    accuracy: float
    confusion: FloatArray
    log_probability: FloatArray


def probe(
    states: ArrayLike,
    *,
    seed: int,
    layers: Sequence[int] | None = None,
    folds: int = FOLDS,
    components: int = COMPONENTS,
    regularisation: float = 1.0,
) -> list[ProbeResult]:
    """Fit a multinomial logistic regression of the persona on states, cross-validated by question.

    The classifier is scikit-learn's. Training states are standardised and reduced to their leading principal
    components, fitted on the training questions only: a held-out question is new to everything. Components are whitened,
    so that the ridge penalty means the same at every layer.

    Args:
        states: [personas, questions, layers, hidden] last-input-token states of the base model.
        seed: seed that deals the questions to folds.
        layers: layer numbers, 0, 1, ... by default.
        folds: number of folds, at most the number of questions.
        components: principal components kept, less where the training set allows no more.
        regularisation: inverse strength of the ridge penalty (`C` of scikit-learn).

    Returns:
        One result per layer, in order.

    Raises:
        StatisticsError: wrong shape, values that are not finite, fewer than two personas, or fewer questions than
            folds.
    """
    array = np.asarray(states)
    if array.ndim != 4:
        raise StatisticsError(f"probe: states have shape {array.shape}, expected [personas, questions, layers, hidden].")
    personas, questions, depth, _ = array.shape
    names = tuple(range(depth)) if layers is None else tuple(layers)
    if len(names) != depth:
        raise StatisticsError(f"probe: {depth} layers of states and {len(names)} layer numbers.")
    if personas < 2 or folds < 2 or questions < folds:
        raise StatisticsError(
            f"probe: {personas} personas and {questions} questions in {folds} folds; two personas, two "
            f"folds and a question per fold are needed."
        )
    if not np.isfinite(array).all():
        raise StatisticsError("probe: a hidden state is not finite.")
    fold_of = generator("probe_folds", seed, questions, folds).permutation(np.arange(questions) % folds)
    random_state = derive_seed("probe_components", seed) % 2**32
    return [_probe_layer(array[:, :, i], name, fold_of, components, regularisation, random_state) for i, name in enumerate(names)]


def anchor_confusability(result: ProbeResult, anchor: int) -> FloatArray:
    """How easily each persona is taken for the anchor and the anchor for it.

    Returns:
        [N] mean of both directions' held-out log probabilities; meaningless at the anchor's own position.

    Raises:
        StatisticsError: the anchor's position is outside the panel.
    """
    if not 0 <= anchor < len(result.log_probability):
        raise StatisticsError(f"The anchor's position {anchor} is outside the panel.")
    return np.asarray((result.log_probability[:, anchor] + result.log_probability[anchor]) / 2)


def probe_rows(
    results: Sequence[ProbeResult], personas: Sequence[str], anchor: str, rate: FloatArray, questions: int
) -> pl.DataFrame:
    """Accuracy of the probe and confusability with the anchor as a predictor of the source rate.

    Args:
        results: of `probe`.
        personas: ids in the order of the states.
        anchor: id of the anchor.
        rate: [N] source rates in the same order.
        questions: questions behind each persona's states.

    Returns:
        Tidy rows per layer, none registered: `accuracy` (Wilson interval; the note gives chance) and, with predictor
        `anchor_confusability` and without the anchor, `spearman`.

    Raises:
        StatisticsError: the anchor is not among the personas, or lengths differ.
    """
    if anchor not in personas or len(personas) != len(rate):
        raise StatisticsError(f"probe: {len(personas)} personas, {len(rate)} rates, anchor {anchor!r} must fit together.")
    position = list(personas).index(anchor)
    others = np.arange(len(personas)) != position
    row = RowTemplate(FAMILY, int(others.sum()), "anchor_confusability", OUTCOME)
    rows: list[TidyRow] = []
    for result in results:
        n = len(personas) * questions
        low, high = wilson(round(result.accuracy * n), n)
        rows.append(
            row(
                "accuracy",
                result.layer,
                result.accuracy,
                n=n,
                low=float(low),
                high=float(high),
                predictor="hidden_state",
                outcome="persona",
                note=f"held-out questions; chance {1 / len(personas):.4f}",
            )
        )
        rho, p, why = spearman(anchor_confusability(result, position)[others], rate[others])
        rows.append(row("spearman", result.layer, rho, p=p, note=why or "without the anchor"))
    return tidy_frame(rows)


def probe_comparisons(
    results: Sequence[ProbeResult],
    observations: StudyObservations,
    predictors: Mapping[str, FloatArray],
    primary_layers: Sequence[int],
) -> pl.DataFrame:
    """Compare the confusability with the anchor with the cosine and the surface predictors, by the dependent tests.

    Args:
        results: of `probe`.
        observations: the study's personas, in the order of the states.
        predictors: from `surface_predictors`, [N] each in the same order.
        primary_layers: layers to compare at.

    Returns:
        Rows of `compare_predictors` per layer, none registered and all without the anchor: predictor
        `cosine - anchor_confusability`, and `anchor_confusability - <name>` for each surface predictor.

    Raises:
        StatisticsError: the anchor is not among the personas.
    """
    if observations.anchor not in observations.personas:
        raise StatisticsError(f"probe: the anchor {observations.anchor!r} is not among the personas.")
    position = observations.personas.index(observations.anchor)
    others = np.arange(observations.n) != position
    by_layer = {result.layer: anchor_confusability(result, position)[others] for result in results}
    rate, n = observations.rate[others], int(others.sum())
    rows: list[TidyRow] = []
    for layer in primary_layers:
        if layer not in by_layer or not observations.has_layer(layer):
            continue
        probed = ("anchor_confusability", by_layer[layer])
        pairs = [(("cosine", observations.at(layer)[others]), probed)]
        pairs += [(probed, (name, values[others])) for name, values in predictors.items()]
        for first, second in pairs:
            row = RowTemplate(FAMILY, n, f"{first[0]} - {second[0]}", OUTCOME)
            rows += compare_predictors(row, layer, first, second, rate, registered=False)
    return tidy_frame(rows)


def _probe_layer(
    states: FloatArray,
    layer: int,
    fold_of: IntArray,
    components: int,
    regularisation: float,
    random_state: int,
) -> ProbeResult:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    personas, questions, hidden = states.shape
    log_probability = np.empty((personas, questions, personas))
    for fold in np.unique(fold_of):
        test = fold_of == fold
        train_states = states[:, ~test].reshape(-1, hidden).astype(np.float64)
        labels = np.repeat(np.arange(personas), int((~test).sum()))
        kept = min(components, hidden, len(train_states) - 1)
        model = make_pipeline(
            StandardScaler(),
            PCA(n_components=kept, whiten=True, svd_solver="auto", random_state=random_state),
            LogisticRegression(C=regularisation, max_iter=_ITERATIONS),
        )
        model.fit(train_states, labels)
        held_out = states[:, test].reshape(-1, hidden).astype(np.float64)
        log_probability[:, test] = model.predict_log_proba(held_out).reshape(personas, -1, personas)
    guesses = log_probability.argmax(axis=2)
    confusion = (guesses[..., None] == np.arange(personas)).mean(axis=1)
    return ProbeResult(layer, float(np.trace(confusion) / personas), confusion, log_probability.mean(axis=1))
