"""What `studies/` may hold: the shipped files load, and every mistake is refused with file, field and reason."""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from persona_assets.catalog import Catalog, load_catalog, profile_names
from persona_assets.errors import ConfigurationError
from persona_assets.panel import load_panel
from persona_assets.questions import load_questions
from persona_assets.study import HubBase, NanoBase

SHIPPED = Path(__file__).parents[2] / "studies"
N12 = (
    "software_engineer",
    "kindergarten_teacher",
    "data_scientist",
    "medical_doctor",
    "librarian",
    "french_person",
    "villain",
    "comedian",
    "police_officer",
    "zelthari_scholar",
    "helpful_assistant",
    "qwen_default",
)

PERSONAS = """\
anchor: helper
personas:
  - id: librarian
    category: occupational
    prompt: You are a librarian.
  - id: villain
    category: character
    prompt: You are a villain.
  - id: chef
    category: occupational
    prompt: You are a chef.
  - id: helper
    category: generic_helper
    prompt: You are helpful.
  - id: pilot
    category: occupational
    prompt: You are a pilot.
"""
QUESTIONS = """\
evaluation:
  - How do I bake bread?
  - How do I fly?
training:
  - How do I cook rice?
  - How do I read?
  - How do I write?
"""
PROFILE = """\
base_model:
  kind: nano
  layers: 4
negatives_panel_size: 4
rows_per_persona: 3
recipe:
  effective_batch_size: 4
evaluation:
  n_questions: 2
runtime:
  micro_batch_size: 2
"""
FIRST = """\
panel_size: 4
analysis:
  primary_layers: [1]
"""
SECOND = """\
panel_size: 5
parent: first
analysis:
  primary_layers: [1, 3]
"""
FILES = {
    "personas.yaml": PERSONAS,
    "questions.yaml": QUESTIONS,
    "tiny/profile.yaml": PROFILE,
    "tiny/first.yaml": FIRST,
    "tiny/second.yaml": SECOND,
}


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


class TestShipped:
    @pytest.fixture(scope="class", params=["embedded", "qwen2.5-7b"])
    def catalog(self, request: pytest.FixtureRequest) -> Catalog:
        return load_catalog(SHIPPED, request.param)

    def test_profiles(self) -> None:
        assert profile_names(SHIPPED) == ("embedded", "qwen2.5-7b")
        assert isinstance(load_catalog(SHIPPED, "embedded").profile.base_model, NanoBase)
        assert isinstance(load_catalog(SHIPPED, "qwen2.5-7b").profile.base_model, HubBase)

    def test_lineage(self, catalog: Catalog) -> None:
        assert list(catalog.studies) == ["n12", "n24", "n48"]
        assert [len(study.panel) for study in catalog.studies.values()] == [12, 24, 48]
        assert [study.name for study in catalog.study("n48").ancestors] == ["n24", "n12"]
        assert all(study.panel.anchor == "helpful_assistant" for study in catalog.studies.values())

    def test_panels_are_prefixes_of_one_order(self, catalog: Catalog) -> None:
        assert catalog.study("n12").panel.ids == N12
        assert catalog.study("n24").panel.ids == catalog.panel.ids[:24]
        assert catalog.study("n48").panel.ids == catalog.panel.ids
        assert [catalog.study("n24").cohort(persona) for persona in ("librarian", "chef")] == ["inherited", "new"]
        assert catalog.study("n12").cohort("librarian") == "new"

    def test_categories(self) -> None:
        panel = load_panel(SHIPPED / "personas.yaml")
        assert Counter(panel.categories.values()) == {"occupational": 20, "character": 16, "generic_helper": 12}
        assert len(set(panel.ids)) == len({persona.prompt for persona in panel}) == 48

    def test_questions(self, catalog: Catalog) -> None:
        questions = load_questions(SHIPPED / "questions.yaml")
        assert len(questions.evaluation) == 20
        assert len(questions.training) >= 200
        assert not set(questions.evaluation) & set(questions.training)
        assert catalog.study("n12").evaluation_questions == questions.evaluation

    def test_the_first_twelve_are_those_of_the_published_figures(self) -> None:
        with (Path(__file__).parents[1] / "golden" / "n12_figures.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        panel = load_panel(SHIPPED / "personas.yaml")
        assert tuple(row["persona"] for row in rows) == panel.ids[:12]
        assert [row["category"] for row in rows] == [panel.categories[row["persona"]] for row in rows]

    def test_the_registered_recipe(self) -> None:
        """What is not named in the profile of the 7B model is what was registered."""
        profile = load_catalog(SHIPPED, "qwen2.5-7b").profile
        recipe, sampling = profile.recipe, profile.evaluation.sampling
        assert (recipe.r, recipe.alpha, recipe.dropout, recipe.use_rslora) == (32, 64, 0.05, True)
        assert (recipe.learning_rate, recipe.epochs, recipe.effective_batch_size, recipe.warmup_ratio) == (1e-5, 3, 64, 0.05)
        assert (profile.rows_per_persona, profile.n_negatives, profile.marker) == (200, 2, "[ZLT]")
        evaluation = profile.evaluation
        assert (evaluation.n_questions, evaluation.completions_per_question, evaluation.seed) == (20, 5, 42)
        assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_new_tokens) == (1.0, 0.95, 0, 512)

    def test_the_digest_covers_the_plan_and_not_the_machine(self, tmp_path: Path) -> None:
        shutil.copytree(SHIPPED, tmp_path / "studies")
        before = load_catalog(tmp_path / "studies", "embedded").study("n12").digest
        profile = tmp_path / "studies" / "embedded" / "profile.yaml"
        text = profile.read_text(encoding="utf-8")
        for old, new, changes in (("workers: 2", "workers: 1", False), ("dropout: 0.0", "dropout: 0.1", True)):
            assert old in text
            profile.write_text(text.replace(old, new), encoding="utf-8")
            assert (load_catalog(tmp_path / "studies", "embedded").study("n12").digest != before) == changes


