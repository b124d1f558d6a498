"""The real daemon, one session of it: a schedule with its results, the alarm, a registry that is followed, a panel that grows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from typing import Any

import polars as pl
import pytest
from daemons import Daemon, daemon, switch_off, switch_on
from dagster import AssetCheckKey, AssetKey
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from deployments import LARGE, PROFILE, SMALL, Site
from servers.receivers import Mailbox, Webhook, mail_server, webhook_server

from persona_assets.assets.adapters import adapter_digest
from persona_assets.panel import contiguous_ranges
from persona_assets.store import Manifest
from sensors.panel_growth import TAG as GROWTH
from sensors.re_evaluation import TAG as RE_EVALUATION

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("daemon")]

SCHEDULE = "measure_inherited_adapters_of_embedded_large_again"
ALARM = "report_drift_of_embedded"
FOLLOWING = "follow_registries_of_embedded_small"
GROWING = "complete_embedded_small_when_its_panel_grows"
DRIFT = AssetKey([PROFILE, "large", "remeasurement_drift"])
GROWN = LARGE[: len(SMALL) + 1]
PULLED, RETRAINED_AS = SMALL[-1], SMALL[1]


@dataclass(frozen=True)
class Session:
    """A daemon that has begun the re-evaluation, and everything around it.

    Attributes:
        running: the daemon.
        webhook: gets the alarm.
        mailbox: gets it as well.
        before: manifests of all measurements before the daemon started.
    """

    running: Daemon
    webhook: Webhook
    mailbox: Mailbox
    before: dict[str, Manifest]

    @property
    def site(self) -> Site:
        return self.running.site


def measurement(study: str, persona: str, number: int) -> str:
    return f"{PROFILE}/{study}/eval_cells/source={persona}/seed=42/measurement={number}"


def weights(site: Site, persona: str) -> str:
    return str(site.lake / PROFILE / "adapter" / "seed=42" / f"persona={persona}" / "adapter")


def measured_long_ago(site: Site, persona: str) -> None:
    """Make the first measurement one of last year's engine: neither is part of a manifest's digest."""
    file = site.store.directory(measurement("large", persona, 1)) / "manifest.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["facts"]["identity"]["engine_version"] = "4.0.0"
    content["made_at"] = "2025-01-01T00:00:00+00:00"
    file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def session(large_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Both studies are measured, one adapter came from a directory, a persona was added to `small`; then a daemon is started."""
    root = tmp_path_factory.mktemp("daemon")
    site = large_site.copy(root / "site")
    shutil.copytree(weights(site, PULLED), root / "registry")
    due = datetime.now(UTC) - timedelta(minutes=1)
    cron = f"{due.minute} {due.hour} * * *"
    site.edit(f"{PROFILE}/small.yaml", lambda study: study.update(inherited_adapters={PULLED: f"file:{root}/registry"}))
    with site.opened() as opened:
        opened.run("small", "personas", "adapter", "merged_model", personas=(PULLED,))  # the same bytes: nothing is stale
    site.edit(f"{PROFILE}/small.yaml", lambda study: study.update(panel_size=len(GROWN)))
    site.edit(f"{PROFILE}/large.yaml", lambda study: study.update(re_evaluation_cron=cron))
    for persona in GROWN:
        measured_long_ago(site, persona)
    before = site.manifests(f"{PROFILE}/small/eval_cells/") | site.manifests(f"{PROFILE}/large/eval_cells/")
    with site.opened() as opened, webhook_server() as webhook, mail_server() as (mailbox, port):
        switch_on(opened.instance, SCHEDULE, cron, due - timedelta(minutes=2))
        told = {
            "PERSONA_ALERT_WEBHOOK": webhook.url,
            "PERSONA_ALERT_MAIL_TO": "ada@example.org",
            "PERSONA_SMTP_HOST": "127.0.0.1",
            "PERSONA_SMTP_PORT": str(port),
            "PERSONA_SMTP_ENCRYPTION": "none",
        }
        with daemon(site, opened, told) as running:
            yield Session(running, webhook, mailbox, before)


def measured_since(session: Session, study: str) -> dict[str, Manifest]:
    """Measurements of a study that were not there when the daemon started; the earlier ones are what they were."""
    now = session.site.manifests(f"{PROFILE}/{study}/eval_cells/")
    before = {path: found for path, found in session.before.items() if f"/{study}/" in path}
    assert {path: now[path] for path in before} == before
    return {path: found for path, found in now.items() if path not in before}


def test_a_schedule_that_is_due_measures_again_and_results_follow(session: Session) -> None:
    run = session.running.finished("measure_embedded_large")
    session.running.finished("results_of_embedded_large")
    # Measurement 2 stands beside measurement 1, of the inherited adapters alone, and one run made them all.
    made = measured_since(session, "large")
    assert set(made) == {measurement("large", persona, 2) for persona in GROWN}
    assert {found.run_id for found in made.values()} == {run.run_id}

    # The verdict: the first measurement was made by another version of the engine.
    tables = session.site.store.open(f"{PROFILE}/large/tables/remeasurement_drift")
    drift = pl.read_parquet(tables / "remeasurement_drift.parquet")
    assert drift.select("compared_with", "persona").rows() == [(c, p) for c in ("first", "last") for p in sorted(GROWN)]
    assert not drift["same_identity"].any() and drift["same_adapter"].all()
    assert set(pl.read_parquet(tables / "remeasurement_tests.parquet").filter("registered")["verdict"]) == {"confounded"}
    report = (session.site.lake / PROFILE / "large" / "clean_result" / "report.md").read_text(encoding="utf-8")
    assert "Measured again, against the first measurement" in report and "the comparison is confounded" in report


