"""Compute the tables of a study from what the lake holds: read, call the core, hand back frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from persona_assets.assets import imports
from persona_assets.assets.products import Products, analysed, frozen_panel, layer_count
from persona_assets.measurement import Measurement, measurements_table
from persona_assets.store import Manifest, Product
from persona_assets.study import Study
from persona_assets.tasks.base_model import CHECKPOINT
from persona_assets.tasks.cells import COMPLETIONS_FILE
from persona_assets.tasks.marker_scores import SCORES_FILE
from persona_assets.tasks.models import CENTROIDS_FILE
from resources.warehouse import Warehouse

if TYPE_CHECKING:
    from persona_assets.statistics.analysis import StudyFrames
    from persona_assets.statistics.observations import StudyObservations

Tables = Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class StudyData:
    """What the tables of one study are computed from."""

    study: Study
    products: Products
    warehouse: Warehouse

    def table(self, product: Product, name: str) -> pl.DataFrame:
        """Read a table that another asset wrote."""
        return self.warehouse.table(product.path, name)


def compute_source_rates(data: StudyData) -> Tables:
    """Tables `cells`, `source_rates`, `source_scores` and `measurements` from completions and scores in the lake."""
    from persona_assets.statistics.marker_scores import score_rows, source_scores, with_scores
    from persona_assets.statistics.rates import cells_table, source_rates

    study, products, store = data.study, data.products, data.products.store
    if study.imported is not None:
        return imports.source_rates_tables(data)
    panel, plan = study.panel, study.analysis
    rows = [products.latest_eval_cells(study, source, seed) for seed in study.seeds for source in panel.ids]
    # A source that is not listed is one whose negatives are not known.
    negatives = [(source, each) for source in panel.ids for each in products.known_negatives(source, study.seeds) or ()]
    views = {
        "completions": [store.open(product.path) / COMPLETIONS_FILE for product in rows],
        "base_completions": [store.open(products.base_cells(persona).path) / COMPLETIONS_FILE for persona in panel.ids],
    }
    with data.warehouse.connect(views) as connection:
        connection.register("trained_negatives", pl.DataFrame(negatives, schema=["source", "eval_persona"], orient="row"))
        cells = cells_table(
            connection,
            truncation_flag=plan.truncation_flag,
            seed=plan.seed,
            resamples=plan.bootstrap_resamples,
            confidence=plan.confidence_level,
        )
    personas = pl.DataFrame(
        {
            "persona": panel.ids,
            "category": [persona.category for persona in panel],
            "cohort": [study.cohort(persona) for persona in panel.ids],
            "prompt_tokens": [len(ids) for ids in token_ids(base_tokenizer(data), [persona.prompt for persona in panel])],
        }
    )
    scores = [pl.read_parquet(store.open(product.path) / SCORES_FILE) for product in products.scores_there(study)]
    scored = score_rows(pl.concat(scores), plan.confidence_level) if scores else None
    rates = source_rates(cells, personas)
    return {
        "source_rates": rates,
        "cells": with_scores(cells, scored),
        "source_scores": source_scores(rates, scored),
        "measurements": measurements_table([recorded_measurement(store.verified(product.path)) for product in rows]),
    }


def recorded_measurement(manifest: Manifest) -> Measurement:
    """Read which measurement a row of cells is, and the identity it was made under."""
    identity = manifest.facts["identity"]
    assert isinstance(identity, Mapping)
    place = dict(part.split("=") for part in manifest.path.split("/") if "=" in part)
    return Measurement(place["source"], int(place["seed"]), int(place["measurement"]), identity)


def base_tokenizer(data: StudyData) -> Path:
    """Return the base model's tokenizer.json."""
    return data.products.store.open(data.products.base_path) / CHECKPOINT / "tokenizer.json"


def token_ids(tokenizer_file: Path, prompts: Sequence[str]) -> list[list[int]]:
    """Tokenize system prompts by the base model's own tokenizer, without loading a model."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    return [encoding.ids for encoding in tokenizer.encode_batch(list(prompts), add_special_tokens=False)]


def vectors(data: StudyData, persona: str) -> dict[str, np.ndarray]:  # float32
    """Read a persona's `centroid` [layers, hidden] and `question_vectors` [questions, layers, hidden]."""
    from safetensors.numpy import load_file

    products = data.products
    return load_file(products.store.open(products.layer_centroids(persona).path) / CENTROIDS_FILE)


