"""The DuckDB-backed assets of a study: tables computed from the lake, and nothing else."""

# No postponed annotations here: Dagster reads the types off the function when it is defined.

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from dagster import AssetDep, AssetExecutionContext, AssetsDefinition, MetadataValue, Output, asset

from persona_assets.assets.metadata import product_links, table_preview, table_schema
from persona_assets.assets.partitions import group_name, shared_key, study_key
from persona_assets.assets.products import VERSIONS, Products, frozen_panel, seeded
from persona_assets.assets.recording import NOTHING, materialize_one
from persona_assets.measurement import Measurement, measurements_table
from persona_assets.store import Manifest, Product
from persona_assets.study import Catalog, Study
from persona_assets.tasks import CENTROIDS_FILE, CHECKPOINT, COMPLETIONS_FILE
from persona_assets.workers import Outcome, WorkerPool
from resources.lake import Lake
from resources.warehouse import TABLE_SUFFIX, Warehouse

if TYPE_CHECKING:
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


@dataclass(frozen=True)
class TableStep:
    """What is particular to one table asset.

    Attributes:
        name: of the asset.
        description: what the tables say and what they are for.
        shared: profile assets it reads.
        own: assets of the study it reads.
        parent: assets of the parent study it reads.
        product: its product.
        compute: gives the tables by name.
        headline: numeric metadata worth plotting over time, from the tables.
        preview: the table that the UI shows, by name.
    """

    name: str
    description: str
    shared: Sequence[str]
    own: Sequence[str]
    parent: Sequence[str]
    product: Callable[[Products, Study], Product]
    compute: Callable[[StudyData], Tables]
    headline: Callable[[Tables], Mapping[str, MetadataValue]]
    preview: str


def study_tables(study: Study, catalog: Catalog) -> list[AssetsDefinition]:
    """Build the table assets of a study."""
    return [_table_asset(step, study, catalog) for step in _steps(study, catalog)]


def _steps(study: Study, catalog: Catalog) -> list[TableStep]:
    cells = [seeded("eval_cells", seed, catalog) for seed in study.seeds]
    return [
        TableStep(
            "source_rates",
            "Marker rate of every cell with Wilson and question-cluster intervals, the source rates on the diagonal, and the "
            "identity of each measurement used.",
            shared=["base_model", "base_cells", "training_dataset"],
            own=cells,
            parent=[],
            product=Products.source_rates,
            compute=compute_source_rates,
            headline=_rates_headline,
            preview="source_rates",
        ),
        TableStep(
            "geometry",
            "Cosine of every persona's centroid with the anchor's at each layer, under each centring, and the full N x N "
            "cosine matrices.",
            shared=["layer_centroids"],
            own=[],
            parent=[],
            product=Products.geometry,
            compute=compute_geometry,
            headline=lambda tables: {"layers": MetadataValue.int(tables["geometry"]["layer"].n_unique())},
            preview="geometry",
        ),
        TableStep(
            "regressions",
            "Source rate against cosine at every layer: Pearson, Spearman, Holm over the layers, leave-one-out, partial "
            "correlations given prompt length; preregistered and sensitivity rows apart.",
            shared=[],
            own=["source_rates", "geometry"],
            parent=[],
            product=Products.regressions,
            compute=compute_regressions,
            headline=_regressions_headline,
            preview="regressions",
        ),
        TableStep(
            "inherited_drift",
            "Did the rates of inherited adapters move since the parent study? The preregistered sign test, sensitivity tests, "
            "and the identity check that turns a comparison across conditions into `confounded`.",
            shared=[],
            own=["source_rates"],
            parent=["source_rates"],
            product=Products.inherited_drift,
            compute=compute_inherited_drift,
            headline=lambda tables: {"inherited_sources": MetadataValue.int(tables["inherited_drift"].height)},
            preview="drift_tests",
        ),
        TableStep(
            "gates",
            "The preregistered gates A, B and C on both splits at each primary layer, the outcome bucket they give and the "
            "confidence it deserves.",
            shared=[],
            own=["source_rates", "geometry", "regressions", "inherited_drift"],
            parent=[],
            product=Products.gates,
            compute=compute_gates,
            headline=_gates_headline,
            preview="gates",
        ),
    ]


