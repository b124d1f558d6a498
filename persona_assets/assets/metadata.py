"""What the UI shows of a materialization: numbers worth plotting, pictures, links to files, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
from dagster import MetadataValue, TableColumn, TableRecord, TableSchema, TableSchemaMetadataValue

from persona_assets.store import Manifest
from persona_assets.table_guide import table_guide

MAX_TABLE_ROWS = 50
LAKE_ROUTE = "/lake"
"""Where the UI serves the lake (`persona-assets ui`); links are relative, so they hold under any host and port."""
COLUMN_SCHEMA = "dagster/column_schema"
"""Key under which Dagster looks for the columns of a table."""


def numbers(facts: Mapping[str, object], names: Sequence[str]) -> dict[str, MetadataValue]:
    """Take numeric facts under their own, stable names, so that the UI plots them over partitions."""
    found: dict[str, MetadataValue] = {}
    for name in names:
        value = facts[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"The fact {name} is not a number: {value!r}.")
        found[name] = MetadataValue.int(value) if isinstance(value, int) else MetadataValue.float(value)
    return found


def lake_link(path: str) -> MetadataValue:
    """Link to a file of the lake, or to a product's directory when the path ends with a slash."""
    return MetadataValue.url(f"{LAKE_ROUTE}/{path}")


def notes(facts: Mapping[str, object], names: Sequence[str]) -> dict[str, MetadataValue]:
    """Take those facts that say something out of the ordinary, where there are any."""
    return {name: MetadataValue.text(str(facts[name])) for name in names if name in facts}


def product_links(manifest: Manifest, directory: Path) -> dict[str, MetadataValue]:
    """Say where the product lies, what it weighs and by whom it was made."""
    return {
        "path": MetadataValue.path(str(directory)),
        "files": lake_link(f"{manifest.path}/"),
        "size_bytes": MetadataValue.int(sum(int(facts["size"]) for facts in manifest.files.values())),
        "fingerprint": MetadataValue.text(manifest.fingerprint),
        "made_by_run": MetadataValue.text(manifest.run_id),
    }


def columns(table: str, schema: Mapping[str, object]) -> TableSchema:
    """Name, type and meaning of every column of a table (`cells`) or a Parquet file (`answers.parquet`)."""
    meaning = table_guide().columns(table)
    return TableSchema([TableColumn(name, str(dtype).lower(), meaning.get(name)) for name, dtype in schema.items()])


def table_columns(tables: Mapping[str, pl.DataFrame], shown: str) -> dict[str, MetadataValue]:
    """Columns of an asset's tables: those of the table shown where the UI looks for them, the others by name."""
    return {
        COLUMN_SCHEMA if name == shown else f"columns_{name}": TableSchemaMetadataValue(columns(name, frame.schema))
        for name, frame in tables.items()
    }


def file_columns(directory: Path) -> dict[str, MetadataValue]:
    """Columns of the first Parquet file of a product that is a table; nothing for a product without one."""
    file = min(directory.glob("*.parquet"), default=None)
    return {} if file is None else {COLUMN_SCHEMA: TableSchemaMetadataValue(columns(file.name, pl.read_parquet_schema(file)))}


def table_preview(table: str, frame: pl.DataFrame, rows: int = MAX_TABLE_ROWS) -> MetadataValue:
    """First rows of a table, rounded to what one reads."""
    records = [
        TableRecord({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()})
        for row in frame.head(rows).to_dicts()
    ]
    return MetadataValue.table(records, columns(table, frame.schema))
