"""A step that would end with a full disk or out of memory is refused before it starts, saying what is needed and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona_assets.capacity import needs as capacity
from persona_assets.capacity.needs import GIB, CapacityError, Needs, asset_needs, check_room
from persona_assets.catalog import load_catalog
from persona_assets.study import Profile, Runtime

STUDIES = Path(__file__).parents[2] / "studies"
CPU = Runtime(device="cpu")


@pytest.fixture(scope="module")
def qwen() -> Profile:
    return load_catalog(STUDIES, "qwen2.5-7b").profile


def test_what_a_seven_billion_model_takes(qwen: Profile) -> None:
    assert asset_needs("base_model", qwen, 1) == Needs(cache=2 * 7_615_616_512)
    assert asset_needs("adapter", qwen, 48).disk == 48 * 4 * 80_740_352
    # The weights alone are 14.2 GiB; what training keeps for each token is most of the rest.
    assert 30 * GIB < asset_needs("adapter", qwen, 1).device < 79 * GIB
    assert 20 * GIB < asset_needs("eval_cells", qwen, 1).device < 79 * GIB
    assert asset_needs("training_dataset", qwen, 12) == Needs()


def test_smaller_batches_and_recomputing_take_less(qwen: Profile) -> None:
    def device(**changes: object) -> int:
        runtime = qwen.runtime.model_copy(update=changes)
        return asset_needs("adapter", qwen.model_copy(update={"runtime": runtime}), 1).device

    assert device(micro_batch_size=4, micro_batch_tokens=None) < device(micro_batch_size=8, micro_batch_tokens=None)
    assert device(micro_batch_tokens=1024) < device(micro_batch_tokens=4096)
    assert device(recompute_activations=True) < 0.7 * device()


def test_a_profile_without_sizes_is_not_guessed_at(qwen: Profile) -> None:
    base = qwen.base_model.model_copy(update={"hidden_size": None})
    assert asset_needs("adapter", qwen.model_copy(update={"base_model": base}), 12) == Needs()


def test_a_disk_that_would_fill_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "free_disk", lambda place: 100 * GIB)
    check_room("merged_model", Needs(disk=99 * GIB), tmp_path, None, CPU)
    with pytest.raises(CapacityError) as refused:
        check_room("merged_model", Needs(disk=681 * GIB), tmp_path, None, CPU)
    said = str(refused.value)
    assert "merged_model: needs about 681.0 GiB of disk" in said
    assert f"{tmp_path} has 100.0 GiB free" in said
    assert "PERSONA_LAKE" in said
    assert "runtime.merged_weights" in said
    assert said.endswith("Nothing was started.")


def test_the_cache_of_models_is_a_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(capacity, "free_disk", lambda place: 5 * GIB if place == cache else 100 * GIB)
    with pytest.raises(CapacityError, match=r"cache has 5\.0 GiB free\. .*HF_HOME"):
        check_room("base_model", Needs(cache=15 * GIB), tmp_path / "lake", cache, CPU)


def test_a_device_that_is_too_small_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "free_device_memory", lambda runtime: 22 * GIB)
    check_room("adapter", Needs(device=21 * GIB), tmp_path, None, Runtime(device="cuda"))
    with pytest.raises(
        CapacityError, match=r"40\.0 GiB of GPU memory, and 22\.0 GiB are free.*micro_batch_size.*CUDA_VISIBLE_DEVICES"
    ):
        check_room("adapter", Needs(device=40 * GIB), tmp_path, None, Runtime(device="cuda"))
    with pytest.raises(CapacityError, match="generation_batch_size"):
        check_room("eval_cells", Needs(device=40 * GIB), tmp_path, None, Runtime(device="cuda"))


def test_free_space_is_that_of_the_disk_the_directory_will_be_on(tmp_path: Path) -> None:
    import shutil

    assert abs(capacity.free_disk(tmp_path / "not" / "there" / "yet") - shutil.disk_usage(tmp_path).free) < GIB


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "/models/hub"}, Path("/models/hub")),
        ({"HF_HOME": "/models"}, Path("/models/hub")),
        ({}, Path("~/.cache/huggingface/hub").expanduser()),
    ],
)
def test_the_hub_clients_own_place(variables: dict[str, str], expected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert capacity.hub_client_cache() == expected
