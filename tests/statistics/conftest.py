from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.simulation import SimulatedStudy, simulate_study

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("statistics", deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck))
settings.load_profile("statistics")


@pytest.fixture(scope="session")
def study() -> SimulatedStudy:
    """A study of 24 personas, half of them inherited, with a planted negative effect."""
    return simulate_study(24, rho=-0.7, seed=5, layers=6, inherited=12)


@pytest.fixture(scope="session")
def observe() -> Callable[..., StudyObservations]:
    """Build observations from arrays, with plain facts where a test does not care."""

    def build(
        cosine: object,
        rate: object,
        *,
        tokens: object = None,
        categories: tuple[str, ...] | None = None,
        cohorts: tuple[str, ...] | None = None,
        rate_by_seed: object = None,
        prompts: tuple[str, ...] | None = None,
        excluded: object = None,
        personas: tuple[str, ...] | None = None,
        first_layer: int = 0,
    ) -> StudyObservations:
        table = np.atleast_2d(np.asarray(cosine, dtype=float))
        rates = np.asarray(rate, dtype=float)
        n = len(rates)
        by_seed = rates[None] if rate_by_seed is None else np.asarray(rate_by_seed, dtype=float)
        return StudyObservations(
            personas=personas or tuple(f"p{i:02d}" for i in range(n)),
            categories=categories or ("occupational",) * n,
            cohorts=cohorts or ("new",) * n,
            anchor="p00",
            layers=tuple(range(first_layer, first_layer + len(table))),
            rate=rates,
            cosine=table,
            prompt_tokens=np.asarray(tokens, dtype=float) if tokens is not None else 5.0 + np.arange(n) * 7 % 11,
            seeds=tuple(range(len(by_seed))),
            rate_by_seed=by_seed,
            within_excluded=np.zeros(n, bool) if excluded is None else np.asarray(excluded, dtype=bool),
            prompts=prompts,
        )

    return build
