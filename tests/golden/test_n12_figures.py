"""Published figures of the study of twelve personas, recomputed from its numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from persona_assets.statistics.correlations import pearson, spearman
from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.partial import partial_reranked, partial_rows, partial_spearman
from persona_assets.statistics.scan import scan

FIGURES = pl.read_csv(Path(__file__).parent / "n12_figures.csv")


def column(name: str) -> np.ndarray:
    return FIGURES[name].to_numpy()


@pytest.mark.parametrize(
    ("layer", "rho", "rho_p", "r", "r_p"),
    [(20, -0.7395, 0.005986, -0.6209, 0.031179), (10, -0.7113, 0.009492, -0.7034, 0.010704)],
)
def test_plain_correlations(layer: int, rho: float, rho_p: float, r: float, r_p: float) -> None:
    x, y = column(f"cosine_l{layer}"), column("source_rate")
    assert spearman(x, y)[:2] == (pytest.approx(rho, abs=5e-5), pytest.approx(rho_p, abs=5e-7))
    assert pearson(x, y)[:2] == (pytest.approx(r, abs=5e-5), pytest.approx(r_p, abs=5e-7))


def test_length_partials_at_layer_20() -> None:
    x, y, z = column("cosine_l20"), column("source_rate"), np.log(column("prompt_tokens"))
    assert partial_spearman(x, y, [z])[:2] == (pytest.approx(-0.6677, abs=5e-5), pytest.approx(0.0248, abs=5e-5))
    assert partial_reranked(x, y, [z])[:2] == (pytest.approx(-0.6667, abs=5e-5), pytest.approx(0.0179, abs=5e-5))


def test_the_tables_carry_the_same_figures() -> None:
    n = FIGURES.height
    observations = StudyObservations(
        personas=tuple(FIGURES["persona"]),
        categories=tuple(FIGURES["category"]),
        cohorts=("new",) * n,
        anchor="helpful_assistant",
        layers=(10, 20),
        rate=column("source_rate"),
        cosine=np.clip(np.array([column("cosine_l10"), column("cosine_l20")]), -1, 1),
        prompt_tokens=column("prompt_tokens").astype(float),
        seeds=(42,),
        rate_by_seed=column("source_rate")[None],
        within_excluded=np.zeros(n, dtype=bool),
    )
    tables = pl.concat([scan(observations, seed=42), partial_rows(observations, seed=42, count=999)])

    def cell(statistic: str, layer: int, value: str) -> float:
        return tables.filter(pl.col("statistic") == statistic, pl.col("layer") == layer)[value].item()

    assert cell("spearman", 20, "estimate") == pytest.approx(-0.7395, abs=5e-5)
    assert cell("spearman", 10, "p") == pytest.approx(0.009492, abs=5e-7)
    assert cell("pearson", 10, "estimate") == pytest.approx(-0.7034, abs=5e-5)
    assert cell("partial_spearman", 20, "estimate") == pytest.approx(-0.6677, abs=5e-5)
    assert cell("partial_reranked", 20, "p") == pytest.approx(0.0179, abs=5e-5)
    assert not tables.filter(pl.col("statistic") == "partial_reranked")["registered"].any()
