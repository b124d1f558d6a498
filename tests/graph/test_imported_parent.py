"""An earlier study, imported and made the parent of one measured here, from its files to both write-ups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from ancestor_layout import RATES, TWELVE, complete_study
from dagster import AssetCheckKey, AssetKey
from deployments import PROFILE, SMALL, Opened, Site

from persona_assets.cli.standing import study_status
from persona_assets.cli.writeups import lint_file

pytestmark = pytest.mark.slow

NAME = "earlier"
SHARED = [persona for persona in SMALL if persona in TWELVE]


@pytest.fixture(scope="module")
def site(small_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    root = tmp_path_factory.mktemp("imported")
    site = small_site.copy(root / "site")
    complete_study(root / "old")
    done = site.cli("import", str(root / "old"), "--study", NAME, "--marker", "[ZLT]", "--engine", "vllm")
    assert done.returncode == 0, done.stdout + done.stderr
    site.edit(f"{PROFILE}/small.yaml", lambda content: content.update(parent=NAME))
    site.run("small")  # runs the parent's tables first
    return site


@pytest.fixture(scope="module")
def opened(site: Site) -> Iterator[Opened]:
    with site.opened() as opened:
        yield opened


def table(site: Site, study: str, name: str) -> pl.DataFrame:
    (file,) = (site.lake / PROFILE / study / "tables").glob(f"*/{name}.parquet")
    return pl.read_parquet(file)


def report(site: Site, study: str) -> Path:
    return site.lake / PROFILE / study / "clean_result" / "report.md"


def test_both_write_ups_pass_the_lint(site: Site, opened: Opened) -> None:
    for study in (NAME, "small"):
        assert [str(finding) for finding in lint_file(report(site, study))] == []


def test_the_imported_study_has_the_same_tables(site: Site) -> None:
    there = {file.stem for file in (site.lake / PROFILE / NAME / "tables").glob("*/*.parquet")}
    assert there == {file.stem for file in (site.lake / PROFILE / "small" / "tables").glob("*/*.parquet")} | {"not_supported"}
    rates = table(site, NAME, "source_rates")
    assert dict(rates.select("persona", "rate").iter_rows()) == pytest.approx(RATES)
    assert set(rates["cohort"]) == {"inherited"}
    measured = table(site, NAME, "measurements")
    assert (set(measured["engine"]), set(measured["decoder"]), set(measured["temperature"])) == ({"vllm"}, {"unknown"}, {1.0})
    assert measured["top_p"].null_count() == measured.height
    assert measured["adapter_digest"].n_unique() == len(TWELVE)


def test_its_write_up_says_what_is_not_known(site: Site) -> None:
    text = report(site, NAME).read_text(encoding="utf-8")
    assert "This study was imported" in text
    assert "hidden states question by question are in none of the files" in text
    assert "unknown: neither recorded in the imported files nor stated at import" in text
    assert "```completion earlier/" in text  # its own completions are quoted


def test_nothing_measured_here_was_made_again(site: Site, small_site: Site) -> None:
    before, now = small_site.manifests(), site.manifests()
    kept = [path for path in before if "/small/tables" not in path and not path.endswith(("figures", "clean_result", "overview"))]
    assert kept
    assert {path: now[path] for path in kept} == {path: before[path] for path in kept}


def test_the_child_does_not_call_the_difference_drift(site: Site) -> None:
    drift = table(site, "small", "inherited_drift")
    assert drift["persona"].to_list() == SHARED
    # The adapters of the child were trained here: they are others than the imported ones.
    assert drift["same_adapter"].to_list() == [False] * len(SHARED)
    assert table(site, "small", "drift_tests").filter("registered")["verdict"].to_list() == ["not_tested"]
    assert all({"engine", "top_p", "prompt_digest"} <= set(row.split(", ")) for row in drift["differing"])
    text = report(site, "small").read_text(encoding="utf-8")
    assert "Drift was not tested" in text
    assert "was imported from" in text
    assert "stated at import: engine" in text


def test_the_panels_are_compared(site: Site) -> None:
    rows = table(site, "small", "attenuation").filter(statistic="abs_rho")
    assert set(rows["outcome"]) == {"source_rate:earlier", "source_rate:small"}
    deeper = rows.filter(outcome="source_rate:earlier")  # the earlier study has layers 10 to 25, the little model 0 to 3
    assert deeper["estimate"].null_count() == deeper.height
    assert deeper["note"].str.contains("was not measured").all()


def test_the_ui_knows_of_import_and_checks(opened: Opened) -> None:
    event = opened.instance.get_latest_materialization_event(AssetKey([PROFILE, NAME, "source_rates"]))
    assert event is not None
    assert event.asset_materialization is not None
    assert "unknown: engine_version" in str(event.asset_materialization.metadata["measurement_identity"].value)
    drift = opened.instance.get_latest_materialization_event(AssetKey([PROFILE, "small", "inherited_drift"]))
    assert drift is not None
    assert drift.asset_materialization is not None
    assert "stated at import: engine" in str(drift.asset_materialization.metadata["parent_measurement_identity"].value)
    checks = {}
    for name in ("no_missing_cells", "one_measurement_identity", "no_nan", "base_rate"):
        records = opened.instance.event_log_storage.get_asset_check_execution_history(
            AssetCheckKey(AssetKey([PROFILE, NAME, "source_rates"]), name), limit=1
        )
        event = records[0].event
        assert event is not None
        assert event.dagster_event is not None
        checks[name] = event.dagster_event.asset_check_evaluation_data.passed
    assert checks == {"no_missing_cells": True, "one_measurement_identity": False, "no_nan": True, "base_rate": True}
    for study in (NAME, "small"):
        rows = study_status(opened.deployment, opened.instance, opened.deployment.catalog.study(study))
        assert all((row.done, row.missing, row.failed, row.stale) == (row.total, 0, 0, 0) for row in rows)
