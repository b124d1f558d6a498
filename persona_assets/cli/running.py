"""Run a study to its last asset: stages of Dagster runs in this process, skipping what is current."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from persona_assets.assets.partitions import seeded, shared_key, study_key
from persona_assets.assets.products import SHOWN_PRODUCTS, TABLE_PRODUCTS, analysed, table_names
from persona_assets.assets.steps import GPU_POOL
from persona_assets.cli.pools import PROCESS_TAG, end_killed_runs, this_process, wait_for_pool
from persona_assets.errors import PersonaAssetsError
from persona_assets.panel import contiguous_ranges
from persona_assets.processes import preload_model_libraries
from persona_assets.store import Product

if TYPE_CHECKING:
    from dagster import AssetKey, DagsterInstance, ExecuteInProcessResult
    from dagster_shared.error import SerializableErrorInfo

    from persona_assets.assets.products import Products
    from persona_assets.cli.deployment import Deployment
    from persona_assets.study import Study


class StudyRunError(PersonaAssetsError):
    """A stage of a study failed; what was done before it stays."""


@dataclass(frozen=True)
class PlannedAsset:
    """An asset that a study needs, with the product of each of its keys; the key of an unpartitioned one is None."""

    key: AssetKey
    products: dict[str | None, Callable[[], Product]]

    @property
    def partitioned(self) -> bool:
        """Whether it has a partition for each persona."""
        return None not in self.products


@dataclass(frozen=True)
class Stage:
    """Assets that run in one Dagster run."""

    name: str
    assets: tuple[PlannedAsset, ...]

    @property
    def personas(self) -> tuple[str, ...]:
        """Partition keys of the stage, in panel order; empty for an unpartitioned one."""
        return tuple(key for key in self.assets[0].products if key is not None)


def plan_study(deployment: Deployment, study: Study) -> list[Stage]:
    """List what a study needs, in the order in which it runs."""
    catalog, products = deployment.catalog, deployment.products
    profile, ids = catalog.profile.name, study.panel.ids

    def shared(name: str, make: Callable[[str], Product], keys: Sequence[str] = ids) -> PlannedAsset:
        return PlannedAsset(shared_key(profile, name), {persona: lambda persona=persona: make(persona) for persona in keys})  # type: ignore[misc]

    def seeds(name: str, make: Callable[[str, int], Product]) -> list[PlannedAsset]:
        return [shared(seeded(name, seed, catalog), lambda persona, seed=seed: make(persona, seed)) for seed in study.seeds]  # type: ignore[misc]

    shown = SHOWN_PRODUCTS if analysed(study) else {}
    tables = [
        PlannedAsset(study_key(profile, study.name, name), {None: lambda make=make: make(products, study)})  # type: ignore[misc]
        for name, make in (*((name, TABLE_PRODUCTS[name]) for name in table_names(study)), *shown.items())
    ]
    if study.imported is not None:
        return [Stage("analysis", tuple(tables))]
    cells = [
        PlannedAsset(
            study_key(profile, study.name, seeded(name, seed, catalog)),
            {source: lambda make=make, source=source, seed=seed: make(study, source, seed) for source in ids},  # type: ignore[misc]
        )
        for seed in study.seeds
        for name, make in (("eval_cells", products.latest_eval_cells), ("marker_scores", products.latest_marker_scores))
    ]
    answering, trained = products.training_personas(study)
    of_personas = [
        shared("training_answers", products.training_answers, answering),
        shared("training_dataset", products.training_dataset, trained),
        *seeds("adapter", products.adapter),
        *([] if products.swapped else seeds("merged_model", products.merged_model)),
        shared("layer_centroids", products.layer_centroids),
        shared("base_cells", products.base_cells),
    ]
    return [
        Stage("base model", (PlannedAsset(shared_key(profile, "base_model"), {None: products.base_model}),)),
        *persona_stages(of_personas, ids),
        Stage("eval cells", tuple(cells)),
        Stage("analysis", tuple(tables)),
        *_publication(products, study),
    ]


def _publication(products: Products, study: Study) -> list[Stage]:
    """List what publishes a study: nothing, unless it is said where to."""
    from resources.publishing import publish_to

    destination = publish_to()
    if not destination:
        return []
    key = study_key(products.profile, study.name, "publication")
    return [Stage("publication", (PlannedAsset(key, {None: lambda: products.publication(study, destination)}),))]


def persona_stages(assets: Sequence[PlannedAsset], order: Sequence[str]) -> list[Stage]:
    """Put assets with the same keys into one stage, and keys that are no range of the panel into one stage for each range."""
    stages = []
    for keys, group in groupby((planned for planned in assets if planned.products), key=lambda planned: tuple(planned.products)):
        together = list(group)
        name = "personas" if len(keys) == len(order) else "training data"
        for first, last in contiguous_ranges(order, {key for key in keys if key is not None}):
            part = order[order.index(first) : order.index(last) + 1]
            cut = [PlannedAsset(each.key, {key: each.products[key] for key in part}) for each in together]
            stages.append(Stage(name, tuple(cut)))
    return stages


def stage_is_current(deployment: Deployment, instance: DagsterInstance, stage: Stage) -> bool:
    """Say whether every product of a stage is current and intact, and the instance knows of it."""
    store = deployment.products.store
    for planned in stage.assets:
        if any(store.current(make()) is None for make in planned.products.values()):
            return False
        if planned.partitioned:
            if not set(planned.products) <= instance.get_materialized_partitions(planned.key):
                return False
        elif instance.get_latest_materialization_event(planned.key) is None:
            return False
    return True


def warehouse_is_current(deployment: Deployment) -> bool:
    """Say whether the published warehouse can be read and holds the tables as they are now."""
    from persona_assets.assets.published import published_paths
    from resources.lake import Lake
    from resources.warehouse import Warehouse

    products = deployment.products
    return Warehouse(lake=Lake()).is_current(products.profile, published_paths(products))


def run_stage(
    deployment: Deployment,
    instance: DagsterInstance,
    stage: Stage,
    extra: Sequence[AssetKey] = (),
    *,
    say: Callable[[str], object] = print,
) -> None:
    """Run a stage as one Dagster run on the instance; one that needs the GPU waits while another run holds it.

    Args:
        deployment: whose definitions.
        instance: where the run is recorded.
        stage: what to run.
        extra: further assets to run with it.
        say: told what it waits for.

    Raises:
        StudyRunError: a step failed; the message is the step's own.
    """
    job = deployment.definitions.resolve_implicit_global_asset_job_def()
    subset = job.get_subset(asset_selection={*(planned.key for planned in stage.assets), *extra})
    end_killed_runs(instance)
    if any(GPU_POOL in node.pools for node in subset.all_node_defs):
        runtime = deployment.catalog.profile.runtime
        if runtime.workers:
            preload_model_libraries(runtime.threads)  # while the run is prepared
        wait_for_pool(instance, GPU_POOL, say)
    tags = {PROCESS_TAG: this_process()}
    if stage.personas:
        first, last = stage.personas[0], stage.personas[-1]
        tags |= {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    result = subset.execute_in_process(
        instance=instance,
        tags=tags,
        raise_on_error=False,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    if not result.success:
        raise StudyRunError(_failures(stage, result))


def _cause(error: SerializableErrorInfo | None) -> str | None:
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return None
    return "Interrupted." if error.cls_name == "DagsterExecutionInterruptedError" else error.message.strip()


def _failures(stage: Stage, result: ExecuteInProcessResult) -> str:
    lines = [f"The stage {stage.name} failed (run {result.run_id}); what was done before stays."]
    for event in result.all_node_events:
        if event.is_step_failure:
            failure = event.step_failure_data
            described = failure.user_failure_data and failure.user_failure_data.description
            lines.append(described or _cause(failure.error) or event.message or str(event.step_key))
    failed_checks = [
        f"{evaluation.asset_key.to_user_string()}: {evaluation.check_name}: {evaluation.description}"
        for evaluation in result.get_asset_check_evaluations()
        if not evaluation.passed and evaluation.blocking
    ]
    return "\n".join([*lines, *(f"Blocking check failed: {text}" for text in failed_checks)])
