"""Who plays in the stories, and where each stands at the beginning."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from dagster import AssetKey
from deployments import LARGE, PROFILE, Opened, Site
from failing import Failed, absent_model, edited, fail, full_disk, refusing_hub, with_runtime

from persona_assets.assets.products import SHOWN_PRODUCTS, TABLE_PRODUCTS
from persona_assets.cli import running

SAILOR = {"id": "sailor", "category": "character", "prompt": "You are a sailor home from a long journey."}
BEEKEEPER = {"id": "beekeeper", "category": "occupational", "prompt": "You are a beekeeper with forty hives on a hill."}
GOOD, FAILED, UNTOUCHED = "librarian", "sailor", "beekeeper"
"""Personas of `larger`: measured already; failed; nothing was made for it yet. The last two end the panel, so that what is
failed or missing is one range of it, and one run."""
OWNERS = ("team:personas", "ada@example.org")

CHAIN = ("training_answers", "training_dataset", "adapter", "merged_model")
"""What is made for a persona before its cells are measured."""


@dataclass(frozen=True)
class Stage:
    """A deployment, and the runs that failed in it by what was wrong."""

    site: Site
    failed: Mapping[str, Failed]


def copied(large_site: Site, directory: Path) -> Site:
    """Copy the deployment in which `small` and `large` are done, and add the study `larger`."""
    site = large_site.copy(directory)
    _append_study(site)
    site.edit(f"{PROFILE}/small.yaml", lambda study: study.update(owners=list(OWNERS)))
    return site


def set_the_stage(site: Site) -> Stage:
    """Begin `larger`, and forget the analysis of `small`. On the way a user runs into what there is to run into."""
    failed = {}
    absent = edited(site, f"{PROFILE}/profile.yaml", base_model=absent_model("lab/absent"))
    inherited = edited(site, f"{PROFILE}/larger.yaml", inherited_adapters={FAILED: f"hf:lab/markers@main:{FAILED}"})
    with refusing_hub(), absent, site.opened() as opened:
        failed["no model"] = fail(opened, "base_model")
    with refusing_hub(keys={"another"}), inherited, site.opened() as opened:
        failed["registry"] = fail(opened, "adapter", partition=FAILED)
    with site.opened() as opened:
        failed["no gpu"] = fail(opened, "training_answers", with_runtime(device="cuda"), FAILED)
        opened.run("larger", "base model")
        opened.run("larger", "personas", *CHAIN, personas=(FAILED,))
        with full_disk():
            failed["disk"] = fail(opened, "larger/eval_cells", partition=FAILED)
        opened.run("larger", "eval cells", personas=(GOOD,))
        _forget_analysis(opened, "small")
    return Stage(site, failed)


def make_what_cells_are_made_from(site: Site, persona: str) -> None:
    """Make what the cells of a persona in `larger` need, unless another story made it."""
    with site.opened() as opened:
        _make(opened, opened.part("larger", "personas", *CHAIN, personas=(persona,)))


def make_what_large_is_compared_with(site: Site) -> None:
    """Compute what the results of `large` take from its parent, unless another story did."""
    with site.opened() as opened:
        _make(opened, opened.part("small", "analysis", *TABLE_PRODUCTS))


def _make(opened: Opened, part: running.Stage) -> None:
    if not running.stage_is_current(opened.deployment, opened.instance, part):
        running.run_stage(opened.deployment, opened.instance, part)


def _append_study(site: Site) -> None:
    with (site.studies / "personas.yaml").open("a", encoding="utf-8") as file:
        file.write(yaml.safe_dump([SAILOR, BEEKEEPER]))
    study = yaml.safe_load((site.studies / PROFILE / "large.yaml").read_text(encoding="utf-8"))
    study |= {"panel_size": len(LARGE) + 2, "parent": "large"}
    (site.studies / PROFILE / "larger.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")


def _forget_analysis(opened: Opened, study: str) -> None:
    """Take a study back to where its cells are measured and nothing is computed."""
    names = (*TABLE_PRODUCTS, *SHOWN_PRODUCTS)
    opened.instance.wipe_assets([AssetKey([PROFILE, study, name]) for name in names])
    for part in ("tables", *SHOWN_PRODUCTS):
        shutil.rmtree(opened.deployment.products.store.directory(f"{PROFILE}/{study}/{part}"))
