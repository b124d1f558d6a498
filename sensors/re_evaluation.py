"""Measure the inherited adapters of a study again on a schedule, and compute what follows from the new measurements."""

# No postponed annotations here: Dagster reads the types off the functions when they are defined.

from dagster import (
    DagsterRun,
    DagsterRunStatus,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    schedule,
    sensor,
)
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from persona_assets.assets.partitions import group_name
from persona_assets.assets.products import Products
from persona_assets.catalog import Catalog
from persona_assets.recurrence import period
from resources.lake import Lake
from sensors.requests import StudyJobs, range_requests

TAG = "persona-assets/re_evaluation"
RUNS_TAG = "persona-assets/re_evaluation_runs"
_RECENT_RUNS = 100


def inherited(jobs: StudyJobs) -> list[str]:
    """Personas of a study whose adapters existed before it, in panel order."""
    return [persona for persona in jobs.study.panel.ids if jobs.study.cohort(persona) == "inherited"]


def re_evaluation_schedule(jobs: StudyJobs) -> ScheduleDefinition:
    """Build the schedule that measures a study's inherited adapters again."""
    study = jobs.study
    cohort = inherited(jobs)

    @schedule(
        name=f"measure_inherited_adapters_of_{jobs.name}_again",
        cron_schedule=study.re_evaluation_cron,
        job=jobs.measuring,
        default_status=DefaultScheduleStatus.STOPPED,
        description=(
            f"Measures the {len(cohort)} adapters that the study {study.name} inherited once more, at {study.re_evaluation_cron} "
            "(UTC; re_evaluation_cron in the study file). Each gets a further measurement beside the earlier ones; then tables, "
            "checks, figures and write-up follow by themselves and say whether the rates moved. Off until you switch it on."
        ),
    )
    def re_evaluation(context: ScheduleEvaluationContext) -> list[RunRequest] | SkipReason:
        measured = {key: context.instance.get_materialized_partitions(key) & set(cohort) for key in jobs.cells}
        if not any(measured.values()):
            return SkipReason(f"No inherited adapter of {study.name} was measured yet: run the study once.")
        tick = context.scheduled_execution_time
        week = period(study.re_evaluation_cron, tick)
        requests = range_requests(
            study.panel.ids,
            measured | {scores: measured[cells] for cells, scores in zip(jobs.cells, jobs.scores, strict=True)},
            jobs.measuring.name,
            lambda first, last: f"{week}:{first}-{last}",
            {TAG: f"{jobs.name}:{week}"},
            {key: {"new_measurement": True, "unless_measured_since": tick.isoformat()} for key in jobs.cells},
        )
        count = str(len(requests))
        return [request.with_replaced_attrs(tags={**request.tags, RUNS_TAG: count}) for request in requests]

    return re_evaluation


def finishing_sensor(catalog: Catalog, studies: list[StudyJobs]) -> SensorDefinition:
    """Build the sensor that computes the results of a study once all runs of a re-evaluation have finished."""
    profile = catalog.profile.name

    @sensor(
        name=f"results_after_re_evaluation_of_{group_name(profile)}",
        jobs=[jobs.results for jobs in studies],
        minimum_interval_seconds=15,
        default_status=DefaultSensorStatus.RUNNING,
        description=(
            "When every run of a scheduled re-evaluation has finished, computes tables, drift checks, figures and write-up of "
            "the study from the new measurements. It acts on runs of the re-evaluation schedules alone: while those are off it "
            "does nothing."
        ),
    )
    def results_after_re_evaluation(context: SensorEvaluationContext, lake: Lake) -> SensorResult | SkipReason:
        products = Products(catalog, lake)
        done = set((context.cursor or "").split())
        requests: list[RunRequest] = []
        for jobs in studies:
            finished = _finished(context, jobs)
            if finished is not None and finished not in done:
                requests.append(jobs.results_request(products, finished, {TAG: finished.partition("@")[0]}))
                done = {each for each in done if not each.startswith(f"{jobs.name}:")} | {finished}
        if not requests:
            return SkipReason("No re-evaluation has finished since the last time.")
        return SensorResult(run_requests=requests, cursor=" ".join(sorted(done)))

    return results_after_re_evaluation


def _finished(context: SensorEvaluationContext, jobs: StudyJobs) -> str | None:
    """Name the latest re-evaluation of a study and its last finished run; None while one of its runs has not finished."""
    records = context.instance.get_run_records(RunsFilter(job_name=jobs.measuring.name), limit=_RECENT_RUNS)
    tagged = [record for record in records if TAG in record.dagster_run.tags]
    if not tagged:
        return None
    label = tagged[0].dagster_run.tags[TAG]
    own = [record for record in tagged if record.dagster_run.tags[TAG] == label]
    requested = {_range(record.dagster_run) for record in own}
    statuses: set[DagsterRunStatus] = {record.dagster_run.status for record in own}
    if len(requested) < int(own[0].dagster_run.tags[RUNS_TAG]) or not statuses <= set(FINISHED_STATUSES):
        return None
    last = max(own, key=lambda record: record.end_time or 0.0)
    return f"{label}@{last.dagster_run.run_id}"


def _range(run: DagsterRun) -> tuple[str | None, str | None]:
    return (run.tags.get("dagster/asset_partition_range_start"), run.tags.get("dagster/asset_partition_range_end"))
