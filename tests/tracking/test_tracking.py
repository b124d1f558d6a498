"""Metrics to W&B by the unmodified SDK: sent, kept offline and synced, and never in the way of the work."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.wandb import WandbServer, wandb_server
from servers.wandb_state import ENTITY

from persona_assets.errors import ConfigurationError
from persona_assets.tracking import TrackedRun, Tracking, WandbTarget, parse_target, unsent_runs
from resources.tracker import Tracker

HISTORY = [{"epoch": 1, "loss": 2.5, "tokens": 10}, {"epoch": 1, "loss": 1.25, "tokens": 12}]


def run(name: str) -> TrackedRun:
    return TrackedRun(
        key=f"key-{name}",
        name=name,
        group="embedded",
        job="training",
        config={"persona": "librarian", "recipe": {"r": 8}},
        history=HISTORY,
        summary={"final_loss": 1.25, "tokens_per_second": 321.5},
    )


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    with wandb_server(tmp_path_factory.mktemp("config")) as running:
        yield running


def track(directory: Path, *names: str) -> list[str]:
    """Track some runs through the resource; what it said."""
    said: list[str] = []
    with Tracker(target=f"wandb:{ENTITY}/project", directory=str(directory)).open(said.append) as log:
        for name in names:
            log(lambda name=name: run(name))  # type: ignore[misc]
    return said


def assert_arrived(server: WandbServer, *names: str) -> None:
    assert {each.display_name for each in server.runs.values()} == set(names)
    for name in names:
        stored = server.runs[f"key-{name}"]
        rows = [{key: row[key] for key in ("_step", "epoch", "loss", "tokens")} for row in stored.history]
        assert rows == [{"_step": step, **row} for step, row in enumerate(HISTORY, start=1)]
        assert {key: stored.summary[key] for key in ("final_loss", "tokens_per_second")} == {
            "final_loss": 1.25,
            "tokens_per_second": 321.5,
        }
        assert stored.config["persona"]["value"] == "librarian"
        assert (stored.job_type, stored.project, stored.exit_code) == ("training", "project", 0)


@pytest.mark.slow
def test_metrics_arrive_and_the_work_does_not_wait(server: WandbServer, tmp_path: Path) -> None:
    said: list[str] = []
    tracker = Tracker(target=f"wandb:{ENTITY}/project", directory=str(tmp_path))
    with tracker.open(said.append) as log:
        started = time.monotonic()
        log(lambda: run("first"))
        log(lambda: run("second"))
        assert time.monotonic() - started < 0.5
    assert said == []
    assert_arrived(server, "first", "second")


@pytest.mark.slow
def test_offline_keeps_everything_says_how_to_sync_and_that_works(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    directory = tmp_path / "home" / "tracking"
    (said,) = track(directory, "kept")
    assert said == f"Tracking: 1 run is kept in {directory}/wandb. Send with: wandb sync {directory}/wandb/offline-run-*"
    assert unsent_runs(directory) == said
    assert not server.requests
    assert [path.name for path in tmp_path.iterdir()] == ["home"]  # nothing in the working directory
    command = said.partition("Send with: ")[2].replace("wandb", f"{Path(sys.executable).parent}/wandb", 1)
    done = subprocess.run(command, shell=True, env={**os.environ, "WANDB_MODE": "online"}, capture_output=True, text=True)  # noqa: S602
    assert done.returncode == 0, done.stdout + done.stderr
    assert_arrived(server, "kept")
    assert unsent_runs(directory) is None  # what was sent does not wait


@pytest.mark.slow
def test_a_server_that_refuses_is_said_and_the_metrics_are_kept(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    refused, kept = track(tmp_path, "one", "two")
    assert refused.startswith(f"Tracking: {server.url} refuses the API key: check WANDB_API_KEY")
    assert refused.endswith("From here on the metrics are kept on disk; the work goes on.")
    assert kept.startswith(f"Tracking: 2 runs are kept in {tmp_path}/wandb.")
    assert server.runs == {}


@pytest.mark.slow
def test_a_server_that_never_answers_does_not_hold_the_work_up(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{mute.getsockname()[1]}")
        said: list[str] = []
        tracking = Tracking(WandbTarget(ENTITY, "project"), tmp_path, offline=False, say=said.append, seconds=2)
        started = time.monotonic()
        tracking.log(run("late"))
        tracking.close()
        assert time.monotonic() - started < 5
    assert said == ["Tracking: 1 of 1 runs were not tracked within 2 s."]


def test_without_a_target_nothing_is_made(tmp_path: Path) -> None:
    with Tracker(target="", directory=str(tmp_path)).open(pytest.fail) as log:
        log(pytest.fail)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_none_is_said_and_fails_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    with Tracker(target="mlflow:here", directory=str(tmp_path)).open(said.append) as log:
        log(pytest.fail)
    assert said == [
        "Nothing is tracked: 'mlflow:here' names no tracker: expected wandb:ENTITY/PROJECT or wandb:PROJECT. Set PERSONA_TRACKER."
    ]


def test_metrics_that_cannot_be_made_are_said_and_fail_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    with Tracker(target="wandb:project", directory=str(tmp_path)).open(said.append) as log:
        log(lambda: {}["first_loss"])
    assert said == ["Tracking: something was not tracked (KeyError: 'first_loss')."]


def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    first, second = track(tmp_path / "file" / "tracking", "one")
    assert "file/tracking cannot be used" in first
    assert second == "Tracking: 1 of 1 runs were not tracked."


@pytest.mark.parametrize("text", ["wandb", "wandb:", "wandb:a/b/c", "wandb:/b", "hf:a/b"])
def test_targets_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="names no tracker"):
        parse_target(text)


def test_targets_are_read() -> None:
    assert parse_target("wandb:team/markers") == WandbTarget("team", "markers")
    assert parse_target("wandb:markers") == WandbTarget(None, "markers")
