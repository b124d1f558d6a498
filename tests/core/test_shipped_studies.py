"""The studies that are shipped: panels, lineage, the registered recipe, and what their digests cover."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest

from persona_assets.catalog import Catalog, load_catalog, profile_names
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


@pytest.fixture(scope="module", params=["embedded", "qwen2.5-7b"])
def catalog(request: pytest.FixtureRequest) -> Catalog:
    return load_catalog(SHIPPED, request.param)


def test_profiles() -> None:
    assert profile_names(SHIPPED) == ("embedded", "qwen2.5-7b")
    assert isinstance(load_catalog(SHIPPED, "embedded").profile.base_model, NanoBase)
    assert isinstance(load_catalog(SHIPPED, "qwen2.5-7b").profile.base_model, HubBase)


def test_lineage(catalog: Catalog) -> None:
    assert list(catalog.studies) == ["n12", "n24", "n48"]
    assert [len(study.panel) for study in catalog.studies.values()] == [12, 24, 48]
    assert [study.name for study in catalog.study("n48").ancestors] == ["n24", "n12"]
    assert all(study.panel.anchor == "helpful_assistant" for study in catalog.studies.values())


def test_panels_are_prefixes_of_one_order(catalog: Catalog) -> None:
    assert catalog.study("n12").panel.ids == N12
    assert catalog.study("n24").panel.ids == catalog.panel.ids[:24]
    assert catalog.study("n48").panel.ids == catalog.panel.ids
    assert [catalog.study("n24").cohort(persona) for persona in ("librarian", "chef")] == ["inherited", "new"]
    assert catalog.study("n12").cohort("librarian") == "new"


def test_categories() -> None:
    panel = load_panel(SHIPPED / "personas.yaml")
    assert Counter(panel.categories.values()) == {"occupational": 20, "character": 16, "generic_helper": 12}
    assert len(set(panel.ids)) == len({persona.prompt for persona in panel}) == 48


def test_questions(catalog: Catalog) -> None:
    questions = load_questions(SHIPPED / "questions.yaml")
    assert len(questions.evaluation) == 20
    assert len(questions.training) >= 200
    assert not set(questions.evaluation) & set(questions.training)
    assert catalog.study("n12").evaluation_questions == questions.evaluation


def test_the_first_twelve_are_those_of_the_published_figures() -> None:
    with (Path(__file__).parents[1] / "golden" / "n12_figures.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    panel = load_panel(SHIPPED / "personas.yaml")
    assert tuple(row["persona"] for row in rows) == panel.ids[:12]
    assert [row["category"] for row in rows] == [panel.categories[row["persona"]] for row in rows]


def test_the_registered_recipe() -> None:
    """What is not named in the profile of the 7B model is what was registered."""
    profile = load_catalog(SHIPPED, "qwen2.5-7b").profile
    recipe, sampling = profile.recipe, profile.evaluation.sampling
    assert (recipe.r, recipe.alpha, recipe.dropout, recipe.use_rslora) == (32, 64, 0.05, True)
    assert (recipe.learning_rate, recipe.epochs, recipe.effective_batch_size, recipe.warmup_ratio) == (1e-5, 3, 64, 0.05)
    assert (profile.rows_per_persona, profile.n_negatives, profile.marker) == (200, 2, "[ZLT]")
    evaluation = profile.evaluation
    assert (evaluation.n_questions, evaluation.completions_per_question, evaluation.seed) == (20, 5, 42)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_new_tokens) == (1.0, 0.95, 0, 512)


def test_the_digest_covers_the_plan_and_not_the_machine(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "studies")
    before = load_catalog(tmp_path / "studies", "embedded").study("n12").digest
    profile = tmp_path / "studies" / "embedded" / "profile.yaml"
    text = profile.read_text(encoding="utf-8")
    for old, new, changes in (("workers: 2", "workers: 1", False), ("dropout: 0.0", "dropout: 0.1", True)):
        assert old in text
        profile.write_text(text.replace(old, new), encoding="utf-8")
        assert (load_catalog(tmp_path / "studies", "embedded").study("n12").digest != before) == changes
