"""The warehouse: DuckDB over the lake's Parquet, and the published file that a person queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import polars as pl
from dagster import ConfigurableResource

from persona_assets.errors import LakeError
from persona_assets.hashing import sha256_json
from persona_assets.replacing import temporary_sibling
from resources.lake import Lake

TABLE_SUFFIX = ".parquet"
_PUBLISHED = "published"


class Warehouse(ConfigurableResource):  # type: ignore[type-arg]  # no resource value other than itself
    """DuckDB in memory for the analysis assets; one writer publishes `warehouse.duckdb`."""

    lake: Lake

    @contextmanager
    def connect(self, views: Mapping[str, list[Path]]) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open DuckDB in memory with one view for each name, over Parquet files of one schema.

        Raises:
            LakeError: a view has no file.
        """
        # On several threads sums of floats are added in no fixed order, and tables would differ in their last bits.
        connection = duckdb.connect(":memory:", config={"threads": 1})
        try:
            for name, files in views.items():
                if not files:
                    raise LakeError(f"The view {name} has no Parquet file in the lake: materialize what it reads first.")
                connection.read_parquet([str(file) for file in files]).create_view(name)
            yield connection
        finally:
            connection.close()

    def table(self, product_path: str, table: str) -> pl.DataFrame:
        """Read one table of a product whose files were verified."""
        return pl.read_parquet(self.lake.store.open(product_path) / f"{table}{TABLE_SUFFIX}")

    def tables(self, product_paths: Sequence[str]) -> dict[str, pl.DataFrame]:
        """Read every table of some products, by name."""
        files = [file for path in product_paths for file in sorted(self.lake.store.open(path).glob(f"*{TABLE_SUFFIX}"))]
        return {file.stem: pl.read_parquet(file) for file in files}

    def file(self, profile: str) -> Path:
        """Place of a profile's published warehouse."""
        return self.lake.store.root / profile / "warehouse.duckdb"

    def sources(self, profile: str, studies: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, str]]:
        """Find what a warehouse of these studies holds: data version by product path, for each study."""
        found: dict[str, dict[str, str]] = {}
        for study, paths in studies.items():
            manifests = {path: self.lake.store.manifest(path) for path in paths}
            found[study] = {path: manifest.data_version for path, manifest in manifests.items() if manifest is not None}
        return found

    def published_version(self, profile: str) -> str | None:
        """Return the data version of the published warehouse, None when there is none that can be read."""
        file = self.file(profile)
        if not file.is_file():
            return None
        try:
            with duckdb.connect(str(file), read_only=True) as connection:
                row = connection.execute(f"SELECT data_version FROM main.{_PUBLISHED} WHERE study IS NULL").fetchone()
        except duckdb.Error:  # a damaged file is published anew
            return None
        return None if row is None else str(row[0])

    def is_current(self, profile: str, studies: Mapping[str, tuple[str, ...]]) -> bool:
        """Say whether what is published can be read and is what the lake holds now."""
        return self.published_version(profile) == sha256_json(self.sources(profile, studies))

    def publish(self, profile: str, studies: Mapping[str, tuple[str, ...]]) -> str:
        """Write one schema for each study, one table for each kind of result, through a temporary name.

        Args:
            profile: whose warehouse.
            studies: paths of the table products, by study; those not in the lake are left out.

        Returns:
            The data version: digest of the data versions of everything published.
        """
        sources = self.sources(profile, studies)
        version = sha256_json(sources)
        file = self.file(profile)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_sibling(file)
        rows: list[tuple[str | None, str | None, str]] = [(None, None, version)]
        try:
            with duckdb.connect(str(temporary)) as connection:
                for study, products in sources.items():
                    if products:
                        connection.execute(f'CREATE SCHEMA "{study}"')
                    for path, data_version in products.items():
                        for parquet in sorted(self.lake.store.open(path).glob(f"*{TABLE_SUFFIX}")):
                            connection.execute(
                                f'CREATE TABLE "{study}"."{parquet.stem}" AS SELECT * FROM read_parquet($file)',
                                {"file": str(parquet)},
                            )
                            rows.append((study, parquet.stem, data_version))
                connection.execute(f"CREATE TABLE main.{_PUBLISHED} (study TEXT, table_name TEXT, data_version TEXT)")
                connection.executemany(f"INSERT INTO main.{_PUBLISHED} VALUES (?, ?, ?)", rows)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
        if self.published_version(profile) != version:
            raise LakeError(f"{file}: what was read back is not what was published. Materialize the warehouse again.")
        return version
