"""Dagster's daemon as `persona-assets ui` starts it: its own, but for the pause between two looks at the backfills."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster._daemon.cli
import pytest
from dagster import DagsterInstance
from dagster._cli import dev
from dagster._daemon import controller
from dagster._daemon.backfill import execute_backfill_iteration_loop

from persona_assets.cli.daemon import BACKFILL_SECONDS, main
from persona_assets.cli.serving import serve_ui


def test_a_backfill_that_was_launched_begins_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float | None] = []

    class Watched(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout)
            return True

    def two_looks() -> None:
        """What the daemon does with backfills, without its other threads."""
        with DagsterInstance.ephemeral() as instance:
            context = cast("Any", SimpleNamespace(instance=instance))
            for said in execute_backfill_iteration_loop(context, logging.getLogger(__name__), Watched()):
                assert not hasattr(said, "message"), said  # an error
                if len(pauses) == 2:
                    break

    monkeypatch.setattr(controller, "DEFAULT_DAEMON_INTERVAL_SECONDS", controller.DEFAULT_DAEMON_INTERVAL_SECONDS)
    monkeypatch.setattr(dagster._daemon.cli, "main", two_looks)
    two_looks()
    assert pauses == [pytest.approx(30, abs=1)] * 2
    pauses.clear()
    main()
    assert pauses == [pytest.approx(BACKFILL_SECONDS, abs=1)] * 2
    assert BACKFILL_SECONDS <= 5


def test_the_ui_starts_ours_in_place_of_dagsters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[str] = []

    def dagster_dev(**_: object) -> None:
        for module in ("dagster_webserver", "dagster._daemon"):
            assert f'"{module}"' in inspect.getsource(dev)  # what it calls them
            dev.open_ipc_subprocess([sys.executable, "-m", module, "run"])  # type: ignore[attr-defined]

    for variable in ("DAGSTER_HOME", "PERSONA_STUDIES", "PERSONA_LAKE"):  # it sets what is not set
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(dev, "open_ipc_subprocess", lambda parts: started.append(parts[2]))
    monkeypatch.setattr(dev, "dev_command_impl", dagster_dev)
    serve_ui(None, "127.0.0.1", 3000)
    assert started == ["persona_assets.cli.webserver", "persona_assets.cli.daemon"]
    assert all(callable(importlib.import_module(module).main) for module in started)
