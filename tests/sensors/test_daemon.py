"""The real daemon, one session of it: a schedule with its results, the alarm, followed registries, a panel that grows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from daemons import Daemon, daemon, switch_off, switch_on
from dagster import AssetCheckKey, AssetKey
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from deployments import LARGE, PROFILE, SMALL, Site
from servers.hub import HubServer, Repo, hub_server
from servers.receivers import Mailbox, Webhook, mail_server, webhook_server
from servers.wandb import WandbServer, wandb_server
from servers.wandb_state import ENTITY

from persona_assets.assets.adapters import adapter_digest
from persona_assets.panel import contiguous_ranges
from persona_assets.statistics.drift_tests import deciding_test
from persona_assets.store import Manifest
from sensors.panel_growth import TAG as GROWTH

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("daemon")]

SCHEDULE = "measure_inherited_adapters_of_embedded_large_again"
ALARM = "report_drift_of_embedded"
FOLLOWING = "follow_registries_of_embedded_small"
GROWING = "complete_embedded_small_when_its_panel_grows"
DRIFT = AssetKey([PROFILE, "large", "remeasurement_drift"])
GROWN = LARGE[: len(SMALL) + 1]
BY_FILE, BY_HUB, BY_WANDB = PULLED = SMALL[:3]  # neighbours: one run pulls them, one measures them


@dataclass(frozen=True)
class Registries:
    """One registry of each kind, with the adapter of one persona in each, under references that move.

    Attributes:
        directory: a plain directory.
        hub: a Hugging Face Hub.
        wandb: a W&B server.
    """

    directory: Path
    hub: HubServer
    wandb: WandbServer

    @property
    def references(self) -> dict[str, str]:
        """What a study file names, by persona."""
        return {
            BY_FILE: f"file:{self.directory}",
            BY_HUB: "hf:lab/markers@main:n5/{persona}",
            BY_WANDB: f"wandb:{ENTITY}/project/marker_{{persona}}_asst_excluded_medium_seed{{seed}}:latest",
        }

    def upload(self, adapters: dict[str, dict[str, bytes]]) -> None:
        """Put files there, by persona; what was there under the same name has them now."""
        self.directory.mkdir(exist_ok=True)
        for name, content in adapters[BY_FILE].items():
            (self.directory / name).write_bytes(content)
        repo = self.hub.repos.setdefault("lab/markers", Repo())
        repo.commit({f"n5/{BY_HUB}/{name}": content for name, content in adapters[BY_HUB].items()})
        self.wandb.publish(f"marker_{BY_WANDB}_asst_excluded_medium_seed42", adapters[BY_WANDB])


@dataclass(frozen=True)
class Session:
    """A daemon that has begun the re-evaluation, and everything around it.

    Attributes:
        running: the daemon.
        webhook: gets the alarm.
        mailbox: gets it as well.
        registries: hold what was pulled.
        before: manifests of all measurements before the daemon started.
    """

    running: Daemon
    webhook: Webhook
    mailbox: Mailbox
    registries: Registries
    before: dict[str, Manifest]

    @property
    def site(self) -> Site:
        return self.running.site


def measurement(study: str, persona: str, number: int) -> str:
    return f"{PROFILE}/{study}/eval_cells/source={persona}/seed=42/measurement={number}"


def adapter_path(persona: str) -> str:
    return f"{PROFILE}/adapter/seed=42/persona={persona}"


def weights(site: Site, persona: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (site.lake / adapter_path(persona) / "adapter").iterdir()}


def measured_long_ago(site: Site, persona: str) -> None:
    """Make the first measurement one of last year's engine: neither is part of a manifest's digest."""
    file = site.store.directory(measurement("large", persona, 1)) / "manifest.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["facts"]["identity"]["engine_version"] = "4.0.0"
    content["made_at"] = "2025-01-01T00:00:00+00:00"
    file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registries]:
    root = tmp_path_factory.mktemp("registries")
    with hub_server() as hub, wandb_server(root / "config", HF_ENDPOINT=hub.endpoint, NO_PROXY="127.0.0.1") as wandb:
        yield Registries(root / "directory", hub, wandb)


def set_the_stage(large_site: Site, registries: Registries, root: Path, cron: str) -> Site:
    """Both studies are measured, three adapters were pulled; a persona was added to `small`, one of `large` is unmeasured."""
    site = large_site.copy(root)
    registries.upload({persona: weights(site, persona) for persona in PULLED})
    site.edit(f"{PROFILE}/small.yaml", lambda study: study.update(inherited_adapters=registries.references))
    with site.opened() as opened:
        opened.run("small", "personas", "adapter", "merged_model", personas=PULLED)  # the same bytes: nothing is stale
    site.edit(f"{PROFILE}/small.yaml", lambda study: study.update(panel_size=len(GROWN)))
    site.edit(f"{PROFILE}/large.yaml", lambda study: study.update(re_evaluation_cron=cron))
    for persona in GROWN:
        measured_long_ago(site, persona)
    for product in ("eval_cells", "marker_scores"):  # so that drift is all that can be computed
        shutil.rmtree(site.lake / PROFILE / "large" / product / f"source={LARGE[-1]}")
    return site


@pytest.fixture(scope="module")
def session(large_site: Site, registries: Registries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A daemon, started when the stage is set and the re-evaluation is due."""
    due = datetime.now(UTC) - timedelta(minutes=1)
    cron = f"{due.minute} {due.hour} * * *"
    site = set_the_stage(large_site, registries, tmp_path_factory.mktemp("daemon") / "site", cron)
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
            yield Session(running, webhook, mailbox, registries, before)


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
    expected = {("large", key.name, "confounded") for key in keys}
    tests = pl.read_parquet(session.site.store.open(f"{PROFILE}/large/tables/inherited_drift") / "drift_tests.parquet")
    if deciding_test(tests)["verdict"] == "drift":  # as the rates of the little model come out
        expected.add(("large", "no_drift", "drift"))
    assert {(alert["study"], alert["check"], alert["verdict"]) for alert in body["alerts"]} == expected
    (envelope,) = session.mailbox.mails
    assert envelope.rcpt_tos == ["ada@example.org"]
    mail = message_from_bytes(envelope.content)
    assert mail["Subject"] == f"{len(expected)} drift checks failed"
    text: Any = mail.get_payload(decode=True)
    assert " ".join(text.decode().split()) == " ".join(body["text"].split())


