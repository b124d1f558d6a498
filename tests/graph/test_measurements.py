"""Measuring again adds a measurement beside the earlier ones, which stay to the last byte."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from dagster import AssetKey
from deployments import PROFILE, SMALL, Opened, Site

from persona_assets.assets.products import TABLE_PRODUCTS
from persona_assets.cli.running import StudyRunError

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


def path(persona: str, number: int) -> str:
    return f"{PROFILE}/small/eval_cells/source={persona}/seed=42/measurement={number}"


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

        # Nothing is due now: what there is is the latest measurement of the wanted identity.
        opened.run("small", "eval cells")
        assert site.manifests() == now

        opened.run("small", "analysis", "source_rates", "remeasurement_drift")
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
    assert set(now) - set(before) == {path(SMALL[0], 2)}

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
