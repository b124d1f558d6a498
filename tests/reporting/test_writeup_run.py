"""The write-up of a study that was run for real: asset, blocking check, and the commands `report` and `lint`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from dagster import AssetCheckKey, AssetCheckSeverity, AssetKey
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as CheckStatus
from deployments import PROFILE, Site

from persona_assets.store import MANIFEST

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("graph")]
CHECK = AssetCheckKey(AssetKey([PROFILE, "large", "clean_result"]), "writeup_lint")


@pytest.fixture(scope="module")
def site(large_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return large_site.copy(tmp_path_factory.mktemp("writeup_run") / "site")


def report_of(site: Site, study: str) -> Path:
    return site.lake / PROFILE / study / "clean_result" / "report.md"


def test_a_run_ends_with_a_write_up_whose_check_passed(site: Site) -> None:
    with site.opened() as opened:
        for study in ("small", "large"):
            text = report_of(site, study).read_text(encoding="utf-8")
            page = report_of(site, study).with_suffix(".html").read_text(encoding="utf-8")
            assert f"study {study}, confidence LOW)" in text
            assert page.startswith("<!DOCTYPE html>")
            event = opened.instance.get_latest_materialization_event(AssetKey([PROFILE, study, "clean_result"]))
            assert event is not None and event.asset_materialization is not None
            headline = event.asset_materialization.metadata["headline"].value
            assert f"# {headline}\n" in text
            key = AssetCheckKey(AssetKey([PROFILE, study, "clean_result"]), "writeup_lint")
            record = opened.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
            assert record.status == CheckStatus.SUCCEEDED


@pytest.mark.parametrize("study", ["small", "large"])
def test_report_says_where_it_is_and_what_it_claims(site: Site, study: str, tmp_path: Path) -> None:
    done = site.cli("report", study, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    headline, page, markdown, overview = done.stdout.splitlines()
    assert f"# {headline}\n" in Path(markdown.removeprefix("Markdown: ")).read_text(encoding="utf-8")
    assert Path(page.removeprefix("Page:").strip()).read_text(encoding="utf-8").count("<h1>") == 1
    assert Path(overview.removeprefix("Overview: ")).read_text(encoding="utf-8").count("<h1>") == 1
    assert MANIFEST in {file.name for file in report_of(site, study).parent.iterdir()}


def test_report_of_a_study_that_was_not_run_says_what_to_do(base_site: Site) -> None:
    done = base_site.cli("report", "small")
    assert done.returncode == 1
    assert done.stderr == "persona-assets: small has no write-up yet: run `persona-assets run small` first.\n"


def test_report_says_when_an_input_has_changed(site: Site, tmp_path: Path) -> None:
    changed = site.copy(tmp_path / "site")
    changed.edit(f"{PROFILE}/large.yaml", lambda content: content["analysis"].update(slope_tolerance=0.5))
    assert "has changed since: run `persona-assets run large` again." in changed.cli("report", "large").stdout
    assert "has changed since" not in changed.cli("report", "small").stdout


def test_lint_passes_what_was_written_and_lists_what_was_changed(site: Site, tmp_path: Path) -> None:
    good = site.cli("lint", str(report_of(site, "large")))
    assert (good.returncode, good.stdout) == (0, "Nothing to complain about.\n"), good.stderr
    text = report_of(site, "large").read_text(encoding="utf-8")
    broken = re.sub(r"(with a mean of 0\.\d)\d<!--", r"\1x<!--", text).replace("**Main takeaways:**", "Takeaways:", 1)
    assert broken != text
    file = tmp_path / "elsewhere.md"
    file.write_text(broken, encoding="utf-8")
    done = site.cli("lint", str(file))
    assert done.returncode == 1
    first, second, count = done.stdout.splitlines()
    lines = broken.split("\n")
    assert count == "2 findings"
    for finding, rule, there in ((first, "takeaways", "## Result: how often"), (second, "number", "with a mean of 0.")):
        place = re.match(rf"{re.escape(str(file))}:(\d+): {rule}: ", finding)
        assert place, finding
        assert there in lines[int(place[1]) - 1]


def test_lint_needs_a_write_up(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other.md"
    other.write_text("# Not one\n", encoding="utf-8")
    for file, said in ((other, "does not say which study it is about"), (tmp_path / "none.md", "cannot be read")):
        done = site.cli("lint", str(file))
        assert done.returncode == 1
        assert done.stderr.startswith("persona-assets: ")
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_a_write_up_that_fails_the_lint_blocks(site: Site, tmp_path: Path) -> None:
    """Published whole and intact, but with a number that no table holds."""
    doctored = site.copy(tmp_path / "site")
    with doctored.opened() as opened:
        products, study = opened.deployment.products, opened.deployment.catalog.study("large")
        product = products.clean_result(study)
        with products.store.staging(product) as staging:
            for name in ("report.md", "report.html"):
                shutil.copy(report_of(doctored, "large").with_name(name), staging / name)
            text = (staging / "report.md").read_text(encoding="utf-8")
            changed = re.sub(r"(with a mean of 0\.\d)\d<!--", r"\1x<!--", text)
            assert changed != text
            (staging / "report.md").write_text(changed, encoding="utf-8")
            products.store.publish(product, staging, run_id="a test", facts={"headline": "none"})
        job = opened.deployment.definitions.resolve_implicit_global_asset_job_def()
        result = job.get_subset(asset_check_selection={CHECK}).execute_in_process(instance=opened.instance, raise_on_error=False)
        [evaluation] = result.get_asset_check_evaluations()
        assert not evaluation.passed
        assert evaluation.blocking
        assert evaluation.severity == AssetCheckSeverity.ERROR
        assert evaluation.metadata["findings"].value == 1
        assert "number: The text says" in (evaluation.description or "")
