"""The overview of a study: the asset to open first."""

# No postponed annotations here: Dagster reads the types off the function when it is defined.

from collections.abc import Iterator, Mapping
from pathlib import Path

from dagster import AssetDep, AssetExecutionContext, AssetsDefinition, MetadataValue, Output, asset

from persona_assets.assets.metadata import lake_link, product_links, table_preview
from persona_assets.assets.partitions import group_name, study_key
from persona_assets.assets.pictures import picture
from persona_assets.assets.producers import VERSIONS
from persona_assets.assets.products import Products, table_names
from persona_assets.assets.recording import NOTHING, materialize_one
from persona_assets.catalog import Catalog
from persona_assets.store import Manifest
from persona_assets.study import Study
from persona_assets.workers import Outcome, WorkerPool
from resources.lake import Lake
from resources.warehouse import Warehouse

_RATE_COLUMNS = ("persona", "cohort", "rate", "wilson_low", "wilson_high")  # what fits beside the definition
_GATE_COLUMNS = ("gate", "split", "layer", "observed", "threshold", "p", "n", "passed")


def study_overview(study: Study, catalog: Catalog) -> AssetsDefinition:
    """Build the asset that sums a study up."""
    profile = catalog.profile.name
    read = (*table_names(study), "figures", "clean_result")

    @asset(
        key=study_key(profile, study.name, "overview"),
        group_name=group_name(profile, study.name),
        description=(
            "Start here: where the study stands and what came out. The metadata holds the headline, bucket, confidence, gates "
            "and source rates; `overview_page` is the same as a page, `write_up` the whole report."
        ),
        kinds={"markdown"},
        code_version=VERSIONS["overview"],
        owners=list(study.owners),
        deps=[AssetDep(study_key(profile, study.name, name)) for name in read],
        dagster_type=NOTHING,
    )
    def overview(context: AssetExecutionContext, lake: Lake, warehouse: Warehouse) -> Iterator[Output[None]]:
        products = Products(catalog, lake)

        def write(staging: Path) -> Mapping[str, object]:
            from persona_assets.assets.writeups import writeup_sources
            from persona_assets.reporting.writeup.overview import write_overview

            return {"headline": write_overview(writeup_sources(study, products, warehouse), staging).headline}

        def describe(manifest: Manifest, directory: Path) -> dict[str, MetadataValue]:
            return {
                "headline": MetadataValue.text(str(manifest.facts["headline"])),
                **_links(products, study, manifest),
                **_numbers(products, study, warehouse),
                **product_links(manifest, directory),
            }

        def produce(staging: Path) -> Iterator[Outcome[Mapping[str, object]]]:
            return WorkerPool(0).run(write, {"overview": staging})

        yield from materialize_one(context, products.store, products.overview(study), produce, describe=describe)

    return overview


def _links(products: Products, study: Study, manifest: Manifest) -> dict[str, MetadataValue]:
    from persona_assets.reporting.writeup import PAGE_FILE
    from persona_assets.reporting.writeup.overview import OVERVIEW_FILE

    return {
        "overview_page": lake_link(f"{manifest.path}/{OVERVIEW_FILE}"),
        "write_up": lake_link(f"{products.clean_result(study).path}/{PAGE_FILE}"),
        "all_figures": lake_link(f"{products.figures(study).path}/"),
    }


def _numbers(products: Products, study: Study, warehouse: Warehouse) -> dict[str, MetadataValue]:
    from persona_assets.assets.table_steps import gates_headline, rates_headline
    from persona_assets.reporting.writeup.overview import OVERVIEW_FIGURES

    rates, gates = (warehouse.tables([product(products, study).path]) for product in (Products.source_rates, Products.gates))
    drift = warehouse.table(products.inherited_drift(study).path, "drift_tests").filter("registered").row(0, named=True)
    outcome = gates["outcome"].row(0, named=True)
    figures = products.store.open(products.figures(study).path)
    registered = gates["gates"].filter("registered")
    return {
        **gates_headline(gates),
        "reasons": MetadataValue.text(outcome["reasons"]),
        **rates_headline(rates),
        "strongest_rho": (
            MetadataValue.text("not estimable")
            if outcome["strongest_rho"] is None
            else MetadataValue.float(outcome["strongest_rho"])
        ),
        "drift": MetadataValue.text(drift["verdict"]),
        "source_rates": table_preview("source_rates", rates["source_rates"].select(_RATE_COLUMNS)),
        "gates": table_preview("gates", registered.select(_GATE_COLUMNS)),
        # An import may hold no cells but the source rates, and then has no heat map.
        **{name: picture(figures / f"{name}.png") for name in OVERVIEW_FIGURES if (figures / f"{name}.png").is_file()},
    }
