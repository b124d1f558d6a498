"""Request what is missing when personas were added to the panel of a study."""

# No postponed annotations here: Dagster reads the types off the functions when they are defined.

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from dagster import (
    AssetKey,
    DagsterRun,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from persona_assets.assets.partitions import seeded, shared_key
from persona_assets.assets.products import Products
from persona_assets.hashing import sha256_json
from persona_assets.store import Manifest, Product
from persona_assets.study import Study
from resources.lake import Lake
from sensors.requests import StudyJobs, absent, range_requests, unfinished_run

TAG = "persona-assets/panel_growth"


@dataclass(frozen=True)
class Step:
    """Part of the way from a persona to its cells: what lacks which personas, and which job makes it."""

    name: str
    job: str
    missing: dict[AssetKey, set[str]]


def growth_sensor(jobs: StudyJobs, shared: UnresolvedAssetJobDefinition) -> SensorDefinition:
    """Build the sensor that brings a study up to its panel."""
    study, catalog = jobs.study, jobs.catalog

    @sensor(
        name=f"complete_{jobs.name}_when_its_panel_grows",
        jobs=[shared, jobs.measuring, jobs.results],
        minimum_interval_seconds=60,
        default_status=DefaultSensorStatus.STOPPED,
        description=(
            f"When personas were added to the panel of the study {study.name} (panel_size in its file), requests what is "
            "missing: datasets, adapters, centroids, then the cells of the new sources and the new cells of the old ones, then "
            "the results. Each persona is requested once. A study of which nothing was measured is not begun. "
            "Off until you switch it on."
        ),
    )
    def complete_study(context: SensorEvaluationContext, lake: Lake) -> SensorResult | SkipReason:
        products = Products(catalog, lake)
        if not products.measured_cells(study):
            return SkipReason(f"Nothing of {study.name} was measured yet: run the study once, the sensor continues it.")
        if run := unfinished_run(context.instance):
            return SkipReason(f"Run {run} has not finished; what it makes is not requested again.")
        requests = list(_requests(context, jobs, shared.name, products))
        if not requests:
            return SkipReason(f"Nothing of {study.name} is missing that was not requested before.")
        return SensorResult(run_requests=requests)

    return complete_study


def _requests(context: SensorEvaluationContext, jobs: StudyJobs, shared: str, products: Products) -> Iterator[RunRequest]:
    """Requests of the first step that lacks something new.

    Personas that were requested before and are missing all the same failed: their run says why, the others go on.
    """
    study = jobs.study
    panel = sha256_json(list(study.panel.ids))[:12]
    failed: set[str] = set()
    for step in _steps(jobs, shared, products):
        tag = f"{jobs.name}:{step.name}:{panel}"
        before = _requested(context, tag, study.panel.ids)
        wanted = {key: personas - failed - before for key, personas in step.missing.items()}
        if any(wanted.values()):
            yield from range_requests(
                study.panel.ids,
                wanted,
                step.job,
                lambda first, last, tag=tag: f"{tag}:{first}-{last}",  # type: ignore[misc]
                {TAG: tag},
            )
            return
        failed = failed.union(*step.missing.values())
    tag = f"{jobs.name}:results:{panel}"
    if not failed and products.state(products.overview(study)) != "current" and not _runs(context, tag):
        yield jobs.results_request(products, tag, {TAG: tag})


def _runs(context: SensorEvaluationContext, tag: str) -> list[DagsterRun]:
    return [record.dagster_run for record in context.instance.get_run_records(RunsFilter(tags={TAG: tag}))]


def _requested(context: SensorEvaluationContext, tag: str, order: Sequence[str]) -> set[str]:
    """Personas in the ranges of runs that were requested before."""
    found: set[str] = set()
    for run in _runs(context, tag):
        first, last = (order.index(run.tags[end]) for end in (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG))
        found |= set(order[first : last + 1])
    return found


def _steps(jobs: StudyJobs, shared: str, products: Products) -> Iterator[Step]:
    study, catalog, ids = jobs.study, jobs.catalog, jobs.study.panel.ids
    profile = catalog.profile.name

    def of(name: str, missing: set[str]) -> tuple[AssetKey, set[str]]:
        return shared_key(profile, name), missing

    def lacking(make: Callable[[str], Product], personas: Iterable[str] = ids) -> set[str]:
        return absent(products, ((persona, make(persona)) for persona in personas))

    answering, trained = products.training_personas(study)
    yield Step("answers", shared, dict([of("training_answers", lacking(products.training_answers, answering))]))
    models = {"adapter": products.adapter} | ({} if products.swapped else {"merged_model": products.merged_model})
    incomplete = lacking(products.training_dataset, trained).union(
        *(lacking(make) for make in (products.layer_centroids, products.base_cells)),
        *(lacking(partial(make, seed=seed)) for seed in study.seeds for make in models.values()),
    )
    names = ["layer_centroids", "base_cells", *(seeded(name, seed, catalog) for seed in study.seeds for name in models)]
    yield Step("adapters", shared, dict(of(name, incomplete & set(trained)) for name in ("training_dataset", *names)))
    yield Step("pulled adapters", shared, dict(of(name, incomplete - set(trained)) for name in names))
    rows = zip(jobs.cells, jobs.scores, strict=True)
    unmeasured = [_unmeasured(study, seed, products) for seed in study.seeds]
    yield Step(
        "cells",
        jobs.measuring.name,
        {key: lacks for keys, lacks in zip(rows, unmeasured, strict=True) for key in keys},
    )


def _unmeasured(study: Study, seed: int, products: Products) -> set[str]:
    """Sources without a measurement under every eval persona of the panel."""
    found = set()
    for source in study.panel.ids:
        manifest = products.store.manifest(products.latest_eval_cells(study, source, seed).path)
        if manifest is None or not _covers(manifest, study):
            found.add(source)
    return found


def _covers(manifest: Manifest, study: Study) -> bool:
    personas = manifest.parameters["eval_personas"]
    return isinstance(personas, dict) and set(study.panel.ids) <= set(personas)
