"""The table assets of a study: what each says, what it reads, and which of its numbers the UI shows first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl
from dagster import MetadataValue

from persona_assets.assets import computing, remeasuring, retesting
from persona_assets.assets.computing import StudyData, Tables
from persona_assets.assets.imports import IMPORTED, import_facts
from persona_assets.assets.partitions import seeded
from persona_assets.assets.products import table_names
from persona_assets.catalog import Catalog
from persona_assets.study import Study


@dataclass(frozen=True)
class TableStep:
    """What is particular to one table asset.

    Attributes:
        name: of the asset.
        description: what the tables say and what they are for.
        shared: profile assets it reads.
        own: assets of the study it reads.
        parent: assets of the parent study it reads.
        ancestors: assets of every ancestor it reads.
        compute: gives the tables by name.
        headline: numeric metadata worth plotting over time, from the tables.
        preview: the table that the UI shows, by name.
    """

    name: str
    description: str
    compute: Callable[[StudyData], Tables]
    headline: Callable[[Tables], Mapping[str, MetadataValue]]
    preview: str
    shared: Sequence[str] = ()
    own: Sequence[str] = ()
    parent: Sequence[str] = ()
    ancestors: Sequence[str] = ()


def table_steps(study: Study, catalog: Catalog) -> list[TableStep]:
    """List the table assets of a study, in the order in which the story goes; of an imported one those it supports."""
    if study.imported is not None:
        return [_of_import(step, study) for step in _all_steps(study, [], []) if step.name in table_names(study)]
    cells, scores = ([seeded(name, seed, catalog) for seed in study.seeds] for name in ("eval_cells", "marker_scores"))
    steps = _all_steps(study, cells, scores)
    return [_beside_import(step, study.parent) if step.name == "inherited_drift" else step for step in steps]


def _beside_import(step: TableStep, parent: Study | None) -> TableStep:
    """Say what is known of the parent's measurement where it was imported."""
    if parent is None or parent.imported is None:
        return step
    facts = {f"parent_{name}": value for name, value in import_facts(parent.imported).items() if name != "cohort"}
    return replace(step, headline=lambda tables: {**step.headline(tables), **facts})


def _of_import(step: TableStep, study: Study) -> TableStep:
    """The same step on what was imported instead of on what is measured here."""
    assert study.imported is not None
    facts = import_facts(study.imported) if step.name == "source_rates" else {}
    own = [*step.own, *([IMPORTED] if step.name in ("source_rates", "geometry") else [])]
    return replace(step, shared=[], own=own, headline=lambda tables: {**step.headline(tables), **facts})


def _all_steps(study: Study, cells: Sequence[str], scores: Sequence[str]) -> list[TableStep]:
    return [
        TableStep(
            "power",
            "What the plan can find before anything is measured: the power of each gate and of the whole rule, simulated from "
            "the study file alone.",
            compute=computing.compute_power,
            headline=_power_headline,
            preview="power",
        ),
        TableStep(
            "source_rates",
            "Marker rate of every cell with Wilson and question-cluster intervals, the source rates on the diagonal, the "
            "continuous outcome beside them where it was scored, and the identity of each measurement used.",
            shared=["base_model", "base_cells", "training_dataset"],
            own=[*cells, *scores],
            compute=computing.compute_source_rates,
            headline=rates_headline,
            preview="source_rates",
        ),
        TableStep(
            "geometry",
            "Cosine of every persona's centroid with the anchor's at each layer, under each centring, and the full N x N "
            "cosine matrices.",
            shared=["layer_centroids"],
            compute=computing.compute_geometry,
            headline=lambda tables: {"layers": MetadataValue.int(tables["geometry"]["layer"].n_unique())},
            preview="geometry",
        ),
        TableStep(
            "regressions",
            "Source rate against cosine at every layer: Pearson, Spearman, Holm over the layers, partial correlations given "
            "prompt length, surface baselines, cross-validation, within category, seeds, and a linear probe; preregistered and "
            "sensitivity rows apart.",
            shared=["base_model", "layer_centroids"],
            own=["source_rates", "geometry"],
            compute=computing.compute_regressions,
            headline=_regressions_headline,
            preview="regressions",
        ),
        TableStep(
            "off_diagonal",
            "The question the claim is really about: does the cosine of two personas predict the leakage between them? Spearman "
            "over all pairs with the Mantel permutation p, by emitter strength, and the post-mortem candidates.",
            own=["source_rates", "geometry"],
            compute=computing.compute_off_diagonal,
            headline=_off_diagonal_headline,
            preview="off_diagonal",
        ),
        TableStep(
            "inherited_drift",
            "Did the rates of inherited adapters move since the parent study? The preregistered sign test, sensitivity tests, "
            "and the identity check that turns a comparison across conditions into `confounded`.",
            own=["source_rates"],
            parent=["source_rates"],
            compute=computing.compute_inherited_drift,
            headline=_inherited_headline,
            preview="inherited_drift",
        ),
        TableStep(
            "remeasurement_drift",
            "Did the rates of unchanged adapters move between measurements of this study? The latest measurement against the "
            "first one and against the last before it, by the tests and the identity check of `inherited_drift`, and the "
            "history of all measurements.",
            own=cells,
            compute=remeasuring.compute_remeasurement_drift,
            headline=_remeasurement_headline,
            preview="remeasurement_drift",
        ),
        TableStep(
            "retest",
            "How tight is each outcome? The rate and the continuous outcome of the same adapters in the last two measurements: "
            "reliability, noise of one measurement against the spread of the sources, and how many completions a rate would "
            "need to be as tight.",
            own=[*cells, *scores],
            compute=retesting.compute_retest,
            headline=retesting.headline,
            preview="retest",
        ),
        TableStep(
            "gates",
            "The preregistered gates A, B and C on both splits at each primary layer, the outcome bucket they give and the "
            "confidence it deserves.",
            own=["source_rates", "geometry", "regressions", "inherited_drift", "remeasurement_drift"],
            compute=computing.compute_gates,
            headline=gates_headline,
            preview="gates",
        ),
        TableStep(
            "attenuation",
            "Does |rho| shrink as the panel grows? The study beside its ancestors, judged against random sub-panels of the "
            "largest panel.",
            own=["source_rates", "geometry", "regressions"],
            ancestors=["source_rates", "geometry", "regressions"],
            compute=computing.compute_attenuation,
            headline=lambda tables: {"studies": MetadataValue.int(tables["attenuation"]["outcome"].n_unique())},
            preview="attenuation",
        ),
    ]


