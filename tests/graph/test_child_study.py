"""A child study inherits its parent's adapters, measures its own cells, and compares itself with its parent."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl
import pytest
from dagster import AssetKey
from deployments import LARGE, PROFILE, SMALL, Opened, Site

from persona_assets.cli.standing import study_status

pytestmark = pytest.mark.slow

NEW = LARGE[len(SMALL) :]


@pytest.fixture(scope="module")
def site(large_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return large_site.copy(tmp_path_factory.mktemp("child") / "site")


@pytest.fixture
def opened(site: Site) -> Iterator[Opened]:
    with site.opened() as opened:
        yield opened


def table(site: Site, study: str, name: str) -> pl.DataFrame:
    (file,) = (site.lake / PROFILE / study / "tables").glob(f"*/{name}.parquet")
    return pl.read_parquet(file)


def test_nothing_of_the_parent_is_made_again(site: Site, small_site: Site) -> None:
    parent = small_site.manifests()
    now = site.manifests()
    assert {path: now[path] for path in parent} == parent


def test_only_the_new_personas_are_worked_on(site: Site, small_site: Site) -> None:
    added = set(site.manifests()) - set(small_site.manifests())
    adapters = {path for path in added if path.startswith(f"{PROFILE}/adapter/")}
    assert adapters == {f"{PROFILE}/adapter/seed=42/persona={persona}" for persona in NEW}
    manifests = site.manifests()
    runs = {manifests[path].run_id for path in adapters}
    assert len(runs) == 1
    assert not runs & {manifest.run_id for manifest in small_site.manifests().values()}


def test_every_cell_of_its_own_panel_is_measured(site: Site) -> None:
    cells = table(site, "large", "cells")
    assert {(row["source"], row["eval_persona"]) for row in cells.to_dicts()} == {(s, e) for s in LARGE for e in LARGE}
    assert set(cells["n"]) == {12}
    own = site.manifests(f"{PROFILE}/large/eval_cells/")
    assert len(own) == len(LARGE)
    # The same adapter, measured anew: other draws than in the parent study, not a copy of them.
    parents = site.data_versions(f"{PROFILE}/small/eval_cells/")
    assert not set(parents.values()) & {manifest.data_version for manifest in own.values()}


def test_inherited_adapters_are_told_from_new_ones(site: Site) -> None:
    rates = table(site, "large", "source_rates")
    assert dict(rates.select("persona", "cohort").iter_rows()) == {
        persona: "inherited" if persona in SMALL else "new" for persona in LARGE
    }
    assert set(table(site, "small", "source_rates")["cohort"]) == {"new"}


def test_drift_compares_the_same_adapters_under_the_same_identity(site: Site) -> None:
    drift = table(site, "large", "inherited_drift")
    assert drift["persona"].to_list() == list(SMALL)
    assert drift["same_adapter"].all()
    assert drift["same_identity"].all()
    parents = {row["persona"]: row["rate"] for row in table(site, "small", "source_rates").to_dicts()}
    own = {row["persona"]: row["rate"] for row in table(site, "large", "source_rates").to_dicts()}
    for row in drift.to_dicts():
        assert (row["rate_parent"], row["rate_now"]) == (parents[row["persona"]], own[row["persona"]])
    registered = table(site, "large", "drift_tests").filter("registered")
    assert set(registered["verdict"]) <= {"drift", "no_drift"}  # not confounded
    assert table(site, "small", "inherited_drift").is_empty()


def test_measurements_name_the_adapter_that_was_measured(site: Site) -> None:
    measured = {row["source"]: row for row in table(site, "large", "measurements").to_dicts()}
    before = {row["source"]: row for row in table(site, "small", "measurements").to_dicts()}
    for persona in LARGE:
        files = site.manifests()[f"{PROFILE}/adapter/seed=42/persona={persona}"].files
        assert measured[persona]["adapter_digest"] == files["adapter/adapter_model.safetensors"]["sha256"]
    assert all(measured[persona]["adapter_digest"] == before[persona]["adapter_digest"] for persona in SMALL)
    assert len({row["identity_digest"] for row in measured.values()}) == len(LARGE)  # the adapter is part of it


def test_inherited_keys_are_recorded_as_skipped(opened: Opened) -> None:
    records = opened.instance.fetch_materializations(AssetKey([PROFILE, "adapter"]), limit=100, ascending=True).records
    events = [record.event_log_entry.asset_materialization for record in records]
    said = [(event.partition, event.metadata["skipped"].value) for event in events if event is not None]
    # First `small`, then `large`: panel order each time.
    assert said[: len(SMALL)] == [(persona, False) for persona in SMALL]
    assert sorted(said[len(SMALL) :]) == sorted((persona, persona in SMALL) for persona in LARGE)


def test_status_counts_everything_as_done(opened: Opened) -> None:
    for name, size in (("small", len(SMALL)), ("large", len(LARGE))):
        rows = study_status(opened.deployment, opened.instance, opened.deployment.catalog.study(name))
        assert {row.total for row in rows} == {1, size}
        assert all((row.done, row.missing, row.failed, row.stale) == (row.total, 0, 0, 0) for row in rows)


def test_a_child_runs_its_parent_first(large_site: Site) -> None:
    printed = large_site.root / "printed.txt"
    text = printed.read_text(encoding="utf-8")
    assert text.index(f"{PROFILE} small: 5 personas") < text.index(f"{PROFILE} large: 7 personas")
    assert "Inherited drift:" in text
