"""Tell at once when a drift check failed: an event in the UI, and a message by webhook or mail."""

# No postponed annotations here: Dagster reads the types off the functions when they are defined.

import json
from collections.abc import Mapping, Sequence

from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetObservation,
    DefaultSensorStatus,
    MetadataValue,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from persona_assets.alerts import Alert
from persona_assets.assets.checks import DRIFT_CHECKS
from persona_assets.assets.partitions import group_name
from persona_assets.catalog import Catalog
from persona_assets.hashing import sha256_json
from resources.notifier import Notifier
from sensors.requests import StudyJobs


def drift_sensor(catalog: Catalog, studies: Sequence[StudyJobs]) -> SensorDefinition:
    """Build the sensor that reports failed drift checks of a profile's studies."""
    profile = catalog.profile.name
    checks = {AssetCheckKey(jobs.key(drift.asset), drift.name): jobs.study.name for jobs in studies for drift in DRIFT_CHECKS}

    @sensor(
        name=f"report_drift_of_{group_name(profile)}",
        minimum_interval_seconds=30,
        default_status=DefaultSensorStatus.STOPPED,
        description=(
            "When a drift check fails, records an event on the asset that was checked, with the verdict and what became of the "
            "message, and sends the message to PERSONA_ALERT_WEBHOOK and PERSONA_ALERT_MAIL_TO where they are set. The same "
            "result is reported once. Off until you switch it on; then it also reports what has failed already."
        ),
    )
    def report_drift(context: SensorEvaluationContext, notifier: Notifier) -> SensorResult | SkipReason:
        told: dict[str, list[object]] = json.loads(context.cursor or "{}")
        found: dict[AssetCheckKey, Alert] = {}
        records = context.instance.event_log_storage.get_latest_asset_check_execution_by_key(list(checks))
        for key, record in records.items():
            evaluation = None if record.event is None else _evaluation(record.event.dagster_event)
            if evaluation is None:  # it has not finished
                continue
            name = f"{key.asset_key.to_user_string()}:{key.name}"
            seen, digest = told.get(name, [0, ""])
            if record.id == seen:
                continue
            now = "" if evaluation.passed else sha256_json([evaluation.description, _plain(evaluation)])
            told[name] = [record.id, now]
            if now and now != digest:
                found[key] = _alert(profile, checks[key], key, evaluation, record.run_id)
        cursor = json.dumps(told, sort_keys=True)
        if not found:
            context.update_cursor(cursor)
            return SkipReason("No drift check has failed since the last time.")
        outcome = notifier.send(list(found.values()))
        for way, what in outcome.items():
            context.log.info(f"{way}: {what}")
        return SensorResult(
            asset_events=[_event(key, alert, outcome) for key, alert in found.items()],
            cursor=cursor,
            skip_reason=f"Reported: {' '.join(alert.headline for alert in found.values())}",
        )

    return report_drift


def _evaluation(event: object) -> AssetCheckEvaluation | None:
    data = getattr(event, "event_specific_data", None)
    return data if isinstance(data, AssetCheckEvaluation) else None


def _plain(evaluation: AssetCheckEvaluation) -> dict[str, object]:
    return {name: value.value for name, value in evaluation.metadata.items()}


def _alert(profile: str, study: str, key: AssetCheckKey, evaluation: AssetCheckEvaluation, run_id: str) -> Alert:
    values = _plain(evaluation)
    return Alert(
        profile=profile,
        study=study,
        check=key.name,
        asset=key.asset_key.to_user_string(),
        verdict=str(values.get("verdict", "failed")),
        sentence=evaluation.description or "",
        numbers={name: float(value) for name, value in values.items() if isinstance(value, int | float)},
        run_id=run_id,
    )


def _event(key: AssetCheckKey, alert: Alert, outcome: Mapping[str, str]) -> AssetObservation:
    return AssetObservation(
        asset_key=key.asset_key,
        description=alert.headline,
        metadata={
            "check": MetadataValue.text(alert.check),
            "verdict": MetadataValue.text(alert.verdict),
            "what_the_check_says": MetadataValue.text(alert.sentence),
            **{name: MetadataValue.float(value) for name, value in alert.numbers.items()},
            **{f"message_by_{way}": MetadataValue.text(what) for way, what in outcome.items()},
            **({} if outcome else {"message": MetadataValue.text("none: no webhook and no mail address is set")}),
        },
    )
