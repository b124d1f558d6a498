"""A researcher appends a persona and adds a study for it: nothing that was there is made again or changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from textwrap import indent

import pytest
import yaml
from dagster import AssetKey
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from deployments import LARGE, PROFILE, Site

from persona_assets.assets.products import Products
from persona_assets.catalog import load_catalog
from persona_assets.cli.standing import study_status
from persona_assets.store import Product
from resources.lake import REPOSITORY, Lake

pytestmark = pytest.mark.slow

NEWCOMER = {"id": "beekeeper", "category": "occupational", "prompt": "You are a beekeeper with forty hives on a hill."}
PERSONA_PRODUCTS = (
    "training_answers",
    "training_dataset",
    "adapter/seed=42",
    "merged_model/seed=42",
    "layer_centroids",
    "base_cells",
)


@pytest.fixture(scope="module")
def site(large_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The deployment after the two edits of a user, and nothing else."""
    site = large_site.copy(tmp_path_factory.mktemp("newcomer") / "site")
    with (site.studies / "personas.yaml").open("a", encoding="utf-8") as file:
        file.write(yaml.safe_dump([NEWCOMER]))
    study = yaml.safe_load((site.studies / PROFILE / "large.yaml").read_text(encoding="utf-8"))
    study |= {"panel_size": len(LARGE) + 1, "parent": "large"}
    (site.studies / PROFILE / "larger.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    return site


def test_only_what_belongs_to_the_newcomer_is_missing(site: Site) -> None:
    with site.opened() as opened:
        for name in ("small", "large"):
            rows = study_status(opened.deployment, opened.instance, opened.deployment.catalog.study(name))
            assert all((row.done, row.missing, row.failed, row.stale) == (row.total, 0, 0, 0) for row in rows), name
        for row in study_status(opened.deployment, opened.instance, opened.deployment.catalog.study("larger")):
            own = row.asset.startswith(f"{PROFILE}/larger/")
            expected = row.total if own else 0 if row.asset.endswith("/base_model") else 1
            assert (row.missing, row.stale, row.failed) == (expected, 0, 0), row.asset
        graph = opened.deployment.definitions.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(opened.instance, graph, LoadingContextForTest(opened.instance))
        stale = [
            key.to_user_string()
            for key in graph.get_all_asset_keys()
            if key.path[1] in ("base_model", "small", "large") and graph.get(key).partitions_def is None
            if resolver.get_status(key) == StaleStatus.STALE
        ]
        assert stale == []


def test_backfilling_what_is_missing_trains_the_newcomer_and_nobody_else(site: Site) -> None:
    before = site.manifests()
    with site.opened() as opened:
        for stage in ("personas", "eval cells", "analysis"):
            opened.run("larger", stage)
        adapters = opened.instance.get_materialized_partitions(AssetKey([PROFILE, "adapter"]))
    now = site.manifests()
    assert {path: now[path] for path in before} == before
    added = {path for path in now if path not in before and not path.startswith(f"{PROFILE}/larger/")}
    assert added == {f"{PROFILE}/{product}/persona={NEWCOMER['id']}" for product in PERSONA_PRODUCTS}
    assert adapters == {*LARGE, NEWCOMER["id"]}
    cells = {path for path in now if path.startswith(f"{PROFILE}/larger/eval_cells/")}
    assert len(cells) == len(LARGE) + 1  # the new panel is a new eval persona for everyone


def test_the_shipped_panel_takes_a_newcomer_as_well(tmp_path: Path) -> None:
    """On the 48 personas themselves: the base model and all that is made for the others keep what they are made from."""

    def products(studies: Path) -> dict[str, Product]:
        found = Products(load_catalog(studies, PROFILE), Lake(root=str(tmp_path)))
        study = found.catalog.study("n48")
        shared = [make(persona) for persona in study.panel.ids for make in (found.training_answers, found.training_dataset)]
        seeded = [make(persona, 42) for persona in study.panel.ids for make in (found.adapter, found.merged_model)]
        return {
            product.path: product
            for product in (found.base_model(), *shared, *seeded, found.source_rates(study), found.gates(study))
        }

    shutil.copytree(REPOSITORY / "studies", tmp_path / "studies")
    before = products(tmp_path / "studies")
    with (tmp_path / "studies" / "personas.yaml").open("a", encoding="utf-8") as file:
        file.write(indent(yaml.safe_dump([NEWCOMER]), "  "))
    (tmp_path / "studies" / PROFILE / "n49.yaml").write_text(
        "panel_size: 49\nparent: n48\nanalysis:\n  primary_layers: [3, 2]\n", encoding="utf-8"
    )
    assert products(tmp_path / "studies") == before
    assert load_catalog(tmp_path / "studies", PROFILE).study("n49").cohort(NEWCOMER["id"]) == "new"
