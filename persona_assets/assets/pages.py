"""The pages about a study: the write-up, and the overview, which is the asset to open first."""

# No postponed annotations here: Dagster reads the types off the function when it is defined.

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import AssetDep, AssetExecutionContext, AssetsDefinition, MetadataValue, Output, asset

from persona_assets.assets.imports import IMPORTED
from persona_assets.assets.metadata import lake_link, product_links, table_preview
from persona_assets.assets.partitions import group_name, seeded, shared_key, study_key
from persona_assets.assets.pictures import picture
from persona_assets.assets.producers import VERSIONS
from persona_assets.assets.products import SHOWN_PRODUCTS, Products, table_names
from persona_assets.assets.recording import NOTHING, here, materialize_one
from persona_assets.catalog import Catalog
from persona_assets.store import Manifest
from persona_assets.study import Study
from resources.lake import Lake
from resources.warehouse import Warehouse

if TYPE_CHECKING:
    from persona_assets.reporting.writeup import Sources

_RATE_COLUMNS = ("persona", "cohort", "rate", "wilson_low", "wilson_high")  # what fits beside the definition
_GATE_COLUMNS = ("gate", "split", "layer", "observed", "threshold", "p", "n", "passed")


def study_clean_result(study: Study, catalog: Catalog) -> AssetsDefinition:
    """Build the asset that writes a study up."""
    profile = catalog.profile.name
    names = [*table_names(study), "figures"]
    if study.imported is None:
        names += [seeded("eval_cells", seed, catalog) for seed in study.seeds]
        base = [AssetDep(shared_key(profile, "base_model"))]
    else:
        names.append(IMPORTED)
        base = []

    def write(sources: "Sources", staging: Path) -> str:
        from persona_assets.reporting.writeup import write_clean_result

        return write_clean_result(sources, staging).headline

    def shown(products: Products, warehouse: Warehouse, manifest: Manifest) -> dict[str, MetadataValue]:
        from persona_assets.reporting.writeup import PAGE_FILE

        return {"page": lake_link(f"{manifest.path}/{PAGE_FILE}")}

    description = (
        "The write-up: report.md and the self-contained page report.html. Every number is a cell of a table, every sample "
        "a stored completion. Read it with `persona-assets report`, check it with `persona-assets lint`."
    )
    deps = [*base, *(AssetDep(study_key(profile, study.name, name)) for name in names)]
    return _page("clean_result", study, catalog, description, deps, write, shown)


def study_overview(study: Study, catalog: Catalog) -> AssetsDefinition:
    """Build the asset that sums a study up."""
    read = (*table_names(study), "figures", "clean_result")

    def write(sources: "Sources", staging: Path) -> str:
        from persona_assets.reporting.writeup.overview import write_overview

        return write_overview(sources, staging).headline

    def shown(products: Products, warehouse: Warehouse, manifest: Manifest) -> dict[str, MetadataValue]:
        return {**_links(products, study, manifest), **_numbers(products, study, warehouse)}

    description = (
        "Start here: where the study stands and what came out. The metadata holds the headline, bucket, confidence, gates "
        "and source rates; `overview_page` is the same as a page, `write_up` the whole report."
    )
    deps = [AssetDep(study_key(catalog.profile.name, study.name, name)) for name in read]
    return _page("overview", study, catalog, description, deps, write, shown)


def _page(
    name: str,
    study: Study,
    catalog: Catalog,
    description: str,
    deps: Sequence[AssetDep],
    write: Callable[["Sources", Path], str],
    shown: Callable[[Products, Warehouse, Manifest], Mapping[str, MetadataValue]],
) -> AssetsDefinition:
    """Build the asset of a page: `write` puts it into a directory and returns its headline, `shown` is its own metadata."""
    profile = catalog.profile.name

    @asset(
        key=study_key(profile, study.name, name),
        group_name=group_name(profile, study.name),
        description=description,
        kinds={"markdown"},
        code_version=VERSIONS[name],
        owners=list(study.owners),
        deps=deps,
        dagster_type=NOTHING,
    )
    def page(context: AssetExecutionContext, lake: Lake, warehouse: Warehouse) -> Iterator[Output[None]]:
        products = Products(catalog, lake)

        def fill(staging: Path) -> Mapping[str, object]:
            from persona_assets.assets.writeups import writeup_sources

            return {"headline": write(writeup_sources(study, products, warehouse), staging)}

        def describe(manifest: Manifest, directory: Path) -> dict[str, MetadataValue]:
            return {
                "headline": MetadataValue.text(str(manifest.facts["headline"])),
                **shown(products, warehouse, manifest),
                **product_links(manifest, directory),
            }

        product = SHOWN_PRODUCTS[name](products, study)
        yield from materialize_one(context, products.store, product, here(fill), describe=describe)

    return page


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
