"""Rows of what an imported study cannot give: a null estimate with its reason, as everywhere in the tidy tables."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from persona_assets.imported import Imported
from persona_assets.statistics import baselines, probe
from persona_assets.statistics.tidy import RowTemplate, TidyRow, tidy_frame

_PREDICTORS = ("neg_levenshtein", "token_jaccard", "bpe_jaccard")
_OUTCOME = "source_rate"


def absent_baselines(imported: Imported, n: int, layers: Sequence[int]) -> pl.DataFrame:
    """Rows of family `baselines` for a study whose prompts are not all known."""
    why = f"not estimable: {imported.why_not('prompts and surface baselines')}"
    row = RowTemplate(baselines.FAMILY, n, outcome=_OUTCOME)
    rows: list[TidyRow] = [
        row(statistic, predictor=name, registered=statistic == "spearman", note=why)
        for name in _PREDICTORS
        for statistic in ("spearman", "pearson")
    ]
    rows += [
        row(statistic, layer, predictor=f"cosine - {name}", registered=statistic == "mrr_z", note=why)
        for layer in layers
        for name in _PREDICTORS
        for statistic in (*baselines.TESTS, "mrr_z_holm")
    ]
    return tidy_frame(rows)


def absent_probe(imported: Imported, n: int, layers: Sequence[int]) -> pl.DataFrame:
    """Table `probe` of a study whose hidden states are not known."""
    why = f"not estimable: {imported.why_not('probe')}"
    row = RowTemplate(probe.FAMILY, n, "anchor_confusability", _OUTCOME)
    rows: list[TidyRow] = []
    for layer in layers:
        rows.append(row("accuracy", layer, predictor="hidden_state", outcome="persona", note=why))
        rows.append(row("spearman", layer, note=why))
    return tidy_frame(rows)
