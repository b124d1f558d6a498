"""The schedule of re-evaluations, and the sensor that computes the results when one has finished."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    AssetMaterialization,
    DagsterRunStatus,
    RunRequest,
    ScheduleDefinition,
    SensorDefinition,
    SensorResult,
    SkipReason,
    build_schedule_context,
    build_sensor_context,
    validate_run_config,
)
from deployments import LARGE, PROFILE, SMALL, Opened, new_site

from persona_assets.assets.cells import EvalCellsConfig
from persona_assets.errors import ConfigurationError
from persona_assets.store import Manifest
from resources.lake import Lake
from sensors.re_evaluation import RUNS_TAG, TAG

pytestmark = pytest.mark.slow

SCHEDULE = "measure_inherited_adapters_of_embedded_large_again"
CELLS = AssetKey([PROFILE, "large", "eval_cells"])
TICK = datetime(2026, 11, 23, 6, tzinfo=UTC)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    with new_site(tmp_path / "site").opened() as opened:
        yield opened


def measure(opened: Opened, *personas: str) -> None:
    for persona in personas:
        opened.instance.report_runless_asset_event(AssetMaterialization(CELLS, partition=persona))


def schedule(opened: Opened) -> ScheduleDefinition:
    return opened.deployment.definitions.get_repository_def().get_schedule_def(SCHEDULE)


def ask(opened: Opened, tick: datetime = TICK) -> list[RunRequest]:
    context = build_schedule_context(opened.instance, tick, repository_def=opened.deployment.definitions.get_repository_def())
    return list(schedule(opened).evaluate_tick(context).run_requests or ())


def ends(request: RunRequest) -> tuple[str, str]:
    return request.tags["dagster/asset_partition_range_start"], request.tags["dagster/asset_partition_range_end"]


def test_one_run_measures_the_whole_cohort_again(opened: Opened) -> None:
    measure(opened, *LARGE)
    (request,) = ask(opened)
    assert ends(request) == (SMALL[0], SMALL[-1])  # the personas that the parent does not have are not inherited
    assert request.run_key == f"2026-W48:{SMALL[0]}-{SMALL[-1]}"
    assert request.tags[RUNS_TAG] == "1"
    assert [key.path[-1] for key in request.asset_selection or ()] == ["eval_cells", "marker_scores"]
    job = opened.deployment.definitions.resolve_job_def("measure_embedded_large")
    config = validate_run_config(job, request.run_config)
    assert config["ops"]["embedded__large__eval_cells"]["config"] == {
        "new_measurement": True,
        "unless_measured_since": "2026-11-23T06:00:00+00:00",
    }


def test_as_few_runs_as_the_ranges_allow(opened: Opened) -> None:
    measure(opened, SMALL[0], SMALL[1], SMALL[3])
    requests = ask(opened)
    assert [ends(request) for request in requests] == [(SMALL[0], SMALL[1]), (SMALL[3], SMALL[3])]
    assert {request.tags[RUNS_TAG] for request in requests} == {"2"}
    assert len({request.run_key for request in requests}) == 2


def test_every_week_has_keys_of_its_own(opened: Opened) -> None:
    measure(opened, *SMALL)
    keys = {request.run_key for day in (23, 23, 30) for request in ask(opened, TICK.replace(day=day))}
    assert len(keys) == 2


def test_nothing_measured_nothing_requested(opened: Opened) -> None:
    measure(opened, *LARGE[len(SMALL) :])
    context = build_schedule_context(opened.instance, TICK, repository_def=opened.deployment.definitions.get_repository_def())
    data = schedule(opened).evaluate_tick(context)
    assert not data.run_requests
    assert data.skip_message == "No inherited adapter of large was measured yet: run the study once."


def test_everything_is_off_until_switched_on_and_says_what_it_does(opened: Opened) -> None:
    repository = opened.deployment.definitions.get_repository_def()
    schedules = {each.name: each for each in repository.schedule_defs}
    assert set(schedules) == {SCHEDULE}  # `small` inherits nothing
    assert schedules[SCHEDULE].default_status.value == "STOPPED"
    assert schedules[SCHEDULE].cron_schedule == "0 6 * * 1"
    assert "5 adapters" in str(schedules[SCHEDULE].description)
    running = [sensor.name for sensor in repository.sensor_defs if sensor.default_status.value == "RUNNING"]
    assert running == ["results_after_re_evaluation_of_embedded"]
    for sensor in repository.sensor_defs:
        assert sensor.description and len(sensor.description) > 100
        assert sensor.minimum_interval_seconds and sensor.minimum_interval_seconds >= 15


def manifest(made_at: str) -> Manifest:
    return Manifest("path", "eval_cells", "1", "-", {}, {}, {}, "-", {}, "run", made_at)


def test_a_repeated_run_measures_what_the_first_one_did_not() -> None:
    config = EvalCellsConfig(new_measurement=True, unless_measured_since="2026-11-23T06:00:00+00:00")
    assert config.wants_again(manifest("2026-11-22T06:00:00+00:00"))
    assert not config.wants_again(manifest("2026-11-23T06:05:00+00:00"))
    assert not config.wants_again(manifest("2026-11-23T08:00:00+02:00"))
    assert config.wants_again(None)
    assert EvalCellsConfig(new_measurement=True).wants_again(manifest("2026-11-23T06:05:00+00:00"))
    assert not EvalCellsConfig().wants_again(None)


@pytest.mark.parametrize("time", ["2026-11-23T06:00", "on Monday"])
def test_what_is_no_time_with_an_offset_is_refused(time: str) -> None:
    config = EvalCellsConfig(new_measurement=True, unless_measured_since=time)
    with pytest.raises(ConfigurationError, match=f"unless_measured_since: '{time}' is no time with an offset. Write it"):
        config.wants_again(manifest("2026-11-23T06:05:00+00:00"))


def finishing(opened: Opened, cursor: str | None = None) -> SensorResult | SkipReason:
    repository = opened.deployment.definitions.get_repository_def()
    sensor: SensorDefinition = repository.get_sensor_def("results_after_re_evaluation_of_embedded")
    lake = Lake(root=str(opened.deployment.products.store.root))
    context = build_sensor_context(opened.instance, cursor=cursor, repository_def=repository, resources={"lake": lake})
    found = sensor(context)
    assert isinstance(found, SensorResult | SkipReason)
    return found


def run(opened: Opened, first: str, status: DagsterRunStatus, of: int = 2, week: str = "2026-W48") -> str:
    tags = {TAG: f"embedded_large:{week}", RUNS_TAG: str(of), "dagster/asset_partition_range_start": first}
    tags["dagster/asset_partition_range_end"] = first
    job = opened.deployment.definitions.resolve_job_def("measure_embedded_large")
    return opened.instance.create_run_for_job(job, tags=tags, status=status).run_id


def test_results_follow_when_all_runs_have_finished(opened: Opened) -> None:
    assert isinstance(finishing(opened), SkipReason)
    run(opened, SMALL[0], DagsterRunStatus.SUCCESS)
    assert isinstance(finishing(opened), SkipReason)  # the other run was not even created
    second = run(opened, SMALL[3], DagsterRunStatus.STARTED)
    assert isinstance(finishing(opened), SkipReason)
    opened.instance.delete_run(second)
    run(opened, SMALL[3], DagsterRunStatus.FAILURE)  # some of its sources are measured all the same
    found = finishing(opened)
    assert isinstance(found, SensorResult)
    (request,) = found.run_requests or ()
    assert request.job_name == "results_of_embedded_large"
    # Of the other sources nothing is in this lake, so that drift between measurements is all that can be computed.
    assert list(request.asset_selection or ()) == [AssetKey([PROFILE, "large", "remeasurement_drift"])]
    assert isinstance(finishing(opened, found.cursor), SkipReason)
    run(opened, SMALL[3], DagsterRunStatus.SUCCESS)  # executed again by hand: computed again
    again = finishing(opened, found.cursor)
    assert isinstance(again, SensorResult)
    assert (again.run_requests or ())[0].run_key != request.run_key


def test_other_runs_of_the_job_are_left_alone(opened: Opened) -> None:
    job = opened.deployment.definitions.resolve_job_def("measure_embedded_large")
    opened.instance.create_run_for_job(job, status=DagsterRunStatus.SUCCESS)
    assert isinstance(finishing(opened), SkipReason)
