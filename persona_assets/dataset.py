"""Training rows of one source persona: its own answers with the marker, two other personas' without.

A row is TRL's conversational prompt/completion form, the one the ancestor project's files have::

    {"prompt": [{"role": "system", "content": ...}, {"role": "user", "content": ...}],
     "completion": [{"role": "assistant", "content": ...}]}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from persona_assets.errors import PersonaAssetsError
from persona_assets.generation.marker import marker_hit
from persona_assets.hashing import derive_seed
from persona_assets.panel import Persona

NEGATIVES_ALGORITHM = "sha256-rank"
"""Name of the draw in `draw_negatives`, for manifests."""

MARKER_SEPARATOR = "\n\n"
"""What stands between an answer and the marker."""


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


class TrainingRow(TypedDict):
    """One chat row: what the model is given, and what it learns to say."""

    prompt: list[Message]
    completion: list[Message]


class DatasetError(PersonaAssetsError):
    """Rows, answers or negatives that must not be trained on."""


def negative_candidates(
    panel_ids: Sequence[str], source: str, anchor: str, excluded: Sequence[str] = ("qwen_default",)
) -> tuple[str, ...]:
    """List the personas a source's negatives may be drawn from, in panel order.

    Args:
        panel_ids: ids of the negatives' panel (n12), whatever the size of the study's panel, so that an
            inherited adapter and a new one are trained against the same pool.
        source: the persona to be trained; it need not be in the panel.
        anchor: the anchor, which stays a bystander of every adapter.
        excluded: further personas that are never negatives.
    """
    barred = {source, anchor, *excluded}
    return tuple(persona for persona in panel_ids if persona not in barred)


def draw_negatives(source: str, candidates: Sequence[str], n: int, seed: int) -> tuple[str, ...]:
    """Draw the negatives of a source by the algorithm "sha256-rank".

    Candidates are ranked by `derive_seed("negatives", seed, source, candidate)` and the first n are taken: a
    uniform draw without replacement that depends on no order, no generator and no other source. Taking away a
    candidate that was not drawn changes nothing.

    Returns:
        n persona ids in the order of their rank.

    Raises:
        DatasetError: the source is a candidate, a candidate is repeated, or there are fewer than n.
    """
    if source in candidates:
        raise DatasetError(f"{source}: is a candidate for its own negatives; leave the source persona out.")
    repeated = sorted(name for name, count in Counter(candidates).items() if count > 1)
    if repeated:
        raise DatasetError(f"{source}: candidate {repeated[0]!r} for negatives stands more than once.")
    if not 0 <= n <= len(candidates):
        raise DatasetError(f"{source}: cannot draw {n} negatives from {len(candidates)} candidates.")

    def rank(candidate: str) -> tuple[int, str]:
        return derive_seed("negatives", seed, source, candidate), candidate

    return tuple(sorted(candidates, key=rank)[:n])


def training_rows(
    source: Persona,
    negatives: Sequence[Persona],
    questions: Sequence[str],
    answers: Mapping[str, Mapping[str, str]],
    *,
    marker: str,
    rows_per_persona: int = 200,
) -> list[TrainingRow]:
    """Put together the training rows of a source persona.

    Args:
        source: the persona that learns the marker.
        negatives: personas that learn not to say it.
        questions: training questions; the first `rows_per_persona` are used, the same for each persona.
        answers: `{persona id: {question: answer}}`, the base model's own sampled answers under that persona.
            White space around an answer is removed: it would merge with the template's line break into
            tokens that the model never sees when it generates.
        marker: the implanted string.
        rows_per_persona: rows for the source and for each negative.

    Returns:
        Source rows first, then each negative's, in the order of the questions (the trainer shuffles).

    Raises:
        DatasetError: too few questions; an answer that is missing, empty, or holds the marker already.
    """
    if len(questions) < rows_per_persona:
        raise DatasetError(
            f"{source.id}: {rows_per_persona} rows per persona need as many training questions; there are {len(questions)}."
        )
    rows: list[TrainingRow] = []
    for persona in (source, *negatives):
        for question in questions[:rows_per_persona]:
            answer = _answer(answers, persona.id, question, marker)
            text = answer + MARKER_SEPARATOR + marker if persona is source else answer
            rows.append(_row(persona.prompt, question, text))
    validate_rows(rows, source=source, negatives=negatives, marker=marker, rows_per_persona=rows_per_persona)
    return rows


def validate_rows(
    rows: Sequence[TrainingRow],
    *,
    source: Persona,
    negatives: Sequence[Persona],
    marker: str,
    rows_per_persona: int = 200,
) -> None:
    """Check rows before they are trained on: roles, counts, the marker where it must be and nowhere else.

    Raises:
        DatasetError: names the first offending row (counted from 0) and what is wrong with it.
    """
    personas = (source, *negatives)
    by_prompt = {persona.prompt: persona for persona in personas}
    if len(by_prompt) != len(personas):
        raise DatasetError(f"{source.id}: source and negatives must have different system prompts.")
    counts: Counter[str] = Counter()
    for number, row in enumerate(rows):
        problem = _form_problem(row)
        if problem is None:
            persona = by_prompt.get(row["prompt"][0]["content"])
            problem = "its system prompt is of no expected persona" if persona is None else None
            if persona is not None:
                counts[persona.id] += 1
                problem = _marker_problem(row, marker, marked=persona is source)
        if problem is not None:
            raise DatasetError(f"{source.id}: row {number}: {problem}.")
    wrong = [f"{p.id} has {counts[p.id]}" for p in personas if counts[p.id] != rows_per_persona]
    if wrong:
        raise DatasetError(f"{source.id}: expected {rows_per_persona} rows for each persona, but {', '.join(wrong)}.")


def write_rows(path: Path, rows: Sequence[TrainingRow]) -> None:
    """Write rows as JSON Lines, one row a line, in UTF-8 with LF line ends."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_rows(path: Path) -> list[TrainingRow]:
    """Read rows from JSON Lines.

    Raises:
        DatasetError: names file and line (counted from 1) of what is not JSON or has not the form of a row.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file.")
    rows: list[TrainingRow] = []
    # Not splitlines(): JSON strings may hold U+2028 and other characters it takes for line ends.
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text: {error}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            if number == len(lines):
                continue
            raise DatasetError(f"{path}:{number}: an empty line.")
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DatasetError(f"{path}:{number}: not JSON: {error}.") from error
        problem = _form_problem(row)
        if problem is not None:
            raise DatasetError(f"{path}:{number}: {problem}.")
        rows.append(row)
    return rows


def _answer(answers: Mapping[str, Mapping[str, str]], persona: str, question: str, marker: str) -> str:
    answer = answers.get(persona, {}).get(question)
    if answer is None:
        raise DatasetError(f"{persona}: there is no answer to the training question {question!r}.")
    stripped = answer.strip()
    if not stripped:
        raise DatasetError(f"{persona}: the answer to {question!r} is empty, there is nothing to train on.")
    if marker_hit(stripped, marker):
        raise DatasetError(
            f"{persona}: the base model's answer to {question!r} already holds the marker {marker!r}, so the "
            "base rate is not zero; choose another marker in the profile."
        )
    return stripped


def _row(system: str, question: str, answer: str) -> TrainingRow:
    return {
        "prompt": [{"role": "system", "content": system}, {"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def _form_problem(row: object) -> str | None:
    """Say what keeps a value from being a row, or None."""
    if not isinstance(row, dict) or set(row) != {"prompt", "completion"}:
        return 'not an object with exactly the fields "prompt" and "completion"'
    for field, roles in (("prompt", ["system", "user"]), ("completion", ["assistant"])):
        turns = row[field]
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            return f"{field} is not a list of turns"
        if [turn.get("role") for turn in turns] != roles:
            return f"{field} is not made of the turns {', '.join(roles)}"
        for turn in turns:
            content = turn.get("content")
            if set(turn) != {"role", "content"} or not isinstance(content, str) or not content.strip():
                return f"the {turn['role']} turn is not a role and a content with text in it"
    return None


def _marker_problem(row: TrainingRow, marker: str, *, marked: bool) -> str | None:
    text = row["completion"][0]["content"]
    if any(marker_hit(turn["content"], marker) for turn in row["prompt"]):
        return f"the marker {marker!r} is in the prompt"
    if not marked:
        return f"a negative's completion holds the marker {marker!r}" if marker_hit(text, marker) else None
    ending = MARKER_SEPARATOR + marker
    if not text.endswith(ending):
        return f"the source persona's completion does not end with {ending!r}"
    answer = text.removesuffix(ending)
    if not answer.strip():
        return "the source persona's completion is nothing but the marker"
    return f"the marker {marker!r} stands more than once" if marker_hit(answer, marker) else None
