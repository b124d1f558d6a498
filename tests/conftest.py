"""Fixtures that several rooms share: a small deployment, run for real once a session and copied by the tests."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

# pytest's importlib mode leaves helper modules off the path.
sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from deployments import Site

LONGEST = ("ui", "statistics", "reporting", "docs", "sensors", "graph")
"""Rooms whose files are begun first, so that no worker has a long one left when the others are done. The first builds the
deployments that others need; statistics and reporting need none meanwhile."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give a file to one worker, which then makes its fixtures once; begin with what takes longest."""
    here = Path(__file__).parent
    rank = {room: number for number, room in enumerate(LONGEST)}
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(here).as_posix()))
    items.sort(key=lambda item: rank.get(item.path.relative_to(here).parts[0], len(rank)))


# `deployments` imports Dagster, which most rooms do not need: the fixtures import it when they are used.
Build = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Build:
    """Give a function that builds a named directory once a session, whatever the number of xdist workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def build(name: str, make: Callable[[Path], None]) -> Path:
        directory, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(directory, ignore_errors=True)  # of an attempt that failed
                make(directory)
                done.touch()
        return directory

    return build


@pytest.fixture(scope="session")
def base_site(build_once: Build) -> Site:
    """A small deployment with its base model and nothing else; copy it before changing it."""
    from deployments import Site, new_site

    def make(directory: Path) -> None:
        new_site(directory).materialize("base_model")

    return Site(build_once("base_site", make))


@pytest.fixture(scope="session")
def small_site(build_once: Build, base_site: Site) -> Site:
    """The study `small` (five personas), run to its end by the command line; copy it before changing it."""
    from deployments import Site

    def make(directory: Path) -> None:
        printed = base_site.copy(directory).run("small", more={"PYTHONHASHSEED": "0"})
        (directory / "printed.txt").write_text(printed, encoding="utf-8")

    return Site(build_once("small_site", make))


@pytest.fixture(scope="session")
def large_site(build_once: Build, small_site: Site) -> Site:
    """The study `large` (seven personas), whose parent is `small`, run after it; copy it before changing it."""
    from deployments import Site

    def make(directory: Path) -> None:
        site = small_site.copy(directory)
        printed = site.run("large")
        site.materialize("engine_parity")  # no study needs it
        (directory / "printed.txt").write_text(printed, encoding="utf-8")

    return Site(build_once("large_site", make))
