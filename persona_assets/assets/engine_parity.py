"""The comparison of engines: the same cells drawn in every way there is, as a table and a check."""

# No postponed annotations here: Dagster reads the types off the function when it is defined.

from collections.abc import Iterator
from pathlib import Path

import polars as pl
from dagster import (
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetDep,
    AssetExecutionContext,
    AssetsDefinition,
    MetadataValue,
    Output,
    SpecificPartitionsPartitionMapping,
    asset,
    asset_check,
)

from persona_assets.assets.adapters import merge_probes
from persona_assets.assets.metadata import product_links, table_preview
from persona_assets.assets.partitions import group_name, seeded, shared_key
from persona_assets.assets.producers import VERSIONS
from persona_assets.assets.products import Products
from persona_assets.assets.recording import NOTHING, materialize_one
from persona_assets.assets.shared_products import parity_personas
from persona_assets.assets.steps import GPU_POOL
from persona_assets.catalog import Catalog
from persona_assets.store import Manifest
from persona_assets.tasks.engine_parity import TABLE_FILE, EngineParityTask, compare_engines
from resources.lake import Lake
from resources.model_runtime import ModelRuntime


def engine_parity(catalog: Catalog) -> AssetsDefinition:
    """Build the asset that compares the ways of drawing completions."""
    profile, seed = catalog.profile, catalog.seeds[0]
    sources, others = parity_personas(catalog)

    @asset(
        key=shared_key(profile.name, "engine_parity"),
        group_name=group_name(profile.name),
        description=(
            "Do merged weights, swapped adapters, transformers and vLLM give the same completions? Draws the cells of "
            f"{', '.join(sources)} in every way that is installed here and compares greedy tokens and rates; two wrong ways "
            "(no adapter, another's adapter) must be told apart. No study needs it: materialize it before you trust an engine."
        ),
        kinds={"pytorch", "parquet"},
        code_version=VERSIONS["engine_parity"],
        pool=GPU_POOL,
        deps=[
            AssetDep(shared_key(profile.name, "base_model")),
            AssetDep(
                shared_key(profile.name, seeded("adapter", seed, catalog)),
                partition_mapping=SpecificPartitionsPartitionMapping(list(sources)),
            ),
        ],
        dagster_type=NOTHING,
    )
    def _engine_parity(context: AssetExecutionContext, lake: Lake, model_runtime: ModelRuntime) -> Iterator[Output[None]]:
        products = Products(catalog, lake)

        def task(staging: Path) -> EngineParityTask:
            return EngineParityTask(
                out_dir=staging,
                base_dir=products.store.open(products.base_path),
                adapters={source: products.store.open(products.adapter(source, seed).path) for source in sources},
                sources=tuple(catalog.panel[source] for source in sources),
                others=tuple(catalog.panel[persona] for persona in others),
                questions=products.evaluation_questions,
                evaluation=profile.evaluation,
                marker=profile.marker,
                probes=merge_probes(products),
                runtime=model_runtime.settings(profile),
            )

        def describe(manifest: Manifest, directory: Path) -> dict[str, MetadataValue]:
            return {
                "outcome": MetadataValue.text(str(manifest.facts["sentence"])),
                "engine_parity": table_preview(TABLE_FILE, pl.read_parquet(directory / TABLE_FILE)),
                **product_links(manifest, directory),
            }

        yield from materialize_one(
            context,
            products.store,
            products.engine_parity(),
            lambda staging: model_runtime.run(profile, compare_engines, {"engine_parity": task(staging)}),
            describe=describe,
        )

    return _engine_parity


def engine_parity_check(catalog: Catalog) -> AssetChecksDefinition:
    """Build the check that the engines agree."""

    @asset_check(
        asset=shared_key(catalog.profile.name, "engine_parity"),
        name="engines_agree",
        description=(
            "Every engine and mode gives the greedy tokens and the rates of merged weights under transformers, and the "
            "comparison would have noticed an adapter that is missing or another's."
        ),
    )
    def engines_agree(lake: Lake) -> AssetCheckResult:
        from persona_assets.statistics.engine_parity import judge_parity

        products = Products(catalog, lake)
        verdict = judge_parity(pl.read_parquet(products.store.open(products.engine_parity().path) / TABLE_FILE))
        return AssetCheckResult(
            passed=verdict.passed,
            severity=AssetCheckSeverity.ERROR,
            description=verdict.sentence,
            metadata={**verdict.numbers},
        )

    return engines_agree
