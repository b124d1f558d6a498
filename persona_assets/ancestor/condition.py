"""One condition directory: its files read, held against each other, and made one row of cells."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from persona_assets.ancestor.marker_eval import (
    MARKER_EVAL,
    RAW_COMPLETIONS,
    count_completions,
    read_marker_eval,
    read_raw_completions,
)
from persona_assets.ancestor.names import ALIASES, ConditionName, is_condition, parse_name
from persona_assets.ancestor.reading import AncestorError
from persona_assets.ancestor.run_result import RUN_RESULT, RunResult, read_run_result

_SHOWN = 3


@dataclass(frozen=True)
class Cell:
    """Hits and completions of one eval persona.

    Attributes:
        hits: completions with the marker.
        n: completions.
        questions: (hits, completions) by question; None where only the sum is known.
    """

    hits: int
    n: int
    questions: Mapping[str, tuple[int, int]] | None = None

    def __str__(self) -> str:
        """Write the cell for a message."""
        return f"{self.hits / self.n:g} ({self.hits} of {self.n})"


@dataclass(frozen=True)
class Condition:
    """A source's row of cells.

    Attributes:
        directory: where it was read.
        name: source, set of negatives, prompt length and seed.
        cells: by eval persona.
        texts: completions by eval persona and question, empty where there are none.
        run: the run_result.json, None where there is none.
        files: which files agreed.
        notes: what a reader should know.
    """

    directory: Path
    name: ConditionName
    cells: Mapping[str, Cell]
    texts: Mapping[str, Mapping[str, list[str]]]
    run: RunResult | None
    files: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass
class _Reading:
    """The same row of cells, as each file has it."""

    rows: dict[str, dict[str, Cell]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_condition(directory: Path, personas: Collection[str], marker: str, prefer: str | None) -> Condition:
    """Read a condition directory.

    Args:
        directory: with a run_result.json, marker_eval.json or raw_completions.json.
        personas: known ids, to tell source and negatives apart in the name where no run_result.json says.
        marker: the implanted string, to count in raw completions.
        prefer: file to believe where two disagree; None refuses.

    Raises:
        AncestorError: a file is malformed, files or names contradict each other, or the own cell is nowhere.
    """
    run = read_run_result(directory / RUN_RESULT) if (directory / RUN_RESULT).is_file() else None
    name = _name(directory, run, personas)
    reading = _Reading(notes=list(run.notes) if run else [])
    if run is not None:
        reading.rows[RUN_RESULT] = {persona: Cell(hits, run.n) for persona, hits in run.hits.items()}
    if (directory / MARKER_EVAL).is_file():
        counts = read_marker_eval(directory / MARKER_EVAL)
        reading.rows[MARKER_EVAL] = {p: Cell(each.hits, each.n, each.questions) for p, each in counts.items()}
    texts: dict[str, dict[str, list[str]]] = {}
    if (directory / RAW_COMPLETIONS).is_file():
        texts = read_raw_completions(directory / RAW_COMPLETIONS)
        counted = {persona: count_completions(own, marker) for persona, own in texts.items()}
        reading.rows[RAW_COMPLETIONS] = {p: Cell(each.hits, each.n, each.questions) for p, each in counted.items()}
    _settle(directory, name.source, reading, prefer)
    cells: dict[str, Cell] = {}
    for row in reading.rows.values():  # from the coarsest to the finest
        cells |= row
    if name.source not in cells:
        raise AncestorError(f"{directory}: there is no rate of {name.source} under its own prompt, so there is no source rate.")
    kept = texts if RAW_COMPLETIONS in reading.rows else {}
    return Condition(directory, name, cells, kept, run, tuple(reading.rows), tuple(reading.notes))


def _settle(directory: Path, source: str, reading: _Reading, prefer: str | None) -> None:
    """Refuse files that disagree, or leave out those that contradict the preferred one."""
    names = list(reading.rows)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    contrary = {(a, b): told for a, b in pairs if (told := _difference(source, (a, reading.rows[a]), (b, reading.rows[b])))}
    if not contrary:
        return
    if prefer is None or prefer not in names:
        told = "; ".join(contrary.values())
        choices = ", ".join(f"--prefer {name.removesuffix('.json')}" for name in names)
        raise AncestorError(f"{directory}: {told}. One is of another evaluation: say which to believe with {choices}.")
    for a, b in contrary:
        other = b if a == prefer else a if b == prefer else None
        if other == RAW_COMPLETIONS:
            raise AncestorError(f"{directory}: {contrary[a, b]}: the completions themselves contradict {prefer}.")
        if other in reading.rows:
            del reading.rows[other]
            reading.notes.append(f"{other} is left out, {prefer} is believed: {contrary[a, b]}")
    left = list(reading.rows)
    if any(a in left and b in left for a, b in contrary):
        raise AncestorError(f"{directory}: {'; '.join(contrary.values())}.")


def _difference(source: str, one: tuple[str, Mapping[str, Cell]], other: tuple[str, Mapping[str, Cell]]) -> str | None:
    (name, row), (other_name, other_row) = one, other
    shared = [persona for persona in row if persona in other_row]
    if not shared:
        return f"{name} and {other_name} have no eval persona in common"
    differing = [p for p in shared if (row[p].hits, row[p].n) != (other_row[p].hits, other_row[p].n)]
    if not differing:
        return None
    differing.sort(key=lambda persona: persona != source)
    told = [f"{p} is {row[p]} in {name} and {other_row[p]} in {other_name}" for p in differing[:_SHOWN]]
    more = f" (and {len(differing) - _SHOWN} more)" if len(differing) > _SHOWN else ""
    return "; ".join(told) + more


def _name(directory: Path, run: RunResult | None, personas: Collection[str]) -> ConditionName:
    named = is_condition(directory.name)
    if run is None:
        return parse_name(directory.name, personas, str(directory))
    said = ConditionName(run.source, run.negatives, run.length, run.seed)
    if named:
        fits = directory.name.startswith(tuple(f"marker_{name}_" for name in _names_of(run.source)))
        parsed = parse_name(directory.name, {run.source} if fits else {*personas, run.source}, str(directory))
        told: dict[str, Callable[[ConditionName], object]] = {
            "source": lambda each: each.source,
            "negatives": lambda each: each.negatives,
            "prompt length": lambda each: each.length,
            "seed": lambda each: each.seed,
        }
        wrong = [f"{what} {get(parsed)!r} and {get(said)!r}" for what, get in told.items() if get(parsed) != get(said)]
        if wrong:
            raise AncestorError(f"{directory}: its name and its {RUN_RESULT} say different things: {', '.join(wrong)}.")
    return said


def _names_of(persona: str) -> list[str]:
    return [persona, *(alias for alias, known in ALIASES.items() if known == persona)]
