"""Gates A, B and C, and the tables `gates` and `outcome`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from persona_assets.conventions import ALPHA, SLOPE_TOLERANCE
from persona_assets.statistics.buckets import BucketInputs, Confidence, Outcome, bucket, confidence
from persona_assets.statistics.correlations import holm, spearman
from persona_assets.statistics.gate_rules import GATES_SCHEMA, GateRow, gate_a, gate_b, gate_c, slope_rows
from persona_assets.statistics.partial import partial_spearman
from persona_assets.statistics.scan import strongest_layer
from persona_assets.statistics.splits import split_a, split_b
from persona_assets.statistics.tidy import TidyRow, frame_of, tidy_frame

if TYPE_CHECKING:
    from persona_assets.statistics.observations import StudyObservations

OUTCOME_SCHEMA: dict[str, type[pl.DataType]] = {
    "bucket": pl.String,
    "confidence": pl.String,
    "conditions": pl.String,
    "reasons": pl.String,
    "bucket_signed": pl.String,
    "strongest_layer": pl.Int64,
    "strongest_rho": pl.Float64,
    "strongest_p": pl.Float64,
    "n_layers_raw": pl.Int64,
    "n_layers_holm": pl.Int64,
    "n_layers": pl.Int64,
    "n": pl.Int64,
    "n_seeds": pl.Int64,
    "drift_triggered": pl.Boolean,
    "note": pl.String,
}


@dataclass(frozen=True)
class GateResult:
    """Everything the gates family gives.

    Attributes:
        gates: table `gates`.
        outcome: table `outcome`, one row.
        details: tidy rows with the slopes, their errors and relative change behind gate B.
        result: bucket, conditions and confidence as values.
    """

    gates: pl.DataFrame
    outcome: pl.DataFrame
    details: pl.DataFrame
    result: Outcome
    confidence: Confidence


def evaluate_gates(
    observations: StudyObservations,
    *,
    primary_layers: Sequence[int],
    seed: int,
    alpha: float = ALPHA,
    registered_sign: int = -1,
    slope_tolerance: float = SLOPE_TOLERANCE,
    drift_triggered: bool | None = None,
    drift_confounded: bool = False,
    drifted_since: Sequence[str] = (),
    truncation_flagged: int = 0,
    truncation_unknown: int = 0,
) -> GateResult:
    """Apply the registered rule to a study.

    Args:
        observations: the study's personas.
        primary_layers: registered layers, most important first.
        seed: seed of split B.
        alpha: level of every test in the rule.
        registered_sign: direction that was registered, -1 or 1; the preregistered gates ignore it, the sensitivity
            rows require it.
        slope_tolerance: largest relative change of slope that gate B accepts.
        drift_triggered: what the drift family found, None when there was nothing to test.
        drift_confounded: whether the drift comparison crosses measurement identities.
        drifted_since: earlier measurements of the study against which the trigger fired: `first`, `last`.
        truncation_flagged: number of source rates flagged for truncation.
        truncation_unknown: number of source rates of which that is not recorded.

    Returns:
        Tables and values; see `GateResult`.

    Raises:
        StatisticsError: from the observations.
    """
    splits = (split_a(observations.cohorts), split_b(observations.personas, observations.categories, seed))
    rows: list[GateRow] = []
    details: list[TidyRow] = []
    for layer in primary_layers:
        for registered in (True, False):
            sign = None if registered else registered_sign
            rows += [gate_a(observations, split, layer, alpha, sign) for split in splits]
            rows += [gate_b(observations, split, layer, alpha, slope_tolerance, sign) for split in splits]
            rows.append(gate_c(observations, layer, alpha, sign))
        details += [row for split in splits for row in slope_rows(observations, split, layer)]
    inputs = bucket_inputs(observations, rows, primary_layers, alpha, registered_sign, registered=True)
    outcome = bucket(inputs)
    signed = bucket(bucket_inputs(observations, rows, primary_layers, alpha, registered_sign, registered=False))
    trust = confidence(
        outcome,
        signed_bucket=signed.bucket,
        n_seeds=len(observations.seeds),
        drift_triggered=drift_triggered,
        drift_confounded=drift_confounded,
        drifted_since=drifted_since,
        truncation_flagged=truncation_flagged,
        truncation_unknown=truncation_unknown,
    )
    return GateResult(
        frame_of(rows, GATES_SCHEMA),
        _outcome_frame(observations, inputs, outcome, signed, trust, drift_triggered),
        tidy_frame(details),
        outcome,
        trust,
    )


def bucket_inputs(
    observations: StudyObservations,
    rows: Sequence[GateRow],
    primary_layers: Sequence[int],
    alpha: float,
    registered_sign: int,
    *,
    registered: bool,
) -> BucketInputs:
    """Collect what the bucket rule looks at from the gate rows and the observations."""
    scan = {layer: spearman(x, observations.rate) for layer, x in zip(observations.layers, observations.cosine, strict=True)}
    p_values = [scan[layer][1] for layer in observations.layers]
    adjusted = dict(zip(observations.layers, holm(p_values), strict=True))

    def holds(gate: str, layer: int) -> bool:
        mine = [r.passed for r in rows if (r.gate, r.layer, r.registered) == (gate, layer, registered)]
        return bool(mine) and all(mine)

    partials: dict[int, float | None] = {}
    for layer in primary_layers:
        partials[layer] = None
        if observations.has_layer(layer):
            partials[layer] = partial_spearman(observations.at(layer), observations.rate, [observations.log_length])[1]
    return BucketInputs(
        primary_layers=tuple(primary_layers),
        rho={layer: scan[layer][0] for layer in observations.layers},
        p=dict(zip(observations.layers, p_values, strict=True)),
        p_holm=adjusted,
        length_partial_p=partials,
        gates={layer: (holds("A", layer), holds("B", layer), holds("C", layer)) for layer in primary_layers},
        alpha=alpha,
        registered_sign=registered_sign,
    )


def _outcome_frame(
    observations: StudyObservations,
    inputs: BucketInputs,
    outcome: Outcome,
    signed: Outcome,
    trust: Confidence,
    drift_triggered: bool | None,
) -> pl.DataFrame:
    best = strongest_layer([inputs.rho[layer] for layer in observations.layers])
    layer = None if best is None else observations.layers[best]
    return pl.DataFrame(
        {
            "bucket": [outcome.bucket],
            "confidence": [trust.level],
            "conditions": ["; ".join(outcome.conditions)],
            "reasons": ["; ".join(trust.reasons)],
            "bucket_signed": [signed.bucket],
            "strongest_layer": [layer],
            "strongest_rho": [None if layer is None else inputs.rho[layer]],
            "strongest_p": [None if layer is None else inputs.p[layer]],
            "n_layers_raw": [sum(p is not None and p < inputs.alpha for p in inputs.p.values())],
            "n_layers_holm": [sum(p is not None and p < inputs.alpha for p in inputs.p_holm.values())],
            "n_layers": [len(observations.layers)],
            "n": [observations.n],
            "n_seeds": [len(observations.seeds)],
            "drift_triggered": [drift_triggered],
            "note": ["strongest_p is raw and not corrected for the choice of layer"],
        },
        schema=OUTCOME_SCHEMA,
    )
