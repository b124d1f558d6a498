"""What is stale after a change, as `status` says it and as Dagster marks it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dagster import AssetKey
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from deployments import LARGE, PROFILE, PUBLICATIONS, SMALL, UNSTYLED, Opened, Site, asset_name

from persona_assets.assets.products import TABLE_PRODUCTS
from persona_assets.cli.standing import study_status

pytestmark = pytest.mark.slow

TABLES = set(TABLE_PRODUCTS)
DRAWN = {"figures", "clean_result", "overview"}


@pytest.fixture
def site(large_site: Site, tmp_path: pytest.TempPathFactory) -> Site:
    return large_site.copy(tmp_path / "site")  # type: ignore[operator]


def change_prompt(site: Site) -> None:
    def change(content: dict[str, list[dict[str, str]]]) -> None:
        (persona,) = [persona for persona in content["personas"] if persona["id"] == UNSTYLED]
        persona["prompt"] = "You are a gardener who shouts at the roses."

    site.edit("personas.yaml", change)


def stale_counts(opened: Opened, study: str) -> dict[str, int]:
    """Number of stale keys by asset, assets without any left out; nothing may be missing or failed."""
    rows = study_status(opened.deployment, opened.instance, opened.deployment.catalog.study(study))
    assert not any(row.missing or row.failed for row in rows)
    return {row.asset.removeprefix(f"{PROFILE}/"): row.stale for row in rows if row.stale}


def marks(opened: Opened) -> Iterator[tuple[str, str | None, StaleStatus]]:
    """Dagster's own mark of every asset and partition."""
    graph = opened.deployment.definitions.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(opened.instance, graph, LoadingContextForTest(opened.instance))
    for key in sorted(graph.get_all_asset_keys()):
        partitions = graph.get(key).partitions_def
        for partition in [None] if partitions is None else partitions.get_partition_keys():
            yield asset_name(key), partition, resolver.get_status(key, partition)


def marked_stale(opened: Opened) -> set[tuple[str, str | None]]:
    return {(asset, partition) for asset, partition, status in marks(opened) if status == StaleStatus.STALE}


def test_after_range_runs_nothing_is_stale(site: Site) -> None:
    with site.opened() as opened:
        found = {(asset, partition): status for asset, partition, status in marks(opened)}
        assert {asset for asset, _ in found} == opened.asset_names()
    assert {key for key, status in found.items() if status != StaleStatus.FRESH} == {(name, None) for name in PUBLICATIONS}
    assert {found[name, None] for name in PUBLICATIONS} == {StaleStatus.MISSING}
    assert len(found) > 60


def test_status_shows_what_a_changed_prompt_makes_stale(site: Site) -> None:
    change_prompt(site)
    with site.opened() as opened:
        products = opened.deployment.products
        datasets = sum(UNSTYLED in (source, *products.negatives(source)) for source in LARGE)
        assert 1 < datasets < len(LARGE)  # the change must be told from one of everything
        for study, panel in (("small", SMALL), ("large", LARGE)):
            own = {f"{study}/{table}": 1 for table in TABLES | DRAWN}
            assert stale_counts(opened, study) == {
                "training_answers": 1,
                "training_dataset": sum(UNSTYLED in (source, *products.negatives(source)) for source in panel),
                "layer_centroids": 1,
                "base_cells": 1,
                f"{study}/eval_cells": len(panel),  # it is an eval persona of each
                **own,
            }


def test_a_setting_of_the_analysis_makes_tables_stale_and_nothing_else(site: Site) -> None:
    site.edit(f"{PROFILE}/large.yaml", lambda content: content["analysis"].update(slope_tolerance=0.5))
    with site.opened() as opened:
        assert stale_counts(opened, "small") == {}
        assert stale_counts(opened, "large") == {f"large/{table}": 1 for table in TABLES | DRAWN}


def test_a_setting_of_the_training_makes_adapters_stale(site: Site) -> None:
    site.edit(f"{PROFILE}/profile.yaml", lambda content: content["recipe"].update(warmup_ratio=0.2))
    with site.opened() as opened:
        counts = stale_counts(opened, "small")
    assert counts.pop("adapter") == len(SMALL)
    assert counts == {f"small/{table}": 1 for table in TABLES | DRAWN}  # the study's digest covers the recipe


def test_dagster_marks_what_lies_downstream_of_a_new_data_version(site: Site) -> None:
    change_prompt(site)
    with site.opened() as opened:
        opened.run("small", "personas", "training_answers")
        products = opened.deployment.products
        users = {source for source in LARGE if UNSTYLED in (source, *products.negatives(source))}
        stale = marked_stale(opened)
        direct = {key for key in stale if key[0] == "training_dataset"}
        assert direct == {("training_dataset", source) for source in users}
        assert {key for key in stale if key[0] == "training_answers"} == set()
        assert {key for key in stale if key[0] in ("layer_centroids", "base_cells", "base_model")} == set()
        assert {key for key in stale if key[0] == "adapter"} <= {("adapter", source) for source in users}
        opened.run("large", "personas", "training_dataset")
        stale = marked_stale(opened)
        assert {key for key in stale if key[0] == "adapter"} == {("adapter", source) for source in users}
        assert {key for key in stale if key[0] == "training_dataset"} == set()


def test_the_change_is_carried_through_and_said(site: Site) -> None:
    """A changed prompt: what depends on it is made again, measurements are added, the plan's change is named."""
    before = site.manifests()
    change_prompt(site)
    with site.opened() as opened:
        opened.run("small", "personas")
        opened.run("small", "eval cells")
        opened.run("small", "analysis", "power", "source_rates", "geometry", "regressions", "inherited_drift", "gates")
        products = opened.deployment.products
        users = {source for source in SMALL if UNSTYLED in (source, *products.negatives(source))}
        outcome = opened.instance.get_latest_materialization_event(AssetKey([PROFILE, "small", "gates"]))
    now = site.manifests()
    for source in SMALL:
        path = f"{PROFILE}/adapter/seed=42/persona={source}"
        assert (now[path] == before[path]) == (source not in users)
        cells = f"{PROFILE}/small/eval_cells/source={source}/seed=42/measurement="
        assert now[f"{cells}1"] == before[f"{cells}1"]
        assert f"{cells}2" in now
    assert outcome is not None
    assert outcome.asset_materialization is not None
    assert outcome.asset_materialization.metadata["plan_changes"].value == "panel.personas"
