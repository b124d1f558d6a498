from __future__ import annotations

import logging

import pytest

from persona_assets import progress
from persona_assets.progress import Progress, ProgressEvent, listen


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_time_left_comes_from_the_keys_that_were_worked_on(clock: list[float]) -> None:
    said: list[str] = []
    each = Progress("adapter", 5, say=said.append, _started=clock[0])
    each.start()
    each.skipped("librarian")
    clock[0] += 10
    each.finished("villain")
    clock[0] += 30
    each.finished("chef", "FAILED")
    each.skipped("pilot")
    clock[0] += 2
    each.finished("nurse")
    assert said == [
        "adapter 0/5  (start)",
        "adapter 1/5 librarian (unchanged, skipped)",
        "adapter 2/5 villain, 30 s left",  # 10 s each, three to go
        "adapter 3/5 chef (FAILED), 40 s left",  # 20 s each, two to go
        "adapter 4/5 pilot (unchanged, skipped)",
        "adapter 5/5 nurse",
    ]


def test_listeners_hear_every_stage_until_they_stop() -> None:
    heard: list[ProgressEvent] = []
    stop = listen(heard.append)
    try:
        Progress("geometry", 1, say=lambda _: None).finished("geometry")
        Progress("power", 2, say=lambda _: None).skipped("power")
    finally:
        stop()
    Progress("gates", 1, say=lambda _: None).finished("gates")
    assert [(event.stage, event.done, event.total, event.key) for event in heard] == [
        ("geometry", 1, 1, "geometry"),
        ("power", 1, 2, "power"),
    ]


def test_says_it_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="persona_assets.progress"):
        Progress("gates", 2).finished("a", "note")
    assert [record.message.split(",")[0] for record in caplog.records] == ["gates 1/2 a (note)"]
