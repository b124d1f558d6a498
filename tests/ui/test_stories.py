"""The stories of a user of the Dagster UI, in a real browser against a real web server and daemon.

Every step leaves a picture in test-pictures/ui (or PERSONA_TEST_PICTURES).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from browsers import needs_browser
from deployments import LARGE, PROFILE, SMALL
from playwright.sync_api import expect
from serving import Server, Visits
from stories import (
    CHAIN,
    FAILED,
    GOOD,
    OWNERS,
    UNTOUCHED,
    Stage,
    make_what_cells_are_made_from,
    make_what_large_is_compared_with,
)

from persona_assets.store import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ui"), needs_browser]
SELECTION = f'key:"{PROFILE}/training_answers"+ and +key:"{PROFILE}/larger/eval_cells"'
LEFT_OUT = ("eval_cells", "marker_scores", "publication")
ANALYSIS = " and ".join([f'group:"{PROFILE}_small"', *(f'not key:"{PROFILE}/small/{name}"' for name in LEFT_OUT)])
SCHEDULE = f"measure_inherited_adapters_of_{PROFILE}_large_again"


def test_materialize_the_chain_of_a_persona(visits: Visits, server: Server) -> None:
    """From the study's group to the loss curve and the rate of one persona."""
    before = server.site.manifests()
    with visits.story("1_persona") as visit:
        visit.group("larger")
        visit.see("overview", exact=True)
        visit.picture("group")
        visit.open("/asset-groups")
        visit.see("Global asset lineage")
        visit.see(f"{PROFILE}_larger")
        expect(visit.page.get_by_text("fetching statuses")).to_have_count(0, timeout=60_000)
        visit.picture("lineage")
        visit.filter_assets(SELECTION)
        visit.click("Materialize all…")
        visit.see("Launch runs to materialize 5 assets")
        visit.choose_partition(UNTOUCHED)
        visit.see("1 partition", within=visit.dialog())
        visit.picture("partition")
        visit.click("Launch")
        made = server.wait_for(
            f"the cells of {UNTOUCHED}", lambda: server.materialization("larger", "eval_cells", partition=UNTOUCHED)
        )
        visit.open(f"/runs/{made['runId']}")
        visit.see(f"eval_cells 1/1 {UNTOUCHED}")
        visit.picture("run")
        visit.asset("adapter", view="partitions", partition=UNTOUCHED)
        visit.see("final_loss")
        visit.see("tokens_per_second")
        visit.picture("adapter")
        visit.show_picture("loss_curve")
        visit.picture("loss_curve")
        visit.asset("larger", "eval_cells", view="partitions", partition=UNTOUCHED)
        visit.see("source_rate")
        visit.picture("rate")
    now = server.site.manifests()
    assert {path: now[path] for path in before} == before
    own = {f"{PROFILE}/{asset}{'/seed=42' if asset in CHAIN[2:] else ''}/persona={UNTOUCHED}" for asset in CHAIN}
    assert set(now) - set(before) == {*own, f"{PROFILE}/larger/eval_cells/source={UNTOUCHED}/seed=42/measurement=1"}
    rates = [entry["floatValue"] for entry in made["metadataEntries"] if entry["label"] == "source_rate"]
    facts = now[f"{PROFILE}/larger/eval_cells/source={UNTOUCHED}/seed=42/measurement=1"].facts
    assert rates == [facts["source_rate"]]


def test_materialize_the_analysis(visits: Visits, server: Server) -> None:
    """From measured cells to figures, gate checks and the overview that links to the write-up."""
    with visits.story("1_analysis") as visit:
        visit.group("small")
        visit.see("overview", exact=True)
        visit.filter_assets(ANALYSIS)
        visit.picture("before")
        visit.click("Materialize all")
        made = server.wait_for("the overview", lambda: server.materialization("small", "overview"), 300)
        assert server.wait_for("the end of the run", lambda: server.run_status(made["runId"]) not in ("STARTED", "STARTING"))
        assert server.run_status(made["runId"]) == "SUCCESS"
        visit.group("small")
        visit.see("overview", exact=True)
        visit.picture("done")
        visit.asset("small", "figures")
        visit.show_picture("rate_heatmap")
        visit.picture("figure")
        visit.asset("small", "gates", view="checks")
        visit.see("Checks (10)")
        visit.see("gate_a_split_b_layer_2").click()
        visit.see("Preregistered gate A on split B, layer 2")
        visit.picture("gate")
        visit.asset("small", "overview")
        visit.see("bucket", exact=True)
        for owner in OWNERS:
            visit.see(owner.removeprefix("team:"))
        visit.picture("overview")
        with visit.page.context.expect_page() as opened:
            visit.page.get_by_role("link", name=re.compile("overview.html")).first.click()
        visit.page = opened.value
        expect(visit.page.locator("h1")).to_contain_text("study small")
        visit.picture("overview_page")
        visit.page.get_by_role("link", name="the write-up").click()
        visit.see("Human TL;DR")
        visit.picture("write_up")


