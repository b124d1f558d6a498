"""Read the published warehouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from persona_assets.errors import PersonaAssetsError

if TYPE_CHECKING:
    from persona_assets.cli.deployment import Deployment


class QueryError(PersonaAssetsError):
    """A query that the warehouse cannot answer."""


def query_warehouse(deployment: Deployment, query: str) -> pl.DataFrame:
    """Run one SQL query, read-only.

    Raises:
        QueryError: there is no warehouse yet, or DuckDB refuses the query; the message is DuckDB's.
    """
    import duckdb

    from resources.lake import Lake
    from resources.warehouse import Warehouse

    file = Warehouse(lake=Lake()).file(deployment.catalog.profile.name)
    if not file.is_file():
        raise QueryError(f"{file} does not exist yet: run a study first, for example `persona-assets run n12`.")
    try:
        with duckdb.connect(str(file), read_only=True) as connection:
            found = connection.sql(query)
            if found is None:
                raise QueryError("The query returns no rows: only queries that read are of use here.")
            frame = pl.from_arrow(found.to_arrow_table())
    except duckdb.Error as error:
        raise QueryError(str(error)) from error
    assert isinstance(frame, pl.DataFrame)
    return frame
