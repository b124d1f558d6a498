"""Publishing a study that was run for real: what travels, what never does, and the check that downloads it again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from dagster import AssetCheckKey, AssetKey
from deployments import PROFILE, SMALL, Opened, Site

from persona_assets.assets.products import TABLE_PRODUCTS, Products
from persona_assets.cli.running import StudyRunError, plan_study, stage_is_current
from persona_assets.hashing import sha256_file
from persona_assets.publication.record import RECORD_FILE
from resources.lake import Lake
from resources.publishing import PUBLISH_VARIABLE

pytestmark = pytest.mark.slow

KEY = AssetKey([PROFILE, "small", "publication"])
RECORD = f"{PROFILE}/small/publication"


@pytest.fixture(scope="module")
def published(small_site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Path]:
    """The study `small`, published to a directory by the command line; copy it before changing it."""
    root = tmp_path_factory.mktemp("published")
    site = small_site.copy(root / "site")
    printed = site.run("small", more={PUBLISH_VARIABLE: f"file:{root / 'registry'}"})
    (root / "printed.txt").write_text(printed, encoding="utf-8")
    return site, root / "registry"


@pytest.fixture
def opened(published: tuple[Site, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Opened, Path]]:
    """A copy of the deployment and of the place it publishes to."""
    site, registry = published
    # The registry's own path is in the record, so it is put back where it was after the test.
    kept = shutil.copytree(registry, tmp_path / "kept")
    monkeypatch.setenv(PUBLISH_VARIABLE, f"file:{registry}")
    with site.copy(tmp_path / "site").opened() as opened:
        yield opened, registry
    shutil.rmtree(registry)
    shutil.copytree(kept, registry)


def verification(opened: Opened) -> tuple[bool, str]:
    """How the check ended the last time."""
    key = AssetCheckKey(KEY, "upload_verification")
    record = opened.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    assert record.event is not None
    evaluation = record.event.asset_check_evaluation
    assert evaluation is not None
    return evaluation.passed, evaluation.description or ""


def test_everything_of_the_study_is_there_pinned_and_digested(published: tuple[Site, Path]) -> None:
    site, registry = published
    record = pl.read_parquet(site.store.open(RECORD) / RECORD_FILE)
    adapters = {f"{PROFILE}/adapter/seed42/{persona}" for persona in SMALL}
    assert set(record["bundle"]) == adapters | {
        f"{PROFILE}/small/{kind}" for kind in ("cells", "tables", "figures", "clean_result")
    }
    manifest = site.store.verified(RECORD)
    assert manifest.facts["references"] == dict(record.select("bundle", "reference").unique().iter_rows())
    assert manifest.facts["sent"] == len(adapters) + 4
    for row in record.to_dicts():
        file = Path(row["reference"].removeprefix("file:")) / row["file"]
        assert sha256_file(file) == row["sha256"], row
    tables = record.filter(bundle=f"{PROFILE}/small/tables")["file"].to_list()
    assert {name.split("/")[0] for name in tables} == {*TABLE_PRODUCTS, "contents.json"}
    cells = set(record.filter(bundle=f"{PROFILE}/small/cells")["file"]) - {"contents.json"}
    measured = {f"source={persona}/seed=42/measurement=1/completions.parquet" for persona in SMALL}
    assert cells == measured | {f"base/persona={persona}/completions.parquet" for persona in SMALL}
    assert {file for file in registry.rglob("*") if file.is_file()} == {
        Path(row["reference"].removeprefix("file:")) / row["file"] for row in record.to_dicts()
    }


def test_merged_weights_did_not_travel(published: tuple[Site, Path]) -> None:
    """Neither by name nor by content, the base model's included."""
    site, registry = published
    weights = [file for kind in ("merged_model", "base_model") for file in (site.lake / PROFILE / kind).rglob("*.safetensors")]
    assert len(weights) == len(SMALL) + 1
    digests = {sha256_file(file) for file in weights}
    sent = [file for file in registry.rglob("*") if file.is_file()]
    assert not digests & {sha256_file(file) for file in sent}
    assert {file.name for file in sent if file.suffix == ".safetensors"} == {"adapter_model.safetensors"}
    assert max(file.stat().st_size for file in sent if file.suffix == ".safetensors") < min(
        file.stat().st_size for file in weights
    )


