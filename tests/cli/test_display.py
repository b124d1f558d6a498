"""What is shown on the terminal: text in brackets stays text, intervals have the plan's level, progress says who and how long."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from persona_assets.capacity.doctor import Finding
from persona_assets.cli import capacity, display
from persona_assets.cli.result import Analysis, StudyResult
from persona_assets.progress import ProgressEvent, _listeners

RATE: dict[str, Any] = {
    "persona": "librarian",
    "category": "occupational",
    "cohort": "new",
    "seed": 42,
    "rate": 0.5,
    "wilson_low": 0.42,
    "wilson_high": 0.58,
    "base_rate": None,
}
ANALYSIS = Analysis(
    strongest=None,
    gates=[],
    bucket="H_inverted",
    confidence="LOW",
    reasons="fields [a] and [/b] differ",
    drift={"verdict": "not_tested", "note": "no [zlt]"},
    plan_changes="personas[3].prompt, [/analysis]",
    figures=Path("/data/[lake]/figures"),
    warehouse=Path("/data/[/lake]/warehouse.duckdb"),
)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed on a terminal 120 columns wide."""
    output = io.StringIO()
    for module in (display, capacity):
        monkeypatch.setattr(module, "console", Console(file=output, width=120))
    return output


def test_rows_of_a_query_are_shown_as_they_are(shown: io.StringIO) -> None:
    frame = pl.DataFrame({"text": ["Hm. [zlt]", "[/red] [bold]x", None], "[n]": [1, 2, 3]})
    display.print_frame(frame)
    lines = [line.split() for line in shown.getvalue().splitlines()]
    assert lines == [["text", "[n]"], ["Hm.", "[zlt]", "1"], ["[/red]", "[bold]x", "2"], ["3"], ["3", "rows"]]


def test_one_row_is_a_row(shown: io.StringIO) -> None:
    display.print_frame(pl.DataFrame({"n": [1]}))
    assert shown.getvalue().splitlines()[-1] == "1 row"


@pytest.mark.parametrize(("level", "heading"), [(0.95, "95 % interval"), (0.9, "90 % interval"), (0.995, "99.5 % interval")])
def test_intervals_are_headed_by_the_level_of_the_plan(shown: io.StringIO, level: float, heading: str) -> None:
    display.print_result(StudyResult("embedded", "n12", level, [RATE], None, None, ()))
    assert heading in shown.getvalue()
    assert "0.42 to 0.58" in shown.getvalue()


def test_words_of_a_result_are_shown_as_they_are(shown: io.StringIO) -> None:
    missing = {"what": "table [power]", "why": "[/why]"}
    imported = {"source": "/data/[old]/n12", "measurement_identity": "engine [/?]", "not_supported": [missing]}
    display.print_result(StudyResult("embedded", "n12", 0.95, [RATE], imported, ANALYSIS, ("Published in /data/[/out]",)))
    said = shown.getvalue()
    for words in (
        *("/data/[old]/n12", "engine [/?]", "table [power]: [/why]", "fields [a] and [/b] differ", "no [zlt]"),
        *("personas[3].prompt, [/analysis]", "/data/[lake]/figures", "/data/[/lake]/warehouse.duckdb", "/data/[/out]"),
    ):
        assert words in said


def test_findings_are_shown_as_they_are(shown: io.StringIO) -> None:
    capacity.print_findings([Finding("vllm", "problem", "/opt/[/gpu]", "pip install 'it[vllm]'")])
    assert "vllm: /opt/[/gpu]" in shown.getvalue()
    assert "pip install 'it[vllm]'" in shown.getvalue()


@pytest.mark.parametrize(
    ("done", "note", "left", "said"),
    [
        (0, "start", None, " (start)"),
        (7, "", 41.4, "librarian  41 s left"),
        (8, "FAILED", 30.0, "librarian (FAILED)  30 s left"),
        (9, "unchanged, skipped", None, "librarian (unchanged, skipped)"),
        (12, "", 0.0, ""),
        (12, "FAILED", 0.0, "librarian (FAILED)"),
    ],
)
def test_beside_the_bar_stands_who_was_the_last_and_the_time_left(done: int, note: str, left: float | None, said: str) -> None:
    key = "" if note == "start" else "librarian"
    assert display._beside_the_bar(ProgressEvent("adapter", done, 12, key, note, left)) == said


def test_a_bar_shows_what_runs_and_how_many_are_done() -> None:
    output = io.StringIO()
    with display._progress_bars(Console(file=output, width=120, force_terminal=True)):
        (show,) = _listeners
        show(ProgressEvent("adapter", 7, 12, "librarian", "[/x]", 41.4))
    assert _listeners == []
    said = output.getvalue()
    assert said.rindex("adapter") < said.rindex("7/12") < said.rindex("librarian ([/x])  41 s left")
