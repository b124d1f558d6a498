"""Prompt covariates of the partial correlations: length, template, token bucket, name frequency."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from persona_assets.statistics.ranks import average_ranks
from persona_assets.statistics.tidy import StatisticsError, is_constant

if TYPE_CHECKING:
    from persona_assets.statistics.observations import StudyObservations
    from persona_assets.statistics.tidy import FloatArray

TOKEN_BUCKET_EDGES = (5, 10, 20)
TEMPLATE_START = "You are"
# A rank residual below this is the rounding of a zero: predictor or outcome is a function of the covariates.
ZERO_RESIDUAL = 1e-9
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Covariates:
    """Named covariates that can be used, and why others cannot.

    Attributes:
        columns: name to [N] values, each varying.
        dropped: sentences on covariates left out.
    """

    columns: Mapping[str, FloatArray]
    dropped: tuple[str, ...] = field(default=())


def name_frequency(personas: Sequence[str], counts: Mapping[str, int]) -> FloatArray:
    """Log unigram frequency of each persona name's most common token in a reference corpus.

    Args:
        personas: ids; their tokens are the parts between underscores, lower-cased.
        counts: corpus counts by lower-cased token, from the corpus that the user names.

    Returns:
        [N] log((count + 1) / (total + distinct tokens)): one is added so that a name the corpus lacks is rarest
        instead of undefined. The order of frequencies, all that a rank statistic sees, is unchanged.

    Raises:
        StatisticsError: the corpus has no counts, or a negative one.
    """
    total = sum(counts.values())
    if total <= 0 or min(counts.values()) < 0:
        raise StatisticsError("name_frequency: the reference corpus has no counts, or negative ones.")
    best = [max(counts.get(token, 0) for token in persona.lower().split("_")) for persona in personas]
    return np.log((np.array(best, dtype=np.float64) + 1.0) / (total + len(counts)))


def corpus_counts(path: Path) -> dict[str, int]:
    """Count the words of a reference corpus, lower-cased.

    Args:
        path: a text, or a table with the ending .tsv whose lines are a word, a tab and its count.

    Raises:
        StatisticsError: a line of the table is not a word and a count, or there is no word; the message names the line.
    """
    counts: Counter[str] = Counter()
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if path.suffix != ".tsv":
                counts.update(_WORD.findall(line.lower()))
            elif line.strip():
                word, _, count = line.rstrip("\n").partition("\t")
                if not (word and count.strip().isdecimal()):
                    raise StatisticsError(f"{path}, line {number}: {line.strip()!r} is not a word, a tab and its count.")
                counts[word.lower()] += int(count)
    if not counts.total():
        raise StatisticsError(f"{path}: the reference corpus has no words.")
    return dict(counts)


def token_bucket(prompt_tokens: FloatArray) -> FloatArray:
    """Ordinal bucket of prompt length: 0 up to 5 tokens, 1 up to 10, 2 up to 20, 3 above."""
    return np.searchsorted(np.array(TOKEN_BUCKET_EDGES, dtype=np.float64), prompt_tokens, side="left").astype(np.float64)


def prompt_covariates(observations: StudyObservations, corpus_counts: Mapping[str, int] | None = None) -> Covariates:
    """Length, template, token bucket and name frequency of a study's prompts.

    Args:
        observations: the study's personas.
        corpus_counts: see `name_frequency`; None drops that covariate and says so.

    Returns:
        The covariates that vary and do not repeat the ones before them; the others are dropped, with the reason.
    """
    candidates: dict[str, FloatArray] = {"length": observations.log_length}
    dropped: list[str] = []
    if observations.prompts is None:
        dropped.append("template dropped: the prompts are not known")
    else:
        candidates["template"] = np.array([float(p.startswith(TEMPLATE_START)) for p in observations.prompts])
    candidates["token_bucket"] = token_bucket(observations.prompt_tokens)
    if corpus_counts is None:
        dropped.append("name frequency dropped: no reference corpus was named")
    else:
        candidates["name_frequency"] = name_frequency(observations.personas, corpus_counts)
    kept: dict[str, FloatArray] = {}
    for name, values in candidates.items():
        if is_constant(values):
            dropped.append(f"{name} dropped: the same for every persona")
        elif kept and _explained(values, list(kept.values())):
            dropped.append(f"{name} dropped: a linear function of {', '.join(kept)} in ranks")
        else:
            kept[name] = values
    return Covariates(kept, tuple(dropped))


def rank_basis(covariates: Sequence[FloatArray]) -> FloatArray:
    """Orthonormal basis of intercept and ranked covariates, [n, rank]."""
    design = np.column_stack([np.ones(len(covariates[0])), *(average_ranks(z) for z in covariates)])
    left, singular, _ = np.linalg.svd(_unit_columns(design), full_matrices=False)
    return np.asarray(left[:, singular > 1e-10 * singular[0]])


def _unit_columns(design: FloatArray) -> FloatArray:
    """Scale the columns of a design to length 1, so that its rank does not depend on units."""
    norms = np.linalg.norm(design, axis=0)
    return np.asarray(design / np.where(norms > 0, norms, 1.0))


def _explained(values: FloatArray, others: Sequence[FloatArray]) -> bool:
    ranks = average_ranks(values)
    basis = rank_basis(others)
    residual = ranks - basis @ (basis.T @ ranks)
    return bool(np.linalg.norm(residual) < ZERO_RESIDUAL * len(values))
