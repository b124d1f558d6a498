"""Put the schedules, sensors and jobs of one profile together."""

from __future__ import annotations

from dagster import Definitions

from persona_assets.catalog import Catalog
from sensors.drift_alarm import drift_sensor
from sensors.panel_growth import growth_sensor
from sensors.re_evaluation import finishing_sensor, inherited, re_evaluation_schedule
from sensors.registry_versions import moving, versions_sensor
from sensors.requests import personas_job, study_jobs


def profile_automation(catalog: Catalog) -> Definitions:
    """Build what runs a profile's studies by itself; all of it is off until a person switches it on.

    The exception is the sensor that finishes a re-evaluation, which does nothing unless a schedule that is on began one.
    """
    studies = [study_jobs(study, catalog) for study in catalog.studies.values() if study.imported is None]
    inheriting = [jobs for jobs in studies if inherited(jobs)]
    shared = personas_job(catalog)
    return Definitions(
        jobs=[shared, *(job for jobs in studies for job in (jobs.measuring, jobs.results))],
        schedules=[re_evaluation_schedule(jobs) for jobs in inheriting],
        sensors=[
            *([finishing_sensor(catalog, inheriting)] if inheriting else []),
            *(growth_sensor(jobs, shared) for jobs in studies),
            *(versions_sensor(jobs, shared) for jobs in studies if moving(jobs.study)),
            drift_sensor(catalog, studies),
        ],
    )
