"""The jobs that schedules and sensors start, and how runs over ranges of personas are requested."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dagster import AssetKey, AssetSelection, DagsterInstance, DagsterRunStatus, RunRequest, RunsFilter, define_asset_job
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from persona_assets.assets.partitions import group_name, seeded, shared_key, study_key
from persona_assets.assets.products import SHOWN_PRODUCTS, TABLE_PRODUCTS, Products
from persona_assets.catalog import Catalog
from persona_assets.panel import contiguous_ranges
from persona_assets.store import Product
from persona_assets.study import Study


@dataclass(frozen=True)
class StudyJobs:
    """What can be started for one study.

    Attributes:
        study: the study.
        catalog: its profile's catalog.
        measuring: measures sources (`eval_cells`, `marker_scores`).
        results: tables, figures, write-up and overview of the study, and the profile's warehouse.
    """

    study: Study
    catalog: Catalog
    measuring: UnresolvedAssetJobDefinition
    results: UnresolvedAssetJobDefinition

    @property
    def name(self) -> str:
        """Profile and study, as schedules and sensors name them."""
        return group_name(self.catalog.profile.name, self.study.name)

    @property
    def cells(self) -> list[AssetKey]:
        """The study's `eval_cells`, one for each training seed."""
        return row_keys(self.study, self.catalog, "eval_cells")

    @property
    def scores(self) -> list[AssetKey]:
        """The study's `marker_scores`, one for each training seed: of the stored replies of the latest measurement."""
        return row_keys(self.study, self.catalog, "marker_scores")

    def key(self, asset: str) -> AssetKey:
        """Key of an asset of the study."""
        return study_key(self.catalog.profile.name, self.study.name, asset)

    def results_request(self, products: Products, run_key: str, tags: Mapping[str, str] | None = None) -> RunRequest:
        """Request everything computed from the cells.

        While other sources of the study were never measured most tables cannot be computed; drift between measurements can.
        """
        whole = not products.store.missing_inputs(products.source_rates(self.study))
        only = None if whole else [self.key("remeasurement_drift")]
        return RunRequest(run_key=run_key, job_name=self.results.name, asset_selection=only, tags=dict(tags or {}))


def row_keys(study: Study, catalog: Catalog, asset: str) -> list[AssetKey]:
    """Keys of an asset of a study that exists once for each training seed."""
    return [study_key(catalog.profile.name, study.name, seeded(asset, seed, catalog)) for seed in study.seeds]


def study_jobs(study: Study, catalog: Catalog) -> StudyJobs:
    """Define the jobs of a study."""
    name, profile = group_name(catalog.profile.name, study.name), catalog.profile.name
    results = [study_key(profile, study.name, asset) for asset in (*TABLE_PRODUCTS, *SHOWN_PRODUCTS)]
    return StudyJobs(
        study,
        catalog,
        define_asset_job(
            f"measure_{name}",
            AssetSelection.assets(*row_keys(study, catalog, "eval_cells"), *row_keys(study, catalog, "marker_scores")),
            description=f"Measure sources of the study {study.name}: every completion of their rows of cells, and their scores.",
        ),
        define_asset_job(
            f"results_of_{name}",
            AssetSelection.assets(*results, shared_key(profile, "warehouse")),
            description=f"Compute what follows from the cells of the study {study.name}: tables, checks, figures, write-up.",
        ),
    )


def personas_job(catalog: Catalog) -> UnresolvedAssetJobDefinition:
    """Define the job that makes adapters and everything else that studies of a profile share, by persona."""
    profile = catalog.profile.name
    names = [
        *("training_answers", "training_dataset", "layer_centroids", "base_cells"),
        *(seeded(name, seed, catalog) for seed in catalog.seeds for name in ("adapter", "merged_model")),
    ]
    return define_asset_job(
        f"personas_of_{group_name(profile)}",
        AssetSelection.assets(*(shared_key(profile, name) for name in names)),
        description=f"Make what the studies of the profile {profile} share, by persona: datasets, adapters, centroids.",
    )


def range_requests(
    order: Sequence[str],
    wanted: Mapping[AssetKey, Collection[str]],
    job_name: str,
    run_key: Callable[[str, str], str],
    tags: Mapping[str, str],
    config: Mapping[AssetKey, Mapping[str, object]] | None = None,
) -> list[RunRequest]:
    """Request as few runs as contiguous ranges allow; assets that need the same range share a run.

    Args:
        order: personas in panel order.
        wanted: personas to work on, by asset.
        job_name: job that holds the assets.
        run_key: gives a run's key from the first and last persona.
        tags: of every run.
        config: of those assets that are not run as they are by default.
    """
    shared: dict[tuple[str, str], list[AssetKey]] = {}
    for key, personas in wanted.items():
        for ends in contiguous_ranges(order, personas):
            shared.setdefault(ends, []).append(key)
    return [
        RunRequest(
            run_key=run_key(first, last),
            job_name=job_name,
            asset_selection=keys,
            run_config={
                "ops": {key.to_python_identifier(): {"config": dict(config[key])} for key in keys if config and key in config}
            },
            tags={**tags, ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last},
        )
        for (first, last), keys in shared.items()
    ]


def unfinished_run(instance: DagsterInstance) -> str | None:
    """Return the id of a run that has not finished, None when there is none."""
    open_statuses = [status for status in DagsterRunStatus if status not in FINISHED_STATUSES]
    runs = instance.get_runs(RunsFilter(statuses=open_statuses), limit=1)
    return runs[0].run_id if runs else None


def absent(products: Products, wanted: Iterable[tuple[str, Product]]) -> set[str]:
    """Personas whose product is not in the lake."""
    return {persona for persona, product in wanted if products.store.manifest(product.path) is None}
