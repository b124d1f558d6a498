"""Marker rates: from completions to cells to source rates, with Wilson and question-cluster intervals."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import polars as pl

from persona_assets.conventions import BOOTSTRAP_RESAMPLES, CONFIDENCE_LEVEL
from persona_assets.statistics.intervals import cluster_bootstrap, wilson
from persona_assets.statistics.tidy import StatisticsError, require_columns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from persona_assets.statistics.tidy import FloatArray, IntArray

__all__ = [
    "CELLS_SCHEMA",
    "SOURCE_RATES_SCHEMA",
    "build_cells",
    "cells_table",
    "cluster_bootstrap",
    "source_rates",
    "wilson",
]

CELL_KEYS = ("source", "eval_persona", "seed", "measurement")
CELLS_SCHEMA: dict[str, type[pl.DataType]] = {
    "source": pl.String,
    "eval_persona": pl.String,
    "seed": pl.Int64,
    "measurement": pl.Int64,
    "kind": pl.String,
    "hits": pl.Int64,
    "n": pl.Int64,
    "rate": pl.Float64,
    "wilson_low": pl.Float64,
    "wilson_high": pl.Float64,
    "cluster_low": pl.Float64,
    "cluster_high": pl.Float64,
    "truncation_rate": pl.Float64,
    "truncation_flagged": pl.Boolean,
    "mean_tokens": pl.Float64,
    "base_hits": pl.Int64,
    "base_n": pl.Int64,
    "base_rate": pl.Float64,
    "residual_rate": pl.Float64,
}
SOURCE_RATES_SCHEMA: dict[str, type[pl.DataType]] = {
    "persona": pl.String,
    "category": pl.String,
    "cohort": pl.String,
    "seed": pl.Int64,
    "measurement": pl.Int64,
    **{
        name: CELLS_SCHEMA[name]
        for name in (
            "hits",
            "n",
            "rate",
            "wilson_low",
            "wilson_high",
            "cluster_low",
            "cluster_high",
            "base_rate",
        )
    },
    "residual_rate": pl.Float64,
    "truncation_rate": pl.Float64,
    "truncation_flagged": pl.Boolean,
    "prompt_tokens": pl.Int64,
}
_COMPLETION_COLUMNS = (*CELL_KEYS, "question_index", "sample_index", "hit", "n_tokens", "finish_reason")
_BASE_COLUMNS = ("eval_persona", "question_index", "sample_index", "hit")


def cells_table(
    con: duckdb.DuckDBPyConnection,
    *,
    completions: str = "completions",
    base: str | None = "base_completions",
    negatives: str | None = "trained_negatives",
    truncation_flag: float,
    seed: int,
    resamples: int = BOOTSTRAP_RESAMPLES,
    confidence: float = CONFIDENCE_LEVEL,
) -> pl.DataFrame:
    """Aggregate completions in DuckDB into the table `cells`.

    Args:
        con: connection on which the relations below are tables, views or registered frames.
        completions: relation with source, eval_persona, seed, measurement, question_index, sample_index, hit,
            n_tokens, finish_reason (`stop` or `length`); one row per completion.
        base: relation of the base model's completions (eval_persona, question_index, sample_index, hit); None leaves
            the base columns null, never 0.
        negatives: relation with columns source and eval_persona, the pairs trained as negatives. For a source that it
            does not list, and for all of them when None, the kind of cells off the diagonal is null: not known.
        truncation_flag: a cell is flagged when more than this share of completions stopped at the token limit.
        seed: seed of the cluster bootstrap.
        resamples: bootstrap resamples.
        confidence: level of both intervals.

    Returns:
        Columns of `CELLS_SCHEMA`, ordered by source, eval_persona, seed, measurement.

    Raises:
        StatisticsError: columns missing, nulls, unknown finish reasons, or the same completion twice.
    """
    _check_completions(con, completions, _COMPLETION_COLUMNS, (*CELL_KEYS, "question_index", "sample_index"))
    keys = ", ".join(CELL_KEYS)
    per_question = _query(
        con,
        f"""
        SELECT {keys}, question_index,
               count(*) FILTER (hit) AS hits, count(*) AS n,
               count(*) FILTER (finish_reason = 'length') AS truncated, sum(n_tokens)::DOUBLE AS tokens
        FROM {_relation(completions)} GROUP BY {keys}, question_index ORDER BY {keys}, question_index
        """,
    )
    cells = per_question.group_by(CELL_KEYS, maintain_order=True).agg(
        pl.col("hits", "n", "truncated", "tokens").sum(),
        pl.col("hits").alias("question_hits"),
        pl.col("n").alias("question_n"),
    )
    low, high = wilson(cells["hits"].to_numpy(), cells["n"].to_numpy(), confidence)
    cells = cells.with_columns(
        (pl.col("hits") / pl.col("n")).alias("rate"),
        pl.Series("wilson_low", low),
        pl.Series("wilson_high", high),
        (pl.col("truncated") / pl.col("n")).alias("truncation_rate"),
        (pl.col("truncated") / pl.col("n") > truncation_flag).alias("truncation_flagged"),
        (pl.col("tokens") / pl.col("n")).alias("mean_tokens"),
        *cluster_columns(cells, seed, resamples, confidence),
    )
    cells = cells.join(_base_rates(con, base), on="eval_persona", how="left", maintain_order="left")
    cells = _with_kind(con, cells, negatives).with_columns((pl.col("rate") - pl.col("base_rate")).alias("residual_rate"))
    return cells.select(pl.col(name).cast(dtype) for name, dtype in CELLS_SCHEMA.items())


def build_cells(
    completions: pl.DataFrame,
    *,
    base: pl.DataFrame | None,
    negatives: pl.DataFrame | None,
    truncation_flag: float,
    seed: int,
    resamples: int = BOOTSTRAP_RESAMPLES,
    confidence: float = CONFIDENCE_LEVEL,
) -> pl.DataFrame:
    """Do what `cells_table` does on frames, in a DuckDB connection of its own."""
    con = duckdb.connect(":memory:")
    try:
        con.register("completions", completions)
        if base is not None:
            con.register("base_completions", base)
        if negatives is not None:
            con.register("trained_negatives", negatives)
        return cells_table(
            con,
            base=None if base is None else "base_completions",
            negatives=None if negatives is None else "trained_negatives",
            truncation_flag=truncation_flag,
            seed=seed,
            resamples=resamples,
            confidence=confidence,
        )
    finally:
        con.close()


def source_rates(cells: pl.DataFrame, personas: pl.DataFrame) -> pl.DataFrame:
    """Take the diagonal of `cells` and add what is known of each persona.

    Args:
        cells: table `cells`.
        personas: persona, category, cohort, prompt_tokens; one row each, in panel order.

    Returns:
        Columns of `SOURCE_RATES_SCHEMA`, in panel order, then by seed and measurement.

    Raises:
        StatisticsError: a persona stands in one table and not in the other, or twice in `personas`.
    """
    require_columns(cells, CELLS_SCHEMA, "cells")
    require_columns(personas, ["persona", "category", "cohort", "prompt_tokens"], "personas")
    if personas["persona"].is_duplicated().any():
        raise StatisticsError("personas: a persona stands there twice.")
    facts = personas.select("persona", "category", "cohort", "prompt_tokens").with_row_index("panel_position")
    own = cells.filter(pl.col("source") == pl.col("eval_persona")).rename({"source": "persona"})
    if missing := [p for p in personas["persona"].to_list() if p not in set(own["persona"].to_list())]:
        raise StatisticsError(f"cells: no cell (s, s) for {', '.join(missing)}; evaluate these sources first.")
    if extra := sorted(set(own["persona"].to_list()) - set(personas["persona"].to_list())):
        raise StatisticsError(f"personas: no row for the sources {', '.join(extra)}.")
    joined = own.join(facts, on="persona", how="inner").sort("panel_position", "seed", "measurement")
    return joined.select(pl.col(name).cast(dtype) for name, dtype in SOURCE_RATES_SCHEMA.items())


def _relation(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*){0,2}", name):
        raise StatisticsError(f"{name!r} is not the name of a relation.")
    return ".".join(f'"{part}"' for part in name.split("."))


def _query(con: duckdb.DuckDBPyConnection, sql: str) -> pl.DataFrame:
    frame = pl.from_arrow(con.sql(sql).to_arrow_table())
    assert isinstance(frame, pl.DataFrame)
    return frame


def _check_completions(con: duckdb.DuckDBPyConnection, name: str, columns: tuple[str, ...], key: tuple[str, ...]) -> None:
    relation = _relation(name)
    there = con.sql(f"SELECT * FROM {relation} LIMIT 0").columns
    if missing := [column for column in columns if column not in there]:
        raise StatisticsError(f"{name}: columns {missing} are missing; there are {there}.")
    nulls = ", ".join(f"count(*) FILTER ({column} IS NULL) AS {column}" for column in columns)
    rows = _query(con, f"SELECT count(*) AS rows, {nulls} FROM {relation}").row(0, named=True)
    if not rows["rows"]:
        raise StatisticsError(f"{name}: there are no completions.")
    if bad := {column: rows[column] for column in columns if rows[column]}:
        raise StatisticsError(f"{name}: null values in {bad}; a completion without these cannot be counted.")
    doubles = _query(con, f"SELECT {', '.join(key)} FROM {relation} GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL LIMIT 1")
    if doubles.height:
        raise StatisticsError(f"{name}: the same completion stands there more than once: {doubles.row(0, named=True)}.")
    if "finish_reason" in columns:
        odd = _query(
            con,
            f"SELECT DISTINCT finish_reason FROM {relation} WHERE finish_reason NOT IN ('stop', 'length')",
        )
        if odd.height:
            raise StatisticsError(f"{name}: finish_reason {odd['finish_reason'].to_list()}; known are stop and length.")


def cluster_columns(cells: pl.DataFrame, seed: int, resamples: int, confidence: float) -> tuple[pl.Series, pl.Series]:
    """Columns `cluster_low` and `cluster_high` of cells with the lists `question_hits` and `question_n`; null without one."""
    low, high = np.full(cells.height, np.nan), np.full(cells.height, np.nan)
    for rows, hits, n in _by_question_count(cells):
        low[rows], high[rows] = cluster_bootstrap(hits, n, seed=seed, resamples=resamples, confidence=confidence)
    return (
        pl.Series("cluster_low", low).fill_nan(None),
        pl.Series("cluster_high", high).fill_nan(None),
    )


def _by_question_count(cells: pl.DataFrame) -> Iterator[tuple[IntArray, FloatArray, FloatArray]]:
    counts = cells["question_hits"].list.len().to_numpy()
    for questions in np.unique(counts):
        rows = np.flatnonzero(counts == questions)
        part = cells[rows]
        shape = (len(rows), int(questions))
        yield (
            rows,
            part["question_hits"].explode().cast(pl.Float64).to_numpy().reshape(shape),
            part["question_n"].explode().cast(pl.Float64).to_numpy().reshape(shape),
        )


def _base_rates(con: duckdb.DuckDBPyConnection, base: str | None) -> pl.DataFrame:
    if base is None:
        return pl.DataFrame(
            schema={
                "eval_persona": pl.String,
                "base_hits": pl.Int64,
                "base_n": pl.Int64,
                "base_rate": pl.Float64,
            }
        )
    # The key leaves measurement out on purpose: two base measurements in one relation would be pooled silently.
    _check_completions(con, base, _BASE_COLUMNS, ("eval_persona", "question_index", "sample_index"))
    return _query(
        con,
        f"""
        SELECT eval_persona, count(*) FILTER (hit) AS base_hits, count(*) AS base_n,
               count(*) FILTER (hit) / count(*) AS base_rate
        FROM {_relation(base)} GROUP BY eval_persona ORDER BY eval_persona
        """,
    )


def _with_kind(con: duckdb.DuckDBPyConnection, cells: pl.DataFrame, negatives: str | None) -> pl.DataFrame:
    pairs = pl.DataFrame(schema={"source": pl.String, "eval_persona": pl.String})
    if negatives is not None:
        there = con.sql(f"SELECT * FROM {_relation(negatives)} LIMIT 0").columns
        if missing := [column for column in ("source", "eval_persona") if column not in there]:
            raise StatisticsError(f"{negatives}: columns {missing} are missing; there are {there}.")
        pairs = _query(con, f"SELECT DISTINCT source, eval_persona FROM {_relation(negatives)} ORDER BY ALL")
        if (pairs["source"] == pairs["eval_persona"]).any():
            raise StatisticsError(f"{negatives}: a source is listed as its own negative.")
    listed = pairs.select("source").unique().with_columns(pl.lit(True).alias("listed"))
    marked = cells.join(
        pairs.with_columns(pl.lit(True).alias("negative")),
        on=["source", "eval_persona"],
        how="left",
        maintain_order="left",
    ).join(listed, on="source", how="left", maintain_order="left")
    return marked.with_columns(
        pl.when(pl.col("source") == pl.col("eval_persona"))
        .then(pl.lit("self"))
        .when(pl.col("negative"))
        .then(pl.lit("trained_negative"))
        .when(pl.col("listed"))
        .then(pl.lit("unseen"))
        .alias("kind")
    )
