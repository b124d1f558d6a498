"""What the UI says of every asset: what it is, its columns, where its files lie, numbers to plot, pictures that fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dagster import AssetKey, TableSchema
from deployments import PROFILE, SMALL, Opened, Site

from persona_assets.assets.metadata import COLUMN_SCHEMA, LAKE_ROUTE
from persona_assets.cli.running import plan_study
from persona_assets.table_guide import GUIDE_FILE, as_markdown, table_guide
from resources.lake import REPOSITORY

pytestmark = pytest.mark.slow

LARGEST_PICTURE = 300_000 * 4 / 3 + 100  # bytes of a png, in base64


@pytest.fixture(scope="module")
def opened(large_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    with large_site.copy(tmp_path_factory.mktemp("described") / "site").opened() as opened:
        yield opened


@pytest.fixture(scope="module")
def shown(opened: Opened) -> dict[str, Mapping[str, Any]]:
    """Metadata of the latest materialization of everything that a run of a study makes, by key without the profile."""
    found = {}
    studies = opened.deployment.catalog.studies.values()
    planned = {each.key for study in studies for stage in plan_study(opened.deployment, study) for each in stage.assets}
    for key in (*sorted(planned), AssetKey([PROFILE, "warehouse"])):
        event = opened.instance.get_latest_materialization_event(key)
        assert event is not None and event.asset_materialization is not None, key
        found["/".join(key.path[1:])] = event.asset_materialization.metadata
    return found


def real_tables(site: Path) -> dict[str, list[str]]:
    return {file.stem: pl.read_parquet_schema(file).names() for file in site.glob("*/tables/*/*.parquet")}


def test_every_asset_and_check_says_what_it_is(opened: Opened) -> None:
    graph = opened.deployment.definitions.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description and len(node.description) > 60, key
        assert node.description.rstrip().endswith("."), key
        assert node.kinds and len(node.kinds) <= 3, key
        assert node.code_version, key
        assert node.group_name.startswith(PROFILE), key
    for check in graph.asset_check_keys:
        assert graph.get(check).description, check


def test_owners_come_from_the_study_file(small_site: Site, tmp_path: Path) -> None:
    site = small_site.copy(tmp_path / "site")
    own = {"small": ["team:personas", "ada@example.org"], "large": ["team:personas", "ben@example.org"]}
    for study, owners in own.items():
        site.edit(f"{PROFILE}/{study}.yaml", lambda content, owners=owners: content.update(owners=owners))  # type: ignore[misc]
    with site.opened() as opened:
        graph = opened.deployment.definitions.resolve_asset_graph()
        for key in graph.get_all_asset_keys():
            everyone = ["team:personas", "ada@example.org", "ben@example.org"]
            assert graph.get(key).owners == (own[key.path[1]] if len(key.path) == 3 else everyone), key
        status = opened.deployment.products.state(opened.deployment.products.overview(opened.deployment.catalog.study("small")))
        assert status == "current"  # who answers for a study is no part of its plan


def test_the_guide_names_every_column_that_there_is(opened: Opened, large_site: Site) -> None:
    advice = f"describe it in {GUIDE_FILE.relative_to(REPOSITORY)}, then `python -m persona_assets.table_guide docs/tables.md`"
    guide, there = table_guide(), real_tables(large_site.lake / PROFILE)
    assert set(guide.tables) == {*there, "not_supported"}, advice  # which imported studies have
    for table, columns in there.items():
        assert list(guide.columns(table)) == columns, f"{table}: {advice}"
    profile = large_site.lake / PROFILE
    files = {file.name: file for file in profile.rglob("*.parquet") if "tables" not in file.parts}
    assert set(files) <= set(guide.files), advice  # others are written on request only
    for name, file in files.items():
        assert list(guide.columns(name)) == pl.read_parquet_schema(file).names(), f"{name}: {advice}"


def test_the_page_of_tables_is_the_guide() -> None:
    page = (REPOSITORY / "docs" / "tables.md").read_text(encoding="utf-8")
    assert page == as_markdown(table_guide()), "run `python -m persona_assets.table_guide docs/tables.md`"


def test_tables_show_their_columns_with_their_meaning(shown: dict[str, Mapping[str, Any]], large_site: Site) -> None:
    for file in (large_site.lake / PROFILE / "large" / "tables").glob("*/*.parquet"):
        metadata = shown[f"large/{file.parent.name}"]
        schemas = [value.value for value in metadata.values() if isinstance(value.value, TableSchema)]
        (schema,) = [s for s in schemas if [c.name for c in s.columns] == pl.read_parquet_schema(file).names()][:1]
        assert all(column.description for column in schema.columns), file
        assert COLUMN_SCHEMA in metadata
    for asset in ("training_answers", "base_cells", "large/eval_cells"):
        assert all(column.description for column in shown[asset][COLUMN_SCHEMA].value.columns), asset


def test_every_product_links_to_its_files(shown: dict[str, Mapping[str, Any]], large_site: Site) -> None:
    for asset, metadata in shown.items():
        assert Path(metadata["path"].value).exists(), asset
        link = metadata["files"].value
        assert link.startswith(f"{LAKE_ROUTE}/{PROFILE}/"), asset
        there = large_site.lake / link.removeprefix(f"{LAKE_ROUTE}/")
        assert there.is_file() if asset == "warehouse" else (there / "manifest.json").is_file(), asset


def test_numbers_to_plot_are_those_that_the_page_names(shown: dict[str, Mapping[str, Any]]) -> None:
    page = (REPOSITORY / "docs" / "read-a-result.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \| `(\w+)` \|", page.partition("## Numbers by persona")[2], re.MULTILINE)
    named = {(asset, number) for assets, number in rows for asset in re.findall(r"`(\w+)`", assets)}
    for asset, number in named:
        metadata = shown[f"large/{asset}" if asset == "eval_cells" else asset]
        assert isinstance(metadata[number].value, int | float), (asset, number)
    worth_it = {("eval_cells", "source_rate"), ("adapter", "final_loss"), ("adapter", "tokens_per_second")}
    assert worth_it | {(asset, "tokens_per_second") for asset in ("training_answers", "base_cells", "eval_cells")} <= named


def test_pictures_are_in_the_metadata_and_fit(shown: dict[str, Mapping[str, Any]]) -> None:
    sizes = {
        (asset, name): len(str(value.value))
        for asset, metadata in shown.items()
        for name, value in metadata.items()
        if str(value.value).startswith("![](data:image/png;base64,")
    }
    assert ("adapter", "loss_curve") in sizes
    assert ("large/overview", "rate_heatmap") in sizes
    assert len([name for asset, name in sizes if asset == "large/figures"]) > 10
    assert max(sizes.values()) <= LARGEST_PICTURE


def test_the_overview_holds_the_result(shown: dict[str, Mapping[str, Any]], opened: Opened) -> None:
    metadata = shown["small/overview"]
    study, products = opened.deployment.catalog.study("small"), opened.deployment.products
    gates = pl.read_parquet(products.store.open(products.gates(study).path) / "gates.parquet").filter("registered")
    outcome = pl.read_parquet(products.store.open(products.gates(study).path) / "outcome.parquet").row(0, named=True)
    assert (metadata["bucket"].value, metadata["confidence"].value) == (outcome["bucket"], outcome["confidence"])
    assert [record.data["gate"] for record in metadata["gates"].records] == gates["gate"].to_list()
    assert [record.data["persona"] for record in metadata["source_rates"].records] == list(SMALL)
    for name in ("overview_page", "write_up"):
        file = products.store.root / metadata[name].value.removeprefix(f"{LAKE_ROUTE}/")
        assert f"<h1>{metadata['headline'].value}</h1>" in file.read_text(encoding="utf-8").replace("&quot;", '"')


def test_run_logs_show_progress(opened: Opened) -> None:
    stage = plan_study(opened.deployment, opened.deployment.catalog.study("small"))[1]
    latest = opened.instance.get_latest_materialization_event(AssetKey([PROFILE, "adapter"]))
    assert latest is not None and stage.name == "personas"
    said = [entry.user_message for entry in opened.instance.all_logs(latest.run_id)]
    assert any("adapter 1/7 " in line for line in said)
    assert any(" s left" in line for line in said)
