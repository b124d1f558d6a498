"""What the sensor requests when personas were added to the panel of a study."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterRunStatus, RunRequest, SensorResult, SkipReason, build_sensor_context
from deployments import LARGE, PROFILE, SMALL, Opened, Site, new_site

from persona_assets.store import MANIFEST, Manifest, Product
from resources.lake import Lake

pytestmark = pytest.mark.slow

SENSOR = "complete_embedded_small_when_its_panel_grows"
NEW = LARGE[len(SMALL) :]


def put(site: Site, products: Iterable[Product]) -> None:
    """Lay products into the lake as the sensor sees them: by their manifests."""
    for product in products:
        found = Manifest(product.path, product.producer, "1", "-", dict(product.parameters), {}, {}, "-", {}, "run", "-")
        directory = site.store.directory(product.path)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MANIFEST).write_text(json.dumps(asdict(found)), encoding="utf-8")


def shared(opened: Opened, personas: Iterable[str]) -> list[Product]:
    products = opened.deployment.products
    plain = (products.training_answers, products.training_dataset, products.layer_centroids, products.base_cells)
    seeded = (products.adapter, products.merged_model)
    return [
        *(make(persona) for persona in personas for make in plain),
        *(make(persona, 42) for persona in personas for make in seeded),
    ]


def cells(opened: Opened, personas: Iterable[str], number: int = 1) -> list[Product]:
    products = opened.deployment.products
    return [products.eval_cells(opened.deployment.catalog.study("small"), persona, 42, number) for persona in personas]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """The study `small` is measured; then two personas are added to its panel."""
    site = new_site(tmp_path / "site")
    with site.opened() as opened:
        put(site, [*shared(opened, SMALL), *cells(opened, SMALL)])
    site.edit(f"{PROFILE}/small.yaml", lambda content: content.update(panel_size=len(LARGE)))
    return site


@pytest.fixture
def opened(site: Site) -> Iterator[Opened]:
    with site.opened() as opened:
        yield opened


def ask(opened: Opened) -> list[RunRequest] | str:
    repository = opened.deployment.definitions.get_repository_def()
    lake = Lake(root=str(opened.deployment.products.store.root))
    found = repository.get_sensor_def(SENSOR)(
        build_sensor_context(opened.instance, repository_def=repository, resources={"lake": lake})
    )
    if isinstance(found, SkipReason):
        return str(found.skip_message)
    assert isinstance(found, SensorResult)
    return list(found.run_requests or ())


def told(requests: list[RunRequest] | str) -> list[tuple[str, set[str], str, str]]:
    """Job, assets (last part of the key), first and last persona of each request."""
    assert not isinstance(requests, str), requests
    start, end = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
    return [
        (str(r.job_name), {key.path[-1] for key in r.asset_selection or ()}, r.tags.get(start, ""), r.tags.get(end, ""))
        for r in requests
    ]


def launch(opened: Opened, requests: list[RunRequest] | str, status: DagsterRunStatus) -> list[str]:
    """Record the requested runs as a daemon would."""
    assert not isinstance(requests, str), requests
    made = []
    for request in requests:
        job = opened.deployment.definitions.resolve_job_def(str(request.job_name))
        tags = {**request.tags, "dagster/run_key": str(request.run_key)}
        made.append(opened.instance.create_run_for_job(job, tags=tags, status=status).run_id)
    return made


def test_the_whole_chain_is_requested_step_by_step(site: Site, opened: Opened) -> None:
    first = ask(opened)
    assert told(first) == [("personas_of_embedded", {"training_answers"}, NEW[0], NEW[-1])]
    launch(opened, first, DagsterRunStatus.SUCCESS)
    put(site, [opened.deployment.products.training_answers(persona) for persona in NEW])

    second = ask(opened)
    chain = {"training_dataset", "adapter", "merged_model", "layer_centroids", "base_cells"}
    assert told(second) == [("personas_of_embedded", chain, NEW[0], NEW[-1])]
    launch(opened, second, DagsterRunStatus.SUCCESS)
    put(site, shared(opened, NEW))

    # The old sources were not measured under the new personas: their rows lack cells, so they are measured with the new ones.
    third = ask(opened)
    assert told(third) == [("measure_embedded_small", {"eval_cells", "marker_scores"}, LARGE[0], LARGE[-1])]
    launch(opened, third, DagsterRunStatus.SUCCESS)
    put(site, [*cells(opened, SMALL, 2), *cells(opened, NEW)])
    put(site, [opened.deployment.products.base_model()])

    (fourth,) = told(ask(opened))
    assert fourth == ("results_of_embedded_small", set(), "", "")  # the whole job
    launch(opened, ask(opened), DagsterRunStatus.SUCCESS)
    assert ask(opened) == "Nothing of small is missing that was not requested before."


def test_an_adapter_that_is_pulled_needs_no_training_data(site: Site) -> None:
    for name in ("small", "large"):
        site.edit(f"{PROFILE}/{name}.yaml", lambda study: study.update(inherited_adapters={NEW[0]: "file:/registry/comedian"}))
    with site.opened() as opened:
        answers = ask(opened)
        assert told(answers) == [("personas_of_embedded", {"training_answers"}, NEW[1], NEW[1])]
        launch(opened, answers, DagsterRunStatus.SUCCESS)
        put(site, [opened.deployment.products.training_answers(NEW[1])])
        chain = {"adapter", "merged_model", "layer_centroids", "base_cells"}
        trained = ask(opened)
        assert told(trained) == [("personas_of_embedded", {"training_dataset", *chain}, NEW[1], NEW[1])]
        launch(opened, trained, DagsterRunStatus.SUCCESS)
        put(site, shared(opened, NEW[1:]))
        assert told(ask(opened)) == [("personas_of_embedded", chain, NEW[0], NEW[0])]


def test_without_merged_models_none_is_requested(site: Site) -> None:
    site.edit(f"{PROFILE}/profile.yaml", lambda profile: profile["runtime"].update(weights="swapped"))
    with site.opened() as opened:
        put(site, [opened.deployment.products.training_answers(persona) for persona in NEW])
        ((_, assets, *_),) = told(ask(opened))
        assert assets == {"training_dataset", "adapter", "layer_centroids", "base_cells"}


def test_ranges_are_contiguous(site: Site, opened: Opened) -> None:
    put(site, [opened.deployment.products.training_answers(persona) for persona in NEW])
    put(site, shared(opened, NEW))
    put(site, cells(opened, SMALL[:2], 2))
    put(site, cells(opened, SMALL[3:4], 2))
    wanted = [(SMALL[2], SMALL[2]), (SMALL[4], NEW[-1])]
    assert [each[2:] for each in told(ask(opened))] == wanted


def test_a_run_in_progress_is_waited_for(opened: Opened) -> None:
    (run,) = launch(opened, ask(opened), DagsterRunStatus.STARTED)
    assert ask(opened) == f"Run {run} has not finished; what it makes is not requested again."


def test_what_failed_is_not_requested_again_and_holds_up_nobody_else(site: Site, opened: Opened) -> None:
    launch(opened, ask(opened), DagsterRunStatus.FAILURE)
    old = ask(opened)
    assert told(old) == [("measure_embedded_small", {"eval_cells", "marker_scores"}, SMALL[0], SMALL[-1])]
    launch(opened, old, DagsterRunStatus.SUCCESS)
    assert ask(opened) == "Nothing of small is missing that was not requested before."
    put(site, [opened.deployment.products.training_answers(NEW[0])])  # made by hand since
    second = ask(opened)
    assert [each[2:] for each in told(second)] == [(NEW[0], NEW[0])]
    launch(opened, second, DagsterRunStatus.SUCCESS)
    put(site, shared(opened, NEW[:1]))
    assert told(ask(opened)) == [("measure_embedded_small", {"eval_cells", "marker_scores"}, NEW[0], NEW[0])]


def test_a_study_that_was_never_begun_is_not_begun(tmp_path: Path) -> None:
    with new_site(tmp_path / "site").opened() as opened:
        assert ask(opened) == "Nothing of small was measured yet: run the study once, the sensor continues it."


def test_a_complete_study_lacks_nothing_but_its_results(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    with site.opened() as opened:
        put(site, [opened.deployment.products.base_model(), *shared(opened, SMALL), *cells(opened, SMALL)])
        assert [each[0] for each in told(ask(opened))] == ["results_of_embedded_small"]
        assert (
            AssetKey([PROFILE, "warehouse"])
            in opened.deployment.definitions.resolve_job_def("results_of_embedded_small").asset_layer.executable_asset_keys
        )
