"""base_baseline.json: the base model without adapter, in either of the two forms that exist."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from persona_assets.ancestor.marker_eval import read_counts
from persona_assets.ancestor.names import by_persona
from persona_assets.ancestor.reading import AncestorError, Layout, Positive, Rate, as_layout, count_of, read_json

BASE_BASELINE = "base_baseline.json"


class _Evaluation(Layout):
    n_questions: Positive
    n_completions_per_question: Positive


class _Marker(Layout):
    all_personas: dict[str, Rate]


class _Results(Layout):
    marker: _Marker


class _LikeRunResult(Layout):
    eval: _Evaluation
    results: _Results


@dataclass(frozen=True)
class BaseCounts:
    """Hits and completions of the base model under one eval persona."""

    hits: int
    n: int


def read_base_baseline(path: Path) -> dict[str, BaseCounts]:
    """Read the base model's counts by eval persona.

    Raises:
        AncestorError: the file has neither form, or counts and rates contradict each other.
    """
    content = read_json(path)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise AncestorError(f"{path}: results: this key is missing.")
    if "marker" in results and "rate" not in (results["marker"] if isinstance(results["marker"], dict) else {}):
        found = as_layout(path, content, _LikeRunResult)
        n = found.eval.n_questions * found.eval.n_completions_per_question
        rates = by_persona(found.results.marker.all_personas, f"{path}: results.marker.all_personas")
        return {persona: BaseCounts(count_of(rate, n, f"{path}: {persona}"), n) for persona, rate in rates.items()}
    return {persona: BaseCounts(counts.hits, counts.n) for persona, counts in read_counts(path, results).items()}
