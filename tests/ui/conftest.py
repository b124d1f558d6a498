"""One served deployment and one browser for all stories; pytest's importlib mode puts no directory of tests on the path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from deployments import Site
    from serving import Server, Visits
    from stories import Stage


@pytest.fixture(scope="session")
def stage(large_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    from stories import copied, set_the_stage

    return set_the_stage(copied(large_site, tmp_path_factory.mktemp("ui") / "site"))


@pytest.fixture(scope="session")
def server(stage: Stage) -> Iterator[Server]:
    from serving import served

    with served(stage.site) as server:
        yield server


@pytest.fixture(scope="session")
def visits(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Visits:
    """A browser with a fresh profile, which keeps what it has loaded of the UI from story to story."""
    from serving import Visits

    return Visits(server, tmp_path_factory.mktemp("browser"))