def test_backfill_what_is_missing_or_failed(visits: Visits, server: Server) -> None:
    """One persona is measured, one failed, the others are missing; afterwards nothing is, and the good one is untouched."""
    make_what_cells_are_made_from(server.site, UNTOUCHED)
    cells, everyone = f"{PROFILE}/larger/eval_cells/", len(LARGE) + 2
    before = server.site.manifests(cells)
    assert f"{cells}source={GOOD}/seed=42/measurement=1" in before
    with visits.story("2_backfill") as visit:
        visit.asset("larger", "eval_cells", view="partitions")
        visit.see("Failed (1)")
        visit.see(f"Missing ({everyone - 1 - len(before)})")
        visit.picture("before")
        visit.see(FAILED, exact=True).click()
        visit.click("View logs")
        visit.see("Free some space, or set PERSONA_LAKE to a larger disk")
        visit.picture("failed")
        visit.click("Done")
        visit.click("Materialize…")
        visit.dialog().get_by_text("Failed and missing", exact=True).click()
        visit.see(f"{everyone - len(before)} partitions", within=visit.dialog())
        visit.picture("failed_and_missing")
        visit.click("Launch")
        server.wait_for("the end of the backfill", lambda: _all_are_tried(server.partitions("larger", "eval_cells")), 300)
        visit.asset("larger", "eval_cells", view="partitions", partition=FAILED)
        for count in ("Missing (0)", "Failed (0)", f"Materialized ({everyone})"):
            visit.see(count, patience=30)
        visit.picture("after")
    now = server.site.manifests(cells)
    assert {path: now[path] for path in before} == before  # fingerprint, data version, run and time of what was good
    assert len(now) == everyone


def _all_are_tried(count: Mapping[str, int]) -> bool:
    """Say whether no partition is at work or still to be done; one that failed then is one too many."""
    return count["materializing"] == 0 and count["materialized"] + count["failed"] == count["partitions"]


def test_switch_the_re_evaluation_on(visits: Visits, server: Server) -> None:
    """A tick of the schedule measures the inherited adapters again; what follows is computed by itself, and judged."""
    make_what_large_is_compared_with(server.site)
    cells, drift, write_up = (f"{PROFILE}/large/{part}" for part in ("eval_cells/", "tables/remeasurement_drift", "clean_result"))
    before, drift_before, written_before = server.site.manifests(cells), *map(server.site.data_versions, (drift, write_up))
    with visits.story("3_schedule") as visit:
        visit.open("/automation")
        visit.see(SCHEDULE)
        visit.picture("automations")
        visit.open(f"/locations/persona/schedules/{SCHEDULE}")
        visit.see(f"Measures the {len(SMALL)} adapters that the study large inherited once more")
        visit.page.locator("label:has(input[type=checkbox])").first.click()
        visit.see("Next tick")
        visit.picture("switched_on")
        visit.click("Preview tick result")
        visit.see("Select an evaluation time to simulate")
        ticks = visit.page.get_by_text("6:00 AM UTC").filter(visible=True)
        ticks.last.click()
        visit.settle()
        ticks.last.click()  # a tick to come: what was measured after a past one is not measured again for it
        visit.click("Continue")
        visit.see("1 run requests")
        visit.picture("requested")
        visit.click("Launch all")
        visit.see("Run id is")
        visit.picture("run_queued")
        made = server.wait_for(
            "the second measurement",
            lambda: _another_than(server.materialization("large", "eval_cells", partition=SMALL[-1]), before),
        )
        visit.open(f"/runs/{made['runId']}")
        visit.see(f"eval_cells {len(SMALL)}/{len(SMALL)}")
        visit.picture("run")
        visit.asset("large", "eval_cells", view="partitions", partition=SMALL[0])
        visit.see("measurement", exact=True)
        visit.picture("new_measurement")
        server.wait_for("the results", lambda: server.site.data_versions(drift) != drift_before or None, 300)
        visit.asset("large", "remeasurement_drift", view="checks")
        visit.see("The preregistered drift test against the first measurement did not fire")
        visit.see("no_drift_since_first_measurement")
        visit.see("verdict", exact=True)
        visit.picture("verdict")
        visit.asset("large", "remeasurement_drift")
        visit.see("verdict_first")
        for column in ("rate_before", "rate_now"):  # of the table that is shown, below the list of its columns
            visit.page.get_by_text(column, exact=True).last.scroll_into_view_if_needed()
        visit.picture("both_measurements")
        server.wait_for("the write-up", lambda: server.site.data_versions(write_up) != written_before or None, 300)
    report = (server.site.lake / write_up / "report.md").read_text(encoding="utf-8")
    assert "Measured again, against the first measurement" in report
    now = server.site.manifests(cells)
    assert {path: now[path] for path in before} == before
    assert set(now) - set(before) == {f"{cells}source={source}/seed=42/measurement=2" for source in SMALL}


