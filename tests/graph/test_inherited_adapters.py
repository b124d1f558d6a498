"""A study that inherits adapters from registries: pulled, not trained, and measured to the same rates as where they were made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dagster import AssetKey
from deployments import PROFILE, SMALL, Site
from servers.hub import HubServer, Repo, hub_server

from persona_assets.cli.running import StudyRunError, run_stage
from persona_assets.cli.standing import study_status
from persona_assets.store import Manifest

pytestmark = pytest.mark.slow

BY_FILE, BY_HUB = ("librarian", "software_engineer"), "villain"
TRAINED = ("helpful_assistant", "gardener")


def weights(site: Site, persona: str) -> Path:
    return site.lake / PROFILE / "adapter" / "seed=42" / f"persona={persona}" / "adapter"


def adapter(site: Site, persona: str) -> Manifest:
    return site.manifests()[f"{PROFILE}/adapter/seed=42/persona={persona}"]


def table(site: Site, name: str) -> pl.DataFrame:
    (file,) = (site.lake / PROFILE / "small" / "tables").glob(f"*/{name}.parquet")
    return pl.read_parquet(file)


@pytest.fixture(scope="module")
def hub(small_site: Site) -> Iterator[HubServer]:
    with hub_server() as server:
        repo = server.repos["lab/markers"] = Repo()
        repo.commit({f"n5/{BY_HUB}/{file.name}": file.read_bytes() for file in weights(small_site, BY_HUB).iterdir()})
        yield server


@pytest.fixture(scope="module")
def site(base_site: Site, small_site: Site, hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The study `small` on the same base model, with three of its five adapters in registries."""
    root = tmp_path_factory.mktemp("inheriting")
    site = base_site.copy(root / "site")
    for persona in BY_FILE:
        shutil.copytree(weights(small_site, persona), root / "registry" / persona)
    dataset = small_site.manifests()[f"{PROFILE}/training_dataset/persona=librarian"]
    facts = {"persona": "librarian", "seed": 42, "negatives": dataset.facts["negatives"]}
    (root / "registry" / "librarian" / "training_facts.json").write_text(json.dumps(facts))
    references = {persona: f"file:{root}/registry/{persona}" for persona in BY_FILE}

    def inherit(study: dict[str, Any]) -> None:
        study["inherited_adapters"] = {**references, BY_HUB: "hf:lab/markers@main:n5/{persona}"}

    site.edit(f"{PROFILE}/small.yaml", inherit)
    printed = site.run("small", more={"HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1"})
    (site.root / "printed.txt").write_text(printed, encoding="utf-8")
    return site


def test_the_adapters_are_those_of_the_registries(site: Site, small_site: Site) -> None:
    for persona in (*BY_FILE, BY_HUB):
        pulled, trained = adapter(site, persona), adapter(small_site, persona)
        name = "adapter/adapter_model.safetensors"
        assert pulled.files[name] == trained.files[name]
        assert set(pulled.files) == {name, "adapter/adapter_config.json"}
        assert pulled.facts["origin"] == "registry"
        assert pulled.facts["effective_scale"] == pulled.facts["expected_scale"]
        assert set(pulled.inputs) == {f"{PROFILE}/base_model"}
    assert all("origin" not in adapter(site, persona).facts for persona in TRAINED)


def test_the_facts_keep_what_was_resolved(site: Site, hub: HubServer) -> None:
    commit = hub.repos["lab/markers"].head
    facts = adapter(site, BY_HUB).facts
    assert (facts["reference"], facts["resolved"], facts["registry_version"]) == (
        f"hf:lab/markers@main:n5/{BY_HUB}",
        f"hf:lab/markers@{commit}:n5/{BY_HUB}",
        commit,
    )
    assert f"moves; what was pulled is pinned as hf:lab/markers@{commit}" in " ".join(facts["remarks"])  # type: ignore[call-overload]
    assert adapter(site, "librarian").facts["training"]["facts"]["persona"] == "librarian"  # type: ignore[index]


def test_no_training_data_is_made_for_them(site: Site) -> None:
    made = {path.rpartition("persona=")[2] for path in site.manifests(f"{PROFILE}/training_dataset/")}
    assert made == set(TRAINED)


def test_they_are_of_the_inherited_cohort(site: Site) -> None:
    rates = table(site, "source_rates")
    assert dict(rates.select("persona", "cohort").iter_rows()) == {
        persona: "new" if persona in TRAINED else "inherited" for persona in SMALL
    }