def _table_asset(step: TableStep, study: Study, catalog: Catalog) -> AssetsDefinition:
    profile = catalog.profile.name
    parent = [] if study.parent is None else [study_key(profile, study.parent.name, name) for name in step.parent]
    keys = [
        *(shared_key(profile, name) for name in step.shared),
        *(study_key(profile, study.name, name) for name in step.own),
        *parent,
    ]

    @asset(
        key=study_key(profile, study.name, step.name),
        group_name=group_name(profile, study.name),
        description=step.description,
        kinds={"duckdb", "parquet"},
        code_version=VERSIONS[step.name],
        deps=[AssetDep(key) for key in keys],
        dagster_type=NOTHING,
    )
    def _asset(context: AssetExecutionContext, lake: Lake, warehouse: Warehouse) -> Iterator[Output[None]]:
        products = Products(catalog, lake)
        product = step.product(products, study)
        data = StudyData(study, products, warehouse)

        def write(staging: Path) -> Mapping[str, object]:
            tables = step.compute(data)
            for name, frame in tables.items():
                frame.write_parquet(staging / f"{name}{TABLE_SUFFIX}")
            return {"rows": {name: frame.height for name, frame in tables.items()}}

        def produce(staging: Path) -> Iterator[Outcome[Mapping[str, object]]]:
            return WorkerPool(0).run(write, {step.name: staging})

        def describe(manifest: Manifest, directory: Path) -> dict[str, MetadataValue]:
            tables = {file.stem: pl.read_parquet(file) for file in sorted(directory.glob(f"*{TABLE_SUFFIX}"))}
            shown = tables[step.preview]
            return {
                **step.headline(tables),
                **{f"rows_{name}": MetadataValue.int(frame.height) for name, frame in tables.items()},
                step.preview: table_preview(shown),
                "dagster/column_schema": table_schema(shown),
                **product_links(manifest, directory),
            }

        yield from materialize_one(context, products.store, product, produce, describe=describe, check=_check_no_nan)

    return _asset


def _check_no_nan(directory: Path) -> None:
    """Refuse tables with NaN: what cannot be estimated is null, with a note."""
    for file in directory.glob(f"*{TABLE_SUFFIX}"):
        frame = pl.read_parquet(file)
        for name, dtype in frame.schema.items():
            if dtype.is_float() and frame[name].is_nan().any():
                raise ValueError(f"{file.name}: NaN in the column {name}.")


def compute_source_rates(data: StudyData) -> Tables:
    """Tables `cells`, `source_rates` and `measurements` from the completions in the lake."""
    from persona_assets.statistics.rates import cells_table, source_rates

    study, products, store = data.study, data.products, data.products.store
    panel, plan = study.panel, study.analysis
    rows = [products.latest_eval_cells(study, source, seed) for seed in study.seeds for source in panel.ids]
    negatives = [(source, negative) for source in panel.ids for negative in products.negatives(source)]
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
            "prompt_tokens": prompt_tokens(store.open(products.base_path) / CHECKPOINT, [persona.prompt for persona in panel]),
        }
    )
    return {
        "source_rates": source_rates(cells, personas),
        "cells": cells,
        "measurements": measurements_table([_measurement(store.verified(product.path)) for product in rows]),
    }


def _measurement(manifest: Manifest) -> Measurement:
    identity = manifest.facts["identity"]
    assert isinstance(identity, Mapping)
    place = dict(part.split("=") for part in manifest.path.split("/") if "=" in part)
    return Measurement(place["source"], int(place["seed"]), int(place["measurement"]), identity)


def prompt_tokens(checkpoint: Path, prompts: Sequence[str]) -> list[int]:
    """Count the tokens of system prompts by the base model's own tokenizer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(prompts), add_special_tokens=False)]


def compute_geometry(data: StudyData) -> Tables:
    """Tables `geometry` and `pairwise_cosines` from the centroids in the lake."""
    import numpy as np
    from safetensors.numpy import load_file

    from persona_assets.geometry.cosines import geometry_frame, pairwise_frame

    panel, products = data.study.panel, data.products
    centroids = {
        persona: load_file(products.store.open(products.layer_centroids(persona).path) / CENTROIDS_FILE)["centroid"]
        for persona in panel.ids
    }
    stacked = np.stack([centroids[persona] for persona in panel.ids])
    reference = np.stack([centroids[persona] for persona in frozen_panel(data.study)])
    return {
        "geometry": geometry_frame(stacked, panel.ids, panel.anchor, reference=reference),
        "pairwise_cosines": pairwise_frame(stacked, panel.ids),
    }


def compute_regressions(data: StudyData) -> Tables:
    """Table `regressions` from `source_rates` and `geometry`."""
    from persona_assets.statistics.partial import partial_rows
    from persona_assets.statistics.scan import scan, scan_sensitivity

    plan = data.study.analysis
    settings = {
        "seed": plan.seed,
        "alpha": plan.alpha,
        "resamples": plan.bootstrap_resamples,
        "confidence": plan.confidence_level,
    }
    observed = {centring: observations(data, centring) for centring in ("panel", "none", "frozen")}
    return {
        "regressions": pl.concat(
            [
                scan(observed["panel"], **settings),  # type: ignore[arg-type]  # one dict of mixed settings
                scan_sensitivity(observed, **settings),  # type: ignore[arg-type]
                partial_rows(observed["panel"], seed=plan.seed, count=plan.permutations),
            ]
        )
    }


def observations(data: StudyData, centring: str = "panel") -> "StudyObservations":
    """Join a study's source rates and cosines, after checking that its measurements belong together."""
    from persona_assets.statistics.identity import check_identity
    from persona_assets.statistics.observations import StudyObservations

    products, study = data.products, data.study
    rates = products.source_rates(study)
    check_identity(data.table(rates, "measurements"))
    return StudyObservations.from_frames(
        data.table(rates, "source_rates"),
        data.table(products.geometry(study), "geometry"),
        anchor=study.panel.anchor,
        centring=centring,
        personas=pl.DataFrame([persona.model_dump() for persona in study.panel]).rename({"id": "persona"}),
    )


