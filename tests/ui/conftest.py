"""One served deployment for all stories; pytest's importlib mode puts no directory of tests on the path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from deployments import Site
    from serving import Server


@pytest.fixture(scope="session")
def server(large_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from serving import served
    from stories import set_the_stage

    with served(set_the_stage(large_site, tmp_path_factory.mktemp("ui") / "site")) as server:
        yield server
