"""Tests of one group share what is expensive, or build on each other: they must run in one worker."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("proof")
def test_a_group_reaches_the_one_who_distributes_the_tests(request: pytest.FixtureRequest) -> None:
    by_group = bool(request.config.getoption("loadgroup", default=False))  # set in a worker of `--dist loadgroup`
    assert request.node.nodeid.endswith("@proof") == by_group
