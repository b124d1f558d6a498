from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.simulation import ANCHOR, SimulatedStudy
from persona_assets.statistics.within_category import within_category

Observe = Callable[..., StudyObservations]


def test_every_category_by_hand(study: SimulatedStudy) -> None:
    observations = study.frames.observations(ANCHOR)
    table = within_category(observations)
    for category in ("occupational", "character", "generic_helper"):
        keep = np.array([c == category for c in observations.categories])
        row = table.filter(outcome=f"source_rate:{category}", layer=3, statistic="spearman").row(0, named=True)
        expected = stats.spearmanr(observations.at(3)[keep], observations.rate[keep])
        assert (row["estimate"], row["n"]) == (pytest.approx(expected.statistic), keep.sum())
        assert row["registered"]
        largest = np.flatnonzero(keep)[np.argmax(observations.rate[keep])]
        keep[largest] = False
        row = table.filter(outcome=f"source_rate:{category}:without_largest", layer=3, statistic="pearson").row(0, named=True)
        if keep.sum() < 4:
            assert row["estimate"] is None
            continue
        assert row["estimate"] == pytest.approx(stats.pearsonr(observations.at(3)[keep], observations.rate[keep]).statistic)
        assert observations.personas[largest] in row["note"]
    everyone = np.arange(24) != np.argmax(observations.rate)
    row = table.filter(outcome="source_rate:all:without_largest", layer=0, statistic="spearman").row(0, named=True)
    assert row["estimate"] == pytest.approx(stats.spearmanr(observations.at(0)[everyone], observations.rate[everyone]).statistic)


def test_marked_personas_stay_out_and_empty_categories_say_so(observe: Observe, recwarn: pytest.WarningsRecorder) -> None:
    excluded = [False] * 5 + [True]
    data = observe(np.arange(6) / 7, [0.1, 0.3, 0.2, 0.5, 0.4, 0.9], excluded=excluded, categories=("generic_helper",) * 6)
    table = within_category(data)
    row = table.filter(outcome="source_rate:generic_helper", statistic="spearman").row(0, named=True)
    assert (row["n"], row["note"]) == (5, "without p05, marked in the panel")
    largest = table.filter(outcome="source_rate:generic_helper:without_largest", statistic="spearman").row(0, named=True)
    assert (largest["n"], largest["note"]) == (4, "without p03, the largest source rate")
    for category in ("occupational", "character"):
        row = table.filter(outcome=f"source_rate:{category}", statistic="spearman").row(0, named=True)
        assert (row["estimate"], row["n"]) == (None, 0)
        assert row["note"].startswith("not estimable")
    assert not recwarn.list