def compute_geometry(data: StudyData) -> Tables:
    """Tables `geometry` and `pairwise_cosines` from the centroids in the lake."""
    from persona_assets.geometry.cosines import geometry_frame, pairwise_frame

    panel = data.study.panel
    if data.study.imported is not None:
        return imports.geometry_tables(data)
    centroids = {persona: vectors(data, persona)["centroid"] for persona in panel.ids}
    stacked = np.stack([centroids[persona] for persona in panel.ids])
    reference = np.stack([centroids[persona] for persona in frozen_panel(data.study)])
    return {
        "geometry": geometry_frame(stacked, panel.ids, panel.anchor, reference=reference),
        "pairwise_cosines": pairwise_frame(stacked, panel.ids),
    }


def compute_regressions(data: StudyData) -> Tables:
    """Tables `regressions` and `probe` from `source_rates`, `geometry` and the per-question vectors."""
    from persona_assets.statistics.analysis import Extras, completions_of, regressions
    from persona_assets.statistics.baselines import surface_predictors
    from persona_assets.statistics.covariates import corpus_counts
    from persona_assets.statistics.probe import FOLDS, probe, probe_comparisons, probe_rows

    study, plan = data.study, data.study.analysis
    frames = checked_frames(data, study)
    if study.imported is not None:
        return imports.regression_tables(data, frames)
    observed = {centring: frames.observations(study.panel.anchor, centring) for centring in frames.centrings()}
    panel = observed["panel"]
    states = np.stack([vectors(data, persona)["question_vectors"] for persona in study.panel.ids])
    tokens = [set(ids) for ids in token_ids(base_tokenizer(data), [persona.prompt for persona in study.panel])]
    assert panel.prompts is not None
    surface = surface_predictors(panel.prompts, study.panel[study.panel.anchor].prompt, tokens)
    extras = Extras(
        token_ids=tokens,
        corpus_counts=None if study.reference_corpus is None else corpus_counts(study.reference_corpus),
        scores=data.table(data.products.source_rates(study), "source_scores"),
    )
    results = probe(states, seed=plan.seed, layers=panel.layers, folds=min(FOLDS, states.shape[1]))
    return {
        "regressions": regressions(observed, plan, completions=completions_of(frames, panel), extras=extras),
        "probe": pl.concat(
            [
                probe_rows(results, panel.personas, study.panel.anchor, panel.rate, states.shape[1]),
                probe_comparisons(results, panel, surface, plan.primary_layers),
            ]
        ),
    }


def compute_off_diagonal(data: StudyData) -> Tables:
    """Table `off_diagonal`: bystander rates against pairwise cosines."""
    from persona_assets.statistics.leakage import LeakageMatrices
    from persona_assets.statistics.off_diagonal import off_diagonal

    study, plan = data.study, data.study.analysis
    frames = checked_frames(data, study)
    assert frames.cells is not None
    assert frames.pairwise_cosines is not None
    matrices = LeakageMatrices.from_frames(
        frames.cells, frames.pairwise_cosines, personas=study.panel.ids, anchor=study.panel.anchor
    )
    return {"off_diagonal": off_diagonal(matrices, seed=plan.seed, permutations=plan.permutations)}


def compute_power(data: StudyData) -> Tables:
    """Table `power`, from the study file alone."""
    from persona_assets.statistics.power import power, rule_design

    study, plan = data.study, data.study.analysis
    design = rule_design(
        study.panel.ids,
        [persona.category for persona in study.panel],
        [study.cohort(persona) for persona in study.panel.ids],
        n_layers=layer_count(study),
        seed=plan.seed,
        alpha=plan.alpha,
        slope_tolerance=plan.slope_tolerance,
        registered_sign=plan.registered_sign,
        within_excluded=[persona.exclude_from_within_category for persona in study.panel],
    )
    return {"power": power(design, seed=plan.seed)}


def compute_attenuation(data: StudyData) -> Tables:
    """Table `attenuation`: |rho| over the study and its ancestors."""
    from persona_assets.statistics.attenuation import Conditions, absent_studies, attenuation

    study, plan = data.study, data.study.analysis
    lineage = [each for each in (*reversed(study.ancestors), study) if analysed(each)]
    frames = {each.name: checked_frames(data, each) for each in lineage}
    table = attenuation(
        {each.name: frames[each.name].observations(each.panel.anchor) for each in lineage},
        plan.primary_layers,
        Conditions({name: own.measurements for name, own in frames.items()}, plan.identity_override),
        seed=plan.seed,
        resamples=plan.bootstrap_resamples,
        confidence=plan.confidence_level,
    )
    missing = [each.name for each in study.ancestors if not analysed(each)]
    return {"attenuation": pl.concat([table, absent_studies(missing, plan.primary_layers)])}


