"""How `studies/` is read: parents before children, all mistakes at once, and names that there are not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from tiny_studies import FIRST, PERSONAS

from persona_assets.catalog import load_catalog
from persona_assets.errors import ConfigurationError
from persona_assets.panel import load_panel


def test_a_good_directory_loads(studies: Path) -> None:
    catalog = load_catalog(studies, "tiny")
    assert list(catalog.studies) == ["first", "second"]
    assert catalog.study("second").parent is catalog.study("first")


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
    with pytest.raises(ConfigurationError, match=r"third\.yaml:1: panel_size: 4 is smaller than the 5 of its parent second"):
        load_catalog(studies, "tiny")


def test_a_panel_without_its_anchor_is_refused(studies: Path) -> None:
    personas = yaml.safe_load(PERSONAS)
    personas["personas"].append(personas["personas"].pop(3))
    (studies / "personas.yaml").write_text(yaml.safe_dump(personas), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"first\.yaml:1: panel_size: The anchor 'helper' is not among the first 4"):
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
