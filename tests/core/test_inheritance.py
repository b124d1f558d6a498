"""Adapters that a study inherits by reference: what a study file may say, and each mistake with file, field and reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from persona_assets.catalog import Catalog, load_catalog
from persona_assets.errors import ConfigurationError

SHIPPED = Path(__file__).parents[2] / "studies"
PATTERN = "wandb:lab/huggingface/marker_{persona}_asst_excluded_medium_seed42:v0"
Edit = Callable[..., Catalog]


@pytest.fixture
def edit(tmp_path: Path) -> Edit:
    """Load the shipped embedded studies with fields of some of them changed; n48 is left out."""
    studies = shutil.copytree(SHIPPED, tmp_path / "studies")
    (studies / "embedded" / "n48.yaml").unlink()

    def load(**changes: dict[str, Any]) -> Catalog:
        for name, fields in changes.items():
            file = studies / "embedded" / f"{name}.yaml"
            content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
            file.write_text(yaml.safe_dump(content | fields), encoding="utf-8")
        return load_catalog(studies, "embedded")

    return load


def named(catalog: Catalog) -> dict[tuple[str, int], str]:
    return {key: str(reference) for key, reference in catalog.inherited_adapters.items()}


def test_one_pattern_names_an_adapter_for_each_persona_of_the_panel(edit: Edit) -> None:
    catalog = edit(n12={"inherited_adapters": {"reference": PATTERN}})
    assert named(catalog) == {(persona, 42): PATTERN.format(persona=persona) for persona in catalog.study("n12").panel.ids}


def test_the_cohort_is_inherited_and_so_is_that_of_a_child(edit: Edit) -> None:
    catalog = edit(n12={"inherited_adapters": {"reference": PATTERN, "personas": ["librarian", "villain"]}})
    first, second = catalog.study("n12"), catalog.study("n24")
    assert [persona for persona in first.panel.ids if first.cohort(persona) == "inherited"] == ["librarian", "villain"]
    assert {second.cohort(persona) for persona in first.panel.ids} == {"inherited"}
    assert second.cohort("chef") == "new"


def test_the_parent_can_be_an_imported_study_which_names_no_adapter(edit: Edit) -> None:
    earlier = {
        "imported": {
            "source": "/old/results",
            "data_version": "0" * 64,
            "marker": "[ZLT]",
            "anchor": "helpful_assistant",
            "personas": [{"id": persona, "category": "character"} for persona in ("villain", "pirate")],
            "completions": [100],
            "identity": {"engine": "vllm"},
            "tables": ["source_rates"],
        },
        "seeds": [42],
        "analysis": {"primary_layers": [3]},
    }
    mine = {"villain": "file:/data/villain", "librarian": "file:/data/librarian"}
    catalog = edit(earlier=earlier, n12={"parent": "earlier", "inherited_adapters": mine})
    assert named(catalog) == {(persona, 42): place for persona, place in mine.items()}
    child = catalog.study("n12")
    assert child.parent is not None
    assert (child.parent.name, dict(child.parent.inherited_adapters)) == ("earlier", {})
    assert [persona for persona in child.panel.ids if child.cohort(persona) == "inherited"] == ["librarian", "villain"]
    with pytest.raises(ConfigurationError, match=r"n12\.yaml:\d+: inherited_adapters: n24 inherits the adapter of villain"):
        edit(n12={"inherited_adapters": None}, n24={"inherited_adapters": {"villain": "file:/a"}})  # one measured here must


def test_references_by_persona(edit: Edit) -> None:
    catalog = edit(n12={"inherited_adapters": {"librarian": "file:/data/librarian", "villain": f"hf:lab/m@{'a' * 40}:villain"}})
    assert named(catalog) == {("librarian", 42): "file:/data/librarian", ("villain", 42): f"hf:lab/m@{'a' * 40}:villain"}


def test_each_training_seed_has_its_own(edit: Edit) -> None:
    catalog = edit(
        n12={"seeds": [42, 137], "inherited_adapters": {"librarian": "file:/data/{persona}_seed{seed}"}},
        n24={"parent": "n12"},
    )
    assert named(catalog) == {("librarian", seed): f"file:/data/librarian_seed{seed}" for seed in (42, 137)}


def test_references_are_part_of_the_plan_and_change_nothing_for_others(edit: Edit) -> None:
    plain, inheriting = edit(), edit(n12={"inherited_adapters": {"librarian": "file:/data/librarian"}})
    assert "inherited_adapters" not in plain.study("n12").plan
    assert inheriting.study("n12").plan["inherited_adapters"] == {"librarian, seed 42": "file:/data/librarian"}
    assert inheriting.study("n12").digest != plain.study("n12").digest
    assert plain.study("n24").digest == inheriting.study("n24").digest


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("wandb:lab/p/x:v0", ": expected `reference` with `personas`, or a reference for each persona"),
        ({}, ": expected `reference` with `personas`"),
        ({"reference": "wandb:lab/p/{persona}"}, r"\.reference: 'wandb:lab/p/\{persona\}': .*the version is missing"),
        ({"reference": PATTERN, "personas": []}, r"\.personas: expected a list of persona ids"),
        ({"reference": PATTERN, "personas": ["villain", "villain"]}, r"\.personas: 'villain' stands more than once"),
        ({"reference": PATTERN, "villain": "file:/x"}, r"\.villain: stands beside `reference`"),
        ({"villain": "adapters/villain"}, r"\.villain: 'adapters/villain': a reference begins with"),
        ({"villain": 3}, r"\.villain: expected a reference, given: 3"),
        ({"nobody": "file:/x"}, ": 'nobody' is not in the study's panel"),
        ({"chef": "file:/x"}, ": 'chef' is not in the study's panel"),
        ({"reference": "file:/data/librarian"}, r": file:/data/librarian would be the adapter of .*write \{persona\}"),
    ],
)
def test_a_mistake_is_named_with_file_and_field(edit: Edit, content: object, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"n12\.yaml:\d+: inherited_adapters{reason}"):
        edit(n12={"inherited_adapters": content})


def test_one_adapter_for_two_training_seeds_is_refused(edit: Edit) -> None:
    with pytest.raises(ConfigurationError, match=r"seed 42\) and of librarian \(seed 137\): write \{seed\}"):
        edit(n12={"seeds": [42, 137], "inherited_adapters": {"librarian": "file:/data/librarian"}})


def test_two_studies_must_name_the_same(edit: Edit) -> None:
    mine, other = {"inherited_adapters": {"villain": "file:/a"}}, {"inherited_adapters": {"villain": "file:/b"}}
    said = r"n24\.yaml:\d+: inherited_adapters: villain \(seed 42\) is file:/b, in n12 it is file:/a"
    with pytest.raises(ConfigurationError, match=said):
        edit(n12=mine, n24=other)
    assert named(edit(n12=mine, n24=mine)) == {("villain", 42): "file:/a"}


def test_a_study_cannot_train_what_another_inherits(edit: Edit) -> None:
    with pytest.raises(
        ConfigurationError, match=r"n12\.yaml:\d+: inherited_adapters: n24 inherits the adapter of villain .*share"
    ):
        edit(n24={"inherited_adapters": {"villain": "file:/a"}})
