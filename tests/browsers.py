"""The browser that tests drive: one that is installed on this machine, found in one way by all of them."""

from __future__ import annotations

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)
REQUIRED = "PERSONA_TESTS_NEED_BROWSER"
"""Environment variable that turns a missing browser from a reason to skip into a failure; continuous integration sets it."""

needs_browser = pytest.mark.skipif(
    BROWSER is None and not os.environ.get(REQUIRED),
    reason=f"none of the browsers {', '.join(NAMES)} is installed: apt-get install chromium",
)


def browser() -> str:
    """Return the browser's executable; the test fails when there is none."""
    if BROWSER is None:
        pytest.fail(f"{REQUIRED} is set and none of the browsers {', '.join(NAMES)} is installed: apt-get install chromium")
    return BROWSER
