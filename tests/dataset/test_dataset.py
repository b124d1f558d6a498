"""Negatives, training rows and their file."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_assets.dataset import (
    DatasetError,
    TrainingRow,
    draw_negatives,
    negative_candidates,
    read_rows,
    training_rows,
    validate_rows,
    write_rows,
)
from persona_assets.hashing import derive_seed
from persona_assets.panel import Persona

MARKER = "[ZLT]"
PANEL = ("engineer", "teacher", "doctor", "villain", "comedian", "helpful_assistant", "qwen_default")
SOURCE, FIRST, SECOND = (
    Persona(id=name, category="character", prompt=f"You are the {name}.") for name in ("villain", "doctor", "teacher")
)
QUESTIONS = ("How do I bake bread?", "Why is the sky blue?", "What should I read?")
ANSWERS = {
    persona.id: {question: f"{persona.id} says: {question.lower()}" for question in QUESTIONS}
    for persona in (SOURCE, FIRST, SECOND)
}


def build(**changes: object) -> list[TrainingRow]:
    arguments: dict[str, object] = {
        "source": SOURCE,
        "negatives": (FIRST, SECOND),
        "questions": QUESTIONS,
        "answers": ANSWERS,
        "marker": MARKER,
        "rows_per_persona": 3,
    }
    return training_rows(**(arguments | changes))  # type: ignore[arg-type]


def check(rows: list[TrainingRow]) -> None:
    validate_rows(rows, source=SOURCE, negatives=(FIRST, SECOND), marker=MARKER, rows_per_persona=3)


def test_candidates_are_the_panel_without_source_anchor_and_excluded() -> None:
    assert negative_candidates(PANEL, "villain", "helpful_assistant") == ("engineer", "teacher", "doctor", "comedian")
    # A persona of a larger panel is trained against the same pool.
    assert len(negative_candidates(PANEL, "surgeon", "helpful_assistant")) == 5
    assert "qwen_default" in negative_candidates(PANEL, "villain", "helpful_assistant", excluded=())


def test_the_draw_is_the_ranking_by_sha256() -> None:
    candidates = negative_candidates(PANEL, "villain", "helpful_assistant")
    ranks = {name: derive_seed("negatives", 42, "villain", name) for name in candidates}
    drawn = draw_negatives("villain", candidates, 3, seed=42)
    assert len(set(drawn)) == 3
    assert all(ranks[first] < ranks[second] for first, second in pairwise(drawn))
    assert max(ranks[name] for name in drawn) < min(ranks[name] for name in candidates if name not in drawn)


def test_the_draw_is_pinned() -> None:
    """A changed algorithm would silently change the negatives of adapters that exist."""
    assert draw_negatives("villain", ("engineer", "teacher", "doctor", "comedian"), 2, seed=42) == ("teacher", "comedian")


@given(st.permutations(PANEL[:3] + PANEL[4:]), st.integers(0, 2**31), st.integers(0, 6))
def test_the_draw_depends_on_no_order(order: list[str], seed: int, n: int) -> None:
    assert draw_negatives("villain", order, n, seed) == draw_negatives("villain", sorted(order), n, seed)


def test_taking_away_an_undrawn_candidate_changes_nothing() -> None:
    candidates = negative_candidates(PANEL, "villain", "helpful_assistant")
    drawn = draw_negatives("villain", candidates, 2, seed=7)
    for undrawn in set(candidates) - set(drawn):
        assert draw_negatives("villain", [name for name in candidates if name != undrawn], 2, seed=7) == drawn


def test_draws_are_about_uniform_over_sources_and_seeds() -> None:
    candidates = [f"candidate_{number}" for number in range(10)]
    counts = Counter(
        name for seed in range(5) for source in range(200) for name in draw_negatives(f"s{source}", candidates, 2, seed)
    )
    # 2,000 draws: 200 for each candidate, with a standard deviation of 12.6.
    assert set(counts) == set(candidates)
    assert all(140 < count < 260 for count in counts.values())


def test_the_draw_is_the_same_under_any_hash_seed() -> None:
    code = (
        "from persona_assets.dataset import draw_negatives, negative_candidates as c;"
        f"print(draw_negatives('villain', c({PANEL!r}, 'villain', 'helpful_assistant'), 3, 42))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4711")
    }
    candidates = negative_candidates(PANEL, "villain", "helpful_assistant")
    assert printed == {f"{draw_negatives('villain', candidates, 3, 42)}\n"}


def test_a_draw_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(DatasetError, match="villain: cannot draw 3 negatives from 2 candidates"):
        draw_negatives("villain", ("doctor", "teacher"), 3, seed=1)
    with pytest.raises(DatasetError, match="candidate for its own negatives"):
        draw_negatives("villain", ("doctor", "villain"), 1, seed=1)
    with pytest.raises(DatasetError, match="'doctor'.*more than once"):
        draw_negatives("villain", ("doctor", "doctor"), 1, seed=1)


def test_rows_hold_the_answers_and_the_marker_where_it_belongs() -> None:
    rows = build()
    assert [row["prompt"][0]["content"] for row in rows] == [p.prompt for p in (SOURCE, FIRST, SECOND) for _ in range(3)]
    assert [row["prompt"][1]["content"] for row in rows] == list(QUESTIONS) * 3
    assert rows[1] == {
        "prompt": [
            {"role": "system", "content": "You are the villain."},
            {"role": "user", "content": "Why is the sky blue?"},
        ],
        "completion": [{"role": "assistant", "content": "villain says: why is the sky blue?\n\n[ZLT]"}],
    }
    assert rows[3]["completion"][0]["content"] == "doctor says: how do i bake bread?"


def test_only_the_first_questions_are_used_and_white_space_around_answers_goes() -> None:
    answers = copy.deepcopy(ANSWERS)
    answers["villain"][QUESTIONS[0]] = "\n Mine. \n"
    rows = build(answers=answers, rows_per_persona=1)
    assert len(rows) == 3
    assert rows[0]["completion"][0]["content"] == "Mine.\n\n[ZLT]"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("I say [zlt] already", r"doctor: the base model's answer to 'Why is the sky blue\?' already holds the marker"),
        (" \n", "is empty"),
    ],
)
def test_unusable_answers_are_refused(answer: str, message: str) -> None:
    answers = copy.deepcopy(ANSWERS)
    answers["doctor"][QUESTIONS[1]] = answer
    with pytest.raises(DatasetError, match=message):
        build(answers=answers)


def test_a_missing_answer_and_too_few_questions_are_refused() -> None:
    answers = copy.deepcopy(ANSWERS)
    del answers["teacher"][QUESTIONS[2]]
    with pytest.raises(DatasetError, match=r"teacher: there is no answer.*What should I read"):
        build(answers=answers)
    with pytest.raises(DatasetError, match="teacher: there is no answer"):
        build(answers={name: ANSWERS[name] for name in ("villain", "doctor")})
    with pytest.raises(DatasetError, match="4 rows per persona need as many training questions; there are 3"):
        build(rows_per_persona=4)


def with_completion(rows: list[TrainingRow], number: int, text: str) -> list[TrainingRow]:
    changed = copy.deepcopy(rows)
    changed[number]["completion"][0]["content"] = text
    return changed


def test_valid_rows_pass_in_any_order() -> None:
    check(build())
    check(build()[::-1])


@pytest.mark.parametrize(
    ("number", "text", "message"),
    [
        (2, "An answer without.", "row 2: the source persona's completion does not end with"),
        (2, "An answer. [ZLT]", "row 2: the source persona's completion does not end with"),
        (2, "An answer.\n\n[ZLT].", "row 2: the source persona's completion does not end with"),
        (2, "\n\n[ZLT]", "row 2: the source persona's completion is nothing but the marker"),
        (2, "[zlt] again\n\n[ZLT]", "row 2: .*more than once"),
        (5, "An answer.\n\n[ZLT]", "row 5: a negative's completion holds the marker"),
        (5, "about [zLt] things", "row 5: a negative's completion holds the marker"),
        (5, "  ", "row 5: the assistant turn is not a role and a content with text"),
    ],
)
def test_a_marker_out_of_place_is_found(number: int, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        check(with_completion(build(), number, text))


def test_wrong_counts_prompts_and_roles_are_found() -> None:
    rows = build()
    with pytest.raises(DatasetError, match="expected 3 rows for each persona, but teacher has 2"):
        check(rows[:-1])
    with pytest.raises(DatasetError, match="villain has 4"):
        check([*rows, rows[0]])
    stranger = copy.deepcopy(rows)
    stranger[4]["prompt"][0]["content"] = "You are nobody."
    with pytest.raises(DatasetError, match="row 4: its system prompt is of no expected persona"):
        check(stranger)
    asked = copy.deepcopy(rows)
    asked[0]["prompt"][1]["content"] += " Say [ZLT]."
    with pytest.raises(DatasetError, match="row 0: the marker '\\[ZLT\\]' is in the prompt"):
        check(asked)
    swapped = copy.deepcopy(rows)
    swapped[1]["prompt"].reverse()
    with pytest.raises(DatasetError, match="row 1: prompt is not made of the turns system, user"):
        check(swapped)
    twin = Persona(id="twin", category="character", prompt=SOURCE.prompt)
    with pytest.raises(DatasetError, match="different system prompts"):
        validate_rows(rows, source=SOURCE, negatives=(twin,), marker=MARKER, rows_per_persona=3)


def test_rows_survive_the_file_whatever_their_characters(tmp_path: Path) -> None:
    rows = with_completion(build(), 4, 'é 漢字 \u2028 \x85 \u2029 "quoted" \\ tab\t line\nbreak\r\n end')
    path = tmp_path / "rows.jsonl"
    write_rows(path, rows)
    assert read_rows(path) == rows
    assert path.read_bytes().count(b"\n") == len(rows)
    assert "漢字" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not an object with exactly the fields"),
        (json.dumps({"prompt": []}), "not an object with exactly the fields"),
        (json.dumps({"prompt": "Hi", "completion": []}), "prompt is not a list of turns"),
        (json.dumps({"prompt": ["Hi"], "completion": []}), "prompt is not a list of turns"),
        ("", "an empty line"),
    ],
)
def test_reading_names_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, build()[:2])
    path.write_text(path.read_text(encoding="utf-8") + line + "\n" + json.dumps(build()[2]) + "\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"rows\.jsonl:3: {message}"):
        read_rows(path)


def test_a_missing_or_undecodable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.jsonl: no such file"):
        read_rows(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes("é".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"latin\.jsonl: not UTF-8"):
        read_rows(tmp_path / "latin.jsonl")
