"""What the UI shows of a materialization: numbers worth plotting, pictures, links to files, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
from dagster import MetadataValue, TableColumn, TableRecord, TableSchema, TableSchemaMetadataValue

from persona_assets.store import Manifest

MAX_TABLE_ROWS = 50


def numbers(facts: Mapping[str, object], names: Sequence[str]) -> dict[str, MetadataValue]:
    """Take numeric facts under their own, stable names, so that the UI plots them over partitions."""
    found: dict[str, MetadataValue] = {}
    for name in names:
        value = facts[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"The fact {name} is not a number: {value!r}.")
        found[name] = MetadataValue.int(value) if isinstance(value, int) else MetadataValue.float(value)
    return found


def product_links(manifest: Manifest, directory: Path) -> dict[str, MetadataValue]:
    """Say where the product lies, what it weighs and by whom it was made."""
    return {
        "path": MetadataValue.path(str(directory)),
        "size_bytes": MetadataValue.int(sum(int(facts["size"]) for facts in manifest.files.values())),
        "fingerprint": MetadataValue.text(manifest.fingerprint),
        "made_by_run": MetadataValue.text(manifest.run_id),
    }


def table_schema(frame: pl.DataFrame) -> MetadataValue:
    """Column names and types."""
    return TableSchemaMetadataValue(TableSchema([TableColumn(name, str(dtype).lower()) for name, dtype in frame.schema.items()]))


def table_preview(frame: pl.DataFrame, rows: int = MAX_TABLE_ROWS) -> MetadataValue:
    """First rows of a table, rounded to what one reads."""
    records = [
        TableRecord({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()})
        for row in frame.head(rows).to_dicts()
    ]
    schema = TableSchema([TableColumn(name, str(dtype).lower()) for name, dtype in frame.schema.items()])
    return MetadataValue.table(records, schema)