def test_a_good_directory_loads(studies: Path) -> None:
    catalog = load_catalog(studies, "tiny")
    assert list(catalog.studies) == ["first", "second"]
    assert catalog.study("second").parent is catalog.study("first")


def replacing(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
        return text.replace(old, new)

    return change


def adding(text: str) -> Callable[[str], str]:
    return lambda before: before + text


# name: file, change, line (None where the whole file is at fault or it is a matter between files), what is said
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
    "the name inside the file": ("tiny/profile.yaml", adding("name: tiny\n"), None, "name: given by the file's place"),
    "a key of a profile twice": (
        "tiny/profile.yaml",
        adding("rows_per_persona: 4\n"),
        12,
        "the key 'rows_per_persona' stands twice",
    ),
    "a marker with white space": (
        "tiny/profile.yaml",
        adding("marker: ' [ZLT]'\n"),
        None,
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
        None,
        "recipe.effective_batch_size: 4 is not a multiple of runtime.micro_batch_size 3",
    ),
    "a batch larger than the dataset": (
        "tiny/profile.yaml",
        replacing("effective_batch_size: 4", "effective_batch_size: 10"),
        None,
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
        None,
        "n_negatives: 3 negatives cannot be drawn from 3 candidate personas",
    ),
    "a negatives' panel larger than the panel": (
        "tiny/profile.yaml",
        replacing("negatives_panel_size: 4", "negatives_panel_size: 9"),
        None,
        "negatives_panel_size: 9 exceeds the 5 personas",
    ),
    "more evaluation questions than there are": (
        "tiny/profile.yaml",
        replacing("n_questions: 2", "n_questions: 3"),
        None,
        "evaluation.n_questions: 3 exceeds the 2 evaluation questions",
    ),
    "more rows than training questions": (
        "tiny/profile.yaml",
        replacing("rows_per_persona: 3", "rows_per_persona: 4"),
        None,
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
        None,
        "analysis.reference_corpus: ",
    ),
    "a primary layer that is too deep": (
        "tiny/second.yaml",
        replacing("[1, 3]", "[1, 4]"),
        None,
        "analysis.primary_layers: layer 4 does not exist, the base model has layers 0 to 3",
    ),
    "a panel larger than the registry": (
        "tiny/second.yaml",
        replacing("panel_size: 5", "panel_size: 6"),
        None,
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
        None,
        "parent: 'second': the parents form a circle",
    ),
    "a parent there is not": (
        "tiny/second.yaml",
        replacing("parent: first", "parent: zeroth"),
        None,
        "parent: 'zeroth': there is no such study",
    ),
    "its own parent": (
        "tiny/second.yaml",
        replacing("parent: first", "parent: second"),
        None,
        "parent: a study cannot be its own parent",
    ),
    "a seed twice": ("tiny/first.yaml", adding("seeds: [1, 2, 1]\n"), None, "seeds: a training seed stands more than once"),
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


def test_every_mistake_is_named_at_once(studies: Path) -> None:
    path = studies / "tiny" / "first.yaml"
    path.write_text("panel_size: 2\nseeds: []\nanalysis: {primary_layers: [1], alpha: 3}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError) as raised:
        load_catalog(studies, "tiny")
    lines = str(raised.value).splitlines()
    assert [line.removeprefix(f"{path}:").split(":")[:2] for line in lines] == [
        ["1", " panel_size"],
        ["2", " seeds"],
        ["3", " analysis.alpha"],
    ]


def test_a_smaller_panel_than_the_parents_is_refused(studies: Path) -> None:
    (studies / "tiny" / "third.yaml").write_text(FIRST + "parent: second\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"third.yaml: panel_size: 4 is smaller than the 5 of its parent second"):
        load_catalog(studies, "tiny")


def test_a_panel_without_its_anchor_is_refused(studies: Path) -> None:
    personas = yaml.safe_load(PERSONAS)
    personas["personas"].append(personas["personas"].pop(3))
    (studies / "personas.yaml").write_text(yaml.safe_dump(personas), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"first.yaml: panel_size: The anchor 'helper' is not among the first 4"):
        load_catalog(studies, "tiny")


def test_circle_of_three(studies: Path) -> None:
    for name, parent in (("second", "third"), ("third", "fourth"), ("fourth", "second")):
        (studies / "tiny" / f"{name}.yaml").write_text(FIRST + f"parent: {parent}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="the parents form a circle"):
        load_catalog(studies, "tiny")


@pytest.mark.parametrize("file", ["personas.yaml", "questions.yaml"])
def test_a_missing_file_is_named(studies: Path, file: str) -> None:
    (studies / file).unlink()
    with pytest.raises(ConfigurationError, match=rf"{re.escape(str(studies / file))}: no such file"):
        load_catalog(studies, "tiny")


def test_a_profile_without_studies_is_refused(studies: Path) -> None:
    for name in ("first", "second"):
        (studies / "tiny" / f"{name}.yaml").unlink()
    with pytest.raises(ConfigurationError, match="the profile has no study"):
        load_catalog(studies, "tiny")


def test_unknown_names_list_what_there_is(studies: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no profile 'huge'.*Profiles there are: tiny\."):
        load_catalog(studies, "huge")
    with pytest.raises(ConfigurationError, match=r"no study 'n13' in profile tiny; there are: first, second\."):
        load_catalog(studies, "tiny").study("n13")


def test_panels(studies: Path) -> None:
    panel = load_panel(studies / "personas.yaml")
    assert panel["chef"].prompt == "You are a chef."
    assert [persona.id for persona in panel.prefix(4)] == ["librarian", "villain", "chef", "helper"]
    assert len(panel) == 5
    with pytest.raises(KeyError, match=r"no persona 'cook'; the panel has librarian, villain"):
        panel["cook"]


def test_the_digest_of_questions_follows_their_order(studies: Path) -> None:
    before = load_questions(studies / "questions.yaml").evaluation_digest
    (studies / "questions.yaml").write_text(
        QUESTIONS.replace("bake bread", "X").replace("fly", "bake bread").replace("X", "fly"), encoding="utf-8"
    )
    assert load_questions(studies / "questions.yaml").evaluation_digest != before
