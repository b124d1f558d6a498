"""Swapped weights in the graph: no merged model is needed, the cells are the same; and the comparison of engines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from dagster import AssetCheckKey, AssetKey
from deployments import PROFILE, SMALL, Opened, Site

from persona_assets.generation.swapping import AdapterSwapper

pytestmark = pytest.mark.slow
WAYS = {"transformers, swapped"}
CONTROLS = {"adapter left off", "adapter of another source"}


def completions(site: Site) -> dict[str, pl.DataFrame]:
    cells = site.lake / PROFILE / "small" / "eval_cells"
    return {source: pl.read_parquet(cells / f"source={source}/seed=42/measurement=1/completions.parquet") for source in SMALL}


def test_swapped_weights_need_no_merged_model_and_give_the_same_cells(small_site: Site, tmp_path: Path) -> None:
    site = small_site.copy(tmp_path / "site")
    merged = completions(site)
    for made in ("merged_model", "small/eval_cells", "small/tables/source_rates"):
        shutil.rmtree(site.lake / PROFILE / made)
    site.edit(f"{PROFILE}/profile.yaml", lambda content: content["runtime"].update(weights="swapped"))
    site.run("small")
    assert not (site.lake / PROFILE / "merged_model").exists()
    swapped = completions(site)
    for source in SMALL:
        assert swapped[source].equals(merged[source]), source
    measurements = pl.read_parquet(site.lake / PROFILE / "small" / "tables" / "source_rates" / "measurements.parquet")
    assert set(measurements["weights"]) == {"swapped"}
    status = json.loads(site.cli("status", "small", "--json").stdout)
    assert status
    assert not [row for row in status if "merged_model" in row["asset"]]
    assert all(row["done"] == row["total"] for row in status)


@contextmanager
def compared(site: Site) -> Iterator[tuple[pl.DataFrame, Opened]]:
    """Compare the engines of a site in this process."""
    with site.opened() as opened:
        job = opened.deployment.definitions.resolve_implicit_global_asset_job_def()
        subset = job.get_subset(asset_selection={AssetKey([PROFILE, "engine_parity"])})
        assert subset.execute_in_process(instance=opened.instance).success
        yield pl.read_parquet(site.lake / PROFILE / "engine_parity" / "engine_parity.parquet"), opened


def passed(opened: Opened) -> tuple[bool, str]:
    key = AssetCheckKey(AssetKey([PROFILE, "engine_parity"]), "engines_agree")
    record = opened.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    assert record.event is not None
    evaluation = record.event.dagster_event.event_specific_data
    return evaluation.passed, evaluation.description


def test_without_vllm_the_engines_that_are_there_are_compared(small_site: Site, tmp_path: Path) -> None:
    with compared(small_site.copy(tmp_path / "site")) as (table, opened):
        assert set(table.filter(pl.col("role") == "control")["way"]) == CONTROLS
        agrees = table.filter(pl.col("way").is_in(WAYS))
        assert set(agrees["way"]) == WAYS
        assert agrees["agrees"].drop_nulls().all()
        good, sentence = passed(opened)
        assert good, sentence
        assert "Not compared: vLLM, swapped (vLLM is not installed here)" in sentence


@pytest.mark.parametrize("fault", ["two adapters mixed up", "adapter left off"])
def test_a_wrong_adapter_is_caught(small_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    site = small_site.copy(tmp_path / "site")
    right = AdapterSwapper.attached
    adapters = [site.lake / PROFILE / "adapter" / "seed=42" / f"persona={name}" / "adapter" for name in SMALL[:2]]
    other = {adapters[0]: adapters[1], adapters[1]: adapters[0]}
    monkeypatch.setattr(
        AdapterSwapper,
        "attached",
        lambda swapper, adapter: right(swapper, other.get(adapter) if fault.startswith("two") else None),
    )
    with compared(site) as (table, opened):
        wrong = table.filter(pl.col("way").is_in(WAYS), ~pl.col("agrees"))
        assert not wrong.is_empty()
        good, sentence = passed(opened)
        assert not good
        assert "transformers, swapped differs from transformers, merged" in sentence
