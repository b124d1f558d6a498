"""The record of a publication: one row for each file that is in a registry, with where, digest and schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from persona_assets.publication.bundles import tensors
from persona_assets.publication.errors import PublicationError
from persona_assets.publication.publishing import Published
from persona_assets.registry.reference import AdapterReference, parse_reference

RECORD_FILE = "published.parquet"
_SCHEMA: dict[str, Any] = {
    "bundle": pl.String,
    "kind": pl.String,
    "reference": pl.String,
    "file": pl.String,
    "size": pl.Int64,
    "sha256": pl.String,
    "schema": pl.String,
}


@dataclass(frozen=True)
class RecordedFile:
    """What a published file has to be: size in bytes, sha256, and its schema (as `file_schema` gives it)."""

    size: int
    sha256: str
    schema: Mapping[str, str]


@dataclass(frozen=True)
class RecordedBundle:
    """A bundle as it was published, with its files by name."""

    name: str
    reference: AdapterReference
    files: Mapping[str, RecordedFile]


def record(published: Sequence[Published]) -> pl.DataFrame:
    """Build the record, one row for each file."""
    rows = [
        {
            "bundle": each.bundle.name,
            "kind": each.bundle.kind,
            "reference": str(each.reference),
            "file": name,
            "size": file.stat().st_size,
            "sha256": each.bundle.sha256[name],
            "schema": json.dumps(file_schema(file), sort_keys=True),
        }
        for each in published
        for name, file in sorted(each.bundle.files.items())
    ]
    return pl.DataFrame(rows, schema=_SCHEMA)


def recorded_bundles(frame: pl.DataFrame) -> Iterator[RecordedBundle]:
    """Read a record back, bundle by bundle."""
    for (name, reference), rows in frame.group_by("bundle", "reference", maintain_order=True):
        files = {
            row["file"]: RecordedFile(row["size"], row["sha256"], json.loads(row["schema"])) for row in rows.iter_rows(named=True)
        }
        yield RecordedBundle(str(name), parse_reference(str(reference)), files)


def file_schema(file: Path) -> dict[str, str]:
    """Describe what a file of data holds: column types of Parquet, type and shape of each tensor; other files have none.

    Raises:
        PublicationError: its name says Parquet or safetensors, and it is something else.
    """
    if file.suffix == ".parquet":
        try:
            return {name: str(dtype) for name, dtype in pl.read_parquet_schema(file).items()}
        except pl.exceptions.PolarsError as error:
            raise PublicationError(f"{file}: not a Parquet file ({error}).") from error
    if file.suffix == ".safetensors":
        return {name: f"{facts['dtype']}{facts['shape']}" for name, facts in tensors(file).items()}
    return {}