def test_a_failed_drift_check_is_an_event_a_webhook_and_a_mail(session: Session) -> None:
    running = session.running
    running.finished("results_of_embedded_large")
    keys = [AssetCheckKey(DRIFT, f"no_drift_since_{each}_measurement") for each in ("first", "last")]
    records = running.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    assert [records[key].status.value for key in keys] == ["FAILED", "FAILED"]

    switch_on(running.instance, ALARM)
    running.wait("the event of the alarm", lambda: len(running.instance.fetch_observations(DRIFT, limit=2).records) == 2)
    observed = running.instance.fetch_observations(DRIFT, limit=10).records
    events = [record.event_log_entry.asset_observation for record in observed]
    said = [{name: value.value for name, value in event.metadata.items()} for event in events if event is not None]
    assert {event["check"] for event in said} == {key.name for key in keys}
    assert {event["verdict"] for event in said} == {"confounded"}
    assert {(event["message_by_webhook"], event["message_by_mail"]) for event in said} == {("delivered", "delivered")}

    (body,) = session.webhook.bodies
    assert {(alert["study"], alert["check"], alert["verdict"]) for alert in body["alerts"]} == {
        ("large", key.name, "confounded") for key in keys
    }
    (envelope,) = session.mailbox.mails
    assert envelope.rcpt_tos == ["ada@example.org"]
    mail = message_from_bytes(envelope.content)
    assert mail["Subject"] == "2 drift checks failed"
    text: Any = mail.get_payload(decode=True)
    assert " ".join(text.decode().split()) == " ".join(body["text"].split())


def test_a_panel_that_grew_is_completed(session: Session) -> None:
    running, products = session.running, session.running.opened.deployment.products
    running.finished("results_of_embedded_large")
    study = running.opened.deployment.catalog.study("small")
    # The newcomer's adapter is there, of the larger study: what is missing are its cells, in every row.
    rows = {persona: products.state(products.latest_eval_cells(study, persona, 42)) for persona in GROWN}
    lacking = [persona for persona, state in rows.items() if state != "current"]
    assert {GROWN[0], GROWN[-1]} <= set(lacking)
    wanted = contiguous_ranges(GROWN, lacking)

    before = len(running.runs("measure_embedded_small"))
    running.requested(GROWING, "measure_embedded_small")
    switch_off(running.instance, GROWING)  # the results would be next
    runs = [running.finished("measure_embedded_small", before + 1 + i) for i in range(len(wanted))]
    ends = [(run.tags[ASSET_PARTITION_RANGE_START_TAG], run.tags[ASSET_PARTITION_RANGE_END_TAG]) for run in runs]
    assert sorted(ends) == sorted(wanted)
    for run in runs:
        assert run.tags[GROWTH].startswith("embedded_small:cells:")
        assert {key.path[-1] for key in run.asset_selection or ()} == {"eval_cells", "marker_scores"}
    ids = {run.run_id for run in runs}
    made = {path: found for path, found in measured_since(session, "small").items() if found.run_id in ids}
    assert [path.split("/")[3] for path in made] == [f"source={persona}" for persona in sorted(lacking)]
    prompts: list[Any] = [found.parameters["eval_personas"] for found in made.values()]
    assert [sorted(each) for each in prompts] == [sorted(GROWN)] * len(made)


def test_another_adapter_in_a_registry_is_pulled_and_measured(session: Session) -> None:
    running, site = session.running, session.site
    running.finished("results_of_embedded_large")
    earlier = site.manifests()[f"{PROFILE}/adapter/seed=42/persona={PULLED}"]
    registry = str(earlier.facts["reference"]).removeprefix("file:")
    shutil.copytree(weights(site, RETRAINED_AS), registry, dirs_exist_ok=True)

    pulling = running.requested(FOLLOWING, "personas_of_embedded")
    assert (pulling.tags[ASSET_PARTITION_RANGE_START_TAG], pulling.tags[ASSET_PARTITION_RANGE_END_TAG]) == (PULLED, PULLED)
    assert {key.path[-1] for key in pulling.asset_selection or ()} == {"adapter", "merged_model"}
    pulled = site.manifests()[f"{PROFILE}/adapter/seed=42/persona={PULLED}"]
    assert (pulled.run_id, pulled.facts["reference"]) == (pulling.run_id, earlier.facts["reference"])
    there = site.manifests()[f"{PROFILE}/adapter/seed=42/persona={RETRAINED_AS}"]
    assert adapter_digest(pulled) == adapter_digest(there) != adapter_digest(earlier)
    assert "Retrained under the same name" in " ".join(pulled.facts["remarks"])  # type: ignore[call-overload]

    number = len(site.manifests(f"{PROFILE}/small/eval_cells/source={PULLED}/"))
    run = running.requested(FOLLOWING, "measure_embedded_small")
    made = {path: found for path, found in measured_since(session, "small").items() if found.run_id == run.run_id}
    assert set(made) == {measurement("small", PULLED, number + 1)}
    identity: Any = made[measurement("small", PULLED, number + 1)].facts["identity"]
    assert identity["adapter_digest"] == adapter_digest(pulled)
    assert run.tags[RE_EVALUATION].startswith("embedded_small:adapters-")  # by which the results follow as in the first story