def _another_than(made: dict[str, Any] | None, before: Mapping[str, Manifest]) -> dict[str, Any] | None:
    runs = {manifest.run_id for manifest in before.values()}
    return made if made is not None and made["runId"] not in runs else None


SAID = {
    "no model": "Cannot get lab/absent at .*: there is no such repository, .*: correct base_model.repo_id, or set HF_TOKEN",
    "registry": f"{FAILED}: hf:lab/markers@main:{FAILED}: the Hub does not accept the key in HF_TOKEN: set another",
    "no gpu": "runtime.device: 'cuda' is asked for, but torch sees no GPU here; set it to 'auto' or 'cpu'",
    "disk": "The disk is full: .* Free some space, or set PERSONA_LAKE to a larger disk, then run what failed again",
}


def test_a_failure_says_what_to_do(visits: Visits, stage: Stage) -> None:
    """The run of each failure shows the message above its stack trace."""
    with visits.story("4_failures") as visit:
        for what, run in stage.failed.items():
            visit.open(f"/runs/{run.run_id}")
            visit.page.get_by_text(re.compile(SAID[what])).filter(visible=True).first.wait_for()
            visit.picture(what.replace(" ", "_"))


def test_the_launchpad_refuses_what_it_does_not_know(visits: Visits) -> None:
    """Before anything is started: the field is named, and nothing can be launched until the value is one there is."""
    with visits.story("5_launchpad") as visit:
        visit.asset("training_answers")
        visit.launchpad()
        visit.see("Opens the registry that a reference names")  # what a resource is for stands beside the editor
        visit.picture("defaults")
        config = "resources:\n  model_runtime:\n    config:\n      device: {}\n"
        visit.configure(config.format("gpu"))
        visit.see("resources:model_runtime:config:device not in enum type Device got gpu")
        expect(visit.page.get_by_role("button", name="Materialize").last).to_be_disabled()
        visit.picture("refused")
        visit.configure(config.format("cpu"))
        visit.see("No errors")


def test_a_bad_study_file_is_shown_and_mended(visits: Visits, server: Server) -> None:
    """The UI names file, line, field and reason; after the correction everything is there again."""
    file = server.site.studies / PROFILE / "larger.yaml"
    good = file.read_text(encoding="utf-8")
    line = good[: good.index("parent:")].count("\n") + 1
    with visits.story("6_bad_study_file") as visit:
        file.write_text(good.replace("parent: large", "parent: larg"), encoding="utf-8")
        visit.open("/deployment/locations")
        visit.see("persona", exact=True)
        visit.click("Reload")
        visit.see(f"larger.yaml:{line}: parent: 'larg': there is no such study.")
        visit.see("Correct the file, then reload the code location.")
        visit.picture("error")
        file.write_text(good, encoding="utf-8")
        visit.click("Reload again")
        expect(visit.page.get_by_text("Code location error")).to_have_count(0, timeout=60_000)
        visit.see("Loaded", exact=True)
        visit.group("larger")
        visit.see("overview", exact=True)
        visit.settle()  # what the browser remembers is shown first
        expect(visit.page.get_by_text("Empty graph")).to_have_count(0)
        expect(visit.page.get_by_text("loaded with errors")).to_have_count(0)
        visit.see("overview", exact=True)
        visit.picture("mended")
