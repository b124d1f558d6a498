"""Publishing a study to a registry, and the check that downloads it again."""

# No postponed annotations here: Dagster reads the types off the function when it is defined.

from collections.abc import Iterator, Mapping
from pathlib import Path

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

from persona_assets.assets.bundles import study_bundles
from persona_assets.assets.metadata import product_links
from persona_assets.assets.partitions import group_name, seeded, shared_key, study_key
from persona_assets.assets.producers import VERSIONS
from persona_assets.assets.products import TABLE_PRODUCTS, Products
from persona_assets.assets.recording import NOTHING, here, materialize_one
from persona_assets.catalog import Catalog
from persona_assets.publication.record import RECORD_FILE
from persona_assets.store import Manifest
from persona_assets.study import Study
from resources.lake import Lake
from resources.publishing import PUBLISH_VARIABLE, Publishing

_WORK = "contents"


def study_publication(study: Study, catalog: Catalog) -> AssetsDefinition:
    """Build the asset that publishes a study."""
    profile = catalog.profile.name
    own = [*TABLE_PRODUCTS, "figures", "clean_result", *(seeded("eval_cells", seed, catalog) for seed in study.seeds)]
    shared = ["base_cells", *(seeded("adapter", seed, catalog) for seed in study.seeds)]
    panel = SpecificPartitionsPartitionMapping(list(study.panel.ids))

    @asset(
        key=study_key(profile, study.name, "publication"),
        group_name=group_name(profile, study.name),
        description=(
            "The study in a registry: adapters, cells, tables, figures and the write-up, each pinned to a version, with the "
            f"sha256 of every file. It does nothing unless {PUBLISH_VARIABLE} says where to. What is there already is not sent "
            "again."
        ),
        kinds={"python", "parquet"},
        code_version=VERSIONS["publication"],
        owners=list(study.owners),
        deps=[
            *(AssetDep(shared_key(profile, name), partition_mapping=panel) for name in shared),
            *(AssetDep(study_key(profile, study.name, name)) for name in own),
        ],
        output_required=False,
        dagster_type=NOTHING,
    )
    def publication(context: AssetExecutionContext, lake: Lake, publishing: Publishing) -> Iterator[Output[None]]:
        if not publishing.destination:
            context.log.info(f"Nothing is published: {PUBLISH_VARIABLE} is not set, and publishing.destination is empty.")
            return
        products = Products(catalog, lake)

        def push(staging: Path) -> Mapping[str, object]:
            from persona_assets.publication.destinations import open_destination
            from persona_assets.publication.publishing import publish
            from persona_assets.publication.record import record

            bundles = list(study_bundles(study, products, staging / _WORK))
            destination = open_destination(publishing.destination)
            try:
                published = publish(bundles, destination, say=context.log.info)
            finally:
                destination.close()
            record(published).write_parquet(staging / RECORD_FILE)
            return {
                "references": {each.bundle.name: str(each.reference) for each in published},
                "sent": sum(each.sent for each in published),
            }

        def describe(manifest: Manifest, directory: Path) -> dict[str, MetadataValue]:
            references, sent = manifest.facts["references"], manifest.facts["sent"]
            assert isinstance(references, dict)
            assert isinstance(sent, int)
            return {
                "destination": MetadataValue.text(str(manifest.parameters["destination"])),
                "bundles": MetadataValue.int(len(references)),
                "sent_now": MetadataValue.int(sent),
                "references": MetadataValue.json(references),
                **product_links(manifest, directory),
            }

        # It says something of what lies elsewhere, so it is asked there each time.
        product = products.publication(study, publishing.destination)
        yield from materialize_one(context, products.store, product, here(push), describe=describe, skip=False)

    return publication


def upload_verification(study: Study, catalog: Catalog) -> AssetChecksDefinition:
    """Build the check that downloads what was published and compares it with the record."""
    profile = catalog.profile.name

    @asset_check(
        asset=study_key(profile, study.name, "publication"),
        name="upload_verification",
        description=(
            "Everything that was published comes back: downloaded anew at the pinned version, every file has the sha256, and "
            "every table, cell and adapter the schema that the record says."
        ),
        blocking=True,
    )
    def verification(lake: Lake) -> AssetCheckResult:
        import polars as pl

        from persona_assets.publication.destinations import open_destination
        from persona_assets.publication.record import recorded_bundles
        from persona_assets.publication.verification import verify

        path = lake.publication(profile, study.name)
        manifest = lake.store.manifest(path)
        if manifest is None:
            return AssetCheckResult(passed=True, description="Nothing of the study was published, so there is nothing to verify.")
        bundles = list(recorded_bundles(pl.read_parquet(lake.store.open(path) / RECORD_FILE)))
        destination = open_destination(str(manifest.parameters["destination"]))
        try:
            faults = [fault for _, found in verify(bundles, destination.registry) for fault in found]
        finally:
            destination.close()
        files = sum(len(bundle.files) for bundle in bundles)
        said = f"{files} files of {len(bundles)} bundles came back as they were published."
        return AssetCheckResult(
            passed=not faults,
            severity=AssetCheckSeverity.ERROR,
            description=said if not faults else " ".join(faults[:5]),
            metadata={"bundles": len(bundles), "files": files, "faults": len(faults)},
        )

    return verification
