"""All families over one study's frames: what a notebook calls, and how the families fit together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from persona_assets.statistics.attenuation import Conditions, attenuation
from persona_assets.statistics.baselines import baseline_rows, surface_predictors
from persona_assets.statistics.continuous import continuous_rows
from persona_assets.statistics.cross_validation import cross_validation
from persona_assets.statistics.drift import drift_settings, inherited_drift
from persona_assets.statistics.gates import evaluate_gates
from persona_assets.statistics.identity import check_identity
from persona_assets.statistics.leakage import LeakageMatrices
from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.off_diagonal import off_diagonal
from persona_assets.statistics.partial import partial_rows
from persona_assets.statistics.power import power, rule_design
from persona_assets.statistics.probe import probe, probe_rows
from persona_assets.statistics.remeasurement import RemeasurementResult
from persona_assets.statistics.scan import scan, scan_sensitivity
from persona_assets.statistics.seeds import seed_rows
from persona_assets.statistics.within_category import within_category

if TYPE_CHECKING:
    from persona_assets.statistics.tidy import FloatArray
    from persona_assets.study import AnalysisPlan


@dataclass(frozen=True)
class StudyFrames:
    """The tables of one study that the analysis starts from.

    Attributes:
        source_rates: table `source_rates`.
        geometry: table `geometry`.
        measurements: table `measurements`.
        personas: columns persona, prompt, exclude_from_within_category; in panel order.
        cells: table `cells`; without it there is no off-diagonal family.
        pairwise_cosines: table `pairwise_cosines`; likewise.
    """

    source_rates: pl.DataFrame
    geometry: pl.DataFrame
    measurements: pl.DataFrame
    personas: pl.DataFrame
    cells: pl.DataFrame | None = None
    pairwise_cosines: pl.DataFrame | None = None

    def observations(self, anchor: str, centring: str = "panel") -> StudyObservations:
        """Join rates and cosines under one centring."""
        return StudyObservations.from_frames(
            self.source_rates, self.geometry, anchor=anchor, centring=centring, personas=self.personas
        )

    def centrings(self) -> tuple[str, ...]:
        """Centrings that the geometry has, the registered one first."""
        there = set(self.geometry["centring"].to_list())
        return tuple(name for name in ("panel", "none", "frozen") if name in there)


@dataclass(frozen=True)
class Extras:
    """What only some studies have; each family says in its rows what it could not do without.

    Attributes:
        token_ids: tokens of each persona's prompt under the base model's tokenizer, in panel order.
        corpus_counts: unigram counts of a reference corpus, for the name frequency.
        capability_loss: by persona, what its adapter cost of a capability.
        states: [personas, questions, layers, hidden] hidden states per question, for the probe.
        scores: table `source_scores`, for the continuous outcome.
    """

    token_ids: Sequence[Collection[int]] | None = None
    corpus_counts: Mapping[str, int] | None = None
    capability_loss: Mapping[str, float] | None = None
    states: FloatArray | None = None
    scores: pl.DataFrame | None = None


def regressions(
    observed: Mapping[str, StudyObservations],
    plan: AnalysisPlan,
    *,
    completions: FloatArray,
    extras: Extras | None = None,
) -> pl.DataFrame:
    """Table `regressions`: scan, partials, surface baselines, cross-validation, within category, seeds, scores.

    Args:
        observed: observations by centring; `panel` is required.
        plan: the registered analysis.
        completions: [seeds, N] completions behind each source rate.
        extras: see `Extras`.

    Returns:
        Tidy rows of every family, in that order.

    Raises:
        KeyError: there are no observations under the centring `panel`.
        StatisticsError: from the families.
    """
    extras = extras or Extras()
    panel = observed["panel"]
    resamples, confidence = plan.bootstrap_resamples, plan.confidence_level
    parts = [
        scan(panel, seed=plan.seed, alpha=plan.alpha, resamples=resamples, confidence=confidence),
        scan_sensitivity(dict(observed), seed=plan.seed, alpha=plan.alpha, resamples=resamples, confidence=confidence),
        partial_rows(panel, seed=plan.seed, count=plan.permutations, corpus_counts=extras.corpus_counts),
    ]
    if panel.prompts is not None and panel.anchor in panel.personas:
        anchor_prompt = panel.prompts[panel.personas.index(panel.anchor)]
        predictors = surface_predictors(panel.prompts, anchor_prompt, extras.token_ids)
        parts.append(baseline_rows(panel, predictors, plan.primary_layers))
    parts += [
        cross_validation(panel, seed=plan.seed, resamples=resamples, confidence=confidence),
        within_category(panel, alpha=plan.alpha),
        seed_rows(panel, completions, plan.primary_layers, confidence=confidence),
    ]
    if extras.scores is not None:
        parts.append(continuous_rows(panel, extras.scores, seed=plan.seed, resamples=resamples, confidence=confidence))
    return pl.concat(parts)


def analyse(
    name: str,
    frames: StudyFrames,
    plan: AnalysisPlan,
    *,
    anchor: str,
    parent: StudyFrames | None = None,
    ancestors: Mapping[str, StudyFrames] | None = None,
    remeasured: RemeasurementResult | None = None,
    extras: Extras | None = None,
) -> dict[str, pl.DataFrame]:
    """Run every family over one study.

    Args:
        name: name of the study.
        frames: its tables.
        plan: the registered analysis.
        anchor: id of the anchor persona.
        parent: tables of the parent study, for the drift.
        ancestors: tables of every ancestor by name, for the attenuation.
        remeasured: drift between measurements of the study, of `remeasurement_drift`; None where each source has one.
        extras: see `Extras`.

    Returns:
        Tables by name: regressions, off_diagonal (with cells and pairwise cosines), power, inherited_drift,
        drift_tests, gates, outcome, gate_details, attenuation, probe (with states).

    Raises:
        MixedIdentityError: the measurements differ in identity and the plan gives no override.
        StatisticsError: from the families.
    """
    extras = extras or Extras()
    check_identity(frames.measurements, override=plan.identity_override)
    observed = {centring: frames.observations(anchor, centring) for centring in frames.centrings()}
    panel = observed["panel"]
    resamples, confidence = plan.bootstrap_resamples, plan.confidence_level
    tables = {"regressions": regressions(observed, plan, completions=completions_of(frames, panel), extras=extras)}
    if frames.cells is not None and frames.pairwise_cosines is not None:
        matrices = LeakageMatrices.from_frames(frames.cells, frames.pairwise_cosines, personas=panel.personas, anchor=anchor)
        tables["off_diagonal"] = off_diagonal(
            matrices, seed=plan.seed, permutations=plan.permutations, capability_loss=extras.capability_loss
        )
    design = rule_design(
        panel.personas,
        panel.categories,
        panel.cohorts,
        n_layers=len(panel.layers),
        seed=plan.seed,
        alpha=plan.alpha,
        slope_tolerance=plan.slope_tolerance,
        registered_sign=plan.registered_sign,
        within_excluded=panel.within_excluded.tolist(),
    )
    tables["power"] = power(design, seed=plan.seed)
    before = (None, None) if parent is None else (parent.source_rates, parent.measurements)
    drift = inherited_drift(frames.source_rates, before[0], frames.measurements, before[1], **drift_settings(plan))
    tables |= {"inherited_drift": drift.inherited_drift, "drift_tests": drift.drift_tests}
    gates = evaluate_gates(
        panel,
        primary_layers=plan.primary_layers,
        seed=plan.seed,
        alpha=plan.alpha,
        registered_sign=plan.registered_sign,
        slope_tolerance=plan.slope_tolerance,
        drift_triggered=drift.triggered,
        drift_confounded=drift.confounded,
        drifted_since=() if remeasured is None else remeasured.drifted,
        truncation_flagged=int(frames.source_rates["truncation_flagged"].sum()),
        truncation_unknown=frames.source_rates["truncation_flagged"].null_count(),
    )
    tables |= {"gates": gates.gates, "outcome": gates.outcome, "gate_details": gates.details}
    family = {other: data.observations(anchor) for other, data in (ancestors or {}).items()}
    conditions = {other: data.measurements for other, data in (ancestors or {}).items()} | {name: frames.measurements}
    tables["attenuation"] = attenuation(
        {**family, name: panel},
        plan.primary_layers,
        Conditions(conditions, plan.identity_override),
        seed=plan.seed,
        resamples=resamples,
        confidence=confidence,
    )
    if extras.states is not None:
        results = probe(extras.states, seed=plan.seed, layers=panel.layers)
        tables["probe"] = probe_rows(results, panel.personas, anchor, panel.rate, extras.states.shape[1])
    return tables


def completions_of(frames: StudyFrames, observations: StudyObservations) -> FloatArray:
    """[seeds, N] completions behind the source rates, in the order of the observations."""
    counts = {(row["seed"], row["persona"]): row["n"] for row in frames.source_rates.to_dicts()}
    return np.array(
        [[counts[seed, persona] for persona in observations.personas] for seed in observations.seeds],
        dtype=np.float64,
    )
