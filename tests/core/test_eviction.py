"""An evicted product has lost files to save disk and nothing else: it stays current, and says what is gone when it is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona_assets.errors import LakeError
from persona_assets.store import EVICTED, Product, Store

MERGED = Product(path="p/merged_model", producer="merged_model", version="1", parameters={})
CELLS = Product(path="p/cells", producer="cells", version="1", parameters={}, inputs=(MERGED.path,))
WEIGHTS = "checkpoint/model.safetensors"


def publish(store: Store, product: Product, files: dict[str, str]) -> None:
    with store.staging(product) as staging:
        for name, text in files.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_text(text, encoding="utf-8")
        store.publish(product, staging, run_id="test")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    publish(store, MERGED, {WEIGHTS: "w" * 1000, "checkpoint/config.json": "{}"})
    publish(store, CELLS, {"completions": "said"})
    return store


def test_it_stays_what_it_was_and_so_does_what_was_made_from_it(store: Store) -> None:
    before = store.verified(MERGED.path)
    assert store.evict(MERGED.path, [WEIGHTS], "cells are measured") == 1000
    assert not (store.directory(MERGED.path) / WEIGHTS).exists()
    assert store.verified(MERGED.path) == before
    assert store.state(MERGED) == "current"
    assert store.current(MERGED) == before
    assert store.current(CELLS) is not None
    assert (store.evicted(MERGED.path), store.size(MERGED.path)) == ((WEIGHTS,), 2)
    assert "cells are measured" in (store.directory(MERGED.path) / EVICTED).read_text(encoding="utf-8")


def test_opening_it_says_what_is_gone_and_what_to_do(store: Store) -> None:
    store.evict(MERGED.path, [WEIGHTS], "")
    with pytest.raises(LakeError, match=r"model\.safetensors was removed to save disk\. Materialize p/merged_model .* kept"):
        store.open(MERGED.path)
    assert store.open(CELLS.path).is_dir()


def test_one_who_wants_it_whole_makes_it_again(store: Store) -> None:
    version = store.verified(MERGED.path).data_version
    store.evict(MERGED.path, [WEIGHTS], "")
    assert store.current(MERGED, whole=True) is None
    publish(store, MERGED, {WEIGHTS: "w" * 1000, "checkpoint/config.json": "{}"})
    assert store.evicted(MERGED.path) == ()
    assert store.open(MERGED.path).is_dir()
    assert store.verified(MERGED.path).data_version == version
    assert store.current(CELLS) is not None


def test_damage_is_still_noticed(store: Store) -> None:
    store.evict(MERGED.path, [WEIGHTS], "")
    (store.directory(MERGED.path) / "checkpoint/config.json").write_text("[]", encoding="utf-8")
    assert store.current(MERGED) is None
    (store.directory(MERGED.path) / "checkpoint/config.json").unlink()
    with pytest.raises(LakeError, match=r"config\.json is missing"):
        store.verified(MERGED.path)


def test_a_file_that_is_there_is_checked_although_it_is_said_to_be_gone(store: Store) -> None:
    store.evict(MERGED.path, [WEIGHTS], "")
    (store.directory(MERGED.path) / WEIGHTS).write_text("another", encoding="utf-8")
    with pytest.raises(LakeError, match="does not match the sha256"):
        store.verified(MERGED.path)


def test_only_files_of_the_product_can_go_and_twice_does_no_harm(store: Store) -> None:
    with pytest.raises(LakeError, match="has no file other"):
        store.evict(MERGED.path, ["other"], "")
    assert store.evict(MERGED.path, [WEIGHTS], "first") == 1000
    assert store.evict(MERGED.path, [WEIGHTS], "again") == 0
    assert store.evict(MERGED.path, ["checkpoint/config.json"], "all") == 2
    assert store.evicted(MERGED.path) == ("checkpoint/config.json", WEIGHTS)
    assert store.current(MERGED) is not None
