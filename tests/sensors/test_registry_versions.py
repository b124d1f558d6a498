"""What the sensor requests when a registry has another adapter than the one that was pulled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from dagster import DagsterRunStatus, RunRequest, SensorResult, SkipReason, build_sensor_context
from deployments import PROFILE, SMALL, Opened, Site, new_site

from persona_assets.registry.base import Registry, RegistryUnavailableError, Resolved
from persona_assets.registry.hub import HubRegistry
from persona_assets.registry.opening import RegistrySettings, open_registry
from persona_assets.registry.reference import AdapterReference, Scheme
from persona_assets.store import MANIFEST, Manifest
from resources.adapter_registry import AdapterRegistry
from resources.lake import Lake
from sensors.re_evaluation import RUNS_TAG, TAG

pytestmark = pytest.mark.slow

SENSOR = "follow_registries_of_embedded_small"
PULLED = SMALL[1:3]


def upload(site: Site, persona: str, content: str) -> None:
    directory = site.root / "registry" / persona
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text("{}", encoding="utf-8")
    (directory / "adapter_model.safetensors").write_text(content, encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = new_site(tmp_path / "site")
    for persona in PULLED:
        upload(site, persona, "first")
    reference = {"reference": f"file:{site.root}/registry/{{persona}}", "personas": list(PULLED)}
    site.edit(f"{PROFILE}/small.yaml", lambda content: content.update(inherited_adapters=reference))
    site.edit(f"{PROFILE}/large.yaml", lambda content: content.update(inherited_adapters=reference))
    with site.opened() as opened:
        pull(opened)
    return site


@pytest.fixture
def opened(site: Site) -> Iterator[Opened]:
    with site.opened() as opened:
        yield opened


def write(opened: Opened, found: Manifest) -> None:
    directory = opened.deployment.products.store.directory(found.path)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST).write_text(json.dumps(asdict(found)), encoding="utf-8")


def pull(opened: Opened, *assets: str) -> None:
    """Record what is in the registry as pulled, and merged."""
    products, registry = opened.deployment.products, AdapterRegistry()
    for persona in PULLED:
        reference = opened.deployment.catalog.inherited_adapters[persona, 42]
        with registry.opened(reference) as where:
            digest = where.resolve(reference).digest
        for asset in assets or ("adapter", "merged_model"):
            product = getattr(products, asset)(persona, 42)
            facts = {"registry_digest": digest}
            write(opened, Manifest(product.path, "-", "1", "-", {}, {}, {}, digest, facts, "run", "-"))


def measure(opened: Opened) -> None:
    products = opened.deployment.products
    write(opened, Manifest(products.base_path, "-", "1", "-", {}, {}, {}, "base", {}, "run", "-"))
    for persona in PULLED:
        product = products.eval_cells(opened.deployment.catalog.study("small"), persona, 42, 1)
        fingerprint = products.store.fingerprint(product)
        assert fingerprint is not None
        found = Manifest(product.path, "-", "1", fingerprint, dict(product.parameters), {}, {}, "-", {}, "run", "-")
        write(opened, replace(found))


def ask(opened: Opened) -> list[RunRequest] | str:
    repository = opened.deployment.definitions.get_repository_def()
    resources = {"lake": Lake(root=str(opened.deployment.products.store.root)), "adapter_registry": AdapterRegistry()}
    context = build_sensor_context(opened.instance, repository_def=repository, resources=resources)
    found = repository.get_sensor_def(SENSOR)(context)
    if isinstance(found, SkipReason):
        return str(found.skip_message)
    assert isinstance(found, SensorResult)
    return list(found.run_requests or ())


def test_another_adapter_is_pulled_and_then_measured(site: Site, opened: Opened) -> None:
    measure(opened)
    assert ask(opened) == "The registries have no adapter for small that was not pulled and measured."
    upload(site, PULLED[1], "second")
    (request,) = ask(opened)
    assert isinstance(request, RunRequest)
    assert {key.path[-1] for key in request.asset_selection or ()} == {"adapter", "merged_model"}
    assert request.tags["dagster/asset_partition_range_start"] == PULLED[1]
    assert request.run_config == {"ops": {"embedded__adapter": {"config": {"pull_again": True}}}}

    pull(opened)
    (measuring,) = ask(opened)
    assert isinstance(measuring, RunRequest)
    assert {key.path[-1] for key in measuring.asset_selection or ()} == {"eval_cells", "marker_scores"}
    assert measuring.tags["dagster/asset_partition_range_start"] == PULLED[1]
    assert measuring.tags["dagster/asset_partition_range_end"] == PULLED[1]
    assert measuring.tags[TAG].startswith("embedded_small:adapters-") and measuring.tags[RUNS_TAG] == "1"
    measure(opened)
    assert ask(opened) == "The registries have no adapter for small that was not pulled and measured."


def test_where_adapters_are_swapped_each_version_is_measured_without_a_merged_model(site: Site) -> None:
    site.edit(f"{PROFILE}/profile.yaml", lambda profile: profile["runtime"].update(weights="swapped"))
    with site.opened() as opened:
        measure(opened)
        keys = []
        for content in ("second", "third one"):
            upload(site, PULLED[1], content)
            (request,) = ask(opened)
            assert isinstance(request, RunRequest)
            assert {key.path[-1] for key in request.asset_selection or ()} == {"adapter"}
            pull(opened, "adapter")
            (measuring,) = ask(opened)
            assert isinstance(measuring, RunRequest)
            keys.append(measuring.run_key)
            measure(opened)
        assert len(set(keys)) == 2


def test_each_version_has_a_key_of_its_own(site: Site, opened: Opened) -> None:
    measure(opened)
    keys = set()
    for content in ("second", "third one", "third one"):
        upload(site, PULLED[0], content)
        (request,) = ask(opened)
        assert isinstance(request, RunRequest)
        keys.add(request.run_key)
    assert len(keys) == 2


def test_an_unreachable_registry_is_said_and_stops_nothing(site: Site, opened: Opened) -> None:
    measure(opened)
    (site.root / "registry" / PULLED[0]).rename(site.root / "gone")
    upload(site, PULLED[1], "second")
    (request,) = ask(opened)
    assert isinstance(request, RunRequest)
    assert request.tags["dagster/asset_partition_range_start"] == PULLED[1]


def test_a_registry_is_opened_once_and_a_service_that_is_silent_asked_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick has a minute, and starting the client of a service takes seconds."""
    started: list[str] = []

    def counting(scheme: Scheme, settings: RegistrySettings) -> AbstractContextManager[Registry]:
        started.append(scheme)
        return open_registry(scheme, settings)

    def silent(_: HubRegistry, reference: AdapterReference) -> Resolved:
        started.append(str(reference))
        raise RegistryUnavailableError("the Hub is away.")

    monkeypatch.setattr("resources.adapter_registry.open_registry", counting)
    monkeypatch.setattr(HubRegistry, "resolve", silent)
    upload(site, PULLED[0], "second")
    upload(site, PULLED[1], "second")
    with site.opened() as opened:
        (request,) = ask(opened)
        assert isinstance(request, RunRequest)
        assert request.tags["dagster/asset_partition_range_end"] == PULLED[1]
    assert started == ["file"]
    on_hub = {"reference": "hf:lab/markers@main:{persona}", "personas": list(PULLED)}
    for study in ("small", "large"):
        site.edit(f"{PROFILE}/{study}.yaml", lambda content: content.update(inherited_adapters=on_hub))
    with site.opened() as opened:
        assert ask(opened) == "The registries have no adapter for small that was not pulled and measured."
    assert started == ["file", "hf", f"hf:lab/markers@main:{PULLED[0]}"]


def test_it_waits_for_runs_in_progress(site: Site, opened: Opened) -> None:
    upload(site, PULLED[0], "second")
    job = opened.deployment.definitions.resolve_job_def("results_of_embedded_small")
    run = opened.instance.create_run_for_job(job, status=DagsterRunStatus.STARTED)
    assert ask(opened) == f"Run {run.run_id} has not finished; the registries are asked afterwards."