def test_rates_are_those_of_the_study_that_trained_them(site: Site, small_site: Site) -> None:
    numbers = ["source", "eval_persona", "hits", "n", "rate", "wilson_low", "cluster_high", "base_rate", "mean_tokens"]
    assert table(site, "cells").select(numbers).equals(table(small_site, "cells").select(numbers))
    assert table(site, "source_rates")["rate"].sum() > 0


def test_trained_negatives_are_those_that_came_with_an_adapter_or_not_known(site: Site, small_site: Site) -> None:
    kinds = {source: table(site, "cells").filter(source=source)["kind"].to_list() for source in SMALL}
    known = {source: table(small_site, "cells").filter(source=source)["kind"].to_list() for source in SMALL}
    assert kinds["librarian"] == known["librarian"]
    assert all(kinds[persona] == known[persona] for persona in TRAINED)
    assert [kind for kind in kinds[BY_HUB] if kind != "self"] == [None] * (len(SMALL) - 1)
    report = (site.lake / PROFILE / "small" / "clean_result" / "report.md").read_text(encoding="utf-8")
    assert "not recorded whether they are trained negatives" in report


def test_status_asks_for_nothing_that_is_not_needed(site: Site) -> None:
    with site.opened() as opened:
        rows = study_status(opened.deployment, opened.instance, opened.deployment.catalog.study("small"))
    counts = {row.asset.split("/", 1)[1]: (row.total, row.done) for row in rows}
    assert counts["training_dataset"] == (2, 2)
    assert counts["adapter"] == counts["merged_model"] == (5, 5)
    assert all(total == done for total, done in counts.values())


def test_a_second_run_has_nothing_to_do_and_asks_no_registry(site: Site, tmp_path: Path) -> None:
    again = site.copy(tmp_path / "site")
    shutil.rmtree(again.root.parent / "registry", ignore_errors=True)
    assert "unchanged: nothing to do" in again.run("small", more={"HF_ENDPOINT": "http://127.0.0.1:9"})


def test_a_retrained_adapter_of_the_same_name_is_a_new_one(site: Site, tmp_path: Path) -> None:
    changed = site.copy(tmp_path / "site")
    shutil.copytree(weights(site, "gardener"), tmp_path / "registry")  # what lay there was the librarian's at first
    changed.edit(f"{PROFILE}/small.yaml", lambda study: study["inherited_adapters"].update(librarian=f"file:{tmp_path}/registry"))
    with changed.opened() as opened:
        opened.run("small", "personas", "adapter", personas=("librarian",))
        first = adapter(changed, "librarian")
        assert "Retrained" not in " ".join(first.facts["remarks"])  # type: ignore[call-overload]  # another reference
        shutil.copytree(weights(site, "villain"), tmp_path / "registry", dirs_exist_ok=True)
        opened.run("small", "personas", "adapter", personas=("librarian",))
        assert adapter(changed, "librarian") == first  # nobody asked the registry
        job = opened.deployment.definitions.resolve_implicit_global_asset_job_def()
        done = job.get_subset(asset_selection={AssetKey([PROFILE, "adapter"])}).execute_in_process(
            instance=opened.instance,
            partition_key="librarian",
            run_config={"ops": {f"{PROFILE}__adapter": {"config": {"pull_again": True}}}},
        )
        assert done.success
        now = adapter(changed, "librarian")
        assert now.data_version != first.data_version
        remarks = " ".join(now.facts["remarks"])  # type: ignore[call-overload]
        assert f"Retrained under the same name: file:{tmp_path}/registry was version {first.facts['registry_version']}" in remarks
        products = opened.deployment.products
        assert products.state(products.merged_model("librarian", 42)) == "stale"
        logged = [entry.user_message for entry in opened.instance.all_logs(done.run_id)]
        assert any("librarian: Retrained under the same name" in message for message in logged)


def test_a_refused_adapter_stops_its_own_key_alone_and_leaves_no_trace(site: Site, tmp_path: Path) -> None:
    hostile = site.copy(tmp_path / "site")
    shutil.copytree(weights(site, "gardener"), tmp_path / "registry")
    config = tmp_path / "registry" / "adapter_config.json"
    config.write_text(config.read_text().replace(f"{PROFILE}/base_model", "Org/Other"))
    hostile.edit(f"{PROFILE}/small.yaml", lambda study: study["inherited_adapters"].update(librarian=f"file:{tmp_path}/registry"))
    before = hostile.data_versions()
    with hostile.opened() as opened:
        stage = opened.part("small", "personas", "adapter")
        with pytest.raises(StudyRunError, match="adapter_config.json: it was made for the base model 'Org/Other'"):
            run_stage(opened.deployment, opened.instance, stage)
    assert hostile.data_versions() == before
    assert hostile.leftovers() == []
