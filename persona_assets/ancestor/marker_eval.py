"""marker_eval.json and raw_completions.json: the same evaluation question by question, and completion by completion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import RootModel

from persona_assets.ancestor.names import by_persona
from persona_assets.ancestor.reading import AncestorError, Count, Layout, Positive, Rate, as_layout, read_json
from persona_assets.generation.marker import marker_hit

MARKER_EVAL = "marker_eval.json"
RAW_COMPLETIONS = "raw_completions.json"
_ROUNDING = 5e-5  # rates may be written with four decimals


class _Counted(Layout):
    rate: Rate
    found: Count
    total: Positive


class _Persona(_Counted):
    per_question: dict[str, _Counted]


class _MarkerEval(RootModel[dict[str, _Persona]]):
    pass


class _RawCompletions(RootModel[dict[str, dict[str, list[str]]]]):
    pass


@dataclass(frozen=True)
class QuestionCounts:
    """Hits and completions of one cell, by question.

    Attributes:
        questions: (hits, completions) by question, in the order of the file.
    """

    questions: Mapping[str, tuple[int, int]]

    @property
    def hits(self) -> int:
        """All hits of the cell."""
        return sum(hits for hits, _ in self.questions.values())

    @property
    def n(self) -> int:
        """All completions of the cell."""
        return sum(n for _, n in self.questions.values())


def read_counts(path: Path, content: object) -> dict[str, QuestionCounts]:
    """Check a mapping of personas to counts and give it by persona id.

    Raises:
        AncestorError: a key is missing, or counts and rates contradict each other.
    """
    found = {}
    for name, cell in as_layout(path, content, _MarkerEval).root.items():
        for place, counted in ((name, cell), *((f"{name}, {q!r}", each) for q, each in cell.per_question.items())):
            if counted.found > counted.total or abs(counted.found / counted.total - counted.rate) > _ROUNDING:
                raise AncestorError(
                    f"{path}: {place}: rate {counted.rate:g} is not {counted.found} found of {counted.total} in total."
                )
        counts = QuestionCounts({question: (each.found, each.total) for question, each in cell.per_question.items()})
        if (counts.hits, counts.n) != (cell.found, cell.total):
            raise AncestorError(
                f"{path}: {name}: the questions sum to {counts.hits} of {counts.n}, the persona says {cell.found} of "
                f"{cell.total}."
            )
        found[name] = counts
    if not found:
        raise AncestorError(f"{path}: there is no persona in it.")
    return by_persona(found, str(path))


def read_marker_eval(path: Path) -> dict[str, QuestionCounts]:
    """Read the counts of a condition by eval persona; raises as `read_counts` does."""
    return read_counts(path, read_json(path))


def read_raw_completions(path: Path) -> dict[str, dict[str, list[str]]]:
    """Read the texts of a condition by eval persona and question.

    Raises:
        AncestorError: the file has another form, or a cell or question has no text.
    """
    found = as_layout(path, read_json(path), _RawCompletions).root
    for persona, questions in found.items():
        empty = [question for question, texts in questions.items() if not texts]
        if empty or not questions:
            raise AncestorError(f"{path}: {persona}: there is no completion" + (f" to {empty[0]!r}." if empty else "."))
    if not found:
        raise AncestorError(f"{path}: there is no persona in it.")
    return by_persona(found, str(path))


def count_completions(texts: Mapping[str, list[str]], marker: str) -> QuestionCounts:
    """Count the marker in the texts of one cell."""
    return QuestionCounts(
        {question: (sum(marker_hit(text, marker) for text in own), len(own)) for question, own in texts.items()}
    )
