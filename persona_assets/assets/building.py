"""Put the assets and checks of one profile together."""

from __future__ import annotations

from dagster import AssetsDefinition, AssetSpec, Definitions

from persona_assets.assets.cells import eval_cells
from persona_assets.assets.checks import shared_checks, study_checks
from persona_assets.assets.engine_parity import engine_parity, engine_parity_check
from persona_assets.assets.imports import imported_asset
from persona_assets.assets.marker_scores import marker_scores
from persona_assets.assets.pages import study_clean_result, study_overview
from persona_assets.assets.partitions import persona_partitions
from persona_assets.assets.products import analysed
from persona_assets.assets.publication import study_publication, upload_verification
from persona_assets.assets.published import study_figures, warehouse_asset
from persona_assets.assets.shared import shared_assets
from persona_assets.assets.tables import study_tables
from persona_assets.catalog import Catalog


def profile_definitions(catalog: Catalog) -> Definitions:
    """Build every asset and check of a profile and its studies."""
    shared = [*shared_assets(catalog, persona_partitions(catalog.panel)), warehouse_asset(catalog), engine_parity(catalog)]
    owners = list(catalog.owners)
    assets: list[AssetsDefinition | AssetSpec] = [
        each.map_asset_specs(lambda spec: spec.replace_attributes(owners=owners)) for each in shared
    ]
    checks = [*shared_checks(catalog), engine_parity_check(catalog)]
    for study in catalog.studies.values():
        checks += study_checks(study, catalog)
        assets += study_tables(study, catalog)
        if analysed(study):
            assets += [study_figures(study, catalog), study_clean_result(study, catalog), study_overview(study, catalog)]
        if study.imported is not None:
            assets.append(imported_asset(study, catalog))
            continue
        partitions = persona_partitions(study.panel)
        assets += [make(study, catalog, seed, partitions) for seed in study.seeds for make in (eval_cells, marker_scores)]
        assets.append(study_publication(study, catalog))
        checks.append(upload_verification(study, catalog))
    return Definitions(assets=assets, asset_checks=checks)
