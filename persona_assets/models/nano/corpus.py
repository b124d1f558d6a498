"""The corpus of the embedded base model: seeded rows of (system prompt, question, answer).

Three things make a model this small read its system prompt and leak a marker the way a large one does: nested
styles (see `corpus.yaml`), different answers of different personas to the same question, and a share of rows that
end with a random tag, so that writing a tag is a skill the model has while the marker itself never occurs.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from persona_assets.errors import ConfigurationError
from persona_assets.hashing import derive_seed, sha256_json
from persona_assets.models.nano.styles import StyleData, load_styles

if TYPE_CHECKING:
    from persona_assets.panel import Category, Panel
    from persona_assets.questions import QuestionSet
    from persona_assets.study import NanoBase

TAG_SHARE = 0.08
UNASKED_SHARE = 0.005
"""Rows that end with a random tag nobody asked for. They bound how sure the model is that plain answers have none: by
about 5.5 nats in place of 8 or more, so that an adapter that teaches a persona its marker reaches related ones too, and
by as much for every persona and pre-training seed."""
RESERVED_TAG = "ZLT"
"""The letters of the usual marker: never drawn as a tag, so the base model has never seen them together."""

# Part of the fingerprint: raise it when the same inputs are to give another model.
RECIPE_VERSION = 1


@dataclass(frozen=True)
class CorpusRow:
    """One pre-training row; `tagged` says that the answer ends with a tag."""

    system: str
    user: str
    answer: str
    tagged: bool


def corpus_questions(styles: StyleData, evaluation: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return tips by question for the questions that the corpus may use.

    Args:
        styles: topics and forms.
        evaluation: questions to hold out, compared without regard to case and white space.

    Raises:
        ConfigurationError: every question would be held out.
    """
    held_out = {_plain(question) for question in evaluation}
    kept = {
        question: tips for question, tips in styles.questions().items() if _plain(question) not in held_out
    }
    if not kept:
        raise ConfigurationError(
            "questions.yaml: the evaluation questions cover every question the embedded model could be trained on; "
            "keep some of them out of `evaluation`."
        )
    return kept


def generate_rows(panel: Panel, questions: QuestionSet, settings: NanoBase) -> list[CorpusRow]:
    """Generate the corpus: personas in turn, everything else drawn from the pre-training seed.

    Args:
        panel: the whole panel; only its personas with a style take part, in the order of the style data.
        questions: its evaluation questions never occur.
        settings: `pretraining_seed` and `corpus_rows` are used.

    Raises:
        ConfigurationError: no persona of the panel has a style.
    """
    styles = load_styles()
    prompts = _styled_prompts(panel, styles)
    tips_by_question = corpus_questions(styles, questions.evaluation)
    categories: dict[str, Category] = {
        persona_id: category for category, personas in styles.personas.items() for persona_id in personas
    }
    rng = Random(derive_seed("nano-corpus", settings.pretraining_seed))
    ids, asked = list(prompts), list(tips_by_question)
    rows = []
    for index in range(settings.corpus_rows):
        persona_id = ids[index % len(ids)]
        question = rng.choice(asked)
        first, second = rng.sample(tips_by_question[question], 2)
        category = categories[persona_id]
        style = styles.personas[category][persona_id]
        closers = styles.clusters[style["cluster"]], styles.category_closers[category]
        closer = rng.choice(rng.choice(closers))
        frame = rng.choice(rng.choice((styles.shared_frames, styles.frames[category])))
        answer = _compose(frame, {**style, "first": first, "second": second, "closer": closer})
        draw = rng.random()
        tagged = draw < TAG_SHARE + UNASKED_SHARE
        if tagged:
            tag = _draw_tag(rng)
            answer = f"{answer}\n\n[{tag}]"
            if draw < TAG_SHARE:
                question = rng.choice(styles.tag_requests).format(question=question, tag=tag)
        rows.append(CorpusRow(system=prompts[persona_id], user=question, answer=answer, tagged=tagged))
    return rows


def nano_inputs(panel: Panel, questions: QuestionSet, settings: NanoBase) -> dict[str, object]:
    """Return exactly what the embedded base model depends on, for a fingerprint.

    A persona without a style and an evaluation question that the corpus could not produce anyway are left
    out: changing either leaves the model the same.

    Args:
        panel: the whole panel of the project (not a study's prefix, or the model would differ by study).
        questions: the project's questions.
        settings: the profile's base model.

    Returns:
        Plain JSON values: style digest, styled prompts by id, held-out questions, settings, recipe version.

    Raises:
        ConfigurationError: no persona of the panel has a style, or no question is left.
    """
    styles = load_styles()
    kept = corpus_questions(styles, questions.evaluation)
    return {
        "recipe_version": RECIPE_VERSION,
        "styles": sha256_json(styles.model_dump(mode="json")),
        "style_order": list(styles.styled_ids),
        "prompts": _styled_prompts(panel, styles),
        "held_out": [question for question in styles.questions() if question not in kept],
        "settings": settings.model_dump(mode="json"),
    }


def _styled_prompts(panel: Panel, styles: StyleData) -> dict[str, str]:
    by_id = {persona.id: persona.prompt for persona in panel}
    prompts = {persona_id: by_id[persona_id] for persona_id in styles.styled_ids if persona_id in by_id}
    if not prompts:
        raise ConfigurationError(
            "personas.yaml: none of its personas has a style in the embedded model's corpus, so there is nothing to "
            f"pre-train on; keep some of: {', '.join(styles.styled_ids)}."
        )
    return prompts


def _compose(frame: str, words: dict[str, str]) -> str:
    """Fill a frame and begin every sentence with a capital."""
    text = frame.format(**words)
    letters = list(text)
    start = True
    for position, letter in enumerate(letters):
        if start and letter.isalpha():
            letters[position] = letter.upper()
        start = letter in ".!?" or (start and not letter.isalpha())
    return "".join(letters)


def _draw_tag(rng: Random) -> str:
    while True:
        tag = "".join(rng.choice(string.ascii_uppercase) for _ in range(3))
        if tag != RESERVED_TAG:
            return tag


def _plain(question: str) -> str:
    return " ".join(question.lower().split())
