"""Tables that a write-up needs beside the stored ones: the plan, counts, extremes, the panel, disagreements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from persona_assets.panel import CATEGORIES
from persona_assets.reporting.figures import MEASUREMENTS, FigureContext
from persona_assets.reporting.figures.inherited import PARENT, Earlier, compare
from persona_assets.reporting.writeup.disagreements import comparisons, disagreements
from persona_assets.reporting.writeup.errors import WriteUpError
from persona_assets.reporting.writeup.numbers import MINUS
from persona_assets.reporting.writeup.outline import RESULTS
from persona_assets.reporting.writeup.sources import Sources
from persona_assets.statistics.identity import check_identity
from persona_assets.statistics.remeasurement import comparisons as measurement_comparisons
from persona_assets.study import Study

_LISTED = ("name", "panel", "evaluation_questions", "parent")  # the plan's texts and lists, shown in tables of their own
_IMPORT_SHOWN = ("source", "marker", "anchor", "layers", "completions", "stated", "note")
_COUNTS_SCHEMA: dict[str, Any] = {"count": pl.String, "noun": pl.String, "value": pl.Int64, "registered": pl.Boolean}
_HIGHLIGHTS_SCHEMA: dict[str, Any] = {
    "quantity": pl.String,
    "persona": pl.String,
    "eval_persona": pl.String,
    "value": pl.Float64,
}
# A mean over training seeds of ratios of counts; the order of summation must not move its last digit.
_DECIMALS = 12


def derived_tables(sources: Sources) -> dict[str, pl.DataFrame]:
    """Compute every derived table.

    Returns:
        `plan` (field, value, text), `counts` (count, noun, value, registered), `highlights` (quantity, persona,
        eval_persona, value), `panel` (persona, category, cohort, prompt), `disagreements` (number, section, layer,
        registered_reading, version, sensitivity_reading), `artifacts`, `confounders` (conditions) and `imported_studies`
        (study, source, identity).

    Raises:
        WriteUpError: the tables contradict each other.
    """
    study = sources.study
    lineage = (study, *study.ancestors)
    empty = {section.key for section in RESULTS if not section.has_content(study)}  # what they disagree about is not shown
    found = [each for each in disagreements(sources.tables, study.analysis) if each.section not in empty]
    compared = [comparison.section for comparison in comparisons(sources.tables, study.analysis)]
    return {
        "plan": pl.DataFrame(
            list(_plan_rows("", _shown_plan(study))),
            schema={"field": pl.String, "value": pl.Float64, "text": pl.String},
            orient="row",
        ),
        "counts": pl.DataFrame(list(_counts(sources, len(found), compared)), schema=_COUNTS_SCHEMA, orient="row"),
        "highlights": pl.DataFrame(list(_highlights(sources.tables)), schema=_HIGHLIGHTS_SCHEMA, orient="row"),
        "panel": pl.DataFrame(
            {
                "persona": study.panel.ids,
                "category": [persona.category for persona in study.panel],
                "cohort": [study.cohort(persona) for persona in study.panel.ids],
                "prompt": [persona.prompt for persona in study.panel],
            }
        ),
        "disagreements": pl.DataFrame(
            [(number, d.section, d.layer, d.registered, d.version, d.sensitivity) for number, d in enumerate(found)],
            schema={
                "number": pl.Int64,
                "section": pl.String,
                "layer": pl.Int64,
                "registered_reading": pl.String,
                "version": pl.String,
                "sensitivity_reading": pl.String,
            },
            orient="row",
        ),
        "artifacts": sources.artifacts,
        "confounders": _confounders(sources.tables["inherited_drift"]),
        "imported_studies": pl.DataFrame(
            [(each.name, each.imported.source, each.imported.identity_sentence) for each in lineage if each.imported],
            schema={"study": pl.String, "source": pl.String, "identity": pl.String},
            orient="row",
        ),
    }


def _confounders(inherited: pl.DataFrame) -> pl.DataFrame:
    """One row with the conditions that differ between parent and child or are unknown, none where there are none."""
    tested = inherited.filter(pl.col("same_adapter").is_null() | pl.col("same_adapter"))
    named = [name for row in tested["differing"].drop_nulls().unique(maintain_order=True) for name in row.split(", ")]
    words = [name.removesuffix("_digest").replace("_", " ") for name in dict.fromkeys(named)]
    return pl.DataFrame({"conditions": [", ".join(words)] if words else []}, schema={"conditions": pl.String})


def _shown_plan(study: Study) -> dict[str, object]:
    """The plan without the texts and lists that are shown in tables of their own."""
    shown = {name: value for name, value in study.plan.items() if name not in _LISTED}
    if study.imported is not None:
        shown["imported"] = study.imported.model_dump(mode="json", include=set(_IMPORT_SHOWN), exclude_none=True)
    return shown


def _plan_rows(place: str, value: object) -> Iterator[tuple[str, float | None, str]]:
    if isinstance(value, Mapping):
        for name in sorted(value):
            yield from _plan_rows(f"{place}.{name}".strip("."), value[name])
    elif isinstance(value, list) and not all(isinstance(each, int | float) for each in value):
        yield place, None, ", ".join(map(str, value))
    elif isinstance(value, list):
        yield place, None, ", ".join(f"{each:g}" for each in value)
        for position, each in enumerate(value):
            yield f"{place}.{position}", float(each), f"{each:g}"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place, float(value), (f"{value:g}" if isinstance(value, float) else str(value)).replace("-", MINUS)
    else:
        yield place, None, str(value).lower() if isinstance(value, bool) else str(value)


def _counts(sources: Sources, found: int, compared: list[str]) -> Iterator[tuple[str, str, int, bool | None]]:
    study, tables = sources.study, sources.tables
    cells, rates, outcome = tables["cells"], tables["source_rates"], tables["outcome"].row(0, named=True)
    cohorts = [study.cohort(persona) for persona in study.panel.ids]
    yield "personas", "persona", len(study.panel), None
    for category in CATEGORIES:
        yield category, "persona", list(study.panel.categories.values()).count(category), None
    yield "inherited", "persona", cohorts.count("inherited"), None
    yield "new", "persona", cohorts.count("new"), None
    yield "ancestors", "study", len(study.ancestors), None
    yield "seeds", "seed", len(study.seeds), None
    yield "primary_layers", "layer", len(study.analysis.primary_layers), None
    yield "layers", "layer", outcome["n_layers"], True
    yield "layers_raw", "layer", outcome["n_layers_raw"], True
    yield "layers_holm", "layer", outcome["n_layers_holm"], True
    if study.imported is None:
        yield "questions", "question", study.evaluation.n_questions, None
        yield "completions_per_question", "completion", study.evaluation.completions_per_question, None
        yield "completions_per_cell", "completion", study.evaluation.n_questions * study.evaluation.completions_per_question, None
        yield "training_rows", "row", study.profile.rows_per_persona * (1 + study.profile.n_negatives), None
        yield "marked_rows", "row", study.profile.rows_per_persona, None
    else:
        yield "unknown_conditions", "condition", len(study.imported.unknown_conditions), None
        yield "not_supported", "limit", len(study.imported.not_supported), None
    yield "cells", "cell", cells.height, None
    yield "completions", "completion", int(cells["n"].sum()), None
    for kind in ("self", "trained_negative", "unseen"):
        yield f"cells_{kind}", "cell", cells.filter(kind=kind).height, None
    yield "cells_flagged", "cell", int(cells["truncation_flagged"].sum()), None
    yield "rates_flagged", "source", int(rates["truncation_flagged"].sum()), None
    yield "silent_sources", "source", rates.filter(hits=0).height, None
    for name, registered in (("gates", True), ("gates_signed", False)):
        own = tables["gates"].filter(registered=registered)
        yield name, "gate", own.height, registered
        yield f"{name}_passed", "gate", int(own["passed"].sum()), registered
    identities = check_identity(tables["measurements"], override="to count them")
    yield "measurements", "measurement", tables["measurements"].height, None
    yield "identities", "identity", len(set(identities.digests)), None
    yield from _drift_counts(sources, sources.tables["inherited_drift"], sources.tables["drift_tests"])
    again = measurement_comparisons(tables["remeasurement_drift"], tables["remeasurement_tests"])
    yield "remeasured", "comparison", len(again), None
    for earlier, (remeasured, tests) in again.items():
        yield from _drift_counts(sources, remeasured, tests, MEASUREMENTS[earlier], f"_{earlier}")
    yield "disagreements", "disagreement", found, None
    for section in RESULTS:
        yield f"comparisons_{section.key}", "comparison", compared.count(section.key), None
    changes = [field for field in outcome["plan_changes"].split(", ") if field]
    yield "plan_changes", "field", len(changes), None


def _drift_counts(
    sources: Sources, inherited: pl.DataFrame, tests: pl.DataFrame, earlier: Earlier = PARENT, suffix: str = ""
) -> Iterator[tuple[str, str, int, bool | None]]:
    if inherited.is_empty():
        return
    context = FigureContext.from_study(sources.study, asset=sources.asset, data_version="not drawn")
    comparison = compare(inherited, tests, context, earlier)
    test = tests.filter(statistic="sign_drops", registered=True).row(0, named=True)
    drops = comparison.counts["drop"]
    if test["estimate"] is not None and round(test["estimate"] * test["n"]) != drops:
        raise WriteUpError(
            f"{earlier.figure} has {drops} drops, drift_tests {test['estimate'] * test['n']:g} of {test['n']}: materialize the "
            "drift tables of this study again."
        )
    for direction, count in comparison.counts.items():
        yield f"{direction}s{suffix}", direction, count, None
    yield f"compared{suffix}", "source", len(comparison.sources), None
    yield f"retrained{suffix}", "adapter", len(comparison.retrained), None
    yield f"other_identity{suffix}", "source", len(comparison.other_identity), None
    yield f"unknown_adapter{suffix}", "adapter", len(comparison.unknown_adapter), None


def _highlights(tables: Mapping[str, pl.DataFrame]) -> Iterator[tuple[str, str | None, str | None, float]]:
    mean = pl.col("rate").mean().round(_DECIMALS)
    own = tables["source_rates"].group_by("persona", maintain_order=True).agg(mean)
    for name, descending in (("highest_source_rate", True), ("lowest_source_rate", False)):
        top = own.sort("rate", descending=descending, maintain_order=True).row(0, named=True)
        yield name, top["persona"], None, top["rate"]
    yield "mean_source_rate", None, None, _mean(own["rate"])
    cells = tables["cells"].group_by("source", "eval_persona", "kind", maintain_order=True).agg(mean)
    for kind, name in (("unseen", "bystander"), ("trained_negative", "trained_negative")):
        others = cells.filter(kind=kind).sort("rate", "source", "eval_persona", descending=[True, False, False])
        if others.height:
            top = others.row(0, named=True)
            yield f"highest_{name}_rate", top["source"], top["eval_persona"], top["rate"]
            yield f"mean_{name}_rate", None, None, _mean(others["rate"])
    base = tables["cells"].select("eval_persona", "base_rate").drop_nulls().unique().sort("base_rate", "eval_persona")
    if base.height:
        yield "highest_base_rate", None, base["eval_persona"][-1], base["base_rate"][-1]


def _mean(values: pl.Series) -> float:
    return float(round(sum(values.to_list()) / len(values), _DECIMALS))
