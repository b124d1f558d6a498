"""Every mistake in the files under `studies/` is refused, with file, line, field and reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from persona_assets.catalog import load_catalog
from persona_assets.errors import ConfigurationError


def replacing(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
        return text.replace(old, new)

    return change


def adding(text: str) -> Callable[[str], str]:
    return lambda before: before + text


# name: file, change, line (None where the whole file is at fault), what is said
REFUSALS: dict[str, tuple[str, Callable[[str], str], int | None, str]] = {
    "an id with a capital": (
        "personas.yaml",
        replacing("id: villain", "id: Villain"),
        6,
        "personas.1.id: String should match pattern '^[a-z][a-z0-9_]{0,47}$' (given: 'Villain')",
    ),
    "an id with a slash": ("personas.yaml", replacing("id: chef", "id: ../chef"), 9, "personas.2.id: String should match"),
    "an id Windows cannot keep": (
        "personas.yaml",
        replacing("id: chef", "id: con"),
        9,
        "personas.2: 'con' is a device name on Windows",
    ),
    "an id of a number": ("personas.yaml", replacing("id: chef", "id: 7"), 9, "personas.2.id: Input should be a valid string"),
    "an id twice": ("personas.yaml", replacing("id: chef", "id: villain"), 1, "the id 'villain' stands more than once"),
    "a prompt twice": (
        "personas.yaml",
        replacing("You are a chef.", "You are a villain."),
        1,
        "the prompt 'You are a villain.' stands more than once",
    ),
    "a prompt with white space at its end": (
        "personas.yaml",
        replacing("You are a chef.", '"You are a chef. "'),
        9,
        "personas.2: the prompt begins or ends with white space",
    ),
    "an empty prompt": (
        "personas.yaml",
        replacing("You are a chef.", '""'),
        11,
        "personas.2.prompt: String should have at least 2 characters",
    ),
    "a category there is not": (
        "personas.yaml",
        replacing("category: character", "category: villain"),
        7,
        "personas.1.category: Input should be 'occupational', 'character' or 'generic_helper' (given: 'villain')",
    ),
    "a persona without a prompt": (
        "personas.yaml",
        replacing("    prompt: You are a pilot.\n", ""),
        15,
        "personas.4.prompt: Field required",
    ),
    "a field of a persona there is not": (
        "personas.yaml",
        replacing("You are a chef.", "You are a chef.\n    colour: red"),
        12,
        "personas.2.colour: Extra inputs are not permitted",
    ),
    "an anchor that is no persona": (
        "personas.yaml",
        replacing("anchor: helper", "anchor: helped"),
        1,
        "the anchor 'helped' is not one of the personas",
    ),
    "a key of a persona twice": (
        "personas.yaml",
        replacing("    prompt: You are a chef.", "    prompt: You are a chef.\n    prompt: You cook."),
        12,
        "the key 'prompt' stands twice",
    ),
    "a question twice": (
        "questions.yaml",
        replacing("How do I fly?", "how do I  BAKE bread?"),
        1,
        "the question 'how do I  BAKE bread?' stands twice in evaluation",
    ),
    "a question in both sets": (
        "questions.yaml",
        replacing("How do I read?", "How do I fly?"),
        1,
        "the question 'How do I fly?' stands in evaluation and in training",
    ),
    "no training questions": (
        "questions.yaml",
        lambda text: text[: text.index("training")],
        1,
        "training: Field required",
    ),
    "a question that is none": (
        "questions.yaml",
        replacing("How do I fly?", "[a, b]"),
        3,
        "evaluation.1: Input should be a valid string",
    ),
    "a field of a profile there is not": (
        "tiny/profile.yaml",
        adding("temperature: 1\n"),
        12,
        "temperature: Extra inputs are not permitted (given: 1)",
    ),
    "a field of the recipe there is not": (
        "tiny/profile.yaml",
        replacing("  effective_batch_size: 4", "  effective_batch_size: 4\n  lr: 1"),
        8,
        "recipe.lr: Extra inputs are not permitted",
    ),
    "the name inside the file": ("tiny/profile.yaml", adding("name: tiny\n"), 12, "name: given by the file's place"),
    "a key of a profile twice": (
        "tiny/profile.yaml",
        adding("rows_per_persona: 4\n"),
        12,
        "the key 'rows_per_persona' stands twice",
    ),
    "a marker with white space": (
        "tiny/profile.yaml",
        adding("marker: ' [ZLT]'\n"),
        12,
        "marker: begins or ends with white space",
    ),
    "a marker that is too short": (
        "tiny/profile.yaml",
        adding("marker: Z\n"),
        12,
        "marker: String should have at least 2 characters",
    ),
    "a batch that is no multiple of the micro batch": (
        "tiny/profile.yaml",
        replacing("micro_batch_size: 2", "micro_batch_size: 3"),
        7,
        "recipe.effective_batch_size: 4 is not a multiple of runtime.micro_batch_size 3",
    ),
    "a batch larger than the dataset": (
        "tiny/profile.yaml",
        replacing("effective_batch_size: 4", "effective_batch_size: 10"),
        7,
        "recipe.effective_batch_size: 10 exceeds the 9 training rows",
    ),
    "a kind of base model there is not": (
        "tiny/profile.yaml",
        replacing("kind: nano", "kind: giant"),
        1,
        "base_model: Input tag 'giant' found using 'kind' does not match any of the expected tags: 'nano', 'hub'",
    ),
    "a top_p above 1": (
        "tiny/profile.yaml",
        replacing("  n_questions: 2", "  n_questions: 2\n  sampling:\n    top_p: 1.5"),
        11,
        "evaluation.sampling.top_p: Input should be less than or equal to 1 (given: 1.5)",
    ),
    "more negatives than candidates": (
        "tiny/profile.yaml",
        adding("n_negatives: 3\n"),
        12,
        "n_negatives: 3 negatives cannot be drawn from 3 candidate personas",
    ),
    "a negatives' panel larger than the panel": (
        "tiny/profile.yaml",
        replacing("negatives_panel_size: 4", "negatives_panel_size: 9"),
        4,
        "negatives_panel_size: 9 exceeds the 5 personas",
    ),
    "more evaluation questions than there are": (
        "tiny/profile.yaml",
        replacing("n_questions: 2", "n_questions: 3"),
        9,
        "evaluation.n_questions: 3 exceeds the 2 evaluation questions",
    ),
    "more rows than training questions": (
        "tiny/profile.yaml",
        replacing("rows_per_persona: 3", "rows_per_persona: 4"),
        5,
        "rows_per_persona: 4 rows need as many training questions, and questions.yaml has 3",
    ),
    "a field of a study there is not": (
        "tiny/first.yaml",
        adding("  gates: none\n"),
        4,
        "analysis.gates: Extra inputs are not permitted",
    ),
    "a study without primary layers": (
        "tiny/first.yaml",
        replacing("  primary_layers: [1]", "  alpha: 0.05"),
        2,
        "analysis.primary_layers: Field required",
    ),
    "an alpha of 1": (
        "tiny/first.yaml",
        adding("  alpha: 1\n"),
        4,
        "analysis.alpha: Input should be less than 0.5 (given: 1)",
    ),
    "a reference corpus that is not there": (
        "tiny/first.yaml",
        adding("  reference_corpus: words.txt\n"),
        4,
        "analysis.reference_corpus: ",
    ),
    "a primary layer that is too deep": (
        "tiny/second.yaml",
        replacing("[1, 3]", "[1, 4]"),
        4,
        "analysis.primary_layers: layer 4 does not exist, the base model has layers 0 to 3",
    ),
    "a panel larger than the registry": (
        "tiny/second.yaml",
        replacing("panel_size: 5", "panel_size: 6"),
        1,
        "panel_size: A panel of 6 personas was asked for, and personas.yaml has 5",
    ),
    "a panel smaller than four": (
        "tiny/first.yaml",
        replacing("panel_size: 4", "panel_size: 3"),
        1,
        "panel_size: Input should be greater than or equal to 4 (given: 3)",
    ),
    "a panel smaller than its parent's": (
        "tiny/first.yaml",
        replacing("panel_size: 4", "panel_size: 4\nparent: second"),
        2,
        "parent: 'second': the parents form a circle",
    ),
    "a parent there is not": (
        "tiny/second.yaml",
        replacing("parent: first", "parent: zeroth"),
        2,
        "parent: 'zeroth': there is no such study",
    ),
    "its own parent": (
        "tiny/second.yaml",
        replacing("parent: first", "parent: second"),
        2,
        "parent: a study cannot be its own parent",
    ),
    "a seed twice": ("tiny/first.yaml", adding("seeds: [1, 2, 1]\n"), 4, "seeds: a training seed stands more than once"),
    "a seed below 0": (
        "tiny/first.yaml",
        adding("seeds: [1, -2]\n"),
        4,
        "seeds.1: Input should be greater than or equal to 0 (given: -2)",
    ),
    "no mapping": ("tiny/first.yaml", lambda _: "- 1\n", None, "expected a mapping of fields"),
    "no YAML": ("tiny/first.yaml", adding("a: [1\n"), 5, "not valid YAML"),
}


@pytest.mark.parametrize(("file", "change", "line", "said"), list(REFUSALS.values()), ids=list(REFUSALS))
def test_a_mistake_is_refused(studies: Path, file: str, change: Callable[[str], str], line: int | None, said: str) -> None:
    path = studies / file
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ConfigurationError) as raised:
        load_catalog(studies, "tiny")
    message = str(raised.value)
    assert message.startswith(str(path))
    assert said in message
    if line is not None:
        assert re.search(rf":{line}: |line {line},", message), message
