"""What an analysis takes where nothing else is said: defaults of the study file's plan and of every function of `statistics`."""

from __future__ import annotations

ALPHA = 0.05
"""Level of every test."""
CONFIDENCE_LEVEL = 0.95
BOOTSTRAP_RESAMPLES = 2000
PERMUTATIONS = 9999
"""Of a permutation test; with the observed value they make 10,000."""
SLOPE_TOLERANCE = 0.25
"""Largest relative change of slope that gate B accepts."""
DRIFT_LOW_SHARE = 0.75
"""Share of drops from which confidence is LOW."""
DRIFT_MATCH_SHARE = 0.83
"""Share of drops that matches the earlier episode."""
