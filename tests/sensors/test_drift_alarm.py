"""A failed drift check becomes an event of its asset and a message, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetKey,
    AssetObservation,
    SensorResult,
    SkipReason,
    build_sensor_context,
)
from deployments import PROFILE, Opened, new_site

from persona_assets.alerts import Alert
from resources.notifier import Notifier

pytestmark = pytest.mark.slow

CHECKED = AssetKey([PROFILE, "large", "remeasurement_drift"])


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    with new_site(tmp_path / "site").opened() as opened:
        yield opened


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[Alert]]:
    messages: list[list[Alert]] = []

    def send(_: Notifier, alerts: list[Alert]) -> dict[str, str]:
        messages.append(list(alerts))
        return {"webhook": "delivered"}

    monkeypatch.setattr(Notifier, "send", send)
    return messages


def check(opened: Opened, verdict: str, p: float = 0.01, name: str = "no_drift_since_first_measurement") -> None:
    opened.instance.report_runless_asset_event(
        AssetCheckEvaluation(
            asset_key=CHECKED,
            check_name=name,
            passed=verdict in ("no_drift", "not_tested"),
            severity=AssetCheckSeverity.WARN,
            description=f"{verdict}. 5 of 5 sources drop",
            metadata={"verdict": verdict, "estimate": 1.0, "p": p, "n": 5},
        )
    )


def ask(opened: Opened, cursor: str | None = None) -> tuple[list[AssetObservation], str | None]:
    repository = opened.deployment.definitions.get_repository_def()
    context = build_sensor_context(opened.instance, cursor=cursor, repository_def=repository, resources={"notifier": Notifier()})
    found = repository.get_sensor_def("report_drift_of_embedded")(context)
    if isinstance(found, SkipReason):
        return [], context.cursor
    assert isinstance(found, SensorResult)
    events = [event for event in found.asset_events if isinstance(event, AssetObservation)]
    assert len(events) == len(found.asset_events)
    return events, found.cursor


def test_a_failed_check_is_reported_once(opened: Opened, sent: list[list[Alert]]) -> None:
    check(opened, "drift")
    (event,), cursor = ask(opened)
    assert event.asset_key == CHECKED
    said = "the rates of unchanged adapters fell: the measurement has moved."
    assert event.description == f"embedded, study large, no_drift_since_first_measurement: {said}"
    assert event.metadata["verdict"].value == "drift"
    assert event.metadata["message_by_webhook"].value == "delivered"
    assert event.metadata["p"].value == 0.01
    ((alert,),) = sent
    assert (alert.study, alert.verdict, alert.numbers) == ("large", "drift", {"estimate": 1.0, "p": 0.01, "n": 5.0})
    assert ask(opened, cursor) == ([], cursor)
    check(opened, "drift")  # the same result, computed again
    events, cursor = ask(opened, cursor)
    assert events == []
    check(opened, "drift", p=0.02)  # another measurement
    events, _ = ask(opened, cursor)
    assert len(events) == 1
    assert len(sent) == 2


def test_a_comparison_across_conditions_is_reported_as_such(opened: Opened, sent: list[list[Alert]]) -> None:
    check(opened, "confounded")
    (event,), _ = ask(opened)
    assert "not made under the same conditions" in str(event.description)


def test_what_passes_is_not_reported_and_a_later_failure_is(opened: Opened, sent: list[list[Alert]]) -> None:
    check(opened, "no_drift")
    check(opened, "not_tested", name="no_drift_since_last_measurement")
    events, cursor = ask(opened)
    assert (events, sent) == ([], [])
    check(opened, "drift")
    events, cursor = ask(opened, cursor)
    assert len(events) == 1
    check(opened, "no_drift")
    _, cursor = ask(opened, cursor)
    check(opened, "drift")  # again, after it had passed
    events, _ = ask(opened, cursor)
    assert len(events) == 1


def test_several_checks_make_one_message(opened: Opened, sent: list[list[Alert]]) -> None:
    check(opened, "drift")
    check(opened, "drift", name="no_drift_since_last_measurement")
    events, _ = ask(opened)
    assert len(events) == 2
    assert [len(alerts) for alerts in sent] == [2]


def test_without_a_receiver_the_event_says_so(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PERSONA_ALERT_WEBHOOK", "PERSONA_ALERT_MAIL_TO"):
        monkeypatch.delenv(name, raising=False)
    check(opened, "drift")
    (event,), _ = ask(opened)
    assert event.metadata["message"].value == "none: no webhook and no mail address is set"
