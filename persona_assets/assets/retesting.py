"""Compute the table `retest`: every outcome in the last two measurements of the same adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from dagster import MetadataValue

from persona_assets.assets.computing import StudyData, Tables
from persona_assets.measurement import Measurement, identity_row, with_unknown
from persona_assets.store import Manifest
from persona_assets.tasks.cells import COMPLETIONS_FILE
from persona_assets.tasks.marker_scores import SCORES_FILE

_Row = tuple[str, int]
_Pair = tuple[int, int]


def compute_retest(data: StudyData) -> Tables:
    """Table `retest`: over sources of which every training seed was measured twice under one identity."""
    from persona_assets.statistics.marker_scores import OUTCOMES, TRAINED
    from persona_assets.statistics.retest import RATE, retest_rows

    study, plan = data.study, data.study.analysis
    there = data.products.last_two(study)
    alike = {row: pair for row, pair in there.items() if _same_identity(data, row, pair)}
    sources = [source for source in study.panel.ids if all((source, seed) in alike for seed in study.seeds)]
    pairs = {row: pair for row, pair in alike.items() if row[0] in sources}
    rates = {row: [_own_rate(data, row, number) for number in pair] for row, pair in pairs.items()}
    scores = {row: [_own_scores(data, row, number) for number in pair] for row, pair in pairs.items()}

    def table(found: Mapping[_Row, Sequence[float | None]]) -> np.ndarray | None:
        """[2, sources], means over training seeds; None where one is missing."""
        if not sources or any(value is None for values in found.values() for value in values):
            return None
        by_seed = np.array([[found[source, seed] for source in sources] for seed in study.seeds], dtype=np.float64)
        return np.asarray(by_seed.mean(axis=0).T)

    outcomes = {RATE: table({row: [rate for rate, _ in found] for row, found in rates.items()})}
    for name in (*OUTCOMES, *TRAINED):
        outcomes[name] = table({row: [each.get(name) for each in found] for row, found in scores.items()})
    counts = [n for found in rates.values() for _, n in found]
    left_out = [source for source in study.panel.ids if source not in sources and any(row[0] == source for row in there)]
    why = "not estimable: no source was measured twice under one identity" if not sources else "not estimable: not all scored"
    if left_out:
        why += f" ({', '.join(left_out)} measured under different identities, or not with every training seed)"
    rows = retest_rows(
        outcomes,
        float(np.mean(counts)) if counts else 0.0,
        seed=plan.seed,
        resamples=plan.bootstrap_resamples,
        confidence=plan.confidence_level,
        why_missing=why,
    )
    return {"retest": rows}


def headline(tables: Tables) -> dict[str, MetadataValue]:
    """Reliability of every outcome that has one."""
    found = tables["retest"].filter(pl.col("statistic") == "reliability", pl.col("estimate").is_not_null())
    return {f"reliability_{row['outcome']}": MetadataValue.float(row["estimate"]) for row in found.to_dicts()}


def _manifest(data: StudyData, row: _Row, number: int) -> Manifest:
    return data.products.store.verified(data.products.eval_cells(data.study, *row, number).path)


def _same_identity(data: StudyData, row: _Row, pair: _Pair) -> bool:
    digests = set()
    for number in pair:
        identity = _manifest(data, row, number).facts["identity"]
        assert isinstance(identity, Mapping)
        conditions = identity_row(with_unknown(Measurement(*row, number, identity)))
        if None in conditions.values():  # what was not recorded equals nothing
            return False
        digests.add(conditions["identity_digest"])
    return len(digests) == 1


def _own_rate(data: StudyData, row: _Row, number: int) -> tuple[float, int]:
    """Rate of the source's own cell in one measurement, and its completions."""
    _manifest(data, row, number)
    directory = data.products.store.directory(data.products.eval_cells(data.study, *row, number).path)
    hits = pl.scan_parquet(directory / COMPLETIONS_FILE).filter(pl.col("eval_persona") == row[0]).select("hit").collect()["hit"]
    return int(hits.sum()) / len(hits), len(hits)


def _own_scores(data: StudyData, row: _Row, number: int) -> dict[str, float | None]:
    """Outcomes of the source's own cell in one measurement; empty where it was not scored."""
    from persona_assets.statistics.marker_scores import score_rows

    product = data.products.marker_scores(data.study, *row, number)
    if data.products.store.manifest(product.path) is None:
        return {}
    scores = pl.read_parquet(data.products.store.open(product.path) / SCORES_FILE).filter(pl.col("eval_persona") == row[0])
    return score_rows(scores, data.study.analysis.confidence_level).row(0, named=True)
