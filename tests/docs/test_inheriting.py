"""What docs/bring-your-adapters.md tells a user to write and to switch on is what the project reads and has."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from persona_assets.catalog import Catalog, load_catalog
from resources.lake import REPOSITORY
from sensors.building import profile_automation

PAGE = (REPOSITORY / "docs" / "bring-your-adapters.md").read_text(encoding="utf-8")
PROFILE = "qwen2.5-7b"
WRITTEN = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]


def inheriting(written: dict[str, object], studies: Path) -> Catalog:
    """The shipped studies, with what a block says written into the file of n12."""
    shutil.copytree(REPOSITORY / "studies", studies)
    file = studies / PROFILE / "n12.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text(encoding="utf-8")) | written), encoding="utf-8")
    return load_catalog(studies, PROFILE)


@pytest.mark.parametrize("written", WRITTEN)
def test_each_study_file_of_the_page_is_one(written: dict[str, object], tmp_path: Path) -> None:
    catalog = inheriting(written, tmp_path / "studies")
    assert len(catalog.inherited_adapters) > 2
    assert catalog.study("n48").cohort("comedian") == "inherited"


def test_what_is_to_be_switched_on_is_there(tmp_path: Path) -> None:
    named = set(re.findall(r"`(\w+_qwen2_5_7b\w*)`", PAGE))
    assert len(named) == 6
    moving = {"inherited_adapters": {"villain": "hf:ORG/REPO@main:villain"}}
    automation = profile_automation(inheriting(moving, tmp_path / "studies"))
    there = (*(automation.schedules or ()), *(automation.sensors or ()), *(automation.jobs or ()))
    assert named <= {each.name for each in there}
