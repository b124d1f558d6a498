"""What goes wrong on a user's machine is said in the failure itself: what happened, where, and what to do."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInvalidConfigError
from deployments import PROFILE, SMALL, Opened, Site
from failing import absent_model, edited, fail, full_disk, refusing_hub, with_runtime
from servers.hub import hub_server

from persona_assets.errors import ConfigurationError, LakeError
from persona_assets.explaining import explain

pytestmark = pytest.mark.slow


class Touching:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.file,)


@pytest.fixture
def site(base_site: Site, tmp_path: Path) -> Site:
    """A deployment whose study files a test changes."""
    return base_site.copy(tmp_path / "site")


@pytest.fixture(scope="module")
def shared(base_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """One for all tests that change no file: nothing comes of their runs."""
    with base_site.copy(tmp_path_factory.mktemp("failing") / "site").opened() as opened:
        yield opened


@pytest.fixture
def opened(shared: Opened) -> Iterator[Opened]:
    yield shared
    assert Site(lake(shared).parent).leftovers() == []


def lake(opened: Opened) -> Path:
    return opened.deployment.products.store.root


def failure_of(opened: Opened, asset: str, config: Mapping[str, Any] | None = None, partition: str | None = SMALL[0]) -> str:
    """Run one asset, which must fail, and return the text with which the UI shows the failed step."""
    return fail(opened, asset, config, partition).said


@pytest.mark.parametrize("asset", ["layer_centroids", "small/power"])
def test_a_full_disk(opened: Opened, asset: str) -> None:
    with full_disk():
        said = failure_of(opened, asset, partition=SMALL[0] if asset == "layer_centroids" else None)
    assert "The disk is full: " in said
    assert str(lake(opened)) in said and " MB free)" in said
    assert "Free some space, or set PERSONA_LAKE to a larger disk" in said


def test_a_disk_that_is_too_small_stops_the_run_before_it_works(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persona_assets.capacity.needs.free_disk", lambda _: 10)
    said = failure_of(opened, "layer_centroids")
    assert f"of disk, and {lake(opened)} has " in said
    assert "Free some, move the lake (PERSONA_LAKE). Nothing was started." in said


def test_a_lake_that_may_not_be_written(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(lake(opened)))

    monkeypatch.setattr("persona_assets.store.Store.new_staging", refused)
    assert f"No permission to write: {lake(opened)}" in failure_of(opened, "training_answers")


def test_no_gpu(opened: Opened) -> None:
    said = failure_of(opened, "training_answers", with_runtime(device="cuda"))
    assert "runtime.device: 'cuda' is asked for, but torch sees no GPU here; set it to 'auto' or 'cpu'" in said


def test_config_that_the_launchpad_refuses(opened: Opened) -> None:
    """Before a run: it offers the values that there are, and names the field."""
    with pytest.raises(DagsterInvalidConfigError) as refused:
        failure_of(opened, "training_answers", with_runtime(device="gpu"))
    assert "root:resources:model_runtime:config:device not in enum type Device got gpu" in str(refused.value)


@pytest.mark.parametrize(
    ("asset", "config", "sentence"),
    [
        (
            "training_answers",
            with_runtime(workers=-1),
            "The config of the resource model_runtime is refused: workers: Input should be greater than or equal to 0 "
            "(given: -1).",
        ),
        (
            "small/eval_cells",
            {"ops": {"embedded__small__eval_cells": {"config": {"unless_measured_since": "Monday"}}}},
            "unless_measured_since: 'Monday' is no time with an offset. Write it like 2026-11-23T06:00:00+00:00.",
        ),
    ],
)
def test_config_that_a_run_refuses(opened: Opened, asset: str, config: dict[str, Any], sentence: str) -> None:
    assert failure_of(opened, asset, config) == f"{asset.rpartition('/')[2]}: {sentence}"


@pytest.mark.parametrize("repository", ["lab/not-there", "/not/there/at/all"])
def test_a_model_that_is_not_found(site: Site, repository: str) -> None:
    model = absent_model(repository)
    with refusing_hub(), edited(site, f"{PROFILE}/profile.yaml", base_model=model), site.opened() as opened:
        said = failure_of(opened, "base_model", partition=None)
    assert said.startswith("base_model: ")
    assert repository in said
    if repository == "lab/not-there":
        assert "there is no such repository, or it is private: correct base_model.repo_id, or set HF_TOKEN" in said
    assert "Traceback" not in said
    assert len(said) < 1500


def inherit(site: Site, reference: str) -> None:
    """Let the study name an adapter of others for its first persona."""
    site.edit(f"{PROFILE}/small.yaml", lambda study: study.update(inherited_adapters={SMALL[0]: reference}))


def test_an_adapter_of_others_that_is_refused(site: Site, tmp_path: Path) -> None:
    """Weights that would run code when they are loaded: nothing of them is opened, and the user is told what to do instead."""
    ran, strange = tmp_path / "ran", tmp_path / "strange"
    strange.mkdir()
    (strange / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    (strange / "adapter_model.bin").write_bytes(pickle.dumps(Touching(ran)))
    inherit(site, f"file:{strange}")
    with site.opened() as opened:
        said = failure_of(opened, "adapter")
    assert said.startswith(f"adapter: 1 of 1 failed ({SMALL[0]}).\n- {SMALL[0]}: The adapter is refused: adapter_model.bin: ")
    assert "pickles are never read: save the adapter again with safe_serialization=True." in said
    assert f"It lies at file:{strange}. Correct it there, or take {SMALL[0]} out of inherited_adapters in the study file" in said
    assert "Run the failed partitions again" in said
    assert "Traceback" not in said
    assert not ran.exists()
    assert site.leftovers() == []


@pytest.mark.parametrize(
    ("keys", "there", "told"),
    [
        ({"another"}, True, "the Hub does not accept the key in HF_TOKEN"),
        (None, False, "there is no such repository, or it is private and HF_TOKEN does not open it"),
    ],
)
def test_a_registry_that_refuses(site: Site, keys: set[str] | None, there: bool, told: str) -> None:
    inherit(site, "hf:lab/markers@main:librarian")
    with refusing_hub(there=there, keys=keys), site.opened() as opened:
        said = failure_of(opened, "adapter")
    assert f"- {SMALL[0]}: hf:lab/markers@main:librarian: {told}" in said
    assert "Traceback" not in said and "hf_of_the_user" not in said
    assert len(said) < 800


def test_a_registry_that_cannot_be_reached(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    inherit(site, "hf:lab/markers@main:librarian")
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with site.opened() as opened:
        said = failure_of(opened, "adapter")
    assert f"- {SMALL[0]}: hf:lab/markers@main:librarian: the Hub cannot be reached; look at the network and HF_ENDPOINT" in said


def test_an_input_that_is_missing(opened: Opened) -> None:
    said = failure_of(opened, "adapter")
    assert "not in the lake yet. Materialize the upstream assets first." in said


def test_a_bad_study_file_is_named_with_its_line(site: Site) -> None:
    (site.studies / PROFILE / "large.yaml").write_text("panel_size: 7\nparent: smal\nanalysis:\n  primary_layers: [2]\n", "utf-8")
    with pytest.raises(ConfigurationError, match=r"large\.yaml:2: parent: 'smal': there is no such study"), site.opened():
        pass


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OutOfMemoryError("CUDA out of memory."), "The GPU has too little memory: CUDA out of memory. Lower runtime.gen"),
        (MemoryError(), "The machine has too little memory. Lower runtime.workers"),
        (ValueError("layer 9"), "ValueError: layer 9"),
        (LakeError("Materialize it."), "Materialize it."),
    ],
)
def test_errors_in_words(error: Exception, said: str) -> None:
    assert explain(error).startswith(said)


def test_the_cause_is_what_is_explained(tmp_path: Path) -> None:
    error = RuntimeError("could not save")
    error.__cause__ = OSError(errno.ENOSPC, "no space", str(tmp_path / "new" / "file"))
    assert explain(error).startswith(f"The disk is full: {tmp_path / 'new' / 'file'} (")
