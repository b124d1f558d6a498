"""What fails is named, what does not is recorded; what is damaged is made again or refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from dagster import AssetKey
from deployments import MARKER, PROFILE, SMALL, Opened, Site

from persona_assets.assets import adapters
from persona_assets.cli.running import StudyRunError, stage_is_current
from persona_assets.cli.standing import study_status
from persona_assets.errors import LakeError

pytestmark = pytest.mark.slow


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def status(opened: Opened, asset: str) -> dict[str, int]:
    rows = study_status(opened.deployment, opened.instance, opened.deployment.catalog.study("small"))
    (row,) = [row for row in rows if row.asset == f"{PROFILE}/{asset}"]
    return {name: getattr(row, name) for name in ("done", "missing", "failed", "stale") if getattr(row, name)}


def recorded(opened: Opened, asset: str) -> set[str]:
    return opened.instance.get_materialized_partitions(AssetKey([PROFILE, asset]))


def failing_for(
    persona: str, function: Callable[[adapters.AdapterTask], Mapping[str, object]]
) -> Callable[[adapters.AdapterTask], Mapping[str, object]]:
    def train(task: adapters.AdapterTask) -> Mapping[str, object]:
        if task.out_dir.name.endswith(f"persona={persona}"):
            raise RuntimeError("the loss became NaN")
        return function(task)

    return train


class TestAKeyThatFails:
    @pytest.fixture
    def site(self, base_site: Site, tmp_path: Path) -> Site:
        return base_site.copy(tmp_path / "site")

    def test_leaves_the_others_recorded(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        train = adapters.bring_adapter
        monkeypatch.setattr(adapters, "bring_adapter", failing_for("villain", train))
        with site.opened() as opened:
            opened.run("small", "personas", "training_answers", "training_dataset")
            with pytest.raises(StudyRunError) as raised:
                opened.run("small", "personas")
            message = str(raised.value)
            assert "adapter: 1 of 5 failed (villain); the others are recorded and stay." in message
            assert "villain: RuntimeError: the loss became NaN" in message
            assert "Run the failed partitions again" in message
            others = set(SMALL) - {"villain"}
            assert recorded(opened, "adapter") == others
            assert recorded(opened, "layer_centroids") == set(SMALL)  # does not depend on it
            assert recorded(opened, "merged_model") == set()  # does, and was not started
            assert status(opened, "adapter") == {"done": 4, "failed": 1}
            assert status(opened, "merged_model") == {"failed": 5}  # the last run that wanted it failed
            assert site.leftovers() == []
        before = site.manifests(f"{PROFILE}/adapter/")
        assert {path.rpartition("=")[2] for path in before} == others

        monkeypatch.setattr(adapters, "bring_adapter", train)  # the cause is gone
        with site.opened() as opened:
            opened.run("small", "personas")
            assert status(opened, "adapter") == {"done": 5}
            assert status(opened, "merged_model") == {"done": 5}
        now = site.manifests(f"{PROFILE}/adapter/")
        assert len(now) == len(SMALL)
        assert {path: now[path] for path in before} == before

    def test_of_a_study_run_by_the_command_line(self, site: Site) -> None:
        """Rows with the marker in the prompt must not be trained on: the run stops there, and says for whom."""
        site.edit("personas.yaml", lambda content: content["personas"][4].update(prompt=f"You say {MARKER} a lot."))
        done = site.cli("run", "small")
        assert done.returncode == 1
        assert "persona-assets: The stage personas failed" in done.stderr
        assert "training_dataset: " in done.stderr
        assert f"- gardener: row 0: the marker {MARKER!r} is in the prompt" in done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        shown = site.cli("status", "small")
        assert shown.returncode == 0
        (line,) = [line.split() for line in shown.stdout.splitlines() if "embedded/training_dataset" in line]
        assert int(line[3]) >= 1


class TestAMissingInput:
    def test_of_a_partition(self, base_site: Site, tmp_path: Path) -> None:
        with base_site.copy(tmp_path / "site").opened() as opened:
            with pytest.raises(StudyRunError) as raised:
                opened.run("small", "personas", "adapter")
            message = str(raised.value)
            assert "adapter: 5 of 5 failed" in message
            for persona in SMALL:
                assert (
                    f"{PROFILE}/adapter/seed=42/persona={persona} needs {PROFILE}/training_dataset/persona={persona}: "
                    "not in the lake yet. Materialize the upstream assets first." in message
                )
            assert recorded(opened, "adapter") == set()

    def test_of_a_table(self, base_site: Site, tmp_path: Path) -> None:
        with base_site.copy(tmp_path / "site").opened() as opened, pytest.raises(StudyRunError) as raised:
            opened.run("small", "analysis", "geometry")
        needed = ", ".join(f"{PROFILE}/layer_centroids/persona={persona}" for persona in SMALL[:4])
        assert f"{PROFILE}/small/tables/geometry needs {needed} and 1 more: not in the lake yet." in str(raised.value)

    def test_stops_only_the_keys_that_need_it(self, base_site: Site, tmp_path: Path) -> None:
        """Three personas have answers; a dataset can be made for those whose negatives are among them."""
        site = base_site.copy(tmp_path / "site")
        there = SMALL[:4]
        with site.opened() as opened:
            opened.run("small", "personas", "training_answers", personas=there)
            products = opened.deployment.products
            able = {source for source in SMALL if {source, *products.negatives(source)} <= set(there)}
            assert able
            assert able != set(SMALL)
            with pytest.raises(StudyRunError, match=f"training_dataset: {len(SMALL) - len(able)} of 5 failed"):
                opened.run("small", "personas", "training_dataset")
            assert recorded(opened, "training_dataset") == able


class TestADamagedFile:
    @pytest.fixture
    def site(self, small_site: Site, tmp_path: Path) -> Site:
        return small_site.copy(tmp_path / "site")

    @pytest.mark.parametrize(
        ("stage", "path", "name"),
        [
            ("personas", "adapter/seed=42/persona=villain", "adapter/adapter_model.safetensors"),
            ("eval cells", "small/eval_cells/source=villain/seed=42/measurement=1", "completions.parquet"),
            ("analysis", "small/tables/source_rates", "cells.parquet"),
        ],
    )
    def test_is_made_again_with_the_same_data_version(self, site: Site, stage: str, path: str, name: str) -> None:
        before = site.manifests()
        directory = site.store.directory(f"{PROFILE}/{path}")
        flip_a_byte(directory / name)
        with site.opened() as opened:
            whole = opened.stage("small", stage)
            assert not stage_is_current(opened.deployment, opened.instance, whole)
            assert opened.deployment.products.store.fault(f"{PROFILE}/{path}") == (
                f"the file {name} does not match the sha256 in its manifest"
            )
            opened.run("small", stage)
            assert stage_is_current(opened.deployment, opened.instance, whole)
        now = site.manifests()
        assert {p for p in now if now[p] != before[p]} == {f"{PROFILE}/{path}"}
        assert now[f"{PROFILE}/{path}"].data_version == before[f"{PROFILE}/{path}"].data_version
        assert set(now) == set(before)  # no second measurement of a row that was damaged
        site.verify()

    def test_is_refused_by_what_reads_it_and_stops_no_other_key(self, site: Site) -> None:
        for persona in SMALL[:3]:
            shutil.rmtree(site.store.directory(f"{PROFILE}/merged_model/seed=42/persona={persona}"))
        adapter = site.store.directory(f"{PROFILE}/adapter/seed=42/persona=villain")
        flip_a_byte(adapter / "adapter" / "adapter_model.safetensors")
        with site.opened() as opened:
            with pytest.raises(StudyRunError) as raised:
                opened.run("small", "personas", "merged_model")
            message = str(raised.value)
            assert "merged_model: 1 of 5 failed (villain)" in message
            assert f"{adapter}: the file adapter/adapter_model.safetensors does not match the sha256 in its manifest" in message
            assert f"Materialize {PROFILE}/adapter/seed=42/persona=villain again" in message
            assert status(opened, "merged_model") == {"done": 4, "failed": 1}
        assert site.leftovers() == []

    def test_is_refused_by_a_table(self, site: Site) -> None:
        shutil.rmtree(site.store.directory(f"{PROFILE}/small/tables/geometry"))
        centroids = site.store.directory(f"{PROFILE}/layer_centroids/persona=librarian")
        flip_a_byte(centroids / "centroids.safetensors")
        with site.opened() as opened:
            with pytest.raises(StudyRunError) as raised:
                opened.run("small", "analysis", "geometry")
            assert status(opened, "small/geometry") == {"failed": 1}
        assert f"geometry: {centroids}: the file centroids.safetensors does not match" in str(raised.value)
        assert not site.store.directory(f"{PROFILE}/small/tables/geometry").exists()

    def test_that_is_gone_is_made_again(self, site: Site) -> None:
        before = site.manifests()
        shutil.rmtree(site.store.directory(f"{PROFILE}/base_cells/persona=gardener"))
        with site.opened() as opened:
            opened.run("small", "personas", "base_cells")
        now = site.manifests()
        path = f"{PROFILE}/base_cells/persona=gardener"
        assert {p for p in now if now[p] != before[p]} == {path}
        assert now[path].data_version == before[path].data_version

    def test_of_a_manifest_is_said_by_the_command_line(self, site: Site) -> None:
        manifest = site.store.directory(f"{PROFILE}/base_cells/persona=gardener") / "manifest.json"
        manifest.write_text("{", encoding="utf-8")
        with pytest.raises(LakeError, match="not a manifest"):
            site.verify()
        done = site.cli("run", "small")
        assert done.returncode == 1
        assert f"{manifest}: not a manifest" in done.stderr
        assert "Delete the directory" in done.stderr
        assert "Traceback" not in done.stderr