def checked_frames(data: StudyData, study: Study) -> StudyFrames:
    """Read a study's tables, after checking that its measurements belong together."""
    from persona_assets.statistics.analysis import StudyFrames
    from persona_assets.statistics.identity import check_identity

    rates, geometry = data.products.source_rates(study), data.products.geometry(study)
    measurements = data.table(rates, "measurements")
    check_identity(measurements, override=study.analysis.identity_override)
    return StudyFrames(
        source_rates=data.table(rates, "source_rates"),
        geometry=data.table(geometry, "geometry"),
        measurements=measurements,
        personas=_persona_facts(study),
        cells=data.table(rates, "cells"),
        pairwise_cosines=data.table(geometry, "pairwise_cosines"),
    )


def _persona_facts(study: Study) -> pl.DataFrame:
    facts = pl.DataFrame([persona.model_dump() for persona in study.panel]).rename({"id": "persona"})
    # Of an imported study not every prompt may be known; statistics of prompts need all of them.
    known = study.imported is None or set(study.imported.prompts) == set(study.panel.ids)
    return facts if known else facts.drop("prompt")


def observations(data: StudyData, study: Study) -> StudyObservations:
    """Join a study's source rates and cosines."""
    return checked_frames(data, study).observations(study.panel.anchor)


def compute_inherited_drift(data: StudyData) -> Tables:
    """Tables `inherited_drift` and `drift_tests`: the study's rates against its parent's."""
    from persona_assets.statistics.drift import drift_settings, inherited_drift

    study, products = data.study, data.products
    now, parent = products.source_rates(study), study.parent
    rates, measured = data.table(now, "source_rates"), data.table(now, "measurements")
    rates_before, measured_before = None, None
    if parent is not None:
        before = products.source_rates(parent)
        rates_before, measured_before = data.table(before, "source_rates"), data.table(before, "measurements")
        if parent.imported is not None:
            measured, measured_before = imports.with_prompts(study, parent, measured, measured_before)
    result = inherited_drift(rates, rates_before, measured, measured_before, **drift_settings(study.analysis))
    return {"inherited_drift": result.inherited_drift, "drift_tests": result.drift_tests}


def compute_gates(data: StudyData) -> Tables:
    """Tables `gates` and `outcome` from everything the rule looks at."""
    from persona_assets.statistics.drift_tests import deciding_test
    from persona_assets.statistics.gates import evaluate_gates

    products, study, plan = data.products, data.study, data.study.analysis
    tests = data.table(products.inherited_drift(study), "drift_tests")
    rates = data.table(products.source_rates(study), "source_rates")
    verdict = deciding_test(tests)["verdict"]
    remeasured = data.table(products.remeasurement_drift(study), "remeasurement_tests")
    result = evaluate_gates(
        observations(data, study),
        primary_layers=plan.primary_layers,
        seed=plan.seed,
        alpha=plan.alpha,
        registered_sign=plan.registered_sign,
        slope_tolerance=plan.slope_tolerance,
        drift_triggered={"drift": True, "no_drift": False}.get(verdict),
        drift_confounded=verdict == "confounded",
        drifted_since=remeasured.filter("registered", statistic="sign_drops", verdict="drift")["compared_with"].to_list(),
        truncation_flagged=int(rates["truncation_flagged"].sum()),
        truncation_unknown=rates["truncation_flagged"].null_count(),
    )
    return {
        "gates": result.gates,
        "outcome": result.outcome.with_columns(
            pl.lit(plan_changes(data)).alias("plan_changes"),
            pl.lit(plan.identity_override or "").alias("identity_override"),
        ),
        "gate_details": result.details,
    }


def plan_changes(data: StudyData) -> str:
    """Name the fields of the registered plan that changed since the study's first measurement; empty when none did."""
    changed: set[str] = set()
    study, products = data.study, data.products
    if study.imported is not None:  # its plan was written when it was imported, after it was measured
        return ""
    for seed in study.seeds:
        for source in study.panel.ids:
            manifest = products.store.verified(products.eval_cells(study, source, seed, 1).path)
            identity = manifest.facts["identity"]
            assert isinstance(identity, Mapping)
            changed |= _differences("", identity["study_plan"], study.plan)
    return ", ".join(sorted(changed))


def _differences(place: str, before: object, now: object) -> set[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        names = sorted(set(before) | set(now))
        return set().union(*(_differences(f"{place}.{name}".strip("."), before.get(name), now.get(name)) for name in names))
    return set() if before == now else {place}