def test_the_check_ran_and_a_second_run_has_nothing_to_do(published: tuple[Site, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    site, registry = published
    printed = (registry.parent / "printed.txt").read_text(encoding="utf-8")
    assert f"Published: 9 bundles in file:{registry}, pinned in {site.lake / RECORD}" in printed
    monkeypatch.setenv(PUBLISH_VARIABLE, f"file:{registry}")
    with site.opened() as opened:
        passed, said = verification(opened)
        assert passed
        assert said.endswith("files of 9 bundles came back as they were published.")
        assert stage_is_current(opened.deployment, opened.instance, opened.stage("small", "publication"))
        monkeypatch.setenv(PUBLISH_VARIABLE, f"file:{registry}-elsewhere")
        assert not stage_is_current(opened.deployment, opened.instance, opened.stage("small", "publication"))


def test_without_a_destination_nothing_is_published_and_it_says_so(
    small_site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PUBLISH_VARIABLE, raising=False)
    site = small_site.copy(tmp_path / "site")
    with site.opened() as opened:
        study = opened.deployment.catalog.study("small")
        assert "publication" not in [stage.name for stage in plan_study(opened.deployment, study)]
        job = opened.deployment.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={KEY})
        result = job.execute_in_process(instance=opened.instance, raise_on_error=False)
        assert result.success
        assert opened.instance.get_latest_materialization_event(KEY) is None
    assert "Nothing is published: PERSONA_PUBLISH_TO is not set" in capfd.readouterr().err
    assert not (site.lake / RECORD).exists()


def test_bytes_that_changed_at_the_registry_fail_the_check(opened: tuple[Opened, Path]) -> None:
    deployment, registry = opened
    table = next(registry.rglob("source_rates/cells.parquet"))
    data = table.read_bytes()
    table.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    with pytest.raises(
        StudyRunError, match=r"Blocking check failed: .*publication: upload_verification: .*cells.parquet came back"
    ):
        deployment.run("small", "publication")
    passed, said = verification(deployment)
    assert not passed
    assert "source_rates/cells.parquet came back with sha256" in said


def test_what_was_lost_at_the_registry_is_sent_again_and_nothing_else(opened: tuple[Opened, Path]) -> None:
    deployment, registry = opened
    lost = next(path for path in (registry / PROFILE / "small" / "figures").iterdir())
    shutil.rmtree(lost)
    deployment.run("small", "publication")
    manifest = deployment.deployment.products.store.verified(RECORD)
    assert manifest.facts["sent"] == 1
    assert any(lost.iterdir())
    assert verification(deployment)[0]


def test_merged_weights_planted_in_a_product_stop_the_publication(
    opened: tuple[Opened, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment, registry = opened
    catalog = deployment.deployment.catalog
    products = Products(catalog, Lake(root=str(tmp_path / "site" / "lake")))
    merged = products.store.open(products.merged_model(SMALL[0], 42).path) / "checkpoint" / "model.safetensors"
    product = products.adapter(SMALL[0], 42)
    with products.store.staging(product) as staging:
        shutil.copytree(products.store.open(product.path), staging, dirs_exist_ok=True)
        shutil.copy(merged, staging / "adapter")
        products.store.publish(product, staging, run_id="test")
    before = {file: sha256_file(file) for file in registry.rglob("*") if file.is_file()}
    with pytest.raises(StudyRunError, match="model.safetensors may not travel: .* Merged weights are never published"):
        deployment.run("small", "publication")
    assert {file: sha256_file(file) for file in registry.rglob("*") if file.is_file()} == before
