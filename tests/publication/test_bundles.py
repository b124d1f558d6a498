"""What may travel and what may not; bundles that are the same for the same files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_bundles import LAYER, adapter_files, small_bundles

from persona_assets.hashing import sha256_file
from persona_assets.publication.bundles import Kind, seal
from persona_assets.publication.errors import PublicationError


def test_every_file_is_listed_with_its_sha256(tmp_path: Path) -> None:
    for bundle in small_bundles(tmp_path):
        contents = json.loads(bundle.files[bundle.contents_file].read_text(encoding="utf-8"))
        listed = {name: sha256_file(file) for name, file in bundle.files.items() if name != bundle.contents_file}
        assert contents["sha256"] == bundle.contents["sha256"] == listed
        assert bundle.sha256 == {**listed, bundle.contents_file: sha256_file(bundle.files[bundle.contents_file])}
    assert contents["study"] == "n12"


def test_the_same_files_give_the_same_bundle_and_others_another(tmp_path: Path) -> None:
    first, second, other = (small_bundles(tmp_path / name, rate) for name, rate in (("a", 0.5), ("b", 0.5), ("c", 0.6)))
    assert [bundle.sha256 for bundle in first] == [bundle.sha256 for bundle in second]
    assert [bundle.sha256 == same.sha256 for bundle, same in zip(first, other, strict=True)] == [True, False]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("adapter", "model.safetensors"),
        ("adapter", "checkpoint/model.safetensors"),
        ("adapter", "adapter_model.bin"),
        ("adapter", "training_args.bin"),
        ("cells", "model.safetensors"),
        ("cells", "source=villain/seed=42/measurement=1/model-00001-of-00002.safetensors"),
        ("tables", "merged_model.safetensors"),
        ("tables", "pytorch_model.bin"),
        ("figures", "checkpoint/model.safetensors"),
        ("clean_result", "model.safetensors"),
        ("clean_result", "weights.pt"),
    ],
)
def test_merged_weights_may_be_in_no_bundle(tmp_path: Path, kind: Kind, name: str) -> None:
    merged = tmp_path / "merged"
    save_file({"model.embed_tokens.weight": np.ones((2, 2), dtype=np.float32)}, merged)
    with pytest.raises(PublicationError, match=f"{name} may not travel: .*Merged weights are never published"):
        seal("embedded/n12/x", kind, {name: merged}, {}, tmp_path / "work")


@pytest.mark.parametrize("tensor", ["model.layers.0.self_attn.q_proj.weight", f"{LAYER}.base_layer.weight", "lm_head.weight"])
def test_merged_weights_under_an_adapters_name_are_refused(tmp_path: Path, tensor: str) -> None:
    files = adapter_files(tmp_path / "adapter")
    weights = {f"{LAYER}.lora_A.weight": np.ones((2, 4), dtype=np.float32), tensor: np.ones((4, 4), dtype=np.float32)}
    save_file(weights, files["adapter_model.safetensors"])
    with pytest.raises(PublicationError, match=f"adapter_model.safetensors holds {tensor}, which is no LoRA weight"):
        seal("embedded/adapter/seed42/villain", "adapter", files, {}, tmp_path / "work")


def test_a_link_to_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    files = adapter_files(tmp_path / "adapter")
    secret = tmp_path / "secret"
    files["adapter_config.json"].rename(secret)
    files["adapter_config.json"].symlink_to(secret)
    with pytest.raises(PublicationError, match="adapter_config.json is not a plain file"):
        seal("embedded/adapter/seed42/villain", "adapter", files, {}, tmp_path / "work")


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    files = adapter_files(tmp_path / "adapter")
    files["adapter_model.safetensors"].write_bytes(b"PK\x03\x04 a pickle")
    with pytest.raises(PublicationError, match="adapter_model.safetensors: not a safetensors file"):
        seal("embedded/adapter/seed42/villain", "adapter", files, {}, tmp_path / "work")


def test_an_empty_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PublicationError, match="embedded/n12/tables: there is nothing to publish in it"):
        seal("embedded/n12/tables", "tables", {}, {}, tmp_path / "work")