def compute_inherited_drift(data: StudyData) -> Tables:
    """Tables `inherited_drift` and `drift_tests`: the study's rates against its parent's."""
    from persona_assets.statistics.drift import inherited_drift

    study, products, plan = data.study, data.products, data.study.analysis
    now = products.source_rates(study)
    # Without a parent there is no inherited source: its tables are those of an empty parent.
    parent = now if study.parent is None else products.source_rates(study.parent)
    rows = slice(0, 0) if study.parent is None else slice(None)
    result = inherited_drift(
        data.table(now, "source_rates"),
        data.table(parent, "source_rates")[rows],
        data.table(now, "measurements"),
        data.table(parent, "measurements")[rows],
        seed=plan.seed,
        low_share=plan.drift_low_share,
        match_share=plan.drift_match_share,
        alpha=plan.alpha,
        resamples=plan.bootstrap_resamples,
        confidence=plan.confidence_level,
    )
    return {"inherited_drift": result.inherited_drift, "drift_tests": result.drift_tests}


def compute_gates(data: StudyData) -> Tables:
    """Tables `gates` and `outcome` from everything the rule looks at."""
    from persona_assets.statistics.gates import evaluate_gates

    products, study, plan = data.products, data.study, data.study.analysis
    tests = data.table(products.inherited_drift(study), "drift_tests")
    rates = data.table(products.source_rates(study), "source_rates")
    registered = tests.filter("registered")
    verdicts = set(registered["verdict"].to_list())
    result = evaluate_gates(
        observations(data),
        primary_layers=plan.primary_layers,
        seed=plan.seed,
        alpha=plan.alpha,
        registered_sign=plan.registered_sign,
        slope_tolerance=plan.slope_tolerance,
        drift_triggered=_triggered(verdicts),
        drift_confounded="confounded" in verdicts,
        truncation_flagged=int(rates["truncation_flagged"].sum()),
    )
    return {
        "gates": result.gates,
        "outcome": result.outcome.with_columns(pl.lit(plan_changes(data)).alias("plan_changes")),
        "gate_details": result.details,
    }


def _triggered(verdicts: set[str]) -> bool | None:
    if verdicts & {"confounded", "not_tested"} or not verdicts:
        return None
    return "drift" in verdicts


def plan_changes(data: StudyData) -> str:
    """Name the fields of the registered plan that changed since the study's first measurement; empty when none did."""
    changed: set[str] = set()
    study, products = data.study, data.products
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


def _rates_headline(tables: Tables) -> dict[str, MetadataValue]:
    rates, cells = tables["source_rates"], tables["cells"]
    others = cells.filter(pl.col("kind") != "self")
    return {
        "mean_source_rate": MetadataValue.float(float(rates["rate"].mean())),  # type: ignore[arg-type]  # never empty
        "mean_bystander_rate": MetadataValue.float(float(others["rate"].mean())),  # type: ignore[arg-type]
        "max_base_rate": MetadataValue.float(float(rates["base_rate"].max())),  # type: ignore[arg-type]
        "flagged_for_truncation": MetadataValue.int(int(rates["truncation_flagged"].sum())),
    }


def _regressions_headline(tables: Tables) -> dict[str, MetadataValue]:
    strongest = tables["regressions"].filter(pl.col("registered"), pl.col("statistic") == "strongest_layer").row(0, named=True)
    if strongest["estimate"] is None:
        return {"strongest_layer": MetadataValue.text(strongest["note"])}
    return {
        "strongest_layer": MetadataValue.int(strongest["layer"]),
        "strongest_rho": MetadataValue.float(strongest["estimate"]),
    }


def _gates_headline(tables: Tables) -> dict[str, MetadataValue]:
    outcome = tables["outcome"].row(0, named=True)
    gates = tables["gates"].filter("registered")
    return {
        "bucket": MetadataValue.text(outcome["bucket"]),
        "confidence": MetadataValue.text(outcome["confidence"]),
        "gates_passed": MetadataValue.int(int(gates["passed"].sum())),
        "gates_total": MetadataValue.int(gates.height),
        "plan_changes": MetadataValue.text(outcome["plan_changes"] or "none since the first measurement"),
    }
