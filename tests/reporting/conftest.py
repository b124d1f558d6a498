"""Lets the figure tests share `figure_tables`: pytest's importlib mode puts no directory of tests on the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what draws figures or writes whole reports as slow: `make check` stays under two minutes."""
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and item.path.stem.startswith(("test_figures", "test_writeup", "test_lint")):
            item.add_marker(pytest.mark.slow)
