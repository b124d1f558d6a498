"""The imported study in the lake: plain tables of what was read, and the tables of a study computed from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from persona_assets.ancestor.assembly import Assembly
from persona_assets.ancestor.gathering import Gathered
from persona_assets.geometry.cosines import GEOMETRY_SCHEMA, PAIRWISE_SCHEMA, geometry_frame, pairwise_frame
from persona_assets.hashing import sha256_json
from persona_assets.imported import Imported
from persona_assets.measurement import MEASUREMENTS_SCHEMA
from persona_assets.statistics.identity import UNKNOWN
from persona_assets.statistics.rates import CELLS_SCHEMA, cluster_columns, wilson
from persona_assets.tasks.cells import COMPLETIONS_SCHEMA

if TYPE_CHECKING:
    from persona_assets.study import AnalysisPlan

VERSION = "1"
"""Raise it when the same files are read into something else."""
CELLS_FILE = "cells.parquet"
PERSONAS_FILE = "personas.parquet"
BASE_FILE = "base.parquet"
NEGATIVES_FILE = "trained_negatives.parquet"
COSINES_FILE = "cosines.parquet"
CENTROIDS_FILE = "centroids.safetensors"
ADAPTERS_FILE = "adapters.parquet"
PUBLISHED_FILE = "published.parquet"
SOURCES_FILE = "sources.parquet"
TRAINING_FILE = "training.parquet"
COMPLETIONS_DIRECTORY = "completions"
_CELLS: dict[str, object] = {
    "source": pl.String,
    "eval_persona": pl.String,
    "seed": pl.Int64,
    "hits": pl.Int64,
    "n": pl.Int64,
    "question_hits": pl.List(pl.Int64),
    "question_n": pl.List(pl.Int64),
}


def write_product(assembly: Assembly, gathered: Gathered, study: str, marker: str, directory: Path) -> None:
    """Write everything that was read into an empty directory."""
    frames = {
        PERSONAS_FILE: pl.DataFrame(
            [(p.id, p.category, p.prompt, assembly.prompt_tokens.get(p.id)) for p in assembly.personas],
            schema={"persona": pl.String, "category": pl.String, "prompt": pl.String, "prompt_tokens": pl.Int64},
            orient="row",
        ),
        CELLS_FILE: pl.DataFrame(list(_cell_rows(assembly)), schema=_CELLS, orient="row"),  # type: ignore[arg-type]
        NEGATIVES_FILE: pl.DataFrame(
            [(source, negative) for source, negatives in assembly.negatives.items() for negative in negatives],
            schema={"source": pl.String, "eval_persona": pl.String},
            orient="row",
        ),
        BASE_FILE: pl.DataFrame(
            [(persona, counts.hits, counts.n) for persona, counts in gathered.base.items()],
            schema={"eval_persona": pl.String, "base_hits": pl.Int64, "base_n": pl.Int64},
            orient="row",
        ),
        COSINES_FILE: pl.DataFrame(
            [(layer, p, value, assembly.centring) for layer, row in assembly.cosines.items() for p, value in row.items()],
            schema=GEOMETRY_SCHEMA,
            orient="row",
        ),
        ADAPTERS_FILE: pl.DataFrame(
            [(*key, digest) for key, digest in gathered.adapters.items()],
            schema={"source": pl.String, "seed": pl.Int64, "adapter_digest": pl.String},
            orient="row",
        ),
        PUBLISHED_FILE: pl.DataFrame(
            list(gathered.study.published.items() if gathered.study else ()),
            schema={"name": pl.String, "value": pl.String},
            orient="row",
        ),
        SOURCES_FILE: pl.DataFrame(sorted(gathered.files.items()), schema={"file": pl.String, "sha256": pl.String}, orient="row"),
        TRAINING_FILE: pl.DataFrame(list(_training_rows(gathered)), schema=_TRAINING, orient="row"),
    }
    for name, frame in frames.items():
        frame.write_parquet(directory / name)
    if assembly.centroids is not None:
        from safetensors.numpy import save_file

        layers = np.array(assembly.centroids.layers, dtype=np.int64)
        save_file({"layers": layers, **assembly.centroids.vectors}, directory / CENTROIDS_FILE)
    (directory / COMPLETIONS_DIRECTORY).mkdir()
    for (source, seed), texts in assembly.texts.items():
        completions_frame(study, source, seed, texts, marker).write_parquet(directory / completions_file(source, seed))


def check_product(directory: Path, assembly: Assembly) -> None:
    """Read back what was written.

    Raises:
        ValueError: rows are missing, or a cell holds more hits than completions.
    """
    cells = pl.read_parquet(directory / CELLS_FILE)
    expected = sum(len(row) for row in assembly.cells.values())
    if cells.height != expected or not cells.select((pl.col("hits") <= pl.col("n")).all()).item():
        raise ValueError(f"{directory}: {cells.height} cells were read back, {expected} were written.")
    personas = pl.read_parquet(directory / PERSONAS_FILE)["persona"].to_list()
    if personas != [persona.id for persona in assembly.personas]:
        raise ValueError(f"{directory}: the personas read back are not those that were written.")


_TRAINING: dict[str, type[pl.DataType]] = {
    "source": pl.String,
    "seed": pl.Int64,
    "base_model": pl.String,
    "field": pl.String,
    "value": pl.String,
}


def _training_rows(gathered: Gathered) -> Iterator[tuple[str, int, str, str, str | None]]:
    for (source, seed), condition in gathered.conditions.items():
        run = condition.run
        if run is None:
            continue
        lora = run.training["lora_config"]
        assert isinstance(lora, Mapping)
        facts = {**{name: value for name, value in run.training.items() if name != "lora_config"}, **lora}
        facts |= {"train_loss": run.train_loss, "train_minutes": run.train_minutes}
        for name, value in facts.items():
            yield source, seed, run.base_model, name, None if value is None else str(value)


def completions_file(source: str, seed: int) -> str:
    """Place of a source's completions within the product."""
    return f"{COMPLETIONS_DIRECTORY}/{source}_seed{seed}.parquet"


