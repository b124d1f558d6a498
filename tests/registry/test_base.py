"""What is common to registries: what arrived is what was listed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from wandb.sdk.lib.hashutil import md5_file_b64, xxh128_file_b64

from persona_assets.hashing import sha256_file
from persona_assets.registry.base import (
    Algorithm,
    RegistryError,
    RemoteFile,
    Resolved,
    check_fetched,
    file_digest,
    latest_version,
)
from persona_assets.registry.reference import AdapterReference, parse_reference


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(bytes(range(256)) * 8192)
    return path


def test_digests_are_those_of_the_registries_own_tools(file: Path) -> None:
    assert file_digest(file, "sha256") == sha256_file(file)
    assert file_digest(file, "md5-base64") == md5_file_b64(file)
    assert file_digest(file, "xxh128-base64") == xxh128_file_b64(file)
    git = subprocess.run(["git", "hash-object", "--no-filters", file], capture_output=True, text=True, check=True)
    assert file_digest(file, "git-sha1") == git.stdout.strip()


def test_what_arrived_as_listed_passes(file: Path) -> None:
    size = file.stat().st_size
    algorithms: tuple[Algorithm, ...] = ("sha256", "md5-base64", "xxh128-base64", "git-sha1")
    for algorithm in algorithms:
        check_fetched(file, RemoteFile(file.name, size, file_digest(file, algorithm), algorithm), "there")
    check_fetched(file, RemoteFile(file.name, size), "there")


@pytest.mark.parametrize("algorithm", ["sha256", "md5-base64", "xxh128-base64", "git-sha1"])
def test_one_changed_bit_of_the_same_size_is_seen(file: Path, algorithm: Algorithm) -> None:
    listed = RemoteFile(file.name, file.stat().st_size, file_digest(file, algorithm), algorithm)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(RegistryError, match=f"there: adapter_model.safetensors arrived corrupted: its {algorithm} is .*lists"):
        check_fetched(file, listed, "there")


def test_a_wrong_size_and_a_missing_file_are_seen(file: Path, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="arrived with 2097152 bytes, the registry lists 3"):
        check_fetched(file, RemoteFile(file.name, 3), "there")
    with pytest.raises(RegistryError, match="README.md did not arrive"):
        check_fetched(tmp_path / "README.md", RemoteFile("README.md", 3), "there")
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(RegistryError, match="link did not arrive"):
        check_fetched(tmp_path / "link", RemoteFile("link", file.stat().st_size), "there")


def test_the_latest_version_is_asked_of_the_moving_reference() -> None:
    class Registry:
        def resolve(self, reference: AdapterReference) -> Resolved:
            return Resolved(reference, reference.at("v7"), "v7", "digest of v7")

        listing = fetch = None

    found = latest_version(Registry(), parse_reference("wandb:lab/p/librarian:v0"))  # type: ignore[arg-type]
    assert (found.version, str(found.reference)) == ("v7", "wandb:lab/p/librarian:latest")
