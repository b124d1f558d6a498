"""Simulated studies on the real panel with every table, figure and completion a write-up needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from persona_assets.catalog import load_catalog
from persona_assets.geometry.cosines import geometry_frame, pairwise_frame
from persona_assets.hashing import sha256_json, sha256_text
from persona_assets.measurement import Measurement, measurements_table
from persona_assets.reporting.figures import Drawing
from persona_assets.reporting.study_figures import FiguresTask, draw_figures
from persona_assets.reporting.writeup import CompletionFiles, Sources, read_figures
from persona_assets.statistics.analysis import Extras, StudyFrames, analyse
from persona_assets.statistics.baselines import surface_predictors
from persona_assets.statistics.drift import drift_settings
from persona_assets.statistics.marker_scores import OUTCOMES, TRAINED, score_rows, source_scores, with_scores
from persona_assets.statistics.probe import probe, probe_comparisons
from persona_assets.statistics.rates import build_cells, source_rates
from persona_assets.statistics.remeasurement import measurement_history, remeasurement_drift
from persona_assets.statistics.retest import retest_rows
from persona_assets.statistics.simulation import ANCHOR, SimulatedStudy, simulate_study
from persona_assets.study import AnalysisPlan, Study

STUDIES = Path(__file__).parents[2] / "studies"
PLAN = AnalysisPlan(primary_layers=(3, 2), bootstrap_resamples=200, permutations=999)
SEEDS = (42,)
# What a completion may hold that Markdown or HTML would trip over.
ODD = (
    "Start with the basics. Take your time.",
    "It's `code` with *stars*, _bars_ | pipes | and 42 % of 1,000 things.",
    "First line.\n\nThird line after an empty one.\n",
    "```python\nprint('<b>not bold</b>')\n```",
    "<script>alert('no')</script> & <img src=https://example.org/x.png>",
    "Naïve café — “quoted” … 日本語 🙂 <!--1-->",
    "# not a heading\n- not a list",
)
MANIFEST_DIGEST = sha256_text("data version")


def study_named(name: str, plan: AnalysisPlan = PLAN, **changed: Any) -> Study:
    """A study of the embedded profile with a plan that is quick to compute."""
    catalog = load_catalog(STUDIES, "embedded")

    def with_plan(study: Study) -> Study:
        parent = None if study.parent is None else with_plan(study.parent)
        return replace(study, analysis=plan, parent=parent)

    return replace(with_plan(catalog.study(name)), **changed)


@lru_cache(maxsize=8)
def simulated(n: int, rho: float, layers: int, seeds: tuple[int, ...], leakage: float, questions: int) -> SimulatedStudy:
    return simulate_study(
        n, rho=rho, seed=3, layers=layers, planted_layer=3, seeds=seeds, leakage=leakage, questions=questions, resamples=100
    )


def completions_of(study: Study, data: SimulatedStudy, redraw: int = 0) -> pl.DataFrame:
    """The simulated completions under the names and questions of a real panel, with texts.

    `redraw` measures the same adapters again: a few hits are lost and gained.
    """
    ids, whole = study.panel.ids, data.frames.personas["persona"].to_list()
    names = dict(zip(whole, _real_order(study, len(whole)), strict=True))
    frame = data.completions.with_columns(pl.col("source", "eval_persona").replace(names))
    frame = frame.filter(pl.col("source").is_in(ids) & pl.col("eval_persona").is_in(ids))
    random = np.random.default_rng(redraw)
    if redraw:
        kept, gained = random.random(frame.height) > 0.12, random.random(frame.height) < 0.02
        frame = frame.with_columns(hit=pl.col("hit") & pl.Series(kept) | pl.Series(gained))
    questions = pl.Series(list(study.evaluation_questions))
    texts = pl.Series([ODD[i] for i in random.integers(0, len(ODD), frame.height)])
    return frame.with_columns(
        question=questions.gather(frame["question_index"]),
        text=pl.when("hit").then(texts + f" {study.profile.marker}").otherwise(texts),
        completion_id=pl.format(
            study.name + "/{}/s{}/m1/{}/q{}/{}",
            "source",
            "seed",
            "eval_persona",
            pl.col("question_index").cast(pl.String).str.zfill(2),
            "sample_index",
        ),
    )


def _real_order(study: Study, n: int) -> list[str]:
    whole = study_named("n48").panel.ids[:n]
    return [ANCHOR, *(persona for persona in whole if persona != ANCHOR)]


def frames_of(study: Study, data: SimulatedStudy, completions: pl.DataFrame, engine: str = "transformers") -> StudyFrames:
    ids = list(study.panel.ids)
    names = dict(zip(data.frames.personas["persona"].to_list(), _real_order(study, len(data.centroids)), strict=True))
    negatives = data.negatives.with_columns(pl.col("source", "eval_persona").replace(names))
    negatives = negatives.filter(pl.col("source").is_in(ids) & pl.col("eval_persona").is_in(ids))
    base = data.base_completions.with_columns(pl.col("eval_persona").replace(names)).filter(pl.col("eval_persona").is_in(ids))
    plan = study.analysis
    cells = build_cells(
        completions, base=base, negatives=negatives, truncation_flag=plan.truncation_flag, seed=plan.seed, resamples=100
    )
    personas = pl.DataFrame([persona.model_dump() for persona in study.panel]).rename({"id": "persona"})
    facts = personas.with_columns(
        cohort=pl.Series([study.cohort(persona) for persona in ids]),
        prompt_tokens=pl.Series([len(persona.prompt.split()) for persona in study.panel]),
    )
    place = {name: i for i, name in enumerate(names.values())}
    centroids = data.centroids[[place[persona] for persona in ids]]
    first = study.ancestors[-1] if study.ancestors else study
    reference = data.centroids[[place[persona] for persona in first.panel.ids]]
    measured = [(persona, seed) for seed in study.seeds for persona in ids]
    return StudyFrames(
        source_rates=source_rates(cells, facts),
        geometry=geometry_frame(centroids, ids, ANCHOR, reference=reference),
        measurements=measurements_table([Measurement(p, s, 1, _identity(p, s, engine)) for p, s in measured]),
        personas=personas,
        cells=cells,
        pairwise_cosines=pairwise_frame(centroids, ids),
    )


def _identity(persona: str, seed: int, engine: str) -> dict[str, object]:
    return {
        "engine": engine,
        "engine_version": "5.19.0",
        "decoder": "shared_prefix",
        "weights": "merged",
        "engine_arguments": "attention=eager",
        "dtype": "float32",
        "device": "cpu",
        "sampling": {"temperature": 1.0, "top_p": 0.95, "top_k": 0, "repetition_penalty": 1.0, "max_new_tokens": 48},
        **{name: sha256_text(name) for name in ("chat_template_digest", "questions_digest", "base_digest")},
        "adapter_digest": sha256_json([persona, seed]),
    }


def scores_of(study: Study, frames: StudyFrames) -> pl.DataFrame:
    """Scores of five replies to four questions of each source, the likelier the higher its rate."""
    rng = np.random.default_rng(1)
    rows = []
    for source in frames.source_rates.to_dicts():
        for question in range(4):
            effect = rng.normal(0, 0.3)
            for sample in range(5):
                trained, end = np.log([0.05 + 0.9 * source["rate"], 1 - 0.9 * source["rate"]]) + effect + rng.normal(0, 0.2, 2)
                base, end_base = -15 + rng.normal(0, 0.5), -1 + rng.normal(0, 0.2)
                place = (source["persona"], source["persona"], source["seed"], source["measurement"], question, sample)
                rows.append((*place, "scored", trained, end, base, end_base))
    names = ["source", "eval_persona", "seed", "measurement", "question_index", "sample_index", "status"]
    parts = ["marker_log_prob_trained", "end_log_prob_trained", "marker_log_prob_base", "end_log_prob_base"]
    return pl.DataFrame(rows, schema=[*names, *parts], orient="row")


def retest_of(study: Study, frames: StudyFrames, *, scored: bool) -> pl.DataFrame:
    """Table `retest` of a second measurement, or of none."""
    rate = frames.source_rates.filter(seed=study.seeds[0])["rate"].to_numpy()
    noise = np.random.default_rng(2).normal(0, 0.03, (2, len(rate)))
    names = ("source_rate", *OUTCOMES, *TRAINED)
    outcomes = {name: rate + noise / factor if scored else None for factor, name in enumerate(names, start=1)}
    return retest_rows(outcomes, 100, seed=1, resamples=100)


def tables_of(
    study: Study, frames: StudyFrames, ancestors: Mapping[str, StudyFrames], *, scored: bool
) -> dict[str, pl.DataFrame]:
    """Every table as the lake has it."""
    rows = score_rows(scores_of(study, frames), 0.95) if scored else None
    scores = source_scores(frames.source_rates, rows)
    rates = frames.source_rates.select("persona", "seed", "measurement", "hits", "n", "rate")
    once = remeasurement_drift(rates, frames.measurements, drift_settings(study.analysis))
    tokens = [{sum(map(ord, word)) for word in persona.prompt.split()} for persona in study.panel]
    states = np.random.default_rng(0).standard_normal((len(study.panel), 5, frames.geometry["layer"].n_unique(), 4))
    tables = analyse(
        study.name,
        frames,
        study.analysis,
        anchor=study.panel.anchor,
        parent=None if study.parent is None else ancestors[study.parent.name],
        ancestors=ancestors,
        extras=Extras(token_ids=tokens, states=states, scores=scores),
    )
    panel = frames.observations(study.panel.anchor)
    surface = surface_predictors([p.prompt for p in study.panel], study.panel[study.panel.anchor].prompt, tokens)
    found = probe(states, seed=study.analysis.seed, layers=panel.layers)
    tables["probe"] = pl.concat([tables["probe"], probe_comparisons(found, panel, surface, study.analysis.primary_layers)])
    assert frames.cells is not None
    assert frames.pairwise_cosines is not None
    return {
        **tables,
        "outcome": tables["outcome"].with_columns(plan_changes=pl.lit(""), identity_override=pl.lit("")),
        "remeasurement_drift": once.remeasurement_drift,
        "remeasurement_tests": once.remeasurement_tests,
        "measurement_history": measurement_history(rates, frames.measurements),
        "source_rates": frames.source_rates,
        "cells": with_scores(frames.cells, rows),
        "source_scores": scores,
        "retest": retest_of(study, frames, scored=scored),
        "measurements": frames.measurements,
        "geometry": frames.geometry,
        "pairwise_cosines": frames.pairwise_cosines,
    }


def make_sources(
    directory: Path,
    name: str,
    *,
    rho: float = -0.6,
    layers: int = 6,
    leakage: float = 2.0,
    parent_engine: str = "transformers",
    study: Study | None = None,
    silent: bool = False,
    scored: bool = True,
    questions: int = 20,
) -> Sources:
    """Simulate a study, analyse it, draw its figures and lay everything out as the lake does.

    Returns:
        The sources of its write-up; the figures lie in `directory/figures`.
    """
    study = study or study_named(name)
    data = simulated(len(study.panel), rho, layers, study.seeds, leakage, questions)
    lineage: dict[str, StudyFrames] = {}
    completions = pl.DataFrame()
    for position, each in enumerate((*reversed(study.ancestors), study)):
        own = position == len(study.ancestors)
        completions = completions_of(each, data, redraw=0 if own else position + 1)
        if silent:
            plain = pl.col("text").str.replace(f" {study.profile.marker}", "", literal=True)
            completions = completions.with_columns(hit=pl.lit(False), text=plain)
        lineage[each.name] = frames_of(each, data, completions, engine="transformers" if own else parent_engine)
    tables: dict[str, dict[str, pl.DataFrame]] = {}
    for each in (*reversed(study.ancestors), study):
        earlier = {ancestor.name: lineage[ancestor.name] for ancestor in each.ancestors}
        tables[each.name] = tables_of(each, lineage[each.name], earlier, scored=scored)
    figures = directory / "figures"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Drawing, "pdf", lambda _: b"%PDF")  # no write-up shows it, and it takes most of the time
        draw_figures(FiguresTask(figures, study, tables, f"embedded/{study.name}/figures", MANIFEST_DIGEST))
    files = {}
    for (source, seed), part in completions.group_by("source", "seed", maintain_order=True):
        file = directory / "eval_cells" / f"{source}_{seed}.parquet"
        file.parent.mkdir(exist_ok=True, parents=True)
        part.write_parquet(file)
        files[str(source), int(str(seed))] = file
    artifacts = pl.DataFrame(
        {
            "artifact": ["study file", "base model", *(f"tables {kind}" for kind in ("source_rates", "regressions"))],
            "path": ["studies/embedded/study.yaml", "embedded/base_model", "embedded/a", "embedded/b"],
            "digest": [study.digest, sha256_text("base_digest"), sha256_text("a"), sha256_text("b")],
        }
    )
    return Sources(
        study, tables[study.name], read_figures(figures), CompletionFiles(files), artifacts, f"embedded/{study.name}/clean_result"
    )


_made: dict[str, Sources] = {}


def made_once(name: str, root: pytest.TempPathFactory) -> Sources:
    """Sources that several test modules share, made once in a process."""
    if name not in _made:
        options: dict[str, Any] = dict(SHARED[name])
        _made[name] = make_sources(root.mktemp(f"writeup_{name}"), options.pop("study_name"), **options)
    return _made[name]


def _child() -> Study:
    """Sixteen personas, twelve of them inherited: every section has something to say."""
    whole = study_named("n24")
    return replace(whole, name="n16", panel=whole.panel.prefix(16))


SHARED: dict[str, dict[str, Any]] = {
    "child": {"study_name": "n16", "study": _child()},
    "first": {"study_name": "n12", "rho": -0.8, "study": study_named("n12", seeds=(42, 43))},
    "silent": {"study_name": "n16", "study": _child(), "silent": True, "scored": False},
}
