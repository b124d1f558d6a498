"""Where a study stands: done, missing, failed or stale, for each asset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dagster import AssetKey
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from persona_assets.assets.partitions import persona_partitions, shared_key
from persona_assets.cli.running import PlannedAsset, plan_study

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from persona_assets.cli.deployment import Deployment
    from persona_assets.study import Study


@dataclass
class AssetStatus:
    """How many keys of an asset are in which state; an unpartitioned asset has one key."""

    study: str
    asset: str
    total: int
    done: int = 0
    missing: int = 0
    failed: int = 0
    stale: int = 0


def study_status(deployment: Deployment, instance: DagsterInstance, study: Study) -> list[AssetStatus]:
    """Count the keys of every asset that a study needs.

    A key is done when its product is in the lake and made from what its inputs are now. Otherwise it is failed when the last
    run that wanted it failed; stale when its product is there, and an input or setting changed since; missing when it is not.
    """
    rows: dict[str, AssetStatus] = {}  # an asset whose keys are no range of the panel stands in several stages
    for stage in plan_study(deployment, study):
        for planned in stage.assets:
            asset = planned.key.to_user_string()
            row = rows.setdefault(asset, AssetStatus(study.name, asset, 0))
            row.total += len(planned.products)
            failed = _failed_keys(deployment, instance, planned)
            for key, make in planned.products.items():
                state = deployment.products.state(make())
                if state == "current":
                    row.done += 1
                elif key in failed:
                    row.failed += 1
                elif state == "stale":
                    row.stale += 1
                else:
                    row.missing += 1
    return list(rows.values())


def _failed_keys(deployment: Deployment, instance: DagsterInstance, planned: PlannedAsset) -> set[str | None]:
    if not planned.partitioned:
        return {None} if _last_run_failed(instance, planned.key) else set()
    shared = planned.key.path[:-1] == shared_key(deployment.catalog.profile.name, "any").path[:-1]
    panel = deployment.catalog.panel if shared else deployment.catalog.study(planned.key.path[1]).panel
    statuses = instance.get_status_by_partition(planned.key, list(panel.ids), persona_partitions(panel)) or {}
    return {key for key, state in statuses.items() if state == AssetPartitionStatus.FAILED}


def _last_run_failed(instance: DagsterInstance, key: AssetKey) -> bool:
    planned = instance.event_log_storage.get_latest_planned_materialization_info(key)
    if planned is None:
        return False
    latest = instance.get_latest_materialization_event(key)
    run = instance.get_run_by_id(planned.run_id)
    finished_in_it = latest is not None and latest.run_id == planned.run_id
    return run is not None and run.is_failure_or_canceled and not finished_in_it