def completions_frame(
    study: str, source: str, seed: int, texts: Mapping[str, Mapping[str, list[str]]], marker: str
) -> pl.DataFrame:
    """Completions as the lake keeps them; token counts, finish reasons and sampling seeds are null: not recorded."""
    from persona_assets.generation.marker import marker_hit

    rows = [
        (
            f"{study}/{source}/s{seed}/m1/{persona}/q{index:02d}/{sample}",
            *(source, persona, seed, 1, index, question, sample, None, text, marker_hit(text, marker), None, None),
        )
        for persona, questions in texts.items()
        for index, (question, own) in enumerate(questions.items())
        for sample, text in enumerate(own)
    ]
    return pl.DataFrame(rows, schema=COMPLETIONS_SCHEMA, orient="row")


def _cell_rows(assembly: Assembly) -> Iterator[tuple[object, ...]]:
    for (source, seed), row in assembly.cells.items():
        for persona, cell in row.items():
            questions = None if cell.questions is None else list(cell.questions.values())
            yield (
                *(source, persona, seed, cell.hits, cell.n),
                None if questions is None else [hits for hits, _ in questions],
                None if questions is None else [n for _, n in questions],
            )


def imported_cells(directory: Path, plan: AnalysisPlan) -> pl.DataFrame:
    """Table `cells` of an imported study; what its files do not record is null."""
    cells = pl.read_parquet(directory / CELLS_FILE).with_columns(
        pl.lit(1, dtype=pl.Int64).alias("measurement"), (pl.col("hits") / pl.col("n")).alias("rate")
    )
    low, high = wilson(cells["hits"].to_numpy(), cells["n"].to_numpy(), plan.confidence_level)
    cells = _by_question(cells.with_columns(pl.Series("wilson_low", low), pl.Series("wilson_high", high)), plan)
    cells = cells.join(pl.read_parquet(directory / BASE_FILE), on="eval_persona", how="left", maintain_order="left")
    cells = cells.with_columns((pl.col("base_hits") / pl.col("base_n")).alias("base_rate"))
    negatives = pl.read_parquet(directory / NEGATIVES_FILE)
    listed = pl.col("source").is_in(negatives["source"].unique().to_list())
    pairs = negatives.with_columns(pl.lit(True).alias("negative"))
    cells = cells.join(pairs, on=["source", "eval_persona"], how="left", maintain_order="left")
    kind = pl.when(pl.col("source") == pl.col("eval_persona")).then(pl.lit("self")).when(pl.col("negative"))
    cells = cells.with_columns(
        kind.then(pl.lit("trained_negative")).when(listed).then(pl.lit("unseen")).alias("kind"),
        (pl.col("rate") - pl.col("base_rate")).alias("residual_rate"),
        *(pl.lit(None).alias(name) for name in ("truncation_rate", "truncation_flagged", "mean_tokens")),
    )
    ordered = cells.sort("source", "eval_persona", "seed")
    return ordered.select(pl.col(name).cast(dtype) for name, dtype in CELLS_SCHEMA.items())


