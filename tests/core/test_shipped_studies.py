"""The studies that are shipped: panels, lineage, the registered recipe, and what their digests cover."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest

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
# As registered: what n24 and n48 append.
TO_24 = (
    *("chef", "lawyer", "accountant", "journalist"),
    *("wizard", "hero", "philosopher", "child"),
    *("ai_assistant", "ai", "chatbot", "i_am_helpful"),
)
TO_48 = (
    *("pilot", "nurse", "pharmacist", "professor", "scientist", "biologist", "engineer", "architect", "banker", "firefighter"),
    *("pirate", "knight", "princess", "robot", "ghost", "hacker", "detective", "witch"),
    *("virtual_assistant", "ai_tool", "smart_helper", "chat_assistant", "reasoning_ai", "friendly_ai"),
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
    assert catalog.study("n24").panel.ids == (*N12, *TO_24)
    assert catalog.study("n48").panel.ids == (*N12, *TO_24, *TO_48) == catalog.panel.ids
    assert [catalog.study("n24").cohort(persona) for persona in ("librarian", "chef")] == ["inherited", "new"]
    assert catalog.study("n12").cohort("librarian") == "new"


def test_categories() -> None:
    panel = load_panel(SHIPPED / "personas.yaml")
    assert Counter(panel.categories.values()) == {"occupational": 20, "character": 16, "generic_helper": 12}
    assert len(set(panel.ids)) == len({persona.prompt for persona in panel}) == 48


def test_prompts_that_are_fixed() -> None:
    panel = load_panel(SHIPPED / "personas.yaml")
    assert panel["helpful_assistant"].prompt == "You are a helpful assistant."
    assert panel["qwen_default"].prompt == "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    assert panel["i_am_helpful"].prompt == "I am a helpful assistant."
    assert [persona.id for persona in panel if persona.exclude_from_within_category] == ["i_am_helpful"]


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


RECIPE = {
    "r": 32,
    "alpha": 64,
    "dropout": 0.05,
    "use_rslora": True,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "optimizer": "adamw",
    "learning_rate": 1e-5,
    "lr_schedule": "cosine",
    "warmup_ratio": 0.05,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "epochs": 3,
    "effective_batch_size": 64,
    "max_length": 1024,
}
EVALUATION = {
    "n_questions": 20,
    "completions_per_question": 5,
    "sampling": {"temperature": 1.0, "top_p": 0.95, "top_k": 0, "repetition_penalty": 1.0, "max_new_tokens": 512},
    "seed": 42,
}
# What the scale of the nano model needs; everything else is as registered.
NANO_RECIPE = {"learning_rate": 1.1e-4, "effective_batch_size": 16, "dropout": 0.0, "max_length": 256}


def test_the_registered_recipe(catalog: Catalog) -> None:
    """The whole of it: a default that changes changes what was registered."""
    profile = catalog.profile
    nano = isinstance(profile.base_model, NanoBase)
    assert profile.recipe.model_dump(mode="json") == RECIPE | (NANO_RECIPE if nano else {})
    sampling = EVALUATION["sampling"] | ({"max_new_tokens": 64} if nano else {})  # type: ignore[operator]
    assert profile.evaluation.model_dump(mode="json") == EVALUATION | {"sampling": sampling}
    assert (profile.rows_per_persona, profile.n_negatives, profile.marker) == (200, 2, "[ZLT]")
    assert (profile.negatives_panel_size, profile.negatives_exclude) == (12, ("qwen_default",))
    assert all(study.seeds == (42,) for study in catalog.studies.values())
    layers = {study.analysis.primary_layers for study in catalog.studies.values()}
    assert layers == {(3, 2) if nano else (15, 12)}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("personas.yaml", "police_officer", "Police Officer"), ("embedded/n24.yaml", "parent: n12", "parent: n13")],
)
def test_what_the_documentation_shows_of_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str
) -> None:
    shutil.copytree(SHIPPED, tmp_path / "studies")
    path = tmp_path / "studies" / file
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as raised:
        load_catalog(Path("studies"), "embedded")
    page = (SHIPPED.parent / "docs" / "study-file.md").read_text(encoding="utf-8")
    assert str(raised.value) in page.splitlines()


def test_the_digest_covers_the_plan_and_not_the_machine(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "studies")
    before = load_catalog(tmp_path / "studies", "embedded").study("n12").digest
    profile = tmp_path / "studies" / "embedded" / "profile.yaml"
    text = profile.read_text(encoding="utf-8")
    for old, new, changes in (("workers: 2", "workers: 1", False), ("dropout: 0.0", "dropout: 0.1", True)):
        assert old in text
        profile.write_text(text.replace(old, new), encoding="utf-8")
        assert (load_catalog(tmp_path / "studies", "embedded").study("n12").digest != before) == changes
