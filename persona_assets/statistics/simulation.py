"""Simulated studies with a known effect: for calibration, benchmarks, and rehearsing an analysis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from persona_assets.conventions import BOOTSTRAP_RESAMPLES
from persona_assets.geometry.cosines import anchor_cosines, geometry_frame, pairwise_cosines, pairwise_frame
from persona_assets.statistics.analysis import StudyFrames
from persona_assets.statistics.rates import build_cells, source_rates
from persona_assets.statistics.tidy import StatisticsError, generator

if TYPE_CHECKING:
    from persona_assets.statistics.tidy import FloatArray

ANCHOR = "helpful_assistant"
_CATEGORIES = ("generic_helper", "occupational", "character", "occupational", "character")
_MEAN_RATE, _RATE_SD = 0.42, 0.12
_CLUSTERS = 7


@dataclass(frozen=True)
class SimulatedStudy:
    """A study whose population correlation is known.

    Attributes:
        frames: its tables.
        completions: every completion.
        base_completions: completions of the base model.
        negatives: pairs trained as negatives.
        centroids: [N, layers, hidden].
        population_rate: [N] probability of the marker in each source's own cell.
    """

    frames: StudyFrames
    completions: pl.DataFrame
    base_completions: pl.DataFrame
    negatives: pl.DataFrame
    centroids: FloatArray
    population_rate: FloatArray


def simulate_study(
    n: int,
    *,
    rho: float,
    seed: int,
    layers: int = 28,
    hidden: int = 32,
    planted_layer: int | None = None,
    inherited: int = 0,
    seeds: tuple[int, ...] = (42,),
    questions: int = 20,
    samples: int = 5,
    leakage: float = 2.0,
    resamples: int = BOOTSTRAP_RESAMPLES,
) -> SimulatedStudy:
    """Simulate centroids, completions and the tables made of them.

    Args:
        n: personas; the first is the anchor.
        rho: correlation, in these personas, of the latent source rate with the cosine at the planted layer.
        seed: of every draw.
        layers: layers of the base model.
        hidden: width of the hidden states.
        planted_layer: layer of the effect, the middle one by default; neighbouring layers share some of it.
        inherited: how many personas, the first ones, are of the inherited cohort.
        seeds: training seeds, each with its own deviation of the rates.
        questions: questions of a cell.
        samples: completions per question.
        leakage: how steeply the bystander rate rises with the pairwise cosine; 0 for none.
        resamples: of the cluster bootstrap.

    Raises:
        StatisticsError: fewer than 4 personas, or rho outside [-1, 1].
    """
    if n < 4 or not -1.0 <= rho <= 1.0:
        raise StatisticsError(f"simulate_study: {n} personas and rho {rho}; at least 4 and within [-1, 1] are needed.")
    planted = layers // 2 if planted_layer is None else planted_layer
    ids = [ANCHOR, *(f"persona_{i:03d}" for i in range(1, n))]
    random = generator("simulate_study", seed, n, layers)
    centroids = _centroids(random, n, layers, hidden)
    cosine = _standard(anchor_cosines(centroids, 0)[planted])
    noise = random.standard_normal(n)
    noise = _standard(noise - cosine * (noise @ cosine) / n)
    latent = rho * cosine + np.sqrt(1.0 - rho**2) * noise
    rate = np.clip(_MEAN_RATE + _RATE_SD * latent, 0.02, 0.98)
    pairwise = pairwise_cosines(centroids)[planted]
    share = 1.0 / (1.0 + np.exp(-leakage * (_standard(pairwise.ravel()).reshape(n, n) - 2.0)))
    np.fill_diagonal(share, 1.0)
    completions = pl.concat(
        [_completions(random, ids, rate, share, number, questions, samples, jitter=k > 0) for k, number in enumerate(seeds)]
    )
    base = _base(random, ids, questions, samples)
    negatives = pl.DataFrame({"source": np.repeat(ids, 2), "eval_persona": [ids[(i + k) % n] for i in range(n) for k in (1, 2)]})
    cells = build_cells(completions, base=base, negatives=negatives, truncation_flag=0.05, seed=seed, resamples=resamples)
    facts = pl.DataFrame(
        {
            "persona": ids,
            "category": [_CATEGORIES[i % len(_CATEGORIES)] for i in range(n)],
            "cohort": ["inherited" if i < inherited else "new" for i in range(n)],
            "prompt_tokens": 4 + random.integers(0, 24, n),
            "prompt": [_prompt(random, i) for i in range(n)],
        }
    )
    frames = StudyFrames(
        source_rates=source_rates(cells, facts),
        geometry=geometry_frame(centroids, ids, ANCHOR, reference=centroids[: max(4, n // 4)]),
        measurements=_measurements(ids, seeds),
        personas=facts.select("persona", "prompt"),
        cells=cells,
        pairwise_cosines=pairwise_frame(centroids, ids),
    )
    return SimulatedStudy(frames, completions, base, negatives, centroids, rate)


def _standard(values: FloatArray) -> FloatArray:
    return np.asarray((values - values.mean()) / values.std())


def _centroids(random: np.random.Generator, n: int, layers: int, hidden: int) -> FloatArray:
    """Personas in clusters that drift slowly from layer to layer, around a large common mean."""
    clusters = random.integers(0, _CLUSTERS, n)
    centres = random.standard_normal((_CLUSTERS, hidden))
    own = random.standard_normal((n, hidden))
    out = np.empty((n, layers, hidden))
    for layer in range(layers):
        centres = 0.95 * centres + 0.3 * random.standard_normal(centres.shape)
        own = 0.95 * own + 0.3 * random.standard_normal(own.shape)
        out[:, layer] = 3.0 + centres[clusters] + own
    return out


def _completions(
    random: np.random.Generator,
    ids: list[str],
    rate: FloatArray,
    share: FloatArray,
    training_seed: int,
    questions: int,
    samples: int,
    *,
    jitter: bool,
) -> pl.DataFrame:
    n = len(ids)
    deviation = 0.05 * random.standard_normal(n) if jitter else np.zeros(n)
    cell = np.clip(rate + deviation, 0.01, 0.99)[:, None] * share
    easier = 0.08 * random.standard_normal(questions)
    chance = np.clip(cell[:, :, None] + easier * cell[:, :, None] * 2, 0.0, 1.0)
    hit = random.random((n, n, questions, samples)) < chance[..., None]
    size = hit.size
    names = pl.Series("persona", ids, dtype=pl.String)
    source, persona, question, sample = (index.ravel() for index in np.indices(hit.shape, dtype=np.int32))
    return pl.DataFrame(
        {
            "source": names.gather(source),
            "eval_persona": names.gather(persona),
            "seed": np.full(size, training_seed),
            "measurement": np.ones(size, dtype=np.int64),
            "question_index": question,
            "sample_index": sample,
            "hit": hit.ravel(),
            "n_tokens": random.integers(8, 40, size),
            "finish_reason": pl.Series(np.where(random.random(size) < 0.02, "length", "stop")),
        }
    )


def _base(random: np.random.Generator, ids: list[str], questions: int, samples: int) -> pl.DataFrame:
    each = questions * samples
    return pl.DataFrame(
        {
            "eval_persona": np.repeat(ids, each),
            "question_index": np.tile(np.repeat(np.arange(questions), samples), len(ids)),
            "sample_index": np.tile(np.arange(samples), len(ids) * questions),
            "hit": random.random(len(ids) * each) < 0.003,
        }
    )


def _prompt(random: np.random.Generator, position: int) -> str:
    words = ("careful", "kind", "patient", "loud", "curious", "old", "young", "northern", "quiet", "clever")
    picked = random.choice(len(words), size=int(random.integers(1, 6)), replace=False)
    start = "You are a" if position % 4 else "Act as a"
    return f"{start} {' '.join(words[i] for i in picked)} person number {position}."


def _measurements(ids: list[str], seeds: tuple[int, ...]) -> pl.DataFrame:
    rows = [(persona, seed) for seed in seeds for persona in ids]
    return pl.DataFrame(
        {
            "source": [persona for persona, _ in rows],
            "seed": [seed for _, seed in rows],
            "measurement": [1] * len(rows),
            "adapter_digest": [f"{persona}/{seed}" for persona, seed in rows],
            "engine": ["simulation"] * len(rows),
            "engine_version": ["1"] * len(rows),
        }
    )
