"""Measuring again adds a measurement beside the earlier ones, which stay to the last byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from dagster import AssetKey
from deployments import PROFILE, SMALL, Opened, Site

from persona_assets.assets.marker_scores import check_drawn_with
from persona_assets.assets.products import TABLE_PRODUCTS
from persona_assets.cli.running import StudyRunError
from persona_assets.errors import LakeError
from persona_assets.statistics.rates import CELLS_SCHEMA

pytestmark = pytest.mark.slow

REMEASURED = SMALL[1:3]


def measure_again(opened: Opened, personas: tuple[str, ...]) -> None:
    job = opened.deployment.definitions.resolve_implicit_global_asset_job_def()
    subset = job.get_subset(asset_selection={AssetKey([PROFILE, "small", "eval_cells"])})
    result = subset.execute_in_process(
        instance=opened.instance,
        tags={"dagster/asset_partition_range_start": personas[0], "dagster/asset_partition_range_end": personas[-1]},
        run_config={"ops": {f"{PROFILE}__small__eval_cells": {"config": {"new_measurement": True}}}},
    )
    assert result.success


def path(persona: str, number: int, product: str = "eval_cells") -> str:
    return f"{PROFILE}/small/{product}/source={persona}/seed=42/measurement={number}"


def test_a_new_measurement_stands_beside_the_first(small_site: Site, tmp_path: Path) -> None:
    site = small_site.copy(tmp_path / "site")
    before = site.manifests()
    with site.opened() as opened:
        measure_again(opened, REMEASURED)
        now = site.manifests()
        assert {p: now[p] for p in before} == before
        assert set(now) - set(before) == {path(persona, 2) for persona in REMEASURED}
        for persona in REMEASURED:
            first, second = (pl.read_parquet(site.store.open(path(persona, n)) / "completions.parquet") for n in (1, 2))
            assert set(second["measurement"]) == {2}
            assert second.drop("text").height == first.height
            assert second["text"].to_list() != first["text"].to_list()  # other draws ...
            assert not set(second["sampling_seed"]) & set(first["sampling_seed"])
            identities = [dict(now[path(persona, n)].facts["identity"]) for n in (1, 2)]  # type: ignore[call-overload]
            assert identities[0] == identities[1]  # ... under the same conditions

        # No cell is due now, what there is is the latest measurement of the wanted identity; but its replies are not scored.
        opened.run("small", "eval cells")
        scored = site.manifests()
        assert {p: scored[p] for p in now} == now
        assert set(scored) - set(now) == {path(persona, 2, "marker_scores") for persona in REMEASURED}
        now = scored

        opened.run("small", "analysis", "source_rates", "remeasurement_drift", "retest")
        retest = pl.read_parquet(site.store.open(f"{PROFILE}/small/tables/retest") / "retest.parquet")
        assert set(retest["note"]) == {"not estimable: 2 sources, at least 4 needed"}  # the other three were measured once
        tables = site.store.open(f"{PROFILE}/small/tables/source_rates")
        used = {row["source"]: row["measurement"] for row in pl.read_parquet(tables / "measurements.parquet").to_dicts()}
        assert used == {persona: 2 if persona in REMEASURED else 1 for persona in SMALL}
        drift = site.store.open(f"{PROFILE}/small/tables/remeasurement_drift")
        compared = pl.read_parquet(drift / "remeasurement_drift.parquet")
        assert set(compared["persona"]) == set(REMEASURED)
        assert compared["same_identity"].all() and compared["same_adapter"].all()
        own = {row["persona"]: row["rate"] for row in pl.read_parquet(tables / "source_rates.parquet").to_dicts()}
        assert all(row["rate_now"] == own[row["persona"]] for row in compared.to_dicts())
        history = pl.read_parquet(drift / "measurement_history.parquet")
        assert history.height == len(SMALL) + len(REMEASURED)
        verdicts = pl.read_parquet(drift / "remeasurement_tests.parquet").filter("registered")["verdict"]
        assert set(verdicts) <= {"drift", "no_drift"}

        cells = pl.read_parquet(tables / "cells.parquet")
        assert cells.height == len(SMALL) ** 2
        second = pl.read_parquet(site.store.open(path(REMEASURED[0], 2)) / "completions.parquet")
        hits = cells.filter(pl.col("source") == REMEASURED[0]).sort("eval_persona")["hits"].to_list()
        assert hits == second.group_by("eval_persona").agg(pl.col("hit").sum()).sort("eval_persona")["hit"].to_list()

        measure_again(opened, REMEASURED[:1])
        third = site.manifests()
        assert {p for p in third if p not in now} == {path(REMEASURED[0], 3)}
        assert {p: third[p] for p in now if "tables" not in p} == {p: now[p] for p in now if "tables" not in p}


def test_another_way_to_measure_adds_a_measurement(small_site: Site, tmp_path: Path) -> None:
    site = small_site.copy(tmp_path / "site")
    before = site.manifests()
    site.edit(f"{PROFILE}/profile.yaml", lambda content: content["evaluation"]["sampling"].update(temperature=0.5))
    with site.opened() as opened:
        opened.run("small", "eval cells", personas=SMALL[:1])
    now = site.manifests()
    assert {p: now[p] for p in before} == before
    assert set(now) - set(before) == {path(SMALL[0], 2), path(SMALL[0], 2, "marker_scores")}

    reason = "the temperature does not matter here"
    with site.opened() as opened, pytest.raises(StudyRunError, match=r"one_measurement_identity(.|\n)*temperature: 0.5, 1.0"):
        opened.run("small", "analysis", "source_rates")
    (site.studies / PROFILE / "words.txt").write_text("the librarian met a gardener and a villain", encoding="utf-8")
    site.edit(
        f"{PROFILE}/small.yaml",
        lambda content: content["analysis"].update(identity_override=reason, reference_corpus="words.txt"),
    )
    with site.opened() as opened:
        opened.run("small", "analysis", *TABLE_PRODUCTS, "figures", "clean_result")
    tables = site.store.directory(f"{PROFILE}/small/tables")
    outcome = pl.read_parquet(tables / "gates/outcome.parquet").row(0, named=True)
    assert outcome["identity_override"] == reason
    assert "analysis.reference_corpus" in outcome["plan_changes"]
    notes = pl.read_parquet(tables / "regressions/regressions.parquet").filter(statistic="partial_multi")["note"]
    assert not any("no reference corpus" in note for note in notes)
    assert reason in (site.lake / PROFILE / "small/clean_result/report.md").read_text(encoding="utf-8")


def test_scores_stand_beside_the_rates_and_change_none_of_them(small_site: Site, tmp_path: Path) -> None:
    site = small_site.copy(tmp_path / "site")

    def tables() -> dict[str, pl.DataFrame]:
        directory = site.store.open(f"{PROFILE}/small/tables/source_rates")
        return {file.stem: pl.read_parquet(file) for file in directory.glob("*.parquet")}

    having = tables()
    assert having["source_scores"]["persona"].to_list() == list(SMALL)
    assert having["cells"]["n_scored"].null_count() == 0
    for persona in SMALL:
        scores = pl.read_parquet(site.store.open(path(persona, 1, "marker_scores")) / "scores.parquet")
        own = scores.filter(pl.col("eval_persona") == persona, pl.col("status") == "scored")
        row = having["source_scores"].filter(persona=persona).row(0, named=True)
        assert row["n_scored"] == own.height
        assert row["marker_margin"] == pytest.approx(own["marker_margin"].mean())
    # An adapter that learned to say the marker makes it likelier under its own persona than the base model has it.
    assert having["source_scores"]["marker_log_prob"].min() > 1.0  # type: ignore[operator]

    shutil.rmtree(site.lake / PROFILE / "small" / "marker_scores")
    with site.opened() as opened:
        opened.run("small", "analysis", "source_rates")
    without = tables()
    assert without["source_scores"].is_empty()
    assert without["cells"]["n_scored"].null_count() == len(SMALL) ** 2
    assert without["source_rates"].equals(having["source_rates"])
    rates = [name for name in having["cells"].columns if name in CELLS_SCHEMA]
    assert without["cells"].select(rates).equals(having["cells"].select(rates))
    assert without["measurements"].equals(having["measurements"])


def test_an_adapter_that_did_not_draw_the_replies_is_refused(small_site: Site) -> None:
    cells = small_site.manifests()[path(SMALL[0], 1)]
    identity = dict(cells.facts["identity"])  # type: ignore[call-overload]
    check_drawn_with(cells, identity["adapter_digest"], identity["base_digest"])
    other = dict(small_site.manifests()[path(SMALL[1], 1)].facts["identity"])["adapter_digest"]  # type: ignore[call-overload]
    with pytest.raises(LakeError, match="another adapter"):
        check_drawn_with(cells, other, identity["base_digest"])
    with pytest.raises(LakeError, match="another base model"):
        check_drawn_with(cells, identity["adapter_digest"], "0" * 64)
