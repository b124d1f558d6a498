"""One served deployment for all stories: the studies `small` and `large` are done, `larger` has just been begun."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping

import pytest
import yaml
from dagster import AssetKey
from deployments import LARGE, PROFILE, Opened, Site
from serving import Server, served
from stories import BEEKEEPER, FAILED, GOOD, SAILOR

from persona_assets.assets import cells
from persona_assets.assets.products import SHOWN_PRODUCTS, TABLE_PRODUCTS
from persona_assets.cli.running import StudyRunError
from persona_assets.tasks.cells import CellsTask


@pytest.fixture(scope="session")
def server(large_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    site = large_site.copy(tmp_path_factory.mktemp("ui") / "site")
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
    with served(site) as server:
        yield server


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
