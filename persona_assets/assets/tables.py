"""The DuckDB-backed assets of a study: tables computed from the lake, and nothing else."""

# No postponed annotations here: Dagster reads the types off the function when it is defined.

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl
from dagster import (
    AssetDep,
    AssetExecutionContext,
    AssetsDefinition,
    MetadataValue,
    Output,
    SpecificPartitionsPartitionMapping,
    asset,
)

from persona_assets.assets.computing import StudyData
from persona_assets.assets.metadata import product_links, table_columns, table_preview
from persona_assets.assets.partitions import group_name, shared_key, study_key
from persona_assets.assets.producers import VERSIONS
from persona_assets.assets.products import TABLE_PRODUCTS, Products, table_names
from persona_assets.assets.recording import NOTHING, here, materialize_one
from persona_assets.assets.table_steps import TableStep, table_steps
from persona_assets.catalog import Catalog
from persona_assets.numerics import one_thread
from persona_assets.store import Manifest
from persona_assets.study import Study
from resources.lake import Lake
from resources.warehouse import TABLE_SUFFIX, Warehouse


def study_tables(study: Study, catalog: Catalog) -> list[AssetsDefinition]:
    """Build the table assets of a study."""
    return [_table_asset(step, study, catalog) for step in table_steps(study, catalog)]


def _table_asset(step: TableStep, study: Study, catalog: Catalog) -> AssetsDefinition:
    profile = catalog.profile.name
    own = [study_key(profile, study.name, name) for name in step.own]
    parent = [] if study.parent is None else [study_key(profile, study.parent.name, name) for name in step.parent]
    ancestors = [
        study_key(profile, each.name, name) for each in study.ancestors for name in step.ancestors if name in table_names(each)
    ]
    deps = [
        *(_shared_dep(name, study, profile) for name in step.shared),
        *(AssetDep(key) for key in (*own, *parent, *ancestors)),
    ]

    @asset(
        key=study_key(profile, study.name, step.name),
        group_name=group_name(profile, study.name),
        description=step.description,
        kinds={"duckdb", "parquet"},
        code_version=VERSIONS[step.name],
        owners=list(study.owners),
        deps=deps,
        dagster_type=NOTHING,
    )
    def _asset(context: AssetExecutionContext, lake: Lake, warehouse: Warehouse) -> Iterator[Output[None]]:
        products = Products(catalog, lake)
        product = TABLE_PRODUCTS[step.name](products, study)
        data = StudyData(study, products, warehouse)

        def write(staging: Path) -> Mapping[str, object]:
            with one_thread():
                tables = step.compute(data)
            for name, frame in tables.items():
                frame.write_parquet(staging / f"{name}{TABLE_SUFFIX}")
            return {"rows": {name: frame.height for name, frame in tables.items()}}

        def describe(manifest: Manifest, directory: Path) -> dict[str, MetadataValue]:
            tables = {file.stem: pl.read_parquet(file) for file in sorted(directory.glob(f"*{TABLE_SUFFIX}"))}
            return {
                **step.headline(tables),
                **{f"rows_{name}": MetadataValue.int(frame.height) for name, frame in tables.items()},
                step.preview: table_preview(step.preview, tables[step.preview]),
                **table_columns(tables, step.preview),
                **product_links(manifest, directory),
            }

        yield from materialize_one(context, products.store, product, here(write), describe=describe, check=_check_no_nan)

    return _asset


def _shared_dep(name: str, study: Study, profile: str) -> AssetDep:
    key = shared_key(profile, name)
    if name == "base_model":
        return AssetDep(key)
    # Only the panel's personas: those that a larger study adds must not make this table stale.
    return AssetDep(key, partition_mapping=SpecificPartitionsPartitionMapping(list(study.panel.ids)))


def _check_no_nan(directory: Path) -> None:
    """Refuse tables with NaN: what cannot be estimated is null, with a note."""
    for file in sorted(directory.glob(f"*{TABLE_SUFFIX}")):
        frame = pl.read_parquet(file)
        for name, dtype in frame.schema.items():
            if dtype.is_float() and frame[name].is_nan().any():
                raise ValueError(f"{file.name}: NaN in the column {name}.")
