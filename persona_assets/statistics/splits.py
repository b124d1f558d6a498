"""Calibration and holdout halves of a panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from persona_assets.hashing import derive_seed
from persona_assets.statistics.tidy import StatisticsError, same_length

if TYPE_CHECKING:
    from persona_assets.statistics.tidy import BoolArray

INHERITED = "inherited"


@dataclass(frozen=True)
class Split:
    """A named split of a panel.

    Attributes:
        name: `A` or `B`.
        calibration: [N] True for calibration personas, False for holdout.
        reason: why the split cannot be used, None when it can.
    """

    name: str
    calibration: BoolArray
    reason: str | None = None

    @property
    def holdout(self) -> BoolArray:
        """[N] True for holdout personas."""
        return ~self.calibration


def split_a(cohorts: Sequence[str]) -> Split:
    """Split A: the inherited cohort calibrates, the new cohort is held out."""
    calibration = np.array([cohort == INHERITED for cohort in cohorts], dtype=np.bool_)
    if not calibration.any():
        return Split("A", calibration, "no inherited cohort: the study has no parent, split A does not exist")
    if calibration.all():
        return Split("A", calibration, "no new cohort: every adapter is inherited, split A has no holdout")
    return Split("A", calibration)


def split_b(personas: Sequence[str], categories: Sequence[str], seed: int) -> Split:
    """Split B: half and half, stratified by category.

    Within each category (in alphabetical order) personas are ordered by sha256 of (purpose, seed, persona id); the
    resulting list is dealt alternately to calibration and holdout. Each category and the whole are so divided as
    evenly as whole personas allow, and the split depends on the ids and the seed only: not on panel order, on a
    generator's version or on hash randomisation.

    Raises:
        StatisticsError: lengths differ, or an id stands twice.
    """
    same_length(personas=personas, categories=categories)
    if len(set(personas)) != len(personas):
        raise StatisticsError("split_b: a persona stands in the panel twice.")
    order = sorted(
        range(len(personas)),
        key=lambda i: (categories[i], derive_seed("split_b", seed, personas[i]), personas[i]),
    )
    calibration = np.zeros(len(personas), dtype=np.bool_)
    calibration[order[::2]] = True
    reason = None if len(personas) >= 2 else "a panel of one persona has no halves"
    return Split("B", calibration, reason)