def test_other_adapters_in_registries_are_pulled_and_measured_and_results_follow(session: Session) -> None:
    running, site = session.running, session.site
    running.finished("results_of_embedded_large")
    earlier = site.manifests(f"{PROFILE}/adapter/")
    other = dict(zip(PULLED, (*PULLED[1:], PULLED[0]), strict=True))
    session.registries.upload({persona: weights(site, other[persona]) for persona in PULLED})

    pulling = running.requested(FOLLOWING, "personas_of_embedded")
    assert (pulling.tags[ASSET_PARTITION_RANGE_START_TAG], pulling.tags[ASSET_PARTITION_RANGE_END_TAG]) == (PULLED[0], PULLED[-1])
    assert {key.path[-1] for key in pulling.asset_selection or ()} == {"adapter", "merged_model"}
    pulled = {persona: site.manifests()[adapter_path(persona)] for persona in PULLED}
    for persona, now in pulled.items():
        before = earlier[adapter_path(persona)]
        assert (now.run_id, now.facts["reference"]) == (pulling.run_id, before.facts["reference"])
        assert adapter_digest(now) == adapter_digest(earlier[adapter_path(other[persona])]) != adapter_digest(before)
        assert "Retrained under the same name" in " ".join(now.facts["remarks"])  # type: ignore[call-overload]
    assert pulled[BY_HUB].facts["registry_version"] == session.registries.hub.repos["lab/markers"].head
    assert pulled[BY_WANDB].facts["resolved"] == f"wandb:{ENTITY}/project/marker_{BY_WANDB}_asst_excluded_medium_seed42:v1"

    run = running.requested(FOLLOWING, "measure_embedded_small")
    made = measured_since(session, "small")
    assert set(made) == {measurement("small", persona, 2) for persona in PULLED}
    for persona in PULLED:
        found = made[measurement("small", persona, 2)]
        identity: Any = found.facts["identity"]
        assert (found.run_id, identity["adapter_digest"]) == (run.run_id, adapter_digest(pulled[persona]))

    running.finished("results_of_embedded_small")
    tables = site.store.open(f"{PROFILE}/small/tables/remeasurement_drift")
    history = pl.read_parquet(tables / "measurement_history.parquet").filter(measurement=2)
    assert history["persona"].to_list() == sorted(PULLED)
    # These are other adapters than the first ones: their rates are recorded, and no test calls the difference a drift.
    assert not pl.read_parquet(tables / "remeasurement_drift.parquet")["same_adapter"].any()
    assert set(pl.read_parquet(tables / "remeasurement_tests.parquet").filter("registered")["verdict"]) == {"not_tested"}


def test_a_panel_that_grew_is_completed(session: Session) -> None:
    running, products = session.running, session.running.opened.deployment.products
    running.finished("results_of_embedded_small")
    study = running.opened.deployment.catalog.study("small")
    # The newcomer's adapter is there, of the larger study: what is missing are its cells, in every row of the smaller panel.
    rows = {persona: products.state(products.latest_eval_cells(study, persona, 42)) for persona in GROWN}
    lacking = [persona for persona, state in rows.items() if state != "current"]
    assert lacking == [persona for persona in GROWN if persona not in PULLED]
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
