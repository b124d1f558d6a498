"""An earlier study, imported and made the parent of one measured here that pulls its adapters: from files to write-ups."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from ancestor_layout import RATES as USUAL
from ancestor_layout import TWELVE, EarlierStudy, complete_study, regression_results
from dagster import AssetCheckEvaluation, AssetCheckKey, AssetKey
from deployments import PROFILE, SMALL, Opened, Site

from persona_assets.cli.importing import Request, import_study
from persona_assets.cli.standing import study_status
from persona_assets.cli.writeups import lint_file
from persona_assets.statistics.identity import UNKNOWN

pytestmark = pytest.mark.slow

NAME = "earlier"
SAME = "earlier_by_this_engine"
RATES = {persona: round(0.6 + rate / 2, 2) for persona, rate in USUAL.items()}
"""Higher than the little model's, whatever they come out as here: every rate falls."""
SHARED = [persona for persona in SMALL if persona in TWELVE]
PULLED, RETRAINED = SHARED[:-1], SHARED[-1]


def weights(site: Site, persona: str) -> Path:
    return site.lake / PROFILE / "adapter" / "seed=42" / f"persona={persona}" / "adapter"


def hold_its_adapters(earlier: EarlierStudy, site: Site) -> None:
    """Put the weights that `small` was measured with into the earlier study, but for one persona, whom `small` trained anew."""
    for persona in SHARED:
        directory = earlier.adapter(persona)
        if persona in PULLED:
            shutil.copy(weights(site, persona) / "adapter_model.safetensors", directory)


@pytest.fixture(scope="module")
def site(small_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    root = tmp_path_factory.mktemp("imported")
    site = small_site.copy(root / "site")
    shutil.rmtree(complete_study(root / "old", RATES).root / "adapters")
    hold_its_adapters(EarlierStudy(root / "old"), site)
    for persona in PULLED:
        shutil.copytree(weights(site, persona), root / "registry" / persona)
    done = site.cli("import", str(root / "old"), "--study", NAME, "--marker", "[ZLT]", "--engine", "vllm")
    assert done.returncode == 0, done.stdout + done.stderr
    references = {"reference": f"file:{root}/registry/{{persona}}", "personas": PULLED}
    site.edit(f"{PROFILE}/small.yaml", lambda content: content.update(parent=NAME, inherited_adapters=references))
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
    digests = dict(measured.select("source", "adapter_digest").iter_rows())
    assert {persona for persona, digest in digests.items() if digest != UNKNOWN} == set(SHARED)


def test_its_write_up_says_what_is_not_known(site: Site) -> None:
    text = report(site, NAME).read_text(encoding="utf-8")
    assert "This study was imported" in text
    assert "hidden states question by question are in none of the files" in text
    assert "unknown: neither recorded in the imported files nor stated at import" in text
    assert "```completion earlier/" in text  # its own completions are quoted


def test_nothing_measured_here_was_made_again(site: Site, small_site: Site) -> None:
    before, now = small_site.manifests(), site.manifests()
    adapters = [f"{PROFILE}/adapter/seed=42/persona={persona}" for persona in PULLED]
    of_them = [path.replace("/adapter/", "/merged_model/") for path in adapters]
    of_them += [f"{PROFILE}/small/marker_scores/source={persona}/seed=42/measurement=1" for persona in PULLED]
    computed = ("figures", "clean_result", "overview", *adapters, *of_them)
    kept = [path for path in before if "/small/tables" not in path and not path.endswith(computed)]
    assert {path: now[path] for path in kept} == {path: before[path] for path in kept}
    assert f"{PROFILE}/small/eval_cells/source={PULLED[0]}/seed=42/measurement=1" in kept
    assert {path: now[path].data_version for path in of_them} == {path: before[path].data_version for path in of_them}
    for path in adapters:  # pulled now: the same bytes, by which what was made with them stays what it is
        assert now[path].facts["origin"] == "registry"
        weight = "adapter/adapter_model.safetensors"
        assert now[path].files[weight] == before[path].files[weight]


def test_the_fall_of_every_rate_is_confounded_and_not_called_drift(site: Site, opened: Opened) -> None:
    drift = table(site, "small", "inherited_drift")
    rows = {row["persona"]: row for row in drift.to_dicts()}
    assert list(rows) == SHARED
    own = dict(table(site, "small", "source_rates").select("persona", "rate").iter_rows())
    for persona, row in rows.items():
        assert (row["rate_parent"], row["rate_now"]) == (pytest.approx(RATES[persona]), own[persona])
        assert row["delta"] < 0
        # What was pulled is what the earlier study had; what was trained here under the same name is another adapter.
        assert row["same_adapter"] == (persona in PULLED)
        assert {"engine", "top_p", "prompt_digest"} <= set(row["differing"].split(", "))
    (sign,) = table(site, "small", "drift_tests").filter(statistic="sign_drops", registered=True).to_dicts()
    assert (sign["verdict"], sign["estimate"], sign["n"]) == ("confounded", 1.0, len(PULLED))
    check = drift_check(opened)
    assert not check.passed
    assert check.metadata["verdict"].value == "confounded"

    text = report(site, "small").read_text(encoding="utf-8")
    section = text.split("## Result: drift of inherited sources", 1)[1].split("\n## ", 1)[0]
    assert "The comparison is confounded" in section
    assert "a fall of the rates is not called drift here" in section
    assert "fired" not in section
    assert "found drift" not in text
    assert "was imported from" in text
    assert "stated at import: engine" in text


def test_measured_by_the_same_engine_the_test_speaks(site: Site, tmp_path: Path) -> None:
    told = site.copy(tmp_path / "site")
    earlier = EarlierStudy(tmp_path / "old")
    earlier.whole(regression_results(RATES))  # names no prompt and no condition, so that all can be stated
    hold_its_adapters(earlier, told)
    with told.opened() as opened:
        request = Request(earlier.root, SAME, statements=("all=here",), marker="[ZLT]", seed=42, completions=100)
        assert import_study(opened.deployment, request).written
    told.edit(f"{PROFILE}/small.yaml", lambda content: content.update(parent=SAME))
    with told.opened() as opened:
        opened.run(SAME, "analysis", "source_rates")
        opened.run("small", "analysis", "inherited_drift")
        check = drift_check(opened)
    drift = table(told, "small", "inherited_drift").filter("same_adapter")
    assert drift["persona"].to_list() == PULLED
    assert drift["same_identity"].all()
    (sign,) = table(told, "small", "drift_tests").filter(statistic="sign_drops", registered=True).to_dicts()
    assert (sign["verdict"], sign["estimate"], sign["n"]) == ("drift", 1.0, len(PULLED))
    assert not check.passed
    assert check.metadata["verdict"].value == "drift"


def drift_check(opened: Opened) -> AssetCheckEvaluation:
    """What the check of the drift since the parent study said last."""
    key = AssetCheckKey(AssetKey([PROFILE, "small", "inherited_drift"]), "no_drift")
    (record,) = opened.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert record.event is not None
    assert record.event.dagster_event is not None
    return record.event.dagster_event.asset_check_evaluation_data


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