def _by_question(cells: pl.DataFrame, plan: AnalysisPlan) -> pl.DataFrame:
    """Add the intervals over questions, null for cells that are known only as a sum."""
    known = cells.filter(pl.col("question_hits").is_not_null())
    ends = cluster_columns(known, plan.seed, plan.bootstrap_resamples, plan.confidence_level)
    keys = ["source", "eval_persona", "seed"]
    return cells.join(known.select(*keys, *ends), on=keys, how="left", maintain_order="left")


def imported_personas(directory: Path) -> pl.DataFrame:
    """Facts about the sources, in panel order; each is inherited by whoever takes the study for a parent."""
    return pl.read_parquet(directory / PERSONAS_FILE).with_columns(pl.lit("inherited").alias("cohort"))


def imported_measurements(directory: Path, imported: Imported) -> pl.DataFrame:
    """Table `measurements`: one row for each source and seed, with what is known of its conditions.

    Texts that are not known say `unknown`, numbers are null.
    """
    digests = {(row[0], row[1]): row[2] for row in pl.read_parquet(directory / ADAPTERS_FILE).iter_rows()}
    known = {
        name: UNKNOWN if value is None and MEASUREMENTS_SCHEMA[name] == pl.String else value
        for name, value in imported.identity.items()
    }
    rows = []
    for source, seed in pl.read_parquet(directory / CELLS_FILE).select("source", "seed").unique(maintain_order=True).iter_rows():
        fields = {**known, "adapter_digest": digests.get((source, seed), UNKNOWN)}
        rows.append(
            {"source": source, "seed": seed, "measurement": 1, "identity_digest": sha256_json(fields), **fields},
        )
    return pl.DataFrame(rows, schema=MEASUREMENTS_SCHEMA)


def imported_geometry(directory: Path, imported: Imported) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables `geometry` and `pairwise_cosines`, the latter without rows where there are no centroids.

    Cosines of a whole-study file stand under the centring that was stated for them; centroids give the layers that the
    file does not have, and the uncentred cosines.
    """
    ids = [persona.id for persona in imported.personas]
    written = pl.read_parquet(directory / COSINES_FILE).filter(pl.col("persona").is_in(ids))
    if not (directory / CENTROIDS_FILE).is_file():
        return written, pl.DataFrame(schema=PAIRWISE_SCHEMA)
    from safetensors.numpy import load_file

    vectors = load_file(directory / CENTROIDS_FILE)
    layers = vectors["layers"].tolist()
    stacked = np.stack([vectors[persona] for persona in ids])
    pairs = pairwise_frame(stacked, ids, layers=layers)
    if imported.anchor not in ids:
        return written, pairs
    computed = geometry_frame(stacked, ids, imported.anchor, layers=layers)
    new = computed.join(written, on=["layer", "persona", "centring"], how="anti", maintain_order="left")
    return pl.concat([written, new]).sort("centring", "layer", maintain_order=True), pairs


def not_supported_table(imported: Imported) -> pl.DataFrame:
    """Table `not_supported`: what the imported data cannot give, and why."""
    return pl.DataFrame(
        [(each.what, each.why) for each in imported.not_supported], schema={"what": pl.String, "why": pl.String}, orient="row"
    )
