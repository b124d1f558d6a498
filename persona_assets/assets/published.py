"""The figures of a study, and the warehouse of a profile."""

# No postponed annotations here: Dagster reads the types off the function when it is defined.

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from dagster import AssetDep, AssetExecutionContext, AssetsDefinition, MaterializeResult, MetadataValue, Output, asset

from persona_assets.assets.metadata import lake_link, product_links
from persona_assets.assets.partitions import group_name, shared_key, study_key
from persona_assets.assets.pictures import pictures
from persona_assets.assets.producers import VERSIONS
from persona_assets.assets.products import Products, table_names
from persona_assets.assets.recording import NOTHING, materialize_one
from persona_assets.catalog import Catalog
from persona_assets.hashing import sha256_json
from persona_assets.store import Manifest
from persona_assets.study import Study
from persona_assets.workers import Outcome
from resources.lake import Lake
from resources.model_runtime import ModelRuntime
from resources.warehouse import Warehouse


def study_figures(study: Study, catalog: Catalog) -> AssetsDefinition:
    """Build the asset that draws a study's figures."""
    profile = catalog.profile.name

    @asset(
        key=study_key(profile, study.name, "figures"),
        group_name=group_name(profile, study.name),
        description="Every picture of the study as png and pdf, each with a meta.json that holds every number drawn.",
        kinds={"matplotlib"},
        code_version=VERSIONS["figures"],
        owners=list(study.owners),
        deps=[AssetDep(study_key(profile, each.name, name)) for each in (study, *study.ancestors) for name in table_names(each)],
        dagster_type=NOTHING,
    )
    def figures(
        context: AssetExecutionContext, lake: Lake, warehouse: Warehouse, model_runtime: ModelRuntime
    ) -> Iterator[Output[None]]:
        products = Products(catalog, lake)
        parts = max(1, model_runtime.settings(catalog.profile).workers)

        def describe(manifest: Manifest, directory: Path) -> dict[str, MetadataValue]:
            drawn = manifest.facts["figures"]
            assert isinstance(drawn, list)
            return {"figures": MetadataValue.int(len(drawn)), **pictures(directory), **product_links(manifest, directory)}

        def produce(staging: Path) -> Iterator[Outcome[Mapping[str, object]]]:
            from persona_assets.reporting.study_figures import FiguresTask, draw_figures

            lineage = (study, *study.ancestors)
            versions = {path: lake.store.verified(path).data_version for each in lineage for path in products.table_paths(each)}
            tables = {each.name: warehouse.tables(products.table_paths(each)) for each in lineage}
            whole = FiguresTask(staging, study, tables, context.asset_key.to_user_string(), sha256_json(versions))
            tasks = {str(part): replace(whole, part=part, parts=parts) for part in range(parts)}
            outcomes = list(model_runtime.run(catalog.profile, draw_figures, tasks, models=False))
            if failed := next((outcome for outcome in outcomes if outcome.error is not None), None):
                yield Outcome("figures", error=failed.error, trace=failed.trace)
                return
            drawn = {number: name for outcome in outcomes for number, name in (outcome.result or {}).items()}
            yield Outcome("figures", result={"figures": [drawn[number] for number in sorted(drawn)]})

        yield from materialize_one(context, products.store, products.figures(study), produce, describe=describe)

    return figures


def published_paths(products: Products) -> dict[str, tuple[str, ...]]:
    """List the products that a profile's warehouse holds, by study."""
    return {name: products.table_paths(study) for name, study in products.catalog.studies.items()}


def warehouse_asset(catalog: Catalog) -> AssetsDefinition:
    """Build the asset that publishes a profile's `warehouse.duckdb`."""
    profile = catalog.profile.name
    deps = [study_key(profile, study.name, name) for study in catalog.studies.values() for name in table_names(study)]

    @asset(
        key=shared_key(profile, "warehouse"),
        group_name=group_name(profile),
        description=(
            "warehouse.duckdb for people and notebooks: one schema per study, one table per kind of result. Query it with "
            "`persona-assets sql`; it is replaced as a whole."
        ),
        kinds={"duckdb"},
        code_version=VERSIONS["warehouse"],
        deps=[AssetDep(key) for key in deps],
    )
    def warehouse(context: AssetExecutionContext, lake: Lake, warehouse: Warehouse) -> MaterializeResult[None]:
        from dagster import DataVersion

        products = Products(catalog, lake)
        studies = published_paths(products)
        skipped = warehouse.is_current(profile, studies)
        version = sha256_json(warehouse.sources(profile, studies)) if skipped else warehouse.publish(profile, studies)
        context.log.info(f"warehouse {'unchanged' if skipped else 'published'}: {warehouse.file(profile)}")
        file = warehouse.file(profile)
        return MaterializeResult(
            data_version=DataVersion(version),
            metadata={
                "path": MetadataValue.path(str(file)),
                "files": lake_link(f"{profile}/{file.name}"),
                "size_bytes": file.stat().st_size,
                "studies": ", ".join(name for name, paths in studies.items() if any(lake.store.manifest(p) for p in paths)),
                "skipped": skipped,
            },
        )

    return warehouse
