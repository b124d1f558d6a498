"""A whole study on the embedded model: what is recorded, checked, published, and left alone by a second run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pytest
from dagster import AssetCheckKey, AssetCheckSeverity, AssetKey, AssetMaterialization, DagsterInstance
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as CheckStatus
from deployments import COMPARISON, MARKER, PROFILE, PUBLICATIONS, SMALL, Opened, Site, asset_name

from persona_assets.assets.checks import DRIFT_CHECKS, gate_check_name
from persona_assets.cli.running import plan_study, warehouse_is_current

pytestmark = pytest.mark.slow

BLOCKING = {
    ("training_dataset", "row_counts"),
    ("source_rates", "no_missing_cells"),
    ("source_rates", "one_measurement_identity"),
    ("source_rates", "no_nan"),
    ("source_rates", "base_rate"),
    ("clean_result", "writeup_lint"),
}


@pytest.fixture(scope="module")
def site(small_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return small_site.copy(tmp_path_factory.mktemp("full_run") / "site")


@pytest.fixture
def opened(site: Site) -> Iterator[Opened]:
    with site.opened() as opened:
        yield opened


def materializations(instance: DagsterInstance, key: AssetKey) -> list[AssetMaterialization]:
    """Every materialization of an asset, oldest first."""
    records = instance.fetch_materializations(key, limit=1000, ascending=True).records
    return [record.event_log_entry.asset_materialization for record in records]  # type: ignore[misc]


def all_events(opened: Opened) -> list[tuple[str, str | None, str]]:
    """(asset, partition, data version) of every materialization there is."""
    keys = opened.deployment.definitions.resolve_asset_graph().get_all_asset_keys()
    return [
        (key.to_user_string(), event.partition, str((event.tags or {})["dagster/data_version"]))
        for key in sorted(keys)
        for event in materializations(opened.instance, key)
    ]


def planned_names(opened: Opened, study: str) -> set[str]:
    """Names of the assets that a run of a study makes."""
    stages = plan_study(opened.deployment, opened.deployment.catalog.study(study))
    return {asset_name(planned.key) for stage in stages for planned in stage.assets}


def test_runs_of_the_studies_make_every_asset_but_a_few(opened: Opened) -> None:
    made = planned_names(opened, "small") | planned_names(opened, "large") | {"warehouse"}
    assert opened.asset_names() - made == {COMPARISON, *PUBLICATIONS}


def test_every_key_is_recorded_once_with_the_digest_of_its_content(opened: Opened) -> None:
    seen = 0
    for stage in plan_study(opened.deployment, opened.deployment.catalog.study("small")):
        for planned in stage.assets:
            events = materializations(opened.instance, planned.key)
            for key, make in planned.products.items():
                (event,) = [event for event in events if event.partition == key]
                manifest = opened.deployment.products.store.verified(make().path)
                tags = event.tags or {}
                assert tags["dagster/data_version"] == manifest.data_version, planned.key
                assert event.metadata["fingerprint"].value == manifest.fingerprint
                assert event.metadata["skipped"].value is False
                seen += 1
            assert len(events) == len(planned.products)
    assert seen == len(all_events(opened)) - 1  # the other one is the warehouse


def test_what_each_key_was_made_from_is_recorded(opened: Opened, site: Site) -> None:
    (event,) = [
        event for event in materializations(opened.instance, AssetKey([PROFILE, "merged_model"])) if event.partition == "villain"
    ]
    tags = event.tags or {}
    versions = site.data_versions()
    assert tags[f"dagster/input_data_version/{PROFILE}/base_model"] == versions[f"{PROFILE}/base_model"]
    # Of a partitioned input Dagster records the last event that was read; the staleness tests rest on it.
    adapters = opened.instance.fetch_materializations(AssetKey([PROFILE, "adapter"]), limit=100).records
    pointer = int(tags[f"dagster/input_event_pointer/{PROFILE}/adapter"])
    assert pointer in {record.storage_id for record in adapters}
    assert tags["dagster/code_version"] == "1"


def test_checks_ran_and_the_blocking_ones_passed(opened: Opened) -> None:
    graph = opened.deployment.definitions.resolve_asset_graph()
    made = planned_names(opened, "small")
    keys = [key for key in graph.asset_check_keys if asset_name(key.asset_key) in made]
    records = opened.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    statuses = {key: records[key].status for key in keys}
    blocking = {key for key in keys if graph.get(key).blocking}
    assert {(key.asset_key.path[-1], key.name) for key in blocking} == BLOCKING
    assert {statuses[key] for key in blocking} == {CheckStatus.SUCCEEDED}
    evaluations = {key: record.event.dagster_event.asset_check_evaluation_data for key, record in records.items()}  # type: ignore[union-attr]
    assert {key for key, found in evaluations.items() if found.severity == AssetCheckSeverity.ERROR} == blocking
    assert {key.name for key in keys} - {key.name for key in blocking} == {
        "rates_not_degenerate",
        *(drift.name for drift in DRIFT_CHECKS),
        *(gate_check_name(gate, split, layer) for gate in "AB" for split in "AB" for layer in (2, 1)),
        *(gate_check_name("C", None, layer) for layer in (2, 1)),
    }
    # Gates and drift are results: with five personas they fail, and the run succeeds all the same.
    assert set(statuses.values()) <= {CheckStatus.SUCCEEDED, CheckStatus.FAILED}
    gate = AssetCheckKey(AssetKey([PROFILE, "small", "gates"]), "gate_a_split_a_layer_2")
    assert statuses[gate] == CheckStatus.FAILED


def test_the_warehouse_holds_every_table(site: Site) -> None:
    tables = {file.stem: pl.read_parquet(file) for file in (site.lake / PROFILE / "small" / "tables").glob("*/*.parquet")}
    expected = {"cells", "source_rates", "measurements", "geometry", "pairwise_cosines", "regressions", "gates", "outcome"}
    assert expected < set(tables)
    with duckdb.connect(str(site.lake / PROFILE / "warehouse.duckdb"), read_only=True) as connection:
        found = connection.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'small'").fetchall()
        assert {name for (name,) in found} == set(tables)
        for name, table in tables.items():
            assert connection.sql(f'SELECT * FROM small."{name}"').pl().equals(table), name
        schemas = connection.execute("SELECT DISTINCT table_schema FROM information_schema.tables").fetchall()
    assert {name for (name,) in schemas} == {"main", "small"}  # nothing of `large`, which was not run


def test_the_cells_are_those_of_the_completions(site: Site) -> None:
    """Count the marker again, from the texts themselves."""
    cells = pl.read_parquet(site.lake / PROFILE / "small" / "tables" / "source_rates" / "cells.parquet")
    assert cells.height == len(SMALL) ** 2
    texts = pl.concat([pl.read_parquet(file) for file in (site.lake / PROFILE / "small" / "eval_cells").rglob("*.parquet")])
    counted = texts.group_by("source", "eval_persona").agg(
        hits=pl.col("text").str.to_lowercase().str.contains(MARKER.lower(), literal=True).sum().cast(pl.Int64),
        n=pl.len().cast(pl.Int64),
    )
    assert counted["hits"].sum() > 0
    joined = cells.join(counted, on=["source", "eval_persona"], suffix="_counted")
    assert joined.height == cells.height
    assert joined.filter((pl.col("hits") != pl.col("hits_counted")) | (pl.col("n") != pl.col("n_counted"))).is_empty()
    assert set(cells["n"]) == {12}


def test_everything_is_intact_and_nothing_is_left_over(site: Site) -> None:
    site.verify()
    assert site.leftovers() == []


def test_a_second_run_does_nothing(site: Site) -> None:
    before = site.manifests()
    with site.opened() as opened:
        events = all_events(opened)
    started = time.monotonic()
    printed = site.run("small")
    assert "small unchanged: nothing to do" in printed
    assert printed.count(": unchanged") == 4
    assert time.monotonic() - started < 60
    assert site.manifests() == before
    with site.opened() as opened:
        assert all_events(opened) == events


def test_materializing_again_skips_every_key_and_says_so(site: Site, opened: Opened) -> None:
    before = site.manifests()
    opened.run("small", "personas")
    opened.run("small", "eval cells")
    assert site.manifests() == before
    for asset, path in (
        (["adapter"], "adapter/seed=42/persona={}"),
        (["small", "eval_cells"], "small/eval_cells/source={}/seed=42/measurement=1"),
    ):
        events = materializations(opened.instance, AssetKey([PROFILE, *asset]))
        assert [event.partition for event in events[len(SMALL) :]] == list(SMALL)
        for event in events[len(SMALL) :]:
            version = before[f"{PROFILE}/{path.format(event.partition)}"].data_version
            assert (event.tags or {})["dagster/data_version"] == version
            assert event.metadata["skipped"].value is True
            assert "Unchanged" in str(event.description)


@pytest.mark.parametrize("damage", ["deleted", "truncated", "of older tables"])
def test_a_warehouse_that_cannot_be_used_is_noticed(site: Site, opened: Opened, tmp_path: Path, damage: str) -> None:
    file = site.lake / PROFILE / "warehouse.duckdb"
    shutil.copy(file, tmp_path)
    assert warehouse_is_current(opened.deployment)
    if damage == "deleted":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    else:
        with duckdb.connect(str(file)) as connection:
            connection.execute("UPDATE main.published SET data_version = 'old' WHERE study IS NULL")
    assert not warehouse_is_current(opened.deployment)
    shutil.copy(tmp_path / file.name, file)


def test_a_lost_warehouse_is_published_again(site: Site) -> None:
    file = site.lake / PROFILE / "warehouse.duckdb"
    file.unlink()
    before = site.manifests()
    site.run("small")
    assert site.manifests() == before
    with duckdb.connect(str(file), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM small.source_rates").fetchone() == (len(SMALL),)


def test_the_site_of_other_tests_stays_as_it_is(small_site: Site) -> None:
    """The tests above work on a copy: of what they damaged and made again, nothing is in the original."""
    small_site.verify()
    assert small_site.leftovers() == []
    with small_site.opened() as opened:
        assert {
            event.metadata["skipped"].value for event in materializations(opened.instance, AssetKey([PROFILE, "adapter"]))
        } == {False}
