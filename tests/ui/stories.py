"""Who plays in the stories, and where each stands at the beginning."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from dagster import AssetKey
from deployments import LARGE, PROFILE, Opened, Site

from persona_assets.assets import cells
from persona_assets.assets.products import SHOWN_PRODUCTS, TABLE_PRODUCTS
from persona_assets.cli.running import StudyRunError, run_stage, stage_is_current
from persona_assets.tasks.cells import CellsTask

BEEKEEPER = {"id": "beekeeper", "category": "occupational", "prompt": "You are a beekeeper with forty hives on a hill."}
SAILOR = {"id": "sailor", "category": "character", "prompt": "You are a sailor home from a long journey."}
GOOD, FAILED, UNTOUCHED = "librarian", "sailor", "beekeeper"
"""Personas of `larger`: measured already; failed; nothing was made for it yet."""

CHAIN = ("training_answers", "training_dataset", "adapter", "merged_model")
"""What is made for a persona before its cells are measured."""


def set_the_stage(large_site: Site, directory: Path) -> Site:
    """Copy the deployment in which `small` and `large` are done; begin `larger`, and forget the analysis of `small`."""
    site = large_site.copy(directory)
    _append_study(site)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "make_cells", _out_of_memory)
        with site.opened() as opened:
            opened.run("larger", "personas", personas=(FAILED,))
            with pytest.raises(StudyRunError):
                opened.run("larger", "eval cells", personas=(FAILED,))
    with site.opened() as opened:
        opened.run("larger", "eval cells", personas=(GOOD,))
        _forget_analysis(opened, "small")
    return site


def make_what_cells_are_made_from(site: Site, persona: str) -> None:
    """Make what the cells of a persona in `larger` need, unless another story made it."""
    with site.opened() as opened:
        stage = opened.part("larger", "personas", *CHAIN, personas=(persona,))
        if not stage_is_current(opened.deployment, opened.instance, stage):
            run_stage(opened.deployment, opened.instance, stage)


def _append_study(site: Site) -> None:
    with (site.studies / "personas.yaml").open("a", encoding="utf-8") as file:
        file.write(yaml.safe_dump([BEEKEEPER, SAILOR]))
    study = yaml.safe_load((site.studies / PROFILE / "large.yaml").read_text(encoding="utf-8"))
    study |= {"panel_size": len(LARGE) + 2, "parent": "large"}
    (site.studies / PROFILE / "larger.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")


def _forget_analysis(opened: Opened, study: str) -> None:
    """Take a study back to where its cells are measured and nothing is computed."""
    names = (*TABLE_PRODUCTS, *SHOWN_PRODUCTS)
    opened.instance.wipe_assets([AssetKey([PROFILE, study, name]) for name in names])
    for part in ("tables", *SHOWN_PRODUCTS):
        shutil.rmtree(opened.deployment.products.store.directory(f"{PROFILE}/{study}/{part}"))


def _out_of_memory(_: CellsTask) -> Mapping[str, object]:
    raise RuntimeError("out of memory")
