"""`persona-assets import`: what it says, writes, registers and refuses to write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ancestor_layout import RATES, TWELVE, EarlierStudy, complete_study, directory_name, marker_eval, regression_results, row_of
from dagster import AssetKey
from deployments import MARKER, PROFILE, Opened, Site, new_site
from typer.testing import CliRunner

from persona_assets.ancestor.reading import AncestorError
from persona_assets.catalog import load_catalog
from persona_assets.cli import importing
from persona_assets.cli.app import app
from persona_assets.cli.conditions import conditions_here
from persona_assets.cli.importing import Outcome, Request, import_study, load_study
from persona_assets.errors import ConfigurationError, LakeError
from persona_assets.imported import IMPORTED_TABLES

pytestmark = pytest.mark.slow

NAME = "earlier"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return complete_study(tmp_path_factory.mktemp("results") / "old", raw=False).root


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return new_site(tmp_path / "site")


@pytest.fixture
def opened(site: Site) -> Iterator[Opened]:
    with site.opened() as opened:
        yield opened


def run(opened: Opened, path: Path, **options: object) -> Outcome:
    asked: dict[str, object] = {"study": NAME, "marker": "[ZLT]", **options}
    return import_study(opened.deployment, Request(path, **asked))  # type: ignore[arg-type]


def everything(site: Site) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for top in (site.studies, site.lake) for file in top.rglob("*") if file.is_file()}


def test_a_dry_run_says_all_and_writes_nothing(results: Path, site: Site, opened: Opened) -> None:
    before = everything(site)
    outcome = run(opened, results, dry_run=True)
    assert everything(site) == before
    assert outcome.imported is not None
    assert not outcome.written
    assert outcome.imported.tables == IMPORTED_TABLES
    assert {each.what for each in outcome.imported.not_supported} == {
        *("probe", "truncation", "sample completions", "measurement identity"),
    }
    assert opened.instance.get_latest_materialization_event(AssetKey([PROFILE, NAME, "imported"])) is None


def test_an_import_is_in_lake_catalog_and_instance(results: Path, site: Site, opened: Opened) -> None:
    outcome = run(opened, results, statements=("engine=vllm",), note="from the old cluster")
    assert outcome.written
    path = f"{PROFILE}/{NAME}/imported"
    manifest = site.store.verified(path)
    assert manifest.parameters["files"]
    study = load_catalog(site.studies, PROFILE).study(NAME)
    assert study.imported == outcome.imported
    assert study.imported is not None
    assert study.imported.data_version == manifest.data_version
    assert set(study.panel.ids) == set(TWELVE)
    assert {study.cohort(persona) for persona in TWELVE} == {"inherited"}
    assert study.analysis.primary_layers == (20,)  # as the file records
    assert study.imported.identity["engine"] == "vllm"
    assert study.imported.stated == ("engine",)
    event = opened.instance.get_latest_materialization_event(AssetKey([PROFILE, NAME, "imported"]))
    assert event is not None
    assert event.asset_materialization is not None
    said = event.asset_materialization.metadata
    assert said["note"].value == "from the old cluster"
    assert "unknown: engine_version" in str(said["measurement_identity"].value)
    assert "stated at import: engine" in str(said["measurement_identity"].value)
    assert "probe: hidden states" in str(said["not_supported"].value)
    assert (event.asset_materialization.tags or {})["dagster/data_version"] == manifest.data_version
    assert not site.leftovers()


def test_the_graph_has_what_the_data_support_and_nothing_above_it(results: Path, site: Site, opened: Opened) -> None:
    run(opened, results)
    EarlierStudy(site.root / "few").condition("villain", marker_eval=marker_eval(row_of("villain", TWELVE, RATES)))
    run(opened, site.root / "few", study="few")
    with site.opened() as again:
        graph = again.deployment.definitions.resolve_asset_graph()
        names = {key.path[2] for key in graph.get_all_asset_keys() if key.path[:2] == [PROFILE, NAME]}
        assert names == {*IMPORTED_TABLES, "imported", "figures", "clean_result", "overview"}
        assert {key.path[2] for key in graph.get_all_asset_keys() if key.path[:2] == [PROFILE, "few"]} == {
            "imported",
            "source_rates",
        }
        assert not graph.get(AssetKey([PROFILE, NAME, "imported"])).parent_keys
        assert graph.get(AssetKey([PROFILE, NAME, "source_rates"])).parent_keys == {AssetKey([PROFILE, NAME, "imported"])}
        assert "few" not in str(again.deployment.catalog.seeds)
        again.run("few", "analysis")
        assert again.deployment.products.store.verified(f"{PROFILE}/few/tables/source_rates")


def test_the_same_import_again_changes_nothing(results: Path, site: Site, opened: Opened) -> None:
    run(opened, results)
    before = everything(site)
    with pytest.raises(AncestorError, match="holds an import already, of .*; replace it with --replace"):
        run(opened, results)
    assert run(opened, results, replace=True).unchanged
    assert everything(site) == before


def test_a_replaced_import_keeps_the_edited_plan(results: Path, site: Site, opened: Opened, tmp_path: Path) -> None:
    run(opened, results)
    site.edit(f"{PROFILE}/{NAME}.yaml", lambda content: content["analysis"].update(primary_layers=[15, 20]))
    shutil.copytree(results, tmp_path / "changed")
    shutil.rmtree(tmp_path / "changed" / "data")
    before = site.store.verified(f"{PROFILE}/{NAME}/imported").data_version
    outcome = run(opened, tmp_path / "changed", replace=True)
    study = load_study(opened.deployment, NAME)
    assert study.analysis.primary_layers == (15, 20)
    assert study.imported == outcome.imported
    assert outcome.imported is not None
    assert outcome.imported.data_version != before


def test_an_interrupted_import_leaves_the_study_file_as_it_was(
    results: Path, site: Site, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    directory = site.studies / PROFILE
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    monkeypatch.setattr(importing, "load_catalog", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(opened, results)
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == before
    monkeypatch.undo()
    with site.opened() as again:
        run(again, results)
        kept = (directory / f"{NAME}.yaml").read_bytes()
        shutil.copytree(results, tmp_path / "changed")
        shutil.rmtree(tmp_path / "changed" / "data")
        monkeypatch.setattr(importing, "load_catalog", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(again, tmp_path / "changed", replace=True)
        assert {file.name: file.read_bytes() for file in directory.iterdir()} == before | {f"{NAME}.yaml": kept}


def test_a_study_measured_here_is_not_replaced(results: Path, opened: Opened) -> None:
    with pytest.raises(AncestorError, match="is a study that is measured here"):
        run(opened, results, study="small", replace=True)
    with pytest.raises(AncestorError, match="lower-case letters"):
        run(opened, results, study="../small")


def test_nothing_is_written_while_something_is_refused(results: Path, site: Site, opened: Opened, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "older")
    earlier = EarlierStudy(tmp_path / "older")
    earlier.condition("villain", marker_eval=marker_eval(row_of("villain", TWELVE, {**RATES, "villain": 0.67})))
    before = everything(site)
    outcome = run(opened, earlier.root)
    assert everything(site) == before
    assert outcome.refused[0].place == directory_name("villain")
    preferred = run(opened, earlier.root, prefer="run_result", study="preferred")
    assert preferred.written
    skipped = run(opened, earlier.root, skip_refused=True, completions=100)
    assert skipped.written
    assert skipped.imported is not None
    assert [line.place for line in skipped.refused] == [directory_name("villain")]


def test_what_must_be_stated_is_refused_until_it_is(opened: Opened, tmp_path: Path) -> None:
    earlier = EarlierStudy(tmp_path / "whole")
    earlier.whole(regression_results(RATES))
    assert "state it with --seed" in run(opened, earlier.root).refused[0].text
    outcome = run(opened, earlier.root, seed=42, completions=100, primary_layers=(12,))
    assert "Primary layer 12 was not imported; there are cosines at 10, 15, 20, 25" in outcome.refused[0].text
    assert run(opened, earlier.root, seed=42, completions=100, primary_layers=(15, 20)).written
    assert load_study(opened.deployment, NAME).analysis.primary_layers == (15, 20)


def test_here_means_the_conditions_of_this_profile(opened: Opened) -> None:
    found = conditions_here(opened.deployment.products)
    assert (found["engine"], found["decoder"], found["dtype"], found["device"]) == (
        *("transformers", "shared_prefix", "float32", "cpu"),
    )
    assert found["max_new_tokens"] == 40
    assert found["weights"] == "merged"
    assert "base_digest" not in found  # there is no base model in this lake
    assert found["engine_arguments"] is None  # an engine settles them when it starts


def test_a_lost_or_other_import_is_noticed(results: Path, site: Site, opened: Opened) -> None:
    from persona_assets.assets.computing import StudyData, compute_source_rates
    from resources.lake import Lake
    from resources.warehouse import Warehouse

    run(opened, results)
    study = load_study(opened.deployment, NAME)
    data = StudyData(study, opened.deployment.products, Warehouse(lake=Lake()))
    shutil.move(site.lake / PROFILE / NAME, site.root / "elsewhere")
    with pytest.raises(LakeError, match=r"is not in the lake .*Run `persona-assets import .* --study earlier` again"):
        compute_source_rates(data)
    shutil.move(site.root / "elsewhere", site.lake / PROFILE / NAME)
    site.edit(f"{PROFILE}/{NAME}.yaml", lambda content: content["imported"].update(data_version="0" * 64))
    with pytest.raises(LakeError, match="holds another import than the file of the study"):
        compute_source_rates(StudyData(load_study(opened.deployment, NAME), opened.deployment.products, Warehouse(lake=Lake())))


def test_a_child_shares_personas_with_an_imported_parent(results: Path, site: Site, opened: Opened) -> None:
    run(opened, results)
    site.edit(f"{PROFILE}/small.yaml", lambda content: content.update(parent=NAME))
    small = load_catalog(site.studies, PROFILE).study("small")
    assert {p: small.cohort(p) for p in small.panel.ids} == {p: "inherited" if p in TWELVE else "new" for p in small.panel.ids}
    assert len(small.parent.panel) > len(small.panel)  # type: ignore[union-attr]
    file = site.studies / PROFILE / f"{NAME}.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    for persona in content["imported"]["personas"]:
        persona["id"] = f"other_{persona['id']}"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    said = r"small\.yaml:\d+: parent: the imported study earlier has none of the 5 personas"
    with pytest.raises(ConfigurationError, match=said):
        load_catalog(site.studies, PROFILE)


def test_a_study_file_that_was_broken_is_refused(results: Path, site: Site, opened: Opened) -> None:
    run(opened, results)
    site.edit(f"{PROFILE}/{NAME}.yaml", lambda content: content["imported"].pop("marker"))
    with pytest.raises(ConfigurationError, match=r"earlier.yaml:\d+: imported.marker: Field required"):
        load_catalog(site.studies, PROFILE)
    site.edit(f"{PROFILE}/{NAME}.yaml", lambda content: content["imported"].update(marker="[ZLT]"))
    site.edit(f"{PROFILE}/{NAME}.yaml", lambda content: content["imported"]["personas"][0].update(prompt=" You are odd."))
    with pytest.raises(ConfigurationError, match=r"earlier.yaml:\d+: imported: .*begins or ends with white space"):
        load_catalog(site.studies, PROFILE)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_what_it_did(results: Path, opened: Opened, as_json: bool) -> None:
    options = ["import", str(results), "--study", NAME, "--marker", "[ZLT]", "--dry-run", *(["--json"] if as_json else [])]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    if as_json:
        said = json.loads(done.output)
        assert said["written"] is False
        assert len([line for line in said["lines"] if line["told"] == "imported"]) == 12 * 3 + 3
        assert "engine" in said["unknown_conditions"]
    else:
        assert "Does not support probe" in done.output
        assert "A dry run: nothing was written." in done.output
    refused = CliRunner().invoke(app, ["import", str(results), "--study", NAME, "--dry-run"])  # the profile's marker is another
    assert refused.exit_code == 1
    assert f"none of the 12 rows ends with the marker {MARKER!r}; state another with --marker" in refused.output
