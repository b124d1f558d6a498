"""When inherited adapters are measured again: what a study file may say, and what the periods are called."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_assets.catalog import load_catalog
from persona_assets.errors import ConfigurationError
from persona_assets.panel import contiguous_ranges
from persona_assets.recurrence import checked_cron, period

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.mark.parametrize("text", ["0 6 * * 1", "*/15 * * * *", "30 2 1 * *", "0 0 29 2 *", "0 6 * * mon,thu"])
def test_cron_texts_are_taken_as_they_are(text: str) -> None:
    assert checked_cron(text) == text


@pytest.mark.parametrize("text", ["weekly", "", "0 6 * *", "0 6 * * 1 0", "61 6 * * 1", "0 6 * * 9"])
def test_what_is_no_cron_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no cron text: expected five fields \(minute, hour"):
        checked_cron(text)


def test_a_day_that_never_comes_is_refused() -> None:
    with pytest.raises(ValueError, match="names a time that never comes"):
        checked_cron("0 6 30 2 *")


def test_a_study_file_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "embedded").mkdir()
    for name in ("personas.yaml", "questions.yaml", "embedded/profile.yaml", "embedded/n12.yaml"):
        (tmp_path / name).write_bytes((STUDIES / name).read_bytes())
    file = tmp_path / "embedded" / "n12.yaml"
    plain = file.read_text(encoding="utf-8")
    before = load_catalog(tmp_path, "embedded").study("n12")
    assert before.re_evaluation_cron == "0 6 * * 1"
    file.write_text(f"{plain}\nre_evaluation_cron: 15 3 * * 7\n", encoding="utf-8")
    after = load_catalog(tmp_path, "embedded").study("n12")
    assert (after.re_evaluation_cron, after.digest) == ("15 3 * * 7", before.digest)  # no part of the plan
    file.write_text(f"{plain}\nre_evaluation_cron: every monday\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"n12\.yaml:\d+: re_evaluation_cron: .*'every monday' is no cron text"):
        load_catalog(tmp_path, "embedded")


def test_a_weekly_tick_is_called_by_its_week() -> None:
    assert period("0 6 * * 1", datetime(2026, 11, 23, 6, tzinfo=UTC)) == "2026-W48"
    assert period("0 6 * * 5", datetime(2027, 1, 1, 6, tzinfo=UTC)) == "2026-W53"  # the ISO year, not the calendar's
    assert period("0 6 1 * *", datetime(2026, 12, 1, 6, tzinfo=UTC)) == "2026-W49"


def test_ticks_within_a_week_have_names_of_their_own() -> None:
    days = [period("0 6 * * *", datetime(2026, 11, day, 6, tzinfo=UTC)) for day in range(16, 30)]
    assert days[0] == "2026-W47"
    assert days[1] == "2026-W47-Tue-0600"
    assert days[7] == "2026-W48"
    assert len(set(days)) == len(days)


@pytest.mark.parametrize(
    ("wanted", "ranges"),
    [("", []), ("abcde", [("a", "e")]), ("ace", [("a", "a"), ("c", "c"), ("e", "e")]), ("abde", [("a", "b"), ("d", "e")])],
)
def test_ranges_cover_neighbours(wanted: str, ranges: list[tuple[str, str]]) -> None:
    assert contiguous_ranges("abcde", set(wanted)) == ranges


@settings(deadline=None)  # the machine may be busy
@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_ranges_hold_the_wanted_personas_and_are_as_few_as_possible(case: tuple[int, set[int]]) -> None:
    order = [f"p{i}" for i in range(case[0])]
    found = contiguous_ranges(order, {order[i] for i in case[1]})
    covered = [i for first, last in found for i in range(order.index(first), order.index(last) + 1)]
    assert covered == sorted(case[1])
    assert len(found) == sum(i - 1 not in case[1] for i in case[1])
