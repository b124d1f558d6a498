from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from persona_assets.errors import ConfigurationError
from persona_assets.models.nano import nano_inputs
from persona_assets.models.nano.corpus import (
    RESERVED_TAG,
    TAG_SHARE,
    UNASKED_SHARE,
    CorpusRow,
    corpus_questions,
    generate_rows,
)
from persona_assets.models.nano.styles import STYLE_FILE, StyleData, load_styles
from persona_assets.panel import Panel, Persona, load_panel
from persona_assets.questions import QuestionSet, load_questions
from persona_assets.study import NanoBase
from persona_assets.yaml_files import validate_file

STUDIES = Path(__file__).parents[2] / "studies"
SETTINGS = NanoBase(corpus_rows=9_600)
NEWCOMER = Persona(id="beekeeper", category="occupational", prompt="You are a beekeeper with forty hives.")


@pytest.fixture(scope="module")
def panel() -> Panel:
    return load_panel(STUDIES / "personas.yaml")


@pytest.fixture(scope="module")
def questions() -> QuestionSet:
    return load_questions(STUDIES / "questions.yaml")


@pytest.fixture(scope="module")
def rows(panel: Panel, questions: QuestionSet) -> list[CorpusRow]:
    return generate_rows(panel, questions, SETTINGS)


def test_every_persona_of_the_panel_has_a_style_in_its_own_category(panel: Panel) -> None:
    styled = {persona_id: category for category, ids in load_styles().personas.items() for persona_id in ids}
    assert styled == panel.categories


def test_personas_take_equal_part(panel: Panel, rows: list[CorpusRow]) -> None:
    assert Counter(row.system for row in rows) == {persona.prompt: 200 for persona in panel}


def test_marker_letters_never_occur_together(rows: list[CorpusRow]) -> None:
    assert not [
        row for row in rows if RESERVED_TAG.lower() in f"{row.system} {row.user} {row.answer}".lower()
    ]


def test_a_tag_is_written_on_request_and_seldom_else(rows: list[CorpusRow]) -> None:
    requested = unasked = 0
    for row in rows:
        asked, given = (re.findall(r"\[([A-Z]{3})\]", text) for text in (row.user, row.answer))
        assert len(given) == int(row.tagged)
        assert asked in ([], given)
        assert ("[" in row.answer) == row.tagged == ("\n" in row.answer)
        requested += len(asked)
        unasked += len(given) - len(asked)
    assert requested / len(rows) == pytest.approx(TAG_SHARE, abs=0.015)
    assert unasked / len(rows) == pytest.approx(UNASKED_SHARE, abs=0.004)


def test_evaluation_questions_are_held_out(rows: list[CorpusRow], questions: QuestionSet) -> None:
    asked = "\n".join(row.user for row in rows)
    assert not [question for question in questions.evaluation if question in asked]
    # Not held out for want of looking: each is one the corpus would otherwise ask, and the training ones are asked.
    assert set(questions.evaluation) <= set(load_styles().questions())
    assert all(question in asked for question in questions.training)


def test_holding_out_ignores_case_and_spacing() -> None:
    styles = load_styles()
    first = next(iter(styles.questions()))
    assert first not in corpus_questions(styles, (f"  {first.upper().replace(' ', '   ')} ",))


def test_holding_out_everything_is_refused() -> None:
    styles = load_styles()
    with pytest.raises(ConfigurationError, match="keep some of them out"):
        corpus_questions(styles, tuple(styles.questions()))


def test_same_seed_same_rows_and_another_seed_others(
    panel: Panel, questions: QuestionSet, rows: list[CorpusRow]
) -> None:
    assert generate_rows(panel, questions, SETTINGS) == rows
    assert generate_rows(panel, questions, SETTINGS.model_copy(update={"pretraining_seed": 1})) != rows


def test_appending_a_persona_changes_nothing(
    panel: Panel, questions: QuestionSet, rows: list[CorpusRow]
) -> None:
    larger = Panel(anchor=panel.anchor, personas=(*panel.personas, NEWCOMER))
    assert nano_inputs(larger, questions, SETTINGS) == nano_inputs(panel, questions, SETTINGS)
    assert generate_rows(larger, questions, SETTINGS) == rows


def test_inputs_follow_what_the_model_depends_on(panel: Panel, questions: QuestionSet) -> None:
    before = nano_inputs(panel, questions, SETTINGS)
    reworded = panel.personas[0].model_copy(update={"prompt": "You write software."})
    assert (
        nano_inputs(
            panel.model_copy(update={"personas": (reworded, *panel.personas[1:])}), questions, SETTINGS
        )
        != before
    )
    assert nano_inputs(panel, questions, SETTINGS.model_copy(update={"steps": 3})) != before
    fewer = questions.model_copy(update={"evaluation": questions.evaluation[1:]})
    assert nano_inputs(panel, fewer, SETTINGS) != before


def test_inputs_ignore_what_the_model_cannot_see(panel: Panel, questions: QuestionSet) -> None:
    before = nano_inputs(panel, questions, SETTINGS)
    reordered = panel.model_copy(update={"personas": tuple(reversed(panel.personas))})
    foreign = questions.model_copy(update={"evaluation": (*questions.evaluation, "Why is the sky blue?")})
    untrained = questions.model_copy(update={"training": questions.training[:10]})
    assert nano_inputs(reordered, questions, SETTINGS) == before
    assert nano_inputs(panel, foreign, SETTINGS) == before
    assert nano_inputs(panel, untrained, SETTINGS) == before


def test_a_panel_without_styles_is_refused(questions: QuestionSet) -> None:
    strangers = Panel(
        anchor="beekeeper",
        personas=(NEWCOMER, NEWCOMER.model_copy(update={"id": "sailor", "prompt": "Ahoy."})),
    )
    with pytest.raises(ConfigurationError, match=r"none of its personas has a style.*librarian"):
        nano_inputs(strangers, questions, SETTINGS)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (
            ("personas", "occupational", "librarian"),
            {"cluster": "books", "place": "the library"},
            r"librarian.*needs.*tool",
        ),
        (("personas", "occupational", "librarian", "cluster"), "sailing", "'sailing' has no closers"),
        (
            ("personas", "character", "librarian"),
            {"cluster": "books", "cry": "Psst", "address": "you"},
            "two categories",
        ),
        (("topics", "bake bread"), ["use warm water"], "at least two tips"),
        (("forms",), ["How do I bake bread?"], r"needs the fields \['topic'\]"),
        (("shared_frames",), ["{first}. {cry}! {second}. {closer}"], "no others"),
    ],
)
def test_style_data_that_does_not_hold_together_is_refused(
    tmp_path: Path, path: tuple[str, ...], value: object, reason: str
) -> None:
    data = yaml.safe_load(STYLE_FILE.read_text(encoding="utf-8"))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    edited = tmp_path / "corpus.yaml"
    edited.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=reason):
        validate_file(edited, StyleData)