def _power_headline(tables: Tables) -> dict[str, MetadataValue]:
    rule = tables["power"].filter(pl.col("quantity") == "rule")
    return {
        f"power_of_rule_at_{abs(row['population_rho']):.2f}": MetadataValue.float(row["probability"]) for row in rule.to_dicts()
    }


def _inherited_headline(tables: Tables) -> dict[str, MetadataValue]:
    from persona_assets.statistics.drift_tests import deciding_test

    count = {"inherited_sources": MetadataValue.int(tables["inherited_drift"].height)}
    return {**count, "verdict": MetadataValue.text(deciding_test(tables["drift_tests"])["verdict"])}


def _remeasurement_headline(tables: Tables) -> dict[str, MetadataValue]:
    registered = tables["remeasurement_tests"].filter("registered", statistic="sign_drops")
    return {
        "measurements": MetadataValue.int(tables["measurement_history"].height),
        "remeasured_sources": MetadataValue.int(tables["remeasurement_drift"]["persona"].n_unique()),
        **{f"verdict_{row['compared_with']}": MetadataValue.text(row["verdict"]) for row in registered.to_dicts()},
    }


def _off_diagonal_headline(tables: Tables) -> dict[str, MetadataValue]:
    rows = tables["off_diagonal"].filter(
        pl.col("outcome") == "bystander_rate:all", pl.col("statistic") == "spearman", pl.col("estimate").is_not_null()
    )
    if rows.is_empty():
        return {"strongest_pairwise_rho": MetadataValue.text("not estimable")}
    strongest = rows.sort(pl.col("estimate").abs(), descending=True).row(0, named=True)
    return {
        "strongest_pairwise_rho": MetadataValue.float(strongest["estimate"]),
        "strongest_pairwise_layer": MetadataValue.int(strongest["layer"]),
        "mantel_p": MetadataValue.float(strongest["p"]),
    }


def rates_headline(tables: Tables) -> dict[str, MetadataValue]:
    """Means and extremes over the tables of `source_rates`."""
    rates, cells = tables["source_rates"], tables["cells"]
    others = cells.filter(pl.col("source") != pl.col("eval_persona"))
    found = {
        "mean_source_rate": rates["rate"].mean(),
        "mean_bystander_rate": others["rate"].mean(),
        "max_base_rate": rates["base_rate"].max(),
    }
    known = {name: value for name, value in found.items() if isinstance(value, float)}
    numbers: dict[str, MetadataValue] = {name: MetadataValue.float(value) for name, value in known.items()}
    if rates["truncation_flagged"].null_count() == rates.height:  # an import does not say why completions ended
        return numbers
    return {**numbers, "flagged_for_truncation": MetadataValue.int(int(rates["truncation_flagged"].sum()))}


def _regressions_headline(tables: Tables) -> dict[str, MetadataValue]:
    strongest = tables["regressions"].filter(pl.col("registered"), pl.col("statistic") == "strongest_layer").row(0, named=True)
    if strongest["estimate"] is None:
        return {"strongest_layer": MetadataValue.text(strongest["note"])}
    return {
        "strongest_layer": MetadataValue.int(strongest["layer"]),
        "strongest_rho": MetadataValue.float(strongest["estimate"]),
    }


def gates_headline(tables: Tables) -> dict[str, MetadataValue]:
    """Bucket, confidence and number of gates that hold, from the tables of `gates`."""
    outcome = tables["outcome"].row(0, named=True)
    gates = tables["gates"].filter("registered")
    return {
        "bucket": MetadataValue.text(outcome["bucket"]),
        "confidence": MetadataValue.text(outcome["confidence"]),
        "gates_passed": MetadataValue.int(int(gates["passed"].sum())),
        "gates_total": MetadataValue.int(gates.height),
        "plan_changes": MetadataValue.text(outcome["plan_changes"] or "none since the first measurement"),
    }
