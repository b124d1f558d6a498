"""Merged weights kept, kept until evaluated, or never written: cells are the same, and nothing becomes stale."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from deployments import PROFILE, SMALL, Site

from persona_assets.assets.cells import has_weights

pytestmark = pytest.mark.slow

PERSONA, OTHER = SMALL[0], SMALL[1]


def merged(persona: str) -> str:
    return f"{PROFILE}/merged_model/seed=42/persona={persona}"


def cells(persona: str) -> str:
    return f"{PROFILE}/small/eval_cells/source={persona}/seed=42/measurement=1"


def completions(site: Site, persona: str) -> pl.DataFrame:
    return pl.read_parquet(site.store.open(cells(persona)) / "completions.parquet")


def forget(site: Site, *personas: str) -> None:
    for persona in personas:
        for path in (merged(persona), cells(persona)):
            shutil.rmtree(site.store.directory(path))


def policy(site: Site, **fields: object) -> None:
    site.edit(f"{PROFILE}/profile.yaml", lambda content: content["runtime"].update(fields))


def test_never_written_weights_are_merged_in_memory_and_give_the_same_cells(small_site: Site, tmp_path: Path) -> None:
    site = small_site.copy(tmp_path / "site")
    before, identity = completions(site, PERSONA), site.store.verified(cells(PERSONA)).facts["identity"]
    forget(site, PERSONA)
    policy(site, merged_weights="never")
    with site.opened() as opened:
        opened.run("small", "personas", "merged_model", personas=(PERSONA,))
        opened.run("small", "eval cells", personas=(PERSONA,))
        product = opened.deployment.products.merged_model(PERSONA, 42)
        assert opened.deployment.products.state(product) == "current"
    manifest = site.store.verified(merged(PERSONA))
    assert set(manifest.files) == {"merge.json"}
    parts = json.loads((site.store.open(merged(PERSONA)) / "merge.json").read_text(encoding="utf-8"))
    adapter = site.store.verified(f"{PROFILE}/adapter/seed=42/persona={PERSONA}")
    assert parts["adapter"] == adapter.files["adapter/adapter_model.safetensors"]["sha256"]
    assert manifest.facts["max_abs_difference"] < manifest.facts["allowed_difference"]  # type: ignore[operator]
    assert completions(site, PERSONA).equals(before)
    assert site.store.verified(cells(PERSONA)).facts["identity"] == identity
    assert site.leftovers() == []


def test_weights_go_once_their_cells_are_measured_and_come_back_on_demand(small_site: Site, tmp_path: Path) -> None:
    site = small_site.copy(tmp_path / "site")
    before, version = completions(site, PERSONA), site.store.verified(merged(PERSONA)).data_version
    forget(site, PERSONA)
    policy(site, merged_weights="until_evaluated")
    with site.opened() as opened:
        opened.run("small", "personas", "merged_model", personas=(PERSONA,))
        assert has_weights(site.store, merged(PERSONA))
        opened.run("small", "eval cells", personas=(PERSONA,))
        assert not has_weights(site.store, merged(PERSONA))
        assert not list(site.store.directory(merged(PERSONA)).rglob("*.safetensors"))
        # The others were measured before the policy was changed: they go when their cells are found to be done.
        assert has_weights(site.store, merged(OTHER))
        opened.run("small", "eval cells")
        assert not has_weights(site.store, merged(OTHER))
        assert completions(site, PERSONA).equals(before)
        products = opened.deployment.products
        assert {products.state(products.merged_model(persona, 42)) for persona in SMALL} == {"current"}
        assert site.store.verified(merged(PERSONA)).data_version == version

        # Measured once more without the weights: merged in memory.
        shutil.rmtree(site.store.directory(cells(PERSONA)))
        opened.run("small", "eval cells", personas=(PERSONA,))
        assert completions(site, PERSONA).equals(before)

    policy(site, merged_weights="kept")
    with site.opened() as opened:
        opened.run("small", "personas", "merged_model", personas=(PERSONA,))
    assert has_weights(site.store, merged(PERSONA))
    assert site.store.verified(merged(PERSONA)).data_version == version


def test_no_more_than_the_stated_bytes_lie_on_disk(small_site: Site, tmp_path: Path) -> None:
    site = small_site.copy(tmp_path / "site")
    one = sum(file.stat().st_size for file in site.store.directory(merged(PERSONA)).rglob("*.safetensors"))
    forget(site, *SMALL)
    policy(site, merged_weights="until_evaluated", merged_weights_gib=2.5 * one / 2**30)
    with site.opened() as opened:
        opened.run("small", "personas", "merged_model")
    written = [persona for persona in SMALL if has_weights(site.store, merged(persona))]
    assert len(written) == 2
    for persona in SMALL:
        facts = site.store.verified(merged(persona)).facts
        assert facts["weights_written"] == (persona in written)
        assert 0 < facts["merged_bytes_on_disk"] <= facts["merged_bytes_limit"] == round(2.5 * one)  # type: ignore[operator]
