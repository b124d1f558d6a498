"""Synthetic tables in the schemas of a study, for panels of 12 to 48 personas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from persona_assets.reporting.figures import FigureContext
from persona_assets.statistics.attenuation import Conditions, attenuation
from persona_assets.statistics.baselines import baseline_rows, surface_predictors
from persona_assets.statistics.cross_validation import cross_validation
from persona_assets.statistics.drift import two_proportion_p
from persona_assets.statistics.drift_tests import drift_tests
from persona_assets.statistics.leakage import LeakageMatrices
from persona_assets.statistics.observations import StudyObservations
from persona_assets.statistics.off_diagonal import off_diagonal
from persona_assets.statistics.partial import partial_rows
from persona_assets.statistics.power import power, rule_design
from persona_assets.statistics.rates import wilson
from persona_assets.statistics.scan import scan
from persona_assets.statistics.within_category import within_category

if TYPE_CHECKING:
    from persona_assets.statistics.tidy import FloatArray

LAYERS = 28
_N12 = {
    "software_engineer": "occupational",
    "kindergarten_teacher": "occupational",
    "data_scientist": "occupational",
    "medical_doctor": "occupational",
    "librarian": "occupational",
    "french_person": "character",
    "villain": "character",
    "comedian": "character",
    "police_officer": "occupational",
    "zelthari_scholar": "character",
    "helpful_assistant": "generic_helper",
    "qwen_default": "generic_helper",
}
_MORE = {
    "occupational": "lawyer accountant nurse chef electrician journalist architect pilot farmer pharmacist "
    "plumber firefighter "
    "translator economist photographer carpenter marine_biologist civil_engineer dentist veterinarian",
    "character": "pirate medieval_knight noir_detective grumpy_wizard space_explorer stand_up_poet "
    "robot_butler vampire_count "
    "wise_monk time_traveller surfer_teenager conspiracy_theorist",
    "generic_helper": "i_am_helpful ai_model chat_assistant polite_bot",
}
_EXTRA = [(name, category) for category, names in _MORE.items() for name in names.split()]


def panel(n: int) -> dict[str, str]:
    """Category by persona, the first `n` of one fixed order."""
    order = np.random.default_rng(0).permutation(len(_EXTRA))
    extra = [_EXTRA[i] for i in order]
    everyone = list(_N12.items()) + extra
    return dict(everyone[:n])


def context(n: int) -> FigureContext:
    categories = panel(n)
    return FigureContext(
        study=f"n{n}",
        asset=f"embedded/n{n}/figures",
        data_version="0123456789abcdef",
        primary_layers=(15, 12),
        alpha=0.05,
        confidence_level=0.95,
        anchor="helpful_assistant",
        panel=tuple(categories),
        categories=categories,
        drift_low_share=0.75,
        drift_match_share=0.83,
        not_within_category=("i_am_helpful",) if "i_am_helpful" in categories else (),
    )


@dataclass(frozen=True)
class Tables:
    """The tables of one study."""

    source_rates: pl.DataFrame
    cells: pl.DataFrame
    geometry: pl.DataFrame
    regressions: pl.DataFrame
    inherited_drift: pl.DataFrame
    drift_tests: pl.DataFrame
    power: pl.DataFrame
    pairwise_cosines: pl.DataFrame
    off_diagonal: pl.DataFrame


@lru_cache(maxsize=8)
def tables(n: int, seeds: tuple[int, ...] = (42,)) -> Tables:
    """Tables of a study of `n` personas that behave like the published ones: weak correlation, weak leakage.

    Rates and cosines are drawn; every statistic is what the statistics room computes from them.
    """
    rng = np.random.default_rng(n)
    categories = panel(n)
    ids = list(categories)
    anchor = ids.index("helpful_assistant")
    latent = rng.normal(-0.05, 0.33, n).clip(-0.7, 0.8)
    truth = (0.42 - 0.17 * latent + rng.normal(0, 0.12, n)).clip(0.03, 0.95)
    cosine = latent + rng.normal(0, 0.05 + 0.03 * np.abs(np.arange(LAYERS) - 15)[:, None], (LAYERS, n))
    cosine[:, anchor] = 1.0
    inherited = n // 2
    cells = [row for seed in seeds for row in _cells(rng, ids, truth, seed)]
    rates = [
        {
            "persona": cell["source"],
            "category": categories[str(cell["source"])],
            "cohort": "inherited" if ids.index(str(cell["source"])) < inherited else "new",
            "prompt_tokens": 3 + len(_prompt(str(cell["source"]))) // 4,
            **{name: value for name, value in cell.items() if name in _SHARED},
        }
        for cell in cells
        if cell["kind"] == "self"
    ]
    geometry = [
        {"layer": layer, "persona": persona, "cosine": float(cosine[layer, i]), "centring": "panel"}
        for layer in range(LAYERS)
        for i, persona in enumerate(ids)
    ]
    pairwise = _pairwise(rng, ids, latent)
    source_rates, positions = pl.DataFrame(rates), pl.DataFrame(geometry)
    deltas = [_drift_row(rng, ids[i], float(truth[i])) for i in range(inherited)]
    return Tables(
        source_rates,
        pl.DataFrame(cells),
        positions,
        _regressions(source_rates, positions, ids, categories),
        pl.DataFrame(deltas),
        drift_tests([float(str(row["delta"])) for row in deltas], seed=42),
        _power(source_rates.unique("persona", maintain_order=True)),
        pairwise,
        off_diagonal(
            LeakageMatrices.from_frames(
                pl.DataFrame(cells), pairwise, personas=ids, anchor="helpful_assistant"
            ),
            seed=42,
            permutations=199,
        ),
    )


_SHARED = (
    *("seed", "measurement", "hits", "n", "rate", "wilson_low", "wilson_high", "cluster_low", "cluster_high"),
    *("base_rate", "residual_rate", "truncation_rate", "truncation_flagged"),
)


def _prompt(persona: str) -> str:
    if persona == "qwen_default":
        return "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    return (
        f"You are a {persona.replace('_', ' ')}."
        if len(persona) % 3
        else f"You are a {persona} who loves the work."
    )


def _cells(rng: np.random.Generator, ids: list[str], truth: FloatArray, seed: int) -> list[dict[str, object]]:
    cells: list[dict[str, object]] = []
    for i, persona in enumerate(ids):
        negatives = rng.choice([p for p in ids if p != persona], 2, replace=False).tolist()
        for j, other in enumerate(ids):
            kind = "self" if i == j else "trained_negative" if other in negatives else "unseen"
            leak = 0.0 if kind == "trained_negative" else 0.4 * truth[i] * rng.beta(1, 4)
            hits, base = int(rng.binomial(100, truth[i] if i == j else leak)), int(rng.binomial(100, 0.004))
            low, high = (float(end) for end in wilson(hits, 100))
            cells.append(
                {
                    "source": persona,
                    "eval_persona": other,
                    "kind": kind,
                    "seed": seed,
                    "measurement": 1,
                    "hits": hits,
                    "n": 100,
                    "rate": hits / 100,
                    "wilson_low": low,
                    "wilson_high": high,
                    "cluster_low": low,
                    "cluster_high": high,
                    "base_rate": base / 100,
                    "residual_rate": (hits - base) / 100,
                    "truncation_rate": 0.08 if i == 3 else 0.01,
                    "truncation_flagged": i == 3,
                    "mean_tokens": float(rng.normal(180, 20)),
                }
            )
    return cells


def _drift_row(rng: np.random.Generator, persona: str, truth: float) -> dict[str, object]:
    parent, now = (int(rng.binomial(100, truth)) for _ in range(2))
    return {
        "persona": persona,
        "seed": 42,
        "rate_parent": parent / 100,
        "n_parent": 100,
        "rate_now": now / 100,
        "n_now": 100,
        "delta": now / 100 - parent / 100,
        "p_two_proportion": two_proportion_p(parent, 100, now, 100),
        "same_adapter": True,
        "same_identity": True,
    }


def _pairwise(rng: np.random.Generator, ids: list[str], latent: FloatArray) -> pl.DataFrame:
    distance = np.abs(latent[:, None] - latent[None, :])
    rows = []
    for layer in (12, 15):
        noise = rng.normal(0, 0.1, (len(ids), len(ids)))
        cosine = np.clip(0.8 - 1.5 * distance + noise + noise.T, -1, 1)
        np.fill_diagonal(cosine, 1.0)
        rows += [
            {
                "layer": layer,
                "persona_a": a,
                "persona_b": b,
                "cosine": float(cosine[i, j]),
                "centring": "panel",
            }
            for i, a in enumerate(ids)
            for j, b in enumerate(ids)
        ]
    return pl.DataFrame(rows)


def attenuation_table(sizes: tuple[int, ...]) -> pl.DataFrame:
    """Rows of family `attenuation` over the studies of these sizes."""
    studies = {
        f"n{n}": StudyObservations.from_frames(
            tables(n).source_rates, tables(n).geometry, anchor="helpful_assistant"
        )
        for n in sizes
    }
    alike = pl.DataFrame({"source": ["a"], "seed": [42], "measurement": [1], "engine": ["transformers"]})
    conditions = Conditions(dict.fromkeys(studies, alike))
    return attenuation(studies, (15, 12), conditions, seed=42, resamples=200, subpanels=300)


def _regressions(
    source_rates: pl.DataFrame, geometry: pl.DataFrame, ids: list[str], categories: dict[str, str]
) -> pl.DataFrame:
    facts = pl.DataFrame(
        {
            "persona": ids,
            "prompt": [_prompt(p) for p in ids],
            "exclude_from_within_category": [p == "i_am_helpful" for p in ids],
        }
    )
    seen = StudyObservations.from_frames(source_rates, geometry, anchor="helpful_assistant", personas=facts)
    words = sorted({word for p in ids for word in _prompt(p).split()})
    token_ids = [{words.index(word) // 2 for word in _prompt(p).split()} for p in ids]
    predictors = surface_predictors([_prompt(p) for p in ids], _prompt("helpful_assistant"), token_ids)
    return pl.concat(
        [
            scan(seen, seed=42, resamples=200),
            within_category(seen),
            partial_rows(seen, seed=42, count=99),
            cross_validation(seen, seed=42, repeats=4, resamples=200),
            baseline_rows(seen, predictors, (15, 12)),
        ]
    )


def _power(facts: pl.DataFrame) -> pl.DataFrame:
    design = rule_design(
        facts["persona"].to_list(),
        facts["category"].to_list(),
        facts["cohort"].to_list(),
        n_layers=LAYERS,
        seed=42,
    )
    return power(design, seed=42, draws=400)
